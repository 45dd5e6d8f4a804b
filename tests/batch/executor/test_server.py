"""The executor's loop: when it turns, and what follows if it cannot go on."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

from gateway.batch.engines import Cause
from gateway.batch.engines.local import open_local_engine
from gateway.batch.executor import server
from gateway.batch.executor.control_groups import open_control_groups
from gateway.batch.executor.isolation import Isolation
from gateway.batch.executor.runner import Runner
from gateway.batch.executor.spawn_pool import SpawnPool
from gateway.clock import now
from tests.batch.executor.executors import (
    is_gone,
    kill_process,
    local_engine,
    processes_that_say,
    servers_of,
    sleeper,
    until,
)
from tests.support.attempts import Watch, launch

# An executor whose loop turns when something happens, and hardly ever by itself.
SLEEPY = """
import sys
from gateway.batch.executor import __main__, server

server.TURN_S_MAX = 1_000.0
sys.exit(__main__.main())
"""

# An executor whose loop rests until the gateway says something, where many run.
RESTING = """
import sys
from gateway.batch.executor import __main__, server

server.rest_s = lambda *, running, mean_run_s: 1_000.0 * (running >= server.RESTS_FROM)
sys.exit(__main__.main())
"""

# An executor on a machine without control groups.
NO_GROUPS = """
import sys
from gateway.batch.executor import __main__, control_groups

control_groups.ControlGroups.claim = lambda self: None
sys.exit(__main__.main())
"""

# An executor that has no file left to open when the first attempt ends.
FAILING = """
import errno, sys
from gateway.batch.executor import __main__, processes

def children():
    raise OSError(errno.EMFILE, "Too many open files")

processes.children = children
sys.exit(__main__.main())
"""

# Turns of a loop that can journal nothing, at moments of its own; at last it can. Says in each
# turn at what second the one before was, and how often it has tried by then.
NO_ROOM = """
import logging, resource, sys
from datetime import UTC, datetime
from pathlib import Path
from gateway.batch.engines import Ended
from gateway.batch.executor import server
from gateway.batch.executor.control_groups import open_control_groups
from gateway.batch.executor.isolation import Isolation
from gateway.batch.executor.journal import Journal
from gateway.batch.executor.ledger import Ledger
from gateway.batch.executor.spawn_pool import SpawnPool

class Tries(logging.Handler):
    count = 0

    def emit(self, record):
        self.count += "not_journalled" in record.msg

tries = Tries()
logging.getLogger("executor").addHandler(tries)
server.TURN_S_MAX = 0.0
root = Path(sys.argv[1])
moment = datetime(2026, 1, 1, tzinfo=UTC)
ledger = Ledger(Journal(root / "journal"), boot_id="x", clock=lambda: moment)
ledger.end(Ended("a", moment, exit_code=0, cause=None))
ledger.commit()
moments = iter([0, 0, 0, 0, server.RETRY_S / 2, server.RETRY_S, server.RETRY_S, 1_000])
seconds = next(moments)

def on_turn(runner):
    global seconds
    print(seconds, tries.count)
    seconds = next(moments)
    if tries.count == 0:
        ledger.acknowledge(["a"])
    if seconds == 1_000:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

