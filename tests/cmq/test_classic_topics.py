"""Topics and subscriptions by the classic API, and the numbers of what it refuses."""

from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import insert

from gateway.cmq import limits, tables
from gateway.errors import ApiError
from gateway.protocol import classic_pair
from gateway.store import Store
from tests.support.cmq import Cmq, subscription_row, topic_row
from tests.support.events import OWNER

pytestmark = pytest.mark.anyio
TOPIC = {"topicName": "by-tag"}
KEYED = {"topicName": "by-key"}
ONE = {**TOPIC, "subscriptionName": "s1"}
NEW = {**TOPIC, "subscriptionName": "new"}
HTTP = {"protocol": "http", "endpoint": "http://example.com/"}
QUEUE = {"protocol": "queue", "endpoint": "events"}
MANY = [f"w{number}" for number in range(6)]
DOTS = "." * 16


def several(name: str, *values: str, first: int = 1) -> dict[str, str]:
    return {f"{name}.{number}": value for number, value in enumerate(values, first)}


@pytest.fixture
async def made(cmq: Cmq) -> Cmq:
    """Topic `by-tag` with subscription `s1` (queue `events`, tag a); `by-key` without any."""
    await cmq.call("CreateCmqQueue", QueueName="events")
    await cmq.classic("CreateTopic", {**TOPIC, "maxMsgSize": "1024"})
    await cmq.classic("CreateTopic", {**KEYED, "filterType": "2"})
    await cmq.classic("Subscribe", {**ONE, **QUEUE, **several("filterTag", "a")})
    return cmq


async def refusal(cmq: Cmq, action: str, params: Mapping[str, str]) -> tuple[int, int]:
    with pytest.raises(ApiError) as caught:
        await cmq.classic(action, params)
    return classic_pair(caught.value)


