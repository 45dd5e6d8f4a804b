"""Accounts take turns: a running scheduler gives each its part of an engine that is too small."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.call import Principal
from gateway.store import Store
from tests.support.batch import Batch, a_job, a_task, eventually
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio
OVER = ("SUCCEED", "FAILED")
FIRST, SECOND, THIRD = [Principal(uin, uin, "root") for uin in ("100", "200", "300")]


class Crowd:
    """Jobs of some accounts on one engine. owners: whose a job is."""

    def __init__(self, store: Store, folder: Path, *, places: int, mem_gib: int = 65_536) -> None:
        self.engine = FakeEngine(folder, capacity=places, mem_gib=mem_gib)
        self.batch = Batch(store, self.engine, folder=folder)
        self.owners: dict[str, str] = {}

    async def submit(
        self, who: Principal, instances: int = 1, *, gib: int = 0, priority: int = 0
    ) -> str:
        """Submit a job of one task. gib: the memory of its nodes; 0: a small type's."""
        options = {"InstanceTypeOptions": {"CPU": 1, "Memory": gib}}
        members: dict[str, Any] = {"ComputeEnv": {"EnvData": options}} if gib else {}
        job = a_job(a_task(instances=instances, **members), Priority=priority)
        job_id = await self.batch.submit_job(job, who=who)
        self.owners[job_id] = who.owner_uin
        return job_id

    async def wait(self, who: Principal, *args: Any, **members: Any) -> str:
        """Submit a job, and have it taken up while there is no room for it."""
        job_id = await self.submit(who, *args, **members)
        await self.batch.until_state(job_id, "RUNNABLE", who=who)
        return job_id

    def running(self) -> dict[str, int]:
        """How many attempts of each account run."""
        return dict(Counter(map(self._owner, self.engine.running)))

    def started(self) -> list[str]:
        """The accounts in the order in which their attempts were started."""
        return [self._owner(launch.attempt_id) for launch in self.engine.started]

    async def until_running(self, **counts: int) -> None:
        """Wait until so many attempts of each account run, `a100=2` of the account 100."""
        wanted = {name[1:]: count for name, count in counts.items() if count}

        async def so_it_is() -> bool:
            return self.running() == wanted

        await eventually(so_it_is)

    async def end_one(self, who: Principal, *, starts: Sequence[Principal]) -> None:
        """End an attempt of one account, and wait until one of each of `starts` has started."""
        before = len(self.engine.started)
        ended = next(id_ for id_ in self.engine.running if self._owner(id_) == who.owner_uin)
        self.engine.exit(ended, 0)

        async def as_many() -> bool:
            return len(self.engine.started) >= before + len(starts)

        await eventually(as_many)
        assert sorted(self.started()[before:]) == sorted(each.owner_uin for each in starts)

    def _owner(self, attempt_id: str) -> str:
        return self.owners[attempt_id.partition(".")[0]]


async def test_freed_places_go_to_the_account_that_has_less_until_both_have_the_same(
    store: Store, tmp_path: Path
) -> None:
    crowd = Crowd(store, tmp_path, places=8)
    async with crowd.batch.scheduling():
        await crowd.submit(FIRST, 1_000, priority=100)
        await crowd.until_running(a100=8)
        await crowd.wait(SECOND, 10)
        for _ in range(4):
            await crowd.end_one(FIRST, starts=[SECOND])
        await crowd.until_running(a100=4, a200=4)
        for who in (FIRST, SECOND, SECOND, FIRST):
            await crowd.end_one(who, starts=[who])
        for _ in range(4):  # the last of the second account's
            await crowd.end_one(SECOND, starts=[SECOND])
        for _ in range(4):
            await crowd.end_one(SECOND, starts=[FIRST])
        await crowd.until_running(a100=8)


async def test_priority_and_age_count_within_an_account(store: Store, tmp_path: Path) -> None:
    crowd = Crowd(store, tmp_path, places=2)
    async with crowd.batch.scheduling():
        await crowd.submit(FIRST, 9)
        await crowd.until_running(a100=2)
        old = await crowd.wait(SECOND)
        young = await crowd.wait(SECOND)
        urgent = await crowd.wait(SECOND, priority=1)
        await crowd.end_one(FIRST, starts=[SECOND])
        await crowd.end_one(SECOND, starts=[SECOND])
        await crowd.end_one(SECOND, starts=[SECOND])
    mine = [launch.attempt_id.partition(".")[0] for launch in crowd.engine.started[2:]]
    assert mine == [urgent, old, young]


