"""The ledger, read: every event in the order of its position, of all streams or of some."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Select

from gateway.clock import wire_time
from gateway.events import ledger_statements as statements
from gateway.events.names import EventName, Subject
from gateway.events.tables import event, event_stream
from gateway.store import Store, Tx

_EVENT_ID = re.compile(r"(.{1,32})-([1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of the ledger.

    position: its place among the events of all streams. seq: its number within its own.
    batch_json: the members of `Batch`, as they were stored.
    """

    position: int
    stream_id: str
    seq: int
    name: str
    subject_id: str
    batch_json: bytes
    owner_uin: str
    region: str
    happened_at: datetime

    @property
    def id(self) -> str:
        """The public id; those of its messages go on with a number."""
        return f"{self.stream_id}-{self.seq}"

    @property
    def batch(self) -> dict[str, Any]:
        """The members of `Batch`."""
        members: dict[str, Any] = msgspec.json.decode(self.batch_json)
        return members


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events to read; what is empty or None is not asked for.

    stream_ids: of jobs, environments and subscriptions. since: included. until: excluded.
    """

    owner_uin: str = ""
    region: str = ""
    names: frozenset[str] = frozenset()
    kind: Subject | None = None
    stream_ids: frozenset[str] = frozenset()
    subject_ids: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """The next events. reached: the position up to which there are no others that were wanted."""

    entries: tuple[Entry, ...]
    reached: int


@dataclass(frozen=True, slots=True)
class Sending:
    """A message that was made of an event, and how far it is on its way.

    replay, only_subscription_id: as in `Message`. expanded_at: when its deliveries were written.
    sent_at: when the broker had it, if there is one.
    """

    position: int
    id: str
    replay: int
    only_subscription_id: str | None
    topic_key: str
    created_at: datetime
    expanded_at: datetime | None
    sent_at: datetime | None


async def read_following(store: Store, *, after: int, limit: int, wanted: Wanted) -> Page:
    """The next events after a position; none is missed, however many write at the same time."""
    settled = await store.read_point(find_settled)
    if settled <= after:
        return Page((), after)
    entries = await store.read_list(
        lambda tx: list_following(tx, after=after, upto=settled, limit=limit, wanted=wanted)
    )
    reached = entries[-1].position if len(entries) == limit else settled
    return Page(tuple(entries), reached)


def find_settled(tx: Tx) -> int:
    """A position up to which nothing is still being written, for whoever reads in a later `tx`.

    On SQLite, which has one writer, it is the last one. On PostgreSQL a position is taken before
    its transaction is committed, and a larger one may be committed first. So whoever writes events
    first locks, until it ends, a key that says after which position its own will be. Here the last
    position is looked up first and the locks second: a writer of a smaller position is then either
    found among the locks, or has ended, and what it wrote is seen by every transaction from now on.

    Why not by the numbers of transactions, which the rows could hold: they are given out in another
    order than positions, and no reader can tell which of those given out are still running.
    """
    if tx.dialect == "sqlite":
        return int(tx.execute(statements.LAST_POSITION).scalar_one())
    return int(tx.execute(statements.SETTLED_POSITION).scalar_one())


def find_removed_before(tx: Tx) -> datetime | None:
    """What happened before this moment, retention may have removed; None: it removed nothing yet.

    Why it is stored: how long events are to be kept is set anew at every start, and other commands
    may not know it; what an earlier setting took stays gone.
    """
    found: datetime | None = tx.execute(statements.REMOVED_BEFORE).scalar()
    return found


def list_following(tx: Tx, *, after: int, upto: int, limit: int, wanted: Wanted) -> list[Entry]:
    """The events after one position and up to another, the oldest first.

    upto: found by `find_settled` in an earlier transaction, or else events may be missed.
    """
    statement = _narrowed(statements.ENTRIES, wanted).where(
        event.c.position > after, event.c.position <= upto
    )
    rows = tx.execute(statement.order_by(event.c.position).limit(limit)).mappings()
    return [Entry(**row) for row in rows]


def list_last(tx: Tx, wanted: Wanted, *, limit: int, upto: int | None = None) -> list[Entry]:
    """The last events, the newest first. upto: only those up to this position."""
    statement = _narrowed(statements.ENTRIES, wanted)
    if wanted.since is not None:  # or a search that finds few would go back to the beginning
        statement = statement.where(event.c.position >= statements.first_since(wanted.since))
    if upto is not None:
        statement = statement.where(event.c.position <= upto)
    rows = tx.execute(statement.order_by(event.c.position.desc()).limit(limit)).mappings()
    return [Entry(**row) for row in rows]


def find(tx: Tx, event_id: str) -> Entry | None:
    """The event of a public id; None if there is none."""
    parts = parse_id(event_id)
    if parts is None:
        return None
    parameters = {"stream_id_": parts[0], "seq_": parts[1]}
    row = tx.execute(statements.ENTRY, parameters).mappings().one_or_none()
    return None if row is None else Entry(**row)


def parse_id(event_id: str) -> tuple[str, int] | None:
    """The stream and the number in the public id of an event; None if it is no such id."""
    found = _EVENT_ID.fullmatch(event_id)
    return (found[1], int(found[2])) if found and found[1].isprintable() else None


def list_sendings(tx: Tx, entry: Entry) -> list[Sending]:
    """The messages made of an event, replays included, the oldest first."""
    parameters = {"stream_id_": entry.stream_id, "seq_": entry.seq}
    rows = tx.execute(statements.MESSAGES, parameters).mappings()
    return [Sending(**row) for row in rows]


def event_json(entry: Entry) -> bytes:
    """An event in its public form: one line of JSON."""
    return msgspec.json.encode(
        {
            "EventId": entry.id,
            "Position": entry.position,
            "Seq": entry.seq,
            "EventTime": wire_time(entry.happened_at),
            "EventName": entry.name,
            "Region": entry.region,
            "Owner": entry.owner_uin,
            "Subject": entry.subject_id,
            "Batch": msgspec.Raw(entry.batch_json),
        }
    )


def _narrowed(statement: Select[Any], wanted: Wanted) -> Select[Any]:
    """A list of events with what is wanted of them in its WHERE."""
    if wanted.owner_uin:
        statement = statement.where(event_stream.c.owner_uin == wanted.owner_uin)
    if wanted.region:
        statement = statement.where(event_stream.c.region == wanted.region)
    if wanted.names or wanted.kind is not None:
        statement = statement.where(event.c.name.in_(_names(wanted)))
    if wanted.stream_ids:
        statement = statement.where(event.c.stream_id.in_(sorted(wanted.stream_ids)))
    if wanted.subject_ids:
        statement = statement.where(event.c.subject_id.in_(sorted(wanted.subject_ids)))
    if wanted.since is not None:
        statement = statement.where(event.c.happened_at >= wanted.since)
    if wanted.until is not None:
        statement = statement.where(event.c.happened_at < wanted.until)
    return statement


def _names(wanted: Wanted) -> list[str]:
    """The names that are wanted: those given, of the kind that is given."""
    if wanted.kind is None:
        return sorted(wanted.names)
    of_kind = {name.value for name in EventName if name.subject is wanted.kind}
    return sorted(of_kind & wanted.names if wanted.names else of_kind)
