"""CMQ: topics, queues, subscriptions, messages in queues, deliveries."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

POSITION = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables of the CMQ service."""
    op.create_table(
        "cmq_topic",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("owner_uin", sa.String(32), nullable=False),
        sa.Column("region", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("key", sa.String(180), nullable=False),
        sa.Column("max_message_bytes", sa.Integer, nullable=False),
        sa.Column("filter_type", sa.Integer, nullable=False),
        sa.Column("retention_s", sa.Integer, nullable=False),
        sa.Column("trace", sa.Boolean, nullable=False),
        sa.Column("created_by", sa.String(32), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("modified_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cmq_topic"),
        sa.UniqueConstraint("key", name="uq_cmq_topic_key"),
    )
    op.create_index("ix_cmq_topic_list", "cmq_topic", ["owner_uin", "region", "name"])
    op.create_table(
        "cmq_queue",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("owner_uin", sa.String(32), nullable=False),
        sa.Column("region", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("key", sa.String(180), nullable=False),
        sa.Column("max_messages", sa.BigInteger, nullable=False),
        sa.Column("polling_wait_s", sa.Integer, nullable=False),
        sa.Column("visibility_s", sa.Integer, nullable=False),
        sa.Column("max_message_bytes", sa.Integer, nullable=False),
        sa.Column("retention_s", sa.Integer, nullable=False),
        sa.Column("trace", sa.Boolean, nullable=False),
        sa.Column("created_by", sa.String(32), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("modified_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cmq_queue"),
        sa.UniqueConstraint("key", name="uq_cmq_queue_key"),
    )
    op.create_index("ix_cmq_queue_list", "cmq_queue", ["owner_uin", "region", "name"])
    op.create_table(
        "cmq_subscription",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("topic_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("name_key", sa.String(64), nullable=False),
        sa.Column("protocol", sa.String(8), nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("queue_id", sa.String(32)),
        sa.Column("notify_strategy", sa.String(32), nullable=False),
        sa.Column("notify_content_format", sa.String(16), nullable=False),
        sa.Column("filter_tags", sa.Text, nullable=False),
        sa.Column("binding_keys", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("modified_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cmq_subscription"),
        sa.UniqueConstraint("topic_id", "name_key", name="uq_cmq_subscription_topic_id_name_key"),
        sa.ForeignKeyConstraint(
            ["queue_id"], ["cmq_queue.id"], name="fk_cmq_subscription_queue_id"
        ),
        sa.ForeignKeyConstraint(
            ["topic_id"], ["cmq_topic.id"], name="fk_cmq_subscription_topic_id"
        ),
    )
    op.create_index("ix_cmq_subscription_queue_id", "cmq_subscription", ["queue_id"])
    op.create_table(
        "cmq_queue_message",
        sa.Column("position", POSITION, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("queue_id", sa.String(32), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("enqueued_at", sa.BigInteger, nullable=False),
        sa.Column("visible_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("first_dequeued_at", sa.BigInteger),
        sa.Column("dequeue_count", sa.Integer, nullable=False),
        sa.Column("receipt", sa.String(64)),
        sa.PrimaryKeyConstraint("position", name="pk_cmq_queue_message"),
        sa.ForeignKeyConstraint(
            ["queue_id"], ["cmq_queue.id"], name="fk_cmq_queue_message_queue_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_cmq_queue_message_expires_at", "cmq_queue_message", ["expires_at"])
    op.create_index("ix_cmq_queue_message_receive", "cmq_queue_message", ["queue_id", "position"])
    op.create_index("ix_cmq_queue_message_visible", "cmq_queue_message", ["queue_id", "visible_at"])
    op.create_table(
        "cmq_delivery",
        sa.Column("message_id", sa.String(64), nullable=False),
        sa.Column("subscription_id", sa.String(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("message_id", "subscription_id", name="pk_cmq_delivery"),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["cmq_subscription.id"],
            name="fk_cmq_delivery_subscription_id",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_cmq_delivery_subscription_id", "cmq_delivery", ["subscription_id"])
