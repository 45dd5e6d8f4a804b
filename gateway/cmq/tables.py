"""Topics, queues, subscriptions, the messages in queues, and the statements on them."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)

from gateway.store import POSITION, Moment, metadata

topic = Table(
    "cmq_topic",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("owner_uin", String(32), nullable=False),
    Column("region", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("key", String(180), nullable=False, unique=True),
    Column("max_message_bytes", Integer, nullable=False),
    Column("filter_type", Integer, nullable=False),
    Column("retention_s", Integer, nullable=False),
    Column("trace", Boolean, nullable=False),
    Column("created_by", String(32), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("modified_at", Moment, nullable=False),
    Index("ix_cmq_topic_list", "owner_uin", "region", "name"),
)
"""`key`: account, region and name in lower case; unique, since case does not matter."""

queue = Table(
    "cmq_queue",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("owner_uin", String(32), nullable=False),
    Column("region", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("key", String(180), nullable=False, unique=True),
    Column("max_messages", BigInteger, nullable=False),
    Column("polling_wait_s", Integer, nullable=False),
    Column("visibility_s", Integer, nullable=False),
    Column("max_message_bytes", Integer, nullable=False),
    Column("retention_s", Integer, nullable=False),
    Column("trace", Boolean, nullable=False),
    Column("created_by", String(32), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("modified_at", Moment, nullable=False),
    Index("ix_cmq_queue_list", "owner_uin", "region", "name"),
)

subscription = Table(
    "cmq_subscription",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("topic_id", String(32), ForeignKey("cmq_topic.id"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("name_key", String(64), nullable=False),
    Column("protocol", String(8), nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("queue_id", String(32), ForeignKey("cmq_queue.id"), index=True),
    Column("notify_strategy", String(32), nullable=False),
    Column("notify_content_format", String(16), nullable=False),
    Column("filter_tags", Text, nullable=False),
    Column("binding_keys", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("modified_at", Moment, nullable=False),
    UniqueConstraint("topic_id", "name_key"),
)
"""`filter_tags`, `binding_keys`: JSON lists. `queue_id`: for the protocol `queue` alone."""

queue_message = Table(
    "cmq_queue_message",
    metadata,
    Column("position", POSITION, primary_key=True),
    Column("id", String(64), nullable=False),
    Column("queue_id", String(32), ForeignKey("cmq_queue.id", ondelete="CASCADE"), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("enqueued_at", Moment, nullable=False),
    Column("visible_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False, index=True),
    Column("first_dequeued_at", Moment),
    Column("dequeue_count", Integer, nullable=False),
    Column("receipt", String(64)),
    Index("ix_cmq_queue_message_receive", "queue_id", "position"),
    Index("ix_cmq_queue_message_visible", "queue_id", "visible_at"),
)
"""`receipt`: the handle that the latest receive gave out."""

delivery = Table(
    "cmq_delivery",
    metadata,
    Column("message_id", String(64), nullable=False),
    Column(
        "subscription_id",
        String(32),
        ForeignKey("cmq_subscription.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("state", String(16), nullable=False),
    Column("changed_at", Moment, nullable=False),
    PrimaryKeyConstraint("message_id", "subscription_id"),
)
"""What became of a message for one subscription that is a row here."""

ADD_TOPIC = insert(topic)
TOPIC_BY_KEY = select(topic).where(topic.c.key == bindparam("key"))
LOCK_TOPIC = TOPIC_BY_KEY.with_for_update()
DROP_TOPIC = delete(topic).where(topic.c.id == bindparam("id_"))

ADD_QUEUE = insert(queue)
QUEUE_BY_KEY = select(queue).where(queue.c.key == bindparam("key"))
LOCK_QUEUE = QUEUE_BY_KEY.with_for_update()
HOLD_QUEUE = QUEUE_BY_KEY.with_for_update(read=True, key_share=True)
DROP_QUEUE = delete(queue).where(queue.c.id == bindparam("id_"))

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
QUEUE_SUBSCRIPTIONS = (
    select(
        subscription,
        topic.c.key.label("topic_key"),
        topic.c.filter_type,
        queue.c.retention_s,
    )
    .join(topic, topic.c.id == subscription.c.topic_id)
    .join(queue, queue.c.id == subscription.c.queue_id)
    .where(topic.c.key.in_(bindparam("keys", expanding=True)))
    .order_by(subscription.c.created_at, subscription.c.id)
    .with_for_update(read=True, key_share=True)
)
"""Locked against deletion, so that nothing is delivered to a queue that is just being deleted."""

ADD_DELIVERIES = insert(delivery)
ADD_QUEUE_MESSAGES = insert(queue_message)

RECEIVABLE = (
    select(queue_message)
    .where(
        queue_message.c.queue_id == bindparam("queue_id"),
        queue_message.c.visible_at <= bindparam("now"),
        queue_message.c.expires_at > bindparam("now"),
    )
    .order_by(queue_message.c.position)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
HAND_OUT = (
    update(queue_message)
    .where(queue_message.c.position == bindparam("position_"))
    .values(
        receipt=bindparam("receipt_"),
        visible_at=bindparam("visible_at_"),
        first_dequeued_at=func.coalesce(
            queue_message.c.first_dequeued_at, bindparam("now", type_=Moment)
        ),
        dequeue_count=queue_message.c.dequeue_count + 1,
    )
)
NEXT_VISIBLE = (
    select(queue_message.c.visible_at)
    .where(
        queue_message.c.queue_id == bindparam("queue_id"),
        queue_message.c.expires_at > bindparam("now"),
    )
    .order_by(queue_message.c.visible_at)
    .limit(1)
)
DELETE_BY_RECEIPT = delete(queue_message).where(
    queue_message.c.position == bindparam("position"),
    queue_message.c.queue_id == bindparam("queue_id"),
    queue_message.c.receipt == bindparam("receipt"),
    queue_message.c.visible_at > bindparam("now"),
    queue_message.c.expires_at > bindparam("now"),
)
DROP_EXPIRED = delete(queue_message).where(queue_message.c.expires_at <= bindparam("now"))
_VISIBLE = queue_message.c.visible_at <= bindparam("now")
COUNT_MESSAGES = (
    select(
        queue_message.c.queue_id,
        func.count().filter(_VISIBLE).label("active"),
        func.count().filter(~_VISIBLE, queue_message.c.receipt.is_not(None)).label("inactive"),
        func.count().filter(~_VISIBLE, queue_message.c.receipt.is_(None)).label("delayed"),
        func.min(queue_message.c.enqueued_at).label("oldest"),
    )
    .where(
        queue_message.c.queue_id.in_(bindparam("queue_ids", expanding=True)),
        queue_message.c.expires_at > bindparam("now"),
    )
    .group_by(queue_message.c.queue_id)
)
