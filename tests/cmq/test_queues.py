"""The actions of tdmq on queues: attributes, dead letters, rewinding, clearing, tags, limits."""

import contextlib
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from gateway.cmq import queue_messages, queue_statements, queues
from gateway.cmq.queues import Queue
from gateway.errors import (
    ApiError,
    ClassicError,
    FailedOperation,
    InvalidFilter,
    InvalidParameterValue,
    LimitExceeded,
    MissingParameter,
    ResourceInUse,
    ResourceNotFound,
    UnsupportedOperation,
)
from gateway.events import outbox
from gateway.ids import new_id
from gateway.protocol import classic_pair
from gateway.store import Store, Tx
from tests.support.cmq import Cmq
from tests.support.events import NOW, OWNER, REGION, asks, job_event, stream

pytestmark = pytest.mark.anyio

REFUSED: list[tuple[dict[str, Any], type[ApiError]]] = [
    ({"MaxMsgHeapNum": 999_999}, InvalidParameterValue),
    ({"PollingWaitSeconds": 31}, InvalidParameterValue),
    ({"VisibilityTimeout": 0}, InvalidParameterValue),
    ({"VisibilityTimeout": 43_201}, InvalidParameterValue),
    ({"MaxMsgSize": 1_048_577}, InvalidParameterValue),
    ({"MsgRetentionSeconds": 29}, InvalidParameterValue),
    ({"RewindSeconds": 1_296_001}, InvalidParameterValue),
    ({"RewindSeconds": 60, "RetentionSizeInMB": 10_239}, InvalidParameterValue),
    ({"RewindSeconds": 60, "RetentionSizeInMB": 512_001}, InvalidParameterValue),
    ({"RetentionSizeInMB": 10_240}, InvalidParameterValue),
    ({"Transaction": 1}, UnsupportedOperation),
    ({"FirstQueryInterval": 1}, UnsupportedOperation),
    ({"MaxQueryCount": 1}, UnsupportedOperation),
    ({"Policy": 0, "MaxReceiveCount": 1}, InvalidParameterValue),
    ({"DeadLetterQueueName": "dead"}, MissingParameter),
    ({"DeadLetterQueueName": "dead", "Policy": 1, "MaxReceiveCount": 3}, MissingParameter),
    ({"DeadLetterQueueName": "dead", "Policy": 2}, InvalidParameterValue),
    ({"DeadLetterQueueName": "dead", "MaxReceiveCount": 0}, InvalidParameterValue),
    ({"DeadLetterQueueName": "dead", "MaxReceiveCount": 1_001}, InvalidParameterValue),
    (
        {"DeadLetterQueueName": "dead", "Policy": 1, "MaxTimeToLive": 299},
        InvalidParameterValue,
    ),
    (
        {
            "DeadLetterQueueName": "dead",
            "Policy": 1,
            "MaxTimeToLive": 300,
            "MsgRetentionSeconds": 300,
        },
        InvalidParameterValue,
    ),
    ({"DeadLetterQueueName": "events", "MaxReceiveCount": 1}, InvalidParameterValue),
    ({"DeadLetterQueueName": "absent", "MaxReceiveCount": 1}, ResourceNotFound),
    ({"Tags": [{"TagKey": "k", "TagValue": "v"}] * 2}, InvalidParameterValue),
    ({"QueueName": "1st"}, InvalidParameterValue),
    ({"QueueName": "DEAD"}, ResourceInUse),
]


async def make(cmq: Cmq, name: str = "events", **attributes: Any) -> str:
    made = await cmq.call("CreateCmqQueue", QueueName=name, **attributes)
    queue_id: str = made["QueueId"]
    return queue_id


async def make_with_dead_letters(cmq: Cmq, **rule: Any) -> None:
    """Queue `events`, whose dead letters go to `dead`."""
    await make(cmq, "dead", MsgRetentionSeconds=1_000)
    await make(cmq, DeadLetterQueueName="dead", **rule)


