"""Events: the ledger, the outbox, what is to leave the broker."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

POSITION = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables of the events room."""
    op.create_table(
        "event_stream",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("owner_uin", sa.String(32), nullable=False),
        sa.Column("region", sa.String(64), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_event_stream"),
    )
    op.create_table(
        "event",
        sa.Column("stream_id", sa.String(32), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("subject_id", sa.String(32), nullable=False),
        sa.Column("batch", sa.LargeBinary, nullable=False),
        sa.Column("happened_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("stream_id", "seq", name="pk_event"),
    )
    op.create_table(
        "event_message",
        sa.Column("position", POSITION, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("topic_key", sa.String(180), nullable=False),
        sa.Column("shard", sa.SmallInteger, nullable=False),
        sa.Column("stream_id", sa.String(32)),
        sa.Column("seq", sa.BigInteger),
        sa.Column("event_name", sa.String(40)),
        sa.Column("routing_key", sa.String(255), nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("traceparent", sa.String(64)),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expanded_at", sa.BigInteger),
        sa.Column("sent_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("position", name="pk_event_message"),
        sa.UniqueConstraint("id", name="uq_event_message_id"),
    )
    op.create_index(
        "ix_event_message_unexpanded",
        "event_message",
        ["position"],
        sqlite_where=sa.text("expanded_at IS NULL"),
        postgresql_where=sa.text("expanded_at IS NULL"),
    )
    op.create_index(
        "ix_event_message_unsent",
        "event_message",
        ["topic_key", "position"],
        sqlite_where=sa.text("sent_at IS NULL"),
        postgresql_where=sa.text("sent_at IS NULL"),
    )
    op.create_table(
        "event_bus_removal",
        sa.Column("id", POSITION, nullable=False),
        sa.Column("topic_key", sa.String(180), nullable=False),
        sa.Column("exchange", sa.String(255), nullable=False),
        sa.Column("queue", sa.String(255)),
        sa.Column("binding_key", sa.String(255)),
        sa.PrimaryKeyConstraint("id", name="pk_event_bus_removal"),
    )
    op.create_index("ix_event_bus_removal_topic_key", "event_bus_removal", ["topic_key"])
