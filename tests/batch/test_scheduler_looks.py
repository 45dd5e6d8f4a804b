"""The scheduler looks ahead only where something else than ends of attempts may be new."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.batch.engines import Launch
from gateway.batch.statements import LOCK_JOB
from gateway.batch.waiting_statements import DUE_JOBS
from gateway.call import Principal
from gateway.store import Store, Tx
from tests.support.batch import Batch, a_job, a_task, eventually
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio
OVER = ("SUCCEED", "FAILED")
FIRST, SECOND = [Principal(uin, uin, "root") for uin in ("100", "200")]
NEVER_S = 3_600.0


@pytest.fixture(autouse=True)
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look is never too old, and who waits for a signal waits for good."""
    for name in ("looking.LOOK_S", "scheduler.LOOK_S", "scheduler.IDLE_S"):
        monkeypatch.setattr(f"gateway.batch.{name}", NEVER_S)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Counter[Any]:
    """How often each statement was executed."""
    counts: Counter[Any] = Counter()
    execute = Tx.execute

    def counting(tx: Tx, statement: Any, parameters: Any = None) -> Any:
        counts[statement] += 1
        return execute(tx, statement, parameters)

    monkeypatch.setattr(Tx, "execute", counting)
    return counts


@pytest.mark.parametrize("mem_gib", [65_536, 4])
@pytest.mark.parametrize("on_env", [False, True])
async def test_a_run_of_ends_takes_no_looks(
    store: Store, tmp_path: Path, executed: Counter[Any], on_env: bool, mem_gib: int
) -> None:
    tried: set[str] = set()

    def at_the_second_try(launch: Launch) -> int:
        instance = launch.attempt_id.rpartition(".")[0]
        fails = instance.endswith("7") and instance not in tried
        tried.add(instance)
        return 1 if fails else 0

    nodes = 4 if mem_gib > 4 else 9
    capacity = nodes + 1 if on_env else nodes
    engine = FakeEngine(tmp_path, capacity=capacity, mem_gib=mem_gib, answer=at_the_second_try)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        members = {"EnvId": await batch.create_env(nodes)} if on_env else {}
        job_id = await batch.submit(a_task(instances=100, MaxRetryCount=1, **members))
        assert await batch.until_state(job_id, *OVER) == "SUCCEED"
    assert len(engine.started) == 110
    assert executed[LOCK_JOB] > 25
    assert executed[DUE_JOBS] < 12


class Obstinate(FakeEngine):
    """Notes what it is to stop, and stops nothing."""

    def __init__(self, root: Path, *, capacity: int) -> None:
        super().__init__(root, capacity=capacity)
        self.asked: Counter[str] = Counter()

    async def stop(self, attempt_ids: Sequence[str]) -> None:
        self.asked.update(attempt_ids)


class Slow(FakeEngine):
    """Takes its time to start something while it may not."""

    def __init__(self, root: Path, *, capacity: int) -> None:
        super().__init__(root, capacity=capacity)
        self.may = anyio.Event()
        self.is_asked = anyio.Event()

    async def start(self, launches: Sequence[Launch]) -> None:
        self.is_asked.set()
        await self.may.wait()
        await super().start(launches)


class Places:
    """An engine of few places, on which a job's attempts end one by one."""

    def __init__(self, store: Store, folder: Path, *, places: int, mem_gib: int = 65_536) -> None:
        self.engine = FakeEngine(folder, capacity=places, mem_gib=mem_gib)
        self.batch = Batch(store, self.engine, folder=folder)

    def running(self, job_id: str) -> list[str]:
        return [each for each in self.engine.running if each.startswith(job_id)]

    async def until(self, job_id: str, count: int) -> None:
        """Wait until so many attempts of a job run."""

        async def so_many() -> bool:
            return len(self.running(job_id)) == count

        await eventually(so_many)

    async def until_succeeded(self, job_id: str, count: int) -> None:
        """Wait until so many instances of a job are known to have ended well."""

        async def so_many() -> bool:
            answer = await self.batch.call("DescribeJob", JobId=job_id)
            return bool(answer["TaskInstanceMetrics"]["SucceedCount"] == count)

        await eventually(so_many)

    async def end(self, job_id: str, times: int = 1) -> None:
        """End an attempt of a job, and wait until another was started, so many times."""
        for _ in range(times):
            before = len(self.engine.started)
            self.engine.exit(self.running(job_id)[0], 0)

            async def another(count: int = before) -> bool:
                return len(self.engine.started) > count

            await eventually(another)


async def test_a_job_that_is_submitted_in_a_run_of_ends_gets_its_account_s_part(
    store: Store, tmp_path: Path
) -> None:
    places = Places(store, tmp_path, places=4)
    async with places.batch.scheduling():
        long = await places.batch.submit_job(a_job(a_task(instances=99)), who=FIRST)
        await places.until(long, 4)
        await places.end(long, 3)
        other = await places.batch.submit_job(a_job(a_task(instances=9)), who=SECOND)
        await places.batch.until_state(other, "RUNNABLE", who=SECOND)
        await places.end(long, 2)
        await places.until(other, 2)
        assert len(places.running(long)) == 2


