"""Whenever the executor is killed, nothing of what it ran is left, and every end is told once."""

import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

from gateway.batch.engines import Ended, Launch, Limits, Started
from gateway.batch.engines.local import LocalEngine, open_local_engine
from gateway.batch.executor.container_groups import ID_FILE
from gateway.batch.executor.control_groups import open_control_groups
from gateway.batch.executor.folders import SCRATCH, attempt_folder
from gateway.batch.executor.journal import Journal
from gateway.batch.executor.ledger import Ledger
from gateway.batch.executor.processes import find_process
from gateway.batch.executor.recovery import Leftover, kill_leftovers, recover
from gateway.clock import now
from tests.batch.executor.executors import (
    UNJOURNALLED,
    WAIT_S_MAX,
    is_gone,
    kill_process,
    local_engine,
    processes_that_say,
    sleeper,
    until,
)
from tests.support.attempts import Watch, launch
from tests.support.disks import fill, small_disk

LIMITS = Limits(cores=1, mem_bytes=1 << 28, processes=100)
Moment = Callable[["Cycle"], Awaitable[None]]


class Cycle:
    """Some attempts, each of which leaves a daemon that hides, and what is heard of them."""

    def __init__(self, engine: LocalEngine, root: Path) -> None:
        self.engine = engine
        self.root = root
        self.watch = Watch(engine)
        self.command = sleeper()
        daemon = f"(cd / && env -i setsid sh -c '{self.command} &' </dev/null >/dev/null 2>&1 &)"
        self.attempts = [
            replace(launch(f"echo ran; {daemon}; {end}"), limits=LIMITS)
            for end in ("exec sleep 1000", "exec sleep 1000", "exit 3", "exit 0")
        ]

    @property
    def endless(self) -> list[Launch]:
        return self.attempts[:2]

    @property
    def short(self) -> list[Launch]:
        return self.attempts[2:]

    def runs(self, attempt: Launch) -> int:
        try:
            return self.engine.log_path(attempt.folder, "stdout").read_text().count("ran")
        except FileNotFoundError:
            return 0

    def journal_says(self, word: str) -> bool:
        journal = (self.root / "journal").read_bytes()
        attempt_id = self.attempts[0].attempt_id
        return f'"{word}","attempt_id":"{attempt_id}"'.encode() in journal


async def at_once(cycle: Cycle) -> None:
    """Between hearing of the attempts and anything else."""


async def journalled(cycle: Cycle) -> None:
    """Between the journal and the process, or a little later."""
    await until(lambda: cycle.journal_says("began"))


async def spawned(cycle: Cycle) -> None:
    """Between the process and the note of its pid."""
    await until(lambda: bool(processes_that_say(cycle.command)))


async def noted(cycle: Cycle) -> None:
    """While everything runs."""
    await cycle.watch.started(cycle.endless)


async def ended(cycle: Cycle) -> None:
    """When some are over and told."""
    await cycle.watch.ended(cycle.short)


async def ending(cycle: Cycle) -> None:
    """While attempts are killed."""
    await cycle.watch.started(cycle.endless)
    await cycle.engine.stop([each.attempt_id for each in cycle.endless])


MOMENTS: tuple[Moment, ...] = (at_once, journalled, spawned, noted, ended, ending)


