"""A clock that is set back: what is in a queue stays in its order, and nobody waits for longer."""

import json
from base64 import b64decode
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import anyio
import pytest

from gateway.cmq import retention
from gateway.errors import ClassicError
from gateway.events import outbox
from tests.support.cmq import Cmq
from tests.support.events import asks, eventually, job_event, stream

pytestmark = pytest.mark.anyio
QUEUE = {"queueName": "events"}


async def send(cmq: Cmq, body: str, *, delay_s: int = 0) -> None:
    await cmq.classic("SendMessage", {**QUEUE, "msgBody": body, "delaySeconds": str(delay_s)})


async def receives(cmq: Cmq, queue: str = "events") -> list[str]:
    asked = {"queueName": queue, "numOfMsg": "16"}
    try:
        answer = await cmq.classic("BatchReceiveMessage", asked)
    except ClassicError:
        return []
    return [each["msgBody"] for each in answer["msgInfoList"]]


async def held(cmq: Cmq) -> tuple[int, int, int]:
    shown = await cmq.classic("GetQueueAttributes", QUEUE)
    return shown["activeMsgNum"], shown["inactiveMsgNum"], shown["delayMsgNum"]


async def holds(cmq: Cmq, counts: tuple[int, int, int]) -> bool:
    return await held(cmq) == counts


async def test_what_is_sent_after_the_step_does_not_overtake_what_was_sent_before(
    cmq: Cmq,
) -> None:
    await cmq.call("CreateCmqQueue", QueueName="events")
    await send(cmq, "1")
    cmq.pass_time(hours=-1)
    await send(cmq, "2")
    await send(cmq, "later", delay_s=60)
    assert await held(cmq) == (2, 0, 1)
    assert await receives(cmq) == ["1", "2"]


async def test_events_of_a_job_stay_in_their_order_across_the_step(cmq: Cmq) -> None:
    await cmq.subscribe_queue()
    for number in (1, 2, 3):
        tell = partial(
            outbox.append,
            stream=stream(),
            events=[job_event(number)],
            notifications=[asks()],
            now=cmq.now,
        )
        await cmq.store.write(tell)
        await cmq.expand()
        cmq.pass_time(hours=-1)
    bodies = [b64decode(each) for each in await receives(cmq)]
    assert [json.loads(each)["Events"][0]["Batch"]["Number"] for each in bodies] == [1, 2, 3]


async def test_dead_letters_stay_in_the_order_they_died_in(cmq: Cmq) -> None:
    await cmq.call("CreateCmqQueue", QueueName="dead")
    rule: dict[str, Any] = {"DeadLetterQueueName": "dead", "Policy": 0, "MaxReceiveCount": 1}
    await cmq.call("CreateCmqQueue", QueueName="events", **rule)
    for body in ("1", "2"):
        await send(cmq, body)
    assert await receives(cmq) == ["1", "2"]
    cmq.pass_time(seconds=31)
    assert await receives(cmq) == []
    cmq.pass_time(hours=-1)
    assert await receives(cmq, "dead") == ["1", "2"]


async def test_what_was_received_before_the_step_comes_back_in_time(cmq: Cmq) -> None:
    await cmq.call("CreateCmqQueue", QueueName="events", VisibilityTimeout=30)
    await send(cmq, "received")
    await send(cmq, "delayed", delay_s=7_200)
    assert await receives(cmq) == ["received"]
    cmq.pass_time(hours=-1)
    assert await held(cmq) == (0, 1, 1)
    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(retention.run, cmq.store, clock=cmq.clock))
        await eventually(partial(holds, cmq, (1, 0, 1)))
        tasks.cancel_scope.cancel()
    assert await receives(cmq) == ["received"]


async def test_what_is_hidden_for_as_long_as_it_may_be_stays_hidden(cmq: Cmq) -> None:
    await cmq.call("CreateCmqQueue", QueueName="events", VisibilityTimeout=30)
    await send(cmq, "received")
    assert await receives(cmq) == ["received"]
    await retention.show_hidden(cmq.store, clock=cmq.clock)
    assert await held(cmq) == (0, 1, 0)


async def test_a_receiver_waits_no_longer_because_of_the_step(cmq: Cmq) -> None:
    await cmq.call("CreateCmqQueue", QueueName="events")
    asked = {**QUEUE, "pollingWaitSeconds": "1"}

    def step_back() -> datetime:
        cmq.now -= timedelta(seconds=1)
        return cmq.now

    cmq.clock = step_back
    with anyio.fail_after(10), pytest.raises(ClassicError) as caught:
        await cmq.classic("ReceiveMessage", asked)
    assert caught.value.number == 7000