REFUSED: list[tuple[str, dict[str, str], tuple[int, int]]] = [
    ("CreateTopic", {}, (4000, 10390)),
    ("CreateTopic", {"topicName": "1t"}, (4000, 10590)),
    ("CreateTopic", {"topicName": "t" * 65}, (4000, 10590)),
    ("CreateTopic", {"topicName": "By-Tag"}, (4460, 10210)),
    ("CreateTopic", {"topicName": "t", "maxMsgSize": "1023"}, (4000, 10350)),
    ("CreateTopic", {"topicName": "t", "maxMsgSize": "big"}, (4000, 10360)),
    ("CreateTopic", {"topicName": "t", "filterType": "3"}, (4000, 10350)),
    ("CreateTopic", {"topicName": "t", "colour": "red"}, (4000, 10320)),
    ("CreateTopic", {"topicName.1": "t"}, (4000, 10330)),
    ("ListTopic", {"offset": "1"}, (4000, 10390)),
    ("ListTopic", {"offset": "1", "limit": "51"}, (4000, 10350)),
    ("ListTopic", {"limit": "x"}, (4000, 10360)),
    ("ListTopic", {"searchWord": "%" * 70_000}, (4000, 10350)),
    ("GetTopicAttributes", {"topicName": "absent"}, (4440, 10600)),
    ("GetTopicAttributes", {"topicName": "BY-TAG"}, (4440, 10600)),
    ("SetTopicAttributes", {"topicName": "absent"}, (4440, 10600)),
    ("SetTopicAttributes", {**TOPIC, "maxMsgSize": "1048577"}, (4000, 10350)),
    ("DeleteTopic", {"topicName": "absent"}, (4440, 10600)),
    ("DeleteTopic", TOPIC, (4000, 10540)),
    ("PublishMessage", {"topicName": "absent", "msgBody": "m"}, (4440, 10600)),
    ("PublishMessage", TOPIC, (4000, 10390)),
    ("PublishMessage", {**TOPIC, "msgBody": ""}, (4000, 10120)),
    ("PublishMessage", {**TOPIC, "msgBody": "x" * 1_025}, (4400, 10230)),
    ("PublishMessage", {**TOPIC, "msgBody": "m", **several("msgTag", *MANY)}, (4000, 10720)),
    ("PublishMessage", {**TOPIC, "msgBody": "m", "msgTag": "a"}, (4000, 10310)),
    ("PublishMessage", {**TOPIC, "msgBody": "m", "msgTag.x": "a"}, (4000, 10310)),
    ("PublishMessage", {**TOPIC, "msgBody": "m", "msgTag.1": "t" * 65}, (4000, 10350)),
    ("PublishMessage", {**TOPIC, "msgBody": "m"}, (6030, 10730)),
    ("PublishMessage", {**TOPIC, "msgBody": "m", "msgTag.1": "b"}, (6030, 10730)),
    ("PublishMessage", {**KEYED, "msgBody": "m"}, (4000, 10700)),
    ("PublishMessage", {**KEYED, "msgBody": "m", "routingKey": ""}, (4000, 10700)),
    ("PublishMessage", {**KEYED, "msgBody": "m", "routingKey": DOTS}, (4000, 10691)),
    ("PublishMessage", {**KEYED, "msgBody": "m", "routingKey": "k" * 65}, (4000, 10350)),
    ("PublishMessage", {**KEYED, "msgBody": "m", "routingKey": "k"}, (6030, 10650)),
    ("BatchPublishMessage", TOPIC, (4000, 10390)),
    ("BatchPublishMessage", {**TOPIC, **several("msgBody", *["m"] * 17)}, (4000, 10370)),
    ("BatchPublishMessage", {**TOPIC, "msgBody.1": "m", "msgBody.3": "m"}, (4000, 10380)),
    ("BatchPublishMessage", {**TOPIC, **several("msgBody", "m", first=2)}, (4000, 10380)),
    ("BatchPublishMessage", {**KEYED, **several("msgBody", *["x" * 70_000] * 15)}, (4470, 10300)),
    ("BatchPublishMessage", {**TOPIC, **several("msgBody", "m", "")}, (4000, 10120)),
    ("Subscribe", {**NEW, **HTTP, "topicName": "absent"}, (4440, 10600)),
    ("Subscribe", {**NEW, **HTTP, "subscriptionName": "1"}, (4000, 10590)),
    ("Subscribe", {**NEW, **HTTP, "subscriptionName": "S1"}, (4490, 10470)),
    ("Subscribe", {**NEW, "protocol": "http"}, (4000, 10390)),
    ("Subscribe", {**NEW, **HTTP, "protocol": "smtp"}, (4000, 10510)),
    ("Subscribe", {**NEW, "protocol": "amqp", "endpoint": "reader"}, (4000, 10510)),
    ("Subscribe", {**NEW, **HTTP, "endpoint": "http://a b/"}, (4510, 10570)),
    ("Subscribe", {**NEW, **HTTP, "endpoint": "ftp://example.com/"}, (4000, 10500)),
    ("Subscribe", {**NEW, **QUEUE, "endpoint": "http://example.com/"}, (4000, 10500)),
    ("Subscribe", {**NEW, **HTTP, "endpoint": "http://me@example.com/"}, (4000, 10630)),
    ("Subscribe", {**NEW, **QUEUE, "endpoint": "absent"}, (4440, 10100)),
    ("Subscribe", {**NEW, **HTTP, "notifyStrategy": "NEVER"}, (4000, 10520)),
    ("Subscribe", {**NEW, **HTTP, "notifyContentFormat": "XML"}, (4000, 10530)),
    ("Subscribe", {**NEW, **QUEUE, "notifyContentFormat": "JSON"}, (4000, 10640)),
    ("Subscribe", {**NEW, **HTTP, **several("filterTag", *MANY)}, (4000, 10670)),
    ("Subscribe", {**NEW, **HTTP, "filterTag.1": "t" * 17}, (4000, 10350)),
    ("Subscribe", {**NEW, **HTTP, **several("bindingKey", *MANY)}, (4000, 10680)),
    ("Subscribe", {**NEW, **HTTP, "bindingKey.1": DOTS}, (4000, 10691)),
    ("Subscribe", {**NEW, **HTTP, "bindingKey.1": "k" * 65}, (4000, 10350)),
    ("Subscribe", {**NEW, **HTTP, **KEYED}, (4000, 10710)),
    ("Unsubscribe", NEW, (4440, 10600)),
    ("Unsubscribe", TOPIC, (4000, 10390)),
    ("Unsubscribe", {**ONE, "topicName": "absent"}, (4440, 10600)),
    ("ClearSubscriptionFilterTags", NEW, (4440, 10600)),
    ("ListSubscriptionByTopic", {"topicName": "absent"}, (4440, 10600)),
    ("ListSubscriptionByTopic", {**TOPIC, "limit": "101"}, (4000, 10350)),
    ("GetSubscriptionAttributes", NEW, (4440, 10600)),
    ("SetSubscriptionAttributes", NEW, (4440, 10600)),
    ("SetSubscriptionAttributes", {**ONE, "notifyContentFormat": "JSON"}, (4000, 10640)),
    ("SetSubscriptionAttributes", {**ONE, "notifyContentFormat": "XML"}, (4000, 10530)),
    ("SetSubscriptionAttributes", {**ONE, "notifyStrategy": "NEVER"}, (4000, 10520)),
    ("SetSubscriptionAttributes", {**ONE, **several("filterTag", *MANY)}, (4000, 10670)),
    ("SetSubscriptionAttributes", {**ONE, **several("bindingKey", *MANY)}, (4000, 10680)),
    ("SetSubscriptionAttributes", {**ONE, "bindingKey.0": DOTS}, (4000, 10691)),
    ("RenameTopic", TOPIC, (4000, 10430)),
]


