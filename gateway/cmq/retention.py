"""Setting dead letters aside, and dropping messages that no queue may hand out any more."""

from functools import partial

import anyio
from anyio.abc import TaskStatus
from sqlalchemy.exc import OperationalError

from gateway.clock import Clock
from gateway.cmq import dead_letter_queues, queue_messages
from gateway.cmq.queue_messages import PAGE
from gateway.cmq.queues import Queue
from gateway.store import Store, StoreUnavailable
from gateway.telemetry import log

EVERY_S = 60.0


async def run(
    store: Store, *, clock: Clock, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Tidy queues for ever.

    Neither waits for this: a receiver meets no expired message, and sets a dead one aside itself.
    """
    task_status.started()
    looked_at = None
    while True:
        try:
            await sweep(store, clock=clock)
            now = clock()
            if looked_at is None or now < looked_at:
                await show_hidden(store, clock=clock)
            looked_at = now
        except (StoreUnavailable, OperationalError):
            log.warning("queues_not_swept", retry_s=EVERY_S)
        await anyio.sleep(EVERY_S)


async def sweep(store: Store, *, clock: Clock) -> None:
    """Tidy all queues once: dead letters first, for what is dead must not expire instead."""
    for queue in await store.read_list(dead_letter_queues.list_bound_queues):
        dead = await _set_aside(store, queue, clock=clock)
        if dead:
            log.info("messages_set_aside", queue_id=queue.id, messages=dead)
    expired = await _drop_expired(store, clock=clock)
    if expired:
        log.info("messages_expired", messages=expired)


async def show_hidden(store: Store, *, clock: Clock) -> None:
    """After a clock was set back: hide nothing for longer than a receive does.

    Why not at every look: it would show what was received before its queue's visibility was
    shortened, too.
    """
    while hidden := await store.read_list(
        partial(queue_messages.list_hidden_too_long, now=clock())
    ):
        if not await store.write(partial(queue_messages.show, positions=hidden, now=clock())):
            return
        log.warning("messages_shown_after_clock_step", messages=len(hidden))


async def _set_aside(store: Store, queue: Queue, *, clock: Clock) -> int:
    """Move a queue's dead letters, page by page; returns how many.

    They are looked for in a read, which holds nobody up, and looked at again when they are moved.
    """
    total = 0
    while True:
        find = partial(dead_letter_queues.list_dead, queue=queue, now=clock(), at_most=PAGE)
        positions = await store.read_list(find)
        if not positions:
            return total
        move = partial(dead_letter_queues.sweep, queue=queue, positions=positions, now=clock())
        moved = await store.write(move)
        total += moved
        if not moved:  # others are at them
            return total


async def _drop_expired(store: Store, *, clock: Clock) -> int:
    total = 0
    while dropped := await store.write(partial(queue_messages.drop_expired, now=clock())):
        total += dropped
    return total
