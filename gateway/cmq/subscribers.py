"""The relay's `Subscribers`: who gets a message, and what the broker must have for a topic."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from typing import Protocol as Shape

from sqlalchemy import Row

from gateway.cmq import deliveries, queue_messages, topic_statements
from gateway.cmq.endpoints import Protocol
from gateway.cmq.subscriptions import Subscription, read, route_of
from gateway.cmq.tables import DELIVERED, WAITING
from gateway.events.bus import Message, Route, TopicAddress
from gateway.store import Tx

PUSH_SIGNAL = "push"
"""Woken when a message waits to be pushed over HTTP."""

ROWS_AT_ONCE = 1_000
BYTES_AT_ONCE = 4 * 1024 * 1024
"""So much is delivered in one transaction, or one message: SQLite has one writer, and the calls
wait for it."""
RECIPIENTS_KEPT = 1_024
_ROWS_HERE = [Protocol.QUEUE.value, Protocol.HTTP.value]


class Addressed(Shape):
    """What of a message says for whom it is."""

    @property
    def only_subscription_id(self) -> str | None:
        """Whom alone it is for; None: everybody who wants it."""
        ...

    @property
    def routing_key(self) -> str:
        """What binding keys are held against."""
        ...

    @property
    def tags(self) -> Sequence[str]:
        """What filter tags are held against."""
        ...


@dataclass(frozen=True, slots=True)
class Recipient:
    """A subscription with what its topic and its queue say of how long a message lives.

    life: in the topic, until it is given up. retention: in the queue that is filled, if one is.
    """

    subscription: Subscription
    life: timedelta
    retention: timedelta


def wants(subscription: Subscription, message: Addressed) -> bool:
    """Whether a message is for a subscription."""
    if message.only_subscription_id not in (None, subscription.id):
        return False
    return subscription.wants(routing_key=message.routing_key, tags=message.tags)


def hold(tx: Tx, topic_keys: Collection[str]) -> bool:
    """See `Subscribers.hold`; on SQLite nobody else is changing anything."""
    if tx.dialect == "sqlite":
        return True
    parameters = {"keys": sorted(topic_keys), "protocols": _ROWS_HERE}
    is_held: bool = tx.execute(topic_statements.HOLD_SUBSCRIBED, parameters).scalar_one()
    return is_held


def deliver(tx: Tx, messages: Sequence[Message], *, now: datetime) -> int:
    """See `Subscribers.deliver`: into the queues at once; what is to be pushed waits for it."""
    recipients = list_recipients(tx, {message.topic_key for message in messages}, locked=True)
    due: list[tuple[Message, Recipient]] = []
    count = copied = 0
    for message in messages:
        of_topic = recipients.get(message.topic_key, ())
        wanting = [each for each in of_topic if wants(each.subscription, message)]
        queues = sum(each.subscription.queue_id is not None for each in wanting)
        copied += queues * len(message.body)
        if count and (len(due) + len(wanting) > ROWS_AT_ONCE or copied > BYTES_AT_ONCE):
            break
        due += [(message, each) for each in wanting]
        count += 1
    if due:
        queue_messages.put(tx, list(_puts(due, now=now)))
        deliveries.add(tx, [_delivery(*each, now=now) for each in due])
    if any(recipient.subscription.protocol is Protocol.HTTP for _, recipient in due):
        tx.wake(PUSH_SIGNAL)
    return count


def find_route(tx: Tx, topic_key: str) -> Route | None:
    """See `Subscribers.find_route`."""
    owner_uin, region, _ = topic_key.split("/", 2)
    row = tx.execute(topic_statements.TOPIC_BY_KEY, {"key": topic_key}).one_or_none()
    if row is None:
        return None
    found = tx.execute(topic_statements.SUBSCRIPTIONS_OF_TOPIC, {"topic_id": row.id})
    return route_of(TopicAddress(owner_uin, region, row.name), [read(each) for each in found])


def list_bound_topics(tx: Tx) -> Sequence[str]:
    """See `Subscribers.list_bound_topics`."""
    parameters = {"protocol": Protocol.AMQP.value}
    return tx.execute(topic_statements.BOUND_TOPICS, parameters).scalars().all()


def still_waiting(tx: Tx, positions: Collection[int]) -> set[int]:
    """See `Subscribers.still_waiting`."""
    return deliveries.list_waiting(tx, positions)


def forget(tx: Tx, positions: Collection[int]) -> None:
    """See `Subscribers.forget`; what still waits stays."""
    deliveries.forget(tx, positions)


def list_recipients(
    tx: Tx, topic_keys: Collection[str], *, locked: bool = False
) -> dict[str, list[Recipient]]:
    """The subscribers that are rows here, by the key of their topic, the oldest first.

    locked: until the end of the transaction none of them can be deleted.
    """
    statement = topic_statements.LOCK_SUBSCRIBED if locked else topic_statements.SUBSCRIBED
    parameters = {"keys": sorted(topic_keys), "protocols": _ROWS_HERE}
    found: dict[str, list[Recipient]] = defaultdict(list)
    for row in tx.execute(statement, parameters):
        found[row.topic_key].append(_read_recipient(row))
    return found


def find_subscription(tx: Tx, topic_key: str, *, name: str) -> Subscription | None:
    """The subscription of this name, in any case of letters, to a topic; None if there is none."""
    topic = tx.execute(topic_statements.TOPIC_BY_KEY, {"key": topic_key}).one_or_none()
    if topic is None:
        return None
    parameters = {"topic_id": topic.id, "name_key": name.lower()}
    row = tx.execute(topic_statements.SUBSCRIPTION_BY_NAME, parameters).one_or_none()
    return None if row is None else read(row)


@lru_cache(maxsize=RECIPIENTS_KEPT)
def _read_recipient(row: Row[Any]) -> Recipient:
    """What a row says, which is nearly always what it said the last time."""
    life, retention = (timedelta(seconds=s or 0) for s in (row.life_s, row.queue_retention_s))
    return Recipient(read(row), life, retention)


def _puts(due: Sequence[tuple[Message, Recipient]], *, now: datetime) -> Iterator[dict[str, Any]]:
    for message, recipient in due:
        queue_id = recipient.subscription.queue_id
        if queue_id is not None:
            yield queue_messages.message_row(
                message.id,
                message.body,
                queue_id=queue_id,
                now=now,
                expires_at=now + recipient.retention,
            )


def _delivery(message: Message, recipient: Recipient, *, now: datetime) -> dict[str, Any]:
    pushed = recipient.subscription.protocol is Protocol.HTTP
    return {
        "subscription_id": recipient.subscription.id,
        "position": message.position,
        "state": WAITING if pushed else DELIVERED,
        "expires_at": now + recipient.life if pushed else None,
        "changed_at": now,
    }
