"""The relay and a real broker that comes late, is killed, or drops the line; a real SQLite."""

import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from pika.exceptions import ChannelClosedByBroker
from sqlalchemy import func, select
from structlog.testing import capture_logs

from gateway import clock
from gateway.events import outbox, relay, tables
from gateway.events.bus import Binding, Route, TopicAddress
from gateway.events.messages import Event
from gateway.events.rabbitmq import open_rabbitmq
from gateway.events.topology import CHECK_S
from gateway.store import Store, open_store
from gateway.store.migrations import migrate
from tests.support import amqp
from tests.support.amqp import Delivered
from tests.support.events import (
    NOW,
    OWNER,
    REGION,
    Routed,
    asks,
    eventually,
    job_event,
    stream,
)
from tests.support.services import RabbitMQ
from tests.support.tcp import Line

pytestmark = pytest.mark.anyio

CONFIRM_S = 10.0
COUNT = 300
numbers = itertools.count()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    migrate(url)
    async with open_store(url) as opened:
        yield opened


@pytest.fixture
def topic() -> TopicAddress:
    return TopicAddress(OWNER, REGION, f"outage-{next(numbers)}")


def route_of(topic: TopicAddress) -> Route:
    return Route(topic.exchange, (Binding(topic.queue(f"{topic.name}-reader"), "batch.job.#"),))


@asynccontextmanager
async def relaying(
    store: Store, url: str, topic: TopicAddress, *, route: Route | None = None
) -> AsyncIterator[None]:
    async with (
        open_rabbitmq(url, confirm_s=CONFIRM_S) as bus,
        anyio.create_task_group() as tasks,
    ):
        subscribers = Routed((topic, route or route_of(topic)))
        await tasks.start(partial(relay.run, store, bus, subscribers=subscribers, clock=clock.now))
        yield
        tasks.cancel_scope.cancel()


async def append(store: Store, topic: TopicAddress, *, jobs: Sequence[str], count: int) -> None:
    """Let every job have `count` events, each in a transaction of its own."""
    for number in range(count):
        for job in jobs:
            await tell(store, topic, job_event(number, job_id=job))


async def tell(store: Store, topic: TopicAddress, event: Event) -> None:
    told = stream(event.subject_id)
    await store.write(
        lambda tx: outbox.append(tx, told, [event], notifications=[asks(topic.name)], now=NOW)
    )


async def read(rabbitmq: RabbitMQ, topic: TopicAddress, *, distinct: int) -> list[Delivered]:
    """Read the subscriber's queue until it has given so many different messages."""
    queue = route_of(topic).bindings[0].queue

    def enough(found: list[Delivered]) -> bool:
        return len({each.id for each in found}) >= distinct

    return await anyio.to_thread.run_sync(lambda: amqp.read(rabbitmq.url, queue, until=enough))


def check_contract(found: Sequence[Delivered]) -> None:
    """Duplicates are identical, and first arrivals of a job are in order."""
    bodies: dict[str, bytes] = {}
    seen: dict[str, list[int]] = defaultdict(list)
    for each in found:
        assert bodies.setdefault(each.id, each.body) == each.body
        job = each.routing_key.rpartition(".")[2]
        seq = each.properties.headers["seq"]
        if seq not in seen[job]:
            seen[job].append(seq)
    for arrivals in seen.values():
        assert arrivals == list(range(1, len(arrivals) + 1))


async def test_what_happened_before_the_broker_came_arrives_in_order(
    store: Store, rabbitmq: RabbitMQ, topic: TopicAddress
) -> None:
    rabbitmq.stop()
    jobs = ["job-00000001", "job-00000002"]
    async with relaying(store, rabbitmq.url, topic):
        await append(store, topic, jobs=jobs, count=100)
        await anyio.to_thread.run_sync(rabbitmq.start)
        found = await read(rabbitmq, topic, distinct=200)
    check_contract(found)
    assert len(found) == 200


async def test_a_broker_killed_in_mid_stream_loses_nothing(
    store: Store, rabbitmq: RabbitMQ, topic: TopicAddress
) -> None:
    jobs = ["job-00000001", "job-00000002", "job-00000003"]
    async with relaying(store, rabbitmq.url, topic), anyio.create_task_group() as tasks:
        await append(store, topic, jobs=jobs, count=1)
        # a quorum queue that is killed in its first second never comes back: RabbitMQ 3.10
        old_enough_at = anyio.current_time() + 2
        await eventually(lambda: anyio.current_time() > old_enough_at)
        tasks.start_soon(lambda: append(store, topic, jobs=jobs, count=COUNT))
        await eventually(lambda: sent_more(store, than=COUNT))
        await anyio.to_thread.run_sync(rabbitmq.kill)
        await anyio.to_thread.run_sync(rabbitmq.start)
        found = await read(rabbitmq, topic, distinct=3 * (COUNT + 1))
        await eventually(lambda: none_waits(store))
    check_contract(found)


