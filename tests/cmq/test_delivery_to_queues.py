"""From an event or a published message to the queues that are subscribed."""

import pytest

from gateway.cmq.publishing import NobodyWants, NoSubscription
from gateway.errors import InvalidParameterValue
from gateway.events import outbox
from gateway.events.messages import encode
from tests.support.cmq import Cmq
from tests.support.events import REGION, asks, job_event, stream

pytestmark = pytest.mark.anyio


async def tell(cmq: Cmq, *, count: int = 1) -> None:
    events = [job_event(number) for number in range(count)]
    await cmq.store.write(
        lambda tx: outbox.append(tx, stream(), events, notifications=[asks()], now=cmq.now)
    )
    await cmq.expand()


async def receive_all(cmq: Cmq, queue: str = "events") -> list[str]:
    """What can be received now, in the order it comes."""
    detail = await cmq.call("DescribeCmqQueueDetail", QueueName=queue)
    bodies: list[str] = []
    while len(bodies) < detail["QueueDescribe"]["ActiveMsgNum"]:
        answer = await cmq.classic("BatchReceiveMessage", {"queueName": queue, "numOfMsg": "16"})
        bodies += [each["msgBody"] for each in answer["msgInfoList"]]
    return bodies


async def test_events_of_a_job_arrive_in_order_with_the_same_bytes(cmq: Cmq) -> None:
    await cmq.subscribe_queue()
    await tell(cmq, count=40)
    bodies = [encode(job_event(number), time=cmq.now, region=REGION) for number in range(40)]
    assert await receive_all(cmq) == [body.decode() for body in bodies]


async def test_every_subscribed_queue_gets_its_own_copy(cmq: Cmq) -> None:
    await cmq.subscribe_queue()
    await cmq.call("CreateCmqQueue", QueueName="second")
    await cmq.call("CreateCmqSubscribe", **cmq.subscription("s2", "second"))
    await tell(cmq)
    assert await receive_all(cmq) == await receive_all(cmq, "second")
    assert await receive_all(cmq, "second") == []


async def test_an_event_without_tags_is_not_for_a_tag_filter(cmq: Cmq) -> None:
    await cmq.subscribe_queue(FilterTag=["important"])
    await tell(cmq)
    assert await receive_all(cmq) == []


@pytest.mark.parametrize(("key", "count"), [("batch.job.#", 1), ("batch.task.#", 0), ("#", 1)])
async def test_a_binding_key_picks_events(cmq: Cmq, key: str, count: int) -> None:
    await cmq.subscribe_queue(BindingKey=[key])
    await tell(cmq)
    assert len(await receive_all(cmq)) == count


async def test_after_unsubscribing_nothing_more_comes(cmq: Cmq) -> None:
    await cmq.subscribe_queue()
    await tell(cmq)
    await cmq.call("DeleteCmqSubscribe", TopicName="job-message", SubscriptionName="s1")
    await tell(cmq)
    assert len(await receive_all(cmq)) == 1


async def test_an_event_for_a_topic_that_does_not_exist_is_done_with(cmq: Cmq) -> None:
    await tell(cmq)
    assert await cmq.store.read_list(outbox.count_unsent) == 0


async def test_a_published_message_is_picked_by_its_tags(cmq: Cmq) -> None:
    await cmq.subscribe_queue(FilterTag=["a", "b"])
    publish = {"TopicName": "job-message", "MsgContent": "hello"}
    published = await cmq.call("PublishCmqMsg", **publish, MsgTag=["b", "c"])
    assert published["Result"] is True
    await cmq.expand()
    received = await cmq.receive()
    assert (received["msgBody"], received["msgId"]) == ("hello", published["MsgId"])
    with pytest.raises(NobodyWants):
        await cmq.call("PublishCmqMsg", **publish, MsgTag=["c"])


async def test_a_published_message_is_picked_by_its_routing_key(cmq: Cmq) -> None:
    await cmq.call("CreateCmqTopic", TopicName="job-message", FilterType=2)
    await cmq.call("CreateCmqQueue", QueueName="events")
    subscription = cmq.subscription("s1", "events")
    await cmq.call("CreateCmqSubscribe", **subscription, BindingKey=["1.#.0"])
    publish = {"TopicName": "job-message", "MsgContent": "hello"}
    await cmq.call("PublishCmqMsg", **publish, MsgTag=["1.0"])
    await cmq.expand()
    assert await receive_all(cmq) == ["hello"]
    with pytest.raises(NobodyWants):
        await cmq.call("PublishCmqMsg", **publish, MsgTag=["2.0"])
    with pytest.raises(InvalidParameterValue):
        await cmq.call("PublishCmqMsg", **publish)


async def test_publishing_to_a_topic_without_subscription_is_refused(cmq: Cmq) -> None:
    await cmq.call("CreateCmqTopic", TopicName="job-message")
    with pytest.raises(NoSubscription):
        await cmq.call("PublishCmqMsg", TopicName="job-message", MsgContent="hello")
