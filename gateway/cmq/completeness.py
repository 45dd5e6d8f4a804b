"""The audit's `Deliveries`: whether every subscriber has what was meant for them, or waits."""

from collections.abc import Sequence
from datetime import timedelta

from gateway.cmq import deliveries
from gateway.cmq.push import dead_letters
from gateway.cmq.subscribers import list_recipients, wants
from gateway.cmq.subscriptions import Subscription
from gateway.events.inspection import StoredMessage
from gateway.store import Tx

SLACK = timedelta(seconds=60)
"""A subscription counts for the messages expanded so long after it was made or changed, or later.

Why: it has the time of the call, and is committed a little later; a message may be expanded in
between. No transaction takes as long as this.
"""
PAGE = 500


def list_undelivered(tx: Tx, messages: Sequence[StoredMessage]) -> list[tuple[StoredMessage, str]]:
    """See `Deliveries.list_undelivered`.

    What a subscriber was given up on is a dead letter, and is not missing.
    """
    expanded = [each for each in messages if each.expanded_at is not None]
    missing: list[tuple[StoredMessage, str]] = []
    for first in range(0, len(expanded), PAGE):
        missing += _undelivered(tx, expanded[first : first + PAGE])
    return missing


def _undelivered(tx: Tx, messages: Sequence[StoredMessage]) -> list[tuple[StoredMessage, str]]:
    recipients = list_recipients(tx, {each.topic_key for each in messages})
    due = [
        (each, recipient.subscription.id)
        for each in messages
        for recipient in recipients.get(each.topic_key, ())
        if _was_there(recipient.subscription, each) and wants(recipient.subscription, each)
    ]
    if not due:
        return []
    written = deliveries.list_recipients(tx, {each.position for each, _ in due})
    missing = [(each, to) for each, to in due if (each.position, to) not in written]
    if not missing:
        return []
    buried = dead_letters.list_buried(
        tx, {each.id for each, _ in missing}, subscription_ids={to for _, to in missing}
    )
    return [(each, to) for each, to in missing if (each.id, to) not in buried]


def _was_there(subscription: Subscription, message: StoredMessage) -> bool:
    """Whether a subscription was there, as it is now, when a message was expanded."""
    expanded_at = message.expanded_at
    return expanded_at is not None and subscription.modified_at + SLACK < expanded_at
