"""Queues through the classic API: made, changed, listed, rewound; batches; numbered errors."""

from dataclasses import replace
from typing import Any

import pytest

from gateway.cmq import queues, retention
from gateway.errors import ApiError
from gateway.protocol import classic_pair
from gateway.store import Tx
from tests.support.cmq import Cmq
from tests.support.events import NOW, OWNER, REGION

pytestmark = pytest.mark.anyio

EVENTS = {"queueName": "events"}
SECONDS = int(NOW.timestamp())
REFUSED: list[tuple[str, dict[str, str], tuple[int, int]]] = [
    ("CreateQueue", {}, (4460, 10210)),
    ("CreateQueue", {"queueName": "EVENTS"}, (4460, 10210)),
    ("CreateQueue", {"queueName": "1st"}, (4000, 10020)),
    ("CreateQueue", {"queueName": "q" * 65}, (4000, 10020)),
    ("CreateQueue", {"queueName": "new", "maxMsgHeapNum": "999999"}, (4000, 10350)),
    ("CreateQueue", {"queueName": "new", "pollingWaitSeconds": "31"}, (4000, 10350)),
    ("CreateQueue", {"queueName": "new", "visibilityTimeout": "0"}, (4000, 10350)),
    ("CreateQueue", {"queueName": "new", "maxMsgSize": "1023"}, (4000, 10350)),
    ("CreateQueue", {"queueName": "new", "msgRetentionSeconds": "59"}, (4000, 10350)),
    ("CreateQueue", {"queueName": "new", "rewindSeconds": "43201"}, (4000, 10350)),
    ("CreateQueue", {"queueName": "new", "maxMsgSize": "big"}, (4000, 10360)),
    ("CreateQueue", {"queueName": "new", "colour": "red"}, (4000, 10320)),
    ("CreateQueue", {"queueName": "new", "maxMsgSize.1": "1024"}, (4000, 10330)),
    ("SetQueueAttributes", {"visibilityTimeout": "43201"}, (4000, 10350)),
    ("SetQueueAttributes", {"visiblityTimeout": "5"}, (4000, 10320)),
    ("SetQueueAttributes", {"queueName": "Events"}, (4440, 10100)),
    ("ListQueue", {"offset": "1"}, (4000, 10390)),
    ("ListQueue", {"queueName": "events", "limit": "51"}, (4000, 10320)),
    ("ListQueue", {"limit": "51"}, (4000, 10350)),
    ("ListQueue", {"searchWord": "q" * 65}, (4000, 10350)),
    ("GetQueueAttributes", {"queueName": "absent"}, (4440, 10100)),
    ("DeleteQueue", {"queueName": "absent"}, (4440, 10100)),
    ("RewindQueue", {"startConsumeTime": "0"}, (6050, 10670)),
    ("RewindQueue", {"queueName": "kept", "startConsumeTime": "x"}, (4000, 10360)),
    ("RewindQueue", {"queueName": "kept", "startConsumeTime": "9999999999"}, (4000, 10350)),
    ("RewindQueue", {"queueName": "kept"}, (4000, 10390)),
    ("RewindQueue", {"queueName": "absent", "startConsumeTime": "0"}, (4440, 10100)),
    ("SendMessage", {"msgBody": "m", "delaySeconds": "345601"}, (4000, 10692)),
    ("SendMessage", {"queueName": "absent", "msgBody": "m"}, (4440, 10100)),
    ("SendMessage", {"queueName": "full", "msgBody": "m"}, (4410, 10240)),
    ("BatchSendMessage", {}, (4000, 10390)),
    ("BatchSendMessage", {"msgBody": "m"}, (4000, 10310)),
    ("BatchSendMessage", {"msgBody.1": "m", "msgBody.3": "m"}, (4000, 10380)),
    ("BatchSendMessage", {"msgBody.1": "m", "msgBody.2": ""}, (4000, 10120)),
    ("BatchSendMessage", {f"msgBody.{n}": "m" for n in range(17)}, (4000, 10370)),
    ("BatchSendMessage", {f"msgBody.{n}": "m" * 600_000 for n in range(2)}, (4470, 10300)),
    ("BatchSendMessage", {"queueName": "full", "msgBody.1": "m"}, (4410, 10240)),
    ("DeleteMessage", {"queueName": "absent", "receiptHandle": "1-a"}, (4440, 10100)),
    ("ReceiveMessage", {"queueName": "absent"}, (4440, 10100)),
]


