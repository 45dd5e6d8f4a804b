"""What an attempt uses is measured while it runs, and kept in little room."""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.batch.engines import Container, Launch, Limits, Mount
from gateway.batch.engines.local import LocalEngine, open_local_engine
from gateway.batch.executor import processes
from gateway.batch.executor.containers import PID_FILE
from gateway.batch.executor.control_groups import open_control_groups
from gateway.batch.executor.folders import SCRATCH
from gateway.batch.executor.held import PATH_LONG, taken_below
from gateway.batch.executor.samples import (
    BY_PROCESS,
    EVERY_S,
    FIRST_S,
    SAMPLES,
    SAMPLES_MAX,
    Record,
    Sampler,
    disk_used_percent,
    read_samples,
)
from tests.batch.executor.executors import inside, until
from tests.support.attempts import Watch, launch
from tests.support.disks import fill, layered, small_disk, use_up_files

NAME = "d" * 250
LIMITS = Limits(cores=1, mem_bytes=1 << 30, processes=100)
# 50 MB in a variable, then one core for ever
BUSY = "x=$(head -c 50000000 /dev/zero | tr '\\0' x); while :; do :; done"


class Time:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)


@contextmanager
def busy_process() -> Iterator[int]:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", BUSY], {"PATH": os.environ["PATH"]}, setsid=True)
    try:
        yield pid
    finally:
        os.killpg(pid, 9)
        os.waitpid(pid, 0)


def found_in(folder: Path) -> Record:
    found = read_samples(folder)
    assert found is not None
    return found


@pytest.mark.anyio
async def test_a_running_attempt_is_measured_under_every_isolation(engine: LocalEngine) -> None:
    attempt = replace(launch(BUSY), limits=LIMITS)
    watch = Watch(engine)
    await engine.start([attempt])
    folder = engine.attempt_path(attempt.folder)
    await until(lambda: read_samples(folder) is not None)
    await engine.stop([attempt.attempt_id])
    await watch.ended([attempt])
    found = found_in(folder)
    assert (found.header.cores, found.header.mem_bytes) == (1, 1 << 30)
    [sample] = found.samples
    assert 0.01 < sample.cpu_s < 20
    assert 10_000_000 < sample.mem_bytes < 1 << 30
    [used] = sample.disks
    assert used is not None
    assert 0 < used < 100


@pytest.mark.anyio
async def test_how_full_the_disk_is_is_measured(tmp_path: Path) -> None:
    with small_disk(tmp_path / "engine", kib=262_144, mode="711") as root:
        with (root / "quarter").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 67_108_864)
        async with open_local_engine(root, isolation="none", capacity=4) as engine:
            attempt = launch(BUSY)
            await engine.start([attempt])
            folder = engine.attempt_path(attempt.folder)
            await until(lambda: read_samples(folder) is not None)
            await engine.stop([attempt.attempt_id])
            await Watch(engine).ended([attempt])
        [sample] = found_in(folder).samples
        assert sample.disks == (25.0,)
        assert disk_used_percent(str(root)) == 25.0


def test_without_control_groups_the_processes_are_added_up(tmp_path: Path) -> None:
    time = Time()
    sampler = Sampler(clock=time.now, monotonic=time.monotonic)
    with busy_process() as pid:
        sampler.watch(launch("x"), folder=str(tmp_path), pid=pid, group=None)
        time.seconds = FIRST_S
        sampler.take()
        first = found_in(tmp_path)
        while (found := found_in(tmp_path)).samples[-1].cpu_s <= first.samples[0].cpu_s:
            time.seconds += EVERY_S * 1_000
            sampler.take()
    sampler.forget(launch("x").attempt_id)
    assert found.header.counted_by == BY_PROCESS
    assert found.header.cores == os.cpu_count()
    assert found.samples[-1].mem_bytes > 1_000_000


