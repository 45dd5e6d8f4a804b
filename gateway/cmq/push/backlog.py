"""What waits to be pushed: for whom, in which order, and what became of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row

from gateway.clock import optional_wire_time
from gateway.cmq.push import statements
from gateway.cmq.push.dead_letters import Death, bury
from gateway.cmq.push.schedules import (
    WELL,
    Fraction,
    Standing,
    Strategy,
    Verdict,
    is_due,
    judge_failure,
)
from gateway.cmq.push.secrets import Secrets
from gateway.cmq.push.webhooks import Addressee, ContentFormat, Letter
from gateway.events import outbox
from gateway.events.messages import Event
from gateway.events.names import EventName
from gateway.store import Tx

PAGE = 64  # messages
PAGE_BYTES = 256 * 1024  # of bodies
SHORT_BYTES = PAGE_BYTES // PAGE  # so long may all of a page's bodies be at once


@dataclass(frozen=True, slots=True)
class Waiting:
    """A subscription that something waits for, up to the position `newest`.

    due_at: when it is; None: now. failing: it was.
    """

    subscription_id: str
    newest: int
    due_at: datetime | None
    failing: bool


@dataclass(frozen=True, slots=True)
class Load:
    """How many messages wait to be pushed, since when the oldest does, how many are paused."""

    waiting: int
    since: datetime | None
    paused: int


@dataclass(frozen=True, slots=True)
class Subscriber:
    """An HTTP subscription as its pushes need it. keys: none before its first push."""

    id: str
    endpoint: str
    strategy: Strategy
    addressee: Addressee
    region: str
    standing: Standing
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message on its way to a subscriber. attempts: how often it was pushed in vain."""

    position: int
    attempts: int
    expires_at: datetime | None
    letter: Letter


@dataclass(frozen=True, slots=True)
class Page:
    """The oldest messages that wait for a subscriber; none if the life of the oldest has ended.

    is_last: nothing waited besides.
    """

    subscriber: Subscriber
    deliveries: tuple[Delivery, ...]
    is_last: bool


@dataclass(frozen=True, slots=True)
class Pausing:
    """What a failure is judged by, besides the subscription. after: without a success, paused."""

    after: timedelta
    fraction: Fraction


def list_waiting(tx: Tx, *, now: datetime) -> list[Waiting]:
    """The subscriptions that something waits for."""
    return [
        Waiting(
            row.subscription_id,
            row.newest,
            None if is_due(row.next_at, now=now) else row.next_at,
            row.failing_since is not None,
        )
        for row in tx.execute(statements.WAITING_SUBSCRIPTIONS)
    ]


def measure(tx: Tx) -> Load:
    """How much there is to push now."""
    row = tx.execute(statements.COUNT_WAITING).one()
    since = None
    if row.oldest is not None:
        asked = {"position_": row.oldest}
        since = tx.execute(statements.WAITS_SINCE, asked).scalar_one_or_none()
    return Load(row.messages, since, tx.execute(statements.COUNT_PAUSED).scalar_one())


def list_longest_waiting(tx: Tx, *, limit: int) -> list[str]:
    """The subscriptions that wait the longest: account, region, topic and name in one word each."""
    rows = tx.execute(statements.LONGEST_WAITING, {"limit": limit})
    return [f"{row.owner_uin}/{row.region}/{row.topic_name}/{row.name}" for row in rows]


def read_page(
    tx: Tx, subscription_id: str, *, limit: int, secrets: Secrets, now: datetime
) -> Page | None:
    """What is to be pushed next, at most `limit` messages; None if nothing is.

    Raises SecretUnreadable.
    """
    which = {"subscription_id_": subscription_id}
    asked = {**which, "limit": limit, "short_bytes": SHORT_BYTES}
    waiting = tx.execute(statements.WAITING_MESSAGES, asked).all()
    row = tx.execute(statements.SUBSCRIBER, which).one_or_none() if waiting else None
    if row is None:
        return None
    chosen = _choose(waiting, now=now)
    bodies = {each.position: each.short_body for each in chosen}
    if long := [position for position, body in bodies.items() if body is None]:
        found = tx.execute(statements.BODIES, {"positions": long})
        bodies |= {each.position: each.body for each in found}
    return Page(
        subscriber=_subscriber(row, secrets=secrets, now=now),
        deliveries=tuple(_delivery(each, body=bodies[each.position]) for each in chosen),
        is_last=len(waiting) < limit and len(chosen) == len(waiting),
    )


def mark_delivered(
    tx: Tx, subscriber: Subscriber, positions: Sequence[int], *, now: datetime
) -> None:
    """Note that messages were delivered, and that the subscriber is well, if it was not."""
    which = {"subscription_id_": subscriber.id}
    tx.execute(statements.MARK_DELIVERED, {**which, "positions": list(positions), "now": now})
    if subscriber.standing != WELL:
        _stand(tx, subscriber.id, WELL, why="it answers again", now=now)


