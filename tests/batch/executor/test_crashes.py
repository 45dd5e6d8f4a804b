"""Whoever is killed, no command runs twice, none is left alone, no outcome is lost."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import msgspec
import pytest

from gateway.batch.engines import Cause, Launch, Reconnected
from gateway.batch.engines.local import LocalEngine, open_local_engine
from gateway.batch.executor.frames import EXIT_FAILED
from gateway.clock import now
from gateway.errors import ServiceUnavailable
from tests.batch.executor.executors import (
    is_gone,
    kill_process,
    local_engine,
    processes_that_say,
    sleeper,
    until,
)
from tests.support.attempts import Watch, launch

GATEWAY = """
import sys, anyio, msgspec
from pathlib import Path
from gateway.batch.engines import Launch
from gateway.batch.engines.local import open_local_engine

async def main():
    launches = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Launch])
    async with open_local_engine(Path(sys.argv[1]), isolation=sys.argv[2], capacity=4) as engine:
        await engine.start(launches)
        while True:
            await engine.reports()

anyio.run(main)
"""


def count_runs(engine: LocalEngine, attempt: Launch) -> int:
    return engine.log_path(attempt.folder, "stdout").read_text().count("ran")


@pytest.mark.anyio
async def test_a_killed_gateway_loses_neither_a_running_command_nor_an_outcome(
    root: Path, isolation: str
) -> None:
    running = launch("echo ran; until test -e go; do sleep 0.01; done; exit 7")
    over = launch("echo ran; exit 5")
    gateway = await anyio.open_process(
        [sys.executable, "-c", GATEWAY, str(root), isolation], stderr=subprocess.DEVNULL
    )
    assert gateway.stdin
    await gateway.stdin.send(msgspec.json.encode([running, over]))
    await gateway.stdin.aclose()
    logs = [root / "attempts" / each.folder / "stdout" for each in (running, over)]
    await until(lambda: all(log.exists() and log.read_text() == "ran\n" for log in logs))
    os.kill(gateway.pid, signal.SIGKILL)
    await gateway.wait()
    await gateway.aclose()
    async with local_engine(root, isolation=isolation) as engine:
        watch = Watch(engine)
        await watch.started([running])
        assert watch.heard[0] == Reconnected()
        await engine.start([running, over])
        (logs[0].parent / "work" / "go").touch()
        ended = await watch.ended([running, over])
        assert [each.exit_code for each in ended] == [7, 5]
        assert [count_runs(engine, each) for each in (running, over)] == [1, 1]


@pytest.mark.anyio
async def test_a_killed_executor_takes_every_command_with_it_and_says_so(
    engine: LocalEngine,
) -> None:
    command = sleeper()
    over = launch("echo ran; exit 5")
    running = launch(f"echo ran; (setsid sh -c '{command} &' &); {command}; true")
    watch = Watch(engine)
    await engine.start([over, running])
    await watch.ended([over])
    await until(lambda: len(processes_that_say(command)) >= 2)
    kill_process(engine.executor_pid)
    await watch.reconnected()
    lost, kept = await watch.ended([running, over])
    assert (lost.cause, lost.exit_code) == (Cause.INFRA_LOST, None)
    assert kept.exit_code == 5
    assert processes_that_say(command) == []
    await engine.start([running, over])
    after = launch("echo ran")
    await engine.start([after])
    await watch.ended([after])
    assert [count_runs(engine, each) for each in (running, over, after)] == [1, 1, 1]


@pytest.mark.anyio
async def test_an_executor_killed_while_nobody_listens_leaves_no_orphan(
    root: Path, isolation: str
) -> None:
    command = sleeper()
    attempt = launch(f"(setsid sh -c '{command} &' &); {command}; true")
    async with open_local_engine(root, isolation=isolation, capacity=4) as engine:
        await engine.start([attempt])
        await Watch(engine).started([attempt])
        await until(lambda: len(processes_that_say(command)) >= 2)
        pid = engine.executor_pid
    kill_process(pid)
    await until(lambda: processes_that_say(command) == [])
    async with local_engine(root, isolation=isolation) as engine:
        [ended] = await Watch(engine).ended([attempt])
        assert ended.cause is Cause.INFRA_LOST


@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["none"])
async def test_an_acknowledged_attempt_never_runs_again_even_after_a_crash(
    engine: LocalEngine,
) -> None:
    watch, attempt, later = Watch(engine), launch("echo ran"), launch("echo ran")
    await engine.start([attempt])
    await watch.ended([attempt])
    await engine.acknowledge([attempt.attempt_id])
    await engine.start([later])
    await watch.ended([later])
    kill_process(engine.executor_pid)
    await watch.reconnected()
    after = launch("echo ran")
    await engine.start([attempt, after])
    await watch.ended([after])
    assert not any(getattr(each, "attempt_id", "") == attempt.attempt_id for each in watch.heard)
    assert count_runs(engine, attempt) == 1


@pytest.mark.anyio
async def test_a_torn_end_of_the_journal_is_dropped_and_the_rest_is_kept(root: Path) -> None:
    attempt = launch("exit 4")
    async with local_engine(root, isolation="none") as engine:
        await engine.start([attempt])
        await Watch(engine).ended([attempt])
    with (root / "journal").open("ab") as journal:
        journal.write(b'{"line":"began","attempt_id":"job-0')
    async with local_engine(root, isolation="none") as engine:
        [ended] = await Watch(engine).ended([attempt])
        assert ended.exit_code == 4


@pytest.mark.anyio
async def test_a_second_gateway_takes_the_line_over(root: Path) -> None:
    attempt = launch("until test -e go; do sleep 0.01; done")
    async with local_engine(root, isolation="none") as first:
        await first.start([attempt])
        await Watch(first).started([attempt])
        with anyio.fail_after(10):
            second = LocalEngine(root, isolation="none", capacity=4, clock=now)
            async with anyio.create_task_group() as tasks:
                await tasks.start(second.run)
                await Watch(second).started([attempt])
                assert second.executor_pid == first.executor_pid
                tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_an_unused_executor_ends_by_itself(root: Path) -> None:
    async with open_local_engine(root, isolation="none", capacity=4, linger_s=0.2) as engine:
        attempt = launch("true")
        await engine.start([attempt])
        await Watch(engine).ended([attempt])
        pid = engine.executor_pid
    await until(lambda: is_gone(pid))
    assert not (root / "executor.sock").exists()
    assert processes_that_say(str(root)) == []


@pytest.mark.anyio
async def test_an_executor_whose_folder_is_gone_ends_with_all_it_runs(root: Path) -> None:
    command = sleeper()
    async with open_local_engine(root, isolation="none", capacity=4) as engine:
        attempt = launch(command)
        await engine.start([attempt])
        await Watch(engine).started([attempt])
        pid = engine.executor_pid
    shutil.rmtree(root)
    await until(lambda: is_gone(pid) and processes_that_say(command) == [])
    await until(lambda: processes_that_say(str(root)) == [])
    assert os.listdir(root.parent) == []


@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["none"])
async def test_a_polite_end_waits_for_the_commands(engine: LocalEngine) -> None:
    attempt = launch("until test -e go; do sleep 0.01; done")
    watch = Watch(engine)
    await engine.start([attempt])
    await watch.started([attempt])
    os.kill(engine.executor_pid, signal.SIGTERM)
    (engine.log_path(attempt.folder, "stdout").parent / "work" / "go").touch()
    [ended] = await watch.ended([attempt])
    assert ended.exit_code == 0


@pytest.mark.anyio
async def test_an_isolation_that_does_not_exist_is_refused_in_words(root: Path) -> None:
    with pytest.raises(ServiceUnavailable, match="no isolation 'chroot'"):
        async with open_local_engine(root, isolation="chroot", capacity=4):
            pass


@pytest.mark.anyio
async def test_a_fault_at_the_start_may_pass_and_is_no_refusal(root: Path) -> None:
    (root / "journal").mkdir(parents=True)
    engine = LocalEngine(root, isolation="none", capacity=4, linger_s=0, clock=now)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.run)
        await until(lambda: "Is a directory" in engine.trouble)
        (root / "journal").rmdir()
        await Watch(engine).reconnected()
        tasks.cancel_scope.cancel()
    await until(lambda: processes_that_say(str(root)) == [])


# An executor that dies before it serves: of a fault of its own, or without a word.
BROKEN = """
import os, sys
from gateway.batch.executor import __main__

how = sys.argv.pop()

def look_for_containers(root):
    os.kill(os.getpid(), 9) if how == "killed" else 1 / 0

__main__.look_for_containers = look_for_containers
sys.exit(__main__.main())
"""


@pytest.mark.parametrize("how", ["killed", "raised"])
def test_an_executor_that_dies_at_its_start_does_not_say_that_it_refuses(
    root: Path, how: str
) -> None:
    words = [sys.executable, "-c", BROKEN, "--root", str(root), "--detach", how]
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (EXIT_FAILED, "it ended; see executor.log\n")


@pytest.mark.anyio
async def test_the_best_isolation_is_chosen_unless_another_is_asked_for(root: Path) -> None:
    async with local_engine(root, isolation=None) as engine:
        attempt = launch("pwd")
        await engine.start([attempt])
        await Watch(engine).ended([attempt])
        assert engine.log_path(attempt.folder, "stdout").read_text() == "/work\n"
    async with local_engine(root, isolation="none") as engine:
        attempt = launch("pwd")
        await engine.start([attempt])
        await Watch(engine).ended([attempt])
        assert engine.log_path(attempt.folder, "stdout").read_text() != "/work\n"
