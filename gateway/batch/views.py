"""Rows as the API shows them. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Row

from gateway.batch import datatypes
from gateway.batch.reasons import STARTING, TERMINATING
from gateway.batch.records import Instance
from gateway.batch.states import COUNTERS, LAUNCHED, WAITING, Counts, State
from gateway.clock import optional_wire_time, wire_time

_METRICS = {name.upper(): f"{name}_count" for name in COUNTERS}
"""By state, how its number is called on the wire."""
LOG_PREFIX = "data:text/plain;charset=utf-8;base64,"


def group_counts(rows: Iterable[Row[Any]]) -> Mapping[str, Counts]:
    """Rows of (id, state, n) as one `Counts` for each id."""
    grouped: dict[str, dict[str, int]] = defaultdict(dict)
    for key, state, n in map(list, rows):
        grouped[key][state.lower()] = n
    return {key: Counts(**counts) for key, counts in grouped.items()}


def metrics_of_states(states: Iterable[str]) -> datatypes.TaskMetrics:
    """The number of tasks in each state, from the state of each."""
    found: dict[str, int] = {}
    for state in states:  # a Counter costs more than all the rest of a job with few tasks
        name = _METRICS[state]
        found[name] = found.get(name, 0) + 1
    return datatypes.TaskMetrics(**found)


def metrics_of_sums(counts: Iterable[Sequence[int]]) -> datatypes.TaskInstanceMetrics:
    """The number of task instances in each state. counts: of each task, in the order of COUNTERS.

    At least one task.
    """
    sums = map(sum, zip(*counts, strict=True))
    return datatypes.TaskInstanceMetrics(**dict(zip(_METRICS.values(), sums, strict=True)))


def task_metrics(counts: Counts) -> datatypes.TaskMetrics:
    """The number of tasks in each state."""
    return datatypes.TaskMetrics(**_metrics(counts))


def instance_metrics(counts: Counts) -> datatypes.TaskInstanceMetrics:
    """The number of task instances in each state."""
    return datatypes.TaskInstanceMetrics(**_metrics(counts))


def _metrics(counts: Counts) -> dict[str, int]:
    return dict(zip(_METRICS.values(), counts, strict=True))


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
    instance: Instance, *, redirect: datatypes.RedirectInfo, waiting: str, note: str = ""
) -> datatypes.TaskInstanceView:
    """An instance as DescribeTask shows it. waiting: why it has not been started, if it has not.

    redirect: with the names that its own files have. note: what holds up its start or its end.
    """
    reason, detailed = _why(instance, waiting=waiting, note=note)
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
        redirect_info=redirect,
        state_detailed_reason=detailed,
    )


def _why(instance: Instance, *, waiting: str, note: str) -> tuple[str, str]:
    """StateReason and StateDetailedReason: of what waits why, of what failed the cause, in both
    words; of what is tried again also why it was not enough the last time.
    """
    if instance.state in WAITING:
        last = f" The last attempt: {instance.reason}" if instance.reason else ""
        return waiting, waiting + last
    if instance.state in LAUNCHED:
        words = note or (STARTING if instance.state is State.STARTING else "")
        words = TERMINATING if instance.terminating else words
        return words, words
    if instance.state is State.SUCCEED:
        return "", f"successful; {instance.reason}" if instance.reason else "successful"
    return instance.cause or "", instance.reason
