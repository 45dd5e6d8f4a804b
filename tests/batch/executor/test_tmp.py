"""A sandboxed command's /tmp: its own, on the disk, and gone when it ends."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.batch.engines import Limits, Mount, view
from gateway.batch.engines.local import LocalEngine
from tests.batch.executor.executors import kill_process, until
from tests.support.attempts import Watch, launch

LIMITS = Limits(cores=1, mem_bytes=100_000_000, processes=50)
LARGE = "head -c 300000000 /dev/zero > /tmp/large && echo > /tmp/$(id -u)"


@pytest.fixture
def isolation() -> str:
    return "sandbox"


@pytest.mark.anyio
async def test_it_holds_more_than_the_commands_memory_and_goes_with_it(
    engine: LocalEngine, root: Path
) -> None:
    command = f"{LARGE} && mkdir -p /tmp/a/b && stat -c '%d %U' /tmp /work && chmod 0 /tmp/a"
    attempt = replace(launch(command), limits=LIMITS)
    await engine.start([attempt])
    [ended] = await Watch(engine).ended([attempt])
    assert (ended.cause, ended.exit_code) == (None, 0), engine.log_path(
        attempt.folder, "stderr"
    ).read_text()
    of_tmp, of_work = engine.log_path(attempt.folder, "stdout").read_text().splitlines()
    assert of_tmp == of_work
    assert not (engine.attempt_path(attempt.folder) / "tmp").exists()
    await until(lambda: list((root / "spare").iterdir()) == [])


@pytest.mark.anyio
async def test_what_a_dead_executor_left_there_goes_too(engine: LocalEngine, root: Path) -> None:
    attempt = launch("mkdir /tmp/a && echo > /tmp/a/b && touch begun && sleep 1000")
    watch = Watch(engine)
    await engine.start([attempt])
    folder = engine.attempt_path(attempt.folder)
    await until((folder / "work" / "begun").exists)
    assert (folder / "tmp" / "a" / "b").exists()
    kill_process(engine.executor_pid)
    await watch.ended([attempt])
    assert not (folder / "tmp").exists()
    await until(lambda: list((root / "spare").iterdir()) == [])


@pytest.mark.anyio
async def test_none_is_left_of_what_cannot_be_started(engine: LocalEngine, root: Path) -> None:
    attempt = replace(launch("true"), mounts=(Mount("/nowhere", f"{view.TMP}/a"),))
    await engine.start([attempt])
    await Watch(engine).ended([attempt])
    assert not (engine.attempt_path(attempt.folder) / "tmp").exists()
