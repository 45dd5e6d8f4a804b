"""Folders that an unprivileged command can reach, and engines on them."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.batch.engines.local import LocalEngine
from tests.batch.executor.executors import local_engine
from tests.support.images import ImageStore, make_image_store


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that others may pass through; pytest's own are shut to them."""
    parent = Path(tempfile.mkdtemp(prefix="executor-"))
    parent.chmod(0o711)
    yield parent / "engine"
    shutil.rmtree(parent, ignore_errors=True)


@pytest.fixture(params=["sandbox", "uid", "none"])
def isolation(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def engine(root: Path, isolation: str) -> AsyncIterator[LocalEngine]:
    async with local_engine(root, isolation=isolation) as opened:
        yield opened


@pytest.fixture(scope="module")
def store() -> Iterator[ImageStore]:
    """Where podman keeps images, and nothing else does."""
    folder = Path(tempfile.mkdtemp(prefix="images-"))
    try:
        yield make_image_store(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
