"""What the describing actions read, put together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec
from sqlalchemy import Row, bindparam, case, func, select

from gateway.batch import datatypes as wire
from gateway.batch import statements as sql
from gateway.batch import views
from gateway.batch.attempts import parse_attempt
from gateway.batch.jobs import find_job, no_such_job
from gateway.batch.lists import Page
from gateway.batch.reasons import (
    NAMED_MAX,
    TAKEN_UP,
    TERMINATING,
    Capacity,
    EnvNodes,
    Standing,
    why_task_waits,
)
from gateway.batch.records import read_counts, read_instance
from gateway.batch.redirection import shown_redirection
from gateway.batch.states import COUNTERS, FINAL, LAUNCHED, OVER, WAITING, Counts, NodeState, State
from gateway.batch.tables import compute_node, dependence, job, task, task_instance
from gateway.batch.validation import TASKS_MAX
from gateway.call import Principal
from gateway.clock import optional_wire_time, wire_time
from gateway.errors import InvalidFilter, InvalidParameterValue, ResourceNotFound
from gateway.service import Wire
from gateway.store import Tx


def task_counts(tx: Tx, job_ids: Sequence[str]) -> Mapping[str, Counts]:
    """How many tasks of each job are in each state."""
    found = views.group_counts(tx.execute(sql.TASK_STATES_OF, {"job_ids": list(job_ids)}))
    return {job_id: found.get(job_id, Counts()) for job_id in job_ids}


def tags_of(tx: Tx, resource_ids: Sequence[str]) -> Mapping[str, list[wire.Tag]]:
    """The tags of jobs, environments or templates."""
    return views.tags(tx.execute(sql.TAGS_OF, {"resource_ids": list(resource_ids)}))


class Submitted(Wire, forbid_unknown_fields=False):
    """What DescribeJob tells of the submission: it never changes, so it is read from there."""

    dependences: list[wire.Dependence] = []  # noqa: RUF012  # msgspec copies it
    tags: list[wire.Tag] = []  # noqa: RUF012  # msgspec copies it


FEW_TASKS = 100
"""A job with no more tasks than these is described on the event loop."""
_SHOWN = [column for column in task.c if column is not task.c.spec]
DESCRIBED = (
    select(
        job.c.name.label("job_name"),
        job.c.zone,
        job.c.priority,
        job.c.state.label("job_state"),
        job.c.state_reason,
        job.c.terminating,
        job.c.created_at.label("job_created_at"),
        job.c.ended_at.label("job_ended_at"),
        case((task.c.position == 0, job.c.submitted)).label("job_submitted"),
        *_SHOWN,
    )
    .select_from(job.join(task, task.c.job_id == job.c.id))
    .where(
        job.c.id == bindparam("of_id"),
        job.c.owner_uin == bindparam("owner_uin"),
        job.c.region == bindparam("region"),
    )
    .order_by(task.c.position)
    .limit(bindparam("most"))
)
"""A job with its tasks, without what was submitted of them, which may be large. Every job has a
first task: what was submitted of the job is told with it alone."""
_COUNTS = attrgetter(*COUNTERS)
_IS_IDLE = compute_node.c.busy_with + compute_node.c.fate == ""
NODES_OF_ENV = (
    select(
        compute_node.c.state,
        func.count().label("n"),
        func.sum(case((_IS_IDLE, 1), else_=0)).label("idle"),
        func.max(case((_IS_IDLE, compute_node.c.mem_gib), else_=0)).label("mem_gib"),
        func.max(compute_node.c.reason).label("reason"),
    )
    .where(compute_node.c.env_id == bindparam("env_id"))
    .group_by(compute_node.c.state)
)
BUSY_WITH = (
    select(compute_node.c.busy_with)
    .where(compute_node.c.env_id == bindparam("env_id"), compute_node.c.busy_with != "")
    .limit(bindparam("most"))
)
COUNT_KEPT = select(func.count()).where(
    task_instance.c.job_id == bindparam("job_id"),
    task_instance.c.position == bindparam("position"),
    task_instance.c.number.in_(bindparam("numbers", expanding=True)),
    task_instance.c.state == State.FAILED_INTERRUPTED.value,
)
OPEN_BEFORE = (
    select(task.c.name)
    .join(
        dependence, (dependence.c.job_id == task.c.job_id) & (dependence.c.start == task.c.position)
    )
    .where(
        dependence.c.job_id == bindparam("job_id"),
        dependence.c.end == bindparam("position"),
        task.c.state.not_in([state.value for state in OVER]),
    )
    .order_by(task.c.position)
    .limit(NAMED_MAX)
)
"""The tasks that one waits for."""
HELD_LOOKED_AT = 100
"""Of so many busy nodes it is found out whether they are kept."""


def describe_job(
    tx: Tx,
    job_id: str,
    *,
    principal: Principal,
    region: str,
    capacity: Capacity,
    tasks_max: int = TASKS_MAX,
) -> wire.DescribeJobResponse | None:
    """A job with its tasks, its counts, and why it waits; None if it has more than `tasks_max`.

    Raises ResourceNotFound.Job.
    """
    owner = {"owner_uin": principal.owner_uin, "region": region}
    tasks = tx.execute(DESCRIBED, {"of_id": job_id, **owner, "most": tasks_max + 1}).all()
    if not tasks:
        raise no_such_job(job_id)
    if len(tasks) > tasks_max:
        return None
    job = tasks[0]
    submitted = msgspec.json.decode(job.job_submitted, type=Submitted)
    return wire.DescribeJobResponse(
        job_id=job_id,
        job_name=job.job_name,
        zone=job.zone,
        priority=job.priority,
        job_state=job.job_state,
        create_time=wire_time(job.job_created_at),
        end_time=optional_wire_time(job.job_ended_at),
        task_set=[
            wire.TaskView(
                task_name=task.name,
                task_state=task.state,
                create_time=wire_time(task.created_at),
                end_time=optional_wire_time(task.ended_at),
            )
            for task in tasks
        ],
        dependence_set=submitted.dependences,
        task_metrics=views.metrics_of_states(task.state for task in tasks),
        task_instance_metrics=views.metrics_of_sums(map(_COUNTS, tasks)),
        state_reason=_job_reason(tx, job, tasks, capacity=capacity),
        tags=submitted.tags,
        next_action="TERMINATING" if job.terminating else "",
    )


def _job_reason(tx: Tx, job: Row[Any], tasks: Sequence[Row[Any]], *, capacity: Capacity) -> str:
    """Why the job failed, or why nothing of it runs yet, or any more."""
    state = State(job.job_state)
    if job.terminating:
        return TERMINATING
    if state in LAUNCHED:
        return _why_all_is_held_up(tasks, capacity=capacity) or str(job.state_reason)
    if state not in WAITING:
        return str(job.state_reason)
    ready = next((task for task in tasks if task.state == State.RUNNABLE.value), None)
    return TAKEN_UP if ready is None else _task_waiting(tx, ready, capacity=capacity)


def _why_all_is_held_up(tasks: Sequence[Row[Any]], *, capacity: Capacity) -> str:
    """What holds up the first of a job's instances that were started, if something holds up all.

    Such as a bucket that is away: the command has ended, and its files are to be kept.
    """
    notes = capacity.load.notes_of(tasks[0].job_id)
    if not notes or len(notes) < sum(task.starting + task.running for task in tasks):
        return ""
    attempt, words = min(notes.items())
    name = next((task.name for task in tasks if task.position == attempt.position), "")
    return f"What was started waits. The first is `{name}`: its instance {attempt.number}: {words}"


def _task_waiting(tx: Tx, task: Row[Any], *, capacity: Capacity) -> str:
    state = State(task.state)
    if state in FINAL or not task.submitted + task.pending + task.runnable:
        return ""
    if task.submitted:
        return TAKEN_UP
    standing = Standing(
        state=state,
        doom=task.doom,
        blockers=task.blockers,
        busy=task.starting + task.running,
        concurrent_max=task.concurrent_max,
        node_failures=task.node_failures,
        node_retry_at=task.node_retry_at,
        node_reason=task.node_reason,
        mem_gib=task.mem_gib,
        nodes=None if task.env_id is None else _env_nodes(tx, task.env_id),
        waits_for=_open_before(tx, task) if task.blockers else (),
    )
    return why_task_waits(standing, capacity=capacity)


def _open_before(tx: Tx, task: Row[Any]) -> tuple[str, ...]:
    keys = {"job_id": task.job_id, "position": task.position}
    return tuple(tx.execute(OPEN_BEFORE, keys).scalars())


def _count_kept(tx: Tx, env_id: str) -> int:
    """How many nodes are held by instances that are FAILED_INTERRUPTED."""
    busy = tx.execute(BUSY_WITH, {"env_id": env_id, "most": HELD_LOOKED_AT}).scalars()
    numbers: dict[tuple[str, int], list[int]] = {}
    for attempt in map(parse_attempt, busy):
        numbers.setdefault((attempt.job_id, attempt.position), []).append(attempt.number)
    return sum(
        tx.execute(
            COUNT_KEPT, {"job_id": job_id, "position": position, "numbers": found}
        ).scalar_one()
        for (job_id, position), found in numbers.items()
    )


def _env_nodes(tx: Tx, env_id: str) -> EnvNodes:
    rows = {row.state: row for row in tx.execute(NODES_OF_ENV, {"env_id": env_id})}
    running = rows.get(NodeState.RUNNING.value)
    others = [row.reason for state, row in rows.items() if state != NodeState.RUNNING.value]
    return EnvNodes(
        env_id=env_id,
        total=sum(row.n for row in rows.values()),
        running=running.n if running else 0,
        idle=running.idle if running else 0,
        reason=max(others, default=""),
        mem_gib=running.mem_gib if running else 0,
        kept=_count_kept(tx, env_id) if running and not running.idle else 0,
    )


def describe_submission(tx: Tx, job: Row[Any]) -> wire.DescribeJobSubmitInfoResponse:
    """A job as it was submitted."""
    tasks = tx.execute(sql.TASKS, {"job_id": job.id}).all()
    submitted = msgspec.json.decode(job.submitted, type=wire.Job)
    return wire.DescribeJobSubmitInfoResponse(
        job_id=job.id,
        job_name=job.name,
        job_description=job.description,
        priority=job.priority,
        tasks=[msgspec.json.decode(task.spec, type=wire.Task) for task in tasks],
        dependences=submitted.dependences,
        tags=submitted.tags,
    )


def get_task(tx: Tx, job_id: str, task_name: str, *, principal: Principal, region: str) -> Row[Any]:
    """A task by name. Raises ResourceNotFound.Task, which is the only code DescribeTask lists."""
    if find_job(tx, job_id, principal=principal, region=region) is None:
        raise ResourceNotFound(no_such_job(job_id).message, detail="Task")
    row = tx.execute(sql.TASK_NAMED, {"job_id": job_id, "name": task_name}).first()
    if row is None:
        raise ResourceNotFound(f"The job `{job_id}` has no task `{task_name}`.", detail="Task")
    return row


def instance_states(filters: Sequence[wire.Filter]) -> tuple[str, ...] | None:
    """The states DescribeTask is to show; None for all."""
    wanted = {state.value for state in State}
    for each in filters:
        if each.name != "task-instance-state":
            raise InvalidFilter(f"There is no filter `{each.name}`.")
        for value in each.values:
            if value not in State.__members__:
                raise InvalidParameterValue(f"There is no state `{value}`.")
        wanted &= set(each.values)
    return tuple(sorted(wanted)) if filters else None


def describe_task(
    tx: Tx, task: Row[Any], *, states: tuple[str, ...] | None, page: Page, capacity: Capacity
) -> wire.DescribeTaskResponse:
    """A task with a page of its instances. TaskInstanceTotalCount counts those the filter finds."""
    conditions = [
        task_instance.c.job_id == task.job_id,
        task_instance.c.position == task.position,
    ]
    counts = read_counts(task)
    total = counts.total
    if states is not None:
        conditions.append(task_instance.c.state.in_(states))
        total = tx.execute(select(func.count()).where(*conditions)).scalar_one()
    statement = (
        select(task_instance)
        .where(*conditions)
        .order_by(task_instance.c.number)
        .offset(page.offset)
        .limit(page.limit)
    )
    redirect = msgspec.json.decode(task.spec, type=wire.Task).redirect_info
    notes = capacity.load.notes
    waiting = _task_waiting(tx, task, capacity=capacity)
    return wire.DescribeTaskResponse(
        job_id=task.job_id,
        task_name=task.name,
        task_state=task.state,
        create_time=wire_time(task.created_at),
        end_time=optional_wire_time(task.ended_at),
        task_instance_total_count=total,
        task_instance_set=[
            views.instance_view(
                instance,
                redirect=shown_redirection(redirect, attempt=instance.latest, task_name=task.name),
                waiting=waiting,
                note=notes.get(instance.latest.id, ""),
            )
            for instance in map(read_instance, tx.execute(statement))
        ],
        task_instance_metrics=views.instance_metrics(counts),
    )


@dataclass(frozen=True, slots=True)
class LogSource:
    """Where the logs of one instance are. folder: of its newest attempt."""

    number: int
    folder: str
    redirect: wire.RedirectInfo


@dataclass(frozen=True, slots=True)
class LogSources:
    """Where the logs of some instances are, and how many instances the task has."""

    total: int
    instances: list[LogSource]


def log_sources(tx: Tx, task: Row[Any], *, numbers: Sequence[int], page: Page) -> LogSources:
    """The instances whose logs were asked for. Raises ResourceNotFound.TaskInstance."""
    total = read_counts(task).total
    wanted = list(dict.fromkeys(numbers)) or list(
        range(page.offset, min(total, page.offset + page.limit))
    )
    for number in wanted:
        if number >= total:
            raise ResourceNotFound(
                f"The task `{task.name}` has no instance {number}.", detail="TaskInstance"
            )
    keys = {"job_id": task.job_id, "position": task.position, "numbers": wanted}
    found = {row.number: read_instance(row) for row in tx.execute(sql.INSTANCES_AT, keys)}
    redirect = msgspec.json.decode(task.spec, type=wire.Task).redirect_info
    instances = [
        LogSource(
            n,
            found[n].latest.folder,
            shown_redirection(redirect, attempt=found[n].latest, task_name=task.name),
        )
        for n in wanted
    ]
    return LogSources(total, instances)
