"""Jobs as transactions: submit, terminate, delete."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Protocol

import msgspec
from sqlalchemy import Row

from gateway.batch import datatypes
from gateway.batch import statements as sql
from gateway.batch.mappings import check_kept_places
from gateway.batch.notices import dump_notifications, unknown_topic
from gateway.batch.secrets import Vault, drop_secrets, encode_masked, secrets_of
from gateway.batch.staging.places import EnvStorage
from gateway.batch.states import COUNTERS, FINAL, State, Trigger, can
from gateway.batch.validation import JobPlan, TaskPlan
from gateway.call import Principal
from gateway.errors import (
    InvalidParameterValue,
    LimitExceeded,
    ResourceInUse,
    ResourceNotFound,
    UnsupportedOperation,
)
from gateway.events.messages import Notification
from gateway.ids import NewId
from gateway.store import Tx

CLIENT_TOKEN_MAX = 64
CLIENT_TOKEN_LIFE = timedelta(hours=24)
JOBS_MAX = 1_000
"""The vendor's quota: so many jobs an account may have in a region."""
INSTANCES_STORED_AT_ONCE = 5_000
JOBS = "jobs"
"""The signal that wakes the scheduler."""
TERMINATIONS = "terminations"
"""Woken, beside `JOBS`, when an instance that the engine has is to end."""


class TopicExists(Protocol):
    """Tells whether an account has a topic; the topics belong to another room."""

    def __call__(self, tx: Tx, *, owner_uin: str, region: str, name: str) -> bool:
        """Look a topic up by name, inside the caller's transaction."""
        ...


def submit(
    tx: Tx,
    plan: JobPlan,
    *,
    principal: Principal,
    region: str,
    placement: datatypes.Placement,
    topic_exists: TopicExists,
    vault: Vault,
    now: datetime,
    new_id: NewId,
    jobs_max: int | None = None,
) -> str:
    """Store a job with everything in it; returns its id. The scheduler takes it from here.

    jobs_max: how many the account may have in a region; calls that come at once may exceed it by
    their number. Raises ResourceNotFound for an environment, InvalidParameter for a topic that is
    not there, LimitExceeded.JobQuota.
    """
    if jobs_max is not None:
        _check_quota(tx, principal, region=region, jobs_max=jobs_max)
    check_topics(tx, plan.notifications, principal, region, topic_exists)
    _check_envs(tx, plan, principal=principal, region=region)
    job_id = new_id("job")
    row = _job_row(job_id, plan, placement=placement, now=now)
    owner = {"owner_uin": principal.owner_uin, "region": region, "created_by": principal.uin}
    tx.execute(sql.ADD_JOB, {**row, **owner})
    store_tags(tx, job_id, plan.submitted.tags)
    tx.execute(sql.ADD_TASK, [_task_row(job_id, task, now=now) for task in plan.tasks])
    vault.store(tx, job_id, {task.position: secrets_of(task.spec) for task in plan.tasks})
    if plan.dependences:
        rows = [{"job_id": job_id, "start": start, "end": end} for start, end in plan.dependences]
        tx.execute(sql.ADD_DEPENDENCE, rows)
    _store_instances(tx, job_id, plan, now=now)
    tx.wake(JOBS)
    return job_id


def _store_instances(tx: Tx, job_id: str, plan: JobPlan, *, now: datetime) -> None:
    """Store the instances of all tasks. Why in portions: there may be a hundred thousand rows."""
    rows = (
        _instance_row(job_id, task.position, number, now=now)
        for task in plan.tasks
        for number in range(task.instances)
    )
    while portion := list(islice(rows, INSTANCES_STORED_AT_ONCE)):
        tx.execute(sql.ADD_INSTANCE, portion)


def store_tags(tx: Tx, resource_id: str, tags: Sequence[datatypes.Tag]) -> None:
    """Keep the tags of a job, an environment or a template."""
    if tags:
        rows = [{"resource_id": resource_id, "key": tag.key, "value": tag.value} for tag in tags]
        tx.execute(sql.ADD_TAG, rows)


