"""When the nodes of an engine are lost, and what a gateway is told it can do here."""

from pathlib import Path

import pytest

from gateway.batch.engines import Ability, Cause, Ended, NodesLost, Reconnected, Report
from gateway.batch.engines.local import LocalEngine, open_local_engine
from tests.batch.executor.executors import is_gone, kill_process, local_engine, until
from tests.support.attempts import Watch, launch


def kinds(heard: list[Report]) -> list[type]:
    return [type(each) for each in heard]


@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["none"])
async def test_an_idle_executor_that_is_killed_has_lost_its_nodes(engine: LocalEngine) -> None:
    watch = Watch(engine)
    await watch.reconnected()
    assert kinds(watch.heard) == [Reconnected]
    kill_process(engine.executor_pid)
    await watch.reconnected()
    assert kinds(watch.heard) == [NodesLost, Reconnected]


@pytest.mark.anyio
async def test_lost_nodes_come_before_what_ran_on_them(engine: LocalEngine) -> None:
    watch, attempt = Watch(engine), launch("sleep 1000")
    await engine.start([attempt])
    await watch.started([attempt])
    kill_process(engine.executor_pid)
    await watch.reconnected()
    [ended] = await watch.ended([attempt])
    assert ended.cause is Cause.INFRA_LOST
    assert kinds(watch.heard) == [NodesLost, Reconnected, Ended]


@pytest.mark.anyio
async def test_a_new_gateway_hears_of_nodes_lost_until_it_has_stored_what_ran_on_them(
    root: Path,
) -> None:
    attempt = launch("sleep 1000")
    async with open_local_engine(root, isolation="none", capacity=4) as engine:
        await engine.start([attempt])
        await Watch(engine).started([attempt])
        pid = engine.executor_pid
    kill_process(pid)
    await until(lambda: is_gone(pid))
    async with open_local_engine(root, isolation="none", capacity=4) as engine:
        watch = Watch(engine)
        await watch.ended([attempt])
        assert kinds(watch.heard) == [NodesLost, Reconnected, Ended]
        await engine.acknowledge([attempt.attempt_id])
        later = launch("true")
        await engine.start([later])
        await watch.ended([later])
    async with local_engine(root, isolation="none") as engine:
        watch = Watch(engine)
        await watch.ended([later])
        assert kinds(watch.heard)[0] is Reconnected
        assert NodesLost not in kinds(watch.heard)


@pytest.mark.anyio
async def test_a_loss_that_is_acknowledged_is_not_told_to_a_new_gateway(root: Path) -> None:
    attempt = launch("sleep 1000")
    async with open_local_engine(root, isolation="none", capacity=4) as engine:
        watch = Watch(engine)
        await engine.start([attempt])
        await watch.started([attempt])
        kill_process(engine.executor_pid)
        await watch.reconnected()
        [lost] = [each for each in watch.heard if isinstance(each, NodesLost)]
        await engine.acknowledge_loss(lost)
        later = launch("true")
        await engine.start([later])
        await watch.ended([later])
    async with local_engine(root, isolation="none") as engine:
        watch = Watch(engine)
        [ended] = await watch.ended([attempt])
        assert ended.cause is Cause.INFRA_LOST
        assert NodesLost not in kinds(watch.heard)


@pytest.mark.anyio
async def test_an_executor_that_left_because_it_was_idle_has_lost_nothing(root: Path) -> None:
    async with local_engine(root, isolation="none") as engine:
        attempt = launch("exit 3")
        await engine.start([attempt])
        await Watch(engine).ended([attempt])
        pid = engine.executor_pid
    async with local_engine(root, isolation="none") as engine:
        watch = Watch(engine)
        await watch.ended([attempt])
        assert engine.executor_pid != pid
        assert NodesLost not in kinds(watch.heard)


@pytest.mark.anyio
async def test_only_a_sandbox_can_mount(engine: LocalEngine, isolation: str) -> None:
    words = f"the isolation `{isolation}` mounts nothing"
    assert engine.missing.get(Ability.MOUNTS) == (None if isolation == "sandbox" else words)
