"""The relay: expands messages into deliveries, and publishes them to the bus.

The two are independent. A message is expanded once, in one transaction with its deliveries. It is
published until the broker confirms it, in lanes: one per topic, so that a bad topic holds up only
itself. Whatever has `sent_at IS NULL` is read again, from the oldest on.
"""

from datetime import datetime

import anyio
from anyio.abc import TaskStatus
from sqlalchemy.exc import OperationalError

from gateway.clock import Clock
from gateway.events import outbox
from gateway.events.bus import Bus
from gateway.events.publisher import Publisher
from gateway.events.subscribers import Subscribers
from gateway.store import Store, StoreUnavailable, Tx
from gateway.telemetry import MESSAGES_WAITING, log

EXPANDED_AT_ONCE = 256
REST_S = 0.005
"""The least time between two transactions: what a stream of messages brings meanwhile shares one,
and leaves the database to the calls.
"""
POLL_S = 1.0  # how late a message is seen that another process wrote
COUNT_EVERY_S = 5.0


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
        tasks.start_soon(_expand_forever, store, subscribers, clock, bus is None)
        tasks.start_soon(_count_forever, store)
        if bus is not None:
            tasks.start_soon(Publisher(store, bus, subscribers=subscribers, clock=clock).run)
        task_status.started()


async def _expand_forever(
    store: Store, subscribers: Subscribers, clock: Clock, final: bool
) -> None:
    while True:
        seen = store.signals.count(outbox.SIGNAL)
        try:
            count = await store.write(lambda tx: expand(tx, subscribers, now=clock(), final=final))
        except (StoreUnavailable, OperationalError):
            log.warning("messages_not_expanded", retry_s=POLL_S)
            await anyio.sleep(POLL_S)
            continue
        if count < EXPANDED_AT_ONCE:
            await anyio.sleep(REST_S)
            await store.signals.wait(outbox.SIGNAL, seen=seen, at_most_s=POLL_S)


def expand(tx: Tx, subscribers: Subscribers, *, now: datetime, final: bool) -> int:
    """Deliver the oldest messages that are not yet delivered; returns how many they were.

    final: there is no bus, so a message that is expanded needs no publishing.
    """
    messages = outbox.lock_unexpanded(tx, limit=EXPANDED_AT_ONCE)
    if messages:
        subscribers.deliver(tx, messages, now=now)
        outbox.mark_expanded(tx, messages, now=now)
        if final:
            outbox.mark_sent(tx, messages, now=now)
    return len(messages)


async def _count_forever(store: Store) -> None:
    while True:
        try:
            MESSAGES_WAITING.set(await store.read_list(outbox.count_unsent))
        except (StoreUnavailable, OperationalError):
            log.warning("messages_not_counted")
        await anyio.sleep(COUNT_EVERY_S)