def mark_many(tx: Tx, rows: Sequence[tuple[str, int]], *, now: datetime) -> None:
    """Note that messages were delivered to subscribers that were well before, too.

    rows: subscriptions and positions; in one order for all, so that no two lock one another out.
    """
    marked = [
        {"subscription_id_": subscription_id, "position_": position, "now": now}
        for subscription_id, position in sorted(rows)
    ]
    tx.execute(statements.MARK_ONE_DELIVERED, marked)


def mark_failed(
    tx: Tx,
    subscriber: Subscriber,
    failed: Delivery,
    *,
    why: str,
    pausing: Pausing,
    now: datetime,
) -> Verdict | None:
    """Note a failure, and what follows from it; None if the message does not wait any more."""
    which = {"subscription_id_": subscriber.id}
    row = tx.execute(statements.LOCK_SUBSCRIBER, which).one_or_none()
    if row is None:
        return None
    verdict = judge_failure(
        Strategy(row.notify_strategy),
        failed.attempts + 1,
        standing=Standing(row.failing_since, row.paused_at),
        pause_after=pausing.after,
        expires_at=failed.expires_at,
        fraction=pausing.fraction,
        now=now,
    )
    changes = {"position_": failed.position, "next_at_": verdict.next_at, "why_": why, "now": now}
    if tx.execute(statements.MARK_FAILED, {**which, **changes}).rowcount != 1:
        return None
    _stand(tx, subscriber.id, verdict.standing, why=why, now=now)
    if verdict.next_at is None:
        bury(tx, subscriber.id, positions=[failed.position], death=Death.NO_RETRY_LEFT, now=now)
    return verdict


def resume(tx: Tx, subscription_id: str, *, why: str, now: datetime) -> None:
    """Take a subscriber for well before it has shown that it is.

    Its oldest message is due now, and has all its tries again: it may be another strategy's.
    """
    _stand(tx, subscription_id, WELL, why=why, now=now)
    which = {"subscription_id_": subscription_id}
    oldest = tx.execute(statements.OLDEST_OF, which).scalar_one()
    if oldest is not None:
        tx.execute(statements.MAKE_DUE, {**which, "position_": oldest})


def _stand(tx: Tx, subscription_id: str, new: Standing, *, why: str, now: datetime) -> None:
    """Store how a subscriber does; an event tells when it is paused, and when it is not any more.

    The row is locked first, which also orders the events of the subscription.
    """
    which = {"subscription_id_": subscription_id}
    row = tx.execute(statements.LOCK_SUBSCRIBER, which).one_or_none()
    if row is None:
        return
    old = Standing(row.failing_since, row.paused_at)
    if old == new:
        return
    health = {"failing_since_": new.failing_since, "paused_at_": new.paused_at}
    tx.execute(statements.SET_HEALTH, {**which, **health})
    if (old.paused_at is None) is (new.paused_at is None):
        return
    paused = new.paused_at is not None
    name = EventName.SUBSCRIPTION_PAUSED if paused else EventName.SUBSCRIPTION_RESUMED
    batch = {
        "SubscriptionId": row.id,
        "SubscriptionName": row.name,
        "TopicName": row.topic_name,
        "Endpoint": row.endpoint,
        "FailingSince": optional_wire_time(new.failing_since or old.failing_since),
        "Why": why,
        "Waiting": tx.execute(statements.COUNT_WAITING_FOR, which).scalar_one(),
    }
    stream = outbox.Stream(row.id, row.owner_uin, row.region)
    outbox.append(tx, stream, [Event(name, row.id, batch)], notifications=[], now=now)


def _choose(waiting: Sequence[Row[Any]], *, now: datetime) -> list[Row[Any]]:
    """The messages of a page: until one has reached its end of life, or there are bytes enough."""
    chosen: list[Row[Any]] = []
    size = 0
    for row in waiting:
        size += row.body_bytes
        if (chosen and size > PAGE_BYTES) or (row.expires_at and row.expires_at <= now):
            break
        chosen.append(row)
    return chosen


def _subscriber(row: Row[Any], *, secrets: Secrets, now: datetime) -> Subscriber:
    return Subscriber(
        id=row.id,
        endpoint=row.endpoint,
        strategy=Strategy(row.notify_strategy),
        addressee=Addressee(
            owner_uin=row.owner_uin,
            topic_name=row.topic_name,
            subscription_name=row.name,
            content_format=ContentFormat(row.notify_content_format),
        ),
        region=row.region,
        standing=Standing(row.failing_since, row.paused_at),
        keys=secrets.keys_of(row, now=now),
    )


def _delivery(row: Row[Any], *, body: bytes) -> Delivery:
    letter = Letter(row.id, body, tuple(json.loads(row.tags)), row.created_at, row.replay)
    return Delivery(row.position, row.attempts, row.expires_at, letter)
