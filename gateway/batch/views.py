"""Rows as the API shows them. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Row

from gateway.batch import datatypes
from gateway.batch.records import Instance
from gateway.batch.states import FINAL, Counts, NodeState, State
from gateway.clock import optional_wire_time, wire_time

AGENT_VERSION = "1.1.9"
RESOURCE_TYPE = "CVM"
COUNTERS = tuple(Counts.__dataclass_fields__)
LOG_PREFIX = "data:text/plain;charset=utf-8;base64,"


def group_counts(rows: Iterable[Row[Any]]) -> Mapping[str, Counts]:
    """Rows of (id, state, n) as one `Counts` for each id."""
    grouped: dict[str, dict[str, int]] = defaultdict(dict)
    for key, state, n in map(list, rows):
        grouped[key][state.lower()] = n
    return {key: Counts(**counts) for key, counts in grouped.items()}


def count_states(states: Iterable[str]) -> Counts:
    """How often each state occurs."""
    return Counts(**{state.lower(): n for state, n in Counter(states).items()})


def task_metrics(counts: Counts) -> datatypes.TaskMetrics:
    """The number of tasks in each state."""
    return datatypes.TaskMetrics(**_metrics(counts))


def instance_metrics(counts: Counts) -> datatypes.TaskInstanceMetrics:
    """The number of task instances in each state."""
    return datatypes.TaskInstanceMetrics(**_metrics(counts))


def _metrics(counts: Counts) -> dict[str, int]:
    return {f"{name}_count": getattr(counts, name) for name in COUNTERS}


def sum_counts(parts: Sequence[Counts]) -> Counts:
    """All counts together."""
    return Counts(**{name: sum(getattr(part, name) for part in parts) for name in COUNTERS})


def placement(column: bytes) -> datatypes.Placement:
    """A placement as it was given, with every member present."""
    given = msgspec.json.decode(column, type=datatypes.Placement)
    return msgspec.structs.replace(
        given, project_id=given.project_id or 0, host_id=given.host_id or ""
    )


def tags(rows: Iterable[Row[Any]]) -> Mapping[str, list[datatypes.Tag]]:
    """Tags by the id of what they are on."""
    found: dict[str, list[datatypes.Tag]] = defaultdict(list)
    for row in rows:
        found[row.resource_id].append(datatypes.Tag(key=row.key, value=row.value))
    return found


def template_view(row: Row[Any], *, tags_on: Sequence[datatypes.Tag]) -> datatypes.TaskTemplateView:
    """A template as DescribeTaskTemplates shows it."""
    return datatypes.TaskTemplateView(
        task_template_id=row.id,
        task_template_name=row.name,
        task_template_description=row.description,
        task_template_info=msgspec.json.decode(row.spec, type=datatypes.Task),
        create_time=wire_time(row.created_at),
        tags=list(tags_on),
    )


def job_view(
    row: Row[Any], *, counts: Counts, tags_on: Sequence[datatypes.Tag]
) -> datatypes.JobView:
    """A job as DescribeJobs shows it."""
    return datatypes.JobView(
        job_id=row.id,
        job_name=row.name,
        job_state=row.state,
        priority=row.priority,
        placement=placement(row.placement),
        create_time=wire_time(row.created_at),
        end_time=optional_wire_time(row.ended_at),
        task_metrics=task_metrics(counts),
        tags=list(tags_on),
    )


def instance_view(
    instance: Instance, *, redirect: datatypes.RedirectInfo | None, waiting: str
) -> datatypes.TaskInstanceView:
    """An instance as DescribeTask shows it. waiting: why it has not been started, if it has not."""
    if instance.state in {State.SUBMITTED, State.PENDING, State.RUNNABLE}:
        reason = detailed = waiting
    elif instance.state is State.SUCCEED:
        reason, detailed = "", "successful"
    else:
        reason, detailed = instance.cause or "", instance.reason
    return datatypes.TaskInstanceView(
        task_instance_index=instance.number,
        task_instance_state=instance.state.value,
        exit_code=instance.exit_code,
        state_reason=reason,
        compute_node_instance_id=instance.machine,
        create_time=wire_time(instance.created_at),
        launch_time=optional_wire_time(instance.launched_at),
        running_time=optional_wire_time(instance.running_at),
        end_time=optional_wire_time(instance.ended_at),
        redirect_info=redirect or datatypes.RedirectInfo(),
        state_detailed_reason=detailed,
    )


def why_waiting(
    state: State, *, blockers: int, env_id: str | None, at_limit: bool, capacity: int
) -> str:
    """Say why a task's instances have not been started.

    at_limit: as many run as its MaxConcurrentNum allows. capacity: what the engine runs at once.
    """
    if state in FINAL:
        return ""
    if blockers:
        return f"It waits for {blockers} task(s) that it depends on."
    if at_limit:
        return "As many instances run as MaxConcurrentNum allows."
    if env_id is not None:
        return f"No node of the environment {env_id} is free."
    return f"It waits for capacity: the engine runs {capacity} task instances at once."


def node_metrics(counts: Mapping[str, int]) -> datatypes.ComputeNodeMetrics:
    """The number of nodes in each state; the API has no count of PENDING ones."""
    return datatypes.ComputeNodeMetrics(
        **{
            f"{state.value.lower()}_count": counts.get(state.value, 0)
            for state in NodeState
            if state is not NodeState.PENDING
        }
    )


def node_view(row: Row[Any]) -> datatypes.ComputeNode:
    """A node as DescribeComputeEnv shows it."""
    ready = row.state == NodeState.RUNNING.value and not row.busy_with
    return datatypes.ComputeNode(
        compute_node_id=row.id,
        compute_node_instance_id=row.instance_id,
        compute_node_state=row.state,
        cpu=row.cpu,
        mem=row.mem_gib,
        resource_created_time=optional_wire_time(row.resource_created_at),
        task_instance_num_available=int(ready),
        agent_version=AGENT_VERSION,
        private_ip_addresses=["127.0.0.1"],
        public_ip_addresses=[],
        resource_type=RESOURCE_TYPE,
        resource_origin="BATCH_CREATED",
    )


def env_view(
    row: Row[Any], *, nodes: Mapping[str, int], tags_on: Sequence[datatypes.Tag]
) -> datatypes.ComputeEnvView:
    """An environment as DescribeComputeEnvs shows it."""
    return datatypes.ComputeEnvView(
        env_id=row.id,
        env_name=row.name,
        placement=placement(row.placement),
        create_time=wire_time(row.created_at),
        compute_node_metrics=node_metrics(nodes),
        env_type=row.env_type,
        desired_compute_node_count=row.desired_count,
        resource_type=RESOURCE_TYPE,
        next_action=row.next_action,
        attached_compute_node_count=0,
        tags=list(tags_on),
    )
