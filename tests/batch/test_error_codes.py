"""Every public error code that Batch documents: a call that provokes it, or why none can."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.batch import jobs
from gateway.batch.catalogue import parse_catalogue
from gateway.batch.environments.creation import ENVS_MAX
from gateway.batch.rules import Rules
from gateway.batch.templates import TEMPLATES_MAX
from gateway.catalog import ACTIONS, UNBUILT
from gateway.errors import ApiError
from gateway.store import Store
from tests.support.batch import NO_TOPIC, ZONE, Batch, a_job, a_task, an_env
from tests.support.fake_engine import FakeEngine

PARAMETER, VALUE, UNSUPPORTED = "InvalidParameter", "InvalidParameterValue", "UnsupportedOperation"
DOCUMENTED = {code for action in ACTIONS if action.service == "batch" for code in action.errors}
CATALOGUE = parse_catalogue(
    """
[[zone]]
id = "ap-guangzhou-2"

[[zone]]
id = "ap-guangzhou-3"
open = false

[[machine]]
id = "ins-rack0001"
cpu = 1
mem_gib = 1
address = "10.0.0.7"
""",
    where="catalogue.toml",
)
JOB, ENV, NODE, TEMPLATE = "job-00000000", "env-00000000", "node-00000000", "task-tmpl-00000000"
COS = "cos://dondonbatch-1251783334.cos.ap-guangzhou.myqcloud.com"

NEVER: Mapping[str, str] = {
    "InternalError": "a bug of ours; tests/test_server.py shows that one is answered so",
    "InternalError.CallCam": "CAM is in this very service: there is no call to it that may fail",
    "InternalError.CallCpmAPI": "there is no bare-metal service behind this one",
    "InternalError.CallCvm": "there is no CVM service behind this one",
    "InternalError.CallTagAPI": "tags are rows of this very service",
    "InternalError.CpmResponseDataEmpty": "there is no bare-metal service behind this one",
    f"{VALUE}.InvalidDataTypeAny": "no member of the API has the type Any",
    "UnauthorizedOperation.UserNotAllowedToUseBatch": "there is nothing to buy or sign up for;"
    " who may not call is answered UnauthorizedOperation, see tests/test_refusals.py",
    f"{UNSUPPORTED}.TerminateOperationWithEnvId": "instances on an EnvId are terminated, as the"
    " newer documentation says",
}
"""Codes that cannot arise here, each with the reason."""

Provoke = Callable[[Batch], Awaitable[object]]


def calls(action: str, **params: Any) -> Provoke:
    return lambda batch: batch.call(action, **params)


def submits(*tasks: Mapping[str, Any], **members: Any) -> Provoke:
    return calls("SubmitJob", Placement={"Zone": ZONE}, Job=a_job(*tasks, **members))


def runs_on(**data: Any) -> Provoke:
    return submits(a_task(ComputeEnv={"EnvData": data}))


def creates(**members: Any) -> Provoke:
    return calls("CreateComputeEnv", Placement={"Zone": ZONE}, ComputeEnv=an_env(**members))


def creates_bare_metal(**data: Any) -> Provoke:
    env = {"EnvName": "e", "DesiredComputeNodeCount": 1, "EnvData": data}
    return calls("CreateCpmComputeEnv", Placement={"Zone": ZONE}, ComputeEnv=env)


def templates(*, name: str = "t", action: str = "CreateTaskTemplate", **members: Any) -> Provoke:
    return calls(action, TaskTemplateName=name, TaskTemplateInfo=a_task(), **members)


def modifies(**members: Any) -> Provoke:
    """Change an environment that has one node, which is running."""

    async def provoke(batch: Batch) -> None:
        env_id = await running_env(batch)
        await batch.call("ModifyComputeEnv", EnvId=env_id, **members)

    return provoke


def told(topic: str, *events: str) -> Provoke:
    configs = [{"EventName": name} for name in events or ("JOB_FAILED",)]
    return submits(Notifications=[{"TopicName": topic, "EventConfigs": configs}])


def listed(action: str, name: str, *values: str) -> Provoke:
    return calls(action, Filters=[{"Name": name, "Values": list(values)}])


async def running_env(batch: Batch, *, nodes: int = 1) -> str:
    env_id = await batch.create_env(nodes)
    await batch.tend(catalogue=CATALOGUE)
    return env_id


async def nodes_of(batch: Batch, env_id: str) -> list[str]:
    found = (await batch.call("DescribeComputeEnv", EnvId=env_id))["ComputeNodeSet"]
    return [str(node["ComputeNodeId"]) for node in found]


async def no_task(batch: Batch) -> None:
    job_id = await batch.submit(a_task("a"))
    await batch.call("DescribeTask", JobId=job_id, TaskName="b")


async def no_instance(batch: Batch) -> None:
    job_id = await batch.submit(a_task("a"))
    await batch.call("TerminateTaskInstance", JobId=job_id, TaskName="a", TaskInstanceIndex=1)


async def job_in_use(batch: Batch) -> None:
    await batch.call("DeleteJob", JobId=await batch.submit())


async def too_early(batch: Batch) -> None:
    await batch.call("TerminateJob", JobId=await batch.submit())


async def too_many_jobs(batch: Batch) -> None:
    for _ in range(3):
        await batch.submit()


async def too_many_envs(batch: Batch) -> None:
    for _ in range(ENVS_MAX + 1):
        await batch.create_env(0)


async def too_many_templates(batch: Batch) -> None:
    for _ in range(TEMPLATES_MAX + 1):
        await templates()(batch)


async def no_node(batch: Batch) -> None:
    env_id = await running_env(batch)
    await batch.call("TerminateComputeNode", EnvId=env_id, ComputeNodeId=NODE)


async def node_not_made(batch: Batch) -> None:
    env_id = await batch.create_env(1)
    [node] = await nodes_of(batch, env_id)
    await batch.call("TerminateComputeNode", EnvId=env_id, ComputeNodeId=node)


async def node_twice(batch: Batch) -> None:
    env_id = await running_env(batch)
    [node] = await nodes_of(batch, env_id)
    await batch.call("TerminateComputeNodes", EnvId=env_id, ComputeNodeIds=[node, node])


async def deleting_env(batch: Batch) -> str:
    env_id = await running_env(batch)
    [node] = await nodes_of(batch, env_id)
    await batch.call("TerminateComputeNode", EnvId=env_id, ComputeNodeId=node)
    await batch.call("DeleteComputeEnv", EnvId=env_id)
    return env_id


async def deleted_twice(batch: Batch) -> None:
    await batch.call("DeleteComputeEnv", EnvId=await deleting_env(batch))


async def modified_while_deleting(batch: Batch) -> None:
    env_id = await deleting_env(batch)
    await batch.call("ModifyComputeEnv", EnvId=env_id, DesiredComputeNodeCount=1)


async def env_in_use(batch: Batch) -> None:
    env_id = await batch.create_env(0)
    await batch.submit(a_task(EnvId=env_id))
    await batch.call("DeleteComputeEnv", EnvId=env_id)


async def more_than_there_are(batch: Batch) -> None:
    env_id = await batch.create_env(1)  # its node is still being made
    await batch.call("ModifyComputeEnv", EnvId=env_id, DesiredComputeNodeCount=0)


def machines(*ids: str) -> Provoke:
    async def provoke(batch: Batch) -> None:
        env_id = await batch.create_env(0)
        named = [{"InstanceId": each} for each in ids]
        await batch.call("AttachInstances", EnvId=env_id, Instances=named)

    return provoke


LONG = "x" * 201
PROVOKED: Mapping[str, Provoke] = {
    "AllowedOneAttributeInEnvIdAndComputeEnv": submits(a_task(ComputeEnv=None)),
    "InvalidFilter": listed("DescribeJobs", "colour", "red"),
    f"{PARAMETER}.ComputeNodeIdMalformed": calls(
        "TerminateComputeNode", EnvId=ENV, ComputeNodeId="node-1"
    ),
    f"{PARAMETER}.CvmParameters": runs_on(InstanceType="HUGE"),
    f"{PARAMETER}.EnvDescriptionTooLong": creates(EnvDescription=LONG),
    f"{PARAMETER}.EnvIdMalformed": calls("DescribeComputeEnv", EnvId="env-1"),
    f"{PARAMETER}.EnvNameTooLong": creates(EnvName=LONG),
    f"{PARAMETER}.ImageIdMalformed": runs_on(ImageId="ubuntu"),
    f"{PARAMETER}.InvalidParameterCombination": calls(
        "DescribeJobs", JobIds=[JOB], Filters=[{"Name": "job-name", "Values": ["x"]}]
    ),
    f"{PARAMETER}.JobDescriptionTooLong": submits(JobDescription=LONG),
    f"{PARAMETER}.JobIdMalformed": calls("DescribeJob", JobId="job-XYZ"),
    f"{PARAMETER}.JobNameTooLong": submits(JobName=LONG),
    f"{PARAMETER}.NotificationEventNameDuplicate": told("t", "JOB_FAILED", "JobFailed"),
    f"{PARAMETER}.NotificationTopicName": told(NO_TOPIC),
    f"{PARAMETER}.NotificationTopicNameTooLong": told(LONG),
    f"{PARAMETER}.TaskName": submits(a_task("a/b")),
    f"{PARAMETER}.TaskNameTooLong": submits(a_task(LONG)),
    f"{PARAMETER}.TaskTemplateDescriptionTooLong": calls(
        "ModifyTaskTemplate", TaskTemplateId=TEMPLATE, TaskTemplateDescription=LONG
    ),
    f"{PARAMETER}.TaskTemplateIdMalformed": calls("DeleteTaskTemplates", TaskTemplateIds=["t"]),
    f"{PARAMETER}.TaskTemplateName": templates(name=""),
    f"{PARAMETER}.TaskTemplateNameTooLong": templates(name=LONG),
    "InvalidParameterAtLeastOneAttribute": calls("ModifyTaskTemplate", TaskTemplateId=TEMPLATE),
    VALUE: calls("DescribeJobs", Limit=101),
    f"{VALUE}.ComputeEnv": submits(a_task(ComputeEnv={})),
    f"{VALUE}.DependenceNotFoundTaskName": submits(a_task("a"), after=["a b"]),
    f"{VALUE}.DependenceUnfeasible": submits(a_task("a"), after=["a a"]),
    f"{VALUE}.InstanceIdDuplicated": machines("ins-rack0001", "ins-rack0001"),
    f"{VALUE}.InstanceType": creates(EnvData={"InstanceType": "HUGE"}),
    f"{VALUE}.InstanceTypeDuplicate": runs_on(InstanceTypes=["S1.SMALL1"] * 2),
    f"{VALUE}.InstanceTypesEmpty": modifies(EnvData={"InstanceTypes": []}),
    f"{VALUE}.InvalidFilter": listed("DescribeAvailableCvmInstanceTypes", "zone"),
    f"{VALUE}.InvalidZoneMismatchRegion": runs_on(Zones=["ap-beijing-1"]),
    f"{VALUE}.LimitExceeded": modifies(DesiredComputeNodeCount=2_001),
    f"{VALUE}.LocalPath": submits(
        a_task(OutputMappings=[{"SourcePath": "out", "DestinationPath": f"{COS}/"}])
    ),
    f"{VALUE}.MaxRetryCount": submits(a_task(MaxRetryCount=101)),
    f"{VALUE}.Negative": submits(Priority=-1),
    f"{VALUE}.NotFloat": runs_on(InstanceMarketOptions={"SpotOptions": {"MaxPrice": "much"}}),
    f"{VALUE}.OsTypeId": creates_bare_metal(Zones=["ap-guangzhou-bls-1"], OsTypeId=-1),
    f"{VALUE}.RegionNotSupportCpm": creates_bare_metal(Zones=["ap-beijing-bls-1"]),
    f"{VALUE}.RemoteStoragePath": submits(
        a_task(RedirectInfo={"StdoutRedirectPath": f"{COS}/logs"})
    ),
    f"{VALUE}.RemoteStorageSchemeType": submits(
        a_task(InputMappings=[{"SourcePath": "s3://b/", "DestinationPath": "/data"}])
    ),
    f"{VALUE}.ResourceType": listed("DescribeComputeEnvs", "resource-type", "GPU"),
    f"{VALUE}.TaskInstanceNum": submits(a_task(instances=0)),
    f"{VALUE}.UnavailableZone": runs_on(Zones=["ap-guangzhou-3"]),
    f"{VALUE}.UnsupportedBatchInstanceChargeType": listed(
        "DescribeCvmZoneInstanceConfigInfos", "instance-charge-type", "PREPAID"
    ),
    "InvalidZone.MismatchRegion": runs_on(Zones=["moon"]),
    "LimitExceeded.ComputeEnvQuota": too_many_envs,
    "LimitExceeded.CpuQuota": creates(nodes=2_001),
    "LimitExceeded.JobQuota": too_many_jobs,
    "LimitExceeded.TaskTemplateQuota": too_many_templates,
    "ResourceInUse.Job": job_in_use,
    "ResourceNotFound.ComputeEnv": calls("DescribeComputeEnv", EnvId=ENV),
    "ResourceNotFound.ComputeNode": no_node,
    "ResourceNotFound.Job": calls("DescribeJob", JobId=JOB),
    "ResourceNotFound.Task": no_task,
    "ResourceNotFound.TaskInstance": no_instance,
    "ResourceNotFound.TaskTemplate": calls("DeleteTaskTemplates", TaskTemplateIds=[TEMPLATE]),
    "UnknownParameter": calls("DescribeJobs", Colour="red"),
    UNSUPPORTED: too_early,
    f"{UNSUPPORTED}.AcceptOtherRequest": deleted_twice,
    f"{UNSUPPORTED}.ComputeEnvAcceptOtherRequest": modified_while_deleting,
    f"{UNSUPPORTED}.ComputeEnvOperation": env_in_use,
    f"{UNSUPPORTED}.ComputeNodeForbidTerminate": node_not_made,
    f"{UNSUPPORTED}.ComputeNodeIsTerminating": node_twice,
    f"{UNSUPPORTED}.InstancesNotAllowToAttach": machines("ins-unknown1"),
    f"{UNSUPPORTED}.NotEnoughComputeNodesToTerminate": more_than_there_are,
}


@pytest.fixture
def held(store: Store, engine: FakeEngine, tmp_path: Path) -> Batch:
    """A service with a catalogue of its own, and the vendor's quotas."""
    return Batch(store, engine, folder=tmp_path, rules=Rules(CATALOGUE, quotas=True))


@pytest.mark.anyio
@pytest.mark.parametrize("code", PROVOKED)
async def test_a_documented_code_is_what_the_mistake_is_answered_with(
    held: Batch, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "JOBS_MAX", 2)
    with pytest.raises(ApiError) as caught:
        await PROVOKED[code](held)
    assert caught.value.code == code
    assert caught.value.message.endswith(".")


def test_every_documented_code_is_provoked_or_cannot_arise_and_never_both() -> None:
    assert set(PROVOKED) & set(NEVER) == set()
    assert set(PROVOKED) | set(NEVER) == DOCUMENTED


def test_every_action_of_batch_is_built() -> None:
    assert {name for service, name in UNBUILT if service == "batch"} == set()
