"""The messages of a queue: put in, received, deleted, had back, counted, and dropped in the end.

A received message is invisible for a while and comes back unless it is deleted with the handle
that its latest receive gave out. What is older than the queue's retention is never handed out.
A queue that can be rewound keeps what is deleted from it, for as long as it said at that moment.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any

from sqlalchemy import Row

from gateway.cmq import queue_statements
from gateway.cmq.dead_letter_queues import set_aside
from gateway.cmq.limits import BATCH_BYTES_MAX
from gateway.cmq.queue_statements import AT_ONCE
from gateway.cmq.queues import Queue, signal_of
from gateway.errors import FailedOperation, InvalidParameterValue
from gateway.store import Tx

RECEIPT_SECRET_LENGTH = 16
PAGE = 1_000  # rows that one transaction changes, where there may be millions
ROUNDS_MAX = 64  # how often one receive looks past messages that it sets aside


class QueueFull(FailedOperation):
    """The queue holds as many messages as it may."""


class CannotRewind(FailedOperation):
    """The queue does not keep what is deleted from it."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message as one receive hands it out; `receipt` is good until `visible_at`.

    was_visible_at: from when on it could be received, until this receive hid it.
    """

    id: str
    body: str
    receipt: str
    enqueued_at: datetime
    first_dequeued_at: datetime
    was_visible_at: datetime
    visible_at: datetime
    dequeue_count: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What one receive got. is_all: it has looked at everything that could be received."""

    messages: list[Received]
    is_all: bool


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many messages a queue holds: to be received, received, not yet visible, deleted."""

    active: int = 0
    inactive: int = 0
    delayed: int = 0
    oldest: datetime | None = None
    kept: int = 0


def message_row(
    message_id: str,
    body: bytes,
    *,
    queue_id: str,
    now: datetime,
    expires_at: datetime,
    visible_at: datetime = AT_ONCE,
) -> dict[str, Any]:
    """A message as `put` takes it."""
    return {
        "id": message_id,
        "queue_id": queue_id,
        "body": body,
        "enqueued_at": now,
        "visible_at": visible_at,
        "expires_at": expires_at,
        "dequeue_count": 0,
    }


def put(tx: Tx, rows: Sequence[dict[str, Any]]) -> None:
    """Put messages into their queues, in this order, and wake who waits for them.

    Why a full queue does not refuse: this is how a topic delivers. Its publisher has long had its
    answer, so that there is nobody to tell, and an event must not be lost; `send` does refuse.
    """
    if rows:
        tx.execute(queue_statements.ADD_QUEUE_MESSAGES, rows)
        for queue_id in {row["queue_id"] for row in rows}:
            tx.wake(signal_of(queue_id))


def send(
    tx: Tx, queue: Queue, messages: Sequence[tuple[str, bytes]], *, now: datetime, delay_s: int
) -> None:
    """Put messages, each an id and a body, into a queue, to be received after `delay_s`.

    They are kept for the queue's retention from then on. Why not from now on: one delayed for as
    long as that would be gone before anybody could have it. Raises QueueFull; then none of them is
    in it.
    """
    _check_room(tx, queue, count=len(messages), now=now)
    times = {
        "now": now,
        "visible_at": now + timedelta(seconds=delay_s) if delay_s else AT_ONCE,
        "expires_at": now + timedelta(seconds=delay_s + queue.retention_s),
    }
    put(tx, [message_row(id_, body, queue_id=queue.id, **times) for id_, body in messages])


def _check_room(tx: Tx, queue: Queue, *, count: int, now: datetime) -> None:
    """Raise QueueFull if the queue may not hold so many more.

    Why positions: two reads at the ends of an index bound the number of messages from above, and
    nearly always settle it; counting would cost the more the fuller the queue is.
    """
    span = tx.execute(queue_statements.SPAN, {"queue_id": queue.id}).one()
    if span.first is None or span.last - span.first + 1 + count <= queue.max_messages:
        return
    held = tx.execute(queue_statements.COUNT_ALIVE, {"queue_id": queue.id, "now": now})
    if held.scalar_one() + count > queue.max_messages:
        raise QueueFull(f"Queue `{queue.name}` may hold {queue.max_messages} messages.")


def receive(
    tx: Tx, queue: Queue, *, count: int, now: datetime, new_secret: Callable[[int], str]
) -> Taken:
    """Hand out up to `count` messages, the oldest first, and hide them for a while.

    At least one, and as many more as are `BATCH_BYTES_MAX` together: one answer has them all. On
    PostgreSQL two receivers at once are given different messages, neither waiting. Dead ones
    that are in the way are set aside: not too many in one transaction, hence `is_all`.
    """
    received: list[Received] = []
    room = BATCH_BYTES_MAX
    for _ in range(ROUNDS_MAX):
        rows = _lock_receivable(tx, queue, count=count - len(received), now=now)
        dead = set_aside(tx, queue, rows, now=now)
        alive = [row for row in rows if row.position not in dead]
        fitting = _fitting(alive, room=room) or ([] if received else alive[:1])
        received += _hand_out(tx, queue, fitting, now=now, new_secret=new_secret)
        room -= sum(row.bytes for row in fitting)
        if not dead or len(received) == count or len(fitting) < len(alive):
            return Taken(received, is_all=True)
    return Taken(received, is_all=False)


def _fitting(rows: Sequence[Row[Any]], *, room: int) -> list[Row[Any]]:
    """The first of these messages whose bodies together have at most so many bytes."""
    totals = accumulate(row.bytes for row in rows)
    return [row for row, total in zip(rows, totals, strict=True) if total <= room]


def _lock_receivable(tx: Tx, queue: Queue, *, count: int, now: datetime) -> Sequence[Row[Any]]:
    """The oldest messages that can be received and that nobody else is just receiving."""
    of_queue = {"queue_id": queue.id, "now": now}
    has_many = tx.execute(queue_statements.HAS_MANY, of_queue).first() is not None
    statement = queue_statements.RECEIVE_FIRST if has_many else queue_statements.RECEIVE_SOME
    return tx.execute(statement, {**of_queue, "limit": count}).all()


def _hand_out(
    tx: Tx,
    queue: Queue,
    rows: Sequence[Row[Any]],
    *,
    now: datetime,
    new_secret: Callable[[int], str],
) -> list[Received]:
    """Hide locked messages, and give each a new handle."""
    if not rows:
        return []
    found = tx.execute(queue_statements.BODIES, {"positions": [row.position for row in rows]})
    bodies = {row.position: row.body.decode() for row in found}
    visible_at = now + timedelta(seconds=queue.visibility_s)
    received = [
        Received(
            id=row.id,
            body=bodies[row.position],
            receipt=f"{row.position}-{new_secret(RECEIPT_SECRET_LENGTH)}",
            enqueued_at=row.enqueued_at,
            first_dequeued_at=row.first_dequeued_at or now,
            was_visible_at=row.visible_at,
            visible_at=visible_at,
            dequeue_count=row.dequeue_count + 1,
        )
        for row in rows
    ]
    tx.execute(
        queue_statements.HAND_OUT,
        [
            {
                "position_": row.position,
                "receipt_": message.receipt,
                "visible_at_": visible_at,
                "now": now,
            }
            for row, message in zip(rows, received, strict=True)
        ],
    )
    return received


def next_visible_at(tx: Tx, queue: Queue, *, now: datetime) -> datetime | None:
    """When the next message can be received, which may be past; None if the queue is empty."""
    moment: datetime | None = tx.execute(
        queue_statements.NEXT_VISIBLE, {"queue_id": queue.id, "now": now}
    ).scalar()
    return moment


def give_back(tx: Tx, queue: Queue, *, messages: Sequence[Received], now: datetime) -> None:
    """Let messages be as they were before a receive that nobody has read the answer of.

    Those whose handle is no longer the latest, or too old, are left as they are.
    """
    parameters = [
        {
            "position_": int(_position_in(message.receipt)),
            "queue_id_": queue.id,
            "receipt_": message.receipt,
            "visible_at_": message.was_visible_at,
            "now": now,
        }
        for message in messages
    ]
    tx.execute(queue_statements.GIVE_BACK, parameters)
    tx.wake(queue.signal)


def _position_in(receipt: str) -> str:
    return receipt.partition("-")[0]


def delete(tx: Tx, queue: Queue, *, receipt: str, now: datetime) -> bool:
    """Delete a received message; False if the handle is not the latest, or too old."""
    position = _position_in(receipt)
    if not (position.isascii() and position.isdigit() and len(position) < len(str(2**63))):
        return False
    parameters = {
        "position_": int(position),
        "queue_id_": queue.id,
        "receipt_": receipt,
        "now": now,
    }
    if not queue.rewind_s:
        return tx.execute(queue_statements.DELETE_BY_RECEIPT, parameters).rowcount == 1
    parameters["kept_until"] = now + timedelta(seconds=queue.rewind_s)
    return tx.execute(queue_statements.KEEP_BY_RECEIPT, parameters).rowcount == 1


def check_rewind(queue: Queue, *, start_at: datetime, now: datetime) -> None:
    """Raise CannotRewind if the queue keeps nothing, InvalidParameterValue if nothing is meant."""
    if not queue.rewind_s:
        raise CannotRewind(f"Queue `{queue.name}` cannot be rewound: its `RewindSeconds` is 0.")
    if start_at > now:
        raise InvalidParameterValue("`StartConsumeTime` must not be in the future.")


def rewind(tx: Tx, queue: Queue, *, start_at: datetime, now: datetime) -> int:
    """Make deleted messages that arrived from `start_at` on receivable again, up to `PAGE`.

    Why they begin a new retention: they were kept beyond the old one, and what is had back only
    to expire has not been had back. What is deleted after `now` is not touched, so that calling
    this until it returns 0 comes to an end.
    """
    parameters = {
        "queue_id_": queue.id,
        "start_at": start_at,
        "now": now,
        "rewound_expires_at": now + timedelta(seconds=queue.retention_s),
        "limit": PAGE,
    }
    count = tx.execute(queue_statements.REWIND, parameters).rowcount
    if count:
        tx.wake(queue.signal)
    return count


def list_ending_sooner(tx: Tx, queue: Queue, *, after: int, now: datetime) -> list[int]:
    """The positions, behind one, of what would be kept for longer by the queue as it is now.

    Up to `PAGE` of them, the oldest first.
    """
    parameters = {**_retention(queue, now=now), "queue_id": queue.id, "after": after, "limit": PAGE}
    return list(tx.execute(queue_statements.ENDING_SOONER, parameters).scalars())


def extend(tx: Tx, queue: Queue, *, positions: Sequence[int], now: datetime) -> None:
    """Keep messages for the queue's retention from their arrival, if that is longer."""
    parameters = {**_retention(queue, now=now), "queue_id_": queue.id, "positions": list(positions)}
    tx.execute(queue_statements.EXTEND, parameters)


