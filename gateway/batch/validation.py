"""What SubmitJob accepts: the request, checked and turned into a plan. Pure.

Limits and codes: the API's own where documented; "our limit" where the vendor gives no number.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from gateway import ids
from gateway.batch import datatypes
from gateway.batch.applications import check_application, check_variables
from gateway.batch.env_data import check_env_data, check_zone, is_windows, node_size, zones_of
from gateway.batch.instance_types import Size
from gateway.batch.mappings import check_task_storage
from gateway.batch.members import check_choice, check_range, check_tags
from gateway.batch.notices import read_notifications
from gateway.batch.rules import Rules
from gateway.errors import (
    AllowedOneAttributeInEnvIdAndComputeEnv,
    InvalidParameter,
    InvalidParameterValue,
)
from gateway.events.messages import Notification

NAME_MAX = 60
DESCRIPTION_MAX = 200
INSTANCES_MAX = 100_000  # our limit, for one job
TASKS_MAX = 5_000  # our limit
DEPENDENCES_MAX = 20_000  # our limit
RETRIES_MAX = 100  # our limit for MaxRetryCount; the API's for ResourceMaxRetryCount
TIMEOUT_MAX_S = 365 * 86_400  # our limit
TIMEOUT_DEFAULT_S = 86_400
DEPEND_ON = ("PRE_TASK_SUCCEED", "PRE_TASK_AT_LEAST_PARTLY_SUCCEED", "PRE_TASK_FINISHED")
FAILED_ACTIONS = ("TERMINATE", "INTERRUPT", "FAST_INTERRUPT")
_TASK_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """One task to be made. blockers: how many tasks must finish before it. size: of its nodes."""

    position: int
    name: str
    instances: int
    concurrent_max: int
    blockers: int
    size: Size
    spec: datatypes.Task


@dataclass(frozen=True, slots=True)
class JobPlan:
    """One job to be made. dependences: pairs of task positions, each once."""

    name: str
    description: str
    priority: int
    zone: str
    depend_on: str
    tasks: tuple[TaskPlan, ...]
    dependences: tuple[tuple[int, int], ...]
    notifications: tuple[Notification, ...]
    submitted: datatypes.Job


def plan_job(request: datatypes.SubmitJobRequest, *, region: str, rules: Rules) -> JobPlan:
    """Check a SubmitJob request. Raises the public error of the first thing that is wrong."""
    job = request.job
    check_zone(request.placement.zone, region=region, catalogue=rules.catalogue)
    check_texts(job)
    names = _task_names(job.tasks)
    dependences = _dependences(job.dependences or (), names)
    blockers = Counter(end for _, end in dependences)
    rules_at = cache(rules.at)  # of thousands of tasks most are to run in the same zones
    tasks = tuple(
        _plan_task(
            spec,
            position=position,
            name=names[position],
            blockers=blockers[position],
            region=region,
            rules=rules_at(_zones(spec, zone=request.placement.zone)),
        )
        for position, spec in enumerate(job.tasks)
    )
    if sum(task.instances for task in tasks) > INSTANCES_MAX:
        raise InvalidParameterValue(
            f"A job has at most {INSTANCES_MAX} task instances.", detail="TaskInstanceNum"
        )
    return JobPlan(
        name=job.job_name or "",
        description=job.job_description or "",
        priority=job.priority or 0,
        zone=request.placement.zone,
        depend_on=job.task_execution_depend_on or DEPEND_ON[0],
        tasks=tasks,
        dependences=dependences,
        notifications=read_notifications(job.notifications, target=job.notification_target),
        submitted=job,
    )


def _zones(spec: datatypes.Task, *, zone: str) -> tuple[str, ...]:
    return tuple(zones_of(spec.compute_env.env_data if spec.compute_env else None, zone=zone))


def check_texts(job: datatypes.Job) -> None:
    """Check the job's own members, tasks apart."""
    if len(job.job_name or "") > NAME_MAX:
        raise InvalidParameter(
            f"JobName is longer than {NAME_MAX} characters.", detail="JobNameTooLong"
        )
    if len(job.job_description or "") > DESCRIPTION_MAX:
        raise InvalidParameter(
            f"JobDescription is longer than {DESCRIPTION_MAX} characters.",
            detail="JobDescriptionTooLong",
        )
    check_range("Priority", job.priority, most=100)
    check_choice("TaskExecutionDependOn", job.task_execution_depend_on, DEPEND_ON)
    check_choice("StateIfCreateCvmFailed", job.state_if_create_cvm_failed, ("FAILED", "RUNNABLE"))
    check_tags(job.tags)


def check_task(spec: datatypes.Task, *, rules: Rules) -> None:
    """Check a task that no job has yet. Raises the public error of the first thing wrong."""
    [name] = _task_names([spec])
    _plan_task(spec, position=0, name=name, blockers=0, region="", rules=rules)


