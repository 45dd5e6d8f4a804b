"""Subscriptions of tdmq: where they go to, how they are changed, what is left when they end."""

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from gateway.cmq import limits, tables
from gateway.errors import (
    ApiError,
    InvalidParameterValue,
    LimitExceeded,
    ResourceNotFound,
    UnsupportedOperation,
)
from gateway.events import rebinding
from gateway.events.bus import Binding
from gateway.events.tables import bus_change, event
from gateway.store import Store, Tx
from tests.support.cmq import Cmq, subscription_row
from tests.support.events import JOB_TOPIC, OWNER

pytestmark = pytest.mark.anyio
URL = "https://hooks.example.com:8443/a?b=c"
ONE = {"TopicName": "job-message", "SubscriptionName": "s1"}


async def subscribe(cmq: Cmq, endpoint: str = URL, protocol: str = "http", **params: Any) -> None:
    await cmq.call("CreateCmqTopic", TopicName="job-message")
    if protocol == "queue":
        await cmq.call("CreateCmqQueue", QueueName=endpoint)
    subscription = cmq.subscription("s1", endpoint, protocol)
    await cmq.call("CreateCmqSubscribe", **{**subscription, **params})


async def show(cmq: Cmq) -> dict[str, Any]:
    answer = await cmq.call("DescribeCmqSubscriptionDetail", TopicName="job-message")
    (shown,) = answer["SubscriptionSet"]
    found: dict[str, Any] = shown
    return found


async def publish(cmq: Cmq, *texts: str, **params: Any) -> None:
    for text in texts:
        await cmq.call("PublishCmqMsg", TopicName="job-message", MsgContent=text, **params)
    await cmq.expand()


async def rows(cmq: Cmq, table: Any) -> list[dict[str, Any]]:
    def read(tx: Tx) -> list[dict[str, Any]]:
        found = tx.execute(select(table).order_by(*table.primary_key.columns)).mappings()
        return [dict(each) for each in found]

    return await cmq.store.read_list(read)


@pytest.mark.parametrize(
    ("params", "content_format", "strategy"),
    [
        ({}, "JSON", "EXPONENTIAL_DECAY_RETRY"),
        ({"NotifyContentFormat": "JSON"}, "JSON", "EXPONENTIAL_DECAY_RETRY"),
        ({"NotifyContentFormat": "SIMPLIFIED"}, "SIMPLIFIED", "EXPONENTIAL_DECAY_RETRY"),
        ({"NotifyStrategy": "BACKOFF_RETRY"}, "JSON", "BACKOFF_RETRY"),
    ],
)
async def test_an_http_subscriber_is_shown_as_it_was_made(
    cmq: Cmq, params: dict[str, str], content_format: str, strategy: str
) -> None:
    await subscribe(cmq, **params)
    shown = await show(cmq)
    assert (shown["Protocol"], shown["Endpoint"]) == ("http", URL)
    assert (shown["NotifyContentFormat"], shown["NotifyStrategy"]) == (content_format, strategy)
    assert (shown["MsgCount"], shown["TopicOwner"]) == (0, int(OWNER))


async def test_a_url_that_cannot_be_pushed_to_makes_no_subscription(cmq: Cmq) -> None:
    with pytest.raises(InvalidParameterValue):
        await subscribe(cmq, "http://user@example.com/")
    shown = await cmq.call("DescribeCmqSubscriptionDetail", TopicName="job-message")
    assert shown["TotalCount"] == 0


@pytest.mark.parametrize("protocol", ["queue", "amqp"])
async def test_a_queue_takes_the_message_itself_and_nothing_else(
    brokered: Cmq, protocol: str
) -> None:
    with pytest.raises(InvalidParameterValue):
        await subscribe(brokered, "q", protocol, NotifyContentFormat="JSON")
    subscription = brokered.subscription("s1", "q", protocol)
    if protocol == "queue":
        await brokered.call("CreateCmqSubscribe", **subscription)
    else:
        await brokered.call("CreateCmqSubscribe", **subscription, NotifyContentFormat="SIMPLIFIED")
    assert (await show(brokered))["NotifyContentFormat"] == "SIMPLIFIED"


