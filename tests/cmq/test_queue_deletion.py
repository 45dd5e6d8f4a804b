"""What becomes of the messages of a queue that is deleted."""

from typing import Any

import pytest
from sqlalchemy import func, select, text

from gateway.cmq import queue_messages, queue_statements, queues, retention, tables
from gateway.cmq.queues import Queue
from gateway.errors import ClassicError
from gateway.store import Tx
from tests.support.cmq import Cmq
from tests.support.events import NOW, OWNER, REGION
from tests.support.plans import plan_of

pytestmark = pytest.mark.anyio


async def make(cmq: Cmq, name: str, **attributes: Any) -> None:
    await cmq.call("CreateCmqQueue", QueueName=name, **attributes)


async def send(cmq: Cmq, queue: str) -> None:
    await cmq.call("SendCmqMsg", QueueName=queue, MsgContent="m")


def find(tx: Tx) -> Queue:
    return queues.get_queue(tx, OWNER, region=REGION, name="events")


async def count_messages(cmq: Cmq) -> int:
    count = select(func.count()).select_from(tables.queue_message)
    return await cmq.store.read_list(lambda tx: int(tx.execute(count).scalar_one()))


async def test_a_deleted_queue_takes_all_it_holds_along_and_nothing_else(cmq: Cmq) -> None:
    await make(cmq, "events", RewindSeconds=600)
    await make(cmq, "other")
    await send(cmq, "events")
    handle = (await cmq.receive())["receiptHandle"]
    await cmq.classic("DeleteMessage", {"queueName": "events", "receiptHandle": handle})
    await send(cmq, "other")
    many = [(f"m-{number}", b"m") for number in range(queue_messages.PAGE + 1)]
    queue = await cmq.store.read_point(find)
    await cmq.store.write(lambda tx: queue_messages.send(tx, queue, many, now=cmq.now, delay_s=9))
    await cmq.call("DeleteCmqQueue", QueueName="events")
    assert await count_messages(cmq) == 1
    assert (await cmq.receive("other"))["msgBody"] == "m"


async def test_what_a_deletion_that_is_cut_short_leaves_is_had_by_nobody_and_ends(
    cmq: Cmq,
) -> None:
    await make(cmq, "dead")
    await make(cmq, "events", DeadLetterQueueName="dead", Policy=1, MaxTimeToLive=300)
    await send(cmq, "events")
    await cmq.store.write(lambda tx: queues.delete(tx, OWNER, region=REGION, name="events"))
    await make(cmq, "events")
    with pytest.raises(ClassicError) as caught:
        await cmq.receive()
    assert (caught.value.number, caught.value.module) == (7000, 10200)
    assert await count_messages(cmq) == 1
    cmq.pass_time(days=15)
    await retention.sweep(cmq.store, clock=cmq.clock)
    assert await count_messages(cmq) == 0


@pytest.mark.parametrize("statement", ["DROP", "DROP_KEPT"])
async def test_deleting_a_queue_does_not_read_through_the_messages_of_others(
    cmq: Cmq, statement: str
) -> None:
    await make(cmq, "other")
    other = await cmq.store.read_point(
        lambda tx: queues.get_queue(tx, OWNER, region=REGION, name="other")
    )
    many = [(f"m-{number}", b"m") for number in range(queue_messages.PAGE)]
    await cmq.store.write(lambda tx: queue_messages.send(tx, other, many, now=NOW, delay_s=0))
    parameters = {"queue_id": "queue-a", "limit": queue_messages.PAGE}

    def explain(tx: Tx) -> str:
        if tx.dialect == "postgresql":  # which reads a table of so few pages whole if it may
            tx.execute(text("SET LOCAL enable_seqscan = off"))
        return plan_of(tx, getattr(queue_statements, statement), parameters)

    found = await cmq.store.write(explain)
    assert "cmq_queue_message" in found
    assert "SCAN cmq_queue_message" not in found  # SQLite
    assert "Seq Scan on cmq_queue_message" not in found  # PostgreSQL
