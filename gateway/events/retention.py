"""Deleting events that have been kept long enough, and their messages once those are told.

How far this has gone is stored with each removal: an audit must not miss what is gone rightly.
What counts the events of a job or environment stays: its row is small, and while the job is there
its numbers go on. So do dead letters, and whatever still waits for somebody.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from types import ModuleType
from typing import Any

import anyio
from anyio.abc import TaskStatus
from sqlalchemy import Column, Delete, Select, bindparam, delete, exists, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError

from gateway.clock import Clock
from gateway.events.subscribers import Subscribers
from gateway.events.tables import event, event_floor, message
from gateway.store import Moment, Store, StoreUnavailable, Tx
from gateway.telemetry import log

EVERY_S = 600.0
PAGE = 500


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many rows were deleted."""

    events: int
    messages: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins: at this time, behind this position among the rows of the same time."""

    at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    position: int = 0


def _old(position: Column[Any], at: Column[Any]) -> Select[Any]:
    """The next rows older than `before`, the oldest first.

    Never a table's newest row: SQLite gives out the position after the last one there is.
    """
    place = bindparam("at", type_=Moment)
    newest = select(func.max(position)).correlate(None).scalar_subquery()
    return (
        select(position.label("position"), at.label("at"))
        .where(
            at >= place,
            or_(at > place, position > bindparam("position_")),
            at < bindparam("before", type_=Moment),
            position < newest,
        )
        .order_by(at, position)
        .limit(PAGE)
    )


OLD_MESSAGES = _old(message.c.position, message.c.created_at).where(
    message.c.expanded_at.is_not(None), message.c.sent_at.is_not(None)
)
OLD_EVENTS = _old(event.c.position, event.c.happened_at).where(
    ~exists().where(message.c.stream_id == event.c.stream_id, message.c.seq <= event.c.seq)
)
"""Those before which no message of their stream is left: what is kept of a stream has no gap."""
DROP_MESSAGES = delete(message).where(
    message.c.position.in_(bindparam("positions", expanding=True))
)
DROP_EVENTS = delete(event).where(event.c.position.in_(bindparam("positions", expanding=True)))


def _raise_floor(dialect: ModuleType) -> Any:
    """Store how far events were removed, unless it was further already."""
    new = dialect.insert(event_floor).values(id=1, removed_before=bindparam("before", type_=Moment))
    further = new.excluded.removed_before
    return new.on_conflict_do_update(
        index_elements=[event_floor.c.id],
        set_={"removed_before": further},
        where=event_floor.c.removed_before < further,
    )


RAISE_FLOOR = {"sqlite": _raise_floor(sqlite), "postgresql": _raise_floor(postgresql)}


async def run(
    store: Store,
    *,
    subscribers: Subscribers,
    keep_days: int,
    clock: Clock,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Delete old events for ever; nothing if keep_days is 0."""
    task_status.started()
    while keep_days:
        before = clock() - timedelta(days=keep_days)
        try:
            done = await prune(store, subscribers=subscribers, before=before)
            if done.events or done.messages:
                log.info("events_deleted", events=done.events, messages=done.messages)
        except (StoreUnavailable, OperationalError):
            log.warning("events_not_deleted", retry_s=EVERY_S)
        await anyio.sleep(EVERY_S)


async def prune(store: Store, *, subscribers: Subscribers, before: datetime) -> Pruned:
    """Delete what happened before a time and nobody waits for, a page a transaction."""

    def remove(tx: Tx, statement: Delete, positions: list[int]) -> int:
        removed = tx.execute(statement, {"positions": positions}).rowcount
        if removed:
            tx.execute(RAISE_FLOOR[tx.dialect], {"before": before})
        return removed

    def drop_messages(positions: list[int], tx: Tx) -> int:
        told = sorted(set(positions) - subscribers.still_waiting(tx, positions))
        subscribers.forget(tx, told)
        return remove(tx, DROP_MESSAGES, told)

    def drop_events(positions: list[int], tx: Tx) -> int:
        return remove(tx, DROP_EVENTS, positions)

    messages = await _drop(store, OLD_MESSAGES, drop=drop_messages, before=before)
    return Pruned(await _drop(store, OLD_EVENTS, drop=drop_events, before=before), messages)


async def _drop(
    store: Store, old: Select[Any], *, drop: Callable[[list[int], Tx], int], before: datetime
) -> int:
    """Delete page by page; returns how many rows. Looked for in reads, so that nobody waits."""
    count, place = 0, Place()
    while True:
        rows = await store.read_list(partial(_look, old=old, place=place, before=before))
        if rows:
            positions = [row.position for row in rows]
            count += await store.write(partial(drop, positions))
        if len(rows) < PAGE:
            return count
        place = Place(rows[-1].at, rows[-1].position)


def _look(tx: Tx, *, old: Select[Any], place: Place, before: datetime) -> list[Any]:
    parameters = {"at": place.at, "position_": place.position, "before": before}
    return list(tx.execute(old, parameters))
