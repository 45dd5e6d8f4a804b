"""Spawn servers: what they spawn, tell and kill, and what follows if one of them ends."""

import errno
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.batch.engines import Cause, Container, Launch, Limits
from gateway.batch.executor import spawn_pool
from gateway.batch.executor.containers import Containers
from gateway.batch.executor.control_groups import open_control_groups
from gateway.batch.executor.folders import ATTEMPTS, SCRATCH
from gateway.batch.executor.isolation import Isolation
from gateway.batch.executor.processes import find_process
from gateway.batch.executor.runner import ORDERED_MAX, Runner
from gateway.batch.executor.spawn_pool import SpawnPool
from gateway.batch.executor.spawn_server import (
    FILES_PER_MESSAGE,
    WORDS_BYTES_MAX,
    Order,
    Report,
    joined,
)
from gateway.batch.executor.spawning import Spawner
from gateway.clock import now
from tests.batch.executor.executors import (
    WAIT_S_MAX,
    is_gone,
    kill_process,
    local_engine,
    processes_that_say,
    servers_of,
    sleeper,
    until,
)
from tests.support.attempts import Watch, launch

UNHEARD = 500
"""So many reports of one end each are more than a line holds."""

# A runner that has told an end and not yet heard of the process that leads a daemon's session.
ADOPTING = """
import sys, time
from pathlib import Path
from gateway.batch.executor import processes
from gateway.batch.executor.control_groups import open_control_groups
from gateway.batch.executor.folders import ATTEMPTS
from gateway.batch.executor.isolation import Isolation
from gateway.batch.executor.runner import Runner
from gateway.batch.executor.spawn_pool import SpawnPool
from gateway.clock import now
from tests.batch.executor.executors import processes_that_say
from tests.support.attempts import launch

root, command = Path(sys.argv[1]), input()
(root / ATTEMPTS).mkdir()
processes.become_subreaper()
pool = SpawnPool(1)
groups = open_control_groups(root)
runner = Runner(root, isolation=Isolation("none"), pool=pool, groups=groups, clock=now)

def order(words):
    attempt = launch(words)
    runner.enqueue([attempt])
    assert runner.spawn(count_max=1) == []
    runner.flush()
    return attempt.attempt_id

ending = order("true")
while runner.running[ending].status is None:
    runner.hear()
daemon = order(
    f"( (cd /; exec env -i {command} </dev/null >/dev/null 2>&1) & ); exec sleep 1000"
)

def has_settled(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\\0")

while not any(has_settled(pid) for pid in processes.children() if pid not in pool.pids):
    time.sleep(0.001)
# Here the daemon's session is nobody's whose process was told.
print(runner.reap(), len(processes_that_say(command)))
while not runner.running[daemon].pid:
    runner.hear()
print([each.attempt_id == ending for each in runner.reap()], len(processes_that_say(command)))
runner.stop_all()
runner.flush()
ended = []
while not ended:
    runner.hear()
    ended = runner.reap()
print([each.attempt_id == daemon for each in ended], len(processes_that_say(command)))
pool.close()
"""


@pytest.fixture
def pool() -> Iterator[SpawnPool]:
    with closing(SpawnPool(1)) as opened:
        yield opened


def order(number: int, command: str, *, work: Path, files: Sequence[int] = ()) -> Order:
    return Order(
        number,
        work=os.fsencode(work),
        argv=joined(["/bin/sh", "-c", command]),
        environment=joined(["PATH=/usr/bin:/bin", "A=b=c\nd"]),
        program=b"",
        doors=(),
        homes=(),
        files=tuple(files),
    )


def hear(pool: SpawnPool, enough: Callable[[Report], bool]) -> Report:
    """All that is told until it is enough."""
    heard = Report()
    while not enough(heard):
        assert select.select(pool.lines, [], [], WAIT_S_MAX)[0]
        for report in pool.hear():
            heard.spawned += report.spawned
            heard.not_spawned += report.not_spawned
            heard.ended += report.ended
    return heard


def exit_codes(heard: Report) -> dict[int, int]:
    return {number: os.waitstatus_to_exitcode(status) for number, status in heard.ended}


def test_a_command_has_its_files_folder_and_variables(pool: SpawnPool, tmp_path: Path) -> None:
    files = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("one", "two")]
    words = 'pwd; printf %s "$A" >&4; ls /proc/$$/fd; exit 7'
    pool.order(order(5, words, work=tmp_path, files=(1, 4)), files)
    pool.flush()
    for file in files:
        os.close(file)
    heard = hear(pool, lambda heard: bool(heard.ended))
    assert exit_codes(heard) == {5: 7}
    assert [number for number, _ in heard.spawned] == [5]
    shown = (tmp_path / "one").read_text().splitlines()
    assert shown[0] == str(tmp_path)
    assert set(map(int, shown[1:])) <= {0, 1, 2, 4, 10}  # 10 is of the shell's own
    assert (tmp_path / "two").read_text() == "b=c\nd"


