"""Two schedulers beside each other: one that always looks ahead, one that does so if it must."""

import shutil
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from gateway.batch.engines import Report
from gateway.batch.jobs import JOBS
from gateway.batch.looking import Lookout
from gateway.call import Principal
from gateway.store import Signals, open_store
from tests.support.batch import ROOT, WAIT_S, Batch, a_job, a_task
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio
OTHER = Principal("200000000002", "200000000002", "root")
NEVER_S = 3_600.0
JOBS_IN_ALL = 4
STEPS_MAX = 100
Shown = tuple[list[str], Mapping[int, str]]


@pytest.mark.parametrize("seed", range(1, 5))
async def test_what_runs_is_the_same_whether_looks_are_left_out_or_not(
    migrated_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("gateway.batch.scheduler.IDLE_S", NEVER_S)
    looks: list[int] = []
    note = Lookout.note_look

    def counting(lookout: Lookout, *args: Any, **kwargs: Any) -> None:
        looks[-1] += 1
        note(lookout, *args, **kwargs)

    monkeypatch.setattr(Lookout, "note_look", counting)
    seen = []
    for look_s in (0.0, NEVER_S):
        monkeypatch.setattr("gateway.batch.looking.LOOK_S", look_s)
        monkeypatch.setattr("gateway.batch.scheduler.LOOK_S", NEVER_S)
        looks.append(0)
        folder = tmp_path / str(look_s)
        folder.mkdir()
        shutil.copy(migrated_file, folder / "gateway.db")
        async with Walk.begun(folder, Random(seed)) as walk:  # noqa: S311  # nothing secret
            seen.append([shown async for shown in walk.steps()])
    always, sometimes = seen
    for number, (expected, shown) in enumerate(zip(always, sometimes, strict=False)):
        assert shown == expected, f"after step {number}"
    assert len(always) == len(sometimes) < STEPS_MAX
    assert looks[1] < looks[0]


class Resting(Signals):
    """Tells whether the scheduler waits to be woken."""

    def __init__(self) -> None:
        super().__init__()
        self.is_resting = False
        self.rests = anyio.Event()

    def wake(self, names: Iterable[str]) -> None:
        names = list(names)
        self.is_resting &= JOBS not in names
        super().wake(names)

    async def wait(self, name: str, *, seen: int, at_most_s: float) -> None:
        if name == JOBS:
            self.is_resting = self.count(JOBS) == seen
            self.rests.set()
        await super().wait(name, seen=seen, at_most_s=at_most_s)


class Telling(FakeEngine):
    """Tells whether all that it reports was taken in."""

    all_is_told = False

    async def reports(self) -> Sequence[Report]:
        reports = await super().reports()
        self.all_is_told = True
        return reports

    def _tell(self, report: Report) -> None:
        self.all_is_told = False
        super()._tell(report)


class Walk:
    """Jobs of two accounts on a small engine; what is done to them is drawn by lot."""

    def __init__(self, batch: Batch, engine: Telling, signals: Resting, random: Random) -> None:
        self._batch = batch
        self._engine = engine
        self._signals = signals
        self._random = random
        self._env_id = ""
        self._jobs: dict[str, Principal] = {}
        self._on_env: set[str] = set()

    @classmethod
    @asynccontextmanager
    async def begun(cls, folder: Path, random: Random) -> AsyncIterator["Walk"]:
        """A walk with a database, an environment and a scheduler of its own."""
        async with open_store(f"sqlite:///{folder / 'gateway.db'}") as store:
            store.signals = signals = Resting()
            engine = Telling(folder, capacity=random.randint(2, 5), mem_gib=8)
            batch = Batch(store, engine, folder=folder)
            walk = cls(batch, engine, signals, random)
            walk._env_id = await batch.create_env(2)
            await batch.tend()
            async with batch.scheduling():
                yield walk

    async def steps(self) -> AsyncIterator[Shown]:
        """Take a step after the other until all jobs are over; tells what is seen after each."""
        for _ in range(STEPS_MAX):
            await self._step()
            await self._until_nothing_moves()
            names = {job_id: number for number, job_id in enumerate(self._jobs)}
            states = {
                names[job_id]: await self._batch.state(job_id, who=who)
                for job_id, who in self._jobs.items()
            }
            yield sorted(map(self._name, self._engine.running)), states
            if len(states) == JOBS_IN_ALL and set(states.values()) <= {"SUCCEED", "FAILED"}:
                return

    async def _until_nothing_moves(self) -> None:
        with anyio.fail_after(WAIT_S):
            while not (self._engine.all_is_told and self._signals.is_resting):
                self._signals.rests = anyio.Event()
                await self._signals.rests.wait()

    async def _step(self) -> None:
        dice = self._random.random()
        running = sorted(self._engine.running, key=self._name)
        if len(self._jobs) < JOBS_IN_ALL and (dice < 0.15 or not running):
            await self._submit()
        elif dice < 0.18 and (well := [each for each in self._jobs if each not in self._on_env]):
            job_id = self._random.choice(well)
            await self._batch.call("TerminateJob", JobId=job_id, who=self._jobs[job_id])
        else:
            count = self._random.choice([1, 1, 1, 2, 3])
            for attempt in self._random.sample(running, min(count, len(running))):
                self._engine.exit(attempt, self._random.choice([0, 0, 0, 1]))

    async def _submit(self) -> None:
        random = self._random
        on_env = random.random() < 0.4
        who = ROOT if on_env else random.choice([ROOT, OTHER])
        names = "abc"[: random.randint(1, 3)]
        after = [f"{a} {b}" for a in names for b in names if a < b and random.random() < 0.4]
        tasks = [
            a_task(
                name,
                random.randint(1, 6),
                MaxRetryCount=random.randint(0, 2),
                MaxConcurrentNum=random.choice([0, 0, 0, 2]),
                **self._place(on_env=on_env and random.random() < 0.7),
            )
            for name in names
        ]
        mode = random.choice(["PRE_TASK_SUCCEED", "PRE_TASK_FINISHED"])
        urgency = random.randint(0, 1)
        job = a_job(*tasks, after=after, Priority=urgency, TaskExecutionDependOn=mode)
        job_id = await self._batch.submit_job(job, who=who)
        self._jobs[job_id] = who
        if on_env:
            self._on_env.add(job_id)

    def _place(self, *, on_env: bool) -> Mapping[str, Any]:
        if on_env:
            return {"EnvId": self._env_id}
        options = {"CPU": 1, "Memory": self._random.choice([1, 1, 1, 3])}
        return {"ComputeEnv": {"EnvData": {"InstanceTypeOptions": options}}}

    def _name(self, attempt_id: str) -> str:
        """An attempt's name that is the same in every walk."""
        job_id, _, rest = attempt_id.partition(".")
        return f"{list(self._jobs).index(job_id)}.{rest}"