async def shown(cmq: Cmq, name: str = "events") -> dict[str, Any]:
    answer = await cmq.call("DescribeCmqQueueDetail", QueueName=name)
    queue: dict[str, Any] = answer["QueueDescribe"]
    return queue


async def send(cmq: Cmq, *bodies: str, delay: int = 0) -> None:
    for body in bodies:
        await cmq.call("SendCmqMsg", QueueName="events", MsgContent=body, DelaySeconds=delay)


async def refuses(cmq: Cmq, action: str, /, **params: Any) -> type[ApiError]:
    with pytest.raises(ApiError) as caught:
        await cmq.call(action, **params)
    return type(caught.value)


async def delete_one(cmq: Cmq, queue: str = "events") -> dict[str, Any]:
    """Receive and delete a message; returns it."""
    message = await cmq.receive(queue)
    handle = {"queueName": queue, "receiptHandle": message["receiptHandle"]}
    await cmq.classic("DeleteMessage", handle)
    return message


async def test_a_queue_is_shown_with_every_attribute_it_was_made_with(cmq: Cmq) -> None:
    await make(cmq, "dead")
    queue_id = await make(
        cmq,
        MaxMsgHeapNum=2_000_000,
        PollingWaitSeconds=5,
        VisibilityTimeout=60,
        MaxMsgSize=2_048,
        MsgRetentionSeconds=7_200,
        RewindSeconds=1_296_000,
        RetentionSizeInMB=10_240,
        Transaction=0,
        DeadLetterQueueName="dead",
        Policy=1,
        MaxTimeToLive=300,
        MaxReceiveCount=7,
        Trace=True,
        Tags=[{"TagKey": "team", "TagValue": "blue"}],
    )
    members = {
        "QueueId": queue_id,
        "MaxMsgHeapNum": 2_000_000,
        "PollingWaitSeconds": 5,
        "VisibilityTimeout": 60,
        "MaxMsgSize": 2_048,
        "MsgRetentionSeconds": 7_200,
        "RewindSeconds": 1_296_000,
        "RetentionSizeInMB": 10_240,
        "Transaction": False,
        "Trace": True,
        "DeadLetterPolicy": {
            "DeadLetterQueue": "dead",
            "Policy": 1,
            "MaxTimeToLive": 300,
            "MaxReceiveCount": 7,
        },
        "DeadLetterSource": [],
        "Tags": [{"TagKey": "team", "TagValue": "blue"}],
    }
    found = await shown(cmq)
    assert {name: found[name] for name in members} == members
    sources = (await shown(cmq, "dead"))["DeadLetterSource"]
    assert sources == [{"QueueId": queue_id, "QueueName": "events"}]


async def test_a_queue_that_cannot_be_is_refused_and_not_made(cmq: Cmq) -> None:
    await make(cmq, "dead")
    events = {"QueueName": "events"}
    found = [
        (params, await refuses(cmq, "CreateCmqQueue", **{**events, **params}))
        for params, _ in REFUSED
    ]
    assert found == REFUSED
    assert (await cmq.call("DescribeCmqQueues"))["TotalCount"] == 1


async def test_what_is_modified_changes_and_the_rest_stays(cmq: Cmq) -> None:
    await make(cmq, VisibilityTimeout=60, RewindSeconds=60, RetentionSizeInMB=20_000, Trace=True)
    before = await shown(cmq)
    cmq.pass_time(seconds=5)
    await cmq.call("ModifyCmqQueueAttribute", QueueName="events", PollingWaitSeconds=3, Trace=False)
    after = await shown(cmq)
    changes = {"PollingWaitSeconds": 3, "Trace": False}
    assert after == {**before, **changes, "LastModifyTime": before["LastModifyTime"] + 5_000}
    await cmq.call("ModifyCmqQueueAttribute", QueueName="events", RewindSeconds=0)
    off = await shown(cmq)
    assert (off["RewindSeconds"], off["RetentionSizeInMB"]) == (0, 0)


