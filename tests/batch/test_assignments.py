"""What the engine is told of an attempt: the same when it is placed and after a restart."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.batch.assignments import Assignments
from gateway.batch.attempts import Attempt
from gateway.batch.engines import Launch, Limits
from gateway.store import Store
from tests.support.batch import PROCESSES_MAX, VAULT, Batch, a_task, eventually
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio
GIB = 2**30


class Deaf(FakeEngine):
    """An engine that is lost with all it was told, before it began any of it."""

    async def start(self, launches: Sequence[Launch]) -> None:
        self.started += launches


async def told(engine: FakeEngine, count: int) -> list[Launch]:
    """The first launches that the engine was given, in the order of their attempts."""

    async def enough() -> bool:
        return len(engine.started) >= count

    await eventually(enough)
    return sorted(engine.started[:count], key=lambda each: each.attempt_id)


async def test_an_attempt_that_is_told_again_is_the_same_on_the_same_node(
    store: Store, tmp_path: Path
) -> None:
    engine = Deaf(tmp_path)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        env_id = await batch.create_env(2, EnvData={"InstanceType": "S2.MEDIUM4"})
        await batch.submit(a_task(instances=2, EnvId=env_id), a_task("b"))
        first = await told(engine, 3)
    engine.started.clear()
    async with batch.scheduling():
        again = await told(engine, 3)
    assert again == first
    assert [launch.limits for launch in first] == [
        Limits(2, 4 * GIB, PROCESSES_MAX),
        Limits(2, 4 * GIB, PROCESSES_MAX),
        Limits(1, 1 * GIB, PROCESSES_MAX),
    ]


async def test_a_node_larger_than_the_engine_has_no_more_memory_than_that(
    store: Store, tmp_path: Path
) -> None:
    engine = FakeEngine(tmp_path, mem_gib=3)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        env_id = await batch.create_env(1, EnvData={"InstanceType": "S2.MEDIUM4"})
        await batch.submit(a_task(EnvId=env_id))
        [launch] = await told(engine, 1)
    assert launch.limits == Limits(2, 3 * GIB, PROCESSES_MAX)


def assignments(batch: Batch) -> Assignments:
    return Assignments(batch.store, batch.engine, VAULT, processes_max=PROCESSES_MAX)


async def test_what_is_kept_of_tasks_is_bounded_in_bytes(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.batch.assignments.SPECS_BYTES_MAX", 5_000)
    monkeypatch.setattr("gateway.batch.assignments.SPEC_BYTES_MAX", 3_000)
    tasks = [
        a_task(name, Application={"DeliveryForm": "LOCAL", "Command": "x" * length})
        for name, length in {"a": 1_500, "b": 1_500, "large": 4_000, "c": 1_500}.items()
    ]
    job_id = await batch.submit(*tasks)
    first, second, large, last = attempts = [Attempt(job_id, at, 0, 1) for at in range(4)]
    reader = assignments(batch)
    for _ in range(3):
        for attempt, task in zip(attempts, tasks, strict=True):
            [found] = await reader.read({attempt: None})
            assert found.task.application.command == task["Application"]["Command"]
        assert reader.find_facts(first) is None, "the oldest had to go"
        assert reader.find_facts(large) is None, "it would have pushed out many"
        assert reader.find_facts(second) is not None
        assert reader.find_facts(last) is not None


async def test_instances_of_a_large_task_have_it_read_once_for_all(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.batch.assignments.SPEC_BYTES_MAX", 0)
    job_id = await batch.submit(a_task(instances=3))
    found = await assignments(batch).read({Attempt(job_id, 0, n, 1): None for n in range(3)})
    assert len({id(each.facts) for each in found}) == 1


async def test_instances_of_one_task_have_variables_of_their_own(batch: Batch) -> None:
    """What is the same for all of them is made once, and must not be shared."""
    mine = [{"Name": "X", "Value": "x"}]
    async with batch.scheduling():
        await batch.submit(a_task(instances=3, EnvVars=mine))
        launches = await told(batch.engine, 3)
    indexes = [launch.environment["BATCH_TASK_INSTANCE_INDEX"] for launch in launches]
    assert indexes == ["0", "1", "2"]
    assert [launch.environment["X"] for launch in launches] == ["x", "x", "x"]
