"""What was published before a subscription ended, and the relay had yet to hand out."""

from typing import Any

import anyio
import pytest
from sqlalchemy import select

from gateway.cmq.subscribing import PAGE
from gateway.cmq.tables import dead_letter, delivery
from gateway.store import Store
from tests.support.cmq import Cmq

pytestmark = pytest.mark.anyio
TOPIC = {"TopicName": "job-message"}
URL = "http://receiver.example/"


async def publish(cmq: Cmq, *bodies: str, **more: Any) -> None:
    for body in bodies:
        await cmq.call("PublishCmqMsg", **TOPIC, MsgContent=body, **more)


async def unsubscribe(cmq: Cmq, name: str = "s1") -> None:
    await cmq.call("DeleteCmqSubscribe", **TOPIC, SubscriptionName=name)


async def receive_all(cmq: Cmq, queue: str = "events") -> list[str]:
    """What can be received now, in the order it comes."""
    detail = await cmq.call("DescribeCmqQueueDetail", QueueName=queue)
    count = detail["QueueDescribe"]["ActiveMsgNum"]
    return [(await cmq.receive(queue))["msgBody"] for _ in range(count)]


async def dead_letters(store: Store) -> list[tuple[str, str, str]]:
    columns = (dead_letter.c.subscription_name, dead_letter.c.body, dead_letter.c.why)
    query = select(*columns).order_by(dead_letter.c.id)
    rows = await store.read_list(lambda tx: tx.execute(query).all())
    return [(row.subscription_name, bytes(row.body).decode(), row.why) for row in rows]


async def test_it_is_in_the_queue_behind_what_was_there_and_comes_once(cmq: Cmq) -> None:
    await cmq.subscribe_queue()
    await publish(cmq, "first")
    await cmq.expand()
    await publish(cmq, "second", "third")
    await unsubscribe(cmq)
    await cmq.expand()
    assert await receive_all(cmq) == ["first", "second", "third"]


async def test_others_get_it_from_the_relay_as_ever(cmq: Cmq) -> None:
    await cmq.subscribe_queue()
    await cmq.call("CreateCmqQueue", QueueName="other")
    await cmq.call("CreateCmqSubscribe", **cmq.subscription("s2", "other"))
    await publish(cmq, "one", "two")
    await unsubscribe(cmq)
    assert await receive_all(cmq, "other") == []
    await cmq.expand()
    assert await receive_all(cmq, "other") == ["one", "two"]


async def test_what_it_does_not_want_is_not_given_to_it(cmq: Cmq) -> None:
    await cmq.subscribe_queue(FilterTag=["mine"])
    await cmq.call("CreateCmqQueue", QueueName="other")
    await cmq.call("CreateCmqSubscribe", **cmq.subscription("s2", "other"))
    await publish(cmq, "mine", MsgTag=["mine"])
    await publish(cmq, "others", MsgTag=["others"])
    await unsubscribe(cmq)
    await cmq.expand()
    assert await receive_all(cmq) == ["mine"]
    assert await receive_all(cmq, "other") == ["mine", "others"]


async def test_what_would_be_pushed_is_a_dead_letter(cmq: Cmq) -> None:
    await cmq.call("CreateCmqTopic", **TOPIC)
    await cmq.call("CreateCmqSubscribe", **cmq.subscription("s1", URL, "http"))
    await publish(cmq, "one")
    await cmq.expand()
    await publish(cmq, "two")
    await unsubscribe(cmq)
    await cmq.expand()
    why = "the subscription was deleted"
    assert await dead_letters(cmq.store) == [("s1", "one", why), ("s1", "two", why)]
    waiting = await cmq.store.read_list(lambda tx: tx.execute(select(delivery)).all())
    assert waiting == []


async def test_however_much_it_is_all_of_it_is_given(cmq: Cmq) -> None:
    await cmq.subscribe_queue()
    count = PAGE + 5
    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(publish, cmq, str(number))
    await unsubscribe(cmq)
    detail = await cmq.call("DescribeCmqQueueDetail", QueueName="events")
    assert detail["QueueDescribe"]["ActiveMsgNum"] == count


async def test_the_relay_at_the_same_moment_gives_it_no_second_time(cmq: Cmq) -> None:
    for round_ in range(5):
        await cmq.call("CreateCmqTopic", TopicName=f"t{round_}")
        await cmq.call("CreateCmqQueue", QueueName=f"q{round_}")
        subscription = {**cmq.subscription("s1", f"q{round_}"), "TopicName": f"t{round_}"}
        await cmq.call("CreateCmqSubscribe", **subscription)
        for body in ("one", "two", "three"):
            await cmq.call("PublishCmqMsg", TopicName=f"t{round_}", MsgContent=body)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cmq.expand)
            where = {"TopicName": f"t{round_}", "SubscriptionName": "s1"}
            await cmq.call("DeleteCmqSubscribe", **where)
        assert await receive_all(cmq, f"q{round_}") == ["one", "two", "three"]