async def test_one_place_goes_round_the_accounts(store: Store, tmp_path: Path) -> None:
    crowd = Crowd(store, tmp_path, places=1)
    async with crowd.batch.scheduling():
        await crowd.submit(FIRST, 100, priority=100)
        await crowd.until_running(a100=1)
        await crowd.wait(SECOND, 100)
        await crowd.wait(THIRD, 100)
        for who, following in [(FIRST, SECOND), (SECOND, THIRD), (THIRD, FIRST)] * 3:
            await crowd.end_one(who, starts=[following])


async def test_accounts_with_jobs_in_the_same_round_divide_an_idle_engine(
    store: Store, tmp_path: Path
) -> None:
    crowd = Crowd(store, tmp_path, places=8)
    for _ in range(4):
        await crowd.submit(FIRST, 9, priority=100)
    await crowd.submit(SECOND, 9)
    await crowd.submit(THIRD, 2)
    async with crowd.batch.scheduling():
        await crowd.until_running(a100=3, a200=3, a300=2)


async def test_an_account_without_work_has_no_part(store: Store, tmp_path: Path) -> None:
    crowd = Crowd(store, tmp_path, places=6)
    async with crowd.batch.scheduling():
        done = await crowd.submit(THIRD)
        await crowd.until_running(a300=1)
        [attempt] = crowd.engine.running
        crowd.engine.exit(attempt, 0)
        await crowd.batch.until_state(done, *OVER, who=THIRD)
        await crowd.submit(FIRST, 100)
        await crowd.until_running(a100=6)
        await crowd.wait(SECOND, 100)
        for _ in range(3):
            await crowd.end_one(FIRST, starts=[SECOND])
        await crowd.until_running(a100=3, a200=3)
        await crowd.end_one(FIRST, starts=[FIRST])


async def test_shares_are_the_same_after_a_restart(store: Store, tmp_path: Path) -> None:
    crowd = Crowd(store, tmp_path, places=8)
    async with crowd.batch.scheduling():
        await crowd.submit(FIRST, 100, priority=100)
        await crowd.until_running(a100=8)
        second = await crowd.wait(SECOND, 100)
        await crowd.end_one(FIRST, starts=[SECOND])
        await crowd.batch.until_state(second, "RUNNING", who=SECOND)
    crowd.engine.reconnect()
    async with crowd.batch.scheduling():
        for _ in range(3):
            await crowd.end_one(FIRST, starts=[SECOND])
        await crowd.until_running(a100=4, a200=4)
        await crowd.end_one(FIRST, starts=[FIRST])


async def test_a_large_node_within_its_account_s_part_is_waited_for_by_all(
    store: Store, tmp_path: Path
) -> None:
    crowd = Crowd(store, tmp_path, places=16, mem_gib=8)
    async with crowd.batch.scheduling():
        await crowd.submit(FIRST, 100, gib=1)
        await crowd.until_running(a100=8)
        large = await crowd.wait(SECOND, gib=4)
        for _ in range(3):
            await crowd.end_one(FIRST, starts=[])
        await crowd.end_one(FIRST, starts=[SECOND])
        await crowd.until_running(a100=4, a200=1)
        await crowd.end_one(FIRST, starts=[FIRST])
        await crowd.end_one(SECOND, starts=[FIRST] * 4)
        await crowd.batch.until_state(large, *OVER, who=SECOND)
    assert crowd.running() == {"100": 8}


async def test_a_node_larger_than_its_account_s_part_stops_nobody(
    store: Store, tmp_path: Path
) -> None:
    crowd = Crowd(store, tmp_path, places=16, mem_gib=8)
    async with crowd.batch.scheduling():
        await crowd.submit(FIRST, 100, gib=1)
        await crowd.until_running(a100=8)
        await crowd.wait(SECOND, gib=5)
        for _ in range(5):
            await crowd.end_one(FIRST, starts=[FIRST])


async def test_what_may_run_after_a_failure_without_a_node_does_not_wait_for_a_signal(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.batch.scheduler.IDLE_S", 3_600)  # longer than anything here waits
    crowd = Crowd(store, tmp_path, places=4, mem_gib=8)
    data = {"EnvData": {"InstanceType": "S1.SMALL1", "ImageId": "img-00000000"}}
    nodeless = a_task("a", ComputeEnv=data, ResourceMaxRetryCount=0)
    pair = a_job(nodeless, a_task("b"), after=["a b"], TaskExecutionDependOn="PRE_TASK_FINISHED")
    async with crowd.batch.scheduling():
        await crowd.submit(SECOND)
        await crowd.submit(FIRST, 2)
        await crowd.until_running(a100=2, a200=1)
        await crowd.wait(SECOND, gib=8)
        job_id = await crowd.batch.submit_job(pair, who=FIRST)
        crowd.owners[job_id] = FIRST.owner_uin
        await crowd.until_running(a100=3, a200=1)