@pytest.mark.parametrize("protocol", ["https", "HTTP", "Queue", "", "sms"])
async def test_any_other_protocol_is_refused(cmq: Cmq, protocol: str) -> None:
    with pytest.raises(InvalidParameterValue):
        await subscribe(cmq, Protocol=protocol)


async def test_only_what_is_given_of_a_subscription_changes(cmq: Cmq) -> None:
    await subscribe(cmq, FilterTag=["a"], BindingKey=["x.#"])
    before = await show(cmq)
    cmq.pass_time(seconds=5)
    await cmq.call("ModifyCmqSubscriptionAttribute", **ONE, FilterTags=["b", "c"])
    changed = {"FilterTags": ["b", "c"], "LastModifyTime": before["LastModifyTime"] + 5_000}
    assert await show(cmq) == {**before, **changed}
    both = {"NotifyStrategy": "BACKOFF_RETRY", "NotifyContentFormat": "SIMPLIFIED"}
    await cmq.call("ModifyCmqSubscriptionAttribute", **ONE, **both, BindingKey=["y"])
    assert await show(cmq) == {**before, **changed, **both, "BindingKey": ["y"]}
    await cmq.call("ModifyCmqSubscriptionAttribute", **ONE, FilterTags=[], BindingKey=[])
    assert await show(cmq) == {**before, **changed, **both, "FilterTags": [], "BindingKey": []}


async def test_a_change_says_filtertags_where_the_making_says_filtertag(cmq: Cmq) -> None:
    await subscribe(cmq)
    with pytest.raises(ApiError) as caught:
        await cmq.call("ModifyCmqSubscriptionAttribute", **ONE, FilterTag=["a"])
    assert caught.value.code == "UnknownParameter"


async def test_a_changed_filter_picks_the_next_message(cmq: Cmq) -> None:
    await subscribe(cmq, "events", "queue", FilterTag=["a"])
    await cmq.call("ModifyCmqSubscriptionAttribute", **ONE, FilterTags=["b"])
    with pytest.raises(ApiError):
        await publish(cmq, "1", MsgTag=["a"])
    await publish(cmq, "2", MsgTag=["b"])
    assert (await cmq.receive())["msgBody"] == "2"


async def test_a_cleared_tag_filter_lets_everything_through(cmq: Cmq) -> None:
    await subscribe(cmq, "events", "queue", FilterTag=["a"])
    await cmq.call("ClearCmqSubscriptionFilterTags", **ONE)
    assert (await show(cmq))["FilterTags"] == []
    await publish(cmq, "untagged")
    assert (await cmq.receive())["msgBody"] == "untagged"


@pytest.mark.parametrize(
    "changes",
    [
        {"NotifyContentFormat": "JSON"},
        {"NotifyContentFormat": "XML"},
        {"NotifyStrategy": "NEVER"},
        {"FilterTags": ["t"] * 6},
        {"FilterTags": [""]},
        {"BindingKey": ["." * 16]},
    ],
)
async def test_a_change_that_cannot_be_changes_nothing(cmq: Cmq, changes: dict[str, Any]) -> None:
    await subscribe(cmq, "events", "queue", FilterTag=["a"])
    before = await show(cmq)
    cmq.pass_time(seconds=5)
    good = {"FilterTags": ["z"], "BindingKey": ["z"]}
    with pytest.raises(InvalidParameterValue):
        await cmq.call("ModifyCmqSubscriptionAttribute", **{**ONE, **good, **changes})
    assert await show(cmq) == before