def test_a_container_is_measured_from_its_first_process_on(tmp_path: Path) -> None:
    time = Time()
    sampler = Sampler(clock=time.now, monotonic=time.monotonic)
    attempt = replace(launch("x"), container=Container("busybox"))
    (tmp_path / SCRATCH).mkdir()
    with busy_process() as pid:
        sampler.watch(attempt, folder=str(tmp_path), pid=os.getpid(), group=None)
        time.seconds = FIRST_S
        sampler.take()
        assert read_samples(tmp_path) is None
        (tmp_path / SCRATCH / PID_FILE).write_text(str(pid))
        sampler.take()
    [sample] = found_in(tmp_path).samples
    assert sample.mem_bytes > 0


def test_a_file_of_samples_stays_small_and_spans_the_whole_life(tmp_path: Path) -> None:
    time = Time()
    sampler = Sampler(clock=time.now, monotonic=time.monotonic)
    attempt = launch("x")
    sampler.watch(attempt, folder=str(tmp_path), pid=os.getpid(), group=None)
    began = time.now().timestamp()
    hours = 4
    while time.seconds < hours * 3_600:
        time.seconds += 2.5
        sampler.take()
    found = found_in(tmp_path)
    assert SAMPLES_MAX // 3 < len(found.samples) <= SAMPLES_MAX
    assert (tmp_path / SAMPLES).stat().st_size < 60_000
    moments = [sample.at - began for sample in found.samples]
    assert moments == sorted(set(moments))
    assert moments[0] < 600
    assert moments[-1] > (hours - 1) * 3_600
    assert [path.name for path in tmp_path.iterdir()] == [SAMPLES]
    sampler.forget(attempt.attempt_id)


def test_an_attempt_that_is_over_leaves_no_file_behind_its_back(tmp_path: Path) -> None:
    time = Time()
    sampler = Sampler(clock=time.now, monotonic=time.monotonic)
    gone, kept = launch("x"), launch("y")
    for attempt, folder in ((gone, tmp_path / "gone"), (kept, tmp_path)):
        sampler.watch(attempt, folder=str(folder), pid=os.getpid(), group=None)
    time.seconds = FIRST_S
    sampler.take()
    assert len(found_in(tmp_path).samples) == 1
    assert not (tmp_path / "gone").exists()
    sampler.forget(kept.attempt_id)
    time.seconds += EVERY_S
    sampler.take()
    assert len(found_in(tmp_path).samples) == 1


def test_every_mount_is_a_disk_and_one_that_is_gone_has_no_number(tmp_path: Path) -> None:
    time = Time()
    sampler = Sampler(clock=time.now, monotonic=time.monotonic)
    mounts = (Mount("/", "/data"), Mount(str(tmp_path / "gone"), "/away"))
    attempt = replace(launch("x"), mounts=mounts)
    (tmp_path / "work").mkdir()
    sampler.watch(attempt, folder=str(tmp_path), pid=os.getpid(), group=None)
    time.seconds = FIRST_S
    sampler.take()
    found = found_in(tmp_path)
    assert found.header.disks == ("/", "/data", "/away")
    work, data, away = found.samples[0].disks
    assert work is not None
    assert data is not None
    assert away is None
    sampler.forget(attempt.attempt_id)


def test_what_a_group_used_before_is_not_counted_again(tmp_path: Path) -> None:
    groups = open_control_groups(tmp_path)
    groups.claim()
    try:
        first = groups.make(LIMITS)
        assert first is not None
        with ExitStack() as stack:
            with inside(groups, first):
                stack.enter_context(busy_process())
            # Not every machine counts the time of a group.
            while (used := first.usage()).cpu_s is not None and used.cpu_s < 0.5:
                pass
            while (first.usage().mem_bytes or 0) < 10_000_000:
                pass
        while not first.is_empty:
            pass
        groups.discard(first)
        second = groups.make(LIMITS)
        assert second is first
        assert (second.usage().cpu_s or 0.0) < 0.5
        assert (second.usage().mem_bytes or 0) < 10_000_000
        assert second.is_empty
    finally:
        groups.close()


