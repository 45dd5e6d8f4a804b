"""Who is denied a queue cannot have it filled by a subscription, here or on the broker, or by
another's dead letters.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.classic import ClassicClient, ClassicRefused
from tests.support.policies import OWNER, allow, change_policies, deny, write_policies
from tests.support.running import REGION, Gateway, Refused, running_gateway
from tests.support.sdk import Sdk

NAMED = f"qcs::tdmq:{REGION}:uin/{OWNER}:"
FULL = {"SubscriptionName": "s", "Protocol": "queue", "NotifyContentFormat": "SIMPLIFIED"}
ON_BROKER = {**FULL, "Protocol": "amqp"}
RULE: dict[str, Any] = {"DeadLetterQueueName": "shut", "MaxReceiveCount": 1}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a topic and three queues; some are denied the queue `shut`."""
    with running_gateway(tmp_path_factory.mktemp("targets")) as running:
        write_policies(running.policies, {})
        old = f"qcs::cmqqueue:::queueName/uin/{OWNER}/shut"
        change_policies(
            running,
            {
                "denied": [allow("tdmq:*"), deny("tdmq:*", f"{NAMED}queue/shut")],
                "byold": [allow("tdmq:*"), deny("cmqtopic:*", old)],
                "narrow": [allow("tdmq:*", f"{NAMED}topic/mine"), allow("tdmq:CreateCmqQueue")],
            },
        )
        root = Sdk(running, running.root)
        root("CreateCmqTopic", TopicName="mine")
        for queue in ("shut", "open", "work"):
            root("CreateCmqQueue", QueueName=queue)
        yield running


def test_a_denied_queue_is_no_target_by_tdmq(guarded: Gateway) -> None:
    sdk = Sdk(guarded, guarded.key_of("denied"))
    for action, asked in (
        ("CreateCmqSubscribe", {"TopicName": "mine", "Endpoint": "shut", **FULL}),
        ("CreateCmqSubscribe", {"TopicName": "mine", "Endpoint": "shut", **ON_BROKER}),
        ("CreateCmqQueue", {"QueueName": "fresh", **RULE}),
        ("ModifyCmqQueueAttribute", {"QueueName": "work", **RULE}),
    ):
        with pytest.raises(Refused) as refused:
            sdk(action, **asked)
        assert refused.value.code == "UnauthorizedOperation"
        assert f"{NAMED}queue/shut" in refused.value.message


@pytest.mark.parametrize("protocol", ["queue", "amqp"])
@pytest.mark.parametrize("who", ["denied", "byold"])
def test_a_denied_queue_is_no_target_by_the_classic_api(
    guarded: Gateway, who: str, protocol: str
) -> None:
    call = ClassicClient(guarded, guarded.key_of(who))
    place = {"topicName": "mine", "subscriptionName": "s", "protocol": protocol}
    with pytest.raises(ClassicRefused, match="10461"):
        call("Subscribe", **place, endpoint="shut", notifyContentFormat="SIMPLIFIED")


def test_whoever_may_subscribe_to_a_topic_may_name_a_queue_they_are_not_denied(
    guarded: Gateway,
) -> None:
    sdk = Sdk(guarded, guarded.key_of("narrow"))
    sdk("CreateCmqSubscribe", TopicName="mine", Endpoint="open", **FULL)
    with pytest.raises(Refused) as refused:
        sdk("SendCmqMsg", QueueName="open", MsgContent="m", DelaySeconds=0)
    assert refused.value.code == "UnauthorizedOperation"
