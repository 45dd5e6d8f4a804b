"""Dead letters: messages that were given up, whole and for ever, and the statements on them.

A message leaves the deliveries and becomes a dead letter in one transaction, so that it is always
in one of the two places. Whoever buries counts it in the metrics after the commit.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Insert,
    Select,
    Text,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
)

from gateway.cmq.push.statements import LOCK_AGAINST_DELIVERIES, LOCK_SUBSCRIBER
from gateway.cmq.tables import IS_WAITING, dead_letter, delivery, subscription
from gateway.events.tables import message
from gateway.store import Moment, Tx
from gateway.telemetry import DEAD_LETTERS

PAGE = 100  # each may have a body of 1 MiB

_LAST_ATTEMPT = func.coalesce(
    literal_column("'; the last attempt: '", Text).concat(delivery.c.why), ""
)
_DEAD: dict[str, ColumnElement[Any]] = {
    "message_id": message.c.id,
    "topic_key": message.c.topic_key,
    "subscription_id": delivery.c.subscription_id,
    "subscription_name": subscription.c.name,
    "endpoint": subscription.c.endpoint,
    "stream_id": message.c.stream_id,
    "seq": message.c.seq,
    "event_name": message.c.event_name,
    "routing_key": message.c.routing_key,
    "tags": message.c.tags,
    "body": message.c.body,
    "created_at": message.c.created_at,
    "attempts": delivery.c.attempts,
    "why": bindparam("why", type_=Text).concat(_LAST_ATTEMPT),
    "died_at": bindparam("now", type_=Moment),
}
_OF_SUBSCRIPTION = delivery.c.subscription_id == bindparam("subscription_id_")
_AT_POSITIONS = delivery.c.position.in_(bindparam("positions", expanding=True))


def _bury(*which: ColumnElement[bool]) -> Insert:
    """Make dead letters of the waiting deliveries that are meant; they are deleted besides."""
    dead = (
        select(*_DEAD.values())
        .select_from(delivery)
        .join(message, message.c.position == delivery.c.position)
        .join(subscription, subscription.c.id == delivery.c.subscription_id)
        .where(IS_WAITING, _OF_SUBSCRIPTION, *which)
        .order_by(delivery.c.position)
    )
    return insert(dead_letter).from_select(list(_DEAD), dead)


BURY = _bury(_AT_POSITIONS)
BURY_ALL = _bury()
DROP_BURIED = delete(delivery).where(IS_WAITING, _OF_SUBSCRIPTION, _AT_POSITIONS)
DROP_ALL_BURIED = delete(delivery).where(IS_WAITING, _OF_SUBSCRIPTION)
EXPIRED = (
    select(delivery.c.position)
    .where(IS_WAITING, _OF_SUBSCRIPTION, delivery.c.expires_at <= bindparam("now"))
    .order_by(delivery.c.position)
    .limit(bindparam("limit"))
)
BY_ID = select(dead_letter).where(dead_letter.c.id == bindparam("id_"))
LAST_ID = select(func.coalesce(func.max(dead_letter.c.id), 0))
BURIED = select(dead_letter.c.message_id, dead_letter.c.subscription_id).where(
    dead_letter.c.subscription_id.in_(bindparam("subscription_ids", expanding=True)),
    dead_letter.c.message_id.in_(bindparam("message_ids", expanding=True)),
)


class Death(Enum):
    """Why a message is given up; the value is said before what was wrong with the last attempt."""

    NO_RETRY_LEFT = "no retry is left"
    EXPIRED = "its life in the topic ended"
    UNSUBSCRIBED = "the subscription was deleted"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that a subscription was not given in the end; see `tables.dead_letter`."""

    id: int
    message_id: str
    topic_key: str
    subscription_id: str
    subscription_name: str
    endpoint: str
    event_name: str | None
    created_at: datetime
    attempts: int
    why: str
    died_at: datetime
    replayed_at: datetime | None


_SHOWN = [dead_letter.c[name] for name in DeadLetter.__slots__]


@dataclass(frozen=True, slots=True)
class Graveyard:
    """Which dead letters are meant; what is empty is not asked for.

    message_ids: of their messages. subscription_name: in any case of letters.
    """

    topic_key: str = ""
    subscription_name: str = ""
    message_ids: frozenset[str] = frozenset()
    not_yet_replayed: bool = False