def _retention(queue: Queue, *, now: datetime) -> dict[str, Any]:
    return {"retention_us": queue.retention_s * 1_000_000, "now": now}


def clear(tx: Tx, queue: Queue, *, now: datetime) -> int:
    """Drop what has arrived until `now`, deleted messages too; up to `PAGE` of each kind.

    Returns how many it was: 0 once there are none.
    """
    parameters = {"queue_id": queue.id, "now": now, "limit": PAGE}
    statements = (queue_statements.CLEAR, queue_statements.CLEAR_KEPT)
    return sum(tx.execute(each, parameters).rowcount for each in statements)


def drop(tx: Tx, queue: Queue) -> int:
    """Drop what a deleted queue held, up to `PAGE` of each kind; 0 once there is nothing."""
    parameters = {"queue_id": queue.id, "limit": PAGE}
    statements = (queue_statements.DROP, queue_statements.DROP_KEPT)
    return sum(tx.execute(each, parameters).rowcount for each in statements)


def list_hidden_too_long(tx: Tx, *, now: datetime) -> list[int]:
    """The positions of what is hidden for longer than a receive hides it, up to `PAGE`.

    It was received by a clock that has been set back since.
    """
    found: list[int] = []
    for queue in tx.execute(queue_statements.VISIBILITIES):
        latest = now + timedelta(seconds=queue.visibility_s)
        parameters = {"queue_id": queue.id, "latest": latest, "limit": PAGE}
        found += tx.execute(queue_statements.HIDDEN_BEYOND, parameters).scalars()
        if len(found) >= PAGE:
            break
    return found[:PAGE]


