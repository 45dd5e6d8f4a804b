"""Topics of tdmq: tags, changes, counts, quotas."""

from typing import Any

import pytest
from sqlalchemy import func, insert, select

from gateway.cmq import limits, tables
from gateway.errors import (
    ClassicError,
    InvalidParameter,
    InvalidParameterValue,
    LimitExceeded,
    MissingParameter,
    ResourceInUse,
    ResourceNotFound,
    UnknownParameter,
)
from gateway.store import Store, Tx
from tests.support.cmq import Cmq, topic_row

pytestmark = pytest.mark.anyio
TAGS = [{"TagKey": "team", "TagValue": "blue"}, {"TagKey": "Env", "TagValue": ""}]
SHOWN = sorted(TAGS, key=lambda tag: tag["TagKey"])


async def show(cmq: Cmq, name: str = "t") -> dict[str, Any]:
    answer = await cmq.call("DescribeCmqTopicDetail", TopicName=name)
    shown: dict[str, Any] = answer["TopicDescribe"]
    return shown


async def count_tags(cmq: Cmq) -> int:
    def count(tx: Tx) -> int:
        found: int = tx.execute(select(func.count()).select_from(tables.tag)).scalar_one()
        return found

    return await cmq.store.read_list(count)


async def test_a_topic_keeps_its_tags_until_it_is_deleted(cmq: Cmq) -> None:
    await cmq.call("CreateCmqTopic", TopicName="t", Tags=TAGS)
    assert sorted((await show(cmq))["Tags"], key=lambda tag: tag["TagKey"]) == SHOWN
    (listed,) = (await cmq.call("DescribeCmqTopics"))["TopicList"]
    assert listed == await show(cmq)
    await cmq.call("DeleteCmqTopic", TopicName="t")
    assert await count_tags(cmq) == 0
    await cmq.call("CreateCmqTopic", TopicName="t")
    assert (await show(cmq))["Tags"] == []


@pytest.mark.parametrize(
    "tags",
    [
        [{"TagKey": "k" * 128, "TagValue": "v"}],
        [{"TagKey": "k", "TagValue": "v" * 256}],
        [{"TagKey": "", "TagValue": "v"}],
        [{"TagKey": "a&b", "TagValue": "v"}],
        [{"TagKey": "k", "TagValue": "v\nw"}],
        [{"TagKey": "k\x7f", "TagValue": "v"}],
        [{"TagKey": "k", "TagValue": "v"}, {"TagKey": "k", "TagValue": "w"}],
        [{"TagKey": f"k{number}", "TagValue": "v"} for number in range(51)],
    ],
)
async def test_tags_that_cannot_be_leave_no_topic(cmq: Cmq, tags: list[dict[str, str]]) -> None:
    with pytest.raises(InvalidParameterValue):
        await cmq.call("CreateCmqTopic", TopicName="t", Tags=tags)
    assert (await cmq.call("DescribeCmqTopics"))["TotalCount"] == 0
    assert await count_tags(cmq) == 0


async def test_as_many_and_as_long_tags_as_may_be_are_kept(cmq: Cmq) -> None:
    tags = [{"TagKey": f"{number:0127}", "TagValue": "ü&" * 127} for number in range(50)]
    await cmq.call("CreateCmqTopic", TopicName="t", Tags=tags)
    assert (await show(cmq))["Tags"] == tags


@pytest.mark.parametrize(
    "tags", [[{"TagKey": "k"}], [{"TagKey": "k", "TagValue": None}], ["k"], [{"Key": "k"}], "k"]
)
async def test_what_is_no_tag_is_refused(cmq: Cmq, tags: object) -> None:
    with pytest.raises((InvalidParameter, MissingParameter, UnknownParameter)):
        await cmq.call("CreateCmqTopic", TopicName="t", Tags=tags)


async def test_only_what_is_given_of_a_topic_changes(cmq: Cmq) -> None:
    await cmq.call("CreateCmqTopic", TopicName="t", MaxMsgSize=2_048, Trace=True)
    before = await show(cmq)
    cmq.pass_time(seconds=5)
    await cmq.call("ModifyCmqTopicAttribute", TopicName="t", MsgRetentionSeconds=60)
    changed = {"MsgRetentionSeconds": 60, "LastModifyTime": before["CreateTime"] + 5_000}
    assert await show(cmq) == {**before, **changed}
    await cmq.call("ModifyCmqTopicAttribute", TopicName="t", MaxMsgSize=1_024, Trace=False)
    assert await show(cmq) == {**before, **changed, "MaxMsgSize": 1_024, "Trace": False}


