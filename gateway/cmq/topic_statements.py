"""The statements on topics and their subscriptions."""

from sqlalchemy import bindparam, delete, func, insert, select

from gateway.cmq.tables import queue, subscription, topic

ADD_TOPIC = insert(topic)
TOPIC_BY_KEY = select(topic).where(topic.c.key == bindparam("key"))
LOCK_TOPIC = TOPIC_BY_KEY.with_for_update()
DROP_TOPIC = delete(topic).where(topic.c.id == bindparam("id_"))

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
SUBSCRIBED = (
    select(
        subscription,
        topic.c.key.label("topic_key"),
        topic.c.retention_s.label("life_s"),
        queue.c.retention_s.label("queue_retention_s"),
    )
    .join(topic, topic.c.id == subscription.c.topic_id)
    .outerjoin(queue, queue.c.id == subscription.c.queue_id)
    .where(
        topic.c.key.in_(bindparam("keys", expanding=True)),
        subscription.c.protocol.in_(bindparam("protocols", expanding=True)),
    )
    .order_by(subscription.c.created_at, subscription.c.id)
    .with_for_update(read=True, key_share=True, of=subscription)
)
"""Locked against deletion, and with them the queues that they fill: nothing is delivered to a
queue that is just being deleted, for its subscriptions must go before it."""
