"""Queues by the official SDK, which makes and rewinds them, and the classic API, which reads."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tencentcloud.tdmq.v20200217 import models

from tests.support.classic import ClassicClient, ClassicRefused
from tests.support.policies import OWNER, allow, deny, write_policies
from tests.support.running import Gateway, Refused
from tests.support.sdk import Sdk

NOT_EXISTED, EXISTED, CANNOT_REWIND = 4440, 4460, 6050


@pytest.fixture(scope="module")
def sdk(gateway: Gateway) -> Sdk:
    return Sdk(gateway, gateway.root)


@pytest.fixture(scope="module")
def classic(gateway: Gateway) -> ClassicClient:
    return ClassicClient(gateway, gateway.root)


def receive(classic: ClassicClient, queue: str) -> tuple[str, str]:
    """The body and the handle of a message, waiting for it."""
    message = classic("ReceiveMessage", queueName=queue, pollingWaitSeconds="30")
    return message["msgBody"], message["receiptHandle"]


def test_typed_requests_of_the_sdk_make_change_and_unbind_a_queue(sdk: Sdk) -> None:
    sdk("CreateCmqQueue", QueueName="typed-dead")
    create = models.CreateCmqQueueRequest()
    create.QueueName, create.RewindSeconds, create.RetentionSizeInMB = "typed", 600, 10_240
    create.DeadLetterQueueName, create.Policy, create.MaxReceiveCount = "typed-dead", 0, 3
    tag = models.Tag()
    tag.TagKey, tag.TagValue = "team", "blue"
    create.Tags = [tag]
    made = sdk.tdmq.CreateCmqQueue(create)
    change = models.ModifyCmqQueueAttributeRequest()
    change.QueueName, change.VisibilityTimeout, change.MaxReceiveCount = "typed", 60, 4
    sdk.tdmq.ModifyCmqQueueAttribute(change)
    ask = models.DescribeCmqQueueDetailRequest()
    ask.QueueName = "typed"
    shown = sdk.tdmq.DescribeCmqQueueDetail(ask).QueueDescribe
    assert (shown.QueueId, shown.VisibilityTimeout) == (made.QueueId, 60)
    assert (shown.RewindSeconds, shown.RetentionSizeInMB) == (600, 10_240)
    assert shown.DeadLetterPolicy.DeadLetterQueue == "typed-dead"
    assert shown.DeadLetterPolicy.MaxReceiveCount == 4
    assert [(each.TagKey, each.TagValue) for each in shown.Tags] == [("team", "blue")]
    unbind = models.UnbindCmqDeadLetterRequest()
    unbind.SourceQueueName = "typed"
    sdk.tdmq.UnbindCmqDeadLetter(unbind)
    assert sdk.tdmq.DescribeCmqQueueDetail(ask).QueueDescribe.DeadLetterPolicy is None


def test_what_was_deleted_comes_back_when_the_queue_is_rewound(
    sdk: Sdk, classic: ClassicClient
) -> None:
    sdk("CreateCmqQueue", QueueName="rewound", RewindSeconds=600)
    for body in ("1", "2"):
        sdk("SendCmqMsg", QueueName="rewound", MsgContent=body, DelaySeconds=0)
    assert classic.drain("rewound", count=2) == ["1", "2"]
    assert classic.is_empty("rewound")
    an_hour_ago = int(time.time()) - 3_600
    sdk("RewindCmqQueue", QueueName="rewound", StartConsumeTime=an_hour_ago)
    assert classic.drain("rewound", count=2) == ["1", "2"]
    classic("RewindQueue", queueName="rewound", startConsumeTime=str(an_hour_ago))
    sdk("ClearCmqQueue", QueueName="rewound")
    assert classic.is_empty("rewound")


def test_poison_ends_among_the_dead_letters(sdk: Sdk, classic: ClassicClient) -> None:
    sdk("CreateCmqQueue", QueueName="undelivered")
    sdk(
        "CreateCmqQueue",
        QueueName="work",
        VisibilityTimeout=1,
        DeadLetterQueueName="undelivered",
        Policy=0,
        MaxReceiveCount=1,
    )
    sent = classic("BatchSendMessage", queueName="work", **{"msgBody.1": "poison"})
    assert receive(classic, "work")[0] == "poison"
    classic("SendMessage", queueName="work", msgBody="good", delaySeconds="1")
    assert receive(classic, "work")[0] == "good"  # by now the other one is visible, too
    message = classic("ReceiveMessage", queueName="undelivered", pollingWaitSeconds="30")
    assert (message["msgBody"], message["msgId"]) == ("poison", sent["msgList"][0]["msgId"])


def test_a_waiting_receiver_is_woken_by_a_message(sdk: Sdk, classic: ClassicClient) -> None:
    sdk("CreateCmqQueue", QueueName="awaited")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receive, classic, "awaited")
        sdk("SendCmqMsg", QueueName="awaited", MsgContent="here", DelaySeconds=0)
        assert waiting.result(timeout=20)[0] == "here"


def test_the_classic_api_makes_lists_and_deletes_queues(classic: ClassicClient) -> None:
    classic("CreateQueue", queueName="classic-queue", visibilityTimeout="5")
    listed = classic("ListQueue", searchWord="classic-queue")
    assert [each["queueName"] for each in listed["queueList"]] == ["classic-queue"]
    classic("SetQueueAttributes", queueName="classic-queue", maxMsgSize="1024")
    attributes = classic("GetQueueAttributes", queueName="classic-queue")
    assert (attributes["visibilityTimeout"], attributes["maxMsgSize"]) == (5, 1_024)
    for action, parameters, code in (
        ("CreateQueue", {"queueName": "CLASSIC-queue"}, EXISTED),
        ("RewindQueue", {"queueName": "classic-queue", "startConsumeTime": "0"}, CANNOT_REWIND),
        ("GetQueueAttributes", {"queueName": "absent"}, NOT_EXISTED),
    ):
        with pytest.raises(ClassicRefused) as caught:
            classic(action, **parameters)
        assert caught.value.code == code
    classic("DeleteQueue", queueName="classic-queue")


def queue_named(name: str) -> str:
    return f"qcs::tdmq:ap-guangzhou:uin/{OWNER}:queue/{name}"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a keeper of all queues but one, of which another is never rewound."""
    gateway = Gateway(tmp_path_factory.mktemp("queues"), settings={})
    statements = [
        allow("tdmq:*"),
        deny("tdmq:*", queue_named("secret")),
        deny("tdmq:RewindCmqQueue", queue_named("kept")),
    ]
    write_policies(gateway.policies, {"keeper": statements})
    gateway.start()
    yield gateway
    gateway.remove()


