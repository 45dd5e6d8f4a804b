"""Events: bindings on the broker come and go behind what waits before them."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

POSITION = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Take removals for changes that nothing waits before: they were made at once."""
    op.create_table(
        "event_bus_change",
        sa.Column("id", POSITION, primary_key=True),
        sa.Column("topic_key", sa.String(180), nullable=False),
        sa.Column("exchange", sa.String(255), nullable=False),
        sa.Column("queue", sa.String(255)),
        sa.Column("binding_key", sa.String(255)),
        sa.Column("subscription_id", sa.String(32), nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("until", sa.BigInteger),
        sqlite_autoincrement=True,
    )
    op.execute(
        "INSERT INTO event_bus_change (topic_key, exchange, queue, binding_key, "
        "subscription_id, since, until) SELECT topic_key, exchange, queue, binding_key, '', 0, 0 "
        "FROM event_bus_removal ORDER BY id"
    )
    op.drop_table("event_bus_removal")
    op.create_index("ix_event_bus_change_topic_key", "event_bus_change", ["topic_key"])