async def test_a_change_that_cannot_be_changes_nothing(cmq: Cmq) -> None:
    await make_with_dead_letters(cmq, Policy=1, MaxTimeToLive=600, MsgRetentionSeconds=700)
    before = await shown(cmq)
    for params in (
        {"VisibilityTimeout": 5, "MsgRetentionSeconds": 600},
        {"VisibilityTimeout": 5, "MaxTimeToLive": 700},
        {"VisibilityTimeout": 5, "RetentionSizeInMB": 10_240},
        {"VisibilityTimeout": 5, "DeadLetterQueueName": "events"},
    ):
        refusal = await refuses(cmq, "ModifyCmqQueueAttribute", QueueName="events", **params)
        assert refusal is InvalidParameterValue
    assert await shown(cmq) == before
    assert await refuses(cmq, "ModifyCmqQueueAttribute", QueueName="absent") is ResourceNotFound


async def test_a_message_received_too_often_goes_to_the_dead_letters(cmq: Cmq) -> None:
    await make_with_dead_letters(cmq, Policy=0, MaxReceiveCount=2)
    await send(cmq, "poison", "good")
    ids = set()
    for _ in range(2):
        message = await cmq.receive()
        assert message["msgBody"] == "poison"
        ids.add(message["msgId"])
        cmq.pass_time(seconds=30)
    assert (await delete_one(cmq))["msgBody"] == "good"
    moved = await cmq.receive("dead")
    assert (moved["msgBody"], moved["dequeueCount"]) == ("poison", 1)
    assert {moved["msgId"]} == ids
    assert (await shown(cmq))["ActiveMsgNum"] == 0


async def test_many_dead_letters_do_not_hide_the_message_behind_them(cmq: Cmq) -> None:
    await make_with_dead_letters(cmq, Policy=0, MaxReceiveCount=1)
    queue = await cmq.store.read_point(find)
    dead = [(f"dead-{number}", b"dead") for number in range(queue_messages.ROUNDS_MAX + 10)]
    await cmq.store.write(lambda tx: queue_messages.send(tx, queue, dead, now=cmq.now, delay_s=0))
    for _ in range(len(dead)):
        await cmq.receive()
    cmq.pass_time(seconds=30)
    await send(cmq, "good")
    assert (await cmq.receive())["msgBody"] == "good"
    assert (await shown(cmq, "dead"))["ActiveMsgNum"] == len(dead)


def find(tx: Tx) -> Queue:
    return queues.get_queue(tx, OWNER, region=REGION, name="events")


async def test_a_message_that_is_there_too_long_goes_to_the_dead_letters(cmq: Cmq) -> None:
    await make_with_dead_letters(cmq, Policy=1, MaxTimeToLive=300)
    await send(cmq, "old")
    await send(cmq, "late", delay=299)
    cmq.pass_time(seconds=299)
    assert (await cmq.receive())["msgBody"] == "old"
    cmq.pass_time(seconds=30)
    assert (await cmq.receive())["msgBody"] == "late"
    assert (await cmq.receive("dead"))["msgBody"] == "old"


async def test_a_long_queue_is_handed_out_in_order_past_what_others_hold(cmq: Cmq) -> None:
    await make(cmq)
    queue = await cmq.store.read_point(find)
    many = [(f"{number}", f"{number}".encode()) for number in range(queue_statements.MANY + 20)]
    await cmq.store.write(lambda tx: queue_messages.send(tx, queue, many, now=cmq.now, delay_s=0))
    batch = {"queueName": "events", "numOfMsg": "16"}
    bodies: list[str] = []
    while len(bodies) < len(many):
        answer = await cmq.classic("BatchReceiveMessage", batch)
        bodies += [each["msgBody"] for each in answer["msgInfoList"]]
    assert bodies == [body for body, _ in many]


