"""A real RabbitMQ that is short of memory, refuses, forgets, or falls silent; no relay above."""

import itertools
import re
from collections.abc import AsyncIterator, Iterator

import anyio
import anyio.to_thread
import pytest
from structlog.testing import capture_logs

from gateway.events.bus import (
    Binding,
    Bus,
    BusUnavailable,
    LoginRefused,
    Outcome,
    Route,
    TopicAddress,
)
from gateway.events.rabbitmq import open_rabbitmq
from gateway.telemetry import BROKER_BLOCKED
from tests.support import amqp
from tests.support.events import OWNER, REGION, eventually, message
from tests.support.services import RabbitMQ
from tests.support.tcp import Line

pytestmark = pytest.mark.anyio

CONFIRM_S = 10.0
IMPATIENT_S = 0.5
numbers = itertools.count()


@pytest.fixture
def route() -> Route:
    address = TopicAddress(OWNER, REGION, f"fault-{next(numbers)}")
    return Route(address.exchange, (Binding(address.queue(address.name), "#"),))


@pytest.fixture
async def bus(rabbitmq: RabbitMQ) -> AsyncIterator[Bus]:
    async with open_rabbitmq(rabbitmq.url, confirm_s=CONFIRM_S) as bus:
        yield bus


@pytest.fixture
def short_of_memory(rabbitmq: RabbitMQ) -> Iterator[RabbitMQ]:
    """A broker that can be made to sound its memory alarm; afterwards it has memory again."""
    yield rabbitmq
    rabbitmq.control("set_vm_memory_high_watermark", "0.6")


def sound_alarm(rabbitmq: RabbitMQ) -> None:
    rabbitmq.control("set_vm_memory_high_watermark", "absolute", "1MB")


def end_alarm(rabbitmq: RabbitMQ) -> None:
    rabbitmq.control("set_vm_memory_high_watermark", "0.6")


def read_ids(rabbitmq: RabbitMQ, queue: str, *, distinct: int) -> list[str]:
    def enough(found: list[amqp.Delivered]) -> bool:
        return len({each.id for each in found}) >= distinct

    found = amqp.read(rabbitmq.url, queue, until=enough)
    with amqp.open_channel(rabbitmq.url) as channel:
        assert channel.queue_declare(queue, passive=True).method.message_count == 0
    return [each.id for each in found]


async def confirmed(bus: Bus, route: Route, number: int) -> bool:
    return await bus.publish(route, [message(number)]) == [Outcome.CONFIRMED]


def blocked_now() -> bool:
    (metric,) = BROKER_BLOCKED.collect()
    return metric.samples[0].value == 1


async def test_a_blocked_broker_is_waited_for_and_gets_each_message_once(
    short_of_memory: RabbitMQ, route: Route
) -> None:
    broker = short_of_memory
    pages = [[message(n) for n in range(at, at + 50)] for at in (1, 51)]
    outcomes: list[Outcome] = []

    async with open_rabbitmq(broker.url, confirm_s=IMPATIENT_S) as bus:
        await bus.declare(route)
        await eventually(lambda: confirmed(bus, route, 0))
        await anyio.to_thread.run_sync(sound_alarm, broker)

        async def publish() -> None:
            for page in pages:
                outcomes.extend(await bus.publish(route, page))

        with capture_logs() as logs:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(publish)
                await eventually(blocked_now)
                late_at = anyio.current_time() + 5 * IMPATIENT_S
                await eventually(lambda: anyio.current_time() > late_at)
                assert outcomes == []
                await anyio.to_thread.run_sync(end_alarm, broker)
        assert outcomes == [Outcome.CONFIRMED] * 100
        assert not blocked_now()
    events = [each["event"] for each in logs]
    assert events.count("broker_blocked") == events.count("broker_unblocked") == 1
    assert "channel_abandoned" not in events
    queue = route.bindings[0].queue
    found = await anyio.to_thread.run_sync(lambda: read_ids(broker, queue, distinct=101))
    assert [each for each in found if each != message(0).id] == [
        each.id for page in pages for each in page
    ]


async def test_a_subscription_can_be_made_while_the_broker_takes_no_messages(
    short_of_memory: RabbitMQ, route: Route
) -> None:
    other = Route(f"{route.exchange}-2", (Binding(f"{route.bindings[0].queue}-2", "#"),))
    async with open_rabbitmq(short_of_memory.url, confirm_s=CONFIRM_S) as bus:
        await bus.declare(route)
        assert await confirmed(bus, route, 1)
        await anyio.to_thread.run_sync(sound_alarm, short_of_memory)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.publish, route, [message(2)])
            with anyio.fail_after(CONFIRM_S):
                await bus.declare(other)
            await anyio.to_thread.run_sync(end_alarm, short_of_memory)


