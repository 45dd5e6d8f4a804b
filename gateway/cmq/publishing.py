"""Publishing: messages that users send to a topic, checked against who would get them."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from gateway.cmq import subscriptions
from gateway.cmq.topics import Topic
from gateway.errors import FailedOperation
from gateway.events import outbox
from gateway.store import Tx


class NoSubscription(FailedOperation):
    """Nobody is subscribed to the topic, so that nobody would get a message."""


class NobodyWants(FailedOperation):
    """No subscription's tags or binding keys pick the message."""


def publish(
    tx: Tx,
    topic: Topic,
    bodies: Mapping[str, bytes],
    *,
    routing_key: str,
    tags: Sequence[str],
    now: datetime,
) -> None:
    """Publish messages, by their ids and in their order, to a topic's subscribers.

    Raises NoSubscription or NobodyWants if nobody would get them.
    """
    subscribed = subscriptions.list_of_topic(tx, topic)
    if not subscribed:
        raise NoSubscription(
            "topic has no subscription, please create a subscription before publishing message"
        )
    if not any(each.wants(routing_key=routing_key, tags=tags) for each in subscribed):
        raise NobodyWants("no bindingKey or filterTag matches the routingKey or msgTag")
    for message_id, body in bodies.items():
        outbox.publish(
            tx,
            topic.address,
            body,
            message_id=message_id,
            routing_key=routing_key,
            tags=tags,
            now=now,
        )
