"""The classic data API: receiving, hiding, deleting, and its numbered errors."""

import contextlib
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from sqlalchemy import Select, func, select

from gateway import clock
from gateway.cmq import retention, tables
from gateway.errors import ApiError, ClassicError
from gateway.protocol import classic_pair
from tests.support.cmq import Cmq
from tests.support.events import eventually

pytestmark = pytest.mark.anyio

QUEUE = {"queueName": "events"}


@pytest.fixture(autouse=True)
async def queue(cmq: Cmq) -> None:
    await cmq.call(
        "CreateCmqQueue", QueueName="events", VisibilityTimeout=30, MsgRetentionSeconds=60
    )


async def send(cmq: Cmq, *bodies: str, **params: str) -> None:
    for body in bodies:
        await cmq.classic("SendMessage", {**QUEUE, "msgBody": body, **params})


async def holds_none(cmq: Cmq, count: Select[int]) -> bool:
    return await cmq.store.read_list(lambda tx: tx.execute(count).scalar_one()) == 0


async def refuses(cmq: Cmq, action: str, /, **params: str) -> tuple[int, int]:
    with pytest.raises(ApiError) as caught:
        await cmq.classic(action, {**QUEUE, **params})
    return classic_pair(caught.value)


async def test_a_message_is_received_with_all_that_is_known_of_it(cmq: Cmq) -> None:
    sent = await cmq.classic("SendMessage", {**QUEUE, "msgBody": "grüße ✓"})
    cmq.pass_time(seconds=2)
    received = await cmq.receive()
    handle = received.pop("receiptHandle")
    assert handle
    assert received == {
        "msgBody": "grüße ✓",
        "msgId": sent["msgId"],
        "enqueueTime": 1_529_073_797,
        "firstDequeueTime": 1_529_073_799,
        "nextVisibleTime": 1_529_073_829,
        "dequeueCount": 1,
    }


async def test_an_empty_queue_has_no_message(cmq: Cmq) -> None:
    assert await refuses(cmq, "ReceiveMessage") == (7000, 10200)
    assert await refuses(cmq, "BatchReceiveMessage", numOfMsg="3") == (7000, 10200)


async def test_messages_come_in_the_order_of_their_arrival(cmq: Cmq) -> None:
    await send(cmq, "1", "2", "3", "4")
    first = await cmq.classic("BatchReceiveMessage", {**QUEUE, "numOfMsg": "3"})
    assert [each["msgBody"] for each in first["msgInfoList"]] == ["1", "2", "3"]
    assert (await cmq.receive())["msgBody"] == "4"


async def test_an_undeleted_message_comes_back_with_a_new_handle(cmq: Cmq) -> None:
    await send(cmq, "1")
    first = await cmq.receive()
    assert await refuses(cmq, "ReceiveMessage") == (7000, 10200)
    cmq.pass_time(seconds=30)
    second = await cmq.receive()
    assert second["dequeueCount"] == 2
    assert second["firstDequeueTime"] == first["firstDequeueTime"]
    old, new = first["receiptHandle"], second["receiptHandle"]
    assert await refuses(cmq, "DeleteMessage", receiptHandle=old) == (4430, 10260)
    assert await cmq.classic("DeleteMessage", {**QUEUE, "receiptHandle": new}) == {}
    cmq.pass_time(seconds=29)
    assert await refuses(cmq, "ReceiveMessage") == (7000, 10200)


async def test_a_handle_is_no_good_after_the_visibility_timeout(cmq: Cmq) -> None:
    await send(cmq, "1")
    handle = (await cmq.receive())["receiptHandle"]
    cmq.pass_time(seconds=30)
    assert await refuses(cmq, "DeleteMessage", receiptHandle=handle) == (4430, 10260)
    assert (await cmq.receive())["msgBody"] == "1"


@pytest.mark.parametrize("handle", ["", "1", "x-y", "-1-a", "٣-a", "9" * 40 + "-a", "1-' OR 1=1"])
async def test_a_forged_handle_deletes_nothing(cmq: Cmq, handle: str) -> None:
    await send(cmq, "1")
    assert await refuses(cmq, "DeleteMessage", receiptHandle=handle) == (4430, 10260)
    assert (await cmq.receive())["msgBody"] == "1"


async def test_a_handle_of_one_queue_is_no_good_for_another(cmq: Cmq) -> None:
    await cmq.call("CreateCmqQueue", QueueName="other")
    await send(cmq, "1")
    handle = (await cmq.receive())["receiptHandle"]
    there = {"queueName": "other", "receiptHandle": handle}
    with pytest.raises(ClassicError):
        await cmq.classic("DeleteMessage", there)
    assert await cmq.classic("DeleteMessage", {**QUEUE, "receiptHandle": handle}) == {}


async def test_an_expired_message_is_never_delivered(cmq: Cmq) -> None:
    await send(cmq, "1")
    cmq.pass_time(seconds=60)
    assert await refuses(cmq, "ReceiveMessage") == (7000, 10200)


