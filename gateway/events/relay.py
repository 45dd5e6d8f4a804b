"""The relay: expands messages into deliveries, and publishes them to the bus.

The two are independent. A message is expanded once, in one transaction with its deliveries: here,
or in that of what happened (`shortcut`). It is published until the broker confirms it, in lanes:
one per topic, so that a bad topic holds up only itself. Whatever has `sent_at IS NULL` is read
again, from the oldest on.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import partial

import anyio
from anyio.abc import TaskStatus
from sqlalchemy.exc import OperationalError

from gateway.clock import Clock
from gateway.events import outbox
from gateway.events.bus import Bus
from gateway.events.publisher import Publisher
from gateway.events.subscribers import Subscribers
from gateway.loops import keep_running
from gateway.store import Store, StoreUnavailable, Tx
from gateway.telemetry import log

EXPANDED_AT_ONCE = 256
EXPANDED_BYTES = 4 * 1024 * 1024  # of bodies
REST_S = 0.005
"""The least time between two transactions: what a stream of messages brings meanwhile shares one,
and leaves the database to the calls.
"""
POLL_S = 1.0  # how late a message is seen that another process wrote


@dataclass(frozen=True, slots=True)
class Expanded:
    """How many messages were delivered, and whether more may wait."""

    messages: int
    more: bool


async def run(
    store: Store,
    bus: Bus | None,
    *,
    subscribers: Subscribers,
    clock: Clock,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Relay for ever. An absent broker is tried again and again; without a bus none is needed."""
    async with anyio.create_task_group() as tasks:
        is_final = bus is None
        expand_all = partial(_expand_forever, store, subscribers, clock=clock, final=is_final)
        await tasks.start(partial(keep_running, expand_all, name="expansion"))
        if bus is not None:
            publish = partial(_publish_forever, store, bus, subscribers, clock=clock)
            await tasks.start(partial(keep_running, publish, name="publishing"))
        task_status.started()


async def _publish_forever(
    store: Store,
    bus: Bus,
    subscribers: Subscribers,
    *,
    clock: Clock,
    task_status: TaskStatus[None],
) -> None:
    """By a new publisher each time: nothing that the last one took for known is left."""
    publisher = Publisher(store, bus, subscribers=subscribers, clock=clock)
    await publisher.run(task_status=task_status)


async def _expand_forever(
    store: Store,
    subscribers: Subscribers,
    *,
    clock: Clock,
    final: bool,
    task_status: TaskStatus[None],
) -> None:
    task_status.started()
    while True:
        seen = store.signals.count(outbox.SIGNAL)
        try:
            done = await store.write(lambda tx: expand(tx, subscribers, now=clock(), final=final))
        except (StoreUnavailable, OperationalError):
            log.warning("messages_not_expanded", retry_s=POLL_S)
            await anyio.sleep(POLL_S)
            continue
        if not done.more:
            await anyio.sleep(REST_S)
            await store.signals.wait(outbox.SIGNAL, seen=seen, at_most_s=POLL_S)


def expand(tx: Tx, subscribers: Subscribers, *, now: datetime, final: bool) -> Expanded:
    """Deliver the oldest messages that are not yet delivered, as many as one transaction should.

    final: there is no bus, so a message that is expanded needs no publishing.
    """
    waiting = outbox.lock_unexpanded(tx, limit=EXPANDED_AT_ONCE, bytes_max=EXPANDED_BYTES)
    if not waiting.messages:
        return Expanded(0, more=False)
    count = subscribers.deliver(tx, waiting.messages, now=now)
    positions = [message.position for message in waiting.messages[:count]]
    outbox.mark_expanded(tx, positions, now=now, final=final)
    return Expanded(count, more=waiting.more or count < len(waiting.messages))