async def test_each_refusal_has_its_own_numbers_and_does_nothing(made: Cmq) -> None:
    before = await state(made)
    found = [(action, params, await refusal(made, action, params)) for action, params, _ in REFUSED]
    assert found == REFUSED
    assert await state(made) == before


async def state(cmq: Cmq) -> list[dict[str, Any]]:
    """All that the two topics and the queue are."""
    shown = [await cmq.call("DescribeCmqTopics"), await cmq.call("DescribeCmqQueues")]
    for place in (TOPIC, KEYED):
        name = place["topicName"]
        shown.append(await cmq.call("DescribeCmqSubscriptionDetail", TopicName=name))
    return shown


async def test_the_vendors_quotas_have_numbers_of_their_own(made: Cmq, store: Store) -> None:
    limited = Cmq(store, None, cloud_limits=True)
    (shown,) = (await made.call("DescribeCmqTopics", TopicNameList=["by-tag"]))["TopicList"]
    topics = [topic_row(number) for number in range(limits.TOPICS_MAX)]
    subscriptions = [
        subscription_row(number, shown["TopicId"]) for number in range(limits.SUBSCRIPTIONS_MAX)
    ]
    await store.write(lambda tx: tx.execute(insert(tables.topic), topics))
    await store.write(lambda tx: tx.execute(insert(tables.subscription), subscriptions))
    assert await refusal(limited, "CreateTopic", {"topicName": "more"}) == (4450, 10610)
    assert await refusal(limited, "Subscribe", {**NEW, **HTTP}) == (4500, 10480)


async def test_a_topic_is_shown_with_times_in_seconds(made: Cmq) -> None:
    made.pass_time(seconds=5)
    assert await made.classic("SetTopicAttributes", {**TOPIC, "maxMsgSize": "2048"}) == {}
    shown = await made.classic("GetTopicAttributes", TOPIC)
    assert shown == {
        "msgCount": 0,
        "maxMsgSize": 2_048,
        "msgRetentionSeconds": 86_400,
        "createTime": 1_529_073_797,
        "lastModifyTime": 1_529_073_802,
        "filterType": 1,
    }
    assert (await made.classic("GetTopicAttributes", KEYED))["filterType"] == 2


