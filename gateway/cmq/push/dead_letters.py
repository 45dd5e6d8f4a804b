"""Giving a message up: it leaves the deliveries and becomes a dead letter, whole and for ever.

Both happen in one transaction, so that a message is always in one of the two places.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import Enum

from gateway.cmq.push import statements
from gateway.store import Tx


class Death(Enum):
    """Why a message is given up; the value is said before what was wrong with the last attempt."""

    NO_RETRY_LEFT = "no retry is left"
    EXPIRED = "its life in the topic ended"
    UNSUBSCRIBED = "the subscription was deleted"


def bury(tx: Tx, subscription_id: str, *, positions: Sequence[int], why: str, now: datetime) -> int:
    """Give up messages that wait for a subscription; returns how many they were.

    The caller holds the lock on the subscription's row.
    """
    which = {"subscription_id_": subscription_id, "positions": list(positions)}
    tx.execute(statements.BURY, {**which, "why": why, "now": now})
    return tx.execute(statements.DROP_BURIED, which).rowcount


def bury_expired(tx: Tx, subscription_id: str, *, limit: int, now: datetime) -> int:
    """Give up the oldest messages whose life in the topic has ended; returns how many they were."""
    which = {"subscription_id_": subscription_id}
    tx.execute(statements.LOCK_SUBSCRIBER, which)
    found = tx.execute(statements.EXPIRED, {**which, "now": now, "limit": limit}).scalars().all()
    if not found:
        return 0
    return bury(tx, subscription_id, positions=found, why=Death.EXPIRED.value, now=now)


def bury_all(tx: Tx, subscription_id: str, *, why: str, now: datetime) -> int:
    """Give up all that waits for a subscription, which is about to be deleted.

    Its row is locked first, against the relay, which holds it while it adds deliveries: what came
    after would go with the row, and be lost.
    """
    which = {"subscription_id_": subscription_id}
    tx.execute(statements.LOCK_AGAINST_DELIVERIES, which)
    tx.execute(statements.BURY_ALL, {**which, "why": why, "now": now})
    return tx.execute(statements.DROP_ALL_BURIED, which).rowcount
