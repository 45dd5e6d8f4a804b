"""Telling again: messages become new rows with the same ids and bytes, and the relay takes them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, false, func, insert, or_, select

from gateway.events import outbox
from gateway.events.ledger import parse_id
from gateway.events.subscribers import Subscribers
from gateway.events.tables import message
from gateway.store import Store, Tx

PAGE = 1_000
LOCK = 3_017_442  # an arbitrary number that stands for "telling again" in pg_advisory_xact_lock


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which messages to tell again; what is empty or None is not asked for.

    id: of a message, or of the event that messages were made of. names: of their events. since:
    included; until: excluded; by when they were made.
    """

    id: str = ""
    topic_key: str = ""
    stream_ids: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """The one subscription that is told again.

    wants: whether its filter lets a message with this routing key and these tags through.
    """

    subscription_id: str
    wants: Callable[[str, Sequence[str]], bool]


@dataclass(frozen=True, slots=True)
class Replayed:
    """How it went. told: again. unwanted: by the recipient's filter. gone: with their topics."""

    told: int = 0
    unwanted: int = 0
    gone: int = 0

    def __add__(self, other: "Replayed") -> "Replayed":
        return Replayed(
            self.told + other.told, self.unwanted + other.unwanted, self.gone + other.gone
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page is: behind one position and up to another, and `limit` messages at most."""

    after: int
    upto: int
    limit: int


_RETOLD = (
    message.c.id,
    message.c.topic_key,
    message.c.shard,
    message.c.stream_id,
    message.c.seq,
    message.c.event_name,
    message.c.routing_key,
    message.c.tags,
    message.c.body,
    message.c.traceparent,
    message.c.created_at,
)
_only = bindparam("only_subscription_id_", type_=message.c.only_subscription_id.type)
_any = message.alias()
_FIRST = select(func.min(_any.c.replay)).where(_any.c.id == message.c.id).scalar_subquery()
_NEXT = select(func.max(_any.c.replay) + 1).where(_any.c.id == message.c.id).scalar_subquery()
TELL_AGAIN = (
    insert(message)
    .from_select(
        [*(column.name for column in _RETOLD), "replay", "only_subscription_id"],
        select(*_RETOLD, _NEXT, _only)
        .where(message.c.position.in_(bindparam("positions", expanding=True)))
        .order_by(message.c.position),
    )
    .execution_options(preserve_rowcount=True)
)
CANDIDATES = select(
    message.c.position, message.c.topic_key, message.c.routing_key, message.c.tags
).where(message.c.expanded_at.is_not(None), message.c.replay == _FIRST)
"""What was not told once is not told again: its turn is still to come."""
LAST_POSITION = select(func.coalesce(func.max(message.c.position), 0))
FIRST_SINCE = select(func.min(message.c.position)).where(message.c.created_at >= bindparam("since"))
LOCK_REPLAYS = select(func.pg_advisory_xact_lock(LOCK))


async def replay(
    store: Store,
    chosen: Chosen,
    *,
    subscribers: Subscribers,
    only: Target | None = None,
    dry_run: bool = False,
    page: int = PAGE,
) -> Replayed:
    """Tell messages again in their order, to everybody or to one, a page a transaction.

    Whoever gets one sees by its id that they know it, and by its mark that it is a replay. If this
    ends half way, the pages before are told. dry_run: only count. page: messages.
    """
    after: int | None
    after, upto = await store.read_list(partial(_range, since=chosen.since))
    act = store.read_list if dry_run else store.write
    total = Replayed()
    while after is not None:
        place = Place(after, upto, page)
        tell = partial(_tell, chosen=chosen, subscribers=subscribers, only=only, dry_run=dry_run)
        done, after = await act(partial(tell, place=place))
        total += done
    return total


def lock_replays(tx: Tx) -> None:
    """Wait for whoever else is giving replays their numbers; on SQLite there is nobody."""
    if tx.dialect != "sqlite":
        tx.execute(LOCK_REPLAYS)


def _range(tx: Tx, *, since: datetime | None) -> tuple[int, int]:
    """The position after which the messages begin, and the last one: none of the replays' own."""
    upto: int = tx.execute(LAST_POSITION).scalar_one()
    if since is None:
        return 0, upto
    first: int | None = tx.execute(FIRST_SINCE, {"since": since}).scalar_one()
    return (upto if first is None else first - 1), upto


def _tell(
    tx: Tx,
    *,
    chosen: Chosen,
    subscribers: Subscribers,
    only: Target | None,
    dry_run: bool,
    place: Place,
) -> tuple[Replayed, int | None]:
    """Tell a page again; returns besides where the next one begins, None if this is the last."""
    where = (message.c.position > place.after, message.c.position <= place.upto)
    statement = _narrowed(CANDIDATES, chosen).where(*where)
    rows = tx.execute(statement.order_by(message.c.position).limit(place.limit)).all()
    topics = {row.topic_key for row in rows}
    there = {key for key in topics if subscribers.find_route(tx, key) is not None}
    reachable = [row for row in rows if row.topic_key in there]
    due = [
        row.position
        for row in reachable
        if only is None or only.wants(row.routing_key, json.loads(row.tags))
    ]
    told = len(due)
    if due and not dry_run:
        lock_replays(tx)
        recipient = only.subscription_id if only else None
        asked = {"positions": due, "only_subscription_id_": recipient}
        told = tx.execute(TELL_AGAIN, asked).rowcount  # not what was deleted just now
        tx.wake(outbox.SIGNAL)
    done = Replayed(told, len(reachable) - len(due), len(rows) - len(reachable))
    return done, rows[-1].position if len(rows) == place.limit else None


def _narrowed(statement: Select[Any], chosen: Chosen) -> Select[Any]:
    """A list of messages with what is chosen of them in its WHERE."""
    if chosen.id:
        statement = statement.where(_is_meant(chosen.id))
    if chosen.topic_key:
        statement = statement.where(message.c.topic_key == chosen.topic_key)
    if chosen.stream_ids:
        statement = statement.where(message.c.stream_id.in_(sorted(chosen.stream_ids)))
    if chosen.names:
        statement = statement.where(message.c.event_name.in_(sorted(chosen.names)))
    if chosen.since is not None:
        statement = statement.where(message.c.created_at >= chosen.since)
    if chosen.until is not None:
        statement = statement.where(message.c.created_at < chosen.until)
    return statement


def _is_meant(identifier: str) -> ColumnElement[bool]:
    """A message has this id, or its event has."""
    if not identifier.isprintable():  # no id, and it may be what no database takes
        return false()
    parts = parse_id(identifier)
    if parts is None:
        return message.c.id == identifier
    of_event = and_(message.c.stream_id == parts[0], message.c.seq == parts[1])
    return or_(message.c.id == identifier, of_event)
