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
class Told:
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
class Stream:
    """Whose events are counted, and how far the count is."""

    id: str
    owner_uin: str
    region: str
    seq: int


class Deliveries(Protocol):
    """What became of messages; the CMQ service answers it. A module with the function is one."""

    def list_undelivered(self, tx: Tx, messages: Sequence[Told]) -> list[tuple[Told, str]]:
        """Of the messages that are expanded: which are missing for whom, by subscription id."""
        ...


_TOLD = (
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
    select(*_TOLD, message.c.body)
    .where(
        message.c.stream_id == bindparam("stream_id_"),
        message.c.seq >= bindparam("first"),
        message.c.seq <= bindparam("last"),
    )
    .order_by(message.c.seq, message.c.position)
)
PUBLISHED = (
    select(*_TOLD)
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
_unsent = message.alias()
OLDEST_UNSENT = select(func.coalesce(message.c.expanded_at, message.c.created_at)).where(
    message.c.position
    == select(func.min(_unsent.c.position)).where(_unsent.c.sent_at.is_(None)).scalar_subquery()
)
"""By when it was expanded: a message that is told again was made long before."""
LAST_MESSAGE = select(message.c.position).order_by(message.c.position.desc()).limit(1)


def find_stream(tx: Tx, stream_id: str) -> Stream | None:
    """A stream of events; None if nothing was ever told of this job or environment."""
    row = tx.execute(STREAM, {"id_": stream_id}).one_or_none()
    return None if row is None else Stream(row.id, row.owner_uin, row.region, row.seq)


def list_events(tx: Tx, stream_id: str, *, after: int, limit: int) -> list[Recorded]:
    """The events of a stream behind a number, in the order of their numbers."""
    keys = {"stream_id_": stream_id, "after": after, "limit": limit}
    return [
        Recorded(row.seq, row.name, row.subject_id, row.batch, row.happened_at)
        for row in tx.execute(EVENTS, keys)
    ]


def list_messages(tx: Tx, stream_id: str, *, first: int, last: int) -> list[Told]:
    """The messages made of the events from one number to another, replays included."""
    keys = {"stream_id_": stream_id, "first": first, "last": last}
    return [_told(row, body=bytes(row.body)) for row in tx.execute(MESSAGES, keys)]


def list_published(tx: Tx, *, after: int, upto: int) -> list[Told]:
    """The messages between two positions that users published, without their bodies."""
    return [_told(row) for row in tx.execute(PUBLISHED, {"after": after, "upto": upto})]


def list_changed(tx: Tx, *, after: int, upto: int, limit: int) -> tuple[dict[str, None], int]:
    """The streams with events behind one position and up to another, and how far was looked.

    upto: found by `ledger.find_settled` in an earlier transaction.
    """
    rows = tx.execute(CHANGED, {"after": after, "upto": upto, "limit": limit}).all()
    reached = rows[-1].position if len(rows) == limit else upto
    return {row.stream_id: None for row in rows}, reached


def last_message(tx: Tx) -> int:
    """The position of the newest message; 0 if there is none."""
    return int(tx.execute(LAST_MESSAGE).scalar() or 0)


def _told(row: Row[Any], *, body: bytes = b"") -> Told:
    return Told(
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


def oldest_unsent(tx: Tx) -> datetime | None:
    """Since when the oldest message waits for the broker; None: none does."""
    moment: datetime | None = tx.execute(OLDEST_UNSENT).scalar_one_or_none()
    return moment
