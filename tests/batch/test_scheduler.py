"""The scheduler on every kind of database, with an engine in memory that misbehaves on request."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from sqlalchemy import text, update

from gateway.batch.attempts import parse_attempt
from gateway.batch.engines import Cause, Launch
from gateway.batch.storage.local import LocalStorage
from gateway.batch.tables import compute_node
from gateway.store import Store
from tests.support.batch import Batch, a_task, check_rows, events_of, eventually, only
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio
COS = "cos://batchdemo-1251783334.cos.ap-guangzhou.myqcloud.com/logs/"
OVER = ("SUCCEED", "FAILED")


def fake(folder: Path, answer: Callable[[Launch], int | None], *, capacity: int = 8) -> FakeEngine:
    return FakeEngine(folder, capacity=capacity, answer=answer)


async def running(engine: FakeEngine, count: int) -> list[str]:
    """Wait until so many attempts run; returns them."""

    async def enough() -> bool:
        return len(engine.running) >= count

    await eventually(enough)
    return list(engine.running)


async def test_a_job_is_run_from_its_submission_to_its_last_event(
    store: Store, tmp_path: Path
) -> None:
    batch = Batch(store, fake(tmp_path, lambda _: 0), folder=tmp_path)
    async with batch.scheduling():
        job_id = await batch.submit(a_task("a", 20), a_task("b"), after=["a b"])
        assert await batch.until_state(job_id, *OVER) == "SUCCEED"

        async def acknowledged() -> bool:
            return not batch.engine.outcomes

        await eventually(acknowledged)
    events = only(await events_of(store, job_id), "JOB", "TASK")
    assert events[:3] == ["JOB_RUNNING", "TASK_RUNNING", "TASK_INSTANCE_RUNNING"]
    assert events[-3:] == ["TASK_INSTANCE_SUCCEED", "TASK_SUCCEED", "JOB_SUCCEED"]
    assert Counter(events)["TASK_INSTANCE_SUCCEED"] == 21
    assert len(batch.engine.started) == 21
    await check_rows(store, job_id)


async def test_a_command_is_launched_with_its_variables_and_limits(batch: Batch) -> None:
    variables = [{"Name": "COLOUR", "Value": "blue"}]
    async with batch.scheduling():
        job_id = await batch.submit(a_task("a", 2, EnvVars=variables, Timeout=60))
        await running(batch.engine, 2)
    launch = sorted(batch.engine.started, key=lambda each: each.attempt_id)[1]
    assert (launch.command, launch.timeout_s) == ("echo a", 60)
    assert launch.folder == f"{job_id}/0/1.1"
    assert launch.environment == {
        "COLOUR": "blue",
        "BATCH_JOB_ID": job_id,
        "BATCH_TASK_NAME": "a",
        "BATCH_TASK_INSTANCE_NUM": "2",
        "BATCH_TASK_INSTANCE_INDEX": "1",
    }


async def test_no_more_attempts_run_at_once_than_the_engine_has_places(
    store: Store, tmp_path: Path
) -> None:
    engine = fake(tmp_path, lambda _: None, capacity=5)
    batch = Batch(store, engine, folder=tmp_path)
    most = 0
    async with batch.scheduling():
        jobs = [await batch.submit(a_task(instances=6), a_task("b", 3)) for _ in range(4)]
        while len(engine.started) < 36:
            await running(engine, 1)
            most = max(most, len(engine.running))
            engine.exit(next(iter(engine.running)), 0)
            await anyio.lowlevel.checkpoint()
        while engine.running:
            engine.exit(next(iter(engine.running)), 0)
        for job_id in jobs:
            assert await batch.until_state(job_id, *OVER) == "SUCCEED"
    assert most == 5


async def test_the_most_urgent_job_gets_the_places_that_become_free(
    store: Store, tmp_path: Path
) -> None:
    engine = fake(tmp_path, lambda _: None, capacity=2)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        low = await batch.submit(a_task(instances=6), Priority=1)
        first = await running(engine, 2)
        high = await batch.submit(a_task(instances=3), Priority=50)
        await batch.until_state(high, "RUNNABLE")
        middle = await batch.submit(a_task(instances=1), Priority=10)
        await batch.until_state(middle, "RUNNABLE")
        for attempt in first:
            engine.exit(attempt, 0)
        while len(engine.started) < 10:
            await running(engine, min(2, 10 - len(engine.started) + len(engine.running)))
            engine.exit(next(iter(engine.running)), 0)
            await anyio.lowlevel.checkpoint()
        while engine.running:
            engine.exit(next(iter(engine.running)), 0)
        for job_id in (low, middle, high):
            await batch.until_state(job_id, *OVER)
    order = [launch.attempt_id.partition(".")[0] for launch in engine.started]
    assert order == [low] * 2 + [high] * 3 + [middle] + [low] * 4


async def test_a_named_environment_runs_one_attempt_a_node(store: Store, tmp_path: Path) -> None:
    engine = fake(tmp_path, lambda _: None, capacity=50)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        env_id = await batch.create_env(3)
        jobs = [await batch.submit(a_task(instances=5, EnvId=env_id)) for _ in range(2)]
        for _ in range(10):
            await running(engine, 1)
            assert len(engine.running) <= 3
            for job_id in jobs:
                await check_rows(store, job_id)
            engine.exit(next(iter(engine.running)), 0)
        for job_id in jobs:
            assert await batch.until_state(job_id, *OVER) == "SUCCEED"
        answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
        assert [n["TaskInstanceNumAvailable"] for n in answer["ComputeNodeSet"]] == [1] * 3


async def test_a_running_job_is_stopped_and_fails(batch: Batch) -> None:
    async with batch.scheduling():
        job_id = await batch.submit(a_task(instances=30, MaxRetryCount=5))
        await running(batch.engine, 16)
        await batch.call("TerminateJob", JobId=job_id)
        assert await batch.until_state(job_id, *OVER) == "FAILED"
    assert len(batch.engine.started) == 16
    assert not batch.engine.running


class Stubborn(FakeEngine):
    """Notes what it is to stop, and stops nothing until a test ends it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: list[str] = []

    async def stop(self, attempt_ids: Sequence[str]) -> None:
        self.asked += attempt_ids


