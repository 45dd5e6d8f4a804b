"""What is done to all that a queue holds, page by page, so that nobody waits for the whole."""

from datetime import datetime
from functools import partial

from gateway.cmq import queue_messages, queues
from gateway.cmq.queues import Queue
from gateway.store import Store


async def rewind(store: Store, queue: Queue, *, start_at: datetime, now: datetime) -> None:
    """Make what arrived from `start_at` on and was deleted receivable again.

    Raises CannotRewind if the queue keeps nothing, InvalidParameterValue for a time to come.
    """
    queue_messages.check_rewind(queue, start_at=start_at, now=now)
    page = partial(queue_messages.rewind, queue=queue, start_at=start_at, now=now)
    while await store.write(page):
        pass


async def extend(store: Store, queue: Queue, *, now: datetime) -> None:
    """Have what a queue holds kept for as long as what comes, if that is longer.

    Why a longer retention holds for what is there, and a shorter one does not: who gives a reader
    more time means the messages that wait for it; whoever gives less would lose by a slip what was
    taken with the promise to keep it, and can clear the queue. If this ends before the last page,
    the rest ends as it was promised, and the same change does it again.
    """
    after = 0
    while positions := await store.read_list(
        partial(queue_messages.list_ending_sooner, queue=queue, after=after, now=now)
    ):
        await store.write(partial(queue_messages.extend, queue=queue, positions=positions, now=now))
        after = positions[-1]


async def clear(store: Store, queue: Queue, *, now: datetime) -> None:
    """Drop what has arrived until `now`, what is kept for a rewind too."""
    page = partial(queue_messages.clear, queue=queue, now=now)
    while await store.write(page):
        pass


async def delete(store: Store, *, owner_uin: str, region: str, name: str) -> None:
    """Delete a queue and what it holds. Raises what `queues.delete` raises.

    The queue is gone first, so that nothing is put into it any more. If this ends before the last
    page, what is left can be had by nobody, and goes when its retention is over.
    """
    queue = await store.write(lambda tx: queues.delete(tx, owner_uin, region=region, name=name))
    page = partial(queue_messages.drop, queue=queue)
    while await store.write(page):
        pass
