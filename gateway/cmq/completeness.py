"""The audit's `Deliveries`: whether every subscriber has what was meant for them, or waits."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import bindparam, func, literal_column, select

from gateway.cmq.endpoints import Protocol
from gateway.cmq.subscriptions import Subscription, read
from gateway.cmq.tables import WAITING, dead_letter, delivery, subscription, topic
from gateway.events.inspection import Told
from gateway.events.tables import message
from gateway.store import Tx

SLACK = timedelta(seconds=60)
"""A subscription counts for the messages expanded so long after it was made or changed, or later.

Why: it has the time of the call, and is committed a little later; a message may be expanded in
between. No transaction takes as long as this.
"""
PAGE = 500
_ROWS_HERE = [Protocol.QUEUE.value, Protocol.HTTP.value]

SUBSCRIBED = (
    select(subscription, topic.c.key.label("topic_key"))
    .join(topic, topic.c.id == subscription.c.topic_id)
    .where(
        topic.c.key.in_(bindparam("keys", expanding=True)),
        subscription.c.protocol.in_(_ROWS_HERE),
    )
)
DELIVERED = select(delivery.c.position, delivery.c.subscription_id).where(
    delivery.c.position.in_(bindparam("positions", expanding=True))
)
BURIED = select(dead_letter.c.message_id, dead_letter.c.subscription_id).where(
    dead_letter.c.subscription_id.in_(bindparam("subscription_ids", expanding=True)),
    dead_letter.c.message_id.in_(bindparam("message_ids", expanding=True)),
)

_waiting = delivery.alias()
OLDEST_WAITING = select(func.coalesce(message.c.expanded_at, message.c.created_at)).where(
    message.c.position
    == select(func.min(_waiting.c.position))
    .where(_waiting.c.state == literal_column(f"'{WAITING}'"))
    .scalar_subquery()
)


def list_undelivered(tx: Tx, messages: Sequence[Told]) -> list[tuple[Told, str]]:
    """See `Deliveries.list_undelivered`.

    What a subscriber was given up on is a dead letter, and is not missing.
    """
    expanded = [each for each in messages if each.expanded_at is not None]
    missing: list[tuple[Told, str]] = []
    for first in range(0, len(expanded), PAGE):
        missing += _undelivered(tx, expanded[first : first + PAGE])
    return missing


def oldest_waiting(tx: Tx) -> datetime | None:
    """Since when the oldest message waits to be pushed; None: none does."""
    moment: datetime | None = tx.execute(OLDEST_WAITING).scalar_one_or_none()
    return moment


def _undelivered(tx: Tx, messages: Sequence[Told]) -> list[tuple[Told, str]]:
    subscribed = _subscribed(tx, {each.topic_key for each in messages})
    due = [
        (each, subscriber.id)
        for each in messages
        for subscriber in subscribed.get(each.topic_key, ())
        if _is_due(each, subscriber)
    ]
    if not due:
        return []
    positions = sorted({each.position for each, _ in due})
    written = {tuple(row) for row in tx.execute(DELIVERED, {"positions": positions})}
    missing = [(each, to) for each, to in due if (each.position, to) not in written]
    if not missing:
        return []
    keys = {
        "subscription_ids": sorted({to for _, to in missing}),
        "message_ids": sorted({each.id for each, _ in missing}),
    }
    buried = {tuple(row) for row in tx.execute(BURIED, keys)}
    return [(each, to) for each, to in missing if (each.id, to) not in buried]


def _subscribed(tx: Tx, topic_keys: Iterable[str]) -> dict[str, list[Subscription]]:
    found: dict[str, list[Subscription]] = defaultdict(list)
    for row in tx.execute(SUBSCRIBED, {"keys": sorted(topic_keys)}):
        found[row.topic_key].append(read(row))
    return found


def _is_due(message: Told, subscriber: Subscription) -> bool:
    """Whether a subscription was there for a message, as it is now, and wanted it."""
    if message.expanded_at is None or subscriber.modified_at + SLACK >= message.expanded_at:
        return False
    if message.only_subscription_id not in (None, subscriber.id):
        return False
    return subscriber.wants(routing_key=message.routing_key, tags=message.tags)
