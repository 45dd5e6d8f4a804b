"""A full disk: what is to be started waits until there is room again, and is not lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.batch.engines import Cause
from gateway.batch.engines.local import LocalEngine
from tests.batch.executor.executors import UNJOURNALLED, until
from tests.support.attempts import Watch, launch
from tests.support.disks import fill, small_disk

INODES = 2_000


@pytest.fixture
def isolation() -> str:
    return "none"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "engine", kib=16_384, mode="1777", inodes=INODES) as folder:
        yield folder


def log_of(root: Path) -> bytes:
    return (root / "executor.log").read_bytes()


@pytest.mark.anyio
async def test_what_cannot_be_journalled_for_want_of_room_is_started_later(
    engine: LocalEngine, root: Path
) -> None:
    fill(root / "filler")
    attempts = [launch("echo ran") for _ in range(UNJOURNALLED)]
    stopped = attempts.pop()
    watch = Watch(engine)
    await engine.start([*attempts, stopped])
    await until(lambda: b"not_journalled" in log_of(root))
    await engine.stop([stopped.attempt_id])
    (root / "filler").unlink()
    ended = await watch.ended([*attempts, stopped])
    assert [each.cause for each in ended] == [None] * len(attempts) + [Cause.TERMINATED]


@pytest.mark.anyio
async def test_what_can_have_no_folder_for_want_of_inodes_is_started_later(
    engine: LocalEngine, root: Path
) -> None:
    files = [root / f"file-{number}" for number in range(INODES)]
    for file in files:
        try:
            file.touch()
        except OSError:
            break
    attempts = [launch("echo ran") for _ in range(3)]
    watch = Watch(engine)
    await engine.start(attempts)
    await until(lambda: b"no_room_to_start" in log_of(root))
    for file in files:
        file.unlink(missing_ok=True)
    assert [each.cause for each in await watch.ended(attempts)] == [None] * 3
