"""AttachInstances and DetachInstances: the machines that the operator declared."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.call import Principal
from gateway.errors import ApiError
from gateway.store import Store
from tests.support.batch import ZONE, Batch, Turns, a_task, an_env, events_of
from tests.support.environments import (
    MACHINES,
    WINDOWS,
    WITH_MACHINES,
    activities_of,
    check_activities,
    code_of,
    nodes_of,
    set_fate,
    states_of,
)
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio
NOT_ALLOWED = "UnsupportedOperation.InstancesNotAllowToAttach"
FIRST, SECOND, THIRD, *_ = sorted(MACHINES)


@pytest.fixture
def batch(store: Store, engine: FakeEngine, tmp_path: Path) -> Batch:
    return Batch(store, engine, folder=tmp_path, rules=WITH_MACHINES)


def named(*instance_ids: str, **members: Any) -> list[dict[str, Any]]:
    return [{"InstanceId": instance_id, **members} for instance_id in instance_ids]


async def attach(batch: Batch, env_id: str, *instance_ids: str, **members: Any) -> None:
    instances = named(*instance_ids, **members)
    await batch.call("AttachInstances", EnvId=env_id, Instances=instances)


async def test_a_machine_becomes_a_node_takes_work_and_leaves(store: Store, batch: Batch) -> None:
    env_id = await batch.create_env(0)
    login = {"Password": "12345678"}
    await attach(batch, env_id, FIRST, LoginSettings=login)
    await batch.tend()
    answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
    assert (answer["AttachedComputeNodeCount"], answer["DesiredComputeNodeCount"]) == (1, 0)
    [node] = answer["ComputeNodeSet"]
    assert (node["ResourceOrigin"], node["ComputeNodeInstanceId"]) == ("USER_ATTACHED", FIRST)
    assert (node["Cpu"], node["Mem"], node["PrivateIpAddresses"]) == (8, 32, ["10.0.0.1"])
    assert node["ComputeNodeState"] == "RUNNING"
    job = Turns(store, await batch.submit(a_task(EnvId=env_id)))
    [placed] = await job.turn(slots=1)
    busy = await code_of(batch, "DetachInstances", EnvId=env_id, InstanceIds=[FIRST])
    assert busy == "UnsupportedOperation"
    await job.turn(job.ended(placed))
    await batch.call("DetachInstances", EnvId=env_id, InstanceIds=[FIRST])
    again = await code_of(batch, "DetachInstances", EnvId=env_id, InstanceIds=[FIRST])
    assert again == "UnsupportedOperation"
    await batch.tend()
    answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
    assert (answer["AttachedComputeNodeCount"], answer["ComputeNodeSet"]) == (0, [])
    leaving, joining = await activities_of(batch, env_id)
    assert joining["Cause"] == "AttachInstances: attach 1 instance(s)"
    assert joining["ComputeNodeActivityType"] == "ATTACH_COMPUTE_NODE"
    assert leaving["ComputeNodeActivityType"] == "DETACH_COMPUTE_NODE"
    assert {leaving["ActivityState"], joining["ActivityState"]} == {"SUCCEED"}
    walked = ["CREATED", "RUNNING", "DELETING"]
    told = ["COMPUTE_ENV_CREATED", *(f"COMPUTE_NODE_{state}" for state in walked)]
    assert await events_of(store, env_id) == told
    await attach(batch, env_id, FIRST)  # it is free again


@pytest.mark.parametrize(
    ("instances", "code"),
    [
        (named("ins-00000000"), NOT_ALLOWED),
        (named("nonsense"), NOT_ALLOWED),
        (named(FIRST), NOT_ALLOWED),
        (named(SECOND, SECOND), "InvalidParameterValue.InstanceIdDuplicated"),
        (named(SECOND, ImageId="img-1"), "InvalidParameter.ImageIdMalformed"),
        ([], "InvalidParameterValue"),
        (named(*(f"ins-{n:08}" for n in range(101))), "InvalidParameterValue"),
    ],
)
async def test_machines_are_attached_all_or_none(
    batch: Batch, instances: list[dict[str, Any]], code: str
) -> None:
    other, env_id = await batch.create_env(0), await batch.create_env(0)
    await attach(batch, other, FIRST)
    for wanted in (instances, [*named(THIRD), *instances]):
        if instances:
            refused = await code_of(batch, "AttachInstances", EnvId=env_id, Instances=wanted)
            assert refused == code
    assert await nodes_of(batch, env_id) == []


async def test_two_who_attach_one_machine_at_once_do_not_both_get_it(batch: Batch) -> None:
    envs = [await batch.create_env(0) for _ in range(4)]
    refused = []

    async def try_it(env_id: str) -> None:
        try:
            await attach(batch, env_id, SECOND, FIRST)
        except ApiError as error:
            refused.append(error.code)

    async with anyio.create_task_group() as tasks:
        for env_id in envs:
            tasks.start_soon(try_it, env_id)
    assert refused == [NOT_ALLOWED] * 3
    assert sum([len(await nodes_of(batch, env_id)) for env_id in envs]) == 2


async def test_what_batch_created_is_not_detached_and_what_is_yours_not_terminated(
    batch: Batch,
) -> None:
    env_id = await batch.create_env(1)
    await attach(batch, env_id, FIRST)
    await batch.tend()
    nodes = {n["ResourceOrigin"]: n for n in await nodes_of(batch, env_id)}
    made = nodes["BATCH_CREATED"]["ComputeNodeInstanceId"]
    for instance_id in (made, SECOND, "nonsense"):
        params = {"EnvId": env_id, "InstanceIds": [FIRST, instance_id]}
        assert await code_of(batch, "DetachInstances", **params) == "UnsupportedOperation"
    params = {"EnvId": env_id, "InstanceIds": [FIRST, FIRST]}
    code = await code_of(batch, "DetachInstances", **params)
    assert code == "InvalidParameterValue.InstanceIdDuplicated"
    node_id = nodes["USER_ATTACHED"]["ComputeNodeId"]
    code = await code_of(batch, "TerminateComputeNode", EnvId=env_id, ComputeNodeId=node_id)
    assert code == "UnsupportedOperation.ComputeNodeForbidTerminate"
    await batch.call("ModifyComputeEnv", EnvId=env_id, DesiredComputeNodeCount=0)
    await batch.tend()
    [left] = await nodes_of(batch, env_id)
    assert left["ResourceOrigin"] == "USER_ATTACHED"
    code = await code_of(batch, "DeleteComputeEnv", EnvId=env_id)
    assert code == "UnsupportedOperation.ComputeNodeForbidTerminate"


async def test_the_image_of_a_machine_counts_and_a_lost_one_stays_the_same_machine(
    store: Store, batch: Batch
) -> None:
    env_id = await batch.create_env(0)
    await attach(batch, env_id, FIRST, ImageId=WINDOWS)
    await attach(batch, env_id, SECOND)
    await batch.tend()
    assert await states_of(batch, env_id) == ["CREATION_FAILED", "RUNNING"]
    running = {
        n["ComputeNodeInstanceId"]: n["ComputeNodeId"] for n in await nodes_of(batch, env_id)
    }
    await set_fate(store, running[SECOND], "LOST")
    await batch.tend()
    assert await states_of(batch, env_id) == ["CREATION_FAILED", "RUNNING"]
    found = {n["ComputeNodeInstanceId"] for n in await nodes_of(batch, env_id)}
    assert found == {FIRST, SECOND}
    await check_activities(store, env_id)
    await batch.call("DetachInstances", EnvId=env_id, InstanceIds=[FIRST, SECOND])
    await batch.tend()
    assert await nodes_of(batch, env_id) == []


async def test_whoever_has_the_machine_is_named_to_its_own_account_only(batch: Batch) -> None:
    mine, other = await batch.create_env(0), await batch.create_env(0)
    await attach(batch, mine, FIRST)
    with pytest.raises(ApiError, match=f"is attached already to the environment `{mine}`"):
        await attach(batch, other, FIRST)
    stranger = Principal("999", "999", "root")
    placement = {"Zone": ZONE}
    made = await batch.call(
        "CreateComputeEnv", who=stranger, Placement=placement, ComputeEnv=an_env(0)
    )
    with pytest.raises(ApiError, match=r"is attached already\.$"):
        await batch.call(
            "AttachInstances", who=stranger, EnvId=made["EnvId"], Instances=named(FIRST)
        )


async def test_what_must_go_before_an_environment_can_is_said(batch: Batch) -> None:
    env_id = await batch.create_env(1)
    await attach(batch, env_id, FIRST)
    await batch.tend()
    with pytest.raises(ApiError, match="still has nodes; terminate and detach them first"):
        await batch.call("DeleteComputeEnv", EnvId=env_id)
    await batch.call("ModifyComputeEnv", EnvId=env_id, DesiredComputeNodeCount=0)
    await batch.tend()
    with pytest.raises(ApiError, match="still has nodes; detach them first"):
        await batch.call("DeleteComputeEnv", EnvId=env_id)
