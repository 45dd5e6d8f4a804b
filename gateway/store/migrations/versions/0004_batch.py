"""Batch: jobs, tasks, instances, environments, nodes, tags, client tokens."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the tables of the Batch service."""
    op.create_table(
        "batch_job",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("owner_uin", sa.String(32), nullable=False),
        sa.Column("region", sa.String(64), nullable=False),
        sa.Column("created_by", sa.String(32), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("zone", sa.String(80), nullable=False),
        sa.Column("state", sa.String(24), nullable=False),
        sa.Column("state_reason", sa.Text, nullable=False),
        sa.Column("depend_on", sa.String(40), nullable=False),
        sa.Column("terminating", sa.Boolean, nullable=False),
        sa.Column("placement", sa.LargeBinary, nullable=False),
        sa.Column("submitted", sa.LargeBinary, nullable=False),
        sa.Column("notifications", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_batch_job"),
    )
    op.create_index("ix_batch_job_list", "batch_job", ["owner_uin", "region", "created_at"])
    op.create_index("ix_batch_job_state", "batch_job", ["state"])
    op.create_table(
        "batch_task",
        sa.Column("job_id", sa.String(16), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("state", sa.String(24), nullable=False),
        sa.Column("spec", sa.LargeBinary, nullable=False),
        sa.Column("env_id", sa.String(16), nullable=True),
        sa.Column("cpu", sa.Integer, nullable=False),
        sa.Column("mem_gib", sa.Integer, nullable=False),
        sa.Column("concurrent_max", sa.Integer, nullable=False),
        sa.Column("blockers", sa.Integer, nullable=False),
        sa.Column("doom", sa.String(24), nullable=False),
        sa.Column("submitted", sa.Integer, nullable=False),
        sa.Column("pending", sa.Integer, nullable=False),
        sa.Column("runnable", sa.Integer, nullable=False),
        sa.Column("starting", sa.Integer, nullable=False),
        sa.Column("running", sa.Integer, nullable=False),
        sa.Column("succeed", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("failed_interrupted", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger, nullable=True),
        sa.PrimaryKeyConstraint("job_id", "position", name="pk_batch_task"),
        sa.UniqueConstraint("job_id", "name", name="uq_batch_task_job_id_name"),
        sa.ForeignKeyConstraint(
            ["job_id"], ["batch_job.id"], name="fk_batch_task_job_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_batch_task_runnable", "batch_task", ["runnable"])
    op.create_table(
        "batch_dependence",
        sa.Column("job_id", sa.String(16), nullable=False),
        sa.Column("start", sa.Integer, nullable=False),
        sa.Column("end", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "start", "end", name="pk_batch_dependence"),
        sa.ForeignKeyConstraint(
            ["job_id"], ["batch_job.id"], name="fk_batch_dependence_job_id", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "batch_task_instance",
        sa.Column("job_id", sa.String(16), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.String(24), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("losses", sa.Integer, nullable=False),
        sa.Column("node_id", sa.String(16), nullable=False),
        sa.Column("node_instance_id", sa.String(16), nullable=False),
        sa.Column("exit_code", sa.Integer, nullable=True),
        sa.Column("cause", sa.String(24), nullable=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("launched_at", sa.BigInteger, nullable=True),
        sa.Column("running_at", sa.BigInteger, nullable=True),
        sa.Column("ended_at", sa.BigInteger, nullable=True),
        sa.PrimaryKeyConstraint("job_id", "position", "number", name="pk_batch_task_instance"),
        sa.ForeignKeyConstraint(
            ["job_id", "position"],
            ["batch_task.job_id", "batch_task.position"],
            name="fk_batch_task_instance_job_id",
            ondelete="CASCADE",
        ),
    )
    op.create_index(
        "ix_batch_task_instance_state",
        "batch_task_instance",
        ["job_id", "position", "state", "number"],
    )
    op.create_table(
        "batch_compute_env",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("owner_uin", sa.String(32), nullable=False),
        sa.Column("region", sa.String(64), nullable=False),
        sa.Column("created_by", sa.String(32), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("env_type", sa.String(16), nullable=False),
        sa.Column("zone", sa.String(80), nullable=False),
        sa.Column("next_action", sa.String(16), nullable=False),
        sa.Column("desired_count", sa.Integer, nullable=False),
        sa.Column("placement", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.LargeBinary, nullable=False),
        sa.Column("notifications", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_batch_compute_env"),
    )
    op.create_index(
        "ix_batch_compute_env_list", "batch_compute_env", ["owner_uin", "region", "created_at"]
    )
    op.create_table(
        "batch_compute_node",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("env_id", sa.String(16), nullable=False),
        sa.Column("state", sa.String(24), nullable=False),
        sa.Column("instance_id", sa.String(16), nullable=False),
        sa.Column("cpu", sa.Integer, nullable=False),
        sa.Column("mem_gib", sa.Integer, nullable=False),
        sa.Column("busy_with", sa.String(80), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("resource_created_at", sa.BigInteger, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_batch_compute_node"),
        sa.ForeignKeyConstraint(
            ["env_id"],
            ["batch_compute_env.id"],
            name="fk_batch_compute_node_env_id",
            ondelete="CASCADE",
        ),
    )
    op.create_index(
        "ix_batch_compute_node_free", "batch_compute_node", ["env_id", "state", "busy_with"]
    )
    op.create_index("ix_batch_compute_node_state", "batch_compute_node", ["state"])
    op.create_table(
        "batch_tag",
        sa.Column("resource_id", sa.String(24), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("resource_id", "key", name="pk_batch_tag"),
    )
    op.create_index("ix_batch_tag_key", "batch_tag", ["key"])
    op.create_table(
        "batch_client_token",
        sa.Column("owner_uin", sa.String(32), nullable=False),
        sa.Column("uin", sa.String(32), nullable=False),
        sa.Column("region", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("token", sa.String(64), nullable=False),
        sa.Column("request_sha256", sa.String(64), nullable=False),
        sa.Column("made_id", sa.String(16), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint(
            "owner_uin", "uin", "region", "action", "token", name="pk_batch_client_token"
        ),
    )
