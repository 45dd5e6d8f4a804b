"""What one receive takes together is bounded in bytes, and what it leaves is as it was."""

from typing import Any

import pytest

from gateway.cmq import queue_statements
from gateway.cmq.limits import BATCH_BYTES_MAX
from gateway.cmq.queues import get_queue
from gateway.store import Tx
from tests.support.cmq import Cmq
from tests.support.events import OWNER, REGION

pytestmark = pytest.mark.anyio

KIB = 1_024
DEAD_AFTER_ONE: dict[str, Any] = {"DeadLetterQueueName": "dead", "MaxReceiveCount": 1}


async def send(cmq: Cmq, *sizes: int, delay: int = 0) -> None:
    for size in sizes:
        message = {"queueName": "events", "msgBody": "m" * size, "delaySeconds": str(delay)}
        await cmq.classic("SendMessage", message)


async def sizes_of_batch(cmq: Cmq, count: int = 16) -> list[int]:
    asked = {"queueName": "events", "numOfMsg": str(count)}
    received = await cmq.classic("BatchReceiveMessage", asked)
    return [len(each["msgBody"]) for each in received["msgInfoList"]]


async def count_active(cmq: Cmq) -> int:
    shown = await cmq.call("DescribeCmqQueueDetail", QueueName="events")
    active: int = shown["QueueDescribe"]["ActiveMsgNum"]
    return active


async def test_a_batch_has_what_fits_and_the_rest_stays_visible(cmq: Cmq) -> None:
    await cmq.call("CreateCmqQueue", QueueName="events")
    await send(cmq, *[400 * KIB] * 3, 1)
    assert await sizes_of_batch(cmq) == [400 * KIB] * 2
    assert await count_active(cmq) == 2
    left = await cmq.receive()
    assert (len(left["msgBody"]), left["dequeueCount"]) == (400 * KIB, 1)
    assert await sizes_of_batch(cmq) == [1]


async def test_a_batch_may_be_exactly_as_large_as_it_may(cmq: Cmq) -> None:
    await cmq.call("CreateCmqQueue", QueueName="events")
    await send(cmq, BATCH_BYTES_MAX - 1, 1, 1)
    assert await sizes_of_batch(cmq) == [BATCH_BYTES_MAX - 1, 1]


async def test_the_largest_message_comes_alone(cmq: Cmq) -> None:
    await cmq.call("CreateCmqQueue", QueueName="events")
    await send(cmq, BATCH_BYTES_MAX, BATCH_BYTES_MAX, 1)
    assert await sizes_of_batch(cmq) == [BATCH_BYTES_MAX]
    assert await sizes_of_batch(cmq) == [BATCH_BYTES_MAX]
    assert await sizes_of_batch(cmq) == [1]


async def test_bytes_are_counted_not_characters(cmq: Cmq) -> None:
    await cmq.call("CreateCmqQueue", QueueName="events")
    message = {"queueName": "events", "msgBody": "ü" * (300 * KIB)}
    for _ in range(2):
        await cmq.classic("SendMessage", message)
    assert await sizes_of_batch(cmq) == [300 * KIB]


@pytest.mark.parametrize("count", [2, 16])
async def test_dead_letters_in_the_way_make_no_batch_larger(cmq: Cmq, count: int) -> None:
    await cmq.call("CreateCmqQueue", QueueName="dead")
    await cmq.call("CreateCmqQueue", QueueName="events", VisibilityTimeout=30, **DEAD_AFTER_ONE)
    await send(cmq, 600 * KIB, delay=60)
    await send(cmq, 1)
    assert await sizes_of_batch(cmq) == [1]  # dead from its next receive on
    await send(cmq, 600 * KIB, delay=60)
    cmq.pass_time(seconds=60)
    assert await sizes_of_batch(cmq, count) == [600 * KIB]
    assert await count_active(cmq) == 1
    assert len((await cmq.receive("dead"))["msgBody"]) == 1


async def test_what_is_looked_at_and_left_is_not_read(cmq: Cmq) -> None:
    await cmq.call("CreateCmqQueue", QueueName="events")
    await send(cmq, 1)
    queue = await cmq.store.read_point(
        lambda tx: get_queue(tx, OWNER, region=REGION, name="events")
    )
    asked = {"queue_id": queue.id, "now": cmq.now, "limit": 1, "positions": [1]}

    def look(tx: Tx) -> None:
        for statement in (
            queue_statements.RECEIVE_SOME,
            queue_statements.RECEIVE_FIRST,
            queue_statements.LOCK_VISIBLE,
        ):
            (row,) = tx.execute(statement, asked).all()
            assert row.bytes == 1
            assert "body" not in row._fields

    await cmq.store.write(look)
