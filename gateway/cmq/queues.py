"""Queues: made, found, listed and deleted; messages put in, received and deleted.

A received message is invisible for a while and comes back unless it is deleted with the handle
that its latest receive gave out. What is older than the queue's retention is never handed out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, Select, func, select
from sqlalchemy.exc import IntegrityError

from gateway.call import Scope
from gateway.cmq import queue_statements, tables, topic_statements
from gateway.cmq.naming import filter_by_name, key_of
from gateway.errors import FailedOperation, ResourceInUse, ResourceNotFound
from gateway.store import Tx

RECEIPT_SECRET_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue. The times in its attributes are in seconds."""

    id: str
    owner_uin: str
    region: str
    name: str
    max_messages: int
    polling_wait_s: int
    visibility_s: int
    max_message_bytes: int
    retention_s: int
    trace: bool
    created_by: str
    created_at: datetime
    modified_at: datetime

    @property
    def signal(self) -> str:
        """What is woken when a message is put into the queue."""
        return signal_of(self.id)


@dataclass(frozen=True, slots=True)
class Received:
    """A message as one receive hands it out; `receipt` is good until `visible_at`."""

    id: str
    body: str
    receipt: str
    enqueued_at: datetime
    first_dequeued_at: datetime
    visible_at: datetime
    dequeue_count: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many messages a queue holds: to be received, received, and not yet visible."""

    active: int = 0
    inactive: int = 0
    delayed: int = 0
    oldest: datetime | None = None


def signal_of(queue_id: str) -> str:
    """What is woken when a message is put into a queue."""
    return f"cmq:{queue_id}"


def create(tx: Tx, queue: Queue) -> None:
    """Add a queue. Raises ResourceInUse.Queue if its name is taken, in any case of letters."""
    key = key_of(queue.owner_uin, region=queue.region, name=queue.name)
    columns = {name: getattr(queue, name) for name in Queue.__slots__}
    try:
        tx.execute(queue_statements.ADD_QUEUE, {**columns, "key": key})
    except IntegrityError as error:
        raise ResourceInUse(f"Queue `{queue.name}` already exists.", detail="Queue") from error


def find_queue(tx: Tx, owner_uin: str, *, region: str, name: str) -> Queue | None:
    """The queue of this name; None if there is none."""
    return _find(tx, queue_statements.QUEUE_BY_KEY, owner_uin, region=region, name=name)


def get_queue(tx: Tx, owner_uin: str, *, region: str, name: str) -> Queue:
    """The queue of this name. Raises ResourceNotFound."""
    return _found(find_queue(tx, owner_uin, region=region, name=name), name)


def hold_queue(tx: Tx, owner_uin: str, *, region: str, name: str) -> Queue:
    """The queue of this name, kept from being deleted meanwhile. Raises ResourceNotFound."""
    return _found(_find(tx, queue_statements.HOLD_QUEUE, owner_uin, region=region, name=name), name)


def delete(tx: Tx, owner_uin: str, *, region: str, name: str) -> None:
    """Delete a queue and what it holds.

    Raises ResourceNotFound; FailedOperation while a subscription feeds it.
    """
    queue = _found(
        _find(tx, queue_statements.LOCK_QUEUE, owner_uin, region=region, name=name), name
    )
    feeding = tx.execute(topic_statements.SUBSCRIPTIONS_OF_QUEUE, {"queue_id": queue.id}).first()
    if feeding is not None:
        raise FailedOperation(
            f"Queue `{name}` is the endpoint of subscription `{feeding.name}` of topic "
            f"`{feeding.topic_name}`; delete that first."
        )
    tx.execute(queue_statements.DROP_QUEUE, {"id_": queue.id})


def list_queues(
    tx: Tx,
    owner_uin: str,
    *,
    region: str,
    search: str,
    names: Sequence[str],
    scope: Scope | None,
    page: tuple[int, int],
) -> tuple[int, list[Queue]]:
    """How many queues there are, and one page of them, by name; parameters as for topics."""
    found = select(tables.queue).where(
        tables.queue.c.owner_uin == owner_uin, tables.queue.c.region == region
    )
    found = filter_by_name(
        found, tables.queue.c.name, search=search, names=names, scope=scope, dialect=tx.dialect
    )
    total = tx.execute(select(func.count()).select_from(found.subquery())).scalar_one()
    offset, limit = page
    rows = tx.execute(found.order_by(tables.queue.c.name).offset(offset).limit(limit))
    return total, [_read(row) for row in rows]


def count_messages(tx: Tx, queues: Sequence[Queue], *, now: datetime) -> dict[str, Backlog]:
    """What queues hold, by the queue's id; an empty one is absent."""
    parameters = {"queue_ids": [queue.id for queue in queues], "now": now}
    return {
        row.queue_id: Backlog(row.active, row.inactive, row.delayed, row.oldest)
        for row in tx.execute(queue_statements.COUNT_MESSAGES, parameters)
    }