async def test_a_line_dropped_in_mid_stream_loses_nothing(
    store: Store, rabbitmq: RabbitMQ, topic: TopicAddress
) -> None:
    jobs = ["job-00000001", "job-00000002"]
    async with Line.open(rabbitmq.port) as line:
        url = rabbitmq.url.replace(str(rabbitmq.port), str(line.port))
        async with relaying(store, url, topic), anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: append(store, topic, jobs=jobs, count=COUNT))
            for sent in (0, COUNT // 2, COUNT):
                await eventually(partial(sent_more, store, than=sent))
                line.drop()
            found = await read(rabbitmq, topic, distinct=2 * COUNT)
            await eventually(lambda: none_waits(store))
    check_contract(found)


async def test_an_exchange_deleted_in_mid_stream_loses_nothing(
    store: Store, rabbitmq: RabbitMQ, topic: TopicAddress
) -> None:
    jobs = ["job-00000001", "job-00000002"]
    async with relaying(store, rabbitmq.url, topic), anyio.create_task_group() as tasks:
        tasks.start_soon(partial(append, store, topic, jobs=jobs, count=COUNT))
        await eventually(partial(sent_more, store, than=COUNT // 2))
        with amqp.open_channel(rabbitmq.url) as channel:
            channel.exchange_delete(topic.exchange)
        found = await read(rabbitmq, topic, distinct=2 * COUNT)
        await eventually(lambda: none_waits(store))
    check_contract(found)


async def test_a_queue_deleted_beside_another_is_made_again_and_the_other_misses_nothing(
    store: Store, rabbitmq: RabbitMQ, topic: TopicAddress
) -> None:
    (binding,) = route_of(topic).bindings
    deleted = Binding(f"{binding.queue}-2", "#")
    both = Route(topic.exchange, (binding, deleted))
    job = "job-00000001"
    told = 0
    async with relaying(store, rabbitmq.url, topic, route=both):
        await append(store, topic, jobs=[job], count=20)
        await eventually(lambda: none_waits(store))
        with amqp.open_channel(rabbitmq.url) as channel:
            channel.queue_delete(deleted.queue)
        told = 20
        deadline = anyio.current_time() + CHECK_S + CONFIRM_S
        while not exists(rabbitmq, deleted.queue):
            assert anyio.current_time() < deadline
            await append(store, topic, jobs=[job], count=1)
            told += 1
            await eventually(lambda: none_waits(store))
        await append(store, topic, jobs=[job], count=20)
        told += 20
        found = await read(rabbitmq, topic, distinct=told)
    check_contract(found)
    assert {each.id for each in read_now(rabbitmq, deleted.queue)} >= {
        each.id for each in found[-20:]
    }


async def test_a_login_that_is_refused_is_tried_again_until_it_is_allowed(
    store: Store, rabbitmq: RabbitMQ, topic: TopicAddress
) -> None:
    user, password = f"late-{next(numbers)}", "not-a-secret"
    await anyio.to_thread.run_sync(rabbitmq.control, "add_user", user, "another")
    permissions = (".*", ".*", ".*")
    await anyio.to_thread.run_sync(rabbitmq.control, "set_permissions", user, *permissions)
    url = rabbitmq.url.replace("guest:guest", f"{user}:{password}")
    with capture_logs() as logs:
        async with relaying(store, url, topic):
            await append(store, topic, jobs=["job-00000001"], count=3)
            await eventually(lambda: any(is_refusal(each) for each in logs))
            await anyio.to_thread.run_sync(rabbitmq.control, "change_password", user, password)
            await eventually(lambda: none_waits(store))
    refusals = [each for each in logs if is_refusal(each)]
    assert {each["log_level"] for each in refusals} == {"error"}
    assert len(refusals) <= 4
    assert password not in str(logs)


def is_refusal(entry: MutableMapping[str, Any]) -> bool:
    return entry["event"] == "publishing_stopped" and "ACCESS_REFUSED" in entry["why"]


def exists(rabbitmq: RabbitMQ, queue: str) -> bool:
    with amqp.open_channel(rabbitmq.url) as channel:
        try:
            channel.queue_declare(queue, passive=True)
        except ChannelClosedByBroker:
            return False
    return True


def read_now(rabbitmq: RabbitMQ, queue: str) -> list[Delivered]:
    with amqp.open_channel(rabbitmq.url) as channel:
        ready = channel.queue_declare(queue, passive=True).method.message_count
    return amqp.read(rabbitmq.url, queue, until=lambda found: len(found) >= ready)


async def sent_more(store: Store, *, than: int) -> bool:
    """Whether more than so many messages are marked as sent."""
    count = select(func.count()).where(tables.message.c.sent_at.is_not(None))
    return await store.read_list(lambda tx: tx.execute(count).scalar_one()) > than


async def none_waits(store: Store) -> bool:
    return await store.read_list(outbox.count_unsent) == 0