async def test_an_expired_message_is_deleted_though_nobody_asks_for_it(cmq: Cmq) -> None:
    await send(cmq, "1")
    cmq.pass_time(seconds=60)
    count = select(func.count()).select_from(tables.queue_message)
    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(retention.run, cmq.store, clock=lambda: cmq.now))
        await eventually(partial(holds_none, cmq, count))
        tasks.cancel_scope.cancel()


async def test_a_delayed_message_comes_later(cmq: Cmq) -> None:
    await send(cmq, "late", delaySeconds="10")
    await send(cmq, "early")
    assert (await cmq.receive())["msgBody"] == "early"
    cmq.pass_time(seconds=10)
    assert (await cmq.receive())["msgBody"] == "late"


async def test_a_batch_deletes_what_it_can_and_names_the_rest(cmq: Cmq) -> None:
    await send(cmq, "1", "2")
    batch = await cmq.classic("BatchReceiveMessage", {**QUEUE, "numOfMsg": "2"})
    one, two = (each["receiptHandle"] for each in batch["msgInfoList"])
    answer = await cmq.classic(
        "BatchDeleteMessage", {**QUEUE, "receiptHandle.0": one, "receiptHandle.1": "1-forged"}
    )
    assert answer["code"] == 6010
    assert answer["message"].startswith("(10150) ")
    (failed,) = answer["errorList"]
    assert (failed["code"], failed["receiptHandle"]) == (4430, "1-forged")
    assert await cmq.classic("BatchDeleteMessage", {**QUEUE, "receiptHandle.1": two}) == {}
    cmq.pass_time(seconds=30)
    assert await refuses(cmq, "ReceiveMessage") == (7000, 10200)


async def test_wrong_parameters_have_numbers_of_their_own(cmq: Cmq) -> None:
    handles = {f"receiptHandle.{index}": "1-a" for index in range(1, 18)}
    assert await refuses(cmq, "BatchDeleteMessage", **handles) == (4000, 10370)
    gap = {"receiptHandle.1": "1-a", "receiptHandle.3": "1-a"}
    assert await refuses(cmq, "BatchDeleteMessage", **gap) == (4000, 10380)
    assert await refuses(cmq, "BatchDeleteMessage", **{"receiptHandle.2": "1"}) == (4000, 10380)
    assert await refuses(cmq, "BatchDeleteMessage", **{"receiptHandle.x": "1"}) == (4000, 10310)
    assert await refuses(cmq, "BatchDeleteMessage") == (4000, 10390)
    assert await refuses(cmq, "DeleteMessage") == (4000, 10390)
    assert await refuses(cmq, "BatchReceiveMessage", numOfMsg="17") == (4000, 10370)
    assert await refuses(cmq, "BatchReceiveMessage", numOfMsg="two") == (4000, 10360)
    assert await refuses(cmq, "ReceiveMessage", pollingWaitSeconds="31") == (4000, 10350)
    assert await refuses(cmq, "SendMessage", msgBody="") == (4000, 10120)
    assert await refuses(cmq, "SendMessage", msgBody="x" * 1_048_577) == (4400, 10230)
    assert await refuses(cmq, "ReceiveMessage", queueName="absent") == (4440, 10100)
    assert await refuses(cmq, "RewindQueue") == (4000, 10390)
    assert await refuses(cmq, "SendMessage", msgBody="m", colour="red") == (4000, 10320)
    assert await refuses(cmq, "SendMessage", **{"msgBody.1": "m"}) == (4000, 10330)
    assert await refuses(cmq, "RenameQueue") == (4000, 10430)


async def test_a_waiting_receiver_gets_a_message_as_soon_as_it_is_sent(cmq: Cmq) -> None:
    answers: list[str] = []

    async def wait() -> None:
        received = await cmq.classic("ReceiveMessage", {**QUEUE, "pollingWaitSeconds": "30"})
        answers.append(received["msgBody"])

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await send(cmq, "1")
    assert answers == ["1"]


async def test_a_waiting_receiver_gives_up_after_its_wait(cmq: Cmq) -> None:
    started_at = clock.now()
    cmq.clock = clock.now
    assert await refuses(cmq, "ReceiveMessage", pollingWaitSeconds="1") == (7000, 10200)
    assert 1 <= (clock.now() - started_at).total_seconds() < 10


async def test_receivers_at_once_never_get_the_same_message(cmq: Cmq) -> None:
    await send(cmq, *(str(number) for number in range(40)))
    bodies: list[str] = []

    async def drain() -> None:
        while len(bodies) < 40:
            await anyio.lowlevel.checkpoint()  # a refusal may come without any: let the others on
            with contextlib.suppress(ClassicError):  # others hold all that is left
                answer = await cmq.classic("BatchReceiveMessage", {**QUEUE, "numOfMsg": "3"})
                bodies.extend(each["msgBody"] for each in answer["msgInfoList"])

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(drain)
    assert sorted(bodies, key=int) == [str(number) for number in range(40)]