async def test_a_job_that_is_submitted_while_ends_come_in_is_taken_up(
    store: Store, tmp_path: Path
) -> None:
    places = Places(store, tmp_path, places=4)
    places.engine = places.batch.engine = engine = Slow(tmp_path, capacity=4)
    engine.may.set()
    async with places.batch.scheduling():
        long = await places.batch.submit(a_task(instances=99))
        await places.until(long, 4)
        await places.end(long, 3)
        engine.may, engine.is_asked = anyio.Event(), anyio.Event()
        [one, other, *_] = places.running(long)
        engine.exit(one, 0)
        await engine.is_asked.wait()  # the scheduler is in the midst of a round
        job_id = await places.batch.submit()
        engine.exit(other, 0)
        engine.may.set()
        await places.batch.until_state(job_id, "RUNNABLE")


async def test_what_waits_behind_a_job_starts_when_that_leaves_room(
    store: Store, tmp_path: Path
) -> None:
    places = Places(store, tmp_path, places=4)
    async with places.batch.scheduling():
        urgent = await places.batch.submit(a_task("a", 4), a_task("b"), a_task("c"), Priority=1)
        await places.until(urgent, 4)
        other = await places.batch.submit(a_task(instances=2))
        await places.batch.until_state(other, "RUNNABLE")
        await places.end(urgent, 2)
        assert not places.running(other)
        await places.end(urgent)
        await places.until(other, 1)


async def test_a_large_node_of_an_environment_is_not_overtaken_in_a_run_of_ends(
    store: Store, tmp_path: Path
) -> None:
    places = Places(store, tmp_path, places=16, mem_gib=4)
    async with places.batch.scheduling():
        data = {"InstanceTypeOptions": {"CPU": 1, "Memory": 2}}
        env_id = await places.batch.create_env(1, EnvData=data)
        before = await places.batch.submit(a_task(EnvId=env_id))
        await places.until(before, 1)
        data = {"InstanceTypeOptions": {"CPU": 1, "Memory": 1}}
        many = a_task("many", 20, ComputeEnv={"EnvData": data})
        job_id = await places.batch.submit(a_task("large", EnvId=env_id), many)
        await places.until(job_id, 2)
        places.engine.exit(places.running(before)[0], 0)
        await places.until(job_id, 4)
        places.engine.exit(places.running(job_id)[0], 0)
        await places.until_succeeded(job_id, 1)
        assert len(places.running(job_id)) == 3
        await places.end(job_id)
        assert f"{job_id}.0.0.1" in places.running(job_id)


async def test_a_node_that_a_job_leaves_goes_to_who_waits_for_one(
    store: Store, tmp_path: Path
) -> None:
    places = Places(store, tmp_path, places=9)
    async with places.batch.scheduling():
        env_id = await places.batch.create_env(2)
        first = await places.batch.submit(a_task(instances=6, EnvId=env_id))
        await places.until(first, 2)
        second = await places.batch.submit(a_task(instances=2, EnvId=env_id))
        await places.batch.until_state(second, "RUNNABLE")
        await places.end(first, 5)
        await places.until(second, 1)
        await places.end(first)
        await places.until(second, 2)


async def test_what_is_to_end_ends_in_a_run_of_ends(store: Store, tmp_path: Path) -> None:
    places = Places(store, tmp_path, places=3)
    async with places.batch.scheduling():
        job_id = await places.batch.submit(a_task(instances=99))
        await places.until(job_id, 3)
        await places.batch.until_state(job_id, "RUNNING")
        await places.end(job_id, 3)
        [*_, last] = places.running(job_id)
        number = int(last.split(".")[2])
        await places.batch.call(
            "TerminateTaskInstance", JobId=job_id, TaskName="a", TaskInstanceIndex=number
        )

        async def has_ended() -> bool:
            return last not in places.engine.running

        await eventually(has_ended)
        await places.until(job_id, 3)
        await places.end(job_id, 3)
        await places.batch.call("TerminateJob", JobId=job_id)
        assert await places.batch.until_state(job_id, *OVER) == "FAILED"
        assert not places.engine.running


async def test_a_wish_to_end_is_told_again_to_an_engine_that_was_lost(
    store: Store, tmp_path: Path
) -> None:
    places = Places(store, tmp_path, places=3)
    places.engine = places.batch.engine = engine = Obstinate(tmp_path, capacity=3)
    async with places.batch.scheduling():
        job_id = await places.batch.submit(a_task(instances=9))
        await places.until(job_id, 3)
        await places.batch.until_state(job_id, "RUNNING")
        last = places.running(job_id)[-1]
        await places.batch.call(
            "TerminateTaskInstance", JobId=job_id, TaskName="a", TaskInstanceIndex=2
        )
        for times in (1, 2):

            async def so_often(count: int = times) -> bool:
                return engine.asked[last] == count

            await eventually(so_often)
            await places.end(job_id, 2)
            engine.reconnect()


async def test_what_follows_a_task_and_found_no_place_takes_the_next(
    store: Store, tmp_path: Path
) -> None:
    places = Places(store, tmp_path, places=2)
    async with places.batch.scheduling():
        env_id = await places.batch.create_env(2)
        job_id = await places.batch.submit(a_task("a"), a_task("b", 2, EnvId=env_id), after=["a b"])
        await places.until(job_id, 1)
        other = await places.batch.submit()
        await places.until(other, 1)
        await places.end(job_id)
        assert len(places.running(job_id)) == 1
        places.engine.exit(places.running(other)[0], 0)
        await places.until(job_id, 2)
