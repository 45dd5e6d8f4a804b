"""Who has to give room when a disk is nearly full, and in which order."""

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.batch.engines import Launch, Mount
from gateway.batch.executor.folders import ATTEMPTS
from gateway.batch.executor.samples import GOING_S_MAX, Sampler
from tests.support.attempts import launch
from tests.support.disks import fill, small_disk

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MEBIBYTE = 1_048_576


class Guarded:
    """A small disk, and attempts on it of which each has a folder with so many bytes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seconds = 0.0
        self.sampler = Sampler(clock=lambda: NOW, monotonic=lambda: self.seconds, root=str(root))

    def work(self, attempt: Launch) -> Path:
        return self.root / ATTEMPTS / attempt.folder / "work"

    def run(self, attempt: Launch, *, size: int = 0) -> Launch:
        self.work(attempt).mkdir(parents=True)
        (self.work(attempt) / "data").write_bytes(bytes(size))
        folder = str(self.work(attempt).parent)
        self.sampler.watch(attempt, folder=folder, pid=os.getpid(), group=None)
        return attempt

    def look(self) -> tuple[str | None, str | None]:
        """The running attempt that is to end, and the folder of the ended one that is to go."""
        self.sampler.guard_room()
        return self.sampler.next_hog(), self.sampler.next_useless()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    with small_disk(tmp_path / "disk", kib=16_384) as root:
        yield Guarded(root)


def test_what_failed_goes_before_anything_that_runs_is_ended(guarded: Guarded) -> None:
    failed = guarded.run(launch("failed"), size=MEBIBYTE)
    guarded.sampler.end(failed, failed=True)
    larger = guarded.run(launch("larger"), size=4 * MEBIBYTE)
    fill(guarded.root / "filler")
    assert guarded.look() == (None, failed.folder)
    assert guarded.look() == (None, None), "room is being made"
    shutil.rmtree(guarded.work(failed))
    fill(guarded.root / "filler again")
    assert guarded.look() == (larger.attempt_id, None)
    assert guarded.look() == (None, None), "each is told once"


def test_a_folder_that_cannot_be_removed_does_not_save_what_runs(guarded: Guarded) -> None:
    failed = guarded.run(launch("failed"), size=MEBIBYTE)
    guarded.sampler.end(failed, failed=True)
    running = guarded.run(launch("running"), size=MEBIBYTE)
    fill(guarded.root / "filler")
    assert guarded.look() == (None, failed.folder)
    guarded.seconds += GOING_S_MAX
    assert guarded.look() == (running.attempt_id, None)


def test_the_disk_of_a_node_counts_for_one_of_those_that_write_to_it(guarded: Guarded) -> None:
    disk = guarded.root / "nodes" / "node" / "disk"
    (disk / "deeper").mkdir(parents=True)
    (disk / "deeper" / "data").write_bytes(bytes(3 * MEBIBYTE))
    mounts = (
        Mount(str(disk / "deeper"), "/disk/deeper", writable=True),
        Mount(str(disk), "/disk", writable=True),
    )
    first = guarded.run(replace(launch("first"), mounts=mounts), size=MEBIBYTE)
    last = guarded.run(replace(launch("last"), mounts=mounts))
    other = guarded.run(launch("other"), size=3 * MEBIBYTE + MEBIBYTE // 2)
    fill(guarded.root / "filler")
    assert guarded.look() == (other.attempt_id, None), "no disk counts twice"
    guarded.sampler.forget(other.attempt_id)
    assert guarded.look() == (last.attempt_id, None)
    guarded.sampler.forget(last.attempt_id)
    assert guarded.look() == (first.attempt_id, None)


def test_of_those_that_meet_the_full_disk_only_what_filled_it_is_to_blame(guarded: Guarded) -> None:
    sizes = (0, 4 * MEBIBYTE, 3 * MEBIBYTE)
    running = [guarded.run(launch("true"), size=size) for size in sizes]

    def blamed() -> list[bool]:
        return [guarded.sampler.is_hog(each.attempt_id) for each in running]

    assert blamed() == [False, False, False], "there is room"
    failed = guarded.run(launch("failed"), size=5 * MEBIBYTE)
    fill(guarded.root / "filler")
    assert blamed() == [False, False, False], "another holds more"
    guarded.sampler.end(failed, failed=True)
    assert blamed() == [False, False, False], "what another has left is more"
    guarded.sampler.forget(failed.attempt_id)
    assert blamed() == [False, True, False]
    guarded.sampler.forget(running[1].attempt_id)
    assert blamed() == [False, False, True]
