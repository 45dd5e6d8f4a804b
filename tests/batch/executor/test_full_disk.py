"""A disk that something else fills: what failed attempts left goes, so that their end can be told.

The executor's folder is a small file system of its own.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.batch.engines import Cause
from gateway.batch.engines.local import LocalEngine
from tests.batch.executor.executors import until
from tests.support.attempts import Watch, launch
from tests.support.disks import small_disk

SIZE_MIB = 16
HELD = 100_000  # less than what makes the executor think that it is this attempt


@pytest.fixture
def isolation() -> str:
    return "none"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "engine", kib=SIZE_MIB * 1_024, mode="1777") as folder:
        yield folder


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4_096)


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
    # These use up what is left of the journal's last block.
    others = [launch("true") for _ in range(60)]
    await engine.start(others)
    await until(lambda: b"not_journalled" in (root / "executor.log").read_bytes())
    (folder / "work" / "go").touch()
    [ended] = await watch.ended([attempt])
    assert (ended.cause, ended.exit_code) == (Cause.USER_EXIT, 3)
    assert not (folder / "work").exists()
    assert {each.cause for each in await watch.ended(others)} == {Cause.INFRA_LOST}