@pytest.mark.anyio
async def test_what_begins_when_the_last_has_just_ended_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next attempt comes at the moment at which the thread goes to sleep."""
    latecomers = [launch("late")]

    class Moment(threading.Event):
        def clear(self) -> None:
            if latecomers:
                watch(latecomers.pop())
            super().clear()

    def watch(attempt: Launch) -> None:
        sampler.watch(attempt, folder=str(tmp_path), pid=os.getpid(), group=None)

    events = SimpleNamespace(Event=Moment, Thread=threading.Thread)
    monkeypatch.setattr("gateway.batch.executor.samples.threading", events)
    monkeypatch.setattr("gateway.batch.executor.samples.ROUND_S", 0.01)
    monkeypatch.setattr("gateway.batch.executor.samples.FIRST_S", 0.0)
    time = Time()
    sampler = Sampler(clock=time.now, monotonic=time.monotonic)
    first = launch("first")
    sampler.watch(first, folder=str(tmp_path / "gone"), pid=os.getpid(), group=None)
    sampler.forget(first.attempt_id)
    sampler.start()
    await until((tmp_path / SAMPLES).exists)


def test_one_attempt_that_cannot_be_measured_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [PermissionError(13, "not for you")]

    def all_processes() -> Iterator[processes.Process]:
        if tables:
            raise tables.pop()
        return iter(())

    monkeypatch.setattr(processes, "all_processes", all_processes)
    time = Time()
    sampler = Sampler(clock=time.now, monotonic=time.monotonic)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("one", "two"):
        sampler.watch(launch(name), folder=str(tmp_path / name), pid=os.getpid(), group=None)
    time.seconds = FIRST_S
    sampler.take()
    assert read_samples(tmp_path / "one") is None
    assert read_samples(tmp_path / "two") is not None
    time.seconds += EVERY_S
    sampler.take()
    assert read_samples(tmp_path / "one") is not None


def test_one_attempt_that_cannot_be_looked_at_hides_no_other_that_fills_the_disk(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", kib=4_096) as disk:
        time = Time()
        sampler = Sampler(clock=time.now, monotonic=time.monotonic, root=str(disk))
        (disk / "hog").mkdir()
        attempts = {name: launch(name) for name in ("gone", "hog")}
        for name, attempt in attempts.items():
            sampler.watch(attempt, folder=str(disk / name), pid=os.getpid(), group=None)
        fill(disk / "hog" / "filler")
        sampler.guard_room()
        assert sampler.next_hog() == attempts["hog"].attempt_id


def test_what_takes_all_files_of_a_disk_is_named_however_small_they_are(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kib=65_536, inodes=2_000) as disk:
        sampler = Sampler(clock=Time().now, root=str(disk))
        large, many = launch("x"), launch("y")
        for attempt, folder in ((large, disk / "large"), (many, disk / "many")):
            folder.mkdir()
            sampler.watch(attempt, folder=str(folder), pid=os.getpid(), group=None)
        (disk / "large" / "big").write_bytes(b"x" * 10_000_000)
        sampler.guard_room()
        assert sampler.next_hog() is None
        use_up_files(disk / "many")
        sampler.guard_room()
        assert sampler.next_hog() == many.attempt_id


def test_what_an_attempt_writes_to_a_disk_of_its_node_is_its_own(tmp_path: Path) -> None:
    with small_disk(tmp_path / "root", kib=4_096) as root:
        sampler = Sampler(clock=Time().now, root=str(root))
        disk, shared, elsewhere = root / "nodes" / "disk", root / "shared", tmp_path / "server"
        for folder in (disk, shared, elsewhere):
            folder.mkdir(parents=True)
        (root / "led_out").symlink_to(elsewhere)
        mounts = (
            Mount(str(shared), "/shared"),
            Mount(str(elsewhere), "/server", writable=True),
            Mount(str(root / "led_out"), "/out", writable=True),
            Mount(str(disk), "/disk", writable=True),
        )
        hog, modest = replace(launch("x"), mounts=mounts), launch("y")
        assert sampler.own_disks(hog) == [str(disk)]
        for attempt, folder in ((modest, root / "modest"), (hog, root / "hog")):
            folder.mkdir()
            sampler.watch(attempt, folder=str(folder), pid=os.getpid(), group=None)
        fill(disk / "big")
        sampler.guard_room()
        assert sampler.next_hog() == hog.attempt_id


@pytest.mark.parametrize("where", ["the disk", "another disk"])
def test_what_a_container_writes_to_its_own_root_is_its_own(tmp_path: Path, where: str) -> None:
    attempt = replace(launch("x"), container=Container("busybox"))
    with (
        small_disk(tmp_path / "the disk", kib=8_192) as disk,
        small_disk(tmp_path / "another disk", kib=8_192),
        layered(tmp_path / where / "layers") as root,
        full_container(root) as pid,
    ):
        sampler = Sampler(clock=Time().now, root=str(disk))
        scratch = disk / "attempt" / SCRATCH
        scratch.mkdir(parents=True)
        (scratch / PID_FILE).symlink_to(tmp_path / "pid")  # a full disk takes no byte
        (tmp_path / "pid").write_text(str(pid))
        sampler.watch(attempt, folder=str(disk / "attempt"), pid=os.getpid(), group=None)
        fill(disk / "filler")
        sampler.guard_room()
        assert sampler.next_hog() == (attempt.attempt_id if where == "the disk" else None)


@contextmanager
def full_container(root: Path) -> Iterator[int]:
    """A process of which a folder is the root, and which has filled that."""
    with subprocess.Popen(
        ["chroot", str(root), "/busybox", "sh", "-c", "/busybox yes > big; echo full; read line"],
        env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"full\n"
        yield process.pid
        process.stdin.close()


def test_a_file_of_samples_that_somebody_emptied_stops_no_sample(tmp_path: Path) -> None:
    time = Time()
    sampler = Sampler(clock=time.now, monotonic=time.monotonic)
    emptied, kept = tmp_path / "emptied", tmp_path / "kept"
    for folder in (emptied, kept):
        folder.mkdir()
        sampler.watch(launch("x"), folder=str(folder), pid=os.getpid(), group=None)
    for _ in range(SAMPLES_MAX):
        time.seconds += EVERY_S
        sampler.take()
    (emptied / SAMPLES).write_bytes(b"")
    count = len(found_in(kept).samples)
    time.seconds += EVERY_S
    sampler.take()
    assert len(found_in(kept).samples) == count // 2 + 1


@pytest.mark.anyio
async def test_a_fault_of_one_round_does_not_end_the_sampler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Faulty(Sampler):
        rounds = 0

        def take(self) -> None:
            self.rounds += 1
            raise ValueError("a fault")

    monkeypatch.setattr("gateway.batch.executor.samples.ROUND_S", 0.01)
    time = Time()
    sampler = Faulty(clock=time.now, monotonic=time.monotonic)
    attempt = launch("x")
    sampler.watch(attempt, folder=str(tmp_path), pid=os.getpid(), group=None)
    sampler.start()
    await until(lambda: sampler.rounds >= 3)
    sampler.forget(attempt.attempt_id)


@contextmanager
def deep_folder(parent: Path) -> Iterator[int]:
    """A folder opened, such that those in it with names as long are to be held open."""
    names = [NAME] * (PATH_LONG // (len(NAME) + 1))
    folder = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    for name in names:
        os.mkdir(name, dir_fd=folder)
        above, folder = folder, os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
        os.close(above)
    try:
        yield folder
    finally:
        os.close(folder)
        subprocess.run(["rm", "-rf", str(parent / names[0])], check=True)


def test_deep_folders_are_counted_with_few_files_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0
    scandir = os.scandir

    def scan(path: str) -> Any:
        nonlocal most
        most = max(most, len(os.listdir("/proc/self/fd")))
        return scandir(path)

    with deep_folder(tmp_path) as folder:
        for number in range(100):
            name = str(number).zfill(len(NAME))
            os.mkdir(name, dir_fd=folder)
            file = os.open(f"{name}/file", os.O_WRONLY | os.O_CREAT, dir_fd=folder)
            os.write(file, b"x" * 4_096)
            os.close(file)
        before = len(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(os, "scandir", scan)
        size = taken_below(str(tmp_path)).bytes
        monkeypatch.undo()
        assert size >= 100 * 4_096
        assert most < before + 10
        assert len(os.listdir("/proc/self/fd")) == before
