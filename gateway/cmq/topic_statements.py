"""The statements on topics and their subscriptions."""

from typing import Any

from sqlalchemy import BindParameter, bindparam, delete, func, insert, select, union, update

from gateway.cmq.tables import IS_WAITING, delivery, queue, subscription, topic
from gateway.events.tables import message

ADD_TOPIC = insert(topic)
TOPIC_BY_KEY = select(topic).where(topic.c.key == bindparam("key"))
LOCK_TOPIC = TOPIC_BY_KEY.with_for_update()
CHANGE_TOPIC = (
    update(topic)
    .where(topic.c.id == bindparam("id_"))
    .values(
        max_message_bytes=bindparam("max_message_bytes"),
        retention_s=bindparam("retention_s"),
        trace=bindparam("trace"),
        modified_at=bindparam("now"),
    )
)
DROP_TOPIC = delete(topic).where(topic.c.id == bindparam("id_"))
COUNT_TOPICS = (
    select(func.count())
    .select_from(topic)
    .where(topic.c.owner_uin == bindparam("owner_uin"), topic.c.region == bindparam("region"))
)

_KEYS: BindParameter[Any] = bindparam("keys", expanding=True)
_untold = union(
    select(message.c.topic_key, message.c.position).where(
        message.c.sent_at.is_(None), message.c.topic_key.in_(_KEYS)
    ),
    select(topic.c.key, delivery.c.position)
    .join(subscription, subscription.c.topic_id == topic.c.id)
    .join(delivery, delivery.c.subscription_id == subscription.c.id)
    .where(IS_WAITING, topic.c.key.in_(_KEYS)),
).subquery()
COUNT_MESSAGES = select(_untold.c.topic_key, func.count().label("messages")).group_by(
    _untold.c.topic_key
)
"""Each message once, whether the broker has yet to get it, an HTTP subscriber, or several."""

ADD_SUBSCRIPTION = insert(subscription)
SUBSCRIPTIONS_OF_TOPIC = (
    select(subscription)
    .where(subscription.c.topic_id == bindparam("topic_id"))
    .order_by(subscription.c.created_at, subscription.c.id)
)
SUBSCRIPTIONS_OF_QUEUE = (
    select(subscription, topic.c.name.label("topic_name"))
    .join(topic, topic.c.id == subscription.c.topic_id)
    .where(subscription.c.queue_id == bindparam("queue_id"))
    .order_by(subscription.c.created_at, subscription.c.id)
)
SUBSCRIPTION_BY_NAME = select(subscription).where(
    subscription.c.topic_id == bindparam("topic_id"),
    subscription.c.name_key == bindparam("name_key"),
)
LOCK_SUBSCRIPTION = SUBSCRIPTION_BY_NAME.with_for_update()
CHANGE_SUBSCRIPTION = (
    update(subscription)
    .where(subscription.c.id == bindparam("id_"))
    .values(
        notify_strategy=bindparam("notify_strategy"),
        notify_content_format=bindparam("notify_content_format"),
        filter_tags=bindparam("filter_tags"),
        binding_keys=bindparam("binding_keys"),
        modified_at=bindparam("now"),
    )
)
COUNT_WAITING_OF = (
    select(delivery.c.subscription_id, func.count().label("messages"))
    .where(IS_WAITING, delivery.c.subscription_id.in_(bindparam("ids", expanding=True)))
    .group_by(delivery.c.subscription_id)
)
COUNT_SUBSCRIPTIONS = (
    select(subscription.c.topic_id, func.count().label("subscriptions"))
    .where(subscription.c.topic_id.in_(bindparam("topic_ids", expanding=True)))
    .group_by(subscription.c.topic_id)
)
DROP_SUBSCRIPTION = delete(subscription).where(subscription.c.id == bindparam("id_"))
BOUND_TOPICS = (
    select(topic.c.key)
    .join(subscription, subscription.c.topic_id == topic.c.id)
    .where(subscription.c.protocol == bindparam("protocol"))
    .distinct()
)
_OF_TOPICS = (
    topic.c.key.in_(bindparam("keys", expanding=True)),
    subscription.c.protocol.in_(bindparam("protocols", expanding=True)),
)
SUBSCRIBED = (
    select(
        subscription,
        topic.c.key.label("topic_key"),
        topic.c.retention_s.label("life_s"),
        queue.c.retention_s.label("queue_retention_s"),
    )
    .join(topic, topic.c.id == subscription.c.topic_id)
    .outerjoin(queue, queue.c.id == subscription.c.queue_id)
    .where(*_OF_TOPICS)
    .order_by(subscription.c.created_at, subscription.c.id)
)
LOCK_SUBSCRIBED = SUBSCRIBED.with_for_update(read=True, key_share=True, of=subscription)
"""Locked against deletion, and with them the queues that they fill: nothing is delivered to a
queue that is just being deleted, for its subscriptions must go before it."""
_of_topics = (
    select(subscription.c.id).join(topic, topic.c.id == subscription.c.topic_id).where(*_OF_TOPICS)
)
_held = _of_topics.with_for_update(
    read=True, key_share=True, of=subscription, skip_locked=True
).cte("held")
HOLD_SUBSCRIBED = select(
    select(func.count()).select_from(_of_topics.subquery()).scalar_subquery()
    == select(func.count()).select_from(_held).scalar_subquery()
)
"""Locks as `LOCK_SUBSCRIBED` does what can be locked at once, and says whether that is all."""