async def test_a_changed_size_holds_for_the_next_message(cmq: Cmq) -> None:
    await cmq.subscribe_queue()
    publish = {"TopicName": "job-message", "MsgContent": "x" * 1_025}
    await cmq.call("PublishCmqMsg", **publish)
    await cmq.call("ModifyCmqTopicAttribute", TopicName="job-message", MaxMsgSize=1_024)
    with pytest.raises(InvalidParameterValue):
        await cmq.call("PublishCmqMsg", **publish)


@pytest.mark.parametrize(
    "changes", [{"MaxMsgSize": 1_023}, {"MsgRetentionSeconds": 59}, {"MsgRetentionSeconds": 86_401}]
)
async def test_a_change_that_cannot_be_changes_nothing(cmq: Cmq, changes: dict[str, Any]) -> None:
    await cmq.call("CreateCmqTopic", TopicName="t")
    before = await show(cmq)
    cmq.pass_time(seconds=5)
    with pytest.raises(InvalidParameterValue):
        await cmq.call("ModifyCmqTopicAttribute", TopicName="t", Trace=True, **changes)
    assert await show(cmq) == before


async def test_a_topic_is_changed_by_its_own_spelling_alone(cmq: Cmq) -> None:
    await cmq.call("CreateCmqTopic", TopicName="t")
    with pytest.raises(ResourceNotFound) as caught:
        await cmq.call("ModifyCmqTopicAttribute", TopicName="T", Trace=True)
    assert caught.value.code == "ResourceNotFound.Topic"


async def test_a_message_counts_once_until_everybody_has_it(brokered: Cmq) -> None:
    await brokered.call("CreateCmqTopic", TopicName="job-message")
    for name in ("s1", "s2"):
        endpoint = f"http://{name}.example.com/"
        subscription = brokered.subscription(name, endpoint, "http")
        await brokered.call("CreateCmqSubscribe", **subscription)
    for number in range(3):
        await brokered.call("PublishCmqMsg", TopicName="job-message", MsgContent=f"{number}")
    assert (await show(brokered, "job-message"))["MsgCount"] == 3
    await brokered.expand()  # two deliveries of each, and none is published to the broker yet
    assert (await show(brokered, "job-message"))["MsgCount"] == 3


async def test_a_name_is_free_as_soon_as_its_topic_is_deleted(cmq: Cmq) -> None:
    for _ in range(2):
        await cmq.call("CreateCmqTopic", TopicName="t")
        await cmq.call("DeleteCmqTopic", TopicName="t")


async def test_the_vendors_quota_of_topics_holds_where_it_is_wanted(cmq: Cmq, store: Store) -> None:
    limited = Cmq(store, None, cloud_limits=True)
    rows = [topic_row(number) for number in range(limits.TOPICS_MAX - 1)]
    await store.write(lambda tx: tx.execute(insert(tables.topic), rows))
    await limited.call("CreateCmqTopic", TopicName="last")
    with pytest.raises(LimitExceeded) as caught:
        await limited.call("CreateCmqTopic", TopicName="more")
    assert caught.value.code == "LimitExceeded.Topics"
    await limited.call("CreateCmqTopic", TopicName="more", region="ap-beijing")
    await cmq.call("CreateCmqTopic", TopicName="more")
    with pytest.raises(ResourceInUse):
        await cmq.call("CreateCmqTopic", TopicName="last")


@pytest.mark.parametrize("action", ["tdmq", "classic"])
async def test_what_waits_in_a_topic_that_is_deleted_reaches_nobody_of_a_new_one(
    brokered: Cmq, action: str
) -> None:
    """Whoever makes a topic of that name anew may not be allowed to read the old one's messages."""
    await brokered.call("CreateCmqTopic", TopicName="job-message")
    await brokered.call("CreateCmqSubscribe", **brokered.subscription("old", "old", "amqp"))
    await brokered.call("PublishCmqMsg", TopicName="job-message", MsgContent="a secret")
    old = {"TopicName": "job-message", "SubscriptionName": "old"}
    await brokered.call("DeleteCmqSubscribe", **old)
    if action == "tdmq":
        await brokered.call("DeleteCmqTopic", TopicName="job-message")
    else:
        await brokered.classic("DeleteTopic", {"topicName": "job-message"})
    await brokered.subscribe_queue()
    await brokered.expand()
    with pytest.raises(ClassicError) as caught:
        await brokered.receive()
    assert caught.value.number == 7000
    await brokered.call("PublishCmqMsg", TopicName="job-message", MsgContent="new")
    await brokered.expand()
    assert (await brokered.receive())["msgBody"] == "new"
