"""The actions of tdmq on topics, queues and subscriptions."""

import json
from importlib.resources import files
from typing import Any

import pytest

from gateway.cmq.tdmq import datatypes
from gateway.errors import (
    ApiError,
    FailedOperation,
    InvalidFilter,
    InvalidParameterValue,
    MissingParameter,
    ResourceInUse,
    ResourceNotFound,
    UnknownParameter,
    UnsupportedOperation,
)
from gateway.service import Wire
from tests.support.cmq import Cmq
from tests.support.events import OWNER

OFFICIAL = json.loads(files("tccli").joinpath("services/tdmq/v20200217/api.json").read_text())
OBJECTS = OFFICIAL["objects"]
TYPES: dict[str, type[Wire]] = {
    "CmqTopic": datatypes.CmqTopic,
    "CmqQueue": datatypes.CmqQueue,
    "CmqSubscription": datatypes.CmqSubscription,
    "CmqDeadLetterPolicy": datatypes.CmqDeadLetterPolicy,
    "CmqDeadLetterSource": datatypes.CmqDeadLetterSource,
    "CmqTransactionPolicy": datatypes.CmqTransactionPolicy,
    "Tag": datatypes.Tag,
    "Filter": datatypes.Filter,
    "CreateCmqTopicRequest": datatypes.CreateCmqTopicRequest,
    "CreateCmqTopicResponse": datatypes.CreateCmqTopicResponse,
    "DeleteCmqTopicRequest": datatypes.TopicRequest,
    "DescribeCmqTopicDetailRequest": datatypes.TopicRequest,
    "DescribeCmqTopicDetailResponse": datatypes.DescribeCmqTopicDetailResponse,
    "DescribeCmqTopicsRequest": datatypes.DescribeCmqTopicsRequest,
    "DescribeCmqTopicsResponse": datatypes.DescribeCmqTopicsResponse,
    "CreateCmqQueueRequest": datatypes.CreateCmqQueueRequest,
    "CreateCmqQueueResponse": datatypes.CreateCmqQueueResponse,
    "ModifyCmqQueueAttributeRequest": datatypes.ModifyCmqQueueAttributeRequest,
    "ClearCmqQueueRequest": datatypes.QueueRequest,
    "RewindCmqQueueRequest": datatypes.RewindCmqQueueRequest,
    "UnbindCmqDeadLetterRequest": datatypes.UnbindCmqDeadLetterRequest,
    "DeleteCmqQueueRequest": datatypes.QueueRequest,
    "DescribeCmqQueueDetailRequest": datatypes.QueueRequest,
    "DescribeCmqQueueDetailResponse": datatypes.DescribeCmqQueueDetailResponse,
    "DescribeCmqQueuesRequest": datatypes.DescribeCmqQueuesRequest,
    "DescribeCmqQueuesResponse": datatypes.DescribeCmqQueuesResponse,
    "CreateCmqSubscribeRequest": datatypes.CreateCmqSubscribeRequest,
    "CreateCmqSubscribeResponse": datatypes.CreateCmqSubscribeResponse,
    "ModifyCmqTopicAttributeRequest": datatypes.ModifyCmqTopicAttributeRequest,
    "ModifyCmqSubscriptionAttributeRequest": datatypes.ModifyCmqSubscriptionAttributeRequest,
    "ClearCmqSubscriptionFilterTagsRequest": datatypes.SubscriptionRequest,
    "DeleteCmqSubscribeRequest": datatypes.SubscriptionRequest,
    "DescribeCmqSubscriptionDetailRequest": datatypes.DescribeCmqSubscriptionDetailRequest,
    "DescribeCmqSubscriptionDetailResponse": datatypes.DescribeCmqSubscriptionDetailResponse,
    "SendCmqMsgRequest": datatypes.SendCmqMsgRequest,
    "SendCmqMsgResponse": datatypes.MessageResponse,
    "PublishCmqMsgRequest": datatypes.PublishCmqMsgRequest,
    "PublishCmqMsgResponse": datatypes.MessageResponse,
}


@pytest.mark.parametrize("name", TYPES)
def test_every_type_has_exactly_the_official_members(name: str) -> None:
    official = {member["name"] for member in OBJECTS[name]["members"]} - {"RequestId"}
    assert set(TYPES[name].__struct_encode_fields__) == official


