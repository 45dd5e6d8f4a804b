"""Deliveries: what became of a message for each subscriber that is a row here, and the statements.

In a queue it is delivered at once; what is to be pushed waits first. What is given up is deleted
here and becomes a dead letter.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, delete, insert, select

from gateway.cmq.tables import IS_WAITING, delivery, subscription
from gateway.store import Tx

_AT_POSITIONS = delivery.c.position.in_(bindparam("positions", expanding=True))

ADD = insert(delivery)
WAITING_AT = select(delivery.c.position).where(IS_WAITING, _AT_POSITIONS).distinct()
FORGET = delete(delivery).where(~IS_WAITING, _AT_POSITIONS)
RECIPIENTS = select(delivery.c.position, delivery.c.subscription_id).where(_AT_POSITIONS)
FATES = (
    select(
        delivery.c.position,
        delivery.c.subscription_id,
        subscription.c.name.label("subscription_name"),
        subscription.c.protocol,
        delivery.c.state,
        delivery.c.attempts,
        delivery.c.next_at,
        delivery.c.expires_at,
        delivery.c.why,
        delivery.c.changed_at,
    )
    .join(subscription, subscription.c.id == delivery.c.subscription_id)
    .where(_AT_POSITIONS)
    .order_by(delivery.c.position, subscription.c.name)
)


@dataclass(frozen=True, slots=True)
class Fate:
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


def add(tx: Tx, rows: Sequence[dict[str, Any]]) -> None:
    """Write deliveries, as rows of the table."""
    tx.execute(ADD, rows)


def list_fates(tx: Tx, positions: Collection[int]) -> list[Fate]:
    """What became of messages, by their positions."""
    rows = tx.execute(FATES, {"positions": sorted(positions)}).mappings()
    return [Fate(**row) for row in rows]


def list_recipients(tx: Tx, positions: Collection[int]) -> set[tuple[int, str]]:
    """For whom messages have a delivery: positions and the ids of subscriptions."""
    rows = tx.execute(RECIPIENTS, {"positions": sorted(positions)})
    return {(row.position, row.subscription_id) for row in rows}


def list_waiting(tx: Tx, positions: Collection[int]) -> set[int]:
    """Which of these messages still wait to be delivered to somebody."""
    return set(tx.execute(WAITING_AT, {"positions": sorted(positions)}).scalars())


def forget(tx: Tx, positions: Collection[int]) -> None:
    """Delete the deliveries of messages, but for those that still wait."""
    tx.execute(FORGET, {"positions": sorted(positions)})
