"""Subscriptions: who is subscribed to a topic, what they get, and where the broker sends it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select
from sqlalchemy.exc import IntegrityError

from gateway.cmq import limits, queues, topic_statements
from gateway.cmq.endpoints import Protocol, check_content_format
from gateway.cmq.push import backlog, dead_letters
from gateway.cmq.push.dead_letters import Death
from gateway.cmq.push.schedules import Strategy
from gateway.cmq.push.webhooks import ContentFormat
from gateway.cmq.topics import Topic, get_topic, lock_topic
from gateway.errors import (
    InvalidParameterValue,
    LimitExceeded,
    ResourceInUse,
    ResourceNotFound,
)
from gateway.events import rebinding
from gateway.events.bus import Binding, Route, TopicAddress
from gateway.events.routing import matches
from gateway.store import Tx


class NoSuchSubscription(ResourceNotFound):
    """The topic has no subscription of this name."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """One subscription to a topic.

    endpoint: the name of a CMQ queue or of one on the broker, or a URL. filter_tags: a message
    must have one of them. binding_keys: one of them must match its routing key. Empty: everything.
    """

    id: str
    topic_id: str
    name: str
    protocol: Protocol
    endpoint: str
    queue_id: str | None
    notify_strategy: Strategy
    notify_content_format: ContentFormat
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


@dataclass(frozen=True, slots=True)
class SubscriptionChanges:
    """What of a subscription becomes different; None: nothing. An empty tuple: no filter."""

    notify_strategy: Strategy | None = None
    notify_content_format: ContentFormat | None = None
    filter_tags: tuple[str, ...] | None = None
    binding_keys: tuple[str, ...] | None = None


def subscribe(tx: Tx, topic: Topic, subscription: Subscription, *, limited: bool = False) -> None:
    """Add a subscription to a topic that the caller has locked, for what is published from now on.

    limited: to as many as a topic may have under the vendor's quotas. Raises
    ResourceInUse.Subscription, LimitExceeded.Subscriptions.
    """
    if limited and count_of_topic(tx, subscription.topic_id) >= limits.SUBSCRIPTIONS_MAX:
        raise LimitExceeded(
            f"The topic has {limits.SUBSCRIPTIONS_MAX} subscriptions, which is the limit.",
            detail="Subscriptions",
        )
    row = {name: getattr(subscription, name) for name in Subscription.__slots__}
    row |= {
        "name_key": subscription.name.lower(),
        "protocol": subscription.protocol.value,
        **_written(subscription),
    }
    try:
        tx.execute(topic_statements.ADD_SUBSCRIPTION, row)
    except IntegrityError as error:
        raise ResourceInUse(
            f"Subscription `{subscription.name}` already exists.", detail="Subscription"
        ) from error
    _rebind(tx, topic, subscription.id, old=(), new=_bindings(topic, subscription))


def change(
    tx: Tx, topic: Topic, *, name: str, changes: SubscriptionChanges, now: datetime
) -> Subscription:
    """Change a subscription to a topic that the caller has locked; returns it as it is then.

    What waits to be pushed is pushed as it says now, at once even if pushing was paused. On the
    broker, other binding keys hold for what is published from now on.
    Raises NoSuchSubscription, NeedsSimplified, InvalidParameterValue.
    """
    old = _lock(tx, topic, name=name)
    asked = {column: getattr(changes, column) for column in SubscriptionChanges.__slots__}
    new = replace(old, **{column: value for column, value in asked.items() if value is not None})
    check_filters(new.protocol, new.filter_tags)
    check_content_format(new.protocol, new.notify_content_format)
    changed = {
        "id_": new.id,
        "now": now,
        **_written(new),
    }
    tx.execute(topic_statements.CHANGE_SUBSCRIPTION, changed)
    if new.protocol is Protocol.HTTP:
        backlog.resume(tx, new.id, why="its owner has changed it", now=now)
    _rebind(tx, topic, new.id, old=_bindings(topic, old), new=_bindings(topic, new))
    return new


def check_filters(protocol: Protocol, filter_tags: Sequence[str]) -> None:
    """Refuse tags where the broker picks the messages, which knows of none."""
    if protocol is Protocol.AMQP and filter_tags:
        raise InvalidParameterValue("`amqp` filters by BindingKey, not by FilterTag.")


def unsubscribe(
    tx: Tx, address: TopicAddress, *, name: str, now: datetime, was_served: bool = True
) -> int:
    """End a subscription: nothing that is published from now on is delivered to it.

    was_served: if not, the broker never had its queue, and it is not given what waits, either.
    Why the broker's queue stays: what a subscriber has been given is theirs, in a CMQ queue as in
    one on the broker; it is unbound, so that it gets nothing more, and its owner deletes it. What
    still waits to be pushed becomes dead letters, as many as are returned: nothing is ever gone.
    Raises ResourceNotFound.Topic or NoSuchSubscription.
    """
    topic = lock_topic(tx, address.owner_uin, region=address.region, name=address.name)
    subscription = _lock(tx, topic, name=name)
    buried = 0
    if subscription.protocol is Protocol.HTTP:
        buried = dead_letters.bury_all(tx, subscription.id, death=Death.UNSUBSCRIBED, now=now)
    tx.execute(topic_statements.DROP_SUBSCRIPTION, {"id_": subscription.id})
    old = _bindings(topic, subscription)
    _rebind(tx, topic, subscription.id, old=old, new=(), was_served=was_served)
    return buried


def lock_subscription(tx: Tx, address: TopicAddress, *, name: str) -> Subscription:
    """The subscription of this name, kept from being changed and delivered to meanwhile.

    Raises ResourceNotFound.Topic or NoSuchSubscription.
    """
    topic = lock_topic(tx, address.owner_uin, region=address.region, name=address.name)
    return _lock(tx, topic, name=name)


def get_subscription(tx: Tx, address: TopicAddress, *, name: str) -> Subscription:
    """The subscription of this name. Raises ResourceNotFound.Topic or NoSuchSubscription."""
    topic = get_topic(tx, address.owner_uin, region=address.region, name=address.name)
    return _found(tx, topic_statements.SUBSCRIPTION_BY_NAME, topic, name=name)


def count_of_topic(tx: Tx, topic_id: str) -> int:
    """How many subscriptions a topic has."""
    row = tx.execute(topic_statements.COUNT_SUBSCRIPTIONS, {"topic_ids": [topic_id]}).one_or_none()
    return 0 if row is None else int(row.subscriptions)


def count_waiting(tx: Tx, subscriptions: Sequence[Subscription]) -> dict[str, int]:
    """How many messages wait to be pushed, by the subscription's id; with none it is absent."""
    ids = [each.id for each in subscriptions if each.protocol is Protocol.HTTP]
    rows = tx.execute(topic_statements.COUNT_WAITING_OF, {"ids": ids})
    return {row.subscription_id: row.messages for row in rows}


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
    columns["notify_strategy"] = Strategy(columns["notify_strategy"])
    columns["notify_content_format"] = ContentFormat(columns["notify_content_format"])
    columns["filter_tags"] = tuple(json.loads(columns["filter_tags"]))
    columns["binding_keys"] = tuple(json.loads(columns["binding_keys"]))
    return Subscription(**columns)