async def test_receivers_at_once_set_each_dead_letter_aside_once(cmq: Cmq) -> None:
    await make_with_dead_letters(cmq, Policy=0, MaxReceiveCount=1)
    poison = [f"poison {number}" for number in range(20)]
    good = [f"good {number}" for number in range(20)]
    await send(cmq, *poison)
    for _ in poison:
        await cmq.receive()
    cmq.pass_time(seconds=30)
    await send(cmq, *good)
    bodies: list[str] = []

    async def drain() -> None:
        while len(bodies) < len(good):
            await anyio.lowlevel.checkpoint()
            with contextlib.suppress(ClassicError):  # others hold all that is left
                bodies.append((await cmq.receive())["msgBody"])

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(drain)
    assert sorted(bodies) == sorted(good)
    set_aside = {"queueName": "dead", "numOfMsg": "16"}
    answers = [await cmq.classic("BatchReceiveMessage", set_aside) for _ in range(2)]
    moved = [each["msgBody"] for answer in answers for each in answer["msgInfoList"]]
    assert sorted(moved) == sorted(poison)


async def test_queues_bound_to_each_other_at_once_do_not_nest(cmq: Cmq) -> None:
    refused: list[str] = []

    async def bind(source: str, target: str) -> None:
        rule: dict[str, Any] = {"DeadLetterQueueName": target, "MaxReceiveCount": 1}
        try:
            await cmq.call("ModifyCmqQueueAttribute", QueueName=source, **rule)
        except FailedOperation:
            refused.append(source)

    for number in range(5):
        one, other = f"a{number}", f"b{number}"
        for name in (one, other):
            await make(cmq, name)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bind, one, other)
            tasks.start_soon(bind, other, one)
    assert len(refused) == 5


async def test_rules_are_merged_when_modified_and_end_when_unbound(cmq: Cmq) -> None:
    await make_with_dead_letters(cmq, Policy=0, MaxReceiveCount=2)
    await cmq.call("ModifyCmqQueueAttribute", QueueName="events", MaxReceiveCount=9)
    policy = (await shown(cmq))["DeadLetterPolicy"]
    assert (policy["DeadLetterQueue"], policy["Policy"]) == ("dead", 0)
    assert policy["MaxReceiveCount"] == 9
    await cmq.call("UnbindCmqDeadLetter", SourceQueueName="events")
    assert (await shown(cmq))["DeadLetterPolicy"] is None
    assert (await shown(cmq, "dead"))["DeadLetterSource"] == []
    again = await refuses(cmq, "ModifyCmqQueueAttribute", QueueName="events", MaxReceiveCount=9)
    assert again is InvalidParameterValue
    assert await refuses(cmq, "UnbindCmqDeadLetter", SourceQueueName="absent") is ResourceNotFound


async def test_dead_letters_do_not_nest(cmq: Cmq) -> None:
    await make_with_dead_letters(cmq, MaxReceiveCount=2)
    rule: dict[str, Any] = {"MaxReceiveCount": 2}
    above = await refuses(
        cmq, "CreateCmqQueue", QueueName="above", DeadLetterQueueName="events", **rule
    )
    await make(cmq, "below")
    below = await refuses(
        cmq, "ModifyCmqQueueAttribute", QueueName="dead", DeadLetterQueueName="below", **rule
    )
    assert (above, below) == (FailedOperation, FailedOperation)


async def test_a_queue_takes_the_dead_letters_of_six_others_at_most(cmq: Cmq) -> None:
    await make(cmq, "dead")
    rule: dict[str, Any] = {"DeadLetterQueueName": "dead", "MaxReceiveCount": 2}
    for number in range(6):
        await make(cmq, f"source{number}", **rule)
    assert await refuses(cmq, "CreateCmqQueue", QueueName="more", **rule) is FailedOperation
    await cmq.call("ModifyCmqQueueAttribute", QueueName="source0", **rule)
    await cmq.call("UnbindCmqDeadLetter", SourceQueueName="source0")
    await make(cmq, "more", **rule)


async def test_a_queue_that_takes_dead_letters_is_not_deleted(cmq: Cmq) -> None:
    await make_with_dead_letters(cmq, MaxReceiveCount=2)
    with pytest.raises(FailedOperation, match="events"):
        await cmq.call("DeleteCmqQueue", QueueName="dead")
    await cmq.call("DeleteCmqQueue", QueueName="events")
    await cmq.call("DeleteCmqQueue", QueueName="dead")


