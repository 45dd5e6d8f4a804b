"""What is told of jobs and environments, read from CMQ queues on a gateway without a broker."""

from typing import Any

import pytest

from tests.support.classic import ClassicClient
from tests.support.inbox import event_in, names_in
from tests.support.running import Gateway, Refused, wait_until
from tests.support.sdk import PLACEMENT, SMALL, Sdk, task

JOB_EVENTS = [
    f"{kind}_{state}"
    for kind in ("JOB", "TASK", "TASK_INSTANCE")
    for state in ("RUNNING", "SUCCEED", "FAILED", "FAILED_INTERRUPTED")
]
ENV_EVENTS = [
    "COMPUTE_ENV_CREATED",
    "COMPUTE_ENV_DELETED",
    "COMPUTE_NODE_CREATED",
    "COMPUTE_NODE_RUNNING",
    "COMPUTE_NODE_DELETING",
]


@pytest.fixture(scope="module")
def sdk(gateway: Gateway) -> Sdk:
    return Sdk(gateway, gateway.root)


@pytest.fixture(scope="module")
def classic(gateway: Gateway) -> ClassicClient:
    return ClassicClient(gateway, gateway.root)


def subscribe(sdk: Sdk, name: str, *, protocol: str = "queue", **members: Any) -> None:
    """Make a topic and a queue of one name, and subscribe the queue to the topic."""
    sdk("CreateCmqTopic", TopicName=name, FilterType=2 if "BindingKey" in members else 1)
    sdk("CreateCmqQueue", QueueName=name)
    sdk(
        "CreateCmqSubscribe",
        TopicName=name,
        SubscriptionName=name,
        Protocol=protocol,
        Endpoint=name,
        NotifyContentFormat="SIMPLIFIED",
        **members,
    )


def asking(topic: str, names: list[str]) -> list[dict[str, Any]]:
    return [{"TopicName": topic, "EventConfigs": [{"EventName": name} for name in names]}]


def test_a_subscription_by_amqp_needs_a_broker(sdk: Sdk) -> None:
    with pytest.raises(Refused) as caught:
        subscribe(sdk, "no-broker", protocol="amqp")
    assert caught.value.code == "UnsupportedOperation"
    answer = sdk("DescribeCmqSubscriptionDetail", TopicName="no-broker")
    assert answer["TotalCount"] == 0


def test_every_try_of_a_failing_command_is_told_once(sdk: Sdk, classic: ClassicClient) -> None:
    subscribe(sdk, "retries")
    job_id = sdk.submit(
        task("again", "exit 7", MaxRetryCount=2), Notifications=asking("retries", JOB_EVENTS)
    )
    assert sdk.wait(job_id)["JobState"] == "FAILED"
    bodies = classic.drain("retries", count=8)
    assert names_in(bodies) == [
        "JOB_RUNNING",
        "TASK_RUNNING",
        "TASK_INSTANCE_RUNNING",
        "TASK_INSTANCE_RUNNING",
        "TASK_INSTANCE_RUNNING",
        "TASK_INSTANCE_FAILED",
        "TASK_FAILED",
        "JOB_FAILED",
    ]
    assert event_in(bodies[5])["Batch"]["ExitCode"] == 7
    assert classic.is_empty("retries")


def test_only_the_events_that_were_asked_for_are_told(sdk: Sdk, classic: ClassicClient) -> None:
    subscribe(sdk, "asked")
    job_id = sdk.submit(task("one", "true"), Notifications=asking("asked", ["JOB_SUCCEED"]))
    sdk.wait(job_id)
    assert names_in(classic.drain("asked", count=1)) == ["JOB_SUCCEED"]
    assert classic.is_empty("asked")


def test_a_subscriber_gets_what_its_binding_keys_match(sdk: Sdk, classic: ClassicClient) -> None:
    subscribe(sdk, "bound", BindingKey=["batch.task.#", "*.*.JOB_SUCCEED.*"])
    job_id = sdk.submit(task("one", "true"), Notifications=asking("bound", JOB_EVENTS))
    sdk.wait(job_id)
    names = names_in(classic.drain("bound", count=3))
    assert names == ["TASK_RUNNING", "TASK_SUCCEED", "JOB_SUCCEED"]
    assert classic.is_empty("bound")


def test_a_short_region_is_the_same_region(gateway: Gateway, classic: ClassicClient) -> None:
    Sdk(gateway, gateway.root, region="gz")("CreateCmqQueue", QueueName="short")
    classic("SendMessage", queueName="short", msgBody="hello", Region="ap-guangzhou")
    message = classic("ReceiveMessage", queueName="short", Region="gz")
    assert message["msgBody"] == "hello"


def test_a_notice_to_a_topic_that_does_not_exist_is_refused_with_the_job(sdk: Sdk) -> None:
    jobs = sdk("DescribeJobs")["TotalCount"]
    with pytest.raises(Refused) as caught:
        sdk.submit(task("one", "true"), Notifications=asking("nowhere", JOB_EVENTS))
    assert caught.value.code == "InvalidParameter.NotificationTopicName"
    assert sdk("DescribeJobs")["TotalCount"] == jobs


def test_the_life_of_an_environment_is_told(sdk: Sdk, classic: ClassicClient) -> None:
    subscribe(sdk, "env-life")
    wanted = {
        "EnvName": "told",
        "DesiredComputeNodeCount": 1,
        "Notifications": asking("env-life", ENV_EVENTS),
        **SMALL,
    }
    env_id = sdk("CreateComputeEnv", ComputeEnv=wanted, Placement=PLACEMENT)["EnvId"]
    bodies = classic.drain("env-life", count=3)
    assert names_in(bodies) == [
        "COMPUTE_ENV_CREATED",
        "COMPUTE_NODE_CREATED",
        "COMPUTE_NODE_RUNNING",
    ]
    node = event_in(bodies[1])["Batch"]
    assert (node["EnvId"], node["EnvName"], node["ComputeNodeState"], node["Cpu"]) == (
        env_id,
        "told",
        "CREATED",
        1,
    )
    sdk("TerminateComputeNode", EnvId=env_id, ComputeNodeId=node["ComputeNodeId"])
    wait_until(lambda: not sdk("DescribeComputeEnv", EnvId=env_id)["ComputeNodeSet"])
    sdk("DeleteComputeEnv", EnvId=env_id)
    assert names_in(classic.drain("env-life", count=2)) == [
        "COMPUTE_NODE_DELETING",
        "COMPUTE_ENV_DELETED",
    ]
