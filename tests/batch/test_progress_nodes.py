"""Nodes that cannot be made, that are lost, or are restarted after a task, on every database."""

from datetime import timedelta
from types import MappingProxyType
from typing import Any

import pytest
from sqlalchemy import select, update

from gateway.batch.catalogue import Catalogue, Image
from gateway.batch.engines import Cause
from gateway.batch.environments import ENVIRONMENTS
from gateway.batch.progress import FAILED_AT_ONCE_MAX
from gateway.batch.tables import compute_node
from gateway.store import Store
from tests.support.batch import (
    KEEPS,
    Batch,
    Turns,
    a_task,
    check_rows,
    events_of,
    only,
)

pytestmark = pytest.mark.anyio
BARE = "img-00000001"
MENDED = Catalogue(
    images=MappingProxyType({BARE: Image(BARE, "bare", "linux", has_cloud_init=True)})
)
BROKEN = Catalogue(
    images=MappingProxyType({BARE: Image(BARE, "bare", "linux", has_cloud_init=False)})
)
WHY = BROKEN.why_not_made(BARE)
ON_IT: dict[str, Any] = {"ComputeEnv": {"EnvData": {"InstanceType": "S1.SMALL1", "ImageId": BARE}}}
FAILED, GONE = "COMPUTE_NODE_CREATION_FAILED", "COMPUTE_NODE_DELETING"


async def later(turns: Turns, seconds: int) -> list[str]:
    turns.now += timedelta(seconds=seconds)
    return await turns.turn(slots=9)


async def test_a_node_that_cannot_be_made_fails_its_instance(store: Store, batch: Batch) -> None:
    turns = Turns(store, await batch.submit(a_task(**ON_IT)), catalogue=BROKEN)
    assert await turns.turn(slots=9) == []
    assert await turns.turn(slots=9) == []
    [instance] = await batch.instances(turns.job_id)
    assert (instance["TaskInstanceState"], instance["StateReason"]) == ("FAILED", "NODE_CREATION")
    assert instance["StateDetailedReason"] == f"Its node could not be made. {WHY}"
    assert instance["LaunchTime"] is None
    assert await events_of(store, turns.job_id) == [
        FAILED,
        GONE,
        "TASK_INSTANCE_FAILED",
        "TASK_FAILED",
        "JOB_FAILED",
    ]
    answer = await batch.call("DescribeJob", JobId=turns.job_id)
    assert WHY in answer["StateReason"]
    await check_rows(store, turns.job_id)


async def test_it_is_tried_again_after_the_documented_waits(store: Store, batch: Batch) -> None:
    turns = Turns(
        store, await batch.submit(a_task(ResourceMaxRetryCount=8, **ON_IT)), catalogue=BROKEN
    )
    await turns.turn(slots=9)
    for wait in [600] * 3 + [900] * 5:
        tries = (await events_of(store, turns.job_id)).count(FAILED)
        turns.now -= timedelta(seconds=2)
        assert await later(turns, wait) == []
        assert (await events_of(store, turns.job_id)).count(FAILED) == tries, "too early"
        await later(turns, 2)
        assert (await events_of(store, turns.job_id)).count(FAILED) == tries + 1
    await turns.turn(slots=9)
    assert await batch.state(turns.job_id) == "FAILED"
    assert only(await events_of(store, turns.job_id), FAILED).count(FAILED) == 9


async def test_a_catalogue_that_is_mended_lets_the_next_try_succeed(
    store: Store, batch: Batch
) -> None:
    turns = Turns(
        store, await batch.submit(a_task(ResourceMaxRetryCount=1, **ON_IT)), catalogue=BROKEN
    )
    await turns.turn(slots=9)
    turns.catalogue = MENDED
    assert await turns.turn(slots=9) == [], "not before its time"
    [placed] = await later(turns, 600)
    await turns.turn(turns.ended(placed))
    assert await batch.state(turns.job_id) == "SUCCEED"
    await check_rows(store, turns.job_id)


async def test_a_node_that_cannot_be_made_counts_as_a_failed_run(
    store: Store, batch: Batch
) -> None:
    task = a_task(instances=3, MaxRetryCount=1, ResourceMaxRetryCount=1, **ON_IT)
    turns = Turns(store, await batch.submit(task), catalogue=MENDED)
    first, second, third = await turns.turn(slots=3)
    turns.catalogue = BROKEN
    await turns.turn(turns.ended(first, 1), turns.ended(second), slots=9)
    assert await turns.turn(slots=9) == []
    await later(turns, 600)  # the second try of this series: the run has failed
    await turns.turn()
    shown = [each["TaskInstanceState"] for each in await batch.instances(turns.job_id)]
    assert shown == ["FAILED", "SUCCEED", "STARTING"], "the first one had failed once before"
    await turns.turn(turns.ended(third, 1))  # its one retry now waits for the next series
    assert await later(turns, 590) == []
    turns.catalogue = MENDED
    [again] = await later(turns, 10)
    await turns.turn(turns.ended(again))
    assert [each["TaskInstanceState"] for each in await batch.instances(turns.job_id)] == [
        "FAILED",
        "SUCCEED",
        "SUCCEED",
    ]
    await check_rows(store, turns.job_id)