async def refuses(cmq: Cmq, action: str, /, **params: str) -> tuple[int, int]:
    one = {} if action == "ListQueue" else EVENTS
    with pytest.raises(ApiError) as caught:
        await cmq.classic(action, {**one, **params})
    return classic_pair(caught.value)


async def test_a_queue_is_made_shown_changed_and_deleted(cmq: Cmq) -> None:
    asked = {"visibilityTimeout": "60", "rewindSeconds": "43200", "maxMsgHeapNum": "1000000"}
    made = await cmq.classic("CreateQueue", {**EVENTS, **asked})
    listed = await cmq.classic("ListQueue", {})
    queue = {"queueId": made["queueId"], "queueName": "events"}
    assert listed == {"totalCount": 1, "queueList": [queue]}
    cmq.pass_time(seconds=9)
    await cmq.classic("SetQueueAttributes", {**EVENTS, "pollingWaitSeconds": "1"})
    await cmq.classic("SendMessage", {**EVENTS, "msgBody": "m"})
    await cmq.classic("SendMessage", {**EVENTS, "msgBody": "m", "delaySeconds": "5"})
    assert await cmq.classic("GetQueueAttributes", EVENTS) == {
        "maxMsgHeapNum": 1_000_000,
        "pollingWaitSeconds": 1,
        "visibilityTimeout": 60,
        "maxMsgSize": 1_048_576,
        "msgRetentionSeconds": 345_600,
        "createTime": SECONDS,
        "lastModifyTime": SECONDS + 9,
        "activeMsgNum": 1,
        "inactiveMsgNum": 0,
        "rewindSeconds": 43_200,
        "rewindMsgNum": 0,
        "minMsgTime": SECONDS + 9,
        "delayMsgNum": 1,
    }
    assert await cmq.classic("DeleteQueue", EVENTS) == {}
    assert await refuses(cmq, "GetQueueAttributes") == (4440, 10100)


async def test_lists_are_searched_and_paged(cmq: Cmq) -> None:
    for name in ("alpha", "beta", "gamma"):
        await cmq.classic("CreateQueue", {"queueName": name})
    page = await cmq.classic("ListQueue", {"offset": "1", "limit": "1"})
    assert (page["totalCount"], page["queueList"][0]["queueName"]) == (3, "beta")
    found = await cmq.classic("ListQueue", {"searchWord": "GAM"})
    assert [each["queueName"] for each in found["queueList"]] == ["gamma"]


async def test_a_batch_is_sent_whole_and_in_order(cmq: Cmq) -> None:
    await cmq.classic("CreateQueue", EVENTS)
    bodies = {f"msgBody.{number}": f"body {number}" for number in range(1, 17)}
    sent = await cmq.classic("BatchSendMessage", {**EVENTS, **bodies})
    received = await cmq.classic("BatchReceiveMessage", {**EVENTS, "numOfMsg": "16"})
    assert [each["msgId"] for each in received["msgInfoList"]] == [
        each["msgId"] for each in sent["msgList"]
    ]
    assert [each["msgBody"] for each in received["msgInfoList"]] == list(bodies.values())


async def test_what_cannot_be_has_a_number_of_its_own(cmq: Cmq) -> None:
    for name, rewind in (("events", "0"), ("kept", "60"), ("full", "0")):
        await cmq.classic("CreateQueue", {"queueName": name, "rewindSeconds": rewind})

    def fill(tx: Tx) -> None:
        full = queues.get_queue(tx, OWNER, region=REGION, name="full")
        queues.change(tx, replace(full, max_messages=1), now=cmq.now)

    await cmq.store.write(fill)
    await cmq.classic("SendMessage", {"queueName": "full", "msgBody": "m"})
    found = [
        (action, params, await refuses(cmq, action, **params)) for action, params, _ in REFUSED
    ]
    assert found == REFUSED


