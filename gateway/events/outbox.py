"""The outbox: events and their messages, written in the transaction of what happened."""

import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from gateway.events import tables
from gateway.events.bus import Message, TopicAddress
from gateway.events.messages import Event, Notification, encode, encode_batch, routing_key
from gateway.store import Tx
from gateway.telemetry import EVENTS_RECORDED

SIGNAL = "outbox"
"""Woken when there is a message to tell."""
LEDGER_SIGNAL = "ledger"
"""Woken when something happened, whether anybody asked to be told or not."""
SHARDS = 64
MARKED_AT_ONCE = 1_024
"""So many positions one statement has at most: a database takes only so many values."""
NO_TAGS = "[]"
Draft = Mapping[str, Any]
"""A message as a row of the table that has no position yet."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Whose events are counted together; `id` is that of a job, environment or subscription."""

    id: str
    owner_uin: str
    region: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """The oldest of the messages that something is to be done with.

    last: there are no others of them up to this position. more: there may be, behind it.
    """

    messages: tuple[Message, ...]
    last: int
    more: bool


def append(
    tx: Tx,
    stream: Stream,
    events: Sequence[Event],
    *,
    notifications: Sequence[Notification],
    now: datetime,
    traceparent: str | None = None,
) -> None:
    """Record events in their order, and one message for each notification that asked for one.

    The caller holds the lock on the row whose id the stream has, so that the order of the numbers
    is the order of the commits. A message's id follows from its event: sent twice, it is the same.
    """
    add(
        tx,
        record(tx, stream, events, notifications=notifications, now=now, traceparent=traceparent),
    )


def record(
    tx: Tx,
    stream: Stream,
    events: Sequence[Event],
    *,
    notifications: Sequence[Notification],
    now: datetime,
    traceparent: str | None = None,
) -> Sequence[Draft]:
    """Record events as `append` does; returns their messages, for the caller to add."""
    if not events:
        return ()
    first = _take_numbers(tx, stream, count=len(events))
    rows = [
        {
            "stream_id": stream.id,
            "seq": seq,
            "name": event.name.value,
            "subject_id": event.subject_id,
            "batch": encode_batch(event),
            "happened_at": now,
        }
        for seq, event in enumerate(events, first)
    ]
    tx.execute(tables.ADD_EVENTS, rows)
    EVENTS_RECORDED.inc(len(events))
    tx.wake(LEDGER_SIGNAL)
    recorded = list(zip(events, rows, strict=True))
    return _drafts(stream, recorded, notifications=notifications, now=now, traceparent=traceparent)


def add(tx: Tx, drafts: Sequence[Draft]) -> None:
    """Add messages in their order, for the relay to deliver and to publish."""
    if drafts:
        tx.execute(tables.ADD_MESSAGES, drafts)
        wake(tx, {draft["topic_key"] for draft in drafts})


def add_expanded(
    tx: Tx, drafts: Sequence[Draft], *, now: datetime, final: bool
) -> tuple[Message, ...]:
    """Add messages in their order, whose deliveries the caller writes in this transaction.

    Nobody is woken. final: they need no publishing, too.
    """
    expanded = {"expanded_at": now, "sent_at": now if final else None}
    found = tx.execute(tables.ADD_EXPANDED, [{**draft, **expanded} for draft in drafts])
    positions = sorted(row.position for row in found)
    return tuple(
        _added(draft, position=position) for draft, position in zip(drafts, positions, strict=True)
    )


def publish(
    tx: Tx,
    topic: TopicAddress,
    body: bytes,
    *,
    message_id: str,
    routing_key: str = "",
    tags: Sequence[str] = (),
    now: datetime,
) -> None:
    """Add a message that a user published; it reaches subscribers as events do."""
    row = {
        "id": message_id,
        "topic_key": topic.key,
        "shard": shard_of(topic.key),
        "routing_key": routing_key,
        "tags": json.dumps(list(tags)),
        "body": body,
        "created_at": now,
    }
    tx.execute(tables.ADD_MESSAGES, row)
    wake(tx, {topic.key})


def give_up(tx: Tx, topic: TopicAddress, *, but_upto: int, now: datetime) -> None:
    """Have what waits in a topic that is deleted go to nobody, by whatever way.

    but_upto: what somebody who has unsubscribed is still to be given is published, up to this
    position. Why nobody else gets it: another may make a topic of that name, and must not be told
    what was said in this one.
    """
    tx.execute(tables.GIVE_UP, {"key": topic.key, "claimed": but_upto, "now": now})