class TestTopics:
    pytestmark = pytest.mark.anyio

    async def test_a_topic_is_shown_as_it_was_made(self, cmq: Cmq) -> None:
        made = await cmq.call(
            "CreateCmqTopic", TopicName="Job-Message", MaxMsgSize="2048", Trace=True
        )
        shown = (await cmq.call("DescribeCmqTopicDetail", TopicName="Job-Message"))["TopicDescribe"]
        assert shown["TopicId"] == made["TopicId"]
        assert shown["TopicName"] == "Job-Message"
        assert shown["MaxMsgSize"] == 2_048
        assert shown["MsgRetentionSeconds"] == 86_400
        assert shown["CreateTime"] == 1_529_073_797_000
        assert shown["CreateUin"] == int(OWNER)

    async def test_a_name_is_taken_in_any_case_of_letters(self, cmq: Cmq) -> None:
        await cmq.call("CreateCmqTopic", TopicName="job-message")
        with pytest.raises(ResourceInUse) as caught:
            await cmq.call("CreateCmqTopic", TopicName="JOB-MESSAGE")
        assert caught.value.code == "ResourceInUse.Topic"

    async def test_another_spelling_finds_nothing_for_a_policy_would_not_know_it(
        self, cmq: Cmq
    ) -> None:
        await cmq.subscribe_queue()
        for action, params in {
            "DescribeCmqTopicDetail": {"TopicName": "JOB-message"},
            "DescribeCmqQueueDetail": {"QueueName": "Events"},
            "SendCmqMsg": {"QueueName": "Events", "MsgContent": "m"},
            "DeleteCmqSubscribe": {"TopicName": "job-message", "SubscriptionName": "S1"},
        }.items():
            with pytest.raises(ResourceNotFound):
                await cmq.call(action, **params)

    async def test_accounts_and_regions_have_topics_of_their_own(self, cmq: Cmq) -> None:
        await cmq.call("CreateCmqTopic", TopicName="t")
        await cmq.call("CreateCmqTopic", TopicName="t", owner="100000000002")
        await cmq.call("CreateCmqTopic", TopicName="t", region="ap-beijing")
        assert (await cmq.call("DescribeCmqTopics"))["TotalCount"] == 1
        with pytest.raises(ResourceNotFound):
            await cmq.call("DescribeCmqTopicDetail", TopicName="t", owner="100000000003")

    @pytest.mark.parametrize("name", ["", "1t", "-t", "t" * 65, "t.t", "t t", "t\n", "тема", "t/t"])
    async def test_a_bad_name_is_refused(self, cmq: Cmq, name: str) -> None:
        with pytest.raises(InvalidParameterValue):
            await cmq.call("CreateCmqTopic", TopicName=name)

    @pytest.mark.parametrize(
        ("params", "error"),
        [
            ({}, MissingParameter),
            ({"TopicName": "t", "Colour": "red"}, UnknownParameter),
            ({"TopicName": "t", "MaxMsgSize": 1_023}, InvalidParameterValue),
            ({"TopicName": "t", "FilterType": 3}, InvalidParameterValue),
            ({"TopicName": "t", "MsgRetentionSeconds": 86_401}, InvalidParameterValue),
            ({"TopicName": "t", "Tags": [{"TagKey": "", "TagValue": "v"}]}, InvalidParameterValue),
        ],
    )
    async def test_a_bad_parameter_is_refused_and_makes_nothing(
        self, cmq: Cmq, params: dict[str, Any], error: type[ApiError]
    ) -> None:
        with pytest.raises(error):
            await cmq.call("CreateCmqTopic", **params)
        assert (await cmq.call("DescribeCmqTopics"))["TotalCount"] == 0

    async def test_lists_are_searched_and_paged_by_name(self, cmq: Cmq) -> None:
        for name in ("delta", "alpha", "beta_1", "betaX1", "gamma"):
            await cmq.call("CreateCmqTopic", TopicName=name)
        page = await cmq.call("DescribeCmqTopics", Offset=1, Limit=2)
        assert [each["TopicName"] for each in page["TopicList"]] == ["betaX1", "beta_1"]
        assert page["TotalCount"] == 5
        found = await cmq.call("DescribeCmqTopics", TopicName="TA_1")
        assert [each["TopicName"] for each in found["TopicList"]] == ["beta_1"]
        named = await cmq.call("DescribeCmqTopics", TopicNameList=["alpha", "Beta_1"])
        assert [each["TopicName"] for each in named["TopicList"]] == ["alpha"]

    async def test_a_filter_by_anything_but_tags_is_refused(self, cmq: Cmq) -> None:
        await cmq.call("CreateCmqTopic", TopicName="t")
        with pytest.raises(InvalidFilter):
            await cmq.call("DescribeCmqTopics", Filters=[{"Name": "name", "Values": ["t"]}])
        with pytest.raises(InvalidParameterValue):
            await cmq.call("DescribeCmqTopics", Limit=51)

    async def test_a_topic_with_a_subscription_cannot_be_deleted(self, cmq: Cmq) -> None:
        await cmq.subscribe_queue()
        with pytest.raises(FailedOperation):
            await cmq.call("DeleteCmqTopic", TopicName="job-message")
        await cmq.call("DeleteCmqSubscribe", TopicName="job-message", SubscriptionName="s1")
        await cmq.call("DeleteCmqTopic", TopicName="job-message")
        with pytest.raises(ResourceNotFound):
            await cmq.call("DeleteCmqTopic", TopicName="job-message")


