"""Events and messages pushed to HTTP subscribers by a real gateway, over the official SDK."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from standardwebhooks import Webhook

from tests.support.inbox import event_in
from tests.support.receiver import Receiver, open_receiver, says
from tests.support.running import Gateway, Refused, running_gateway, wait_until
from tests.support.sdk import Sdk, task
from tests.support.services import LOOPBACK

NETWORKS = "127.0.0.0/8"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver in a thread of its own."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_receiver()) as opened,
    ):
        yield opened


@pytest.fixture(scope="module")
def pushing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that may push to this machine."""
    folder = tmp_path_factory.mktemp("pushing")
    with running_gateway(folder, QCS_GATEWAY_PUSH_NETWORKS=NETWORKS) as running:
        yield running


def subscribe(sdk: Sdk, topic: str, url: str, **members: str) -> None:
    sdk("CreateCmqTopic", TopicName=topic)
    sdk(
        "CreateCmqSubscribe",
        TopicName=topic,
        SubscriptionName="listener",
        Protocol="http",
        Endpoint=url,
        **members,
    )


def texts(receiver: Receiver) -> list[str]:
    """The messages that came, in their order."""
    return [json.loads(body)["msgBody"] for body in receiver.bodies]


def test_the_events_of_a_job_arrive_and_can_be_verified(
    pushing: Gateway, receiver: Receiver
) -> None:
    sdk = Sdk(pushing, pushing.root)
    subscribe(sdk, "job-events", receiver.url, NotifyContentFormat="JSON")
    told = ["JOB_RUNNING", "TASK_INSTANCE_SUCCEED", "JOB_SUCCEED"]
    configs = [{"EventName": name} for name in told]
    notifications = [{"TopicName": "job-events", "EventConfigs": configs}]
    job_id = sdk.submit(task("hello", "echo hello"), Notifications=notifications)
    wait_until(lambda: len(receiver.requests) == 3, what=lambda: pushing.log[-4000:])
    secret = sdk("RevealCmqSubscriptionSecret", TopicName="job-events", SubscriptionName="listener")
    bodies = [json.loads(request.body) for request in receiver.requests]
    assert [event_in(body["msgBody"])["EventName"] for body in bodies] == told
    for request, body in zip(receiver.requests, bodies, strict=True):
        Webhook(secret["Secret"]).verify(request.body, request.headers)
        assert body["msgId"].startswith(f"{job_id}-")
        assert (body["topicName"], body["subscriptionName"]) == ("job-events", "listener")


def test_what_a_crash_leaves_unmarked_is_pushed_again_with_the_same_bytes(
    tmp_path: Path, receiver: Receiver
) -> None:
    with running_gateway(tmp_path, QCS_GATEWAY_PUSH_NETWORKS=NETWORKS) as own:
        sdk = Sdk(own, own.root)
        subscribe(sdk, "crash", receiver.url)
        receiver.wrong.extend([receiver.always, says(b"", then="hang")])
        for body in ("one", "two", "three"):
            sdk("PublishCmqMsg", TopicName="crash", MsgContent=body)
        wait_until(lambda: len(receiver.requests) == 2, what=lambda: own.log[-4000:])
        own.kill()
        own.start()
        wait_until(lambda: "three" in texts(receiver), what=lambda: own.log[-4000:])
    first, held, *_ = receiver.requests
    again = [request for request in receiver.requests[2:] if request.message_id == held.message_id]
    assert [request.body for request in again] == [held.body]
    assert texts(receiver)[:2] == ["one", "two"]
    assert texts(receiver)[-2:] == ["two", "three"]
    assert first.message_id != held.message_id


def test_by_default_nothing_is_pushed_to_this_machine(gateway: Gateway, receiver: Receiver) -> None:
    sdk = Sdk(gateway, gateway.root)
    with pytest.raises(Refused, match="not public") as refused:
        subscribe(sdk, "inward-address", receiver.url)
    assert refused.value.code == "InvalidParameterValue"
    subscribe(sdk, "inward", receiver.url.replace(LOOPBACK, "localhost"))
    sdk("PublishCmqMsg", TopicName="inward", MsgContent="hello")

    refusal = "is not public, and not allowed here"
    wait_until(lambda: refusal in gateway.log, what=lambda: gateway.log[-4000:])
    metrics = gateway.management("/metrics")[1]
    assert re.search(r'pushes_total\{outcome="failed"\} [1-9]', metrics)
    assert receiver.connections == 0
    # others use this gateway too, and would find it with a message that waits
    sdk("DeleteCmqSubscribe", TopicName="inward", SubscriptionName="listener")
