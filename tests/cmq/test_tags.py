"""What the decision is told of topics and queues: found by their names, in any API."""

from typing import Any

import pytest

from gateway.call import Resource
from gateway.cmq.attributes import attributes_of
from tests.support.cmq import Cmq
from tests.support.events import OWNER, REGION

pytestmark = pytest.mark.anyio
STRANGER = "200000000002"
BLUE = [{"TagKey": "team", "TagValue": "blue"}]


def named(
    path: str, *, owner: str = OWNER, region: str = REGION, service: str = "tdmq"
) -> Resource:
    return Resource(service, region, owner, path)


async def ask(cmq: Cmq, *resources: Resource) -> dict[Resource, Any]:
    return dict(await attributes_of(cmq.store)(resources))


async def test_a_topic_and_a_queue_carry_their_tags_and_their_maker(cmq: Cmq) -> None:
    await cmq.call("CreateCmqTopic", TopicName="t", Tags=BLUE)
    await cmq.call("CreateCmqQueue", QueueName="t")
    topic, queue = named("topic/t"), named("queue/t")
    told = await ask(cmq, topic, queue)
    assert told[topic] == {
        "qcs:create_uin": (OWNER,),
        "qcs:resource_tag": ("team&blue",),
        "qcs:tag": ("team&blue",),
        "qcs:tag/team": ("blue",),
    }
    assert told[queue] == {"qcs:create_uin": (OWNER,)}


async def test_a_name_means_the_thing_of_one_account_and_region(cmq: Cmq) -> None:
    await cmq.call("CreateCmqTopic", TopicName="t", Tags=BLUE)
    await cmq.call("CreateCmqTopic", TopicName="t", owner=STRANGER)
    await cmq.call("CreateCmqTopic", TopicName="t", region="ap-beijing")
    ours, theirs, there = (
        named("topic/t"),
        named("topic/t", owner=STRANGER),
        named("topic/t", region="ap-beijing"),
    )
    told = await ask(cmq, ours, theirs, there)
    assert [each.get("qcs:tag/team") for each in told.values()] == [("blue",), None, None]
    assert told[theirs] == {"qcs:create_uin": (STRANGER,)}


@pytest.mark.parametrize(
    "resource",
    [
        named("topic/T"),
        named("topic/other"),
        named("topic/"),
        named("topic/t/more"),
        named("queue/t"),
        named("subscription/t/s"),
        named("topic/*"),
        named("*"),
        named("topic/t\x00"),
        named("topic/\ud800"),
        named("topic/t", region=""),
        named("topic/t", service="batch"),
    ],
)
async def test_what_does_not_exist_carries_nothing(cmq: Cmq, resource: Resource) -> None:
    await cmq.call("CreateCmqTopic", TopicName="t", Tags=BLUE)
    assert await ask(cmq, resource) == {}


async def test_a_deleted_queue_leaves_no_tags_to_the_next_of_its_name(cmq: Cmq) -> None:
    await cmq.call("CreateCmqQueue", QueueName="q", Tags=BLUE)
    await cmq.call("DeleteCmqQueue", QueueName="q")
    await cmq.call("CreateCmqQueue", QueueName="q")
    assert "qcs:tag" not in (await ask(cmq, named("queue/q")))[named("queue/q")]
