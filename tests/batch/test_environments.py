"""Compute environments and their nodes, on every kind of database."""

from typing import Any

import anyio
import pytest
from sqlalchemy import select

from gateway.batch.tables import compute_env, compute_env_activity, compute_node, tag
from gateway.call import Principal
from gateway.errors import ApiError
from gateway.events.names import BATCH_EVENTS
from gateway.store import Store
from tests.support.batch import (
    NO_TOPIC,
    REGION,
    ROOT,
    ZONE,
    Batch,
    Turns,
    a_task,
    an_env,
    check_rows,
    events_of,
)
from tests.support.environments import code_of

pytestmark = pytest.mark.anyio
OTHER_ACCOUNT = Principal("200000000002", "200000000002", "root")


async def ready_env(store: Store, batch: Batch, nodes: int) -> tuple[str, list[str]]:
    """An environment whose nodes run, and their ids."""
    env_id = await batch.create_env(nodes)
    await batch.tend()
    answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
    return env_id, [node["ComputeNodeId"] for node in answer["ComputeNodeSet"]]


async def test_an_environment_tells_of_itself_and_of_every_node(store: Store, batch: Batch) -> None:
    env_id = await batch.create_env(2)
    assert await events_of(store, env_id) == ["COMPUTE_ENV_CREATED"]
    answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
    assert answer["ComputeNodeMetrics"]["SubmittedCount"] == 2
    await batch.tend()
    both = ["COMPUTE_NODE_CREATED", "COMPUTE_NODE_RUNNING"]
    assert await events_of(store, env_id) == ["COMPUTE_ENV_CREATED", *both, *both]
    answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
    assert answer["ComputeNodeMetrics"]["RunningCount"] == 2
    assert answer["DesiredComputeNodeCount"] == 2
    [node, _] = answer["ComputeNodeSet"]
    assert (node["ComputeNodeState"], node["TaskInstanceNumAvailable"]) == ("RUNNING", 1)


async def test_bringing_nodes_up_again_changes_nothing(store: Store, batch: Batch) -> None:
    env_id, _ = await ready_env(store, batch, 2)
    before = await events_of(store, env_id)
    await batch.tend()
    assert await events_of(store, env_id) == before


async def test_nodes_are_terminated_all_or_none(store: Store, batch: Batch) -> None:
    env_id, [first, second, third] = await ready_env(store, batch, 3)
    job = Turns(store, await batch.submit(a_task(EnvId=env_id)))
    await job.turn(slots=1)
    answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
    free = [n["ComputeNodeId"] for n in answer["ComputeNodeSet"] if n["TaskInstanceNumAvailable"]]
    [taken] = {first, second, third} - set(free)
    before = await events_of(store, env_id)
    for nodes, code in [
        ([*free, taken], "UnsupportedOperation.ComputeNodeForbidTerminate"),
        ([*free, "node-00000000"], "ResourceNotFound.ComputeNode"),
        ([*free, "node-1"], "InvalidParameter.ComputeNodeIdMalformed"),
        ([*free, free[0]], "UnsupportedOperation.ComputeNodeIsTerminating"),
        ([], "InvalidParameterValue"),
        (["node-00000000"] * 101, "InvalidParameterValue"),
    ]:
        params = {"EnvId": env_id, "ComputeNodeIds": nodes}
        assert await code_of(batch, "TerminateComputeNodes", **params) == code
    assert await events_of(store, env_id) == before
    await batch.call("TerminateComputeNodes", EnvId=env_id, ComputeNodeIds=free)
    answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
    assert answer["ComputeNodeMetrics"]["DeletingCount"] == 2
    for again in (free, free[:1]):
        code = await code_of(batch, "TerminateComputeNodes", EnvId=env_id, ComputeNodeIds=again)
        assert code == "UnsupportedOperation.ComputeNodeIsTerminating"
    await batch.tend()
    answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
    assert [node["ComputeNodeId"] for node in answer["ComputeNodeSet"]] == [taken]
    assert answer["DesiredComputeNodeCount"] == 1
    assert await events_of(store, env_id) == [*before, *["COMPUTE_NODE_DELETING"] * 2]


