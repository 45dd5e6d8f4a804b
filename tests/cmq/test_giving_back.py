"""A reader that hangs up while its messages are taken: they are as if it had never asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.call import HAS_LEFT
from gateway.cmq import queue_messages
from gateway.cmq.queue_messages import Received
from gateway.cmq.queues import Queue, get_queue
from gateway.errors import ApiError
from gateway.ids import new_secret
from gateway.protocol import classic_pair
from tests.support.cmq import Cmq
from tests.support.events import OWNER, REGION

pytestmark = pytest.mark.anyio

AGE = {"DeadLetterQueueName": "dead", "Policy": 1, "MaxTimeToLive": 300}


async def make(cmq: Cmq, **params: Any) -> None:
    await cmq.call("CreateCmqQueue", QueueName="events", VisibilityTimeout=30, **params)


async def send(cmq: Cmq, *bodies: str, delay: int = 0) -> None:
    for body in bodies:
        message = {"queueName": "events", "msgBody": body, "delaySeconds": str(delay)}
        await cmq.classic("SendMessage", message)


async def find(cmq: Cmq) -> Queue:
    return await cmq.store.read_point(lambda tx: get_queue(tx, OWNER, region=REGION, name="events"))


@contextmanager
def leaving() -> Iterator[None]:
    """Whoever calls is there when the messages are taken, and gone right after."""
    answers = iter((False, True))
    token = HAS_LEFT.set(lambda: next(answers))
    yield
    HAS_LEFT.reset(token)
    assert not list(answers)


async def leave(cmq: Cmq, action: str = "ReceiveMessage") -> None:
    many = {"numOfMsg": "16"} if action.startswith("Batch") else {}
    with leaving(), pytest.raises(ApiError) as caught:
        await cmq.classic(action, {"queueName": "events", **many})
    assert classic_pair(caught.value) == (7000, 10200)


async def take(cmq: Cmq) -> Received:
    queue = await find(cmq)
    taken = await cmq.store.write(
        lambda tx: queue_messages.receive(tx, queue, count=1, now=cmq.now, new_secret=new_secret)
    )
    (message,) = taken.messages
    return message


async def give_back(cmq: Cmq, message: Received) -> None:
    queue = await find(cmq)
    await cmq.store.write(
        lambda tx: queue_messages.give_back(tx, queue, messages=[message], now=cmq.now)
    )


async def delete(cmq: Cmq, receipt: str) -> bool:
    queue = await find(cmq)
    return await cmq.store.write(
        lambda tx: queue_messages.delete(tx, queue, receipt=receipt, now=cmq.now)
    )


@pytest.mark.parametrize("action", ["ReceiveMessage", "BatchReceiveMessage"])
async def test_who_left_while_it_took_has_taken_nothing(cmq: Cmq, action: str) -> None:
    await make(cmq)
    await send(cmq, "1", "2")
    await leave(cmq, action)
    cmq.pass_time(seconds=1)
    for body in ("1", "2"):
        received = await cmq.receive()
        assert (received["msgBody"], received["dequeueCount"]) == (body, 1)
        assert received["firstDequeueTime"] == int(cmq.now.timestamp())


async def test_who_left_uses_up_no_receive_before_a_dead_letter(cmq: Cmq) -> None:
    await cmq.call("CreateCmqQueue", QueueName="dead")
    await make(cmq, DeadLetterQueueName="dead", MaxReceiveCount=1)
    await send(cmq, "m")
    for _ in range(3):
        await leave(cmq)
    assert (await cmq.receive())["dequeueCount"] == 1


async def test_what_was_received_before_keeps_what_was_known_of_it(cmq: Cmq) -> None:
    await make(cmq)
    await send(cmq, "m")
    first = await cmq.receive()
    cmq.pass_time(seconds=30)
    await leave(cmq)
    again = await cmq.receive()
    assert again["dequeueCount"] == 2
    assert again["firstDequeueTime"] == first["firstDequeueTime"]


async def test_the_handle_of_what_is_given_back_is_void(cmq: Cmq) -> None:
    await make(cmq)
    await send(cmq, "m")
    message = await take(cmq)
    await give_back(cmq, message)
    assert not await delete(cmq, message.receipt)
    assert (await cmq.receive())["msgBody"] == "m"


async def test_what_another_has_received_since_is_not_given_back(cmq: Cmq) -> None:
    await make(cmq)
    await send(cmq, "m")
    lost = await take(cmq)
    cmq.pass_time(seconds=30)
    held = await take(cmq)
    await give_back(cmq, lost)
    with pytest.raises(ApiError):
        await cmq.receive()
    assert await delete(cmq, held.receipt)


async def test_what_was_delayed_is_not_too_old_once_it_is_given_back(cmq: Cmq) -> None:
    await cmq.call("CreateCmqQueue", QueueName="dead")
    await make(cmq, **AGE)
    await send(cmq, "m", delay=450)
    cmq.pass_time(seconds=450)
    await leave(cmq)
    assert (await cmq.receive())["msgBody"] == "m"


async def test_who_waits_is_woken_by_what_is_given_back(cmq: Cmq) -> None:
    await make(cmq)
    await send(cmq, "m")
    signal = (await find(cmq)).signal
    before = cmq.store.signals.count(signal)
    await leave(cmq)
    assert cmq.store.signals.count(signal) > before
