"""Batch: task templates."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the table of the task templates."""
    op.create_table(
        "batch_task_template",
        sa.Column("id", sa.String(24), nullable=False),
        sa.Column("owner_uin", sa.String(32), nullable=False),
        sa.Column("region", sa.String(64), nullable=False),
        sa.Column("created_by", sa.String(32), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("spec", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_batch_task_template"),
    )
    op.create_index(
        "ix_batch_task_template_list", "batch_task_template", ["owner_uin", "region", "created_at"]
    )