async def test_who_names_a_node_twice_hears_why_it_cannot_be_terminated(
    store: Store, batch: Batch
) -> None:
    env_id, [node_id] = await ready_env(store, batch, 1)

    async def refusal() -> ApiError:
        named = [node_id, node_id]
        with pytest.raises(ApiError) as caught:
            await batch.call("TerminateComputeNodes", EnvId=env_id, ComputeNodeIds=named)
        return caught.value

    first = await refusal()
    await batch.call("TerminateComputeNode", EnvId=env_id, ComputeNodeId=node_id)
    second = await refusal()
    assert first.code == second.code == "UnsupportedOperation.ComputeNodeIsTerminating"
    assert str(first) == f"The node `{node_id}` is named twice; it can be terminated once."
    assert str(second) == f"The node `{node_id}` is being terminated already."


async def test_a_node_that_is_not_made_yet_cannot_be_terminated(batch: Batch) -> None:
    env_id = await batch.create_env(1)
    answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
    [node] = answer["ComputeNodeSet"]
    params = {"EnvId": env_id, "ComputeNodeId": node["ComputeNodeId"]}
    code = await code_of(batch, "TerminateComputeNode", **params)
    assert code == "UnsupportedOperation.ComputeNodeForbidTerminate"


@pytest.mark.parametrize("attempt", range(4))
async def test_a_node_is_never_both_given_to_a_job_and_terminated(
    store: Store, batch: Batch, attempt: int
) -> None:
    env_id, nodes = await ready_env(store, batch, 1)
    job = Turns(store, await batch.submit(a_task(EnvId=env_id)))
    await job.turn()
    refused: list[str] = []
    placed: list[str] = []

    async def terminate() -> None:
        try:
            await batch.call("TerminateComputeNodes", EnvId=env_id, ComputeNodeIds=nodes)
        except ApiError as error:
            refused.append(error.code)

    async def place() -> None:
        placed.extend(await job.turn(slots=1))

    async with anyio.create_task_group() as tasks:
        for each in (place, terminate) if attempt % 2 else (terminate, place):
            tasks.start_soon(each)
    assert len(placed) == len(refused)
    assert refused in ([], ["UnsupportedOperation.ComputeNodeForbidTerminate"])
    await check_rows(store, job.job_id)


async def test_an_environment_is_deleted_once_it_has_no_nodes_and_no_jobs(
    store: Store, batch: Batch
) -> None:
    env_id, nodes = await ready_env(store, batch, 1)
    job = Turns(store, await batch.submit(a_task(instances=2, EnvId=env_id)))
    [placed] = await job.turn(slots=9)
    with_nodes = await code_of(batch, "DeleteComputeEnv", EnvId=env_id)
    assert with_nodes == "UnsupportedOperation.ComputeNodeForbidTerminate"
    await job.turn(job.ended(placed))
    await batch.call("TerminateComputeNodes", EnvId=env_id, ComputeNodeIds=nodes)
    in_use = await code_of(batch, "DeleteComputeEnv", EnvId=env_id)
    assert in_use == "UnsupportedOperation.ComputeEnvOperation"
    await batch.call("TerminateJob", JobId=job.job_id)
    await job.turn()
    await batch.call("DeleteComputeEnv", EnvId=env_id)
    answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
    assert (answer["NextAction"], answer["ComputeNodeMetrics"]["DeletingCount"]) == ("DELETING", 1)
    again = await code_of(batch, "DeleteComputeEnv", EnvId=env_id)
    assert again == "UnsupportedOperation.AcceptOtherRequest"
    changes: list[tuple[str, dict[str, Any]]] = [
        ("ModifyComputeEnv", {"DesiredComputeNodeCount": 1}),
        ("TerminateComputeNodes", {"ComputeNodeIds": nodes}),
        ("AttachInstances", {"Instances": [{"InstanceId": "ins-00000000"}]}),
    ]
    for action, params in changes:
        code = await code_of(batch, action, EnvId=env_id, **params)
        assert code == "UnsupportedOperation.ComputeEnvAcceptOtherRequest"
    with pytest.raises(ApiError) as caught:
        await batch.submit(a_task(EnvId=env_id))
    assert caught.value.code == "ResourceNotFound.ComputeEnv"
    await batch.tend()
    code = await code_of(batch, "DescribeComputeEnv", EnvId=env_id)
    assert code == "ResourceNotFound.ComputeEnv"
    ends = ["COMPUTE_NODE_DELETING", "COMPUTE_ENV_DELETED"]
    assert (await events_of(store, env_id))[-2:] == ends
    left = [compute_env, compute_node, compute_env_activity, tag]
    assert await store.read_list(lambda tx: [tx.execute(select(t)).all() for t in left]) == [[]] * 4