async def test_topics_are_listed_by_name(made: Cmq) -> None:
    listed = await made.classic("ListTopic", {})
    assert [each["topicName"] for each in listed["topicList"]] == ["by-key", "by-tag"]
    found = await made.classic("ListTopic", {"searchWord": "TAG"})
    assert (found["totalCount"], found["topicList"][0]["topicName"]) == (1, "by-tag")
    page = await made.classic("ListTopic", {"offset": "1", "limit": "1"})
    assert (page["totalCount"], len(page["topicList"])) == (2, 1)


async def test_a_subscription_is_shown_changed_cleared_and_ended(made: Cmq) -> None:
    shown = await made.classic("GetSubscriptionAttributes", ONE)
    assert shown == {
        "topicOwner": OWNER,
        "msgCount": 0,
        "protocol": "queue",
        "endpoint": "events",
        "notifyStrategy": "EXPONENTIAL_DECAY_RETRY",
        "notifyContentFormat": "SIMPLIFIED",
        "createTime": 1_529_073_797,
        "lastModifyTime": 1_529_073_797,
        "filterTag": ["a"],
        "bindingKey": [],
    }
    changes = {"notifyStrategy": "BACKOFF_RETRY", **several("filterTag", "b", "c", first=0)}
    assert await made.classic("SetSubscriptionAttributes", {**ONE, **changes}) == {}
    changed = await made.classic("GetSubscriptionAttributes", ONE)
    assert (changed["notifyStrategy"], changed["filterTag"]) == ("BACKOFF_RETRY", ["b", "c"])
    assert await made.classic("ClearSubscriptionFilterTags", ONE) == {}
    assert (await made.classic("GetSubscriptionAttributes", ONE))["filterTag"] == []
    assert await made.classic("Unsubscribe", ONE) == {}
    assert await made.classic("DeleteTopic", TOPIC) == {}


async def test_an_http_subscription_is_made_as_json_unless_it_says_otherwise(made: Cmq) -> None:
    made_one = await made.classic("Subscribe", {**NEW, **HTTP})
    shown = await made.classic("GetSubscriptionAttributes", NEW)
    assert shown["notifyContentFormat"] == "JSON"
    listed = await made.classic("ListSubscriptionByTopic", {**TOPIC, "searchWord": "NEW"})
    assert listed == {
        "totalCount": 1,
        "subscriptionList": [{**made_one, "subscriptionName": "new", **HTTP}],
    }


async def test_a_published_message_is_picked_by_its_tags_or_by_its_key(made: Cmq) -> None:
    tagged = {**TOPIC, "msgBody": "tagged", **several("msgTag", "x", "a"), "routingKey": ""}
    sent = [await made.classic("PublishMessage", tagged)]
    await made.classic(
        "Subscribe", {**KEYED, "subscriptionName": "k", **QUEUE, "bindingKey.1": "1.#.0"}
    )
    sent.append(
        await made.classic("PublishMessage", {**KEYED, "msgBody": "keyed", "routingKey": "1.0"})
    )
    await made.expand()
    received = await made.classic("BatchReceiveMessage", {"queueName": "events", "numOfMsg": "16"})
    assert [
        (each["msgBody"], {"msgId": each["msgId"]}) for each in received["msgInfoList"]
    ] == list(zip(["tagged", "keyed"], sent, strict=True))


async def test_a_batch_is_published_in_its_order(made: Cmq) -> None:
    bodies = [f"{number}" for number in range(16)]
    batch = {**TOPIC, **several("msgBody", *bodies, first=0), "msgTag.1": "a"}
    answer = await made.classic("BatchPublishMessage", batch)
    await made.expand()
    received = await made.classic("BatchReceiveMessage", {"queueName": "events", "numOfMsg": "16"})
    assert [each["msgBody"] for each in received["msgInfoList"]] == bodies
    ids = [{"msgId": each["msgId"]} for each in received["msgInfoList"]]
    assert answer == {"msgList": ids}
