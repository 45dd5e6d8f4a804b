"""RetryJobs and TerminateTaskInstance on every kind of database."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from gateway.batch.engines import Cause
from gateway.batch.interventions import RETRIED_MAX
from gateway.batch.jobs import JOBS, TERMINATIONS
from gateway.batch.reasons import STARTING
from gateway.batch.rules import Rules
from gateway.batch.tables import compute_node, job, task_instance
from gateway.call import Principal
from gateway.errors import ApiError
from gateway.store import Store
from tests.support.batch import KEEPS, Batch, Turns, a_task, check_rows, events_of
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio
OTHER_ACCOUNT = Principal("200000000002", "200000000002", "root")


async def code_of(batch: Batch, action: str, **params: Any) -> str:
    with pytest.raises(ApiError) as caught:
        await batch.call(action, **params)
    return caught.value.code


async def states_of(batch: Batch, job_id: str, task_name: str = "a") -> list[str]:
    shown = await batch.instances(job_id, task_name)
    return [each["TaskInstanceState"] for each in shown]


async def make_env(store: Store, batch: Batch, *, nodes: int) -> str:
    env_id = await batch.create_env(nodes)
    joined = update(compute_node).where(compute_node.c.env_id == env_id).values(state="RUNNING")
    await store.write(lambda tx: tx.execute(joined))
    return env_id


async def fates_of(store: Store, env_id: str) -> list[tuple[str, str]]:
    query = select(compute_node.c.busy_with, compute_node.c.fate).where(
        compute_node.c.env_id == env_id
    )
    rows = await store.read_list(lambda tx: tx.execute(query).all())
    return [(row.busy_with, row.fate) for row in rows]


async def end_instance(batch: Batch, job_id: str, index: int = 0, task_name: str = "a") -> None:
    await batch.call(
        "TerminateTaskInstance", JobId=job_id, TaskName=task_name, TaskInstanceIndex=index
    )


# RetryJobs ---------------------------------------------------------------------------------------


async def test_only_what_failed_runs_again_and_its_history_is_lost(
    store: Store, batch: Batch
) -> None:
    turns = Turns(store, await batch.submit(a_task(instances=4)))
    placed = await turns.turn(slots=9)
    codes = [0, 3, 0, 0]
    await turns.turn(*map(turns.ended, placed, codes))
    before = await batch.instances(turns.job_id)
    woken = store.signals.count(JOBS)
    await batch.call("RetryJobs", JobIds=[turns.job_id])
    assert store.signals.count(JOBS) > woken
    after = await batch.instances(turns.job_id)
    assert [each["TaskInstanceState"] for each in after] == [
        "SUCCEED",
        "SUBMITTED",
        "SUCCEED",
        "SUCCEED",
    ]
    assert [after[n] for n in (0, 2, 3)] == [before[n] for n in (0, 2, 3)]
    reset = after[1]
    assert [reset[name] for name in ("ExitCode", "LaunchTime", "RunningTime", "EndTime")] == [
        None
    ] * 4
    answer = await batch.call("DescribeJob", JobId=turns.job_id)
    assert (answer["JobState"], answer["EndTime"]) == ("SUBMITTED", None)
    assert answer["TaskSet"][0]["EndTime"] is None
    [again] = await turns.turn(slots=9)
    assert again == f"{turns.job_id}.0.1.2", "attempts are counted on: logs are never mixed"
    await turns.turn(turns.ended(again))
    assert await batch.state(turns.job_id) == "SUCCEED"
    first = select(task_instance.c.first_attempt).order_by(task_instance.c.number)
    rows = await store.read_list(lambda tx: list(tx.execute(first).scalars()))
    assert rows == [1, 2, 1, 1]
    await check_rows(store, turns.job_id)


async def test_failed_tasks_run_again_in_the_order_of_their_dependences(
    store: Store, batch: Batch
) -> None:
    tasks = [a_task(name) for name in "abcd"]
    job_id = await batch.submit(*tasks, after=["a b", "b c", "a d"])
    turns = Turns(store, job_id)
    [a] = await turns.turn(slots=9)
    b, d = await turns.turn(turns.ended(a), slots=9)
    await turns.turn(turns.ended(b, 1), turns.ended(d), slots=9)
    assert await batch.task_states(job_id) == {
        "a": "SUCCEED",
        "b": "FAILED",
        "c": "FAILED",
        "d": "SUCCEED",
    }
    await batch.call("RetryJobs", JobIds=[job_id])
    [b] = await turns.turn(slots=9)
    assert b == f"{job_id}.1.0.2"
    assert (await batch.task_states(job_id))["c"] == "PENDING"
    [c] = await turns.turn(turns.ended(b), slots=9)
    assert c == f"{job_id}.2.0.1"
    await turns.turn(turns.ended(c))
    assert await batch.state(job_id) == "SUCCEED"
    await check_rows(store, job_id)


async def test_a_task_that_succeeded_after_a_failed_one_is_not_run_again(
    store: Store, batch: Batch
) -> None:
    job_id = await batch.submit(
        a_task("a"), a_task("b"), after=["a b"], TaskExecutionDependOn="PRE_TASK_FINISHED"
    )
    turns = Turns(store, job_id)
    [a] = await turns.turn(slots=1)
    [b] = await turns.turn(turns.ended(a, 1), slots=1)
    await turns.turn(turns.ended(b))
    assert await batch.state(job_id) == "FAILED"
    await batch.call("RetryJobs", JobIds=[job_id])
    [a] = await turns.turn(slots=9)
    assert await turns.turn(turns.ended(a), slots=9) == []
    assert await batch.state(job_id) == "SUCCEED"


async def test_failures_and_losses_are_counted_anew(store: Store, batch: Batch) -> None:
    turns = Turns(store, await batch.submit(a_task(MaxRetryCount=1)))
    for attempt in range(1, 5):
        [placed] = await turns.turn(slots=1)
        assert placed.endswith(f".{attempt}")
        await turns.turn(turns.ended(placed, 1))
        if attempt == 2:
            assert await batch.state(turns.job_id) == "FAILED"
            await batch.call("RetryJobs", JobIds=[turns.job_id])
    assert await batch.state(turns.job_id) == "FAILED"


async def test_a_terminated_job_can_be_retried(store: Store, batch: Batch) -> None:
    turns = Turns(store, await batch.submit(a_task(instances=2)))
    placed = await turns.turn(slots=1)
    await batch.call("TerminateJob", JobId=turns.job_id)
    await turns.turn()
    await turns.turn(*(turns.ended(each, cause=Cause.TERMINATED) for each in placed))
    assert await batch.state(turns.job_id) == "FAILED"
    await batch.call("RetryJobs", JobIds=[turns.job_id])
    await turns.run()
    assert await batch.state(turns.job_id) == "SUCCEED"


async def test_of_several_jobs_all_or_none_are_retried(store: Store, batch: Batch) -> None:
    failed, well = [Turns(store, await batch.submit()) for _ in "ab"]
    await failed.run(1)
    await well.run(0)
    absent = "job-00000000"
    for others, code in [
        ([well.job_id], "UnsupportedOperation"),
        ([absent], "ResourceNotFound.Job"),
        (["job-X"], "InvalidParameter.JobIdMalformed"),
    ]:
        assert await code_of(batch, "RetryJobs", JobIds=[failed.job_id, *others]) == code
        assert await batch.state(failed.job_id) == "FAILED"
    await batch.call("RetryJobs", JobIds=[failed.job_id, failed.job_id])
    assert await batch.state(failed.job_id) == "SUBMITTED"
    assert await code_of(batch, "RetryJobs", JobIds=[failed.job_id]) == "UnsupportedOperation"


async def test_wrong_calls_of_retry_jobs_have_their_codes(store: Store, batch: Batch) -> None:
    failed = Turns(store, await batch.submit())
    await failed.run(1)
    many = [f"job-{number:08}" for number in range(RETRIED_MAX + 1)]
    assert await code_of(batch, "RetryJobs", JobIds=many) == "InvalidParameterValue"
    assert await code_of(batch, "RetryJobs", JobIds=[]) == "InvalidParameterValue"
    assert await code_of(batch, "RetryJobs") == "MissingParameter"
    ids = [failed.job_id]
    others: list[dict[str, Any]] = [{"region": "ap-beijing"}, {"who": OTHER_ACCOUNT}]
    for other in others:
        assert await code_of(batch, "RetryJobs", JobIds=ids, **other) == "ResourceNotFound.Job"


async def test_a_job_that_is_not_failed_cannot_be_retried(store: Store, batch: Batch) -> None:
    turns = Turns(store, await batch.submit(a_task(**KEEPS)))

    async def is_refused_in(state: str) -> None:
        assert await batch.state(turns.job_id) == state
        assert await code_of(batch, "RetryJobs", JobIds=[turns.job_id]) == "UnsupportedOperation"
        assert await batch.state(turns.job_id) == state

    await is_refused_in("SUBMITTED")
    await turns.turn()
    await is_refused_in("RUNNABLE")
    [placed] = await turns.turn(slots=1)
    await is_refused_in("STARTING")
    await turns.turn(turns.started(placed))
    await is_refused_in("RUNNING")
    await turns.turn(turns.ended(placed, 1))
    await is_refused_in("FAILED_INTERRUPTED")


async def test_a_job_whose_environment_is_gone_cannot_be_retried(
    store: Store, batch: Batch
) -> None:
    env_id = await batch.create_env(0)
    turns = Turns(store, await batch.submit(a_task(EnvId=env_id)))
    await turns.turn()
    await batch.call("TerminateJob", JobId=turns.job_id)
    await turns.turn()
    assert await batch.state(turns.job_id) == "FAILED"
    await batch.call("DeleteComputeEnv", EnvId=env_id)
    assert await code_of(batch, "RetryJobs", JobIds=[turns.job_id]) == "UnsupportedOperation"


async def test_a_retried_job_keeps_its_logs_for_as_long_again(store: Store, batch: Batch) -> None:
    turns = Turns(store, await batch.submit())
    await turns.run(1)
    await store.write(lambda tx: tx.execute(update(job).values(files_dropped=True)))
    await batch.call("RetryJobs", JobIds=[turns.job_id])
    dropped = select(job.c.files_dropped)
    assert await store.read_list(lambda tx: tx.execute(dropped).scalar_one()) is False


# TerminateTaskInstance ---------------------------------------------------------------------------


async def test_what_is_not_there_is_named_and_has_the_one_code_of_the_action(batch: Batch) -> None:
    job_id = await batch.submit(a_task("a"))
    gone = "job-00000000"
    for about, words in [
        ((gone, 0, "a"), f"job `{gone}` does not exist"),
        ((job_id, 0, "b"), "has no task `b`"),
        ((job_id, 1, "a"), "has no instance 1"),
    ]:
        with pytest.raises(ApiError, match=words) as caught:
            await end_instance(batch, *about)
        assert caught.value.code == "ResourceNotFound.TaskInstance"
    with pytest.raises(ApiError, match=f"job `{gone}` does not exist") as caught:
        await batch.call("DescribeTask", JobId=gone, TaskName="a")
    assert caught.value.code == "ResourceNotFound.Task"


@pytest.mark.parametrize("turns_before", [0, 1])
async def test_an_instance_that_waits_fails_at_once(
    store: Store, batch: Batch, turns_before: int
) -> None:
    job_id = await batch.submit(a_task("a"), a_task("b", 2), after=["a b"])
    turns = Turns(store, job_id)
    for _ in range(turns_before):
        await turns.turn()
    await end_instance(batch, job_id, 1, "b")
    assert await states_of(batch, job_id, "b") == ["PENDING", "FAILED"]
    [_, ended] = await batch.instances(job_id, "b")
    assert (ended["StateReason"], ended["LaunchTime"]) == ("TERMINATED", None)
    assert ended["StateDetailedReason"] == "It was terminated on request."
    await turns.run()
    assert await batch.task_states(job_id) == {"a": "SUCCEED", "b": "FAILED"}
    await check_rows(store, job_id)


async def test_ending_the_last_instance_that_waits_ends_the_job(store: Store, batch: Batch) -> None:
    job_id = await batch.submit(a_task("a"), a_task("b"), after=["a b"])
    await end_instance(batch, job_id)
    assert await batch.task_states(job_id) == {"a": "FAILED", "b": "FAILED"}
    assert await batch.state(job_id) == "FAILED"
    assert (await events_of(store, job_id))[-1] == "JOB_FAILED"
    await check_rows(store, job_id)


@pytest.mark.parametrize("is_running", [False, True])
async def test_an_instance_that_the_engine_has_is_stopped_first(
    store: Store, batch: Batch, is_running: bool
) -> None:
    turns = Turns(store, await batch.submit(a_task(instances=2, MaxRetryCount=9, **KEEPS)))
    first, second = await turns.turn(slots=2)
    if is_running:
        await turns.turn(turns.started(first))
    woken = store.signals.count(TERMINATIONS)
    await end_instance(batch, turns.job_id)
    assert store.signals.count(TERMINATIONS) > woken
    [instance, other] = await batch.instances(turns.job_id)
    assert instance["TaskInstanceState"] == ("RUNNING" if is_running else "STARTING")
    assert instance["StateReason"] == "It is being terminated on request."
    assert other["StateReason"] == STARTING
    await turns.turn(turns.ended(first, cause=Cause.TERMINATED))
    assert await states_of(batch, turns.job_id) == ["FAILED", "STARTING"]
    assert (await batch.instances(turns.job_id))[0]["StateReason"] == "TERMINATED"
    [placed] = await turns.turn(turns.ended(second, 1), slots=9)
    assert placed == f"{turns.job_id}.0.1.2", "the other one is tried again"


@pytest.mark.parametrize("cause", [Cause.USER_EXIT, Cause.INFRA_LOST, Cause.OOM])
async def test_what_is_to_end_is_neither_tried_again_nor_kept(
    store: Store, batch: Batch, cause: Cause
) -> None:
    turns = Turns(store, await batch.submit(a_task(MaxRetryCount=9, **KEEPS)))
    [placed] = await turns.turn(slots=1)
    await end_instance(batch, turns.job_id)
    assert await turns.turn(turns.ended(placed, 1, cause=cause), slots=1) == []
    assert await states_of(batch, turns.job_id) == ["FAILED"]


async def test_what_succeeds_before_it_is_stopped_has_succeeded(store: Store, batch: Batch) -> None:
    turns = Turns(store, await batch.submit())
    [placed] = await turns.turn(slots=1)
    await end_instance(batch, turns.job_id)
    await turns.turn(turns.ended(placed))
    assert await states_of(batch, turns.job_id) == ["SUCCEED"]
    before = await events_of(store, turns.job_id)
    await end_instance(batch, turns.job_id)
    assert await states_of(batch, turns.job_id) == ["SUCCEED"]
    assert await events_of(store, turns.job_id) == before


async def test_an_interrupted_elastic_instance_gives_its_node_up(
    store: Store, batch: Batch
) -> None:
    turns = Turns(store, await batch.submit(a_task(**KEEPS)))
    [placed] = await turns.turn(slots=1)
    await turns.turn(turns.ended(placed, 1))
    assert await batch.state(turns.job_id) == "FAILED_INTERRUPTED"
    await end_instance(batch, turns.job_id)
    assert await batch.state(turns.job_id) == "FAILED"
    assert (await events_of(store, turns.job_id))[-4:] == [
        "TASK_INSTANCE_FAILED",
        "COMPUTE_NODE_DELETING",
        "TASK_FAILED",
        "JOB_FAILED",
    ]


@pytest.mark.parametrize("is_kept", [False, True])
async def test_the_environments_node_is_restarted_after_a_termination(
    store: Store, batch: Batch, is_kept: bool
) -> None:
    env_id = await make_env(store, batch, nodes=1)
    turns = Turns(store, await batch.submit(a_task(EnvId=env_id, **KEEPS)))
    [placed] = await turns.turn(slots=1)
    if is_kept:
        await turns.turn(turns.ended(placed, 1))
        assert await fates_of(store, env_id) == [(placed, "")]
    await end_instance(batch, turns.job_id)
    if not is_kept:
        assert await fates_of(store, env_id) == [(placed, "")]
        await turns.turn(turns.ended(placed, cause=Cause.TERMINATED))
    assert await states_of(batch, turns.job_id) == ["FAILED"]
    assert await fates_of(store, env_id) == [("", "RESTART")]


async def test_nothing_happens_to_an_instance_that_failed(store: Store, batch: Batch) -> None:
    turns = Turns(store, await batch.submit())
    await turns.run(3)
    before = await batch.instances(turns.job_id)
    await end_instance(batch, turns.job_id)
    assert await batch.instances(turns.job_id) == before


async def test_wrong_calls_of_terminate_task_instance_have_their_codes(batch: Batch) -> None:
    job_id = await batch.submit(a_task(instances=2))
    right = {"JobId": job_id, "TaskName": "a", "TaskInstanceIndex": 1}
    missing = "ResourceNotFound.TaskInstance"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"TaskInstanceIndex": 2}, missing),
        ({"TaskInstanceIndex": -1}, missing),
        ({"TaskInstanceIndex": 2**62}, missing),
        ({"TaskName": "b"}, missing),
        ({"JobId": "job-00000000"}, missing),
        ({"who": OTHER_ACCOUNT}, missing),
        ({"region": "ap-beijing"}, missing),
        ({"JobId": "job-X"}, "InvalidParameter.JobIdMalformed"),
        ({"TaskInstanceIndex": "x"}, "InvalidParameter"),
    ]
    for wrong, code in cases:
        params: dict[str, Any] = {**right, **wrong}
        assert await code_of(batch, "TerminateTaskInstance", **params) == code, wrong
    assert await code_of(batch, "TerminateTaskInstance", JobId=job_id) == "MissingParameter"
    assert await states_of(batch, job_id) == ["SUBMITTED"] * 2
    await batch.call("TerminateTaskInstance", JobId=job_id, TaskName="a", TaskInstanceIndex="1")
    assert await states_of(batch, job_id) == ["RUNNABLE", "FAILED"]


# Quotas ------------------------------------------------------------------------------------------


async def test_the_vendors_quota_of_jobs_holds_where_it_is_set(
    store: Store, batch: Batch, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.batch.jobs.JOBS_MAX", 2)
    for _ in range(2):
        await batch.submit()
    strict = Batch(store, engine, folder=tmp_path, rules=Rules(quotas=True))
    with pytest.raises(ApiError) as caught:
        await strict.submit()
    assert caught.value.code == "LimitExceeded.JobQuota"
    await batch.submit()
    assert (await batch.call("DescribeJobs"))["TotalCount"] == 3