@pytest.mark.parametrize(
    "action",
    [
        "ModifyCmqSubscriptionAttribute",
        "ClearCmqSubscriptionFilterTags",
        "DeleteCmqSubscribe",
        "RevealCmqSubscriptionSecret",
        "RotateCmqSubscriptionSecret",
    ],
)
@pytest.mark.parametrize(
    ("place", "code"),
    [
        ({"SubscriptionName": "s2"}, "ResourceNotFound"),
        ({"SubscriptionName": "S1"}, "ResourceNotFound"),
        ({"TopicName": "Job-Message"}, "ResourceNotFound.Topic"),
        ({"region": "ap-beijing"}, "ResourceNotFound.Topic"),
        ({"owner": "100000000002"}, "ResourceNotFound.Topic"),
    ],
)
async def test_what_does_not_exist_is_not_found(
    cmq: Cmq, action: str, place: dict[str, str], code: str
) -> None:
    await subscribe(cmq)
    with pytest.raises(ResourceNotFound) as caught:
        await cmq.call(action, **{**ONE, **place})
    assert caught.value.code == code


async def test_changed_binding_keys_change_on_the_broker(brokered: Cmq) -> None:
    assert brokered.bus is not None
    await subscribe(brokered, "reader", "amqp", BindingKey=["a.#", "b.#"])
    await brokered.call("ModifyCmqSubscriptionAttribute", **ONE, BindingKey=["b.#", "c.#"])
    exchange, queue = JOB_TOPIC.exchange, JOB_TOPIC.queue("reader")
    assert {binding.key for binding in brokered.bus.exchanges[exchange]} >= {"b.#", "c.#"}
    changes = await brokered.store.read_list(lambda tx: rebinding.list_changes(tx, JOB_TOPIC.key))
    assert [(each.binding, each.until) for each in changes] == [(Binding(queue, "a.#"), 0)]
    await brokered.call("ModifyCmqSubscriptionAttribute", **ONE, NotifyStrategy="BACKOFF_RETRY")
    assert len(await rows(brokered, bus_change)) == 1


async def test_an_amqp_subscriber_gets_no_tag_filter_later_either(brokered: Cmq) -> None:
    await subscribe(brokered, "reader", "amqp")
    with pytest.raises(InvalidParameterValue):
        await brokered.call("ModifyCmqSubscriptionAttribute", **ONE, FilterTags=["a"])
    await brokered.call("ClearCmqSubscriptionFilterTags", **ONE)


async def test_an_amqp_subscriber_is_changed_though_the_broker_is_away(brokered: Cmq) -> None:
    assert brokered.bus is not None
    await subscribe(brokered, "reader", "amqp", BindingKey=["a"])
    brokered.bus.away = True
    await brokered.call("ModifyCmqSubscriptionAttribute", **ONE, BindingKey=["b"])
    assert (await show(brokered))["BindingKey"] == ["b"]


async def test_what_waits_to_be_pushed_is_counted_for_its_subscriber(cmq: Cmq) -> None:
    await subscribe(cmq)
    await publish(cmq, "1", "2")
    assert (await show(cmq))["MsgCount"] == 2


async def test_what_waits_for_a_deleted_subscriber_becomes_dead_letters(cmq: Cmq) -> None:
    await subscribe(cmq)
    await publish(cmq, "1", "2")
    await cmq.call("DeleteCmqSubscribe", **ONE)
    letters = await rows(cmq, tables.dead_letter)
    assert [letter["body"] for letter in letters] == [b"1", b"2"]
    assert {letter["endpoint"] for letter in letters} == {URL}
    assert {letter["died_at"] for letter in letters} == {cmq.now}
    assert all("the subscription was deleted" in letter["why"] for letter in letters)
    assert await rows(cmq, tables.delivery) == []
    await cmq.call("DeleteCmqTopic", TopicName="job-message")