def test_what_cannot_be_spawned_is_told_and_stops_nobody_else(
    pool: SpawnPool, tmp_path: Path
) -> None:
    pool.order(order(1, "exit 1", work=tmp_path / "nowhere"), ())
    missing = order(2, "exit 2", work=tmp_path)
    missing.argv = joined(["/nowhere/program"])
    pool.order(missing, ())
    pool.order(order(3, "exit 3", work=tmp_path), ())
    pool.flush()
    heard = hear(pool, lambda heard: bool(heard.ended))
    assert [(each.number, each.code) for each in heard.not_spawned] == [
        (1, errno.ENOENT),
        (2, errno.ENOENT),
    ]
    assert exit_codes(heard) == {3: 3}


def test_a_program_that_has_gone_is_left_to_the_shell(pool: SpawnPool, tmp_path: Path) -> None:
    asked = order(1, "exit 4", work=tmp_path)
    asked.program = joined(["/nowhere/program", "program"])
    pool.order(asked, ())
    pool.flush()
    assert exit_codes(hear(pool, lambda heard: bool(heard.ended))) == {1: 4}


def test_many_orders_with_many_files(pool: SpawnPool, tmp_path: Path) -> None:
    count = FILES_PER_MESSAGE
    for number in range(count):
        files = [os.open(os.devnull, os.O_RDWR) for _ in range(2)]
        pool.order(order(number, f"exit {number % 7}", work=tmp_path, files=(1, 2)), files)
    big = order(count, f"exit 3 # {'x' * 100_000}", work=tmp_path)
    pool.order(big, ())
    pool.flush()
    heard = hear(pool, lambda heard: len(heard.ended) == count + 1)
    assert exit_codes(heard) == {**{number: number % 7 for number in range(count)}, count: 3}


def test_the_process_group_goes_with_the_command(pool: SpawnPool, tmp_path: Path) -> None:
    command = sleeper()
    pool.order(order(1, f"{command} & exit 0", work=tmp_path), ())
    pool.order(order(2, f"{command} & {command}", work=tmp_path), ())
    pool.flush()
    heard = hear(pool, lambda heard: bool(heard.ended) and len(heard.spawned) == 2)
    assert exit_codes(heard) == {1: 0}
    pool.kill(3)  # which nobody has
    pool.kill(2)
    pool.flush()
    heard = hear(pool, lambda heard: bool(heard.ended))
    assert exit_codes(heard) == {2: -signal.SIGKILL}
    while processes_that_say(command):
        pass


def test_a_signal_to_the_whole_session_ends_commands_and_not_their_servers(
    pool: SpawnPool, tmp_path: Path
) -> None:
    pool.order(order(1, "exec sleep 1000", work=tmp_path), ())
    pool.flush()
    [(_, pid)] = hear(pool, lambda heard: bool(heard.spawned)).spawned
    for server in pool.pids:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(server, number)
    os.kill(pid, signal.SIGTERM)
    assert exit_codes(hear(pool, lambda heard: bool(heard.ended))) == {1: -signal.SIGTERM}


def test_a_server_that_ends_is_heard_of() -> None:
    pool = SpawnPool(1)
    for server in pool.pids:
        kill_process(server)
    with closing(pool), pytest.raises(RuntimeError, match="spawn server"):
        hear(pool, lambda _: False)


def test_a_server_that_nobody_hears_goes_on_hearing(pool: SpawnPool, tmp_path: Path) -> None:
    for number in range(UNHEARD):
        pool.order(order(number, "exec sleep 1000", work=tmp_path), ())
    pool.flush()
    spawned = hear(pool, lambda heard: len(heard.spawned) == UNHEARD).spawned
    for _, pid in spawned:
        kill_process(pid)
        while not is_gone(pid):  # so that each is told of by itself
            pass
    pool.order(order(UNHEARD, f"exit 3 # {'x' * 100_000}", work=tmp_path), ())
    pool.order(order(UNHEARD + 1, f"exit 4 # {'x' * 100_000}", work=tmp_path), ())
    pool.order(order(UNHEARD + 2, f"exit 5 # {'x' * 100_000}", work=tmp_path), ())
    flushing = threading.Thread(target=pool.flush, daemon=True)
    flushing.start()
    flushing.join(WAIT_S_MAX)
    assert not flushing.is_alive()
    codes = exit_codes(hear(pool, lambda heard: len(heard.ended) == UNHEARD + 3))
    assert [codes[UNHEARD + each] for each in range(3)] == [3, 4, 5]


