"""The tables of the Batch service."""

from sqlalchemy import (
    Boolean,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from gateway.store import Moment, metadata

job = Table(
    "batch_job",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("owner_uin", String(32), nullable=False),
    Column("region", String(64), nullable=False),
    Column("created_by", String(32), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("zone", String(80), nullable=False),
    Column("state", String(24), nullable=False),
    Column("state_reason", Text, nullable=False),
    Column("depend_on", String(40), nullable=False),
    Column("terminating", Boolean, nullable=False),
    Column("placement", LargeBinary, nullable=False),
    Column("submitted", LargeBinary, nullable=False),
    Column("notifications", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("ended_at", Moment),
    Index("ix_batch_job_list", "owner_uin", "region", "created_at"),
    Index("ix_batch_job_state", "state"),
)
"""`submitted`: the `Job` of SubmitJob as JSON. `notifications`: see `notices.py`."""

task = Table(
    "batch_task",
    metadata,
    Column("job_id", String(16), ForeignKey("batch_job.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("state", String(24), nullable=False),
    Column("spec", LargeBinary, nullable=False),
    Column("env_id", String(16)),
    Column("cpu", Integer, nullable=False),
    Column("mem_gib", Integer, nullable=False),
    Column("concurrent_max", Integer, nullable=False),
    Column("blockers", Integer, nullable=False),
    Column("doom", String(24), nullable=False),
    Column("submitted", Integer, nullable=False),
    Column("pending", Integer, nullable=False),
    Column("runnable", Integer, nullable=False),
    Column("starting", Integer, nullable=False),
    Column("running", Integer, nullable=False),
    Column("succeed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("failed_interrupted", Integer, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("ended_at", Moment),
    PrimaryKeyConstraint("job_id", "position"),
    UniqueConstraint("job_id", "name"),
    Index("ix_batch_task_runnable", "runnable"),
)
"""`spec`: the `Task` as JSON. `cpu`, `mem_gib`: the size of its elastic nodes. `blockers`:
predecessors not finished yet. `doom`: the cause for which instances not started yet are to fail,
or "". The eight counters say how many instances are in each state; they change in the transaction
that moves the instances."""

dependence = Table(
    "batch_dependence",
    metadata,
    Column("job_id", String(16), nullable=False),
    Column("start", Integer, nullable=False),
    Column("end", Integer, nullable=False),
    PrimaryKeyConstraint("job_id", "start", "end"),
    ForeignKeyConstraint(["job_id"], ["batch_job.id"], ondelete="CASCADE"),
)
"""Task `end` waits for task `start`; both are positions."""

task_instance = Table(
    "batch_task_instance",
    metadata,
    Column("job_id", String(16), nullable=False),
    Column("position", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String(24), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("node_id", String(16), nullable=False),
    Column("node_instance_id", String(16), nullable=False),
    Column("exit_code", Integer),
    Column("cause", String(24)),
    Column("reason", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("launched_at", Moment),
    Column("running_at", Moment),
    Column("ended_at", Moment),
    PrimaryKeyConstraint("job_id", "position", "number"),
    ForeignKeyConstraint(
        ["job_id", "position"], ["batch_task.job_id", "batch_task.position"], ondelete="CASCADE"
    ),
    Index("ix_batch_task_instance_state", "job_id", "position", "state", "number"),
)
"""`attempt`: how often it was launched. `failures` are the command's own, `losses` the engine's."""

compute_env = Table(
    "batch_compute_env",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("owner_uin", String(32), nullable=False),
    Column("region", String(64), nullable=False),
    Column("created_by", String(32), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("env_type", String(16), nullable=False),
    Column("zone", String(80), nullable=False),
    Column("next_action", String(16), nullable=False),
    Column("desired_count", Integer, nullable=False),
    Column("placement", LargeBinary, nullable=False),
    Column("created", LargeBinary, nullable=False),
    Column("notifications", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False),
    Index("ix_batch_compute_env_list", "owner_uin", "region", "created_at"),
)
"""`created`: the `ComputeEnv` of CreateComputeEnv as JSON."""

compute_node = Table(
    "batch_compute_node",
    metadata,
    Column("id", String(16), primary_key=True),
    Column(
        "env_id", String(16), ForeignKey("batch_compute_env.id", ondelete="CASCADE"), nullable=False
    ),
    Column("state", String(24), nullable=False),
    Column("instance_id", String(16), nullable=False),
    Column("cpu", Integer, nullable=False),
    Column("mem_gib", Integer, nullable=False),
    Column("busy_with", String(80), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("resource_created_at", Moment),
    Index("ix_batch_compute_node_free", "env_id", "state", "busy_with"),
    Index("ix_batch_compute_node_state", "state"),
)
"""The nodes of named environments. `busy_with`: the attempt that runs there, or "". An elastic
node lives as long as its attempt and is named in the instance's own row."""

task_template = Table(
    "batch_task_template",
    metadata,
    Column("id", String(24), primary_key=True),
    Column("owner_uin", String(32), nullable=False),
    Column("region", String(64), nullable=False),
    Column("created_by", String(32), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("spec", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False),
    Index("ix_batch_task_template_list", "owner_uin", "region", "created_at"),
)
"""`spec`: the `Task` as JSON. Jobs do not refer to it: callers copy the task into them."""

tag = Table(
    "batch_tag",
    metadata,
    Column("resource_id", String(24), nullable=False),
    Column("key", String(255), nullable=False),
    Column("value", Text, nullable=False),
    PrimaryKeyConstraint("resource_id", "key"),
    Index("ix_batch_tag_key", "key"),
)
"""The tags of jobs, environments and templates, for filters and tag conditions."""

client_token = Table(
    "batch_client_token",
    metadata,
    Column("owner_uin", String(32), nullable=False),
    Column("uin", String(32), nullable=False),
    Column("region", String(64), nullable=False),
    Column("action", String(32), nullable=False),
    Column("token", String(64), nullable=False),
    Column("request_sha256", String(64), nullable=False),
    Column("made_id", String(16), nullable=False),
    Column("created_at", Moment, nullable=False),
    PrimaryKeyConstraint("owner_uin", "uin", "region", "action", "token"),
)
"""What a ClientToken made, so that a call that arrives twice is done once."""
