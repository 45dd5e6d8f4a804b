"""What an attempt uses is measured while it runs, and kept in little room."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.batch.engines import Limits, Mount
from gateway.batch.engines.local import LocalEngine
from gateway.batch.executor.control_groups import open_control_groups
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
from tests.batch.executor.executors import until
from tests.support.attempts import Watch, launch

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
    assert sample.disks == (disk_used_percent(str(folder)),)


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


def test_a_file_of_samples_stays_small_and_spans_the_whole_life(tmp_path: Path) -> None:
    time = Time()
    sampler = Sampler(clock=time.now, monotonic=time.monotonic)
    attempt = launch("x")
    sampler.watch(attempt, folder=str(tmp_path), pid=os.getpid(), group=None)
    began = time.now().timestamp()
    hours = 10
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
        groups.discard(first)
        second = groups.make(LIMITS)
        assert second is first
        assert (second.usage().cpu_s or 0.0) < 0.5
        assert second.is_empty
    finally:
        groups.close()