def message_row(
    message_id: str,
    body: bytes,
    *,
    queue_id: str,
    now: datetime,
    visible_at: datetime,
    expires_at: datetime,
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
    """Put messages into their queues, in this order, and wake who waits for them."""
    if rows:
        tx.execute(queue_statements.ADD_QUEUE_MESSAGES, rows)
        for queue_id in {row["queue_id"] for row in rows}:
            tx.wake(signal_of(queue_id))


def send(
    tx: Tx, queue: Queue, body: bytes, *, message_id: str, now: datetime, delay: timedelta
) -> None:
    """Put one message into a queue, to be received after `delay`."""
    expires_at = now + timedelta(seconds=queue.retention_s)
    put(
        tx,
        [
            message_row(
                message_id,
                body,
                queue_id=queue.id,
                now=now,
                visible_at=now + delay,
                expires_at=expires_at,
            )
        ],
    )


def receive(
    tx: Tx, queue: Queue, *, count: int, now: datetime, new_secret: Callable[[int], str]
) -> list[Received]:
    """Hand out up to `count` messages, the oldest first, and hide them for a while.

    On PostgreSQL two receivers at once are given different messages, neither waiting.
    """
    parameters = {"queue_id": queue.id, "now": now, "limit": count}
    rows = tx.execute(queue_statements.RECEIVABLE, parameters).all()
    visible_at = now + timedelta(seconds=queue.visibility_s)
    received = [
        Received(
            id=row.id,
            body=row.body.decode(),
            receipt=f"{row.position}-{new_secret(RECEIPT_SECRET_LENGTH)}",
            enqueued_at=row.enqueued_at,
            first_dequeued_at=row.first_dequeued_at or now,
            visible_at=visible_at,
            dequeue_count=row.dequeue_count + 1,
        )
        for row in rows
    ]
    if received:
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


def delete_message(tx: Tx, queue: Queue, *, receipt: str, now: datetime) -> bool:
    """Delete a received message; False if the handle is not the latest, or too old."""
    position = receipt.partition("-")[0]
    if not (position.isascii() and position.isdigit() and len(position) < len(str(2**63))):
        return False
    parameters = {
        "position": int(position),
        "queue_id": queue.id,
        "receipt": receipt,
        "now": now,
    }
    return tx.execute(queue_statements.DELETE_BY_RECEIPT, parameters).rowcount == 1


def drop_expired(tx: Tx, *, now: datetime) -> int:
    """Delete what is past its retention; returns how many messages it was."""
    return tx.execute(queue_statements.DROP_EXPIRED, {"now": now}).rowcount


def _find(
    tx: Tx, statement: Select[Any], owner_uin: str, *, region: str, name: str
) -> Queue | None:
    """The queue that is spelled like this: see `naming.key_of`."""
    key = key_of(owner_uin, region=region, name=name)
    row = tx.execute(statement, {"key": key}).one_or_none()
    return _read(row) if row is not None and row.name == name else None


def _found(queue: Queue | None, name: str) -> Queue:
    if queue is None:
        raise ResourceNotFound(f"Queue `{name}` does not exist.")
    return queue


def _read(row: Row[Any]) -> Queue:
    return Queue(**{name: getattr(row, name) for name in Queue.__slots__})