class TestQueues:
    pytestmark = pytest.mark.anyio

    async def test_a_queue_shows_what_it_holds(self, cmq: Cmq) -> None:
        await cmq.call("CreateCmqQueue", QueueName="events", VisibilityTimeout=60)
        for number in range(3):
            await cmq.call("SendCmqMsg", QueueName="events", MsgContent=f"{number}", DelaySeconds=0)
        await cmq.call("SendCmqMsg", QueueName="events", MsgContent="later", DelaySeconds=30)
        await cmq.receive()
        (shown,) = (await cmq.call("DescribeCmqQueues"))["QueueList"]
        assert (shown["ActiveMsgNum"], shown["InactiveMsgNum"], shown["DelayMsgNum"]) == (2, 1, 1)
        detail = await cmq.call("DescribeCmqQueueDetail", QueueName="events")
        assert detail["QueueDescribe"] == shown
        assert shown["VisibilityTimeout"] == 60

    async def test_a_queue_that_is_fed_cannot_be_deleted(self, cmq: Cmq) -> None:
        await cmq.subscribe_queue()
        with pytest.raises(FailedOperation):
            await cmq.call("DeleteCmqQueue", QueueName="events")
        await cmq.call("DeleteCmqSubscribe", TopicName="job-message", SubscriptionName="s1")
        await cmq.call("SendCmqMsg", QueueName="events", MsgContent="held", DelaySeconds=0)
        await cmq.call("DeleteCmqQueue", QueueName="events")
        with pytest.raises(ResourceNotFound):
            await cmq.call("DescribeCmqQueueDetail", QueueName="events")

    @pytest.mark.parametrize(
        "params", [{"MsgContent": ""}, {"MsgContent": "x" * 1_025}, {"DelaySeconds": 345_601}]
    )
    async def test_a_message_the_queue_cannot_hold_is_refused(
        self, cmq: Cmq, params: dict[str, Any]
    ) -> None:
        await cmq.call("CreateCmqQueue", QueueName="events", MaxMsgSize=1_024)
        good = {"QueueName": "events", "MsgContent": "m", "DelaySeconds": 0}
        with pytest.raises(InvalidParameterValue):
            await cmq.call("SendCmqMsg", **{**good, **params})