def signal_of(topic_key: str) -> str:
    """Woken, besides `SIGNAL`, when there is something to do for this topic."""
    return f"{SIGNAL}/{topic_key}"


def wake(tx: Tx, topic_keys: Collection[str]) -> None:
    """Have whoever publishes know that there is something to do for these topics."""
    tx.wake(SIGNAL)
    for topic_key in topic_keys:
        tx.wake(signal_of(topic_key))


def shard_of(stream_id: str) -> int:
    """Which of the shards a stream belongs to; the same in every process and for ever."""
    return zlib.crc32(stream_id.encode()) % SHARDS


def has_unexpanded(tx: Tx) -> bool:
    """Whether there are messages whose deliveries are not written."""
    return tx.execute(tables.ANY_UNEXPANDED).first() is not None


def lock_unexpanded(tx: Tx, *, limit: int, bytes_max: int) -> Waiting:
    """The oldest messages whose deliveries are not written; a second relay waits for the lock.

    limit: messages. bytes_max: of their bodies together, unless the first is longer alone.
    """
    parameters = {"limit": limit, "short_bytes": bytes_max // limit}
    rows = tx.execute(tables.UNEXPANDED, parameters).all()
    chosen = _choose(rows, bytes_max=bytes_max, at_least_one=True)
    more = len(chosen) < len(rows) or len(rows) == limit
    return Waiting(_read(tx, chosen), chosen[-1].position if chosen else 0, more)


def list_unexpanded(tx: Tx, topic_key: str, *, after: int, limit: int, bytes_max: int) -> Waiting:
    """The oldest messages of a topic behind a position whose deliveries are not written.

    limit, bytes_max: see `lock_unexpanded`.
    """
    which = {"topic_key": topic_key, "after": after, "limit": limit}
    rows = tx.execute(tables.UNEXPANDED_OF, {**which, "short_bytes": bytes_max // limit}).all()
    chosen = _choose(rows, bytes_max=bytes_max, at_least_one=True)
    more = len(chosen) < len(rows) or len(rows) == limit
    return Waiting(_read(tx, chosen), chosen[-1].position if chosen else after, more)


def mark_expanded(tx: Tx, positions: Sequence[int], *, now: datetime, final: bool) -> None:
    """Note that the deliveries of messages are written. final: they need no publishing, too."""
    statement = tables.MARK_TOLD if final else tables.MARK_EXPANDED
    tx.execute(statement, {"positions": positions, "now": now})


def mark_unexpanded(tx: Tx, positions: Sequence[int]) -> None:
    """Leave messages to the relay after all, which were added in this transaction."""
    tx.execute(tables.MARK_UNEXPANDED, {"positions": positions})


def list_unsent(
    tx: Tx,
    topic_key: str,
    *,
    after: int,
    limit: int,
    bytes_max: int,
    but: Collection[int] = (),
    at_least_one: bool = True,
) -> Waiting:
    """The oldest unsent messages of a topic.

    after: a position to go on from while messages before it are on their way; 0 to begin. A pass
    always begins at 0: a smaller position may be committed after a larger one was read. bytes_max:
    of their bodies together. but: positions to leave out. at_least_one: even if it is longer alone.
    """
    which = {"topic_key": topic_key, "after": after, "limit": limit}
    rows = tx.execute(tables.UNSENT[tx.dialect], {**which, "short_bytes": bytes_max // limit}).all()
    meant = [row for row in rows if row.position not in but]
    chosen = _choose(meant, bytes_max=bytes_max, at_least_one=at_least_one)
    if len(chosen) < len(meant):
        return Waiting(_read(tx, chosen), meant[len(chosen)].position - 1, more=True)
    last = rows[-1].position if rows else after
    return Waiting(_read(tx, chosen), last, more=len(rows) == limit)


def list_positions_unsent(tx: Tx, topic_key: str, *, upto: int) -> set[int]:
    """The positions, up to one, of the unsent messages of a topic."""
    which = {"topic_key": topic_key, "upto": upto}
    return set(tx.execute(tables.UNSENT_UNTIL, which).scalars())


def mark_sent(tx: Tx, positions: Sequence[int], *, now: datetime) -> None:
    """Note that messages need not be published any more, however many."""
    for first in range(0, len(positions), MARKED_AT_ONCE):
        portion = positions[first : first + MARKED_AT_ONCE]
        tx.execute(tables.MARK_SENT, {"positions": portion, "now": now})


def list_waiting_topics(tx: Tx) -> set[str]:
    """The keys of the topics that have something to publish, or to change on the broker."""
    waiting = set(tx.execute(tables.WAITING_TOPICS).scalars())
    return waiting | set(tx.execute(tables.CHANGING_TOPICS).scalars())


def count_unsent(tx: Tx) -> int:
    """How many messages wait for their confirm."""
    count: int = tx.execute(tables.COUNT_UNSENT).scalar_one()
    return count


def oldest_unsent(tx: Tx) -> datetime | None:
    """Since when the oldest message waits for its confirm; None: none does."""
    moment: datetime | None = tx.execute(tables.OLDEST_UNSENT).scalar_one_or_none()
    return moment


def list_longest_unsent(tx: Tx, *, limit: int) -> list[str]:
    """The keys of the topics whose messages have waited the longest to be sent."""
    return list(tx.execute(tables.LONGEST_UNSENT, {"limit": limit}).scalars())


def _take_numbers(tx: Tx, stream: Stream, *, count: int) -> int:
    """Take `count` numbers of the stream without a gap; returns the first. They begin at 1."""
    last: int | None = tx.execute(
        tables.ADVANCE_STREAM, {"id_": stream.id, "count": count}
    ).scalar_one_or_none()
    if last is None:
        row = {"id": stream.id, "owner_uin": stream.owner_uin, "region": stream.region}
        tx.execute(tables.ADD_STREAM, {**row, "seq": count})
        return 1
    return last - count + 1


def _drafts(
    stream: Stream,
    recorded: Sequence[tuple[Event, Mapping[str, Any]]],
    *,
    notifications: Sequence[Notification],
    now: datetime,
    traceparent: str | None,
) -> list[Draft]:
    """The messages of events, each given with its row in the ledger, in their order."""
    shard = shard_of(stream.id)
    asked = [
        (index, TopicAddress(stream.owner_uin, stream.region, each.topic).key, each.events)
        for index, each in enumerate(notifications)
    ]
    return [
        {
            "id": f"{stream.id}-{row['seq']}-{index}",
            "topic_key": topic_key,
            "shard": shard,
            "stream_id": stream.id,
            "seq": row["seq"],
            "event_name": row["name"],
            "routing_key": routing_key(event),
            "tags": NO_TAGS,
            "body": encode(
                event,
                time=now,
                region=stream.region,
                event_vars=wanted[event.name],
                batch=row["batch"],
            ),
            "traceparent": traceparent,
            "created_at": now,
        }
        for event, row in recorded
        for index, topic_key, wanted in asked
        if event.name in wanted
    ]


def _choose(rows: Sequence[Row[Any]], *, bytes_max: int, at_least_one: bool) -> Sequence[Row[Any]]:
    """The first rows, until there are bytes enough."""
    size = 0
    for index, row in enumerate(rows):
        size += row.body_bytes
        if size > bytes_max and (index or not at_least_one):
            return rows[:index]
    return rows


def _read(tx: Tx, rows: Sequence[Row[Any]]) -> tuple[Message, ...]:
    """Messages with their bodies, of which the long ones are asked for only now."""
    bodies = {row.position: row.short_body for row in rows}
    if long := [position for position, body in bodies.items() if body is None]:
        bodies.update(tuple(row) for row in tx.execute(tables.BODIES, {"positions": long}))
    return tuple(_message(row, body=bodies[row.position]) for row in rows)


def _added(draft: Draft, *, position: int) -> Message:
    """The message of a draft that was given a position."""
    return Message(
        position=position,
        id=draft["id"],
        topic_key=draft["topic_key"],
        shard=draft["shard"],
        routing_key=draft["routing_key"],
        body=draft["body"],
        created_at=draft["created_at"],
        event_name=draft["event_name"],
        seq=draft["seq"],
        traceparent=draft["traceparent"],
    )


def _message(row: Row[Any], *, body: bytes) -> Message:
    return Message(
        position=row.position,
        id=row.id,
        topic_key=row.topic_key,
        shard=row.shard,
        routing_key=row.routing_key,
        body=body,
        created_at=row.created_at,
        event_name=row.event_name,
        seq=row.seq,
        tags=() if row.tags == NO_TAGS else tuple(json.loads(row.tags)),
        traceparent=row.traceparent,
        replay=row.replay,
        only_subscription_id=row.only_subscription_id,
    )
