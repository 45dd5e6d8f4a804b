"""What the rows of a job say once it is over, and who waits for whom to write rows."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import anyio
import anyio.from_thread
import pytest
from sqlalchemy import select, text

from gateway import ids
from gateway.batch.engines import Cause, Ended
from gateway.batch.environments.changes import open_env
from gateway.batch.environments.creation import delete_env
from gateway.batch.interventions import retry_jobs
from gateway.batch.tables import compute_node
from gateway.store import Store, StoreUnavailable, Tx, open_store
from tests.support.batch import REGION, ROOT, START, WAIT_S, Batch, Turns, a_task, eventually
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio


async def test_a_job_ends_with_the_last_of_its_tasks_whichever_is_told_last(
    store: Store, batch: Batch
) -> None:
    job_id = await batch.submit(a_task("a"), a_task("b"))
    turns = Turns(store, job_id)
    first, second = await turns.turn(slots=2)
    await turns.turn(Ended(first, START + timedelta(seconds=90), 0, None))
    await turns.turn(Ended(second, START + timedelta(seconds=30), 0, None))
    job = await batch.call("DescribeJob", JobId=job_id)
    assert job["JobState"] == "SUCCEED"
    ends = {task["TaskName"]: task["EndTime"] for task in job["TaskSet"]}
    assert job["EndTime"] == ends["a"] > ends["b"]


async def test_a_task_ends_with_the_last_of_its_instances_whichever_is_told_last(
    store: Store, batch: Batch
) -> None:
    job_id = await batch.submit(a_task("a", 2))
    turns = Turns(store, job_id)
    first, second = await turns.turn(slots=2)
    await turns.turn(Ended(first, START + timedelta(seconds=90), 0, None))
    await turns.turn(Ended(second, START + timedelta(seconds=30), 0, None))
    assert await ends_of_the_task(batch, job_id) == [await end_of_the_last(batch, job_id)]


async def test_a_task_ends_no_sooner_than_what_was_failed_with_it(
    store: Store, batch: Batch
) -> None:
    job_id = await batch.submit(a_task("a", 2))
    turns = Turns(store, job_id)
    [first] = await turns.turn(slots=1)
    await batch.call("TerminateJob", JobId=job_id)
    turns.now += timedelta(seconds=90)
    await turns.turn(Ended(first, START + timedelta(seconds=30), None, Cause.TERMINATED))
    assert await batch.state(job_id) == "FAILED"
    assert await ends_of_the_task(batch, job_id) == [await end_of_the_last(batch, job_id)]


async def ends_of_the_task(batch: Batch, job_id: str) -> list[str]:
    job = await batch.call("DescribeJob", JobId=job_id)
    return [task["EndTime"] for task in job["TaskSet"]]


async def end_of_the_last(batch: Batch, job_id: str) -> str:
    first, second = sorted(each["EndTime"] for each in await batch.instances(job_id))
    assert first < second
    return str(second)


# Who waits for whom -----------------------------------------------------------------------------


@pytest.fixture
async def on_postgresql(migrated_postgresql_url: str) -> AsyncIterator[Store]:
    async with open_store(migrated_postgresql_url) as opened:
        yield opened


async def test_two_jobs_use_one_environment_at_once_and_only_its_removal_waits_for_them(
    on_postgresql: Store, engine: FakeEngine, tmp_path: Path
) -> None:
    """Else two calls that name several jobs could wait for each other."""
    batch = Batch(on_postgresql, engine, folder=tmp_path)
    env_id = await batch.create_env(1)
    await batch.tend()
    job_ids = [await batch.submit(a_task(EnvId=env_id)) for _ in range(2)]
    for job_id in job_ids:
        await Turns(on_postgresql, job_id).run(code=1, slots=1)
    first, second = (
        partial(retry_jobs, job_ids=[job_id], principal=ROOT, region=REGION) for job_id in job_ids
    )
    remove = partial(
        delete_env, env_id=env_id, principal=ROOT, region=REGION, now=START, new_id=ids.new_id
    )

    def retry_both(tx: Tx) -> None:
        first(tx)
        anyio.from_thread.run(on_postgresql.write, partial(impatiently, second))
        anyio.from_thread.run(submit_another)
        with pytest.raises(StoreUnavailable):
            anyio.from_thread.run(on_postgresql.write, partial(impatiently, remove))

    async def submit_another() -> None:
        with anyio.fail_after(WAIT_S):
            await batch.submit(a_task(EnvId=env_id))

    await on_postgresql.write(retry_both)
    assert [await batch.state(job_id) for job_id in job_ids] == ["SUBMITTED"] * 2


def impatiently(write: Callable[[Tx], None], tx: Tx) -> None:
    """Write, unless that has to wait for somebody."""
    tx.execute(text("SET LOCAL lock_timeout = '100ms'"))
    write(tx)


async def test_a_job_and_the_keeper_lock_the_nodes_of_an_environment_in_one_order(
    on_postgresql: Store, engine: FakeEngine, tmp_path: Path
) -> None:
    batch = Batch(on_postgresql, engine, folder=tmp_path)
    env_id = await batch.create_env(2)
    await batch.tend()
    job = Turns(on_postgresql, await batch.submit(a_task("a", 2, EnvId=env_id)))
    assert len(await job.turn(slots=2)) == 2
    by_id = select(compute_node.c.id, compute_node.c.busy_with).order_by(compute_node.c.id)
    nodes = await on_postgresql.read_list(lambda tx: tx.execute(by_id).all())
    reports = [job.ended(node.busy_with) for node in reversed(nodes)]
    lock_first = by_id.where(compute_node.c.id == nodes[0].id).with_for_update()

    def keep(tx: Tx) -> None:
        tx.execute(lock_first)
        anyio.from_thread.run_sync(tasks.start_soon, job.turn, *reports)
        anyio.from_thread.run(eventually, somebody_waits)
        impatiently(lock_all, tx)

    def lock_all(tx: Tx) -> None:
        changes = open_env(tx, env_id, now=START, new_id=ids.new_id)
        assert changes is not None
        assert len(changes.nodes()) == 2

    async def somebody_waits() -> bool:
        count = text(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return await on_postgresql.read_list(lambda tx: tx.execute(count).scalar_one()) == 1

    async with anyio.create_task_group() as tasks:
        await on_postgresql.write(keep)
    assert await batch.state(job.job_id) == "SUCCEED"
