"""The statements on what became of messages: on deliveries, and on dead letters."""

from sqlalchemy import SmallInteger, String, bindparam, delete, func, insert, select, update

from gateway.cmq.push.statements import IS_WAITING
from gateway.cmq.tables import dead_letter, delivery, subscription, topic
from gateway.events.tables import message

_AT_POSITIONS = delivery.c.position.in_(bindparam("positions", expanding=True))

WAITING_AT = select(delivery.c.position).where(IS_WAITING, _AT_POSITIONS).distinct()
FORGET = delete(delivery).where(~IS_WAITING, _AT_POSITIONS)
DELIVERIES = (
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

DEAD_LETTERS = select(
    dead_letter.c.id,
    dead_letter.c.message_id,
    dead_letter.c.topic_key,
    dead_letter.c.subscription_id,
    dead_letter.c.subscription_name,
    dead_letter.c.endpoint,
    dead_letter.c.event_name,
    dead_letter.c.created_at,
    dead_letter.c.attempts,
    dead_letter.c.why,
    dead_letter.c.died_at,
    dead_letter.c.replayed_at,
)
DEAD_LETTER = select(dead_letter).where(dead_letter.c.id == bindparam("id_"))
LAST_DEAD_LETTER = select(func.coalesce(func.max(dead_letter.c.id), 0))
MARK_REPLAYED = (
    update(dead_letter)
    .where(dead_letter.c.id == bindparam("id_"))
    .values(replayed_at=bindparam("now"))
)
SUBSCRIPTION = (
    select(subscription)
    .join(topic, topic.c.id == subscription.c.topic_id)
    .where(
        topic.c.key == bindparam("topic_key_"), subscription.c.name_key == bindparam("name_key_")
    )
)

_any = message.alias()
_NEXT = (
    select(func.coalesce(func.max(_any.c.replay), 0) + 1)
    .where(_any.c.id == dead_letter.c.message_id)
    .correlate(dead_letter)
    .scalar_subquery()
)
_RETOLD = {
    "id": dead_letter.c.message_id,
    "replay": _NEXT,
    "only_subscription_id": bindparam("subscription_id_", type_=String),
    "topic_key": dead_letter.c.topic_key,
    "shard": bindparam("shard_", type_=SmallInteger),
    "stream_id": dead_letter.c.stream_id,
    "seq": dead_letter.c.seq,
    "event_name": dead_letter.c.event_name,
    "routing_key": dead_letter.c.routing_key,
    "tags": dead_letter.c.tags,
    "body": dead_letter.c.body,
    "created_at": dead_letter.c.created_at,
}
TELL_AGAIN = insert(message).from_select(
    list(_RETOLD), select(*_RETOLD.values()).where(dead_letter.c.id == bindparam("id_"))
)
"""From the dead letter itself: retention may have taken the message."""
