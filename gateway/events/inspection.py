"""The ledger and the outbox as an audit reads them: one stream at a time, page by page."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Row, bindparam, func, select

from gateway.events.tables import event, event_stream, message
from gateway.store import Tx


@dataclass(frozen=True, slots=True)
class Recorded:
    """One event as its row says it. batch_json: the members of `Batch`."""

    seq: int
    name: str
    subject_id: str
    batch_json: bytes
    happened_at: datetime


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message as its row says it; `stream_id`, `seq`: None if a user published it.

    body: empty where only its deliveries are looked at. expanded_at: None before they are written.
    """

    position: int
    id: str
    replay: int
    only_subscription_id: str | None
    topic_key: str
    stream_id: str | None
    seq: int | None
    routing_key: str
    tags: tuple[str, ...]
    body: bytes
    expanded_at: datetime | None


@dataclass(frozen=True, slots=True)
class Counted:
    """Whose events are counted, and how far the count is."""

    id: str
    owner_uin: str
    region: str
    seq: int


class Deliveries(Protocol):
    """What became of messages; the CMQ service answers it. A module with the function is one."""

    def list_undelivered(
        self, tx: Tx, messages: Sequence[StoredMessage]
    ) -> list[tuple[StoredMessage, str]]:
        """Of the messages that are expanded: which are missing for whom, by subscription id."""
        ...


_STORED = (
    message.c.position,
    message.c.id,
    message.c.replay,
    message.c.only_subscription_id,
    message.c.topic_key,
    message.c.stream_id,
    message.c.seq,
    message.c.routing_key,
    message.c.tags,
    message.c.expanded_at,
)
STREAM = select(event_stream).where(event_stream.c.id == bindparam("id_"))
EVENTS = (
    select(
        event.c.seq,
        event.c.name,
        event.c.subject_id,
        event.c.batch,
        event.c.happened_at,
    )
    .where(event.c.stream_id == bindparam("stream_id_"), event.c.seq > bindparam("after"))
    .order_by(event.c.seq)
    .limit(bindparam("limit"))
)
MESSAGES = (
    select(*_STORED, message.c.body)
    .where(
        message.c.stream_id == bindparam("stream_id_"),
        message.c.seq >= bindparam("first"),
        message.c.seq <= bindparam("last"),
    )
    .order_by(message.c.seq, message.c.position)
)
PUBLISHED = (
    select(*_STORED)
    .where(
        message.c.stream_id.is_(None),
        message.c.position > bindparam("after"),
        message.c.position <= bindparam("upto"),
    )
    .order_by(message.c.position)
)
CHANGED = (
    select(event.c.position, event.c.stream_id)
    .where(event.c.position > bindparam("after"), event.c.position <= bindparam("upto"))
    .order_by(event.c.position)
    .limit(bindparam("limit"))
)
_page = (
    select(message.c.position)
    .where(message.c.position > bindparam("after"))
    .order_by(message.c.position)
    .limit(bindparam("limit"))
    .subquery()
)
PAGE_END = select(func.count().label("messages"), func.max(_page.c.position).label("last"))
"""Of all messages: their key is walked from where the kept ones begin, whatever was deleted."""


def find_stream(tx: Tx, stream_id: str) -> Counted | None:
    """A stream of events; None if nothing was ever told of what has this id."""
    row = tx.execute(STREAM, {"id_": stream_id}).one_or_none()
    return None if row is None else Counted(row.id, row.owner_uin, row.region, row.seq)


def list_events(tx: Tx, stream_id: str, *, after: int, limit: int) -> list[Recorded]:
    """The events of a stream behind a number, in the order of their numbers."""
    keys = {"stream_id_": stream_id, "after": after, "limit": limit}
    return [
        Recorded(row.seq, row.name, row.subject_id, row.batch, row.happened_at)
        for row in tx.execute(EVENTS, keys)
    ]


def list_messages(tx: Tx, stream_id: str, *, first: int, last: int) -> list[StoredMessage]:
    """The messages made of the events from one number to another, replays included."""
    keys = {"stream_id_": stream_id, "first": first, "last": last}
    return [_stored(row, body=bytes(row.body)) for row in tx.execute(MESSAGES, keys)]


def list_published(tx: Tx, *, after: int, limit: int) -> tuple[list[StoredMessage], int | None]:
    """What users published of the next `limit` messages behind a position, without their bodies.

    Returns besides how far was looked; None: to the end.
    """
    end = tx.execute(PAGE_END, {"after": after, "limit": limit}).one()
    if end.last is None:
        return [], None
    found = tx.execute(PUBLISHED, {"after": after, "upto": end.last})
    return [_stored(row) for row in found], end.last if end.messages == limit else None


def list_changed(tx: Tx, *, after: int, upto: int, limit: int) -> tuple[dict[str, None], int]:
    """The streams with events behind one position and up to another, and how far was looked.

    upto: found by `ledger.find_settled` in an earlier transaction.
    """
    rows = tx.execute(CHANGED, {"after": after, "upto": upto, "limit": limit}).all()
    reached = rows[-1].position if len(rows) == limit else upto
    return {row.stream_id: None for row in rows}, reached


def _stored(row: Row[Any], *, body: bytes = b"") -> StoredMessage:
    return StoredMessage(
        position=row.position,
        id=row.id,
        replay=row.replay,
        only_subscription_id=row.only_subscription_id,
        topic_key=row.topic_key,
        stream_id=row.stream_id,
        seq=row.seq,
        routing_key=row.routing_key,
        tags=tuple(json.loads(row.tags)),
        body=body,
        expanded_at=row.expanded_at,
    )