def _bindings(topic: Topic, subscription: Subscription) -> tuple[Binding, ...]:
    """What a subscription needs on the broker, if it is there."""
    if subscription.protocol is not Protocol.AMQP:
        return ()
    return subscription.bindings(topic.address)


def _rebind(
    tx: Tx,
    topic: Topic,
    subscription_id: str,
    *,
    old: Sequence[Binding],
    new: Sequence[Binding],
    was_served: bool = True,
) -> None:
    """Have the bindings of a subscription, whose row is changed already, follow on the broker."""
    if old == new:
        return
    others = [each for each in list_of_topic(tx, topic) if each.id != subscription_id]
    shared = route_of(topic.address, others).bindings
    gone = [each for each in old if each not in new]
    come = [each for each in new if each not in old and each not in shared]
    rebinding.retire(
        tx, topic.address, subscription_id, bindings=gone, shared=shared, was_served=was_served
    )
    rebinding.begin(tx, topic.address, subscription_id, bindings=come)


def _lock(tx: Tx, topic: Topic, *, name: str) -> Subscription:
    """A subscription, kept from being delivered to meanwhile."""
    return _found(tx, topic_statements.LOCK_SUBSCRIPTION, topic, name=name)


def _found(tx: Tx, statement: Select[Any], topic: Topic, *, name: str) -> Subscription:
    """The subscription that is spelled like this: see `naming.key_of`."""
    parameters = {"topic_id": topic.id, "name_key": name.lower()}
    row = tx.execute(statement, parameters).one_or_none()
    if row is None or row.name != name:
        raise NoSuchSubscription(f"Subscription `{name}` of topic `{topic.name}` does not exist.")
    return read(row)


def _written(subscription: Subscription) -> dict[str, str]:
    """What of a subscription can be changed, as its row has it."""
    return {
        "notify_strategy": subscription.notify_strategy.value,
        "notify_content_format": subscription.notify_content_format.value,
        "filter_tags": json.dumps(subscription.filter_tags),
        "binding_keys": json.dumps(subscription.binding_keys),
    }