def test_policies_decide_on_queues_in_both_spellings(guarded: Gateway) -> None:
    root = Sdk(guarded, guarded.root)
    for name in ("kept", "secret"):
        root("CreateCmqQueue", QueueName=name, RewindSeconds=60)
    key = guarded.key_of("keeper")
    keeper, classic = Sdk(guarded, key), ClassicClient(guarded, key)
    rule: dict[str, Any] = {"DeadLetterQueueName": "secret", "MaxReceiveCount": 1}
    for action, parameters in (
        ("RewindCmqQueue", {"QueueName": "kept", "StartConsumeTime": 0}),
        ("ClearCmqQueue", {"QueueName": "secret"}),
        ("ModifyCmqQueueAttribute", {"QueueName": "kept", **rule}),
        ("CreateCmqQueue", {"QueueName": "new", **rule}),
        ("UnbindCmqDeadLetter", {"SourceQueueName": "secret"}),
    ):
        with pytest.raises(Refused) as refused:
            keeper(action, **parameters)
        assert refused.value.code == "UnauthorizedOperation"
    with pytest.raises(ClassicRefused, match="10461"):
        classic("RewindQueue", queueName="kept", startConsumeTime="0")
    listed = classic("ListQueue")["queueList"]
    assert [each["queueName"] for each in listed] == ["kept"]
    keeper("ClearCmqQueue", QueueName="kept")
