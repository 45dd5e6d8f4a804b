"""What callers ask of jobs that are there: to end one instance, to run what failed again."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import bindparam, select, update

from gateway.batch import statements as sql
from gateway.batch.changes import JobChanges
from gateway.batch.jobs import JOBS, get_job_locked
from gateway.batch.progress import Progress
from gateway.batch.records import read_counts
from gateway.batch.states import Kind, State, Trigger, advance, can
from gateway.batch.tables import dependence, job, task, task_instance
from gateway.call import Principal
from gateway.errors import InvalidParameterValue, ResourceNotFound, UnsupportedOperation
from gateway.ids import NewId
from gateway.store import Conflict, Tx

RETRIED_MAX = 100
"""How many jobs one RetryJobs names at most."""

DEPENDENCES = select(dependence.c.start, dependence.c.end).where(
    dependence.c.job_id == bindparam("job_id")
)
RESET_JOB = (
    update(job)
    .where(job.c.id == bindparam("of_job"), job.c.state == bindparam("old"))
    .values(
        state=bindparam("new"),
        state_reason="",
        terminating=False,
        files_dropped=False,
        ended_at=None,
    )
)
RESET_TASKS = (
    update(task)
    .where(task.c.job_id == bindparam("of_job"), task.c.state == bindparam("old"))
    .values(
        state=bindparam("new"),
        submitted=task.c.submitted + task.c.failed,
        failed=0,
        node_failures=0,
        node_retry_at=None,
        node_reason="",
        blockers=0,
        doom="",
        ended_at=None,
    )
)
SET_BLOCKERS = (
    update(task)
    .where(task.c.job_id == bindparam("of_job"), task.c.position == bindparam("at_position"))
    .values(blockers=bindparam("open_before"))
)
RESET_INSTANCES = (
    update(task_instance)
    .where(task_instance.c.job_id == bindparam("of_job"), task_instance.c.state == bindparam("old"))
    .values(
        state=bindparam("new"),
        first_attempt=task_instance.c.attempt + 1,
        terminating=False,
        failures=0,
        losses=0,
        node_id="",
        node_instance_id="",
        exit_code=None,
        cause=None,
        reason="",
        launched_at=None,
        running_at=None,
        ended_at=None,
    )
)
_RESET_POSITIONS = select(task.c.position).where(
    task.c.job_id == bindparam("job_id"), task.c.state == bindparam("state")
)
_ENVS_NEEDED = (
    select(task.c.env_id)
    .where(
        task.c.job_id == bindparam("job_id"),
        task.c.state == State.FAILED.value,
        task.c.env_id.is_not(None),
    )
    .distinct()
    .order_by(task.c.env_id)
)


def terminate_instance(
    tx: Tx,
    job_id: str,
    task_name: str,
    number: int,
    *,
    principal: Principal,
    region: str,
    now: datetime,
    new_id: NewId,
) -> None:
    """End one instance: at once if nothing of it runs, else the engine is asked to stop it.

    Nothing happens to one that is over. Raises ResourceNotFound.TaskInstance, the only such code
    the action lists, for a job, a task or an index that is not there. Why an instance on an EnvId
    is no exception: older texts refuse it with UnsupportedOperation.TerminateOperationWithEnvId,
    and that code is listed still; the newer text says what happens instead: it is FAILED, and its
    node is restarted.
    """
    try:
        row = get_job_locked(tx, job_id, principal=principal, region=region)
    except ResourceNotFound as error:
        raise _nothing_to_end(error.message) from error
    found = tx.execute(sql.TASK_NAMED, {"job_id": job_id, "name": task_name}).first()
    if found is None:
        raise _nothing_to_end(f"The job `{job_id}` has no task `{task_name}`.")
    if not 0 <= number < read_counts(found).total:
        raise _nothing_to_end(
            f"The task `{task_name}` of the job `{job_id}` has no instance {number}."
        )
    changes = JobChanges(tx, row, now=now, new_id=new_id)
    progress = Progress(changes)
    progress.admit()
    progress.end_instance(found.position, number)
    progress.settle()
    changes.close()
    tx.wake(JOBS)


def _nothing_to_end(words: str) -> ResourceNotFound:
    return ResourceNotFound(words, detail="TaskInstance")


def retry_jobs(tx: Tx, job_ids: Sequence[str], *, principal: Principal, region: str) -> None:
    """Have what failed of these jobs run again, of all of them or of none.

    Raises UnsupportedOperation unless every one is FAILED, ResourceNotFound.Job if one is not
    there. Why all or none: no source says it, and half a success is no answer to one call.
    """
    if not 0 < len(job_ids) <= RETRIED_MAX:
        raise InvalidParameterValue(f"JobIds does not name from 1 to {RETRIED_MAX} jobs.")
    for job_id in sorted(set(job_ids)):  # in one order, so that two calls never wait for each other
        row = get_job_locked(tx, job_id, principal=principal, region=region)
        if not can(State(row.state), Trigger.RESET):
            raise UnsupportedOperation(
                f"The job `{job_id}` is {row.state}; only one that is FAILED can be retried."
            )
        _check_envs(tx, job_id, principal=principal, region=region)
        _reset(tx, job_id)
    tx.wake(JOBS)


def _check_envs(tx: Tx, job_id: str, *, principal: Principal, region: str) -> None:
    """Refuse a job whose environment was deleted since: nothing of it could ever run."""
    for env_id in tx.execute(_ENVS_NEEDED, {"job_id": job_id}).scalars().all():
        keys = {"env_id": env_id, "owner_uin": principal.owner_uin, "region": region}
        if tx.execute(sql.LOCK_USABLE_ENV, keys).first() is None:
            raise UnsupportedOperation(
                f"The job `{job_id}` needs the environment `{env_id}`, which is there no more."
            )


def _reset(tx: Tx, job_id: str) -> None:
    """Put a job, its failed tasks and their failed instances back to the beginning.

    What succeeded stays as it is, and blocks nobody: a task waits for those of its predecessors
    that are to run again.
    """
    before = State.FAILED
    after, _ = advance(Kind.JOB, before, Trigger.RESET)
    keys = {"of_job": job_id, "old": before.value, "new": after.value}
    if tx.execute(RESET_JOB, keys).rowcount != 1:
        raise Conflict(f"{job_id} is no longer {before.value}")
    tx.execute(RESET_INSTANCES, keys)
    tx.execute(RESET_TASKS, keys)
    again = set(tx.execute(_RESET_POSITIONS, {"job_id": job_id, "state": after.value}).scalars())
    pairs = tx.execute(DEPENDENCES, {"job_id": job_id}).all()
    blockers = Counter(pair.end for pair in pairs if {pair.start, pair.end} <= again)
    if blockers:
        rows = [
            {"of_job": job_id, "at_position": position, "open_before": count}
            for position, count in blockers.items()
        ]
        tx.execute(SET_BLOCKERS, rows)
