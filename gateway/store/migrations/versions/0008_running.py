"""Batch: tries at making nodes, activities, attached machines, retries, secrets, files that go."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_HAS_FATE = sa.text("fate <> ''")
_IS_ATTACHED = sa.text("origin = 'USER_ATTACHED'")


def upgrade() -> None:
    """Add columns and indexes to what is there; make the tables of activities and secrets."""
    _widen_jobs()
    _widen_environments()
    _make_activities()
    _make_secrets()
    op.create_index("ix_batch_client_token_age", "batch_client_token", ["created_at"])


def _add(table: str, *columns: sa.Column[Any]) -> None:
    for column in columns:
        op.add_column(table, column)


def _text(name: str, kind: sa.types.TypeEngine[str], *, default: str = "") -> sa.Column[str]:
    return sa.Column(name, kind, nullable=False, server_default=default)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false())


def _count(name: str, *, default: int = 0) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default=str(default))


def _widen_jobs() -> None:
    _add(
        "batch_job",
        _text("state_if_no_node", sa.String(16), default="FAILED"),
        _flag("files_dropped"),
    )
    op.create_index("ix_batch_job_files", "batch_job", ["files_dropped", "ended_at"])
    _add(
        "batch_task",
        _count("node_failures"),
        sa.Column("node_retry_at", sa.BigInteger),
        _text("node_reason", sa.Text()),
    )
    op.create_index("ix_batch_task_env", "batch_task", ["env_id", "runnable"])
    _add("batch_task_instance", _count("first_attempt", default=1), _flag("terminating"))


def _widen_environments() -> None:
    _add("batch_compute_env", _text("resource_type", sa.String(8), default="CVM"))
    _add(
        "batch_compute_node",
        _text("fate", sa.String(16)),
        _text("origin", sa.String(16), default="BATCH_CREATED"),
        _count("failures"),
        sa.Column("retry_at", sa.BigInteger),
        _text("reason", sa.Text()),
        _text("address", sa.String(64), default="127.0.0.1"),
        _text("image_id", sa.String(16)),
    )
    op.drop_index("ix_batch_compute_node_free", "batch_compute_node")
    free = ["env_id", "state", "busy_with", "fate"]
    op.create_index("ix_batch_compute_node_free", "batch_compute_node", free)
    op.create_index(
        "ix_batch_compute_node_fate",
        "batch_compute_node",
        ["fate"],
        sqlite_where=_HAS_FATE,
        postgresql_where=_HAS_FATE,
    )
    op.create_index(
        "ix_batch_compute_node_attached",
        "batch_compute_node",
        ["instance_id"],
        unique=True,
        sqlite_where=_IS_ATTACHED,
        postgresql_where=_IS_ATTACHED,
    )


def _make_activities() -> None:
    table = op.create_table(
        "batch_compute_env_activity",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("env_id", sa.String(16), nullable=False),
        sa.Column("node_id", sa.String(16), nullable=False),
        sa.Column("instance_id", sa.String(16), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batch_compute_env_activity")),
        sa.ForeignKeyConstraint(
            ["env_id"],
            ["batch_compute_env.id"],
            name=op.f("fk_batch_compute_env_activity_env_id_batch_compute_env"),
            ondelete="CASCADE",
        ),
    )
    listed = ["env_id", "started_at", "id"]
    op.create_index("ix_batch_compute_env_activity_list", table.name, listed)
    op.create_index("ix_batch_compute_env_activity_node", table.name, ["node_id"])


def _make_secrets() -> None:
    op.create_table(
        "batch_secret",
        sa.Column("owner_id", sa.String(16), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("owner_id", "position", name=op.f("pk_batch_secret")),
    )