async def test_what_a_full_queue_refuses_is_refused_and_taken_when_there_is_room(
    rabbitmq: RabbitMQ, bus: Bus, route: Route
) -> None:
    queue = route.bindings[0].queue
    pattern = f"^{re.escape(queue)}$"
    policy = '{"max-length": 2, "overflow": "reject-publish"}'
    await bus.declare(route)
    await anyio.to_thread.run_sync(
        rabbitmq.control, "set_policy", queue, pattern, policy, "--apply-to", "queues"
    )

    async def refused() -> bool:
        return await bus.publish(route, [message(1)]) == [Outcome.REFUSED]

    await eventually(refused)
    with amqp.open_channel(rabbitmq.url) as channel:
        channel.queue_purge(queue)
    await eventually(lambda: confirmed(bus, route, 2))
    found = await anyio.to_thread.run_sync(lambda: read_ids(rabbitmq, queue, distinct=1))
    assert found == [message(2).id]
    await anyio.to_thread.run_sync(rabbitmq.control, "clear_policy", queue)


async def test_a_queue_that_was_deleted_is_noticed_and_made_again(
    rabbitmq: RabbitMQ, bus: Bus, route: Route
) -> None:
    queue = route.bindings[0].queue
    await bus.declare(route)
    with amqp.open_channel(rabbitmq.url) as channel:
        channel.queue_delete(queue)
    with capture_logs() as logs:
        await bus.declare(route)
        await bus.declare(route)
    lost = [each for each in logs if each["event"] == "queue_deleted_on_the_broker"]
    assert [each["queue"] for each in lost] == [queue]
    assert await confirmed(bus, route, 1)


async def test_an_exchange_that_is_deleted_takes_no_other_topic_down_for_long(
    rabbitmq: RabbitMQ, bus: Bus, route: Route
) -> None:
    other = Route(f"{route.exchange}-2", (Binding(f"{route.bindings[0].queue}-2", "#"),))
    for each in (route, other):
        await bus.declare(each)
        assert await confirmed(bus, each, 1)
    with amqp.open_channel(rabbitmq.url) as channel:
        channel.exchange_delete(route.exchange)
    with capture_logs() as logs:
        for _ in range(2):
            assert await bus.publish(route, [message(2)]) == [Outcome.LOST]
            assert await confirmed(bus, other, 2)
    told = [each for each in logs if each["event"] == "publish_interrupted"]
    assert [each["exchange"] for each in told] == [route.exchange]
    assert "NOT_FOUND" in told[0]["why"]
    await bus.declare(route)
    assert await confirmed(bus, route, 2)


async def test_what_breaks_off_half_way_is_not_said_to_be_on_its_way(
    bus: Bus, route: Route
) -> None:
    written: list[bool] = []
    messages = [message(number) for number in range(1_000)]
    outcomes = await bus.publish(route, messages, written=lambda: written.append(True))
    assert outcomes == [Outcome.LOST] * 1_000
    assert written == []


async def test_a_line_that_swallows_everything_is_given_up_and_made_again(
    rabbitmq: RabbitMQ, route: Route
) -> None:
    async with Line.open(rabbitmq.port) as line:
        url = rabbitmq.url.replace(str(rabbitmq.port), str(line.port))
        async with open_rabbitmq(url, confirm_s=2.0) as bus:
            before = await bus.connect()
            await bus.declare(route)
            await eventually(lambda: confirmed(bus, route, 1))
            line.fall_silent()
            assert await bus.publish(route, [message(2)]) == [Outcome.LOST]
            await eventually(lambda: confirmed(bus, route, 2))
            assert await bus.connect() != before
            with pytest.raises(BusUnavailable):  # that was the other connection
                await bus.declare(route)
            await bus.declare(route)


async def test_a_login_that_is_refused_is_told_apart_from_an_absent_broker(
    rabbitmq: RabbitMQ, capfd: pytest.CaptureFixture[str]
) -> None:
    url = rabbitmq.url.replace("guest:guest", "guest:s3cret-s3cret")
    async with open_rabbitmq(url, confirm_s=CONFIRM_S) as bus:
        with pytest.raises(LoginRefused, match="ACCESS_REFUSED") as caught:
            await bus.connect()
    assert "s3cret" not in str(caught.value) + "".join(capfd.readouterr())


async def test_a_virtual_host_that_does_not_exist_is_refused(rabbitmq: RabbitMQ) -> None:
    async with open_rabbitmq(f"{rabbitmq.url}nowhere", confirm_s=CONFIRM_S) as bus:
        with pytest.raises(LoginRefused, match="virtual host"):
            await bus.connect()