async def test_a_message_too_large_for_its_queue_takes_its_batch_along(cmq: Cmq) -> None:
    await cmq.classic("CreateQueue", {**EVENTS, "maxMsgSize": "1024"})
    batch = {"msgBody.1": "small", "msgBody.2": "x" * 1_025}
    assert await refuses(cmq, "BatchSendMessage", **batch) == (4400, 10230)
    assert await refuses(cmq, "ReceiveMessage") == (7000, 10200)


async def test_what_the_classic_sdk_adds_is_accepted(cmq: Cmq) -> None:
    await cmq.classic("CreateQueue", {**EVENTS, "clientRequestId": "1"})
    waits = {"UserpollingWaitSeconds": "0", "pollingWaitSeconds": "0"}
    assert await refuses(cmq, "ReceiveMessage", **waits) == (7000, 10200)


async def test_a_wrong_wait_is_refused_though_a_message_is_there(cmq: Cmq) -> None:
    await cmq.classic("CreateQueue", EVENTS)
    await cmq.classic("SendMessage", {**EVENTS, "msgBody": "m"})
    assert await refuses(cmq, "ReceiveMessage", pollingWaitSeconds="31") == (4000, 10350)
    assert (await cmq.receive())["dequeueCount"] == 1


async def test_a_fed_queue_and_one_that_takes_dead_letters_are_not_deleted(cmq: Cmq) -> None:
    await cmq.subscribe_queue()
    assert await refuses(cmq, "DeleteQueue") == (4000, 10540)
    rule: dict[str, Any] = {"DeadLetterQueueName": "dead", "MaxReceiveCount": 1}
    await cmq.call("CreateCmqQueue", QueueName="dead")
    await cmq.call("ModifyCmqQueueAttribute", QueueName="events", **rule)
    assert await refuses(cmq, "DeleteQueue", queueName="dead") == (4000, 10540)


async def test_a_retention_that_dead_letters_forbid_is_out_of_range(cmq: Cmq) -> None:
    await cmq.call("CreateCmqQueue", QueueName="dead")
    rule: dict[str, Any] = {"DeadLetterQueueName": "dead", "Policy": 1, "MaxTimeToLive": 300}
    await cmq.call("CreateCmqQueue", QueueName="events", **rule)
    assert await refuses(cmq, "SetQueueAttributes", msgRetentionSeconds="300") == (4000, 10350)


async def test_a_queue_is_rewound_to_a_second(cmq: Cmq) -> None:
    await cmq.classic("CreateQueue", {**EVENTS, "rewindSeconds": "600"})
    for body in ("early", "late"):
        await cmq.classic("SendMessage", {**EVENTS, "msgBody": body})
        handle = (await cmq.receive())["receiptHandle"]
        await cmq.classic("DeleteMessage", {**EVENTS, "receiptHandle": handle})
        assert await refuses(cmq, "DeleteMessage", receiptHandle=handle) == (4430, 10260)
        cmq.pass_time(seconds=10)
    assert await refuses(cmq, "ReceiveMessage") == (7000, 10200)
    await cmq.classic("RewindQueue", {**EVENTS, "startConsumeTime": str(SECONDS + 10)})
    assert (await cmq.receive())["msgBody"] == "late"
    assert await refuses(cmq, "ReceiveMessage") == (7000, 10200)


async def test_the_sweeper_sets_aside_and_drops_what_no_receiver_meets(cmq: Cmq) -> None:
    await cmq.call("CreateCmqQueue", QueueName="dead")
    rule: dict[str, Any] = {"DeadLetterQueueName": "dead", "Policy": 1, "MaxTimeToLive": 300}
    await cmq.call("CreateCmqQueue", QueueName="events", MsgRetentionSeconds=301, **rule)
    await cmq.call("CreateCmqQueue", QueueName="plain", MsgRetentionSeconds=300)
    for name in ("events", "plain"):
        await cmq.classic("SendMessage", {"queueName": name, "msgBody": name})
    cmq.pass_time(seconds=1_000)
    await retention.sweep(cmq.store, clock=lambda: cmq.now)
    assert (await cmq.receive("dead"))["msgBody"] == "events"
    assert await refuses(cmq, "ReceiveMessage", queueName="plain") == (7000, 10200)
