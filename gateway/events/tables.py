"""The ledger of events, the outbox of messages, and their statements."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    Select,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal_column,
    select,
    tuple_,
    type_coerce,
    update,
)

from gateway.store import POSITION, Moment, metadata

event_stream = Table(
    "event_stream",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("owner_uin", String(32), nullable=False),
    Column("region", String(64), nullable=False),
    Column("seq", BigInteger, nullable=False),
)
"""One row per job, environment or subscription; `seq` counts its events."""

event = Table(
    "event",
    metadata,
    Column("position", POSITION, primary_key=True),
    Column("stream_id", String(32), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("name", String(40), nullable=False),
    Column("subject_id", String(32), nullable=False),
    Column("batch", LargeBinary, nullable=False),
    Column("happened_at", Moment, nullable=False, index=True),
    UniqueConstraint("stream_id", "seq"),
)
"""The ledger: every event, asked for or not. `batch`: the members of `Batch`, as JSON.

`position` numbers the events of all streams. On PostgreSQL a smaller one may be committed after a
larger one: see `ledger.find_settled`.
"""

event_floor = Table(
    "event_floor",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("removed_before", Moment, nullable=False),
)
"""How far retention has gone: what happened before may be removed. One row, whose `id` is 1, or
none: nothing was ever removed.
"""

message = Table(
    "event_message",
    metadata,
    Column("position", POSITION, primary_key=True),
    Column("id", String(64), nullable=False),
    Column("replay", Integer, nullable=False, server_default="0"),
    Column("only_subscription_id", String(32)),
    Column("topic_key", String(180), nullable=False),
    Column("shard", SmallInteger, nullable=False),
    Column("stream_id", String(32)),
    Column("seq", BigInteger),
    Column("event_name", String(40)),
    Column("routing_key", String(255), nullable=False),
    Column("tags", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("traceparent", String(64)),
    Column("created_at", Moment, nullable=False, index=True),
    Column("expanded_at", Moment),
    Column("sent_at", Moment),
    UniqueConstraint("id", "replay"),
    Index("ix_event_message_stream_id_seq", "stream_id", "seq"),
)
"""`expanded_at`: its deliveries are written. `sent_at`: the broker confirmed it, or there is none.
`stream_id`, `seq`, `event_name` are null in a message that a user published.

`replay`: 0 when it is first told, then how many times it was told again, with the same id and the
same bytes. `only_subscription_id`: whom alone it is told again; null: everybody.
"""

UNEXPANDED_INDEX = Index(
    "ix_event_message_unexpanded",
    message.c.position,
    sqlite_where=message.c.expanded_at.is_(None),
    postgresql_where=message.c.expanded_at.is_(None),
)
UNSENT_INDEX = Index(
    "ix_event_message_unsent",
    message.c.topic_key,
    message.c.position,
    sqlite_where=message.c.sent_at.is_(None),
    postgresql_where=message.c.sent_at.is_(None),
)

bus_change = Table(
    "event_bus_change",
    metadata,
    Column("id", POSITION, primary_key=True),
    Column("topic_key", String(180), nullable=False, index=True),
    Column("exchange", String(255), nullable=False),
    Column("queue", String(255)),
    Column("binding_key", String(255)),
    Column("subscription_id", String(32), nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("until", BigInteger),
    sqlite_autoincrement=True,
)
"""Bindings that come (`until` is null) or go once what waits before them is sent: see `rebinding`.
Without a queue it is the exchange that goes.

No id is given out twice: who has just made a change deletes it by its id, and nothing newer.
"""

ADVANCE_STREAM = (
    update(event_stream)
    .where(event_stream.c.id == bindparam("id_"))
    .values(seq=event_stream.c.seq + bindparam("count"))
    .returning(event_stream.c.seq)
)
ADD_STREAM = insert(event_stream)
ADD_EVENTS = insert(event)
ADD_MESSAGES = insert(message)
ADD_EXPANDED = insert(message).returning(message.c.position, sort_by_parameter_order=True)
"""Messages whose deliveries are written in the same transaction; answers with their positions.