def _task_names(tasks: Sequence[datatypes.Task]) -> tuple[str, ...]:
    if not 0 < len(tasks) <= TASKS_MAX:
        raise InvalidParameterValue(f"A job has from 1 to {TASKS_MAX} tasks.")
    names = tuple(
        f"Task{number}" if task.task_name is None else task.task_name
        for number, task in enumerate(tasks, start=1)
    )
    seen: set[str] = set()
    for name in names:
        check_task_name(name)
        if name in seen:
            raise InvalidParameter(f"Two tasks have the name `{name}`.", detail="TaskName")
        seen.add(name)
    return names


def check_task_name(name: str) -> None:
    """Refuse a name that no task can have."""
    if len(name) > NAME_MAX:
        raise InvalidParameter(
            f"TaskName is longer than {NAME_MAX} characters.", detail="TaskNameTooLong"
        )
    if not _TASK_NAME.fullmatch(name):
        raise InvalidParameter(
            f"The TaskName `{name}` has characters other than letters, digits, `-` and `_`.",
            detail="TaskName",
        )


def _dependences(
    dependences: Sequence[datatypes.Dependence], names: Sequence[str]
) -> tuple[tuple[int, int], ...]:
    if len(dependences) > DEPENDENCES_MAX:
        raise InvalidParameterValue(f"There are more than {DEPENDENCES_MAX} Dependences.")
    positions = {name: position for position, name in enumerate(names)}
    pairs: dict[tuple[int, int], None] = {}
    for dependence in dependences:
        for name in (dependence.start_task, dependence.end_task):
            if name not in positions:
                raise InvalidParameterValue(
                    f"A dependence names the task `{name}`, which the job does not have.",
                    detail="DependenceNotFoundTaskName",
                )
        pairs[positions[dependence.start_task], positions[dependence.end_task]] = None
    stuck = _in_cycles(len(names), pairs)
    if stuck:
        raise InvalidParameterValue(
            f"The task `{names[min(stuck)]}` waits for itself, directly or through others.",
            detail="DependenceUnfeasible",
        )
    return tuple(pairs)


def _in_cycles(count: int, pairs: Iterable[tuple[int, int]]) -> set[int]:
    """The positions that never become free when tasks are taken off in order of dependence."""
    followers: list[list[int]] = [[] for _ in range(count)]
    waiting = [0] * count
    for start, end in pairs:
        followers[start].append(end)
        waiting[end] += 1
    free = [position for position in range(count) if not waiting[position]]
    left = set(range(count)) - set(free)
    while free:
        for end in followers[free.pop()]:
            waiting[end] -= 1
            if not waiting[end]:
                free.append(end)
                left.discard(end)
    return left


def _plan_task(
    spec: datatypes.Task, *, position: int, name: str, blockers: int, region: str, rules: Rules
) -> TaskPlan:
    instances = 1 if spec.task_instance_num is None else spec.task_instance_num
    if instances < 0:
        raise InvalidParameterValue(
            f"TaskInstanceNum `{instances}` is negative.", detail="Negative"
        )
    if not 1 <= instances <= INSTANCES_MAX:
        raise InvalidParameterValue(
            f"TaskInstanceNum `{instances}` is not from 1 to {INSTANCES_MAX}.",
            detail="TaskInstanceNum",
        )
    check_range("MaxConcurrentNum", spec.max_concurrent_num, most=2**31 - 1)
    check_range("MaxRetryCount", spec.max_retry_count, most=RETRIES_MAX, detail="MaxRetryCount")
    check_range("ResourceMaxRetryCount", spec.resource_max_retry_count, most=RETRIES_MAX)
    check_range("Timeout", spec.timeout, most=TIMEOUT_MAX_S)
    if spec.timeout == 0:
        raise InvalidParameterValue("Timeout `0` leaves no time to run.")
    check_choice("FailedAction", spec.failed_action, FAILED_ACTIONS)
    _check_place(spec, name=name, region=region, rules=rules)
    check_application(spec.application, instances=instances, xml_only=rules.xml_only)
    check_variables(spec.env_vars)
    elastic = spec.compute_env
    on_windows = is_windows(elastic, catalogue=rules.catalogue)
    check_task_storage(spec, xml_only=rules.xml_only, on_windows=on_windows)
    return TaskPlan(
        position=position,
        name=name,
        instances=instances,
        concurrent_max=spec.max_concurrent_num or 0,
        blockers=blockers,
        size=node_size(elastic.env_data if elastic else None, catalogue=rules.catalogue),
        spec=spec,
    )


def _check_place(spec: datatypes.Task, *, name: str, region: str, rules: Rules) -> None:
    if (spec.compute_env is None) == (spec.env_id is None):
        raise AllowedOneAttributeInEnvIdAndComputeEnv(
            f"The task `{name}` must have exactly one of ComputeEnv and EnvId."
        )
    if spec.env_id is not None:
        if not ids.is_id(spec.env_id, "env"):
            raise InvalidParameter(f"EnvId `{spec.env_id}` is malformed.", detail="EnvIdMalformed")
        return
    if spec.compute_env is not None:
        check_env_data(
            spec.compute_env.env_data,
            env_type=spec.compute_env.env_type,
            region=region,
            catalogue=rules.catalogue,
        )