@pytest.mark.parametrize(
    ("action", "params"),
    [
        ("DescribeComputeEnv", {}),
        ("DeleteComputeEnv", {}),
        ("TerminateComputeNode", {"ComputeNodeId": "node-00000000"}),
        ("TerminateComputeNodes", {"ComputeNodeIds": ["node-00000000"]}),
        ("ModifyComputeEnv", {"DesiredComputeNodeCount": 0}),
        ("DescribeComputeEnvActivities", {}),
        ("DescribeComputeEnvCreateInfo", {}),
        ("AttachInstances", {"Instances": [{"InstanceId": "ins-00000000"}]}),
        ("DetachInstances", {"InstanceIds": ["ins-00000000"]}),
    ],
)
async def test_another_accounts_or_regions_environment_does_not_exist(
    store: Store, batch: Batch, action: str, params: dict[str, object]
) -> None:
    env_id = await batch.create_env(1)
    for who, region in [(OTHER_ACCOUNT, REGION), (ROOT, "ap-beijing")]:
        answer = await batch.call("DescribeComputeEnvs", who=who, region=region, EnvIds=[env_id])
        assert answer == {"ComputeEnvSet": [], "TotalCount": 0}
        code = await code_of(batch, action, who=who, region=region, EnvId=env_id, **params)
        assert code == "ResourceNotFound.ComputeEnv"
    malformed = await code_of(batch, action, EnvId="env-1", **params)
    assert malformed == "InvalidParameter.EnvIdMalformed"


async def test_an_environment_for_an_unknown_topic_is_refused(store: Store, batch: Batch) -> None:
    notified = [{"TopicName": NO_TOPIC, "EventConfigs": [{"EventName": "COMPUTE_ENV_CREATED"}]}]
    with pytest.raises(ApiError) as caught:
        await batch.create_env(1, Notifications=notified)
    assert caught.value.code == "InvalidParameter.NotificationTopicName"
    assert await store.read_list(lambda tx: tx.execute(select(compute_env)).all()) == []


async def test_one_list_of_notifications_serves_jobs_and_environments(batch: Batch) -> None:
    configs = [{"EventName": event.value} for event in BATCH_EVENTS]
    notified = [{"TopicName": "t", "EventConfigs": configs}]
    assert await batch.create_env(0, Notifications=notified)
    assert await batch.submit(Notifications=notified)


async def test_a_client_token_makes_one_environment(batch: Batch) -> None:
    params: dict[str, Any] = {"Placement": {"Zone": ZONE}, "ClientToken": "t"}
    made: list[str] = []

    async def create() -> None:
        answer = await batch.call("CreateComputeEnv", ComputeEnv=an_env(1), **params)
        made.append(answer["EnvId"])

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(create)
    assert len(set(made)) == 1
    other = await code_of(batch, "CreateComputeEnv", ComputeEnv=an_env(2), **params)
    assert other == "InvalidParameterValue"
    assert (await batch.call("DescribeComputeEnvs"))["TotalCount"] == 1
