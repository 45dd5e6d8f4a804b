"""CreateCpmComputeEnv: what older SDKs and raw callers may still send."""

from pathlib import Path
from typing import Any

import pytest

from gateway.store import Store
from tests.support.batch import NO_TOPIC, ZONE, Batch
from tests.support.environments import WITH_MACHINES, activities_of, code_of, nodes_of
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio
DATA = {
    "Zones": ["ap-guangzhou-bls-1"],
    "InstanceTypes": ["PS100v1"],
    "OsTypeId": 3,
    "RaidId": 1,
    "FileSystem": "ext4",
    "Password": "secret-password",
    "VirtualPrivateClouds": [{"VpcId": "vpc-1", "SubnetId": "subnet-1"}],
}


def a_metal(**members: Any) -> dict[str, Any]:
    env = {"EnvName": "metal", "DesiredComputeNodeCount": 1, "EnvData": DATA, **members}
    return {"ComputeEnv": env, "Placement": {"Zone": ZONE}}


async def test_a_bare_metal_environment_has_nodes_and_is_found_as_such(batch: Batch) -> None:
    topic = {"TopicName": "t", "EventConfigs": [{"EventName": "COMPUTE_ENV_CREATED"}]}
    params = a_metal(Notifications=topic, Tags=[{"Key": "k", "Value": "v"}])
    env_id = (await batch.call("CreateCpmComputeEnv", **params, ClientToken="once"))["EnvId"]
    again = await batch.call("CreateCpmComputeEnv", **params, ClientToken="once")
    assert again["EnvId"] == env_id
    await batch.create_env(0)
    await batch.tend()
    answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
    [node] = answer["ComputeNodeSet"]
    assert (answer["ResourceType"], node["ResourceType"]) == ("CPM", "CPM")
    assert node["ComputeNodeState"] == "RUNNING"
    [made] = await activities_of(batch, env_id)
    assert made["Cause"] == "CreateCpmComputeEnv: the capacity is 1"
    for kind, total in [("CPM", 1), ("CVM", 1)]:
        wanted = [{"Name": "resource-type", "Values": [kind]}]
        found = await batch.call("DescribeComputeEnvs", Filters=wanted)
        assert [each["ResourceType"] for each in found["ComputeEnvSet"]] == [kind] * total
    info = await batch.call("DescribeComputeEnvCreateInfo", EnvId=env_id)
    assert info["EnvData"]["Zones"] == ["ap-guangzhou-bls-1"]
    assert "secret-password" not in str(info)
    await batch.call(
        "ModifyComputeEnv",
        EnvId=env_id,
        DesiredComputeNodeCount=2,
        EnvData={"InstanceTypes": ["S2.LARGE16"]},
    )
    await batch.tend()
    assert sorted(node["Cpu"] for node in await nodes_of(batch, env_id)) == [4, 32]
    over = {"EnvId": env_id, "DesiredComputeNodeCount": 501}
    assert await code_of(batch, "ModifyComputeEnv", **over) == "InvalidParameterValue.LimitExceeded"


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"DesiredComputeNodeCount": 501}, "InvalidParameterValue.LimitExceeded"),
        ({"DesiredComputeNodeCount": -1}, "InvalidParameterValue.Negative"),
        ({"EnvName": "x" * 61}, "InvalidParameter.EnvNameTooLong"),
        ({"EnvDescription": "x" * 201}, "InvalidParameter.EnvDescriptionTooLong"),
        ({"EnvType": "OTHER"}, "InvalidParameterValue"),
        ({"ResourceMaxRetryCount": 101}, "InvalidParameterValue"),
        ({"EnvData": {**DATA, "OsTypeId": 0}}, "InvalidParameterValue.OsTypeId"),
        (
            {"EnvData": {**DATA, "Zones": ["ap-beijing-bls-1"]}},
            "InvalidParameterValue.RegionNotSupportCpm",
        ),
        ({"EnvData": {**DATA, "Zones": [ZONE]}}, "InvalidParameterValue.RegionNotSupportCpm"),
        ({"EnvData": {**DATA, "Zones": ["ap-guangzhou-bls-1"] * 2}}, "InvalidParameterValue"),
        ({"EnvData": {**DATA, "ImageId": "img-1"}}, "InvalidParameter.ImageIdMalformed"),
        (
            {"Notifications": {"TopicName": NO_TOPIC, "EventConfigs": []}},
            "InvalidParameter.NotificationTopicName",
        ),
        (
            {"Notifications": {"TopicName": "x" * 65, "EventConfigs": []}},
            "InvalidParameter.NotificationTopicNameTooLong",
        ),
        (
            {
                "Notifications": {
                    "TopicName": "t",
                    "EventConfigs": [{"EventName": "COMPUTE_ENV_CREATED"}] * 2,
                }
            },
            "InvalidParameter.NotificationEventNameDuplicate",
        ),
    ],
)
async def test_what_cannot_be_is_refused(batch: Batch, members: dict[str, Any], code: str) -> None:
    assert await code_of(batch, "CreateCpmComputeEnv", **a_metal(**members)) == code
    assert (await batch.call("DescribeComputeEnvs"))["TotalCount"] == 0


async def test_no_machine_is_attached_to_bare_metal(
    store: Store, engine: FakeEngine, tmp_path: Path
) -> None:
    batch = Batch(store, engine, folder=tmp_path, rules=WITH_MACHINES)
    env_id = (await batch.call("CreateCpmComputeEnv", **a_metal()))["EnvId"]
    instances = [{"InstanceId": "ins-rack0001"}]
    code = await code_of(batch, "AttachInstances", EnvId=env_id, Instances=instances)
    assert code == "UnsupportedOperation"
