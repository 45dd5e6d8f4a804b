"""CAM: access keys and decisions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables of the CAM service."""
    op.create_table(
        "cam_access_key",
        sa.Column("secret_id", sa.String(64), nullable=False),
        sa.Column("owner_uin", sa.String(32), nullable=False),
        sa.Column("uin", sa.String(32), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("sealed_secret_key", sa.LargeBinary, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("secret_id", name="pk_cam_access_key"),
    )
    op.create_index("ix_cam_access_key_user", "cam_access_key", ["owner_uin", "uin"])
    op.create_table(
        "cam_decision",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("request_id", sa.String(36), nullable=False),
        sa.Column("owner_uin", sa.String(32), nullable=False),
        sa.Column("uin", sa.String(32), nullable=False),
        sa.Column("action", sa.String(96), nullable=False),
        sa.Column("effect", sa.String(8), nullable=False),
        sa.Column("decided_at", sa.BigInteger, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cam_decision"),
        sa.UniqueConstraint("request_id", name="uq_cam_decision_request_id"),
    )
    op.create_index("ix_cam_decision_caller", "cam_decision", ["owner_uin", "uin", "id"])
