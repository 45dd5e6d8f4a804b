"""The statements that find what is due and what waits for room, at every round of the scheduler."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Integer,
    Subquery,
    and_,
    bindparam,
    exists,
    func,
    or_,
    select,
)

from gateway.batch.slots import QueuedTask
from gateway.batch.statements import HAS_SOME_TO_FAIL, NODE_IS_FREE, OPEN
from gateway.batch.states import State
from gateway.batch.tables import compute_node, job, task
from gateway.store import Moment

_node_is_free = exists().where(compute_node.c.env_id == task.c.env_id, NODE_IS_FREE)
_elastic_node_is_due = and_(
    task.c.env_id.is_(None),
    or_(task.c.node_failures == 0, task.c.node_retry_at <= bindparam("moment", type_=Moment)),
)


def _wants_to_run(waiting: FromClause) -> ColumnElement[bool]:
    """A task with an instance that may run, as far as its own limits go."""
    columns = waiting.c
    return and_(
        columns.runnable > 0,
        columns.doom == "",
        or_(
            columns.concurrent_max == 0,
            columns.starting + columns.running < columns.concurrent_max,
        ),
    )


def _first_in_line(*conditions: Callable[[FromClause], ColumnElement[bool]]) -> Subquery:
    """Priority and time of the most urgent job that waits for nodes of each environment.

    The parameter `sick`: jobs that are left alone for now, whom nobody waits for.
    Why worked out once, and not looked for from each task: of a thousand tasks that wait for one
    environment, each would look through all the others.
    """
    rival, rival_job = task.alias(), job.alias()
    ranked = (
        select(
            rival.c.env_id,
            rival_job.c.priority,
            rival_job.c.created_at,
            func.row_number()
            .over(
                partition_by=rival.c.env_id,
                order_by=(rival_job.c.priority.desc(), rival_job.c.created_at),
            )
            .label("place"),
        )
        .where(
            rival.c.env_id.is_not(None),
            _wants_to_run(rival),
            rival_job.c.id == rival.c.job_id,
            ~rival_job.c.terminating,
            rival_job.c.id.not_in(bindparam("sick", expanding=True)),
            *[condition(rival) for condition in conditions],
        )
        .subquery()
    )
    return (
        select(
            ranked.c.env_id,
            func.max(ranked.c.priority).label("priority"),
            func.min(ranked.c.created_at).label("created_at"),
        )
        .where(ranked.c.place == 1)
        .group_by(ranked.c.env_id)  # of one row: so that SQLite keeps the few, and not all
        .subquery()
    )


def _placeable(
    first: Subquery, *, urgency: ColumnElement[int], since: ColumnElement[Any]
) -> ColumnElement[bool]:
    """A task of which an instance could be started now, as far as its own limits go.

    first: the first in line for each environment, joined. urgency, since: priority and time of the
    task's job. A node of an environment goes to the most urgent job that waits for one, whichever
    transaction looks first. The parameter `moment`: now.
    """
    outdone = or_(
        first.c.priority > urgency,
        and_(first.c.priority == urgency, first.c.created_at < since),
    )
    return and_(
        _wants_to_run(task),
        or_(
            _elastic_node_is_due,
            and_(_node_is_free, or_(first.c.env_id.is_(None), ~outdone)),
        ),
    )


def _of_envs_of_the_job(rival: FromClause) -> ColumnElement[bool]:
    mine = task.alias()
    return rival.c.env_id.in_(
        select(mine.c.env_id).where(
            mine.c.job_id == bindparam("job_id"), mine.c.env_id.is_not(None), mine.c.runnable > 0
        )
    )


_first_for_job = _first_in_line(_of_envs_of_the_job)
TASKS_TO_PLACE = (
    select(task.c.position)
    .outerjoin(_first_for_job, _first_for_job.c.env_id == task.c.env_id)
    .where(
        task.c.job_id == bindparam("job_id"),
        _placeable(
            _first_for_job,
            urgency=bindparam("urgency", type_=Integer),
            since=bindparam("since", type_=Moment),
        ),
    )
    .order_by(task.c.position)
    .limit(bindparam("most"))
)
_IS_WELL = job.c.id.not_in(bindparam("sick", expanding=True))
_IS_TOLD_TO_END = job.c.id.in_(bindparam("told_to_end", expanding=True))
DUE_JOBS = (
    select(job.c.id, job.c.owner_uin)
    .where(
        job.c.state.in_(OPEN),  # has an index, `terminating` has none
        (job.c.state == State.SUBMITTED.value) | and_(job.c.terminating, ~_IS_TOLD_TO_END),
        _IS_WELL,
    )
    .order_by(job.c.state != State.SUBMITTED.value, job.c.priority.desc(), job.c.created_at)
    .limit(bindparam("most"))
)
"""New ones first: those that are terminating may take long, and nobody is to wait for them.
`sick`: those that are left alone for now. `told_to_end`: those that only wait for attempts to end;
there may be more of them than are looked at in a round."""
JOBS_TO_FAIL = (
    select(task.c.job_id)
    .join(job, job.c.id == task.c.job_id)
    .where(
        job.c.state.in_(OPEN),
        HAS_SOME_TO_FAIL,
        _IS_WELL,
    )
    .distinct()
    .limit(bindparam("most"))
)
_first_of_all = _first_in_line()
_in_line = (
    select(
        task.c.job_id,
        job.c.owner_uin,
        task.c.env_id,
        task.c.runnable,
        task.c.concurrent_max,
        (task.c.starting + task.c.running).label("busy"),
        task.c.mem_gib,
        job.c.created_at,
        func.row_number()
        .over(
            partition_by=job.c.owner_uin,
            order_by=(job.c.priority.desc(), job.c.created_at, job.c.id, task.c.position),
        )
        .label("place"),
    )
    .join(job, job.c.id == task.c.job_id)
    .outerjoin(_first_of_all, _first_of_all.c.env_id == task.c.env_id)
    .where(
        _placeable(_first_of_all, urgency=job.c.priority, since=job.c.created_at),
        job.c.state != State.SUBMITTED.value,
        ~job.c.terminating,
        _IS_WELL,
    )
    .subquery()
)
WAITING_TASKS = (
    select(*[_in_line.c[name] for name in QueuedTask._fields])
    .where(_in_line.c.place <= bindparam("most"))
    .order_by(_in_line.c.place, _in_line.c.created_at, _in_line.c.job_id)
)
"""Tasks of which an instance could be started now, `most` of each account: the most urgent of each
first, then the second of each. Among those, the oldest first.

Why so many of each account, and not of all: those of one may all wait for memory, which is no
reason for another to wait."""
