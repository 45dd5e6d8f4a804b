"""What became of messages, for whoever looks after the service: deliveries and dead letters."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select

from gateway.cmq import outcome_statements as statements
from gateway.cmq.subscriptions import Subscription, read
from gateway.cmq.tables import dead_letter
from gateway.events import outbox
from gateway.events.replay import lock_replays
from gateway.store import Tx

PAGE = 100  # dead letters replayed in one transaction; each may have a body of 1 MiB


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a message, by its position, for one subscription; see `tables.delivery`."""

    position: int
    subscription_id: str
    subscription_name: str
    protocol: str
    state: str
    attempts: int
    next_at: datetime | None
    expires_at: datetime | None
    why: str | None
    changed_at: datetime


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


@dataclass(frozen=True, slots=True)
class Graveyard:
    """Which dead letters are meant; what is empty is not asked for.

    message_ids: of their messages. subscription_name: in any case of letters.
    """

    topic_key: str = ""
    subscription_name: str = ""
    message_ids: frozenset[str] = frozenset()
    not_yet_replayed: bool = False


def list_deliveries(tx: Tx, positions: Collection[int]) -> list[Delivery]:
    """The deliveries of messages, by their positions."""
    rows = tx.execute(statements.DELIVERIES, {"positions": sorted(positions)}).mappings()
    return [Delivery(**row) for row in rows]


def list_dead_letters(tx: Tx, wanted: Graveyard, *, limit: int) -> list[DeadLetter]:
    """The last dead letters that are meant, the newest first."""
    statement = _narrowed(statements.DEAD_LETTERS, wanted)
    rows = tx.execute(statement.order_by(dead_letter.c.id.desc()).limit(limit)).mappings()
    return [DeadLetter(**row) for row in rows]


def find_dead_letter(tx: Tx, letter_id: int) -> tuple[DeadLetter, bytes] | None:
    """A dead letter and the bytes of its message; None if there is none of this id."""
    row = tx.execute(statements.DEAD_LETTER, {"id_": letter_id}).mappings().one_or_none()
    if row is None:
        return None
    return DeadLetter(**{name: row[name] for name in DeadLetter.__slots__}), row["body"]


def find_subscription(tx: Tx, topic_key: str, *, name: str) -> Subscription | None:
    """The subscription of this name to a topic; None if there is none."""
    parameters = {"topic_key_": topic_key, "name_key_": name.lower()}
    row = tx.execute(statements.SUBSCRIPTION, parameters).one_or_none()
    return None if row is None else read(row)


def find_last_id(tx: Tx) -> int:
    """The id of the newest dead letter; 0 if there is none."""
    last: int = tx.execute(statements.LAST_DEAD_LETTER).scalar_one()
    return last


def list_ids(tx: Tx, *, wanted: Graveyard, after: int, upto: int) -> list[int]:
    """A page of the ids of dead letters that are meant, the oldest first, between two ids."""
    statement = _narrowed(select(dead_letter.c.id), wanted).where(
        dead_letter.c.id > after, dead_letter.c.id <= upto
    )
    return list(tx.execute(statement.order_by(dead_letter.c.id).limit(PAGE)).scalars())


def replay(tx: Tx, letter_ids: Sequence[int], *, now: datetime) -> dict[int, str]:
    """Tell dead letters again, each to its subscription alone; they are kept, and marked.

    A new subscription of the same name gets what the old one was due. Returns why for those that
    could not be told.
    """
    lock_replays(tx)
    failures: dict[int, str] = {}
    for letter_id in letter_ids:
        row = tx.execute(statements.DEAD_LETTER, {"id_": letter_id}).one_or_none()
        if row is None:
            failures[letter_id] = "there is no such dead letter"
            continue
        heir = find_subscription(tx, row.topic_key, name=row.subscription_name)
        if heir is None:
            failures[letter_id] = f"its topic has no subscription `{row.subscription_name}` now"
        elif not heir.wants(routing_key=row.routing_key, tags=json.loads(row.tags)):
            failures[letter_id] = f"the filter of `{row.subscription_name}` does not let it through"
        else:
            shard = outbox.shard_of(row.stream_id or row.topic_key)
            which = {"id_": letter_id, "subscription_id_": heir.id, "shard_": shard}
            tx.execute(statements.TELL_AGAIN, which)
            tx.execute(statements.MARK_REPLAYED, {"id_": letter_id, "now": now})
            tx.wake(outbox.SIGNAL)
    return failures


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