async def test_a_termination_does_not_wait_for_those_that_were_asked_for_before(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.batch.scheduler.JOBS_AT_ONCE", 1)
    monkeypatch.setattr("gateway.batch.scheduler.IDLE_S", 3_600)
    engine = Stubborn(tmp_path)
    batch = Batch(store, engine, folder=tmp_path)

    async def asked(times: int) -> bool:
        return Counter(engine.asked) == Counter(dict.fromkeys(engine.running, times))

    async with batch.scheduling():
        jobs = [await batch.submit() for _ in range(3)]
        attempts = await running(engine, 3)
        for job_id in jobs:
            await batch.call("TerminateJob", JobId=job_id)
        await eventually(partial(asked, 1))
        engine.reconnect()  # it may have forgotten
        await eventually(partial(asked, 2))
        for attempt in attempts:
            engine.end(attempt, exit_code=None, cause=Cause.TERMINATED)
        for job_id in jobs:
            assert await batch.until_state(job_id, *OVER) == "FAILED"


async def test_an_interrupted_job_is_terminated(store: Store, tmp_path: Path) -> None:
    batch = Batch(store, fake(tmp_path, lambda _: 1), folder=tmp_path)
    async with batch.scheduling():
        job_id = await batch.submit(a_task(FailedAction="INTERRUPT"))
        assert await batch.until_state(job_id, "FAILED_INTERRUPTED", *OVER) == "FAILED_INTERRUPTED"
        await batch.call("TerminateJob", JobId=job_id)
        assert await batch.until_state(job_id, *OVER) == "FAILED"


async def test_thousands_of_doomed_instances_fail_without_waiting(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.batch.scheduler.IDLE_S", 3_600)
    batch = Batch(store, fake(tmp_path, lambda _: 1), folder=tmp_path)
    async with batch.scheduling():
        job_id = await batch.submit(a_task("a"), a_task("b", 5_000), after=["a b"])
        assert await batch.until_state(job_id, *OVER) == "FAILED"
    await check_rows(store, job_id)


async def test_a_failure_is_retried_as_often_as_the_task_says(store: Store, tmp_path: Path) -> None:
    codes: Counter[str] = Counter()

    def second_time_lucky(launch: Launch) -> int:
        instance = launch.attempt_id.rpartition(".")[0]
        codes[instance] += 1
        return 0 if codes[instance] == 2 else 1

    batch = Batch(store, fake(tmp_path, second_time_lucky), folder=tmp_path)
    async with batch.scheduling():
        lucky = await batch.submit(a_task(instances=10, MaxRetryCount=1))
        hasty = await batch.submit(a_task(instances=10))
        assert await batch.until_state(lucky, *OVER) == "SUCCEED"
        assert await batch.until_state(hasty, *OVER) == "FAILED"
    assert len(batch.engine.started) == 30


async def test_a_new_scheduler_goes_on_and_runs_nothing_twice(store: Store, tmp_path: Path) -> None:
    engine = fake(tmp_path, lambda _: None, capacity=4)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        job_id = await batch.submit(a_task(instances=6))
        first = await running(engine, 4)
    engine.exit(first[0], 0)  # told to nobody who remembers it
    engine.reconnect()
    async with batch.scheduling():
        await running(engine, 4)
        while len(engine.started) < 6 or engine.running:
            for attempt in list(engine.running):
                engine.exit(attempt, 0)
            await anyio.lowlevel.checkpoint()
        assert await batch.until_state(job_id, *OVER) == "SUCCEED"
    ids = [launch.attempt_id for launch in engine.started]
    assert sorted(ids) == [f"{job_id}.0.{number}.1" for number in range(6)]


async def test_what_was_placed_and_never_handed_over_is_started_under_the_same_name(
    store: Store, tmp_path: Path
) -> None:
    engine = Deaf(tmp_path, capacity=2)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        job_id = await batch.submit(a_task(instances=2))
        await batch.until_state(job_id, "STARTING")
    assert engine.started == []
    engine.deaf = False
    engine.reconnect()
    async with batch.scheduling():
        attempts = await running(engine, 2)
    assert sorted(attempts) == [f"{job_id}.0.0.1", f"{job_id}.0.1.1"]


class Deaf(FakeEngine):
    """Does not hear what it is to start, as an engine that dies at that moment."""

    deaf = True

    async def start(self, launches: Sequence[Launch]) -> None:
        if not self.deaf:
            await super().start(launches)
        elif launches:
            raise ConnectionResetError("the engine has gone")


async def test_an_engine_that_fails_is_told_again_without_a_restart(
    store: Store, tmp_path: Path
) -> None:
    engine = Deaf(tmp_path, capacity=2, answer=lambda _: 0)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        job_id = await batch.submit(a_task(instances=3))
        await batch.until_state(job_id, "STARTING")
        engine.deaf = False
        assert await batch.until_state(job_id, *OVER) == "SUCCEED"
    assert len({launch.attempt_id for launch in engine.started}) == len(engine.started) == 3


async def test_attempts_that_an_engine_has_lost_are_run_again_elsewhere(batch: Batch) -> None:
    engine = batch.engine
    async with batch.scheduling():
        job_id = await batch.submit(a_task(instances=2))
        lost, kept = sorted(await running(engine, 2))
        await batch.until_state(job_id, "RUNNING")
        del engine.running[lost]
        engine.reconnect()

        async def again() -> bool:
            return f"{job_id}.0.0.2" in engine.running

        await eventually(again)
        for attempt in (kept, f"{job_id}.0.0.2"):
            engine.exit(attempt, 0)
        assert await batch.until_state(job_id, *OVER) == "SUCCEED"
    [instance, _] = await batch.instances(job_id)
    assert instance["StateReason"] == ""


async def test_a_job_that_cannot_be_moved_stops_no_other(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.batch.scheduler.IDLE_S", 0.2)
    monkeypatch.setattr("gateway.batch.scheduler.RETRY_S", 0.2)
    engine = fake(tmp_path, lambda _: None)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        sick = await batch.submit()
        [attempt] = await running(engine, 1)
        await batch.until_state(sick, "RUNNING")
        # its events cannot be numbered any more: the next one is there already
        clash = text("UPDATE event_stream SET seq = 0 WHERE id = :id")
        await store.write(lambda tx: tx.execute(clash, {"id": sick}))
        engine.exit(attempt, 0)
        well = await batch.submit()
        [other] = await running(engine, 1)
        engine.exit(other, 0)
        assert await batch.until_state(well, *OVER) == "SUCCEED"
        assert await batch.state(sick) == "RUNNING"
        assert set(engine.outcomes) >= {attempt}, "what is not stored is not acknowledged"
        mended = text(
            "UPDATE event_stream SET seq = (SELECT max(seq) FROM event WHERE stream_id = :id)"
            " WHERE id = :id"
        )
        await store.write(lambda tx: tx.execute(mended, {"id": sick}))
        assert await batch.until_state(sick, *OVER) == "SUCCEED"


async def test_output_goes_to_the_bucket_before_the_end_is_told(
    store: Store, tmp_path: Path
) -> None:
    engine = fake(tmp_path, lambda _: None)
    batch = Batch(store, engine, folder=tmp_path)
    redirect = {"StdoutRedirectPath": COS, "StderrRedirectPath": COS}
    async with batch.scheduling():
        job_id = await batch.submit(a_task("render", RedirectInfo=redirect))
        [attempt] = await running(engine, 1)
        for stream in ("stdout", "stderr"):
            path = engine.log_path(parse_attempt(attempt).folder, stream)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(stream)
        engine.exit(attempt, 0)
        assert await batch.until_state(job_id, *OVER) == "SUCCEED"
    folder = tmp_path / "cos" / "batchdemo-1251783334" / "logs"
    for stream in ("stdout", "stderr"):
        assert (folder / f"{stream}.{job_id}.render.0.log").read_text() == stream


class SlowStorage(LocalStorage):
    """Stores a file only once it may."""

    def __init__(self, root: Path, may: Event) -> None:
        super().__init__(root)
        self._may = may

    def put_file(self, *args: Any, **kwargs: Any) -> None:
        assert self._may.wait(timeout=60)
        super().put_file(*args, **kwargs)


async def test_output_that_is_slow_to_store_holds_up_no_other_job(
    store: Store, tmp_path: Path
) -> None:
    engine = fake(tmp_path, lambda _: None)
    batch = Batch(store, engine, folder=tmp_path)
    held = Event()
    batch.storage = SlowStorage(tmp_path / "cos", held)
    async with batch.scheduling():
        slow = await batch.submit(a_task(RedirectInfo={"StdoutRedirectPath": COS}))
        [attempt] = await running(engine, 1)
        path = engine.log_path(parse_attempt(attempt).folder, "stdout")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("at last")
        engine.exit(attempt, 0)
        other = await batch.submit(a_task())
        [another] = await running(engine, 1)
        engine.exit(another, 0)
        assert await batch.until_state(other, *OVER) == "SUCCEED"
        assert await batch.state(slow) == "RUNNING"
        held.set()
        assert await batch.until_state(slow, *OVER) == "SUCCEED"


async def test_output_that_cannot_be_stored_fails_its_instance(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "cos").write_text("a file where the buckets should be")
    engine = fake(tmp_path, lambda _: None)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        job_id = await batch.submit(
            a_task(RedirectInfo={"StdoutRedirectPath": COS}, MaxRetryCount=3)
        )
        [attempt] = await running(engine, 1)
        path = engine.log_path(parse_attempt(attempt).folder, "stdout")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        engine.exit(attempt, 0)
        assert await batch.until_state(job_id, *OVER) == "FAILED"
    [instance] = await batch.instances(job_id)
    assert instance["StateReason"] == "STORAGE"
    assert instance["ExitCode"] == 0


async def test_a_timeout_is_told_as_such(batch: Batch) -> None:
    async with batch.scheduling():
        job_id = await batch.submit(a_task(Timeout=1))
        [attempt] = await running(batch.engine, 1)
        batch.engine.end(attempt, exit_code=None, cause=Cause.TIMEOUT)
        assert await batch.until_state(job_id, *OVER) == "FAILED"
    [instance] = await batch.instances(job_id)
    assert instance["StateDetailedReason"] == "The command ran longer than its Timeout of 1 s."


async def test_deleting_a_job_removes_its_files_and_no_others(store: Store, tmp_path: Path) -> None:
    engine = fake(tmp_path, lambda _: 0)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        jobs = [await batch.submit() for _ in range(2)]
        for job_id in jobs:
            await batch.until_state(job_id, *OVER)
    paths = [engine.log_path(f"{job_id}/0/0.1", "stdout") for job_id in jobs]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text("x")
    await batch.call("DeleteJob", JobId=jobs[0])
    assert [path.exists() for path in paths] == [False, True]


async def test_a_node_that_is_not_running_takes_no_work(store: Store, batch: Batch) -> None:
    async with batch.scheduling():
        env_id = await batch.create_env(2)

        async def ready() -> bool:
            answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
            return bool(answer["ComputeNodeMetrics"]["RunningCount"] == 2)

        await eventually(ready)
        answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
        broken = answer["ComputeNodeSet"][0]["ComputeNodeId"]
        abnormal = update(compute_node).where(compute_node.c.id == broken).values(state="ABNORMAL")
        await store.write(lambda tx: tx.execute(abnormal))
        job_id = await batch.submit(a_task(instances=3, EnvId=env_id))
        for number in range(3):
            [attempt] = await running(batch.engine, 1)
            assert attempt == f"{job_id}.0.{number}.1"
            batch.engine.exit(attempt, 0)
        assert await batch.until_state(job_id, *OVER) == "SUCCEED"