def test_what_is_killed_before_it_is_spawned_never_begins(pool: SpawnPool, tmp_path: Path) -> None:
    for server in pool.pids:
        os.kill(server, signal.SIGSTOP)
    for number in (1, 2, 3):
        files = [os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT)]
        pool.order(order(number, f"echo {number}", work=tmp_path, files=(1,)), files)
    pool.kill(2)
    pool.flush()
    for server in pool.pids:
        os.kill(server, signal.SIGCONT)
    heard = hear(pool, lambda heard: len(heard.ended) == 2)
    assert exit_codes(heard) == {1: 0, 3: 0}
    assert [(each.number, each.code) for each in heard.not_spawned] == [(2, errno.ECANCELED)]
    assert [(tmp_path / str(each)).read_text() for each in (1, 2, 3)] == ["1\n", "", "3\n"]


def test_a_command_ignores_no_signal_although_we_do(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    try:
        with closing(SpawnPool(1)) as pool:
            words = "sed -n s/SigIgn://p /proc/self/status > ignored"
            pool.order(order(1, words, work=tmp_path), ())
            pool.flush()
            assert exit_codes(hear(pool, lambda heard: bool(heard.ended))) == {1: 0}
    finally:
        signal.signal(signal.SIGQUIT, before)
    ignored = int((tmp_path / "ignored").read_text(), base=16)
    assert [each for each in signal.valid_signals() if ignored >> (each - 1) & 1] == []


def test_a_server_that_can_open_no_more_files_mixes_none_up(
    pool: SpawnPool, tmp_path: Path
) -> None:
    for server in pool.pids:
        resource.prlimit(server, resource.RLIMIT_NOFILE, (20, 20))
    for number in range(20):
        files = [os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT)]
        pool.order(order(number, f"echo {number}", work=tmp_path, files=(1,)), files)
    pool.flush()
    with pytest.raises(RuntimeError, match="spawn server"):
        hear(pool, lambda _: False)
    assert all(not each.read_bytes() for each in tmp_path.iterdir())


def test_a_server_that_is_stopped_is_ended(
    pool: SpawnPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for server in pool.pids:
        os.kill(server, signal.SIGSTOP)
    pool.order(order(1, "true", work=tmp_path), ())
    pool.flush()
    assert list(pool.hear()) == []
    monkeypatch.setattr(spawn_pool, "ANSWER_S_MAX", 0.0)
    with pytest.raises(RuntimeError, match="does not answer"):
        list(pool.hear())
    pool.close()
    assert all(is_gone(server) for server in pool.pids)


# Under the runner ---------------------------------------------------------------------------------


@pytest.fixture
def runner(tmp_path: Path, pool: SpawnPool) -> Runner:
    (tmp_path / ATTEMPTS).mkdir()
    groups = open_control_groups(tmp_path)
    return Runner(tmp_path, isolation=Isolation("none"), pool=pool, groups=groups, clock=now)


def test_words_that_no_process_can_have_are_told_as_such(runner: Runner, tmp_path: Path) -> None:
    runner.enqueue([launch("echo \0"), launch("true", environment={"A": "x" * WORDS_BYTES_MAX})])
    ended = runner.spawn(count_max=2)
    assert [(each.cause, each.started) for each in ended] == [(Cause.INFRA_LOST, False)] * 2
    assert [each.detail.rpartition(": ")[2] for each in ended] == [
        "embedded null byte",
        os.strerror(errno.E2BIG),
    ]
    assert runner.is_idle
    assert list(tmp_path.rglob("work")) == []


def test_no_more_is_ordered_than_can_have_its_files_open(runner: Runner) -> None:
    runner.enqueue([launch("true") for _ in range(ORDERED_MAX + 1)])
    assert runner.spawn(count_max=ORDERED_MAX + 1) == []
    assert not runner.has_waiting
    runner.flush()
    while not runner.has_waiting:
        assert runner.hear().ended == []
    assert runner.spawn(count_max=1) == []
    runner.stop_all()


def test_what_is_stopped_before_its_process_is_told_was_stopped_if_there_was_none(
    runner: Runner, tmp_path: Path
) -> None:
    attempt = launch("true")
    runner.enqueue([attempt])
    assert runner.spawn(count_max=1) == []
    (tmp_path / ATTEMPTS / attempt.folder / "work").rmdir()
    assert runner.stop(attempt.attempt_id) is None
    runner.flush()
    while not (ended := runner.hear().ended):
        pass
    assert [(each.cause, each.started) for each in ended] == [(Cause.TERMINATED, False)]
    assert runner.is_idle


def test_what_shows_nothing_may_be_of_an_attempt_whose_process_is_not_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ADOPTING, str(tmp_path)],
        input=sleeper(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=WAIT_S_MAX,
    )
    assert done.stdout.splitlines() == ["[] 1", "[True] 1", "[True] 0"]