async def test_state_if_create_cvm_failed_runnable_waits_for_ever_and_says_why(
    store: Store, batch: Batch
) -> None:
    job_id = await batch.submit(a_task(**ON_IT), StateIfCreateCvmFailed="RUNNABLE")
    turns = Turns(store, job_id, catalogue=BROKEN)
    await turns.turn(slots=9)
    for _ in range(60):
        await later(turns, 3_600)
    assert await batch.state(job_id) == "RUNNABLE"
    [instance] = await batch.instances(job_id)
    assert instance["StateReason"].startswith(f"Its node could not be made: {WHY} The next try is")
    assert (await batch.call("DescribeJob", JobId=job_id))["StateReason"] == instance["StateReason"]
    turns.catalogue = MENDED
    assert len(await later(turns, 3_600)) == 1


async def test_many_instances_that_need_such_a_node_cost_one_try(
    store: Store, batch: Batch
) -> None:
    count = FAILED_AT_ONCE_MAX + 500
    turns = Turns(store, await batch.submit(a_task(instances=count, **ON_IT)), catalogue=BROKEN)
    await turns.turn(slots=9)
    await turns.turn(slots=9)
    assert turns.unfinished
    while turns.unfinished:
        await turns.turn(slots=9)
    events = await events_of(store, turns.job_id)
    assert (events.count(FAILED), events.count("TASK_INSTANCE_FAILED")) == (1, count)
    assert await batch.state(turns.job_id) == "FAILED"
    await check_rows(store, turns.job_id)


async def test_retry_jobs_forgets_that_nodes_could_not_be_made(store: Store, batch: Batch) -> None:
    turns = Turns(store, await batch.submit(a_task(**ON_IT)), catalogue=BROKEN)
    await turns.turn(slots=9)
    await turns.turn(slots=9)
    turns.catalogue = MENDED
    await batch.call("RetryJobs", JobIds=[turns.job_id])
    assert len(await turns.turn(slots=9)) == 1


async def test_tasks_on_an_environment_care_for_no_image(store: Store, batch: Batch) -> None:
    env_id = await make_env(store, batch)
    turns = Turns(store, await batch.submit(a_task(EnvId=env_id)), catalogue=BROKEN)
    assert len(await turns.turn(slots=9)) == 1


# What becomes of a node of an environment --------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "cause", "fate"),
    [
        ({}, None, ""),
        ({}, Cause.USER_EXIT, ""),
        ({}, Cause.TIMEOUT, ""),
        ({}, Cause.INFRA_LOST, "LOST"),
        ({}, Cause.TERMINATED, "RESTART"),
        ({"RestartComputeNode": True}, None, "RESTART"),
        ({"RestartComputeNode": True}, Cause.USER_EXIT, "RESTART"),
        ({"RestartComputeNode": True, "MaxRetryCount": 1}, Cause.USER_EXIT, "RESTART"),
        ({"RestartComputeNode": True}, Cause.INFRA_LOST, "LOST"),
        ({"RestartComputeNode": True, **KEEPS}, Cause.USER_EXIT, None),
    ],
)
async def test_the_end_of_an_attempt_decides_what_becomes_of_its_node(
    store: Store, batch: Batch, members: dict[str, Any], cause: Cause | None, fate: str | None
) -> None:
    """fate: None if the instance keeps the node."""
    env_id = await make_env(store, batch)
    turns = Turns(store, await batch.submit(a_task(EnvId=env_id, **members)))
    other = Turns(store, await batch.submit(a_task(EnvId=env_id)))
    [placed] = await turns.turn(slots=1)
    woken = store.signals.count(ENVIRONMENTS)
    await turns.turn(turns.ended(placed, 1 if cause else 0, cause=cause))
    [node] = await nodes(store)
    assert node == (("", fate) if fate is not None else (placed, ""))
    assert (store.signals.count(ENVIRONMENTS) > woken) == bool(fate)
    if fate == "":
        assert len(await other.turn(slots=1)) == 1
    else:
        assert await other.turn(slots=1) == await turns.turn(slots=1) == []


async def test_what_was_lost_stays_lost_whatever_else_is_to_be_done(
    store: Store, batch: Batch
) -> None:
    env_id = await make_env(store, batch)
    turns = Turns(store, await batch.submit(a_task(EnvId=env_id, RestartComputeNode=True)))
    [placed] = await turns.turn(slots=1)
    await store.write(lambda tx: tx.execute(update(compute_node).values(fate="LOST")))
    await turns.turn(turns.ended(placed))
    assert await nodes(store) == [("", "LOST")]


async def make_env(store: Store, batch: Batch) -> str:
    env_id = await batch.create_env(1)
    await store.write(lambda tx: tx.execute(update(compute_node).values(state="RUNNING")))
    return env_id


async def nodes(store: Store) -> list[tuple[str, str]]:
    query = select(compute_node.c.busy_with, compute_node.c.fate)
    return [tuple(row) for row in await store.read_list(lambda tx: tx.execute(query).all())]