@pytest.mark.anyio
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("isolation", ["sandbox", "none"])
async def test_an_executor_killed_at_any_moment_leaves_no_orphan_and_runs_nothing_twice(
    engine: LocalEngine, root: Path, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311  # it only varies the order
    await Watch(engine).reconnected()  # for the first time: each cycle waits for one of its own
    for moment in chance.sample(MOMENTS, len(MOMENTS)):
        cycle = Cycle(engine, root)
        await engine.start(cycle.attempts)
        await moment(cycle)
        heard = [each for each in cycle.watch.heard if isinstance(each, Ended)]
        # half the time its keeper dies with it, and the next executor has to sweep
        with_keeper = chance.random() < 0.5
        for pid in processes_that_say(str(root)) if with_keeper else [engine.executor_pid]:
            kill_process(pid)
        await cycle.watch.reconnected()
        await engine.start(cycle.attempts)
        # if the one that was killed had not heard of them yet, this one runs them
        await engine.stop([each.attempt_id for each in cycle.endless])
        outcomes = await cycle.watch.ended(cycle.attempts)
        assert processes_that_say(cycle.command) == [], moment.__name__
        for attempt, outcome in zip(cycle.attempts, outcomes, strict=True):
            assert cycle.runs(attempt) <= 1, moment.__name__
            told = [each for each in heard if each.attempt_id == attempt.attempt_id]
            assert all(each == outcome for each in told), moment.__name__
        await engine.acknowledge([each.attempt_id for each in cycle.attempts])
    last = launch("echo ran")
    watch = Watch(engine)
    await engine.start([last])
    [outcome] = await watch.ended([last])
    assert outcome.cause is None


@pytest.mark.anyio
async def test_an_executor_killed_after_its_folder_is_gone_leaves_no_orphan_either(
    root: Path,
) -> None:
    async with open_local_engine(root, isolation="none", capacity=4) as engine:
        cycle = Cycle(engine, root)
        await engine.start(cycle.endless)
        await cycle.watch.started(cycle.endless)
        await until(lambda: len(processes_that_say(cycle.command)) >= len(cycle.endless))
        pid = engine.executor_pid
    os.kill(pid, signal.SIGSTOP)  # or it would see that its folder is gone
    os.rename(root, f"{root}-elsewhere")
    kill_process(pid)
    await until(lambda: processes_that_say(cycle.command) == [])
    await until(lambda: processes_that_say(str(root)) == [])


def test_a_pid_that_is_somebody_elses_now_is_left_alone(tmp_path: Path) -> None:
    pid = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}, setsid=True)
    try:
        process = find_process(pid)
        assert process is not None
        work = tmp_path / "attempt" / "work"
        other = Leftover(work, pid=pid, start_ticks=process.start_ticks - 1)
        unknown = Leftover(work, pid=None, start_ticks=None)
        assert not kill_leftovers([other, unknown])
        assert not is_gone(pid)
        assert kill_leftovers([Leftover(work, pid=pid, start_ticks=process.start_ticks)])
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    finally:
        kill_process(pid)


def test_the_control_groups_of_a_container_that_died_with_its_executor_go(root: Path) -> None:
    attempt = launch("x")
    container_id = os.urandom(32).hex()
    root.mkdir()
    ledger = Ledger(Journal(root / "journal"), boot_id="this", clock=now)
    ledger.begin([attempt])
    ledger.commit()
    scratch = attempt_folder(root, attempt.folder) / SCRATCH
    scratch.mkdir(parents=True)
    (scratch / ID_FILE).write_text(container_id)
    groups = open_control_groups(root)
    group = Path(groups.mounted[0].top, "libpod_parent", f"libpod-{container_id}")
    (group / "inner").mkdir(parents=True)
    assert recover(ledger, root, groups=groups, clock=now) == 1
    assert not group.exists()
    assert not scratch.exists()


async def settled(engine: LocalEngine, watch: Watch, running: Launch) -> None:
    """Wait until the executor has done with everything it was told and saw before."""
    with anyio.fail_after(WAIT_S_MAX):
        for _ in range(3):
            begin = len(watch.heard)
            await engine.reconcile([running.attempt_id])
            while not any(isinstance(each, Started) for each in watch.heard[begin:]):
                watch.heard += await engine.reports()


@pytest.mark.anyio
async def test_on_a_full_disk_nothing_runs_or_is_told_that_is_not_journalled_yet(
    root: Path,
) -> None:
    running = launch("sleep 1000")
    over = launch("until test -e go; do sleep 0.01; done; exit 3")
    waiting = [launch("echo ran") for _ in range(UNJOURNALLED)]
    with small_disk(root, kib=4_096, mode="711"):
        async with local_engine(root, isolation="none") as engine:
            watch = Watch(engine)
            await engine.start([running, over])
            await watch.started([running, over])
            fill(root / "filler")
            await engine.start(waiting)
            (engine.attempt_path(over.folder) / "work" / "go").touch()
            await settled(engine, watch, running)
            assert not any(isinstance(each, Ended) for each in watch.heard)
            assert not any(engine.attempt_path(each.folder).exists() for each in waiting)
            (root / "filler").unlink()
            first, *others = await watch.ended([over, *waiting])
            assert first.exit_code == 3
            assert {each.cause for each in others} == {None}
            logs = {engine.log_path(each.folder, "stdout").read_text() for each in waiting}
            assert logs == {"ran\n"}
            after = launch("echo well")
            await engine.start([after])
            await watch.ended([after])
            assert engine.log_path(after.folder, "stdout").read_text() == "well\n"
            await engine.stop([running.attempt_id])
            await watch.ended([running])
