"""Places and memory: who gets them, what never starves, and what is known after a restart."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update

from gateway.batch.engines import Cause
from gateway.batch.tables import compute_node
from gateway.call import Principal
from gateway.store import Store
from tests.support.batch import Batch, Turns, a_job, a_task, eventually
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio
OVER = ("SUCCEED", "FAILED")
OTHER_ACCOUNT = Principal("200000000002", "200000000002", "root")


def sized(gib: int, *, name: str = "a", instances: int = 1, **members: Any) -> dict[str, Any]:
    """A task whose elastic nodes have so much memory."""
    data = {"InstanceTypeOptions": {"CPU": 1, "Memory": gib}}
    return a_task(name, instances, ComputeEnv={"EnvData": data}, **members)


async def running(engine: FakeEngine, count: int) -> list[str]:
    async def enough() -> bool:
        return len(engine.running) >= count

    await eventually(enough)
    return list(engine.running)


@pytest.mark.parametrize("on_env", [False, True])
async def test_what_runs_has_no_more_memory_than_the_engine(
    store: Store, tmp_path: Path, on_env: bool
) -> None:
    engine = FakeEngine(tmp_path, capacity=16, mem_gib=10)
    batch = Batch(store, engine, folder=tmp_path)
    members: dict[str, Any] = {"instances": 7}
    async with batch.scheduling():
        if on_env:
            data = {"InstanceTypeOptions": {"CPU": 1, "Memory": 3}}
            members["EnvId"] = await batch.create_env(7, EnvData=data)
        task = a_task(**members) if on_env else sized(3, **members)
        job_id = await batch.submit(task)
        for left in range(7, 0, -1):
            await running(engine, min(3, left))
            assert len(engine.running) == min(3, left)
            engine.exit(next(iter(engine.running)), 0)
        assert await batch.until_state(job_id, *OVER) == "SUCCEED"


async def test_a_large_instance_runs_alone_and_does_not_starve(
    store: Store, tmp_path: Path
) -> None:
    engine = FakeEngine(tmp_path, capacity=16, mem_gib=8)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        first = await batch.submit(sized(2, instances=4))
        await running(engine, 4)
        large = await batch.submit(sized(64), Priority=5)
        small = await batch.submit(sized(2, instances=3))
        await batch.until_state(large, "RUNNABLE")
        await batch.until_state(small, "RUNNABLE")
        for left in (3, 2, 1):
            attempt = next(iter(engine.running))
            engine.exit(attempt, 0)

            async def given_back(count: int = left) -> bool:
                answer = await batch.call("DescribeJob", JobId=first)
                return bool(answer["TaskInstanceMetrics"]["SucceedCount"] == 4 - count)

            await eventually(given_back)
            assert len(engine.running) == left, "the smaller ones do not overtake it"
        engine.exit(next(iter(engine.running)), 0)
        [alone] = await running(engine, 1)
        assert alone.startswith(large)
        engine.exit(alone, 0)
        assert all(each.startswith(small) for each in await running(engine, 3))


async def test_memory_in_use_is_known_after_a_restart(store: Store, tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path, capacity=16, mem_gib=10)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        await batch.submit(sized(4, instances=2))
        kept = await running(engine, 2)
    engine.reconnect()
    async with batch.scheduling():
        later = await batch.submit(sized(4, instances=2))
        await batch.until_state(later, "RUNNABLE")
        assert sorted(engine.running) == sorted(kept)
        engine.exit(kept[0], 0)

        async def one_more() -> bool:
            return f"{later}.0.0.1" in engine.running

        await eventually(one_more)
        assert len(engine.running) == 2


async def test_an_instance_is_stopped_on_request_and_the_others_run_on(
    store: Store, tmp_path: Path
) -> None:
    engine = FakeEngine(tmp_path, capacity=16)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        job_id = await batch.submit(a_task(instances=3, MaxRetryCount=5))
        await running(engine, 3)
        await batch.until_state(job_id, "RUNNING")
        await batch.call("TerminateTaskInstance", JobId=job_id, TaskName="a", TaskInstanceIndex=1)

        async def ended() -> bool:
            shown = await batch.instances(job_id)
            return bool(shown[1]["TaskInstanceState"] == "FAILED")

        await eventually(ended)
        assert sorted(engine.running) == [f"{job_id}.0.0.1", f"{job_id}.0.2.1"]


async def test_a_wish_to_end_an_instance_outlives_the_scheduler(
    store: Store, tmp_path: Path
) -> None:
    engine = FakeEngine(tmp_path, capacity=16)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        job_id = await batch.submit(a_task(instances=2))
        await running(engine, 2)
        await batch.until_state(job_id, "RUNNING")
    await batch.call("TerminateTaskInstance", JobId=job_id, TaskName="a", TaskInstanceIndex=0)
    assert len(engine.running) == 2
    engine.reconnect()
    async with batch.scheduling():

        async def ended() -> bool:
            return list(engine.running) == [f"{job_id}.0.1.1"]

        await eventually(ended)


async def test_retried_jobs_run_again(store: Store, tmp_path: Path) -> None:
    codes = iter([1, 0])
    engine = FakeEngine(tmp_path, answer=lambda _: next(codes))
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        job_id = await batch.submit()
        assert await batch.until_state(job_id, *OVER) == "FAILED"
        await batch.call("RetryJobs", JobIds=[job_id])
        assert await batch.until_state(job_id, "SUCCEED") == "SUCCEED"
    assert [each.attempt_id for each in engine.started] == [f"{job_id}.0.0.1", f"{job_id}.0.0.2"]


async def test_a_sick_job_takes_no_room_from_the_others(store: Store, tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path, capacity=1)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        sick = await batch.submit(Priority=100)
        [attempt] = await running(engine, 1)
        await batch.until_state(sick, "RUNNING")
        clash = text("UPDATE event_stream SET seq = 0 WHERE id = :id")
        await store.write(lambda tx: tx.execute(clash, {"id": sick}))
        engine.exit(attempt, 0)
        well = await batch.submit(a_task(instances=5))
        for number in range(5):
            [other] = await running(engine, 1)
            assert other == f"{well}.0.{number}.1"
            engine.exit(other, 0)
        assert await batch.until_state(well, *OVER) == "SUCCEED"
        assert await batch.state(sick) == "RUNNING"


async def test_a_sick_job_that_waits_takes_no_place_in_the_line(
    store: Store, tmp_path: Path
) -> None:
    engine = FakeEngine(tmp_path, capacity=1)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        filler = await batch.submit(Priority=100)
        [attempt] = await running(engine, 1)
        sick = await batch.submit(Priority=50)
        well = await batch.submit()
        await batch.until_state(sick, "RUNNABLE")
        await batch.until_state(well, "RUNNABLE")
        unreadable = text("UPDATE batch_job SET notifications = :broken WHERE id = :id")
        await store.write(lambda tx: tx.execute(unreadable, {"id": sick, "broken": b"{"}))
        engine.exit(attempt, 0)
        [other] = await running(engine, 1)
        assert other == f"{well}.0.0.1"
        assert await batch.state(filler) == "SUCCEED"


async def test_a_sick_job_keeps_no_node_of_an_environment_from_the_others(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.batch.scheduler.IDLE_S", 3_600)  # longer than anything here waits
    engine = FakeEngine(tmp_path)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        env_id = await batch.create_env(1)
        await batch.submit(a_task(EnvId=env_id))
        [attempt] = await running(engine, 1)
        sick, well = [
            await batch.submit(a_task(EnvId=env_id), Priority=priority) for priority in (50, 1)
        ]
        await batch.until_state(sick, "RUNNABLE")
        await batch.until_state(well, "RUNNABLE")
        unreadable = text("UPDATE batch_task SET state = 'NONSENSE' WHERE job_id = :id")
        await store.write(lambda tx: tx.execute(unreadable, {"id": sick}))
        engine.exit(attempt, 0)
        [other] = await running(engine, 1)
        assert other == f"{well}.0.0.1"


async def test_who_waits_for_memory_with_many_jobs_keeps_no_other_account_waiting(
    store: Store, tmp_path: Path
) -> None:
    engine = FakeEngine(tmp_path, capacity=4, mem_gib=8)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        kept = await batch.submit(sized(7))
        freed = await batch.submit_job(a_job(sized(1)), who=OTHER_ACCOUNT)
        await running(engine, 2)
        for _ in range(5):
            await batch.until_state(await batch.submit(sized(4), Priority=9), "RUNNABLE")
        small = await batch.submit_job(a_job(sized(1)), who=OTHER_ACCOUNT)

        async def has_been_taken_up() -> bool:
            answer = await batch.call("DescribeJob", who=OTHER_ACCOUNT, JobId=small)
            return bool(answer["JobState"] == "RUNNABLE")

        await eventually(has_been_taken_up)
        assert sorted(engine.running) == sorted([f"{kept}.0.0.1", f"{freed}.0.0.1"])
        engine.exit(f"{freed}.0.0.1", 0)
        assert f"{small}.0.0.1" in await running(engine, 2)


async def test_a_job_that_is_more_urgent_than_one_that_waits_starts_at_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.batch.scheduler.IDLE_S", 3_600)  # longer than anything here waits
    engine = FakeEngine(tmp_path, capacity=9, mem_gib=16)
    batch = Batch(store, engine, folder=tmp_path)
    large = a_task(ComputeEnv={"EnvData": {"InstanceType": "M2.8XLARGE256"}})
    async with batch.scheduling():
        await batch.submit()
        await running(engine, 1)
        await batch.until_state(await batch.submit(large), "RUNNABLE")
        await batch.submit(Priority=100)
        await running(engine, 2)


async def test_lost_nodes_of_environments_are_made_again_before_they_take_work(
    store: Store, tmp_path: Path
) -> None:
    engine = FakeEngine(tmp_path, capacity=16)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        env_id = await batch.create_env(1)
        job_id = await batch.submit(a_task(EnvId=env_id))
        [first] = await running(engine, 1)
        await batch.until_state(job_id, "RUNNING")
        [before] = await batch.instances(job_id)
        engine.end(first, exit_code=None, cause=Cause.INFRA_LOST)
        [second] = await running(engine, 1)
        assert second == f"{job_id}.0.0.2"
        [after] = await batch.instances(job_id)
        assert after["ComputeNodeInstanceId"] != before["ComputeNodeInstanceId"]
        engine.exit(second, 0)
        assert await batch.until_state(job_id, *OVER) == "SUCCEED"


async def test_a_job_gets_room_only_for_nodes_that_fit(store: Store, batch: Batch) -> None:
    env_id = await batch.create_env(3)
    sizes = update(compute_node).values(state="RUNNING", mem_gib=4)
    await store.write(lambda tx: tx.execute(sizes))
    turns = Turns(store, await batch.submit(a_task(instances=3, EnvId=env_id)), mem_gib=9)
    assert len(await turns.turn(slots=9)) == 2


async def test_more_new_jobs_than_a_round_takes_up_do_not_wait_for_a_signal(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.batch.scheduler.JOBS_AT_ONCE", 1)
    engine = FakeEngine(tmp_path, capacity=1)
    batch = Batch(store, engine, folder=tmp_path)
    jobs = [await batch.submit() for _ in range(12)]
    async with batch.scheduling():
        for job_id in jobs:
            await batch.until_state(job_id, "RUNNABLE", "STARTING", "RUNNING")
