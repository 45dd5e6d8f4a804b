"""The relay's `Subscribers`: who gets a message, and what the broker must have for a topic."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from gateway.cmq import outcome_statements, queue_messages, topic_statements
from gateway.cmq.endpoints import Protocol
from gateway.cmq.push import statements as delivery_statements
from gateway.cmq.subscriptions import Subscription, read, route_of
from gateway.cmq.tables import DELIVERED, WAITING
from gateway.events.bus import Message, Route, TopicAddress
from gateway.store import Tx

PUSH_SIGNAL = "push"
"""Woken when a message waits to be pushed over HTTP."""

_ROWS_HERE = [Protocol.QUEUE.value, Protocol.HTTP.value]


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A subscription with what its topic and its queue say of how long a message lives.

    life: in the topic, until it is given up. retention: in the queue that is filled, if one is.
    """

    subscription: Subscription
    life: timedelta
    retention: timedelta

    def wants(self, message: Message) -> bool:
        """Whether a message is for this subscriber."""
        only = message.only_subscription_id
        if only is not None and only != self.subscription.id:
            return False
        return self.subscription.wants(routing_key=message.routing_key, tags=message.tags)


def deliver(tx: Tx, messages: Sequence[Message], *, now: datetime) -> None:
    """See `Subscribers.deliver`: into the queues at once; what is to be pushed waits for it."""
    subscribed = _subscribed(tx, messages)
    due = [
        (message, subscriber)
        for message in messages
        for subscriber in subscribed.get(message.topic_key, ())
        if subscriber.wants(message)
    ]
    if not due:
        return
    queue_messages.put(tx, list(_puts(due, now=now)))
    tx.execute(delivery_statements.ADD_DELIVERIES, [_delivery(*each, now=now) for each in due])
    if any(subscriber.subscription.protocol is Protocol.HTTP for _, subscriber in due):
        tx.wake(PUSH_SIGNAL)


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
    parameters = {"positions": sorted(positions)}
    return set(tx.execute(outcome_statements.WAITING_AT, parameters).scalars())


def forget(tx: Tx, positions: Collection[int]) -> None:
    """See `Subscribers.forget`; what still waits stays."""
    tx.execute(outcome_statements.FORGET, {"positions": sorted(positions)})


def _subscribed(tx: Tx, messages: Sequence[Message]) -> dict[str, list[Subscriber]]:
    """The subscribers that are rows here, by the key of their topic, the oldest first."""
    parameters = {
        "keys": sorted({message.topic_key for message in messages}),
        "protocols": _ROWS_HERE,
    }
    found: dict[str, list[Subscriber]] = defaultdict(list)
    for row in tx.execute(topic_statements.SUBSCRIBED, parameters):
        life, retention = (timedelta(seconds=s or 0) for s in (row.life_s, row.queue_retention_s))
        found[row.topic_key].append(Subscriber(read(row), life, retention))
    return found


def _puts(due: Sequence[tuple[Message, Subscriber]], *, now: datetime) -> Iterator[dict[str, Any]]:
    for message, subscriber in due:
        queue_id = subscriber.subscription.queue_id
        if queue_id is not None:
            yield queue_messages.message_row(
                message.id,
                message.body,
                queue_id=queue_id,
                now=now,
                visible_at=now,
                expires_at=now + subscriber.retention,
            )


def _delivery(message: Message, subscriber: Subscriber, *, now: datetime) -> dict[str, Any]:
    pushed = subscriber.subscription.protocol is Protocol.HTTP
    return {
        "subscription_id": subscriber.subscription.id,
        "position": message.position,
        "state": WAITING if pushed else DELIVERED,
        "expires_at": now + subscriber.life if pushed else None,
        "changed_at": now,
    }
