"""Topics and subscriptions on a real gateway, by the official SDK and by the classic API."""

from collections.abc import Iterator

import pytest

from tests.support.classic import ClassicClient, ClassicRefused
from tests.support.policies import allow, change_policies, write_policies
from tests.support.running import Gateway, Refused, running_gateway
from tests.support.sdk import Sdk

BLUE = {"for_any_value:string_equal": {"qcs:resource_tag": "team&blue"}}
MAKES_BLUE = {"for_any_value:string_equal": {"qcs:request_tag": "team&blue"}}
POLICIES = {
    "maker": [allow("name/tdmq:*")],
    "blue": [
        {**allow("name/tdmq:*"), "condition": BLUE},
        {**allow("name/tdmq:CreateCmqTopic"), "condition": MAKES_BLUE},
    ],
    "reader": [allow(["name/tdmq:DescribeCmqTopic*", "name/tdmq:DescribeCmqSubscriptionDetail"])],
}
TAGS = {"blue": [{"TagKey": "team", "TagValue": "blue"}], "plain": []}


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with the users of POLICIES."""
    with running_gateway(tmp_path_factory.mktemp("topics")) as running:
        write_policies(running.policies, {})
        change_policies(running, POLICIES)
        yield running


@pytest.fixture(scope="module")
def maker(owned: Gateway) -> Sdk:
    """Who may do everything, and has made the topics `blue` and `plain`."""
    found = Sdk(owned, owned.key_of("maker"))
    for name, tags in TAGS.items():
        found("CreateCmqTopic", TopicName=name, Tags=tags)
    return found


def names(caller: Sdk) -> list[str]:
    return [topic["TopicName"] for topic in caller("DescribeCmqTopics")["TopicList"]]


def test_a_topic_is_made_changed_and_told_by_either_api(owned: Gateway, maker: Sdk) -> None:
    classic = ClassicClient(owned, owned.key_of("maker"))
    maker("CreateCmqTopic", TopicName="both", FilterType=2)
    maker("CreateCmqQueue", QueueName="both")
    place = {"topicName": "both", "subscriptionName": "s"}
    queue = {"protocol": "queue", "endpoint": "both"}
    with pytest.raises(ClassicRefused, match="10710"):
        classic("Subscribe", **place, **queue)
    classic("Subscribe", **place, **queue, **{"bindingKey.1": "order.#"})
    maker("ModifyCmqTopicAttribute", TopicName="both", MaxMsgSize=1_024)
    assert classic("GetTopicAttributes", topicName="both")["maxMsgSize"] == 1_024
    maker("PublishCmqMsg", TopicName="both", MsgContent="by the SDK", MsgTag=["order.made"])
    classic("PublishMessage", topicName="both", msgBody="by form", routingKey="order.paid.now")
    assert classic.drain("both", count=2) == ["by the SDK", "by form"]
    with pytest.raises(ClassicRefused) as caught:
        classic("PublishMessage", topicName="both", msgBody="m", routingKey="refund")
    assert caught.value.code == 6030
    one = {"TopicName": "both", "SubscriptionName": "s"}
    maker("ModifyCmqSubscriptionAttribute", **one, BindingKey=["refund"], FilterTags=["a"])
    assert classic("GetSubscriptionAttributes", **place)["bindingKey"] == ["refund"]
    classic("ClearSubscriptionFilterTags", **place)
    (shown,) = maker("DescribeCmqSubscriptionDetail", TopicName="both")["SubscriptionSet"]
    assert (shown["FilterTags"], shown["BindingKey"]) == ([], ["refund"])
    maker("DeleteCmqSubscribe", **one)
    classic("DeleteTopic", topicName="both")
    with pytest.raises(Refused) as refused:
        maker("DescribeCmqTopicDetail", TopicName="both")
    assert refused.value.code == "ResourceNotFound.Topic"


def test_whoever_may_see_one_teams_topics_sees_them_alone_in_either_api(
    owned: Gateway, maker: Sdk
) -> None:
    assert {"blue", "plain"} <= set(names(maker))
    caller, classic = Sdk(owned, owned.key_of("blue")), ClassicClient(owned, owned.key_of("blue"))
    assert names(caller) == ["blue"]
    listed = classic("ListTopic")
    assert [topic["topicName"] for topic in listed["topicList"]] == ["blue"]
    caller("DescribeCmqTopicDetail", TopicName="blue")
    classic("GetTopicAttributes", topicName="blue")
    with pytest.raises(Refused) as refused:
        caller("DescribeCmqTopicDetail", TopicName="plain")
    assert refused.value.code == "UnauthorizedOperation"
    with pytest.raises(ClassicRefused) as denied:
        classic("GetTopicAttributes", topicName="plain")
    assert denied.value.code == 4000


def test_a_topic_can_be_asked_to_be_made_with_a_tag(owned: Gateway, maker: Sdk) -> None:
    caller = Sdk(owned, owned.key_of("blue"))
    with pytest.raises(Refused) as refused:
        caller("CreateCmqTopic", TopicName="untagged")
    assert refused.value.code == "UnauthorizedOperation"
    caller("CreateCmqTopic", TopicName="tagged", Tags=TAGS["blue"])
    by_tag = [{"Name": "tag:team", "Values": ["blue"]}]
    found = maker("DescribeCmqTopics", Filters=by_tag, IsTagFilter=True)
    assert [topic["TopicName"] for topic in found["TopicList"]] == ["blue", "tagged"]
    caller("DeleteCmqTopic", TopicName="tagged")


def test_a_secret_is_for_who_may_see_it_and_not_for_a_reader(owned: Gateway, maker: Sdk) -> None:
    one = {"TopicName": "plain", "SubscriptionName": "hook"}
    endpoint = {"Protocol": "http", "Endpoint": "https://hooks.example.com/"}
    maker("CreateCmqSubscribe", **one, **endpoint)
    secret = maker("RevealCmqSubscriptionSecret", **one)["Secret"]
    assert secret.startswith("whsec_")
    assert maker("RotateCmqSubscriptionSecret", **one)["Secret"] != secret
    assert secret not in owned.log
    reader = Sdk(owned, owned.key_of("reader"))
    assert reader("DescribeCmqSubscriptionDetail", TopicName="plain")["TotalCount"] == 1
    for action in ("RevealCmqSubscriptionSecret", "RotateCmqSubscriptionSecret"):
        with pytest.raises(Refused) as refused:
            reader(action, **one)
        assert refused.value.code == "UnauthorizedOperation"
    maker("DeleteCmqSubscribe", **one)
