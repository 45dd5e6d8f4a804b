"""One transaction delivers no more than the others who write can wait for."""

import pytest

from gateway.cmq import subscribers
from gateway.cmq.subscribers import BYTES_AT_ONCE, ROWS_AT_ONCE
from gateway.events import outbox, relay
from gateway.events.relay import Expanded
from gateway.store import Tx
from tests.support.cmq import Cmq
from tests.support.events import JOB_TOPIC

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


async def subscribe_queues(cmq: Cmq, *, count: int) -> None:
    await cmq.call("CreateCmqTopic", TopicName="job-message")
    for number in range(count):
        await cmq.call("CreateCmqQueue", QueueName=f"q{number}")
        await cmq.call("CreateCmqSubscribe", **cmq.subscription(f"s{number}", f"q{number}"))


async def publish(cmq: Cmq, *, count: int, size: int) -> None:
    def add(tx: Tx) -> None:
        for number in range(count):
            outbox.publish(tx, JOB_TOPIC, b"x" * size, message_id=f"m{number}", now=cmq.now)

    await cmq.store.write(add)


async def expand(cmq: Cmq) -> Expanded:
    return await cmq.store.write(lambda tx: relay.expand(tx, subscribers, now=cmq.now, final=True))


async def test_many_subscribers_are_served_some_messages_at_a_time(cmq: Cmq) -> None:
    await subscribe_queues(cmq, count=8)
    await publish(cmq, count=200, size=10)
    at_once = ROWS_AT_ONCE // 8
    assert await expand(cmq) == Expanded(at_once, more=True)
    assert await expand(cmq) == Expanded(200 - at_once, more=False)
    assert await expand(cmq) == Expanded(0, more=False)
    received = [await cmq.receive(f"q{number}") for number in range(8)]
    assert {each["msgBody"] for each in received} == {"x" * 10}


async def test_long_messages_are_copied_some_bytes_at_a_time(cmq: Cmq) -> None:
    await subscribe_queues(cmq, count=2)
    await publish(cmq, count=5, size=MIB)
    at_once = BYTES_AT_ONCE // (2 * MIB)
    assert await expand(cmq) == Expanded(at_once, more=True)
    assert await expand(cmq) == Expanded(at_once, more=True)
    assert await expand(cmq) == Expanded(5 - 2 * at_once, more=False)


async def test_a_message_that_is_too_much_by_itself_is_delivered_all_the_same(cmq: Cmq) -> None:
    await subscribe_queues(cmq, count=8)
    await publish(cmq, count=2, size=MIB)
    assert await expand(cmq) == Expanded(1, more=True)
    assert await expand(cmq) == Expanded(1, more=False)