def show(tx: Tx, positions: Sequence[int], *, now: datetime) -> int:
    """Let messages that were received be received again; how many it was."""
    parameters = {"positions": list(positions), "now": now, "at_once": AT_ONCE}
    return tx.execute(queue_statements.SHOW, parameters).rowcount


def count_messages(tx: Tx, queues: Sequence[Queue], *, now: datetime) -> dict[str, Backlog]:
    """What queues hold, by the queue's id."""
    parameters = {"queue_ids": [queue.id for queue in queues], "now": now}
    rows = {row.queue_id: row for row in tx.execute(queue_statements.COUNT_MESSAGES, parameters)}
    kept = {row.queue_id: row.kept for row in tx.execute(queue_statements.COUNT_KEPT, parameters)}
    held = {queue.id: Backlog(kept=kept.get(queue.id, 0)) for queue in queues}
    for queue_id, row in rows.items():
        held[queue_id] = Backlog(
            active=row.active,
            inactive=row.inactive,
            delayed=row.delayed,
            oldest=row.oldest,
            kept=kept.get(queue_id, 0),
        )
    return held


def drop_expired(tx: Tx, *, now: datetime) -> int:
    """Drop what is past its time, up to `PAGE` messages; returns how many it was."""
    parameters = {"now": now, "limit": PAGE}
    return tx.execute(queue_statements.DROP_EXPIRED, parameters).rowcount
