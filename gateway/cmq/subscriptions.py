"""Subscriptions: who is subscribed to a topic, what they get, and where the broker sends it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import Row
from sqlalchemy.exc import IntegrityError

from gateway.cmq import queues, topic_statements
from gateway.cmq.topics import Topic, lock_topic
from gateway.errors import ResourceInUse, ResourceNotFound
from gateway.events import outbox
from gateway.events.bus import Binding, Route, TopicAddress
from gateway.events.routing import matches
from gateway.store import Tx


class Protocol(Enum):
    """How a subscriber is reached. `amqp` is our own: a queue on the RabbitMQ broker."""

    QUEUE = "queue"
    HTTP = "http"
    AMQP = "amqp"


@dataclass(frozen=True, slots=True)
class Subscription:
    """One subscription to a topic.

    endpoint: the name of a CMQ queue, or of a queue on the broker. filter_tags: a message must
    have one of them. binding_keys: one of them must match its routing key. Empty: everything.
    """

    id: str
    topic_id: str
    name: str
    protocol: Protocol
    endpoint: str
    queue_id: str | None
    notify_strategy: str
    notify_content_format: str
    filter_tags: tuple[str, ...]
    binding_keys: tuple[str, ...]
    created_at: datetime
    modified_at: datetime

    def placed(self, *, topic_id: str, queue_id: str | None) -> "Subscription":
        """The same subscription, to this topic and into this queue."""
        return replace(self, topic_id=topic_id, queue_id=queue_id)

    def wants(self, *, routing_key: str, tags: Sequence[str]) -> bool:
        """Whether a message is for this subscriber; one without tags is not for a tag filter."""
        if self.filter_tags and not set(self.filter_tags) & set(tags):
            return False
        return not self.binding_keys or any(matches(key, routing_key) for key in self.binding_keys)

    def bindings(self, topic: TopicAddress) -> tuple[Binding, ...]:
        """What a subscription of protocol `amqp` needs on the broker."""
        queue = topic.queue(self.endpoint)
        return tuple(Binding(queue, key) for key in self.binding_keys or ("#",))


def subscribe(tx: Tx, subscription: Subscription) -> None:
    """Add a subscription to a topic that the caller has locked. Raises ResourceInUse."""
    row = {name: getattr(subscription, name) for name in Subscription.__slots__}
    row |= {
        "name_key": subscription.name.lower(),
        "protocol": subscription.protocol.value,
        "filter_tags": json.dumps(subscription.filter_tags),
        "binding_keys": json.dumps(subscription.binding_keys),
    }
    try:
        tx.execute(topic_statements.ADD_SUBSCRIPTION, row)
    except IntegrityError as error:
        raise ResourceInUse(
            f"Subscription `{subscription.name}` already exists.", detail="Subscription"
        ) from error


def unsubscribe(tx: Tx, owner_uin: str, *, region: str, topic_name: str, name: str) -> None:
    """End a subscription: nothing that is published from now on is delivered to it.

    Why the broker's queue stays: what a subscriber has been given is theirs, in a CMQ queue as in
    one on the broker; it is unbound, so that it gets nothing more, and its owner deletes it.
    Raises ResourceNotFound, with detail Topic if it is the topic that does not exist.
    """
    topic = lock_topic(tx, owner_uin, region=region, name=topic_name)
    parameters = {"topic_id": topic.id, "name_key": name.lower()}
    row = tx.execute(topic_statements.SUBSCRIPTION_BY_NAME, parameters).one_or_none()
    if row is None or row.name != name:
        raise ResourceNotFound(f"Subscription `{name}` of topic `{topic_name}` does not exist.")
    subscription = read(row)
    tx.execute(topic_statements.DROP_SUBSCRIPTION, {"id_": subscription.id})
    if subscription.protocol is Protocol.AMQP:
        outbox.retire(tx, topic.address, bindings=subscription.bindings(topic.address))


def list_of_topic(tx: Tx, topic: Topic) -> list[Subscription]:
    """The subscriptions of a topic, the oldest first."""
    rows = tx.execute(topic_statements.SUBSCRIPTIONS_OF_TOPIC, {"topic_id": topic.id})
    return [read(row) for row in rows]


def list_of_queue(tx: Tx, queue: queues.Queue) -> list[tuple[Subscription, str]]:
    """The subscriptions that feed a queue, each with its topic's name, the oldest first."""
    rows = tx.execute(topic_statements.SUBSCRIPTIONS_OF_QUEUE, {"queue_id": queue.id})
    return [(read(row), row.topic_name) for row in rows]


def route_of(address: TopicAddress, subscriptions: Sequence[Subscription]) -> Route:
    """What the broker must have for a topic with these subscriptions."""
    bindings = [
        binding
        for subscription in subscriptions
        if subscription.protocol is Protocol.AMQP
        for binding in subscription.bindings(address)
    ]
    queues_of = {
        subscription.id: address.queue(subscription.endpoint)
        for subscription in subscriptions
        if subscription.protocol is Protocol.AMQP
    }
    return Route(address.exchange, tuple(dict.fromkeys(bindings)), queues_of)


def read(row: Row[Any]) -> Subscription:
    """The subscription of a row."""
    columns = {name: getattr(row, name) for name in Subscription.__slots__}
    columns["protocol"] = Protocol(columns["protocol"])
    columns["filter_tags"] = tuple(json.loads(columns["filter_tags"]))
    columns["binding_keys"] = tuple(json.loads(columns["binding_keys"]))
    return Subscription(**columns)