def check_topics(
    tx: Tx,
    notifications: tuple[Notification, ...],
    principal: Principal,
    region: str,
    topic_exists: TopicExists,
) -> None:
    """Refuse a topic that the account does not have in this region.

    Why: no source says whether the vendor checks this. A message to a topic that is not there
    would be lost in silence, so it is refused.
    """
    for notification in notifications:
        topic = notification.topic
        if not topic_exists(tx, owner_uin=principal.owner_uin, region=region, name=topic):
            raise unknown_topic(topic)


def _check_quota(tx: Tx, principal: Principal, *, region: str, jobs_max: int) -> None:
    keys = {"owner_uin": principal.owner_uin, "region": region}
    if tx.execute(sql.COUNT_JOBS, keys).scalar_one() >= jobs_max:
        raise LimitExceeded(
            f"The account has {jobs_max} jobs in this region already; delete some first.",
            detail="JobQuota",
        )


def _check_envs(tx: Tx, plan: JobPlan, *, principal: Principal, region: str) -> None:
    named = {task.spec.env_id for task in plan.tasks if task.spec.env_id is not None}
    for env_id in sorted(named):  # in one order, so that two jobs never wait for each other
        keys = {"env_id": env_id, "owner_uin": principal.owner_uin, "region": region}
        row = tx.execute(sql.LOCK_USABLE_ENV, keys).first()
        if row is None:
            raise ResourceNotFound(
                f"The environment `{env_id}` does not exist.", detail="ComputeEnv"
            )
        env = msgspec.json.decode(row.created, type=EnvStorage)
        for task in plan.tasks:
            if task.spec.env_id == env_id:
                check_kept_places(
                    task.spec, env_inputs=env.input_mappings, env_disks=env.mount_data_disks
                )


def _job_row(
    job_id: str, plan: JobPlan, *, placement: datatypes.Placement, now: datetime
) -> dict[str, Any]:
    return {
        "id": job_id,
        "name": plan.name,
        "description": plan.description,
        "priority": plan.priority,
        "zone": plan.zone,
        "state": State.SUBMITTED.value,
        "state_reason": "",
        "depend_on": plan.depend_on,
        "terminating": False,
        "state_if_no_node": plan.submitted.state_if_create_cvm_failed or "FAILED",
        "files_dropped": False,
        "placement": msgspec.json.encode(placement),
        "submitted": msgspec.json.encode(msgspec.structs.replace(plan.submitted, tasks=[])),
        "notifications": dump_notifications(plan.notifications),
        "created_at": now,
        "ended_at": None,
    }


def _task_row(job_id: str, task: TaskPlan, *, now: datetime) -> dict[str, Any]:
    spec = msgspec.structs.replace(task.spec, task_name=task.name)
    counters = dict.fromkeys(COUNTERS, 0)
    return {
        "job_id": job_id,
        "position": task.position,
        "name": task.name,
        "state": State.SUBMITTED.value,
        "spec": encode_masked(spec),
        "env_id": task.spec.env_id,
        "cpu": task.size.cpu,
        "mem_gib": task.size.mem_gib,
        "concurrent_max": task.concurrent_max,
        "node_failures": 0,
        "node_retry_at": None,
        "node_reason": "",
        "blockers": task.blockers,
        "doom": "",
        "created_at": now,
        "ended_at": None,
        **counters,
        "submitted": task.instances,
    }


def _instance_row(job_id: str, position: int, number: int, *, now: datetime) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "position": position,
        "number": number,
        "state": State.SUBMITTED.value,
        "attempt": 0,
        "first_attempt": 1,
        "terminating": False,
        "failures": 0,
        "losses": 0,
        "node_id": "",
        "node_instance_id": "",
        "exit_code": None,
        "cause": None,
        "reason": "",
        "created_at": now,
        "launched_at": None,
        "running_at": None,
        "ended_at": None,
    }


def find_job(tx: Tx, job_id: str, *, principal: Principal, region: str) -> Row[Any] | None:
    """An account's job in a region; None if there is none with this id."""
    keys = {"job_id": job_id, "owner_uin": principal.owner_uin, "region": region}
    return tx.execute(sql.FIND_JOB, keys).first()


