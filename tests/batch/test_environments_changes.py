"""ModifyComputeEnv, and what is shown of an environment and of what was done to its nodes."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select, update

from gateway import ids
from gateway.batch.catalogue import Catalogue, Image
from gateway.batch.environments.changes import open_env
from gateway.batch.rules import Rules
from gateway.batch.tables import compute_env, compute_node, secret
from gateway.events.tables import event
from gateway.store import Store, Tx
from tests.support.batch import START, ZONE, Batch, an_env, events_of
from tests.support.environments import (
    UNKNOWN,
    activities_of,
    check_activities,
    code_of,
    ids_of,
    nodes_of,
    occupy,
    states_of,
)
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio
FORBIDDEN = "UnsupportedOperation.ComputeNodeForbidTerminate"
NOT_ENOUGH = "UnsupportedOperation.NotEnoughComputeNodesToTerminate"
OURS = Catalogue(images={UNKNOWN: Image(UNKNOWN, "ours", "linux", has_cloud_init=True)})


async def modify(batch: Batch, env_id: str, **members: Any) -> None:
    await batch.call("ModifyComputeEnv", EnvId=env_id, **members)


async def ready_env(batch: Batch, nodes: int, **members: Any) -> str:
    env_id = await batch.create_env(nodes, **members)
    await batch.tend()
    return env_id


async def test_more_nodes_are_ordered_and_every_one_has_its_activity(
    store: Store, batch: Batch
) -> None:
    env_id = await ready_env(batch, 1)
    await modify(batch, env_id, DesiredComputeNodeCount=3)
    assert await states_of(batch, env_id) == ["RUNNING", "SUBMITTED", "SUBMITTED"]
    first, second, oldest = await activities_of(batch, env_id)
    assert oldest["Cause"] == "CreateComputeEnv: the capacity is 1"
    for each in (first, second):
        assert each["Cause"] == "ModifyComputeEnv: increase the capacity from 1 to 3"
        assert (each["ActivityState"], each["EndTime"]) == ("SUBMITTED", None)
        assert each["ComputeNodeActivityType"] == "CREATE_COMPUTE_NODE"
    await batch.tend()
    assert await states_of(batch, env_id) == ["RUNNING"] * 3
    assert {each["ActivityState"] for each in await activities_of(batch, env_id)} == {"SUCCEED"}
    await check_activities(store, env_id)


async def test_fewer_nodes_go_first_those_that_do_not_run_then_idle_ones(
    store: Store, batch: Batch
) -> None:
    env_id = await batch.create_env(2, EnvData={"ImageId": UNKNOWN})
    await batch.tend(catalogue=OURS)
    await modify(batch, env_id, DesiredComputeNodeCount=3)
    await batch.tend()
    assert await states_of(batch, env_id) == ["CREATION_FAILED", "RUNNING", "RUNNING"]
    busy, idle = [n["ComputeNodeId"] for n in await nodes_of(batch, env_id) if _runs(n)]
    await occupy(store, busy, "job-00000000.0.0.1")
    await modify(batch, env_id, DesiredComputeNodeCount=2)
    await batch.tend()
    assert set(await ids_of(batch, env_id)) == {busy, idle}
    await modify(batch, env_id, DesiredComputeNodeCount=1)
    await batch.tend()
    assert await ids_of(batch, env_id) == [busy]
    code = await code_of(batch, "ModifyComputeEnv", EnvId=env_id, DesiredComputeNodeCount=0)
    assert code == FORBIDDEN
    newest, *_ = await activities_of(batch, env_id)
    assert newest["Cause"] == "ModifyComputeEnv: decrease the capacity from 2 to 1"
    assert newest["ComputeNodeActivityType"] == "TERMINATE_COMPUTE_NODE"
    assert (await events_of(store, env_id)).count("COMPUTE_NODE_DELETING") == 2
    await check_activities(store, env_id)


def _runs(node: dict[str, Any]) -> bool:
    return bool(node["ComputeNodeState"] == "RUNNING")


async def test_a_node_that_goes_is_told_of_by_the_new_name(store: Store, batch: Batch) -> None:
    env_id = await ready_env(batch, 1)
    await modify(batch, env_id, EnvName="other", DesiredComputeNodeCount=0)
    told = select(event.c.batch).where(event.c.name == "COMPUTE_NODE_DELETING")
    batch_json = await store.read_list(lambda tx: tx.execute(told).scalar_one())
    assert msgspec.json.decode(batch_json)["EnvName"] == "other"


async def test_fewer_nodes_are_the_newest_ones_though_they_are_locked_by_their_ids(
    store: Store, batch: Batch
) -> None:
    env_id = await ready_env(batch, 2)
    first, second = sorted(await ids_of(batch, env_id))
    older = update(compute_node).where(compute_node.c.id == second).values(created_at=START)
    await store.write(lambda tx: tx.execute(older))
    assert await ids_of(batch, env_id) == [second, first]

    def lock(tx: Tx) -> list[str]:
        changes = open_env(tx, env_id, now=START, new_id=ids.new_id)
        assert changes is not None
        return [node.id for node in changes.nodes()]

    assert await store.write(lock) == [first, second]
    await modify(batch, env_id, DesiredComputeNodeCount=1)
    await batch.tend()
    assert await ids_of(batch, env_id) == [second]


async def test_nodes_that_are_being_made_cannot_be_given_up_yet(batch: Batch) -> None:
    env_id = await batch.create_env(2)
    code = await code_of(batch, "ModifyComputeEnv", EnvId=env_id, DesiredComputeNodeCount=1)
    assert code == NOT_ENOUGH
    await batch.tend()
    await modify(batch, env_id, DesiredComputeNodeCount=0)
    await batch.tend()
    assert await ids_of(batch, env_id) == []
    answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
    assert answer["DesiredComputeNodeCount"] == 0


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"DesiredComputeNodeCount": -1}, "InvalidParameterValue.Negative"),
        ({"DesiredComputeNodeCount": 2_001}, "InvalidParameterValue.LimitExceeded"),
        ({"EnvName": "x" * 61}, "InvalidParameter.EnvNameTooLong"),
        ({"EnvName": ""}, "InvalidParameter.EnvNameTooLong"),
        ({"EnvDescription": "x" * 201}, "InvalidParameter.EnvDescriptionTooLong"),
        ({"EnvData": {}}, "MissingParameter"),
        ({"EnvData": {"InstanceTypes": []}}, "InvalidParameterValue.InstanceTypesEmpty"),
        (
            {"EnvData": {"InstanceTypes": ["S1.SMALL1"] * 2}},
            "InvalidParameterValue.InstanceTypeDuplicate",
        ),
        (
            {"EnvData": {"InstanceTypes": ["no type"]}},
            "InvalidParameterValue.InstanceType",
        ),
        (
            {"EnvData": {"InstanceTypes": [f"S1.SMALL{n}" for n in range(1, 12)]}},
            "InvalidParameterValue.LimitExceeded",
        ),
    ],
)
async def test_a_wrong_modification_changes_nothing(
    batch: Batch, members: dict[str, Any], code: str
) -> None:
    env_id = await ready_env(batch, 1)
    both = {"DesiredComputeNodeCount": 2, "EnvName": "other", **members}
    assert await code_of(batch, "ModifyComputeEnv", EnvId=env_id, **both) == code
    answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
    assert (answer["EnvName"], len(answer["ComputeNodeSet"])) == ("e", 1)


async def test_what_is_modified_is_shown_and_holds_for_later_nodes(batch: Batch) -> None:
    env_id = await ready_env(batch, 1, EnvDescription="first")
    await modify(batch, env_id, EnvName="other", EnvData={"InstanceTypes": ["S2.LARGE16"]})
    await modify(batch, env_id, EnvDescription="second", DesiredComputeNodeCount=2)
    await batch.tend()
    sizes = {(node["Cpu"], node["Mem"]) for node in await nodes_of(batch, env_id)}
    assert sizes == {(1, 1), (4, 16)}
    info = await batch.call("DescribeComputeEnvCreateInfo", EnvId=env_id)
    assert (info["EnvName"], info["EnvDescription"]) == ("other", "second")
    assert info["DesiredComputeNodeCount"] == 2
    assert info["EnvData"]["InstanceTypes"] == ["S2.LARGE16"]
    assert info["EnvData"]["InstanceType"] is None
    await modify(batch, env_id)  # nothing is asked for, and nothing happens
    assert await batch.call("DescribeComputeEnvCreateInfo", EnvId=env_id) == info


async def test_an_environment_is_shown_as_it_was_asked_for_with_its_secrets_masked(
    store: Store, batch: Batch
) -> None:
    key, password = "AKIDUdi1thisIsTheSecretPartOfItjNx", "Aa12secret5678"
    events = [{"EventName": "COMPUTE_ENV_DELETED", "EventVars": [{"Name": "a", "Value": "b"}]}]
    members = {
        "EnvDescription": "d",
        "Tags": [{"Key": "k", "Value": "v"}],
        "MountDataDisks": [{"LocalPath": "/data", "FileSystemType": "EXT4"}],
        "Authentications": [{"Scene": "COS", "SecretId": key, "SecretKey": key[::-1]}],
        "Notifications": [{"TopicName": "topic", "EventConfigs": events}],
        "EnvData": {"InstanceType": "S1.SMALL1", "LoginSettings": {"Password": password}},
    }
    env_id = await batch.create_env(1, **members)
    info = await batch.call("DescribeComputeEnvCreateInfo", EnvId=env_id)
    for name in ("EnvDescription", "Tags", "MountDataDisks"):
        assert info[name] == members[name]
    assert info["Notifications"][0]["EventConfigs"] == events
    [shown] = info["Authentications"]
    assert shown["Scene"] == "COS"
    assert "*" in shown["SecretId"]
    assert "*" in shown["SecretKey"]
    rows = await store.read_list(lambda tx: tx.execute(select(compute_env)).all())
    for secret_part in ("thisIsTheSecret", "traPterceSehT", "secret"):
        assert secret_part not in str(info)
        assert secret_part not in str(rows)
    sealed = select(secret.c.owner_id)
    assert await store.read_list(lambda tx: tx.execute(sealed).scalars().all()) == [env_id]
    await batch.tend()
    await modify(batch, env_id, DesiredComputeNodeCount=0)
    await batch.call("DeleteComputeEnv", EnvId=env_id)
    await batch.tend()
    assert await store.read_list(lambda tx: tx.execute(sealed).scalars().all()) == []


async def test_create_infos_are_listed_filtered_and_paged(batch: Batch) -> None:
    made = [await batch.create_env(0, EnvName=name) for name in ("a", "b", "b")]

    async def find(**params: Any) -> tuple[list[str], int]:
        answer = await batch.call("DescribeComputeEnvCreateInfos", **params)
        found = [each["EnvId"] for each in answer["ComputeEnvCreateInfoSet"]]
        return found, answer["TotalCount"]

    assert await find() == (made[::-1], 3)
    assert await find(EnvIds=made[:1]) == (made[:1], 1)
    assert await find(Filters=[{"Name": "env-name", "Values": ["b"]}]) == (made[:0:-1], 2)
    assert await find(Filters={"Name": "env-id", "Values": made[:1]}) == (made[:1], 1)
    assert await find(Filters=[{"Name": "zone", "Values": [ZONE]}], Limit=1) == (made[2:], 3)
    assert await find(Offset=3) == ([], 3)
    refused: list[tuple[dict[str, Any], str]] = [
        (
            {"EnvIds": made, "Filters": [{"Name": "zone", "Values": [ZONE]}]},
            "InvalidParameter.InvalidParameterCombination",
        ),
        ({"Filters": [{"Name": "resource-type", "Values": ["CVM"]}]}, "InvalidFilter"),
        ({"Filters": [{"Name": "tag-key", "Values": ["k"]}]}, "InvalidFilter"),
        ({"EnvIds": ["env-1"]}, "InvalidParameter.EnvIdMalformed"),
        ({"Limit": 101}, "InvalidParameterValue"),
        ({"EnvIds": ["env-00000000"] * 101}, "InvalidParameterValue"),
    ]
    for params, code in refused:
        assert await code_of(batch, "DescribeComputeEnvCreateInfos", **params) == code


async def test_activities_are_paged_and_found_by_node(batch: Batch) -> None:
    env_id = await ready_env(batch, 3)
    await modify(batch, env_id, DesiredComputeNodeCount=4)
    await batch.tend()
    everything = await activities_of(batch, env_id)
    first, *_ = await ids_of(batch, env_id)
    one = {"Name": "compute-node-id", "Values": [first]}
    for filters in (one, [one]):
        found = await activities_of(batch, env_id, Filters=filters)
        assert [each["ComputeNodeId"] for each in found] == [first]
    page = await batch.call("DescribeComputeEnvActivities", EnvId=env_id, Offset=1, Limit=2)
    assert (page["ActivitySet"], page["TotalCount"]) == (everything[1:3], 4)
    bad = {"Name": "compute-node-id", "Values": ["node-1"]}
    refused: list[tuple[dict[str, Any], str]] = [
        ({"Filters": bad}, "InvalidParameter.ComputeNodeIdMalformed"),
        ({"Filters": {"Name": "foo", "Values": []}}, "InvalidFilter"),
        ({"Limit": 101}, "InvalidParameterValue"),
        ({"Offset": -1}, "InvalidParameterValue.Negative"),
    ]
    for params, code in refused:
        asked = await code_of(batch, "DescribeComputeEnvActivities", EnvId=env_id, **params)
        assert asked == code


async def test_under_the_vendors_quotas_an_account_has_ten_environments_of_a_region(
    store: Store, engine: FakeEngine, tmp_path: Path
) -> None:
    batch = Batch(store, engine, folder=tmp_path, rules=Rules(quotas=True))
    for _ in range(10):
        await batch.create_env(0)
    params = {"ComputeEnv": an_env(0), "Placement": {"Zone": ZONE}}
    code = await code_of(batch, "CreateComputeEnv", **params)
    assert code == "LimitExceeded.ComputeEnvQuota"
    place = {"Zone": "ap-beijing-1"}
    await batch.call("CreateComputeEnv", region="ap-beijing", ComputeEnv=an_env(0), Placement=place)


async def test_under_the_vendors_quotas_the_nodes_of_an_account_have_a_thousand_cores(
    store: Store, engine: FakeEngine, tmp_path: Path
) -> None:
    batch = Batch(store, engine, folder=tmp_path, rules=Rules(quotas=True))
    large = {"EnvData": {"InstanceType": "S2.16XLARGE256"}}  # 64 cores
    env_id = await batch.create_env(15, **large)
    quota = "LimitExceeded.CpuQuota"
    assert (
        await code_of(batch, "ModifyComputeEnv", EnvId=env_id, DesiredComputeNodeCount=16) == quota
    )
    params = {"ComputeEnv": an_env(1, **large), "Placement": {"Zone": ZONE}}
    assert await code_of(batch, "CreateComputeEnv", **params) == quota
    await batch.create_env(40)
    assert len(await ids_of(batch, env_id)) == 15
