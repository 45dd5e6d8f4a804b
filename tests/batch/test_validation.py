"""What SubmitJob and CreateComputeEnv accept, and the public code of what they do not."""

import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch.datatypes import (
    CreateComputeEnvRequest,
    SubmitJobRequest,
    prepare_create_compute_env,
    prepare_submit_job,
)
from gateway.batch.env_data import node_size
from gateway.batch.environments.requests import check_env
from gateway.batch.instance_types import find_size
from gateway.batch.validation import DEPENDENCES_MAX, INSTANCES_MAX, TASKS_MAX, JobPlan, plan_job
from gateway.errors import ApiError
from gateway.service import decode
from tests.batch.test_datatypes import EXAMPLES, read_example
from tests.support.batch import DEFAULT_RULES, REGION, ZONE, a_job, a_task, an_env

COS = "cos://dondonbatch-1251783334.cosgz.myqcloud.com/hello2/logs/"


def plan(job: Any, *, zone: str = ZONE, region: str = REGION) -> JobPlan:
    params = prepare_submit_job({"Placement": {"Zone": zone}, "Job": job})
    return plan_job(decode(params, SubmitJobRequest), region=region, rules=DEFAULT_RULES)


def with_env_data(**members: Any) -> dict[str, Any]:
    return a_job(a_task(ComputeEnv={"EnvData": members}))


def runs(**members: Any) -> dict[str, Any]:
    application = {"DeliveryForm": "LOCAL", "Command": "true", **members}
    return a_job(a_task(Application=application))


def told(*event_names: str, topic: str = "t") -> dict[str, Any]:
    configs = [{"EventName": name} for name in event_names]
    return a_job(Notifications=[{"TopicName": topic, "EventConfigs": configs}])


def redirected(**members: Any) -> dict[str, Any]:
    return a_job(a_task(RedirectInfo=members))


def env_vars(**variables: str) -> dict[str, Any]:
    return a_job(a_task(EnvVars=[{"Name": n, "Value": v} for n, v in variables.items()]))


