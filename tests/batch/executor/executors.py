"""An executor of a test's own, and ways to see and to kill processes."""

import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio

from gateway.batch.engines.local import LocalEngine, open_local_engine
from gateway.batch.executor.command import SCRIPT_FD, Command, open_script
from gateway.batch.executor.control_groups import ControlGroups, Group, Visitor
from gateway.batch.executor.journal import AHEAD_BYTES
from gateway.batch.executor.processes import all_processes, find_process

WAIT_S_MAX = 10
UNJOURNALLED = (AHEAD_BYTES + 4_096) // 100
"""For so many attempts there is no room ahead, nor in the last block: a journal notes of each more
than 100 bytes.
"""


@asynccontextmanager
async def local_engine(
    root: Path, *, isolation: str | None, sandbox_folders: Sequence[str] = ()
) -> AsyncIterator[LocalEngine]:
    """A local engine whose executor ends with it: the executor leaves when nobody speaks to it."""
    pids: set[int] = set()
    try:
        async with open_local_engine(
            root, isolation=isolation, sandbox_folders=sandbox_folders, capacity=4, linger_s=0
        ) as engine:
            pids.add(engine.executor_pid)
            yield engine
            pids.add(engine.executor_pid)
    finally:
        for pid in pids:
            kill_process(pid)
        # the keeper, too: it sweeps up in the folder that is about to go
        await until(lambda: processes_that_say(str(root)) == [])


def kill_process(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition of the outside world."""
    with anyio.fail_after(WAIT_S_MAX):
        while not condition():  # noqa: ASYNC110  # the kernel has no event for it
            await anyio.sleep(0.005)


def is_gone(pid: int) -> bool:
    """Whether nothing of a process runs: its first thread can be a zombie before the others."""
    process = find_process(pid)
    try:
        return process is None or (process.is_zombie and len(os.listdir(f"/proc/{pid}/task")) == 1)
    except (FileNotFoundError, ProcessLookupError):
        return True


def processes_that_say(mark: str) -> list[int]:
    """The living processes whose command line holds `mark`, this one excepted."""
    found = []
    for process in all_processes():
        try:
            line = Path(f"/proc/{process.pid}/cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        if mark.encode() in line and process.pid != os.getpid():
            found.append(process.pid)
    return found


def servers_of(executor: int) -> list[int]:
    """The pids of an executor's spawn servers: its children that are what it is."""
    words = Path(f"/proc/{executor}/cmdline").read_bytes()
    children = [each.pid for each in all_processes() if each.parent == executor]
    return [pid for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes() == words]


def sleeper() -> str:
    """A command that no other process on this machine has: its own number of seconds."""
    return f"sleep {100_000 + time.monotonic_ns() / 1e9:.9f}"


@contextmanager
def inside(groups: ControlGroups, group: Group) -> Iterator[None]:
    """This process is in a group for as long, and what it spawns stays there."""
    visitor = Visitor()
    visitor.enter(group.doors, homes=groups.homes_of(group))
    try:
        yield
    finally:
        visitor.leave()


def spawn(command: Command, work: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as the executor would, its script in the place of SCRIPT_FD."""
    assert command.script is not None
    script = open_script(command.script)
    words = ["/bin/bash", "-c", f'exec "$@" {SCRIPT_FD}<&{script}', "sh", *command.argv]
    try:
        return subprocess.run(
            words, cwd=work, pass_fds=[script], capture_output=True, text=True, check=False
        )
    finally:
        os.close(script)
