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
    text,
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
    Column("state_if_no_node", String(16), nullable=False),
    Column("files_dropped", Boolean, nullable=False),
    Column("placement", LargeBinary, nullable=False),
    Column("submitted", LargeBinary, nullable=False),
    Column("notifications", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("ended_at", Moment),
    Index("ix_batch_job_list", "owner_uin", "region", "created_at"),
    Index("ix_batch_job_state", "state"),
    Index("ix_batch_job_files", "files_dropped", "ended_at"),
)
"""`submitted`: the `Job` of SubmitJob as JSON. `notifications`: see `notices.py`.
`state_if_no_node`: StateIfCreateCvmFailed, FAILED or RUNNABLE. `files_dropped`: its logs and
folders were removed when their time was up."""

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
    Column("node_failures", Integer, nullable=False),
    Column("node_retry_at", Moment),
    Column("node_reason", Text, nullable=False),
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
    Index("ix_batch_task_env", "env_id", "runnable"),
)
"""`spec`: the `Task` as JSON, its secrets masked. `cpu`, `mem_gib`: the size of its elastic nodes.
`node_failures`: how often in a row an elastic node could not be made, `node_reason` why, and
`node_retry_at` the time before which no other is tried. `blockers`: predecessors not finished yet.
`doom`: the cause for which instances not started yet are to fail, or "". The eight counters say
how many instances are in each state; they change in the transaction that moves the instances."""

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
    Column("first_attempt", Integer, nullable=False),
    Column("terminating", Boolean, nullable=False),
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
"""`attempt`: how often it was launched; `first_attempt`: the first one since RetryJobs reset it.
`terminating`: TerminateTaskInstance was asked for, and is not done yet. `failures` are the
command's own, `losses` the engine's."""

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
    Column("resource_type", String(8), nullable=False),
    Column("placement", LargeBinary, nullable=False),
    Column("created", LargeBinary, nullable=False),
    Column("notifications", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False),
    Index("ix_batch_compute_env_list", "owner_uin", "region", "created_at"),
)
"""`created`: the `ComputeEnv` of CreateComputeEnv as JSON, its secrets masked. `resource_type`:
CVM, or CPM for one that CreateCpmComputeEnv made."""

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
    Column("fate", String(16), nullable=False),
    Column("origin", String(16), nullable=False),
    Column("failures", Integer, nullable=False),
    Column("retry_at", Moment),
    Column("reason", Text, nullable=False),
    Column("address", String(64), nullable=False),
    Column("image_id", String(16), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("resource_created_at", Moment),
    Index("ix_batch_compute_node_free", "env_id", "state", "busy_with", "fate"),
    Index("ix_batch_compute_node_state", "state"),
    Index(
        "ix_batch_compute_node_fate",
        "fate",
        sqlite_where=text("fate <> ''"),
        postgresql_where=text("fate <> ''"),
    ),
    Index(
        "ix_batch_compute_node_attached",
        "instance_id",
        unique=True,
        sqlite_where=text("origin = 'USER_ATTACHED'"),
        postgresql_where=text("origin = 'USER_ATTACHED'"),
    ),
)
"""The nodes of named environments. `busy_with`: the attempt that runs there, or "". `fate`: what is
to be done to it next, LOST, RESTART or "": whoever moves a job writes it, whoever keeps the
environments does it. `origin`: BATCH_CREATED or USER_ATTACHED. `failures`: how often in a row it
could not be made, or was lost; `retry_at`: when it is tried again; `reason`: why it is not running.
An elastic node lives as long as its attempt and is named in the instance's own row."""

compute_env_activity = Table(
    "batch_compute_env_activity",
    metadata,
    Column("id", String(16), primary_key=True),
    Column(
        "env_id", String(16), ForeignKey("batch_compute_env.id", ondelete="CASCADE"), nullable=False
    ),
    Column("node_id", String(16), nullable=False),
    Column("instance_id", String(16), nullable=False),
    Column("type", String(32), nullable=False),
    Column("cause", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("ended_at", Moment),
    Index("ix_batch_compute_env_activity_list", "env_id", "started_at", "id"),
    Index("ix_batch_compute_env_activity_node", "node_id"),
)
"""What was done to the nodes of environments: made, made again, given up, and whether it worked."""

secret = Table(
    "batch_secret",
    metadata,
    Column("owner_id", String(16), nullable=False),
    Column("position", Integer, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    PrimaryKeyConstraint("owner_id", "position"),
)
"""The keys and passwords a caller gave, encrypted: of a job's task at `position`, or of an
environment at 0. What is stored elsewhere, shown and logged is masked."""

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
    Column("sealed_digest", LargeBinary),
    PrimaryKeyConstraint("owner_uin", "uin", "region", "action", "token"),
    Index("ix_batch_client_token_age", "created_at"),
)
"""What a ClientToken made, so that a call that arrives twice is done once. `request_sha256`: of the
call with its keys masked. `sealed_digest`: of all of it; a token of an older version has none."""
