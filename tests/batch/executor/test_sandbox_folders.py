"""More folders of the machine in the sandbox: what the operator names, read-only."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.batch.engines.local import LocalEngine
from gateway.errors import ServiceUnavailable
from tests.batch.executor.executors import local_engine
from tests.support.attempts import Watch, launch

pytestmark = pytest.mark.anyio


@pytest.fixture
def tools() -> Iterator[Path]:
    """A folder that is nowhere below what a sandbox has."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    folder.chmod(0o755)
    (folder / "tool").write_text("hello\n")
    yield folder
    shutil.rmtree(folder)


async def run(engine: LocalEngine, command: str) -> str:
    attempt = launch(command)
    await engine.start([attempt])
    await Watch(engine).ended([attempt])
    return engine.log_path(attempt.folder, "stdout").read_text()


async def test_a_named_folder_is_seen_and_not_written_to(root: Path, tools: Path) -> None:
    command = f"cat {tools}/tool; touch {tools}/mine || echo refused; ls {tools}"
    async with local_engine(root, isolation="sandbox") as engine:
        assert "hello" not in await run(engine, command), "it must be named"
    async with local_engine(root, isolation="sandbox", sandbox_folders=[str(tools)]) as engine:
        assert await run(engine, command) == "hello\nrefused\ntool\n"
    assert os.listdir(tools) == ["tool"]


async def test_without_a_sandbox_there_is_nothing_to_show(root: Path, tools: Path) -> None:
    async with local_engine(root, isolation="none", sandbox_folders=[str(tools)]) as engine:
        assert await run(engine, f"cat {tools}/tool") == "hello\n"


async def test_a_folder_that_is_not_there_is_said_at_the_start(root: Path, tools: Path) -> None:
    folders = [f"{tools}/absent"]
    with pytest.raises(ServiceUnavailable, match="absent"):
        async with local_engine(root, isolation="sandbox", sandbox_folders=folders):
            pass
