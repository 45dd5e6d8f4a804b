"""The local engine, under every isolation, and its double pass the conformance suite."""

from pathlib import Path

import pytest

from gateway.batch.engines import Launch
from gateway.batch.engines.local import LocalEngine
from tests.conformance.engine import EngineConformance, Finish
from tests.support.fake_engine import FakeEngine


class TestLocalEngine(EngineConformance):
    @pytest.fixture
    def finish(self, engine: LocalEngine) -> Finish:
        async def finish(attempt: Launch) -> None:
            (engine.log_path(attempt.folder, "stdout").parent / "work" / "finish").touch()

        return finish


class TestFakeEngine(EngineConformance):
    @pytest.fixture
    def engine(self, tmp_path: Path) -> FakeEngine:
        return FakeEngine(tmp_path)

    @pytest.fixture
    def finish(self, engine: FakeEngine) -> Finish:
        async def finish(attempt: Launch) -> None:
            engine.exit(attempt.attempt_id, 0)

        return finish
