"""What every `Engine` does."""

from collections.abc import Awaitable, Callable

import pytest

from gateway.batch.engines import (
    Ability,
    Cause,
    Ended,
    Engine,
    Launch,
    NodesLost,
    Reconnected,
    Started,
)
from gateway.errors import InvalidParameterValue
from tests.support.attempts import Watch, launch

Finish = Callable[[Launch], Awaitable[None]]
Disturb = Callable[[], Awaitable[None]]


def losses(watch: Watch) -> list[NodesLost]:
    return [each for each in watch.heard if isinstance(each, NodesLost)]


class EngineConformance:
    """Subclasses give `engine`, and `finish`, which lets a command of `LONG` end with code 0.

    And `lose_nodes`, which kills all that runs, and `reconnect`, which only cuts the line; the
    engine is back by itself after both.
    """

    LONG = "until test -e finish; do sleep 0.01; done"

    @pytest.mark.anyio
    async def test_the_first_report_is_that_the_engine_is_there(self, engine: Engine) -> None:
        assert (await engine.reports())[0] == Reconnected()

    @pytest.mark.anyio
    async def test_an_attempt_is_reported_as_started_then_as_ended(
        self, engine: Engine, finish: Finish
    ) -> None:
        watch, attempt = Watch(engine), launch(self.LONG)
        await engine.start([attempt])
        await watch.started([attempt])
        await finish(attempt)
        [ended] = await watch.ended([attempt])
        assert (ended.exit_code, ended.cause) == (0, None)
        kinds = [type(each) for each in watch.heard if not isinstance(each, Reconnected)]
        assert kinds == [Started, Ended]

    @pytest.mark.anyio
    async def test_an_attempt_that_is_known_is_not_started_again(
        self, engine: Engine, finish: Finish
    ) -> None:
        watch, attempt = Watch(engine), launch(self.LONG)
        await engine.start([attempt, attempt])
        await watch.started([attempt])
        await engine.start([attempt])
        await finish(attempt)
        await watch.ended([attempt])
        await engine.start([attempt])
        await engine.acknowledge([attempt.attempt_id])
        await engine.start([attempt])
        after = launch(self.LONG)
        await engine.start([after])
        await watch.started([after])
        begun = dict.fromkeys(each for each in watch.heard if isinstance(each, Started))
        assert [each.attempt_id for each in begun] == [attempt.attempt_id, after.attempt_id]
        await engine.stop([after.attempt_id])

    @pytest.mark.anyio
    async def test_starting_what_is_known_tells_again_where_it_stands(
        self, engine: Engine, finish: Finish
    ) -> None:
        watch, attempt = Watch(engine), launch(self.LONG)
        await engine.start([attempt])
        await watch.started([attempt])
        begun = [each for each in watch.heard if isinstance(each, Started)]
        watch.heard.clear()
        await engine.start([attempt])
        await watch.started([attempt])
        assert [each for each in watch.heard if isinstance(each, Started)] == begun
        await finish(attempt)
        ended = await watch.ended([attempt])
        watch.heard.clear()
        await engine.start([attempt])
        assert await watch.ended([attempt]) == ended

    @pytest.mark.anyio
    async def test_a_stopped_attempt_ends_as_terminated(self, engine: Engine) -> None:
        watch, attempts = Watch(engine), [launch(self.LONG) for _ in range(3)]
        await engine.start(attempts)
        await watch.started(attempts)
        await engine.stop([each.attempt_id for each in attempts])
        ended = await watch.ended(attempts)
        assert [each.cause for each in ended] == [Cause.TERMINATED] * 3
        assert [each.exit_code for each in ended] == [None] * 3
        assert all(each.started for each in ended)

    @pytest.mark.anyio
    async def test_an_attempt_stopped_before_it_is_known_never_runs(self, engine: Engine) -> None:
        watch, attempt = Watch(engine), launch(self.LONG)
        await engine.stop([attempt.attempt_id])
        await engine.start([attempt])
        [ended] = await watch.ended([attempt])
        assert ended.cause is Cause.TERMINATED
        assert not ended.started
        after = launch(self.LONG)
        await engine.start([after])
        await watch.started([after])
        begun = [each.attempt_id for each in watch.heard if isinstance(each, Started)]
        assert begun == [after.attempt_id]
        await engine.stop([after.attempt_id])

    @pytest.mark.anyio
    async def test_an_outcome_is_told_again_until_it_is_acknowledged(
        self, engine: Engine, finish: Finish
    ) -> None:
        watch, attempt = Watch(engine), launch(self.LONG)
        await engine.start([attempt])
        await watch.started([attempt])
        await finish(attempt)
        [first] = await watch.ended([attempt])
        watch.heard.clear()
        await engine.reconcile([attempt.attempt_id])
        assert await watch.ended([attempt]) == [first]

    @pytest.mark.anyio
    async def test_reconciling_finds_what_runs_and_declares_the_rest_lost(
        self, engine: Engine
    ) -> None:
        watch, running, unknown = Watch(engine), launch(self.LONG), launch(self.LONG)
        await engine.start([running])
        await watch.started([running])
        watch.heard.clear()
        await engine.reconcile([running.attempt_id, unknown.attempt_id])
        await watch.started([running])
        [ended] = await watch.ended([unknown])
        assert ended.cause is Cause.INFRA_LOST
        await engine.stop([running.attempt_id])
        await watch.ended([running])

    @pytest.mark.anyio
    async def test_lost_nodes_are_told_again_until_that_loss_is_acknowledged(
        self, engine: Engine, lose_nodes: Disturb, reconnect: Disturb
    ) -> None:
        watch, attempt = Watch(engine), launch(self.LONG)
        await engine.start([attempt])
        await watch.started([attempt])
        await lose_nodes()
        await watch.reconnected()
        [lost] = losses(watch)
        await lose_nodes()
        await watch.reconnected()
        for is_told_again in (True, False):  # the first loss says nothing of the second
            await engine.acknowledge_loss(lost)
            watch.heard.clear()
            await engine.reconcile([attempt.attempt_id])
            await watch.ended([attempt])  # so it has heard of the other as well
            await reconnect()
            await watch.reconnected()
            [ended] = await watch.ended([attempt])
            assert ended.cause is Cause.INFRA_LOST
            assert bool(losses(watch)) is is_told_again
            lost = losses(watch)[0] if is_told_again else lost

    @pytest.mark.anyio
    async def test_saying_nothing_is_allowed(self, engine: Engine) -> None:
        await engine.start([])
        await engine.stop([])
        await engine.acknowledge(["job-00000001.9.9.9"])
        await engine.reconcile([])

    @pytest.mark.anyio
    async def test_it_says_how_much_it_can_do_and_what(self, engine: Engine) -> None:
        assert engine.capacity > 0
        assert engine.mem_gib > 0
        assert set(engine.missing) <= set(Ability)
        assert all(engine.missing.values())

    @pytest.mark.anyio
    async def test_attempts_and_nodes_have_folders_apart_and_none_leads_out(
        self, engine: Engine
    ) -> None:
        folders = [engine.attempt_path("job-00000001/0/1.1"), engine.node_path("env-1-node")]
        assert not folders[0].is_relative_to(folders[1])
        assert not folders[1].is_relative_to(folders[0])
        for name in ("", "..", "a/../b", "/etc"):
            with pytest.raises(InvalidParameterValue):
                engine.attempt_path(name)
            with pytest.raises(InvalidParameterValue):
                engine.node_path(name)

    @pytest.mark.anyio
    async def test_discarded_files_are_gone_and_others_stay(self, engine: Engine) -> None:
        watch, gone, kept = Watch(engine), launch("true"), launch("true")
        await engine.start([gone, kept])
        await engine.stop([gone.attempt_id, kept.attempt_id])
        await watch.ended([gone, kept])
        logs = [engine.log_path(each.folder, "stdout") for each in (gone, kept)]
        for log in logs:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.touch()
        await engine.discard(gone.folder)
        assert [log.parent.exists() for log in logs] == [False, True]