def get_job(tx: Tx, job_id: str, *, principal: Principal, region: str) -> Row[Any]:
    """An account's job in a region. Raises ResourceNotFound.Job."""
    row = find_job(tx, job_id, principal=principal, region=region)
    if row is None:
        raise no_such_job(job_id)
    return row


def no_such_job(job_id: str) -> ResourceNotFound:
    """The error for a job that is not there, or is another account's."""
    return ResourceNotFound(f"The job `{job_id}` does not exist.", detail="Job")


def get_job_locked(tx: Tx, job_id: str, *, principal: Principal, region: str) -> Row[Any]:
    """An account's job in a region, which nobody else moves meanwhile. Raises ResourceNotFound."""
    keys = {"job_id": job_id, "owner_uin": principal.owner_uin, "region": region}
    row = tx.execute(sql.LOCK_OWN_JOB, keys).first()
    if row is None:
        raise no_such_job(job_id)
    return row


def terminate(tx: Tx, job_id: str, *, principal: Principal, region: str) -> None:
    """Ask for a job's end; the scheduler carries it out. Nothing happens to one that is over.

    Raises UnsupportedOperation while the job is SUBMITTED, as documented.
    """
    row = get_job_locked(tx, job_id, principal=principal, region=region)
    state = State(row.state)
    if can(state, Trigger.READY):
        raise UnsupportedOperation(
            f"The job `{job_id}` is {row.state} and cannot be terminated yet."
        )
    if state not in FINAL:
        tx.execute(sql.MARK_TERMINATING, {"job_id": job_id})
        tx.wake(JOBS)


def delete(tx: Tx, job_id: str, *, principal: Principal, region: str) -> None:
    """Remove a finished job and everything known of it, its events excepted.

    Raises ResourceInUse.Job if it is not finished. Why: UnsupportedOperation is listed as well;
    the newer code says more.
    """
    row = get_job_locked(tx, job_id, principal=principal, region=region)
    if State(row.state) not in FINAL:
        raise ResourceInUse(
            f"The job `{job_id}` is {row.state}; only a job that is SUCCEED or FAILED can be"
            " deleted.",
            detail="Job",
        )
    tx.execute(sql.DROP_TAGS, {"of_id": job_id})
    drop_secrets(tx, job_id)
    tx.execute(sql.DROP_JOB, {"job_id": job_id})


def once(
    tx: Tx,
    make: Callable[[], str],
    *,
    token: str | None,
    request: msgspec.Struct,
    action: str,
    principal: Principal,
    region: str,
    vault: Vault,
    now: datetime,
) -> str:
    """Make something once for a ClientToken: the same call again gets the same id.

    Raises InvalidParameterValue for a token that is too long, or came with other parameters. Why:
    no source tells what the vendor does then; doing something else than asked would be worse.
    """
    if not token:
        return make()
    if len(token) > CLIENT_TOKEN_MAX or not token.isascii():
        raise InvalidParameterValue(
            f"ClientToken is not at most {CLIENT_TOKEN_MAX} ASCII characters."
        )
    digest = hashlib.sha256(encode_masked(request)).hexdigest()
    claim = {
        "owner_uin": principal.owner_uin,
        "uin": principal.uin,
        "region": region,
        "action": action,
        "token": token,
        "request_sha256": digest,
        "sealed_digest": None,
        "made_id": "",
        "created_at": now,
    }
    tx.execute(sql.CLAIM_TOKEN[tx.dialect], claim)
    keys = {
        "of_owner": principal.owner_uin,
        "of_uin": principal.uin,
        "in_region": region,
        "for_action": action,
        "this_token": token,
    }
    row = tx.execute(sql.LOCK_TOKEN, keys).one()
    if row.made_id and row.created_at > now - CLIENT_TOKEN_LIFE:
        sealed = row.sealed_digest
        if row.request_sha256 != digest or (sealed and not vault.has_digest(sealed, request)):
            raise InvalidParameterValue("ClientToken was used before with other parameters.")
        known: str = row.made_id
        return known
    made = make()
    sealed = vault.seal_digest(request)
    settled = {"digest": digest, "sealed": sealed, "made": made, "now": now}
    tx.execute(sql.SETTLE_TOKEN, {**keys, **settled})
    return made