async def test_a_change_ends_the_pause_of_a_subscriber(cmq: Cmq) -> None:
    await subscribe(cmq)
    paused = {"failing_since": cmq.now, "paused_at": cmq.now}
    await cmq.store.write(lambda tx: tx.execute(update(tables.subscription).values(**paused)))
    await cmq.call("ModifyCmqSubscriptionAttribute", **ONE, NotifyStrategy="BACKOFF_RETRY")
    (row,) = await rows(cmq, tables.subscription)
    assert (row["failing_since"], row["paused_at"]) == (None, None)
    assert [told["name"] for told in await rows(cmq, event)] == ["SUBSCRIPTION_RESUMED"]


async def test_a_secret_is_shown_alike_until_it_is_changed(cmq: Cmq) -> None:
    await subscribe(cmq)
    first = await cmq.call("RevealCmqSubscriptionSecret", **ONE)
    assert first["Secret"].startswith("whsec_")
    assert first["OldSecretUntil"] == 0
    assert await cmq.call("RevealCmqSubscriptionSecret", **ONE) == first
    second = await cmq.call("RotateCmqSubscriptionSecret", **ONE)
    assert second["Secret"] != first["Secret"]
    day_later = (cmq.now + timedelta(days=1)).timestamp() * 1_000
    assert second["OldSecretUntil"] == day_later
    assert await cmq.call("RevealCmqSubscriptionSecret", **ONE) == second
    cmq.pass_time(days=1)
    shown = await cmq.call("RevealCmqSubscriptionSecret", **ONE)
    assert shown == {**second, "OldSecretUntil": 0}


async def test_a_secret_is_nowhere_else_and_not_readable_in_the_database(cmq: Cmq) -> None:
    await subscribe(cmq)
    secret = (await cmq.call("RevealCmqSubscriptionSecret", **ONE))["Secret"]
    assert secret not in json.dumps(await show(cmq))
    (row,) = await rows(cmq, tables.subscription)
    assert secret.removeprefix("whsec_").encode() not in row["sealed_secret"]


@pytest.mark.parametrize("action", ["RevealCmqSubscriptionSecret", "RotateCmqSubscriptionSecret"])
async def test_what_is_not_pushed_over_http_has_no_secret(cmq: Cmq, action: str) -> None:
    await subscribe(cmq, "events", "queue")
    with pytest.raises(UnsupportedOperation):
        await cmq.call(action, **ONE)


async def test_the_vendors_quota_of_subscriptions_holds_where_it_is_wanted(
    cmq: Cmq, store: Store
) -> None:
    limited = Cmq(store, None, cloud_limits=True)
    topic_id = (await cmq.call("CreateCmqTopic", TopicName="job-message"))["TopicId"]
    taken = [subscription_row(number, topic_id) for number in range(limits.SUBSCRIPTIONS_MAX - 1)]
    await store.write(lambda tx: tx.execute(insert(tables.subscription), taken))
    await limited.call("CreateCmqSubscribe", **cmq.subscription("last", URL, "http"))
    with pytest.raises(LimitExceeded) as caught:
        await limited.call("CreateCmqSubscribe", **cmq.subscription("more", URL, "http"))
    assert caught.value.code == "LimitExceeded.Subscriptions"
    await cmq.call("CreateCmqSubscribe", **cmq.subscription("more", URL, "http"))


async def test_subscriptions_are_searched_and_paged_from_the_oldest_on(cmq: Cmq) -> None:
    await cmq.call("CreateCmqTopic", TopicName="job-message")
    for name in ("beta", "Alpha", "alphabet", "gamma"):
        await cmq.call("CreateCmqSubscribe", **cmq.subscription(name, URL, "http"))
        cmq.pass_time(seconds=1)
    page = await cmq.call(
        "DescribeCmqSubscriptionDetail",
        TopicName="job-message",
        SubscriptionName="ALPHA",
        Offset=1,
        Limit=5,
    )
    assert page["TotalCount"] == 2
    assert [each["SubscriptionName"] for each in page["SubscriptionSet"]] == ["alphabet"]