async def test_a_rewound_queue_hands_out_again_what_was_deleted(cmq: Cmq) -> None:
    await make(cmq, RewindSeconds=3_600)
    await send(cmq, "before")
    await delete_one(cmq)
    cmq.pass_time(seconds=60)
    start = int(cmq.now.timestamp())
    await send(cmq, "1", "2")
    for _ in range(2):
        await delete_one(cmq)
    assert (await shown(cmq))["RewindMsgNum"] == 3
    await cmq.call("RewindCmqQueue", QueueName="events", StartConsumeTime=start)
    held = await shown(cmq)
    assert (held["RewindMsgNum"], held["ActiveMsgNum"]) == (1, 2)
    again = await cmq.receive()
    assert (again["msgBody"], again["dequeueCount"]) == ("1", 1)
    in_milliseconds = int(NOW.timestamp()) * 1_000
    await cmq.call("RewindCmqQueue", QueueName="events", StartConsumeTime=in_milliseconds)
    assert (await shown(cmq))["RewindMsgNum"] == 0


async def test_more_messages_than_one_transaction_changes_are_rewound_and_cleared(
    cmq: Cmq,
) -> None:
    await make(cmq, RewindSeconds=60)
    queue = await cmq.store.read_point(find)
    many = [(f"m{number}", b"m") for number in range(queue_messages.PAGE + 5)]

    def send_and_delete(tx: Tx) -> None:
        queue_messages.send(tx, queue, many, now=cmq.now, delay_s=0)
        taken = queue_messages.receive(
            tx, queue, count=len(many), now=cmq.now, new_secret=lambda length: "s" * length
        )
        for each in taken.messages:
            assert queue_messages.delete(tx, queue, receipt=each.receipt, now=cmq.now)

    await cmq.store.write(send_and_delete)
    await cmq.call("RewindCmqQueue", QueueName="events", StartConsumeTime=0)
    held = await shown(cmq)
    assert (held["RewindMsgNum"], held["ActiveMsgNum"]) == (0, len(many))
    await cmq.call("ClearCmqQueue", QueueName="events")
    assert (await shown(cmq))["ActiveMsgNum"] == 0


async def test_what_is_no_longer_kept_cannot_be_rewound(cmq: Cmq) -> None:
    await make(cmq, RewindSeconds=60)
    await send(cmq, "1")
    await delete_one(cmq)
    cmq.pass_time(seconds=60)
    await cmq.call("RewindCmqQueue", QueueName="events", StartConsumeTime=0)
    held = await shown(cmq)
    assert (held["RewindMsgNum"], held["ActiveMsgNum"]) == (0, 0)


async def test_a_rewind_that_cannot_be_is_refused(cmq: Cmq) -> None:
    await make(cmq)
    await make(cmq, "kept", RewindSeconds=60)
    off = {"QueueName": "events", "StartConsumeTime": 0}
    assert issubclass(await refuses(cmq, "RewindCmqQueue", **off), FailedOperation)
    later = int(NOW.timestamp()) + 60
    for start in (later, -1, 2**63 - 1):
        params = {"QueueName": "kept", "StartConsumeTime": start}
        assert await refuses(cmq, "RewindCmqQueue", **params) is InvalidParameterValue
    absent = {"QueueName": "absent", "StartConsumeTime": 0}
    assert await refuses(cmq, "RewindCmqQueue", **absent) is ResourceNotFound
    assert await refuses(cmq, "RewindCmqQueue", QueueName="kept") is MissingParameter


async def test_clearing_drops_all_that_one_queue_holds(cmq: Cmq) -> None:
    await make(cmq, RewindSeconds=60)
    await make(cmq, "other")
    await cmq.call("SendCmqMsg", QueueName="other", MsgContent="stays", DelaySeconds=0)
    await send(cmq, "1", "2", "3")
    await send(cmq, "later", delay=60)
    await delete_one(cmq)
    await cmq.receive()
    await cmq.call("ClearCmqQueue", QueueName="events")
    held = await shown(cmq)
    counts = ("ActiveMsgNum", "InactiveMsgNum", "DelayMsgNum", "RewindMsgNum", "MinMsgTime")
    assert [held[name] for name in counts] == [0] * 5
    assert (await shown(cmq, "other"))["ActiveMsgNum"] == 1
    assert await refuses(cmq, "ClearCmqQueue", QueueName="absent") is ResourceNotFound


