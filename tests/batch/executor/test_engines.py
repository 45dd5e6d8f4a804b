"""The local engine, under every isolation, and its double pass the conformance suite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.batch.engines import Launch
from gateway.batch.engines.line import Line, dial
from gateway.batch.engines.local import LocalEngine
from tests.batch.executor.executors import kill_process
from tests.conformance.engine import Disturb, EngineConformance, Finish
from tests.support.fake_engine import FakeEngine


class TestLocalEngine(EngineConformance):
    @pytest.fixture
    def finish(self, engine: LocalEngine) -> Finish:
        async def finish(attempt: Launch) -> None:
            (engine.log_path(attempt.folder, "stdout").parent / "work" / "finish").touch()

        return finish

    @pytest.fixture
    def lose_nodes(self, engine: LocalEngine) -> Disturb:
        async def lose_nodes() -> None:
            kill_process(engine.executor_pid)

        return lose_nodes

    @pytest.fixture
    async def reconnect(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[Disturb]:
        monkeypatch.setattr("gateway.batch.engines.local.BACKOFF_S_MAX", 0.02)
        lines: list[Line] = []

        async def reconnect() -> None:
            lines.append(await dial(root))  # it speaks to the newest only, until we are back

        yield reconnect
        for line in lines:
            line.cut()


class TestFakeEngine(EngineConformance):
    @pytest.fixture
    def engine(self, tmp_path: Path) -> FakeEngine:
        return FakeEngine(tmp_path)

    @pytest.fixture
    def finish(self, engine: FakeEngine) -> Finish:
        async def finish(attempt: Launch) -> None:
            engine.exit(attempt.attempt_id, 0)

        return finish

    @pytest.fixture
    def lose_nodes(self, engine: FakeEngine) -> Disturb:
        async def lose_nodes() -> None:
            engine.lose_nodes()

        return lose_nodes

    @pytest.fixture
    def reconnect(self, engine: FakeEngine) -> Disturb:
        async def reconnect() -> None:
            engine.reconnect()

        return reconnect
