"""AMQP clients nobody here wrote, each reading a subscription: pika, aio-pika, amqplib.

They see the documented properties, the order of the job, and which messages are told again.
"""

import itertools
import json
import subprocess
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aio_pika
import anyio
import anyio.to_thread
import pytest

from gateway.events import outbox
from gateway.events.bus import Binding, Message, Outcome, Route, TopicAddress
from gateway.events.messages import encode
from gateway.events.rabbitmq import open_rabbitmq
from tests.support import amqp
from tests.support.events import NOW, OWNER, REGION, job_event
from tests.support.services import RabbitMQ

CONFIRM_S = 10.0
READ_S = 30.0
COUNT = 50
SUBSCRIPTION = "sub-1"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NODE_MODULES = Path(".venv/node/node_modules").absolute()
NODE = Path(".venv/bin/node").absolute()
numbers = itertools.count()


@dataclass(frozen=True)
class Seen:
    """A message as a client reports it. headers: plain values."""

    id: str
    type: str
    content_type: str
    content_encoding: str
    timestamp_s: int
    headers: Mapping[str, Any]
    body: bytes


async def read_by_pika(url: str, queue: str, count: int) -> list[Seen]:
    def enough(found: list[amqp.Delivered]) -> bool:
        return len(found) >= count

    found = await anyio.to_thread.run_sync(lambda: amqp.read(url, queue, until=enough))
    return [
        Seen(
            each.properties.message_id,
            each.properties.type,
            each.properties.content_type,
            each.properties.content_encoding,
            each.properties.timestamp,
            each.properties.headers,
            each.body,
        )
        for each in found
    ]


async def read_by_aio_pika(url: str, queue: str, count: int) -> list[Seen]:
    found: list[Seen] = []
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        consumed = await channel.get_queue(queue)
        async with consumed.iterator(timeout=READ_S) as messages:
            async for each in messages:
                assert each.timestamp is not None
                found.append(
                    Seen(
                        each.message_id or "",
                        each.type or "",
                        each.content_type or "",
                        each.content_encoding or "",
                        int(each.timestamp.timestamp()),
                        each.headers,
                        each.body,
                    )
                )
                await each.ack()
                if len(found) == count:
                    break
    return found


async def read_by_amqplib(url: str, queue: str, count: int) -> list[Seen]:
    if not (NODE_MODULES / "amqplib").exists():
        pytest.fail("amqplib is not installed: run scripts/test, which installs it.", pytrace=False)
    program = Path(__file__).with_name("subscriber.js")

    def run() -> str:
        return subprocess.run(
            [NODE, program, url, queue, str(count)],
            env={"NODE_PATH": str(NODE_MODULES)},
            capture_output=True,
            text=True,
            timeout=READ_S,
            check=True,
        ).stdout

    lines = (await anyio.to_thread.run_sync(run)).splitlines()
    return [
        Seen(
            each["messageId"],
            each["type"],
            each["contentType"],
            each["contentEncoding"],
            each["timestamp"],
            each["headers"],
            each["body"].encode(),
        )
        for each in map(json.loads, lines)
    ]


def told(number: int, *, replay: int = 0) -> Message:
    event = job_event(number)
    return Message(
        position=number,
        id=f"job-00000001-{number}-0",
        topic_key=f"{OWNER}/{REGION}/jobs",
        shard=outbox.shard_of("job-00000001"),
        routing_key="batch.job.JOB_RUNNING.job-00000001",
        body=encode(event, time=NOW, region=REGION),
        created_at=NOW,
        event_name=event.name.value,
        seq=number,
        traceparent=TRACE,
        replay=replay,
        only_subscription_id=SUBSCRIPTION if replay else None,
    )


Reader = Callable[[str, str, int], Awaitable[Sequence[Seen]]]


@pytest.mark.anyio
@pytest.mark.parametrize("reader", [read_by_pika, read_by_aio_pika, read_by_amqplib])
async def test_a_client_sees_order_properties_and_replays(
    rabbitmq: RabbitMQ, reader: Reader
) -> None:
    address = TopicAddress(OWNER, REGION, f"client-{next(numbers)}")
    queue = address.queue(address.name)
    route = Route(address.exchange, (Binding(queue, "batch.job.#"),), {SUBSCRIPTION: queue})
    messages = [*(told(number) for number in range(1, COUNT + 1)), told(7, replay=1)]
    async with open_rabbitmq(rabbitmq.url, confirm_s=CONFIRM_S) as bus:
        await bus.declare(route)
        assert await bus.publish(route, messages) == [Outcome.CONFIRMED] * len(messages)
    with anyio.fail_after(READ_S):
        seen = await reader(rabbitmq.url, queue, len(messages))
    *first, again = seen
    assert [each.headers["seq"] for each in first] == list(range(1, COUNT + 1))
    assert first[6].headers == {"uin": OWNER, "region": REGION, "seq": 7, "traceparent": TRACE}
    assert again.headers == {**first[6].headers, "replay": 1}
    assert (again.id, again.body) == (first[6].id, first[6].body)
    for each in seen:
        assert each.type == "JOB_RUNNING"
        assert (each.content_type, each.content_encoding) == ("application/json", "base64")
        assert each.timestamp_s == int(NOW.timestamp())
    events = json.loads(b64decode(again.body))["Events"]
    assert [event["EventName"] for event in events] == ["JOB_RUNNING"]