async def test_a_full_queue_refuses_a_sender_and_takes_what_a_topic_delivers(cmq: Cmq) -> None:
    await cmq.subscribe_queue()

    def narrow(tx: Tx) -> None:
        queues.change(tx, replace(find(tx), max_messages=2), now=cmq.now)

    await cmq.store.write(narrow)
    await make(cmq, "other")
    await send(cmq, "1")
    for _ in range(5):  # positions that are not this queue's do not count
        await cmq.call("SendCmqMsg", QueueName="other", MsgContent="m", DelaySeconds=0)
    await send(cmq, "2")
    with pytest.raises(FailedOperation, match="2 messages"):
        await send(cmq, "3")
    await cmq.store.write(
        lambda tx: outbox.append(tx, stream(), [job_event(1)], notifications=[asks()], now=cmq.now)
    )
    await cmq.expand()
    assert (await shown(cmq))["ActiveMsgNum"] == 3
    for _ in range(2):
        await delete_one(cmq)
    await send(cmq, "3")


async def test_lists_are_narrowed_by_tags(cmq: Cmq) -> None:
    for name, value in (("a", "blue"), ("b", "red"), ("c", "blue")):
        await make(cmq, name, Tags=[{"TagKey": "team", "TagValue": value}])
    await make(cmq, "d")
    blue = [{"Name": "tag:team", "Values": ["blue"]}]
    found = await cmq.call("DescribeCmqQueues", Filters=blue, IsTagFilter=True, Limit=1)
    assert (found["TotalCount"], [each["QueueName"] for each in found["QueueList"]]) == (2, ["a"])
    by_name = [{"Name": "name", "Values": ["a"]}]
    assert await refuses(cmq, "DescribeCmqQueues", Filters=by_name) is InvalidFilter


async def test_a_deleted_queue_leaves_no_tags_for_the_next_of_its_name(cmq: Cmq) -> None:
    await make(cmq, Tags=[{"TagKey": "team", "TagValue": "blue"}])
    await cmq.call("DeleteCmqQueue", QueueName="events")
    await make(cmq)
    assert (await shown(cmq))["Tags"] == []


async def test_under_the_vendors_quotas_a_region_has_a_thousand_queues(store: Store) -> None:
    cmq = Cmq(store, None, cloud_limits=True)
    await make(cmq, "q0")
    first = await store.read_point(lambda tx: queues.get_queue(tx, OWNER, region=REGION, name="q0"))

    def fill(tx: Tx) -> None:
        for number in range(1, 1_000):
            queues.create(tx, replace(first, id=new_id("queue"), name=f"q{number}"))

    await store.write(fill)
    assert await refuses(cmq, "CreateCmqQueue", QueueName="more") is LimitExceeded
    with pytest.raises(LimitExceeded) as caught:
        await cmq.classic("CreateQueue", {"queueName": "more"})
    assert classic_pair(caught.value) == (4450, 10220)
    await cmq.call("CreateCmqQueue", QueueName="more", region="ap-beijing")
    await make(Cmq(store, None), "more")


async def test_a_message_may_be_delayed_for_as_long_as_the_queue_keeps_one(cmq: Cmq) -> None:
    await cmq.call("CreateCmqQueue", QueueName="events", MsgRetentionSeconds=60)
    await cmq.call("SendCmqMsg", QueueName="events", MsgContent="late", DelaySeconds=60)
    cmq.pass_time(seconds=61)
    assert (await cmq.receive())["msgBody"] == "late"
    cmq.pass_time(seconds=60)
    with pytest.raises(ClassicError):
        await cmq.receive()
