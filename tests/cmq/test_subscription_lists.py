"""A list of subscriptions leaves out those that its caller is denied by name."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.classic import ClassicClient
from tests.support.policies import OWNER, allow, change_policies, deny, write_policies
from tests.support.running import REGION, Gateway, running_gateway
from tests.support.sdk import Sdk

SHUT = f"qcs::tdmq:{REGION}:uin/{OWNER}:subscription/news/shut"
DESCRIBE = "tdmq:DescribeCmqSubscriptionDetail"
TAGGED = {"for_any_value:string_equal": {"qcs:resource_tag": "secret&yes"}}
ABROAD = {"ip_not_equal": {"qcs:ip": "127.0.0.0/8"}}
POLICIES: dict[str, list[Any]] = {
    "byname": [allow("tdmq:*"), deny("tdmq:*", SHUT)],
    "bypattern": [allow("tdmq:*"), deny(DESCRIBE, "qcs::tdmq:::subscription/*/sh*t")],
    "oftopic": [allow(DESCRIBE, f"qcs::tdmq:{REGION}:uin/{OWNER}:topic/news"), deny("*", SHUT)],
    "another": [allow("tdmq:*"), deny("tdmq:DeleteCmqSubscribe", SHUT)],
    "bytag": [allow("tdmq:*"), {**deny("tdmq:*"), "condition": TAGGED}],
    "abroad": [allow("tdmq:*"), {**deny("tdmq:*", SHUT), "condition": ABROAD}],
}
SEES_ALL = {"another", "bytag", "abroad"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with two subscriptions to a topic, both into one queue."""
    with running_gateway(tmp_path_factory.mktemp("lists")) as running:
        write_policies(running.policies, {})
        change_policies(running, POLICIES)
        root = Sdk(running, running.root)
        root("CreateCmqTopic", TopicName="news")
        root("CreateCmqQueue", QueueName="inbox")
        to = {"TopicName": "news", "Protocol": "queue", "Endpoint": "inbox"}
        for name in ("open", "shut"):
            form = {"SubscriptionName": name, "NotifyContentFormat": "SIMPLIFIED"}
            root("CreateCmqSubscribe", **to, **form)
        yield running


@pytest.mark.parametrize("who", POLICIES)
def test_a_list_leaves_out_what_is_denied_by_name(guarded: Gateway, who: str) -> None:
    expected = ["open", "shut"] if who in SEES_ALL else ["open"]
    key = guarded.key_of(who)
    found = Sdk(guarded, key)("DescribeCmqSubscriptionDetail", TopicName="news")
    assert [each["SubscriptionName"] for each in found["SubscriptionSet"]] == expected
    assert found["TotalCount"] == len(expected)
    listed = ClassicClient(guarded, key)("ListSubscriptionByTopic", topicName="news")
    assert [each["subscriptionName"] for each in listed["subscriptionList"]] == expected
    assert listed["totalCount"] == len(expected)


def test_a_list_by_the_queue_leaves_it_out_too(guarded: Gateway) -> None:
    by_queue = {"QueryType": "queue", "QueueName": "inbox"}
    for who, count in (("byname", 1), ("another", 2)):
        sdk = Sdk(guarded, guarded.key_of(who))
        assert sdk("DescribeCmqSubscriptionDetail", **by_queue)["TotalCount"] == count
    root = Sdk(guarded, guarded.root)
    assert root("DescribeCmqSubscriptionDetail", **by_queue)["TotalCount"] == 2
