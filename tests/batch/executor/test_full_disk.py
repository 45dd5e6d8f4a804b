"""A full disk: what ended attempts left there goes, so that their end can be told and remembered.

The executor's folder is a small file system of its own.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.batch.engines import Cause
from gateway.batch.engines.local import LocalEngine
from gateway.batch.executor.held import HOG_LOG_BYTES_MAX
from gateway.batch.executor.runner import hog_remover
from gateway.batch.executor.running import FILLED_THE_DISK
from tests.batch.executor.executors import UNJOURNALLED, kill_process, until
from tests.support.attempts import Watch, launch
from tests.support.disks import fill, small_disk

SIZE_MIB = 16
INODES = 2_000
MEBIBYTE = 1_048_576
HELD = 100_000  # less than what makes the executor think that it is this attempt


@pytest.fixture
def isolation() -> str:
    return "none"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with small_disk(
        tmp_path / "engine", kib=SIZE_MIB * 1_024, mode="1777", inodes=INODES
    ) as folder:
        yield folder


@pytest.mark.anyio
async def test_an_end_that_cannot_be_remembered_makes_its_own_room(
    engine: LocalEngine, root: Path
) -> None:
    held = f"head -c {HELD} /dev/zero > held; touch begun; until test -e go; do sleep 0.02; done"
    attempt = launch(f"{held}; exit 3")
    watch = Watch(engine)
    await engine.start([attempt])
    folder = engine.attempt_path(attempt.folder)
    await until((folder / "work" / "begun").exists)
    fill(root / "filler")
    others = [launch("true") for _ in range(UNJOURNALLED)]
    await engine.start(others)
    await until(lambda: b"not_journalled" in (root / "executor.log").read_bytes())
    (folder / "work" / "go").touch()
    [ended] = await watch.ended([attempt])
    assert (ended.cause, ended.exit_code) == (Cause.USER_EXIT, 3)
    assert not (folder / "work").exists()
    assert {each.cause for each in await watch.ended(others)} == {None}, "they waited for room"


def free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


@pytest.mark.anyio
async def test_the_logs_of_what_filled_the_disk_and_ended_are_cut(
    engine: LocalEngine, root: Path
) -> None:
    attempt = launch("echo kept > output; cat /dev/zero; true")
    watch = Watch(engine)
    await engine.start([attempt])
    [ended] = await watch.ended([attempt])  # and nobody can acknowledge it
    assert ended.cause is None
    await until(lambda: free_bytes(root) > SIZE_MIB * MEBIBYTE // 2)
    folder = engine.attempt_path(attempt.folder)
    assert (folder / "stdout").stat().st_size == HOG_LOG_BYTES_MAX
    assert (folder / "work" / "output").read_text() == "kept\n"


@pytest.mark.anyio
async def test_what_filled_the_disk_and_failed_is_a_failure_of_storage_and_goes(
    engine: LocalEngine, root: Path
) -> None:
    attempt = launch("cat /dev/zero > big; exit 3")
    watch = Watch(engine)
    await engine.start([attempt])
    [ended] = await watch.ended([attempt])
    assert (ended.cause, ended.exit_code) == (Cause.STORAGE, 3)
    assert ended.detail == FILLED_THE_DISK
    assert not (engine.attempt_path(attempt.folder) / "work").exists()
    assert free_bytes(root) > SIZE_MIB * MEBIBYTE // 2


@pytest.mark.anyio
async def test_the_many_files_of_what_failed_go(engine: LocalEngine, root: Path) -> None:
    attempt = launch("i=0; while : > $i; do i=$((i + 1)); done")
    watch = Watch(engine)
    await engine.start([attempt])
    [ended] = await watch.ended([attempt])
    assert ended.cause is not None
    await until(lambda: os.statvfs(root).f_favail > INODES // 2)


@pytest.mark.anyio
async def test_what_ended_before_the_executor_died_makes_room_all_the_same(
    engine: LocalEngine, root: Path
) -> None:
    failed = launch("head -c 6000000 /dev/zero > big; exit 3")
    lost = launch("head -c 2000000 /dev/zero > big; touch begun; sleep 1000")
    logged = launch("head -c 4000000 /dev/zero; echo kept > output")
    watch = Watch(engine)
    await engine.start([failed, lost, logged])
    await watch.ended([failed, logged])
    works = [engine.attempt_path(each.folder) / "work" for each in (failed, lost, logged)]
    await until((works[1] / "begun").exists)
    kill_process(engine.executor_pid)
    await watch.ended([lost])
    fill(root / "filler")
    await until(lambda: not works[0].exists())
    fill(root / "filler again")
    log_path = engine.log_path(logged.folder, "stdout")
    await until(lambda: log_path.stat().st_size == HOG_LOG_BYTES_MAX)
    fill(root / "filler at last")
    await until(lambda: not works[1].exists())
    assert (works[2] / "output").read_text() == "kept\n"


@pytest.mark.anyio
async def test_nothing_of_an_end_that_is_acknowledged_is_touched(
    engine: LocalEngine, root: Path
) -> None:
    kept = launch("head -c 6000000 /dev/zero > big; exit 3")
    watch = Watch(engine)
    await engine.start([kept])
    await watch.ended([kept])
    await engine.acknowledge([kept.attempt_id])
    other = launch("cat /dev/zero; exit 3")
    await engine.start([other])
    await watch.ended([other])
    await until(lambda: free_bytes(root) > 6 * MEBIBYTE)
    assert (engine.attempt_path(kept.folder) / "work" / "big").stat().st_size == 6_000_000


def test_the_disks_of_what_fills_the_disk_are_emptied_but_nothing_they_lead_to(
    tmp_path: Path,
) -> None:
    folder, disk, other = tmp_path / "attempt", tmp_path / "disk", tmp_path / "other"
    for each in (folder / "work", disk / ".deep" / "deeper", other):
        each.mkdir(parents=True)
    for file in (disk / ".deep" / "file", disk / "-rf", other / "kept"):
        file.touch()
    (disk / "link").symlink_to(other)
    disks = (str(tmp_path / "gone"), str(disk))
    first = ("/bin/sh", "-c", f"touch {other}/was_first")
    subprocess.run(hog_remover(str(folder), first=first, disks=disks), check=True)
    assert list(disk.iterdir()) == list(folder.iterdir()) == []
    assert {each.name for each in other.iterdir()} == {"kept", "was_first"}
    failing = hog_remover(str(folder), first=("/bin/false",), disks=disks)
    assert subprocess.run(failing, check=False).returncode != 0