# Of a container ---------------------------------------------------------------------------------


@pytest.fixture
def spawner(root: Path, pool: SpawnPool) -> Spawner:
    """One that would run containers, though with a program that is not there."""
    root.mkdir(mode=0o711)
    (root / ATTEMPTS).mkdir(mode=0o711)
    containers = Containers(("/nowhere/podman",), "4", {})
    return Spawner(root, pool=pool, groups=open_control_groups(root), containers=containers)


def contained(environment: Mapping[str, str]) -> Launch:
    return replace(launch("true", environment=environment), container=Container("image"))


def test_no_variable_is_left_of_a_container_that_could_not_be_made_ready(
    spawner: Spawner, root: Path
) -> None:
    attempt = contained({"A": "s3cret-four"})
    (root / ATTEMPTS / attempt.folder / "stderr").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        spawner.make_ready(attempt, Isolation("none"))
    refused = contained({"A": "s3cret-five", "no name": ""})
    with pytest.raises(ValueError, match="no name"):
        spawner.make_ready(refused, Isolation("none"))
    assert list(root.rglob(SCRATCH)) == []


def test_no_variable_is_left_of_a_container_that_could_not_be_spawned(
    spawner: Spawner, root: Path
) -> None:
    attempt = contained({"A": "s3cret-six"})
    ready = spawner.make_ready(attempt, Isolation("none"))
    (root / ATTEMPTS / attempt.folder / "work").rmdir()
    spawner.order(1, ready)
    spawner.flush()
    while not (heard := list(spawner.hear())):
        pass
    assert [each.code for each in heard[0].not_spawned] == [errno.ENOENT]
    spawner.take_back(ready)
    assert list(root.rglob(SCRATCH)) == []


# In an executor -----------------------------------------------------------------------------------


def groups_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


@pytest.mark.anyio
async def test_an_executor_whose_spawn_server_ends_is_followed_by_another(tmp_path: Path) -> None:
    command = sleeper()
    running = [launch(f"{command} & {command}") for _ in range(3)]
    async with local_engine(tmp_path / "engine", isolation="none") as engine:
        watch, first = Watch(engine), engine.executor_pid
        await engine.start(running)
        await watch.started(running)
        server = servers_of(engine.executor_pid)[0]
        kill_process(server)
        await watch.reconnected()
        assert {each.cause for each in await watch.ended(running)} == {Cause.INFRA_LOST}
        assert engine.executor_pid != first
        assert processes_that_say(command) == []
        after = launch("exit 5")
        await engine.start([after])
        assert [each.exit_code for each in await watch.ended([after])] == [5]


@pytest.mark.anyio
async def test_spawn_servers_end_with_their_executor_and_hold_its_lock_until_then(
    tmp_path: Path,
) -> None:
    async with local_engine(tmp_path / "engine", isolation="none") as engine:
        servers = servers_of(engine.executor_pid)
        lock = os.stat(tmp_path / "engine" / "executor.lock")
        for server in servers:
            held = [os.stat(f"/proc/{server}/fd/{fd}") for fd in os.listdir(f"/proc/{server}/fd")]
            assert any(os.path.samestat(each, lock) for each in held)
            os.kill(server, signal.SIGSTOP)  # even one that does nothing
        kill_process(engine.executor_pid)
        await until(lambda: all(map(is_gone, servers)))


@pytest.mark.anyio
async def test_no_spawn_server_stays_in_a_group_of_an_attempt(tmp_path: Path) -> None:
    limits = Limits(cores=1, mem_bytes=2**28, processes=64)
    attempts = [replace(launch("sleep 1000"), limits=limits) for _ in range(5)]
    async with local_engine(tmp_path / "engine", isolation="none") as engine:
        watch = Watch(engine)
        await engine.start(attempts)
        await watch.started(attempts)
        homes = {groups_of(pid) for pid in servers_of(engine.executor_pid)}
        assert homes == {groups_of(engine.executor_pid)}
        await engine.stop([each.attempt_id for each in attempts])
        ended = await watch.ended(attempts)
        assert {each.cause for each in ended} == {Cause.TERMINATED}
        assert all(find_process(pid) is not None for pid in servers_of(engine.executor_pid))


@pytest.mark.anyio
async def test_what_is_stopped_at_once_ends_however_far_it_has_come(tmp_path: Path) -> None:
    command = sleeper()
    attempts = [launch(f"setsid {command} & {command}") for _ in range(30)]
    async with local_engine(tmp_path / "engine", isolation="none") as engine:
        watch = Watch(engine)
        for attempt in attempts:
            await engine.start([attempt])
            await engine.stop([attempt.attempt_id])
        ended = await watch.ended(attempts)
        assert {each.cause for each in ended} == {Cause.TERMINATED}
        assert processes_that_say(command) == []
