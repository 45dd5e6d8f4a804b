"""The keeper while it runs: what it looks at again, and what it leaves alone meanwhile."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest

from gateway.batch.environments import keeper
from gateway.batch.environments.upkeep import list_due, tend
from gateway.store import Store
from tests.support.batch import Batch, eventually
from tests.support.environments import activities_of, ids_of, nodes_of, set_fate

pytestmark = pytest.mark.anyio
Door = Callable[[Any], Awaitable[Any]]


class Gate:
    """One way into a store, at which the calls of one function are held once they are done.

    done: how many there were. held: whether they wait before they return.
    """

    def __init__(self, door: Door, function: Callable[..., Any]) -> None:
        self.done = 0
        self.held = False
        self._door = door
        self._function = function
        self._opened = anyio.Event()

    async def __call__(self, function: Any) -> Any:
        result = await self._door(function)
        if isinstance(function, partial) and function.func is self._function:
            self.done += 1
            if self.held:
                await self._opened.wait()
        return result

    def open(self) -> None:
        self.held = False
        self._opened.set()
        self._opened = anyio.Event()

    async def until(self, done: int) -> None:
        async def enough() -> bool:
            return self.done >= done

        await eventually(enough)


@pytest.fixture
def looks(store: Store, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """At the reads that find what is due. No look is taken but for a signal."""
    monkeypatch.setattr(keeper, "IDLE_S", 3_600)
    gate = Gate(store.read_list, list_due)
    monkeypatch.setattr(store, "read_list", gate)
    return gate


@pytest.fixture
def tendings(store: Store, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """At the transactions that tend an environment."""
    gate = Gate(store.write, tend)
    monkeypatch.setattr(store, "write", gate)
    return gate


@asynccontextmanager
async def keeping(batch: Batch) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(batch.keeper().run)
        yield
        tasks.cancel_scope.cancel()


async def has_restarted(batch: Batch, env_id: str, *, times: int) -> bool:
    kinds = [each["ComputeNodeActivityType"] for each in await activities_of(batch, env_id)]
    return kinds.count("RESTART_COMPUTE_NODE") >= times


async def test_a_node_that_is_given_up_while_another_thing_was_due_goes_at_once(
    store: Store, batch: Batch, looks: Gate, tendings: Gate
) -> None:
    env_id = await batch.create_env(1)
    await batch.tend()
    [node_id] = await ids_of(batch, env_id)
    seen = looks.done + 1
    async with keeping(batch):
        await looks.until(seen)
        looks.held = tendings.held = True
        await set_fate(store, node_id, "RESTART")
        await looks.until(seen + 1)
        tended = tendings.done
        await batch.call("TerminateComputeNode", EnvId=env_id, ComputeNodeId=node_id)
        looks.open()
        await tendings.until(tended + 1)
        await looks.until(seen + 2)
        tendings.open()

        async def is_gone() -> bool:
            return not await ids_of(batch, env_id)

        await eventually(is_gone)


async def test_a_node_that_becomes_due_while_another_is_tended_is_looked_at_next(
    store: Store, batch: Batch, looks: Gate, tendings: Gate
) -> None:
    env_id = await batch.create_env(2)
    await batch.tend()
    first, second = await ids_of(batch, env_id)
    async with keeping(batch):
        tendings.held = True
        await set_fate(store, first, "RESTART")
        await tendings.until(2)
        seen = looks.done
        await set_fate(store, second, "RESTART")
        await looks.until(seen + 1)
        tendings.open()
        await eventually(partial(has_restarted, batch, env_id, times=2))
    assert all(node["TaskInstanceNumAvailable"] for node in await nodes_of(batch, env_id))