class TestSubscriptions:
    pytestmark = pytest.mark.anyio

    async def test_a_subscription_is_listed_by_its_topic_and_by_its_queue(self, cmq: Cmq) -> None:
        await cmq.subscribe_queue(FilterTag=["a", "b"], BindingKey=["batch.job.#"])
        by_topic = await cmq.call("DescribeCmqSubscriptionDetail", TopicName="job-message")
        by_queue = await cmq.call(
            "DescribeCmqSubscriptionDetail", QueryType="queue", QueueName="events"
        )
        assert by_topic == by_queue
        (shown,) = by_topic["SubscriptionSet"]
        assert by_topic["TotalCount"] == 1
        assert shown["FilterTags"] == ["a", "b"]
        assert shown["BindingKey"] == ["batch.job.#"]
        assert shown["NotifyStrategy"] == "EXPONENTIAL_DECAY_RETRY"
        assert shown["TopicOwner"] == int(OWNER)
        none = await cmq.call(
            "DescribeCmqSubscriptionDetail", TopicName="job-message", SubscriptionName="other"
        )
        assert none == {"TotalCount": 0, "SubscriptionSet": []}

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"NotifyContentFormat": "JSON"}, InvalidParameterValue),
            ({"Protocol": "https", "Endpoint": "https://example.com/"}, InvalidParameterValue),
            ({"Protocol": "smtp"}, InvalidParameterValue),
            ({"Protocol": "amqp"}, UnsupportedOperation),
            ({"Endpoint": "absent"}, ResourceNotFound),
            ({"TopicName": "absent"}, ResourceNotFound),
            ({"SubscriptionName": "1"}, InvalidParameterValue),
            ({"NotifyStrategy": "NEVER"}, InvalidParameterValue),
            ({"FilterTag": ["t"] * 6}, InvalidParameterValue),
            ({"FilterTag": ["t" * 17]}, InvalidParameterValue),
            ({"BindingKey": ["k"] * 6}, InvalidParameterValue),
            ({"BindingKey": ["." * 16]}, InvalidParameterValue),
            ({"BindingKey": ["k" * 65]}, InvalidParameterValue),
        ],
    )
    async def test_a_subscription_that_cannot_be_is_refused(
        self, cmq: Cmq, changes: dict[str, Any], error: type[ApiError]
    ) -> None:
        await cmq.call("CreateCmqTopic", TopicName="job-message")
        await cmq.call("CreateCmqQueue", QueueName="events")
        with pytest.raises(error):
            await cmq.call("CreateCmqSubscribe", **{**cmq.subscription("s1", "events"), **changes})
        listed = await cmq.call("DescribeCmqSubscriptionDetail", TopicName="job-message")
        assert listed["TotalCount"] == 0

    async def test_a_second_subscription_of_one_name_is_refused(self, cmq: Cmq) -> None:
        await cmq.subscribe_queue()
        with pytest.raises(ResourceInUse) as caught:
            await cmq.call("CreateCmqSubscribe", **cmq.subscription("S1", "events"))
        assert caught.value.code == "ResourceInUse.Subscription"

    async def test_an_amqp_subscription_is_on_the_broker_before_the_answer(
        self, brokered: Cmq
    ) -> None:
        assert brokered.bus is not None
        await brokered.call("CreateCmqTopic", TopicName="job-message")
        subscription = brokered.subscription("s1", "reader", "amqp")
        await brokered.call("CreateCmqSubscribe", **subscription, BindingKey=["batch.job.#"])
        assert f"cmq.{OWNER}.ap-guangzhou.reader" in brokered.bus.queues
        (binding,) = brokered.bus.exchanges[f"cmq.{OWNER}.ap-guangzhou.job-message"]
        assert binding.key == "batch.job.#"

    async def test_an_amqp_subscription_is_accepted_though_the_broker_is_away(
        self, brokered: Cmq
    ) -> None:
        assert brokered.bus is not None
        brokered.bus.away = True
        await brokered.call("CreateCmqTopic", TopicName="job-message")
        await brokered.call("CreateCmqSubscribe", **brokered.subscription("s1", "reader", "amqp"))

    async def test_a_queue_the_broker_refuses_leaves_no_subscription(self, brokered: Cmq) -> None:
        assert brokered.bus is not None
        brokered.bus.taken_names.add(f"cmq.{OWNER}.ap-guangzhou.reader")
        await brokered.call("CreateCmqTopic", TopicName="job-message")
        subscription = brokered.subscription("s1", "reader", "amqp")
        with pytest.raises(FailedOperation) as caught:
            await brokered.call("CreateCmqSubscribe", **subscription)
        assert caught.value.code == "FailedOperation.CreateSubscription"
        await brokered.call("DeleteCmqTopic", TopicName="job-message")

    async def test_an_amqp_subscription_has_no_tags(self, brokered: Cmq) -> None:
        await brokered.call("CreateCmqTopic", TopicName="job-message")
        subscription = brokered.subscription("s1", "reader", "amqp")
        with pytest.raises(InvalidParameterValue):
            await brokered.call("CreateCmqSubscribe", **subscription, FilterTag=["t"])
