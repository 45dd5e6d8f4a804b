"""The Batch service as a fixture."""

from pathlib import Path

import pytest

from gateway.store import Store
from tests.support.batch import Batch
from tests.support.fake_engine import FakeEngine


@pytest.fixture
def engine(tmp_path: Path) -> FakeEngine:
    """An engine in which a test says how commands end."""
    return FakeEngine(tmp_path)


@pytest.fixture
def batch(store: Store, engine: FakeEngine, tmp_path: Path) -> Batch:
    """The service, whose scheduler a test starts itself."""
    return Batch(store, engine, folder=tmp_path)