VALUE = "InvalidParameterValue"
CVM = "InvalidParameter.CvmParameters"
REFUSED_JOBS: list[tuple[str, dict[str, Any]]] = [
    ("InvalidParameter.JobNameTooLong", a_job(JobName="x" * 61)),
    ("InvalidParameter.JobDescriptionTooLong", a_job(JobDescription="x" * 201)),
    (f"{VALUE}.Negative", a_job(Priority=-1)),
    (VALUE, a_job(Priority=101)),
    ("InvalidParameter", a_job(Priority="high")),
    (VALUE, a_job(TaskExecutionDependOn="PRE_TASK_SUCCEEDED")),
    (VALUE, a_job(StateIfCreateCvmFailed="MAYBE")),
    (VALUE, a_job(NotificationTarget="SMS")),
    (VALUE, a_job(Tags=[{"Key": str(n), "Value": ""} for n in range(11)])),
    (VALUE, a_job(Tags=[{"Key": "k", "Value": "1"}, {"Key": "k", "Value": "2"}])),
    (VALUE, a_job(Tags=[{"Key": "", "Value": "1"}])),
    (VALUE, a_job(Tags=[{"Key": "k" * 128, "Value": "1"}])),
    (VALUE, a_job(Tags=[{"Key": "k", "Value": "v" * 256}])),
    (VALUE, a_job(a_task("a"), a_task("b"), after=["a b"] * (DEPENDENCES_MAX + 1))),
    ("InvalidParameter.TaskName", a_job(a_task("a"), a_task("a"))),
    ("InvalidParameter.TaskName", a_job({**a_task(), "TaskName": None}, a_task("Task1"))),
    ("InvalidParameter.TaskName", a_job(a_task(""))),
    ("InvalidParameter.TaskName", a_job(a_task("../../etc"))),
    ("InvalidParameter.TaskName", a_job(a_task("a\n"))),
    ("InvalidParameter.TaskNameTooLong", a_job(a_task("a" * 61))),
    (VALUE, {"Tasks": []}),
    (VALUE, a_job(*[a_task(f"t{n}") for n in range(TASKS_MAX + 1)])),
    (f"{VALUE}.DependenceNotFoundTaskName", a_job(a_task("a"), after=["a b"])),
    (f"{VALUE}.DependenceNotFoundTaskName", a_job(a_task("a"), after=["b a"])),
    (f"{VALUE}.DependenceUnfeasible", a_job(a_task("a"), after=["a a"])),
    (f"{VALUE}.DependenceUnfeasible", a_job(a_task("a"), a_task("b"), after=["a b", "b a"])),
    (f"{VALUE}.TaskInstanceNum", a_job(a_task(instances=0))),
    (f"{VALUE}.TaskInstanceNum", a_job(a_task(instances=INSTANCES_MAX + 1))),
    (f"{VALUE}.TaskInstanceNum", a_job(*[a_task(n, INSTANCES_MAX // 2 + 1) for n in "ab"])),
    (f"{VALUE}.Negative", a_job(a_task(instances=-1))),
    (f"{VALUE}.Negative", a_job(a_task(MaxConcurrentNum=-1))),
    (f"{VALUE}.Negative", a_job(a_task(Timeout=-1))),
    (VALUE, a_job(a_task(Timeout=0))),
    (VALUE, a_job(a_task(MaxConcurrentNum=2**31))),
    (f"{VALUE}.MaxRetryCount", a_job(a_task(MaxRetryCount=101))),
    (VALUE, a_job(a_task(ResourceMaxRetryCount=101))),
    (VALUE, a_job(a_task(FailedAction="EXPLODE"))),
    ("AllowedOneAttributeInEnvIdAndComputeEnv", a_job(a_task(ComputeEnv=None))),
    (
        "AllowedOneAttributeInEnvIdAndComputeEnv",
        a_job({**a_task(EnvId="env-00000001"), "ComputeEnv": {"EnvData": {}}}),
    ),
    ("InvalidParameter.EnvIdMalformed", a_job(a_task(EnvId="env-1"))),
    ("InvalidParameter.EnvIdMalformed", a_job(a_task(EnvId="env-00000001\n"))),
    (f"{VALUE}.ComputeEnv", a_job(a_task(ComputeEnv={}))),
    (f"{VALUE}.ComputeEnv", a_job(a_task(ComputeEnv={"EnvType": "X", "EnvData": {}}))),
    ("InvalidParameter.ImageIdMalformed", with_env_data(ImageId="img-1")),
    ("InvalidZone.MismatchRegion", with_env_data(Zones=[ZONE, "moon"])),
    (f"{VALUE}.ComputeEnv", with_env_data(Zones=[ZONE] * 11)),
    ("InvalidParameter.CvmParameters", with_env_data(InstanceChargeType="PREPAID")),
    ("InvalidParameter.CvmParameters", with_env_data(DataDisks=[{"DiskSize": 10}] * 21)),
    (f"{VALUE}.Negative", with_env_data(DataDisks=[{"DiskSize": -10}])),
    (f"{VALUE}.Negative", with_env_data(SystemDisk={"DiskSize": -1})),
    (f"{VALUE}.Negative", with_env_data(InternetAccessible={"InternetMaxBandwidthOut": -1})),
    (CVM, with_env_data(SystemDisk={"DiskSize": 2**21})),
    (
        f"{VALUE}.ComputeEnv",
        with_env_data(
            InstanceTypeOptions={"CPU": 1, "Memory": 1, "InstanceCategories": ["QUANTUM"]}
        ),
    ),
    *[
        (f"{VALUE}.NotFloat", with_env_data(InstanceMarketOptions={"SpotOptions": {"MaxPrice": x}}))
        for x in ("", "much", "nan", "inf", "-1", "1,5")
    ],
    (
        "InvalidParameter.CvmParameters",
        with_env_data(
            InstanceMarketOptions={"MarketType": "black", "SpotOptions": {"MaxPrice": "1"}}
        ),
    ),
    (
        "InvalidParameter.CvmParameters",
        with_env_data(
            InstanceMarketOptions={"SpotOptions": {"MaxPrice": "1", "SpotInstanceType": "for-ever"}}
        ),
    ),
    ("InvalidParameter.CvmParameters", with_env_data(InstanceType="HUGE")),
    (f"{VALUE}.InstanceTypeDuplicate", with_env_data(InstanceTypes=["S1.SMALL1"] * 2)),
    (
        f"{VALUE}.LimitExceeded",
        with_env_data(InstanceTypes=[f"S1.SMALL{n + 1}" for n in range(11)]),
    ),
    (f"{VALUE}.ComputeEnv", with_env_data(InstanceTypeOptions={"CPU": 0, "Memory": 1})),
    (
        "InvalidParameter.InvalidParameterCombination",
        with_env_data(InstanceType="S1.SMALL1", InstanceTypes=["S1.SMALL1"]),
    ),
    (
        "InvalidParameter.InvalidParameterCombination",
        with_env_data(Zones=[ZONE], VirtualPrivateCloud={"VpcId": "vpc-1", "SubnetId": "subnet-1"}),
    ),
    ("InvalidParameter.InvalidParameterCombination", runs(Command="")),
    (VALUE, runs(Command="true\0")),
    (VALUE, runs(DeliveryForm="CARRIER_PIGEON")),
    ("InvalidParameter.NotificationTopicNameTooLong", told("JOB_FAILED", topic="t" * 65)),
    ("InvalidParameter.NotificationTopicName", told("JOB_FAILED", topic="1topic")),
    ("InvalidParameter.NotificationTopicName", told("JOB_FAILED", topic="")),
    ("InvalidParameter.NotificationEventNameDuplicate", told("JOB_FAILED", "JOB_FAILED")),
    ("InvalidParameter.NotificationEventNameDuplicate", told("JOB_FAILED", "JobFailed")),
    (VALUE, told("JOB_EXPLODED")),
    (f"{VALUE}.RemoteStoragePath", redirected(StdoutRedirectPath=COS.rstrip("/"))),
    (f"{VALUE}.RemoteStorageSchemeType", redirected(StdoutRedirectPath="cfs://10.0.0.1/")),
    (f"{VALUE}.RemoteStorageSchemeType", redirected(StderrRedirectPath="s3://bucket/")),
    (f"{VALUE}.LocalPath", redirected(StdoutRedirectFileName="../x")),
    (f"{VALUE}.LocalPath", redirected(StderrRedirectFileName="..")),
    (VALUE, env_vars(**{"A=B": "x"})),
    (VALUE, env_vars(BATCH_JOB_ID="mine")),
    (VALUE, env_vars(A="x\0")),
    (VALUE, env_vars(A="x" * 70_000)),
]


@pytest.mark.parametrize(("code", "job"), REFUSED_JOBS)
def test_a_wrong_job_is_refused_with_its_public_code(code: str, job: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        plan(job)
    assert caught.value.code == code


def test_a_zone_must_exist_and_lie_in_the_region() -> None:
    for zone, code in [
        ("ap-beijing-1", f"{VALUE}.InvalidZoneMismatchRegion"),
        ("nowhere", "InvalidZone.MismatchRegion"),
        ("ap-guangzhou-0", "InvalidZone.MismatchRegion"),
        ("ap-guangzhou-2\n", "InvalidZone.MismatchRegion"),
    ]:
        with pytest.raises(ApiError) as caught:
            plan(a_job(), zone=zone)
        assert caught.value.code == code


@pytest.mark.parametrize("example", EXAMPLES["SubmitJob"], ids=lambda example: example["title"])
def test_the_vendors_own_examples_are_accepted(example: dict[str, str]) -> None:
    request = decode(read_example(example["input"]), SubmitJobRequest)
    made = plan_job(request, region=request.placement.zone.rpartition("-")[0], rules=DEFAULT_RULES)
    assert [task.name for task in made.tasks] == [task.task_name for task in request.job.tasks]


def test_numbers_may_be_written_as_strings() -> None:
    job = a_job(a_task(TaskInstanceNum="3", MaxRetryCount="2", Timeout="60"), Priority="1")
    made = plan(job)
    assert (made.priority, made.tasks[0].instances) == (1, 3)
    assert (made.tasks[0].spec.max_retry_count, made.tasks[0].spec.timeout) == (2, 60)


def test_what_is_left_out_has_the_documented_default() -> None:
    application = {"DeliveryForm": "LOCAL", "Command": "true"}
    bare = {"Tasks": [{"Application": application, "ComputeEnv": {"EnvData": {}}}]}
    made = plan(bare)
    [task] = made.tasks
    assert (task.name, task.instances, task.concurrent_max) == ("Task1", 1, 0)
    assert (made.name, made.priority, made.depend_on) == ("", 0, "PRE_TASK_SUCCEED")


def test_a_dependence_named_twice_counts_once() -> None:
    made = plan(a_job(a_task("a"), a_task("b"), after=["a b", "a b"]))
    assert made.dependences == ((0, 1),)
    assert [task.blockers for task in made.tasks] == [0, 1]


def test_a_job_of_two_thousand_tasks_is_checked_quickly() -> None:
    tasks = [a_task(f"t{n}") for n in range(2_000)]
    chain = [f"t{n} t{n + 1}" for n in range(1_999)]
    across = [f"t{n} t{m}" for n in range(40) for m in range(1_000, 1_100)]
    request = decode(
        {"Placement": {"Zone": ZONE}, "Job": a_job(*tasks, after=chain + across)}, SubmitJobRequest
    )
    begun = time.process_time()
    made = plan_job(request, region=REGION, rules=DEFAULT_RULES)
    assert time.process_time() - begun < 1
    assert len(made.dependences) == 1_999 + 4_000
    assert made.tasks[1_050].blockers == 41


def test_a_cycle_in_a_long_chain_is_found_without_recursion() -> None:
    tasks = [a_task(f"t{n}") for n in range(2_000)]
    chain = [f"t{n} t{(n + 1) % 2_000}" for n in range(2_000)]
    with pytest.raises(ApiError) as caught:
        plan(a_job(*tasks, after=chain))
    assert caught.value.code == f"{VALUE}.DependenceUnfeasible"


@given(edges=st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=14))
def test_dependences_are_refused_exactly_if_a_task_reaches_itself(
    edges: set[tuple[int, int]],
) -> None:
    reach = {n: {end for start, end in edges if start == n} for n in range(8)}
    for _ in range(8):
        reach = {n: ends.union(*(reach[end] for end in ends)) for n, ends in reach.items()}
    job = a_job(*[a_task(f"t{n}") for n in range(8)], after=[f"t{a} t{b}" for a, b in edges])
    if any(n in ends for n, ends in reach.items()):
        with pytest.raises(ApiError, match="waits for itself"):
            plan(job)
    else:
        assert len(plan(job).dependences) == len(edges)


MEMBERS = st.sampled_from(
    ["Tasks", "Application", "Command", "DeliveryForm", "ComputeEnv", "EnvData", "Dependences"]
) | st.text(max_size=5)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS, inner, max_size=4),
    max_leaves=12,
)


@given(job=anything)
def test_whatever_is_sent_is_accepted_or_refused_with_a_public_error(job: Any) -> None:
    with suppress(ApiError):
        plan(job)


def env_code(*, zone: str = ZONE, **members: Any) -> str:
    env = an_env(**members)
    params = prepare_create_compute_env({"Placement": {"Zone": zone}, "ComputeEnv": env})
    with pytest.raises(ApiError) as caught:
        check_env(decode(params, CreateComputeEnvRequest), region=REGION, rules=DEFAULT_RULES)
    return caught.value.code


@pytest.mark.parametrize(
    ("code", "members"),
    [
        ("InvalidParameter.EnvNameTooLong", {"EnvName": "x" * 61}),
        ("InvalidParameter.EnvDescriptionTooLong", {"EnvDescription": "x" * 201}),
        (f"{VALUE}.Negative", {"nodes": -1}),
        ("LimitExceeded.CpuQuota", {"nodes": 2_001}),
        (f"{VALUE}.InstanceType", {"EnvData": {"InstanceType": "HUGE"}}),
        (f"{VALUE}.ComputeEnv", {"EnvData": None}),
        ("InvalidParameter.ImageIdMalformed", {"EnvData": {"ImageId": "ubuntu"}}),
        (VALUE, {"ActionIfComputeNodeInactive": "PANIC"}),
        (VALUE, {"ResourceMaxRetryCount": 101}),
        (f"{VALUE}.Negative", {"ResourceMaxRetryCount": -1}),
        (f"{VALUE}.InvalidZoneMismatchRegion", {"zone": "ap-beijing-1"}),
        (VALUE, {"Authentications": [{"Scene": "CFS", "SecretId": "a", "SecretKey": "b"}]}),
        (
            f"{VALUE}.RemoteStoragePath",
            {"InputMappings": [{"SourcePath": "cfs://host/", "DestinationPath": "/data"}]},
        ),
        (f"{VALUE}.LocalPath", {"MountDataDisks": [{"LocalPath": "H:\\\\"}]}),
        (f"{VALUE}.InvalidZoneMismatchRegion", {"EnvData": {"Zones": ["ap-beijing-1"]}}),
    ],
)
def test_a_wrong_environment_is_refused_with_its_public_code(
    code: str, members: dict[str, Any]
) -> None:
    assert env_code(**members) == code


@pytest.mark.parametrize(
    ("name", "cpu", "mem_gib"),
    [("S1.SMALL1", 1, 1), ("S2.MEDIUM4", 2, 4), ("S5.LARGE8", 4, 8), ("S5.2XLARGE16", 8, 16)],
)
def test_an_instance_types_name_tells_its_size(name: str, cpu: int, mem_gib: int) -> None:
    size = find_size(name)
    assert size is not None
    assert (size.cpu, size.mem_gib) == (cpu, mem_gib)


@pytest.mark.parametrize("name", ["", "S1", "S1.SMALL", "S1.SMALL0", "s1.small1", "S1.SMALL1\n"])
def test_what_is_no_instance_type_has_no_size(name: str) -> None:
    assert find_size(name) is None


def test_nodes_have_a_size_even_if_nothing_is_said_of_it() -> None:
    assert node_size(None, catalogue=DEFAULT_RULES.catalogue).cpu == 1