# Giving up -----------------------------------------------------------------------------------


def bury(
    tx: Tx, subscription_id: str, *, positions: Sequence[int], death: Death, now: datetime
) -> int:
    """Give up messages that wait for a subscription; returns how many they were.

    The caller holds the lock on the subscription's row.
    """
    which = {"subscription_id_": subscription_id, "positions": list(positions)}
    tx.execute(BURY, {**which, "why": death.value, "now": now})
    return tx.execute(DROP_BURIED, which).rowcount


def bury_expired(tx: Tx, subscription_id: str, *, limit: int, now: datetime) -> int:
    """Give up the oldest messages whose life in the topic has ended; returns how many they were."""
    which = {"subscription_id_": subscription_id}
    tx.execute(LOCK_SUBSCRIBER, which)
    found = tx.execute(EXPIRED, {**which, "now": now, "limit": limit}).scalars().all()
    if not found:
        return 0
    return bury(tx, subscription_id, positions=found, death=Death.EXPIRED, now=now)


def bury_all(tx: Tx, subscription_id: str, *, death: Death, now: datetime) -> int:
    """Give up all that waits for a subscription, which is about to be deleted; returns how much.

    Its row is locked first, against the relay, which holds it while it adds deliveries: what came
    after would go with the row, and be lost.
    """
    which = {"subscription_id_": subscription_id}
    tx.execute(LOCK_AGAINST_DELIVERIES, which)
    tx.execute(BURY_ALL, {**which, "why": death.value, "now": now})
    return tx.execute(DROP_ALL_BURIED, which).rowcount


def count_buried(death: Death, messages: int) -> None:
    """Say in the metrics that messages were given up, once that is committed."""
    if messages:
        DEAD_LETTERS.labels(death.name.lower()).inc(messages)


# Looking at them -----------------------------------------------------------------------------


def list_last(tx: Tx, wanted: Graveyard, *, limit: int) -> list[DeadLetter]:
    """The last dead letters that are meant, the newest first."""
    statement = _narrowed(select(*_SHOWN), wanted)
    rows = tx.execute(statement.order_by(dead_letter.c.id.desc()).limit(limit)).mappings()
    return [DeadLetter(**row) for row in rows]


def find(tx: Tx, letter_id: int) -> tuple[DeadLetter, bytes] | None:
    """A dead letter and the bytes of its message; None if there is none of this id."""
    row = tx.execute(BY_ID, {"id_": letter_id}).mappings().one_or_none()
    if row is None:
        return None
    return DeadLetter(**{name: row[name] for name in DeadLetter.__slots__}), row["body"]


def find_last_id(tx: Tx) -> int:
    """The id of the newest dead letter; 0 if there is none."""
    last: int = tx.execute(LAST_ID).scalar_one()
    return last


def list_ids(tx: Tx, wanted: Graveyard, *, after: int, upto: int) -> list[int]:
    """A page of the ids of dead letters that are meant, the oldest first, between two ids."""
    statement = _narrowed(select(dead_letter.c.id), wanted).where(
        dead_letter.c.id > after, dead_letter.c.id <= upto
    )
    return list(tx.execute(statement.order_by(dead_letter.c.id).limit(PAGE)).scalars())


def list_buried(
    tx: Tx, message_ids: Collection[str], *, subscription_ids: Collection[str]
) -> set[tuple[str, str]]:
    """Which of these messages were given up for which of these subscriptions: pairs of ids."""
    keys = {"message_ids": sorted(message_ids), "subscription_ids": sorted(subscription_ids)}
    return {(row.message_id, row.subscription_id) for row in tx.execute(BURIED, keys)}


def _narrowed(statement: Select[Any], wanted: Graveyard) -> Select[Any]:
    """A list of dead letters with what is meant in its WHERE."""
    if wanted.topic_key:
        statement = statement.where(dead_letter.c.topic_key == wanted.topic_key)
    if wanted.subscription_name:
        name = dead_letter.c.subscription_name
        statement = statement.where(func.lower(name) == wanted.subscription_name.lower())
    if wanted.message_ids:
        statement = statement.where(dead_letter.c.message_id.in_(sorted(wanted.message_ids)))
    if wanted.not_yet_replayed:
        statement = statement.where(dead_letter.c.replayed_at.is_(None))
    return statement
