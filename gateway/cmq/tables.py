"""The tables of topics, queues, subscriptions, and of what became of their messages."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
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
    Column("rewind_s", Integer, nullable=False, server_default="0"),
    Column("rewind_mb", Integer, nullable=False, server_default="0"),
    Column("dead_letter_queue_id", String(32), index=True),
    Column("dead_letter_policy", Integer),
    Column("max_receive_count", Integer),
    Column("max_time_to_live_s", Integer),
    Column("created_by", String(32), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("modified_at", Moment, nullable=False),
    Index("ix_cmq_queue_list", "owner_uin", "region", "name"),
)
"""`rewind_s`: how long a deleted message can be had back; 0: not at all. `dead_letter_policy`: 0 by
how often a message was received, 1 by how long it has been there; null: no dead letters.
"""

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
    Column("sealed_secret", LargeBinary),
    Column("sealed_old_secret", LargeBinary),
    Column("old_secret_until", Moment),
    Column("failing_since", Moment),
    Column("paused_at", Moment),
    UniqueConstraint("topic_id", "name_key"),
)
"""`filter_tags`, `binding_keys`: JSON lists. `queue_id`: for the protocol `queue` alone.

For HTTP alone: the secrets that its pushes are signed with, since when none has succeeded, and
since when it is only probed.
"""

queue_message = Table(
    "cmq_queue_message",
    metadata,
    Column("position", POSITION, primary_key=True),
    Column("id", String(64), nullable=False),
    Column("queue_id", String(32), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("enqueued_at", Moment, nullable=False),
    Column("visible_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False, index=True),
    Column("first_dequeued_at", Moment),
    Column("dequeue_count", Integer, nullable=False),
    Column("receipt", String(64)),
    Column("deleted_at", Moment),
)
"""`receipt`: the handle that the latest receive gave out. `deleted_at`: kept for a rewind.

Why `queue_id` is no foreign key: whoever deleted a queue would wait until all its messages are
gone, and SQLite, which looks for them by that column alone, would read through everybody's.
"""

for _name, _column, _where in (
    ("receive", queue_message.c.position, queue_message.c.deleted_at.is_(None)),
    ("visible", queue_message.c.visible_at, queue_message.c.deleted_at.is_(None)),
    ("deleted", queue_message.c.enqueued_at, queue_message.c.deleted_at.is_not(None)),
):
    Index(
        f"ix_cmq_queue_message_{_name}",
        queue_message.c.queue_id,
        _column,
        sqlite_where=_where,
        postgresql_where=_where,
    )

WAITING, DELIVERED = "waiting", "delivered"

delivery = Table(
    "cmq_delivery",
    metadata,
    Column(
        "subscription_id",
        String(32),
        ForeignKey("cmq_subscription.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("position", BigInteger, primary_key=True, index=True),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_at", Moment),
    Column("expires_at", Moment),
    Column("why", Text),
    Column("changed_at", Moment, nullable=False),
)
"""What became of a message, by its position, for one subscription that is a row here.

`attempts`: how often it was pushed in vain. `next_at`: not to be pushed before; null: at once.
`expires_at`: the end of its life in the topic. `why`: what was wrong with the last attempt.
A message that is given up is not here any more but in `dead_letter`.
"""

IS_WAITING = delivery.c.state == literal_column(f"'{WAITING}'")
"""Written out: only so does SQLite use an index that holds nothing else."""
Index(
    "ix_cmq_delivery_waiting",
    delivery.c.subscription_id,
    delivery.c.position,
    sqlite_where=IS_WAITING,
    postgresql_where=IS_WAITING,
)

dead_letter = Table(
    "cmq_dead_letter",
    metadata,
    Column("id", POSITION, primary_key=True),
    Column("message_id", String(64), nullable=False, index=True),
    Column("topic_key", String(180), nullable=False),
    Column("subscription_id", String(32), nullable=False, index=True),
    Column("subscription_name", String(64), nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("stream_id", String(32)),
    Column("seq", BigInteger),
    Column("event_name", String(40)),
    Column("routing_key", String(255), nullable=False),
    Column("tags", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("why", Text, nullable=False),
    Column("died_at", Moment, nullable=False),
    Column("replayed_at", Moment),
    Index("ix_cmq_dead_letter_topic", "topic_key", "id"),
)
"""The messages that a subscription was not given in the end: kept for ever, and whole.

No foreign key: they outlive the subscription and the topic.
"""

tag = Table(
    "cmq_tag",
    metadata,
    Column("resource_id", String(32), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Index("ix_cmq_tag_value", "key", "value"),
)
"""The tags of topics and queues."""