Sorted, these belong to the rows in their order: SQLite stores them one after another, and of
PostgreSQL SQLAlchemy asks for it in words.
"""

_SENDABLE = (
    message.c.position,
    message.c.id,
    message.c.replay,
    message.c.only_subscription_id,
    message.c.topic_key,
    message.c.shard,
    message.c.routing_key,
    message.c.created_at,
    message.c.event_name,
    message.c.seq,
    message.c.tags,
    message.c.traceparent,
    func.length(message.c.body).label("body_bytes"),
    case((func.length(message.c.body) <= bindparam("short_bytes"), message.c.body)).label(
        "short_body"
    ),
)
"""Long bodies are asked for besides, once it is known how many of them there is room for."""
BODIES = select(message.c.position, message.c.body).where(
    message.c.position.in_(bindparam("positions", expanding=True))
)
UNEXPANDED = (
    select(*_SENDABLE)
    .where(message.c.expanded_at.is_(None))
    .order_by(message.c.position)
    .limit(bindparam("limit"))
    .with_for_update()
)
"""Locked, so that a second relay waits, reads again, and keeps the order."""
UNEXPANDED_OF = (
    select(*_SENDABLE)
    .where(
        message.c.expanded_at.is_(None),
        message.c.topic_key == bindparam("topic_key"),
        message.c.position > bindparam("after"),
    )
    .order_by(message.c.position)
    .limit(bindparam("limit"))
)

ANY_UNEXPANDED = (
    select(message.c.position)
    .where(message.c.expanded_at.is_(None))
    .order_by(message.c.position)
    .limit(1)
)

MARK_EXPANDED = (
    update(message)
    .where(message.c.position.in_(bindparam("positions", expanding=True)))
    .values(expanded_at=bindparam("now"))
)
MARK_TOLD = (
    update(message)
    .where(message.c.position.in_(bindparam("positions", expanding=True)))
    .values(expanded_at=bindparam("now"), sent_at=bindparam("now"))
)
"""Expanded, and never to be published: there is no bus."""
MARK_UNEXPANDED = (
    update(message)
    .where(message.c.position.in_(bindparam("positions", expanding=True)))
    .values(expanded_at=None, sent_at=None)
)
MARK_SENT = (
    update(message)
    .where(message.c.position.in_(bindparam("positions", expanding=True)))
    .values(sent_at=bindparam("now"))
)
GIVE_UP = (
    update(message)
    .where(message.c.topic_key == bindparam("key"), message.c.sent_at.is_(None))
    .values(
        expanded_at=func.coalesce(message.c.expanded_at, bindparam("now", type_=Moment)),
        sent_at=case(
            (message.c.position > bindparam("claimed"), bindparam("now", type_=Moment)),
            else_=message.c.sent_at,
        ),
    )
)
"""Whatever waits in a topic goes to nobody, but for what is still to be published."""
_unsent_in_order = (
    select(*_SENDABLE)
    .where(message.c.sent_at.is_(None))
    .order_by(message.c.topic_key, message.c.position)
    .limit(bindparam("limit"))
)
UNSENT: Mapping[str, Select[Any]] = {
    "sqlite": _unsent_in_order.where(
        message.c.topic_key == bindparam("topic_key"), message.c.position > bindparam("after")
    ),
    "postgresql": _unsent_in_order.where(
        message.c.topic_key <= bindparam("topic_key"),
        tuple_(message.c.topic_key, message.c.position)
        > tuple_(bindparam("topic_key"), bindparam("after")),
    ),
}
"""The same rows, by the database.

Why two: of a topic that is equal PostgreSQL knows that it orders nothing, and may go through all
messages by their positions, most of which were sent, until it has found enough. SQLite compares
only the first of two columns by an index.
"""

UNSENT_UNTIL = select(message.c.position).where(
    message.c.topic_key == bindparam("topic_key"),
    message.c.position <= bindparam("upto"),
    message.c.sent_at.is_(None),
)

COUNT_UNSENT = select(func.count()).select_from(message).where(message.c.sent_at.is_(None))


def _walked(position: ColumnElement[int]) -> ColumnElement[int]:
    """A position of which the least or the largest of what is unsent is asked for.

    The sum keeps the databases from going through all that was sent in the order of the positions,
    to find one that was not: they walk the index, which has nothing else in it.
    """
    return type_coerce(position.op("+")(literal_column("0")), POSITION)


_unsent = message.alias()
OLDEST_UNSENT = select(func.coalesce(message.c.expanded_at, message.c.created_at)).where(
    message.c.position
    == select(func.min(_walked(_unsent.c.position)))
    .where(_unsent.c.sent_at.is_(None))
    .scalar_subquery()
)
"""By when it was expanded: a message that is told again was made long before."""

_first = select(func.min(message.c.topic_key).label("topic_key")).where(message.c.sent_at.is_(None))
_waiting = _first.cte("waiting", recursive=True)
_next = (
    select(func.min(message.c.topic_key))
    .where(message.c.sent_at.is_(None), message.c.topic_key > _waiting.c.topic_key)
    .scalar_subquery()
)
_waiting = _waiting.union_all(select(_next).where(_waiting.c.topic_key.is_not(None)))
WAITING_TOPICS = select(_waiting.c.topic_key).where(_waiting.c.topic_key.is_not(None))
"""The topics with unsent messages: one step down the index per topic, however many messages."""

LAST_UNSENT = select(func.max(_walked(message.c.position))).where(
    message.c.topic_key == bindparam("topic_key"), message.c.sent_at.is_(None)
)
ADD_CHANGES = insert(bus_change)
CHANGING_TOPICS = select(bus_change.c.topic_key).distinct()
CHANGES = (
    select(bus_change)
    .where(bus_change.c.topic_key == bindparam("topic_key"))
    .order_by(bus_change.c.id)
)
DROP_CHANGES = delete(bus_change).where(bus_change.c.id.in_(bindparam("ids", expanding=True)))

_oldest_of = (
    select(func.min(_walked(message.c.position)))
    .where(message.c.topic_key == _waiting.c.topic_key, message.c.sent_at.is_(None))
    .correlate(_waiting)
    .scalar_subquery()
)
LONGEST_UNSENT = WAITING_TOPICS.order_by(_oldest_of).limit(bindparam("limit"))
"""The topics whose first unsent message waits the longest."""
