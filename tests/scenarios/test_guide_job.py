"""The guide's job, sent by the official command line, and its events on both kinds of queue.

It is mended where the printed guide is broken: commas, comments and doubled backslashes,
`python3` for `python`, one of the guide's three images for the missing one, the number printed.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.amqp import Delivered, open_channel, read
from tests.support.classic import ClassicClient
from tests.support.inbox import event_in, names_in
from tests.support.running import Credentials, Gateway, running_gateway
from tests.support.sdk import PLACEMENT, Sdk
from tests.support.services import RabbitMQ

BUCKET = "cos://dondonbatchv5-1251783334.cosgz.myqcloud.com/logs/"
GUIDE_JOB: dict[str, Any] = {
    "JobName": "TestJob",
    "JobDescription": "for test ",
    "Priority": "1",
    "Tasks": [
        {
            "TaskName": "Task1",
            "Application": {
                "DeliveryForm": "LOCAL",
                "Command": 'python3 -c "fib=lambda n:1 if n<=2 else fib(n-1)+fib(n-2);'
                ' print(fib(20))" ',
            },
            "ComputeEnv": {
                "EnvType": "MANAGED",
                "EnvData": {"InstanceType": "S1.SMALL1", "ImageId": "img-31tjrtph"},
            },
            "RedirectInfo": {"StdoutRedirectPath": BUCKET, "StderrRedirectPath": BUCKET},
        }
    ],
}
FIB_20 = "6765\n"
STORY = [
    "JOB_RUNNING",
    "TASK_RUNNING",
    "TASK_INSTANCE_RUNNING",
    "TASK_INSTANCE_SUCCEED",
    "TASK_SUCCEED",
    "JOB_SUCCEED",
]
AMQP_QUEUE = "cmq.100000000001.ap-guangzhou.job-reader"


@pytest.fixture(scope="module")
def broker_gateway(
    tmp_path_factory: pytest.TempPathFactory, rabbitmq_server: RabbitMQ
) -> Iterator[Gateway]:
    """A gateway with a broker."""
    rabbitmq_server.start()
    folder = tmp_path_factory.mktemp("guide")
    with running_gateway(folder, QCS_GATEWAY_AMQP_URL=rabbitmq_server.url) as running:
        yield running


@pytest.fixture(scope="module")
def alice(broker_gateway: Gateway) -> Credentials:
    """A user, not the account: her policies allow what she does here."""
    return broker_gateway.create_key("alice")


@pytest.fixture(scope="module")
def topic(broker_gateway: Gateway, alice: Credentials) -> str:
    """The guide's topic, with a subscriber on RabbitMQ and a CMQ queue subscribed."""
    sdk = Sdk(broker_gateway, alice)
    sdk("CreateCmqTopic", TopicName="job-message")
    sdk("CreateCmqQueue", QueueName="job-reader")
    for protocol in ("amqp", "queue"):
        sdk(
            "CreateCmqSubscribe",
            TopicName="job-message",
            SubscriptionName=f"by-{protocol}",
            Protocol=protocol,
            Endpoint="job-reader",
            NotifyContentFormat="SIMPLIFIED",
        )
    return "job-message"


def wants_all_events(topic: str) -> dict[str, Any]:
    return {"TopicName": topic, "EventConfigs": [{"EventName": name} for name in STORY]}


def tells_the_end(found: list[Delivered]) -> bool:
    return any("JOB_SUCCEED" in each.routing_key for each in found)


def test_the_guides_job_runs_and_its_events_arrive_once_in_order_on_both_kinds_of_queue(
    broker_gateway: Gateway, alice: Credentials, topic: str, rabbitmq: RabbitMQ
) -> None:
    sdk, classic = Sdk(broker_gateway, alice), ClassicClient(broker_gateway, alice)
    job_id = broker_gateway.tccli(
        *(alice, "batch", "SubmitJob"),
        version="2017-03-12",
        Job={**GUIDE_JOB, "Notifications": [wants_all_events(topic)]},
        Placement=PLACEMENT,
    )["JobId"]

    assert sdk.wait(job_id)["JobState"] == "SUCCEED"
    assert sdk.logs(job_id, "Task1") == [(FIB_20, "")]

    on_rabbitmq = read(rabbitmq.url, AMQP_QUEUE, until=tells_the_end)
    on_cmq = classic.drain("job-reader", count=len(STORY))
    assert names_in([each.body for each in on_rabbitmq]) == STORY
    assert on_cmq == [each.body.decode() for each in on_rabbitmq], "both get the same bytes"
    assert {event_in(each.body)["Batch"]["JobId"] for each in on_rabbitmq} == {job_id}
    numbers = [each.properties.headers["seq"] for each in on_rabbitmq]
    assert numbers == sorted(set(numbers)), "the ledger's order"
    assert len({each.id for each in on_rabbitmq}) == len(STORY)
    assert classic.is_empty("job-reader")
    assert is_empty(rabbitmq.url, AMQP_QUEUE)


def is_empty(url: str, queue: str) -> bool:
    with open_channel(url) as channel:
        method, _, _ = channel.basic_get(queue)
        return method is None


def test_a_message_says_what_happened_to_what(
    broker_gateway: Gateway, alice: Credentials, topic: str, rabbitmq: RabbitMQ
) -> None:
    sdk, classic = Sdk(broker_gateway, alice), ClassicClient(broker_gateway, alice)
    variables = [{"Name": "jobSucceed", "Value": "Success"}]
    asks = {
        "TopicName": topic,
        "EventConfigs": [{"EventName": "JobSucceed", "EventVars": variables}],
    }
    job_id = sdk.submit(*GUIDE_JOB["Tasks"], Notifications=[asks])
    (message,) = read(rabbitmq.url, AMQP_QUEUE, until=tells_the_end)
    (body,) = classic.drain("job-reader", count=1)

    assert message.properties.content_type == "application/json"
    assert message.properties.content_encoding == "base64"
    assert message.properties.delivery_mode == 2, "it is persistent"
    assert message.properties.type == "JOB_SUCCEED"
    assert message.routing_key == f"batch.job.JOB_SUCCEED.{job_id}"
    event = event_in(body)
    assert event["EventVersion"] == "1.0"
    assert event["Region"] == "ap-guangzhou"
    assert event["EventName"] == "JOB_SUCCEED"
    assert event["EventVars"] == variables
    assert event["Batch"]["JobState"] == "SUCCEED"


def test_the_output_is_redirected_to_the_bucket_under_its_default_name(
    broker_gateway: Gateway, alice: Credentials
) -> None:
    sdk = Sdk(broker_gateway, alice)
    job_id = sdk.submit(*GUIDE_JOB["Tasks"])
    assert sdk.wait(job_id)["JobState"] == "SUCCEED"

    bucket = broker_gateway.data / "cos" / "dondonbatchv5-1251783334" / "logs"
    assert (bucket / f"stdout.{job_id}.Task1.0.log").read_text() == FIB_20
    assert (bucket / f"stderr.{job_id}.Task1.0.log").read_text() == ""