resource.setrlimit(
    resource.RLIMIT_FSIZE,
    (len((root / "journal").read_bytes().rstrip(b"\\0")), resource.RLIM_INFINITY),
)
server.Server(
    root,
    isolation=Isolation("none"),
    asked_isolation="none",
    ledger=ledger,
    pool=SpawnPool(1),
    groups=open_control_groups(root),
    linger_s=0,
    clock=lambda: moment,
    on_turn=on_turn,
    monotonic=lambda: seconds,
).run()
"""


@asynccontextmanager
async def executor_of(script: str, root: Path) -> AsyncIterator[int]:
    """The pid of an executor that a script starts."""
    words = [sys.executable, "-c", script, "--root", str(root), "--isolation", "none"]
    async with await anyio.open_process(words, stderr=subprocess.DEVNULL) as executor:
        try:
            await until((root / "executor.sock").exists)
            yield executor.pid
        finally:
            with suppress(ProcessLookupError):
                executor.kill()
    await until(lambda: processes_that_say(str(root)) == [])


@pytest.mark.anyio
async def test_a_start_is_told_although_nothing_else_happens(root: Path) -> None:
    async with (
        executor_of(SLEEPY, root) as pid,
        open_local_engine(root, isolation="none", capacity=4) as engine,
    ):
        assert engine.executor_pid == pid
        attempt = launch(sleeper())
        await engine.start([attempt])
        await Watch(engine).started([attempt])


def test_on_a_full_disk_what_can_wait_is_tried_again_only_now_and_then(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=20,
    )
    assert done.stdout.splitlines() == [
        "0 0", "0 1", "0 1", "0 1", "0.5 1", "1.0 2", "1.0 2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("running", "mean_run_s", "expected_s"),
    [
        (0, 1.0, 0.0),
        (server.RESTS_FROM - 1, 1.0, 0.0),
        (server.RESTS_FROM, 0.0, 0.0),
        (server.RESTS_FROM, 0.01, 0.003),
        (2_000, 0.1, 0.03),
        (2_000, 3_600.0, server.REST_S_MAX),
    ],
)
def test_the_loop_rests_for_a_part_of_what_attempts_take_where_many_run(
    running: int, mean_run_s: float, expected_s: float
) -> None:
    assert server.rest_s(running=running, mean_run_s=mean_run_s) == pytest.approx(expected_s)


@pytest.mark.anyio
async def test_what_the_gateway_says_is_heard_while_the_loop_rests(root: Path) -> None:
    sleepers = [launch(sleeper()) for _ in range(server.RESTS_FROM + 1)]
    async with (
        executor_of(RESTING, root),
        open_local_engine(root, isolation="none", capacity=16) as engine,
    ):
        await engine.start(sleepers)
        await until(lambda: all(processes_that_say(each.command) for each in sleepers))
        await engine.stop([sleepers[0].attempt_id])
        await until(lambda: processes_that_say(sleepers[0].command) == [])
        await engine.stop([each.attempt_id for each in sleepers])
        await until(lambda: all(processes_that_say(each.command) == [] for each in sleepers))


@pytest.mark.anyio
async def test_an_executor_that_cannot_go_on_leaves_nothing_running(root: Path) -> None:
    command = sleeper()
    running = launch(f"(setsid sh -c '{command} &' &); {command}; true")
    last = launch("until test -e go; do sleep 0.01; done")
    async with executor_of(FAILING, root) as pid:
        async with open_local_engine(root, isolation="none", capacity=4) as engine:
            await engine.start([running, last])
            await Watch(engine).started([running, last])
            await until(lambda: len(processes_that_say(command)) >= 2)
        (root / "attempts" / last.folder / "work" / "go").touch()
        await until(lambda: is_gone(pid))
        await until(lambda: processes_that_say(command) == [])
    async with local_engine(root, isolation="none") as engine:
        ended = await Watch(engine).ended([running, last])
        assert {each.cause for each in ended} == {Cause.INFRA_LOST}


@pytest.mark.anyio
async def test_nothing_outlives_a_spawn_server_where_there_are_no_control_groups(
    root: Path,
) -> None:
    command = sleeper()
    shows_nothing = f"cd /; exec setsid env -i {command} </dev/null >/dev/null 2>&1"
    running = launch(f"( ({shows_nothing}) & ); exec sleep 1000")

    def has_settled() -> bool:
        found = processes_that_say(command)
        return [Path(f"/proc/{pid}/comm").read_text() for pid in found] == ["sleep\n"]

    async with (
        executor_of(NO_GROUPS, root),
        open_local_engine(root, isolation="none", capacity=4, linger_s=0) as engine,
    ):
        watch = Watch(engine)
        await engine.start([running])
        await watch.started([running])
        await until(has_settled)
        for server_pid in servers_of(engine.executor_pid):
            kill_process(server_pid)
        assert [each.cause for each in await watch.ended([running])] == [Cause.INFRA_LOST]
        assert processes_that_say(command) == []


def test_what_is_stopped_while_it_waits_for_its_process_never_started(tmp_path: Path) -> None:
    groups = open_control_groups(tmp_path)
    pool = SpawnPool(0)
    runner = Runner(tmp_path, isolation=Isolation("none"), pool=pool, groups=groups, clock=now)
    attempt = launch("true")
    runner.enqueue([attempt])
    ended = runner.stop(attempt.attempt_id)
    assert ended is not None
    assert (ended.cause, ended.started) == (Cause.TERMINATED, False)
    assert runner.is_idle
