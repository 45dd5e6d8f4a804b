"""A queue whose retention is changed while it holds messages."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.cmq import queue_messages, queue_statements
from gateway.errors import ClassicError
from gateway.store import Store, Tx
from tests.support.classic import NO_MESSAGE
from tests.support.cmq import Cmq
from tests.support.events import NOW
from tests.support.plans import plan_of

pytestmark = pytest.mark.anyio
Set = Callable[[Cmq, int], Awaitable[object]]


async def set_by_tdmq(cmq: Cmq, seconds: int) -> None:
    await cmq.call("ModifyCmqQueueAttribute", QueueName="events", MsgRetentionSeconds=seconds)


async def set_by_classic(cmq: Cmq, seconds: int) -> None:
    changes = {"queueName": "events", "msgRetentionSeconds": str(seconds)}
    await cmq.classic("SetQueueAttributes", changes)


async def send(cmq: Cmq, body: str, *, delay_s: int = 0) -> None:
    asked: dict[str, Any] = {"QueueName": "events", "MsgContent": body, "DelaySeconds": delay_s}
    await cmq.call("SendCmqMsg", **asked)


async def left(cmq: Cmq) -> list[str]:
    """The bodies of what can be received, which is hidden then."""
    asked = {"queueName": "events", "numOfMsg": "16"}
    try:
        found = await cmq.classic("BatchReceiveMessage", asked)
    except ClassicError as error:
        if error.number != NO_MESSAGE:
            raise
        return []
    return [each["msgBody"] for each in found["msgInfoList"]]


@pytest.mark.parametrize("change", [set_by_tdmq, set_by_classic])
async def test_a_longer_one_holds_for_what_is_there(
    cmq: Cmq, change: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_messages, "PAGE", 2)
    await cmq.call("CreateCmqQueue", QueueName="events", MsgRetentionSeconds=100)
    bodies = [f"m{number}" for number in range(5)]
    for body in bodies:
        await send(cmq, body)
    cmq.pass_time(seconds=99)
    await change(cmq, 1_000)
    cmq.pass_time(seconds=900)
    assert await left(cmq) == bodies
    cmq.pass_time(seconds=2)
    assert await left(cmq) == []


async def test_what_has_ended_does_not_come_back_and_other_queues_keep_theirs(cmq: Cmq) -> None:
    for name in ("events", "other"):
        await cmq.call("CreateCmqQueue", QueueName=name, MsgRetentionSeconds=100)
        await cmq.call("SendCmqMsg", QueueName=name, MsgContent="m", DelaySeconds=0)
    cmq.pass_time(seconds=50)
    await send(cmq, "young")
    cmq.pass_time(seconds=50)
    await set_by_tdmq(cmq, 1_000)
    assert await left(cmq) == ["young"]
    with pytest.raises(ClassicError):
        await cmq.receive("other")


@pytest.mark.parametrize("change", [set_by_tdmq, set_by_classic])
async def test_a_shorter_one_drops_nothing_that_is_there(cmq: Cmq, change: Set) -> None:
    await cmq.call("CreateCmqQueue", QueueName="events", MsgRetentionSeconds=1_000)
    await send(cmq, "old")
    await change(cmq, 100)
    await send(cmq, "new")
    cmq.pass_time(seconds=101)
    assert await left(cmq) == ["old"]


async def test_a_delayed_message_never_loses_time(cmq: Cmq) -> None:
    await cmq.call("CreateCmqQueue", QueueName="events", MsgRetentionSeconds=100)
    await send(cmq, "delayed", delay_s=100)
    await set_by_tdmq(cmq, 150)
    cmq.pass_time(seconds=199)
    assert await left(cmq) == ["delayed"]


async def test_what_ends_sooner_is_found_along_the_queue(store: Store) -> None:
    def plan(tx: Tx) -> str:
        asked = {"queue_id": "q", "retention_us": 1, "after": 5, "limit": 1_000, "now": NOW}
        return plan_of(tx, queue_statements.ENDING_SOONER, asked)

    found = await store.read_list(plan)
    assert "ix_cmq_queue_message_receive" in found, found
