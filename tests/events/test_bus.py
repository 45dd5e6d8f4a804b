"""RabbitMQ and its double pass the conformance suite; outages of the real one stand below."""

import itertools
from collections.abc import AsyncIterator, Callable

import anyio
import pytest

from gateway.events.bus import Binding, Bus, BusUnavailable, Outcome, Route, TopicAddress
from gateway.events.rabbitmq import open_rabbitmq
from tests.conformance.bus import BusConformance, ReadIds
from tests.support import amqp
from tests.support.events import OWNER, REGION, message
from tests.support.fake_bus import FakeBus
from tests.support.services import RabbitMQ

CONFIRM_S = 10.0
numbers = itertools.count()


@pytest.fixture
def route() -> Route:
    address = TopicAddress(OWNER, REGION, f"topic-{next(numbers)}")
    return Route(address.exchange, (Binding(address.queue(f"reader-{next(numbers)}"), "#"),))


class TestFakeBus(BusConformance):
    @pytest.fixture
    def bus(self) -> FakeBus:
        return FakeBus()

    @pytest.fixture
    def read_ids(self, bus: FakeBus) -> ReadIds:
        return lambda queue: [each.id for each in bus.held.pop(queue, [])]

    @pytest.fixture
    def take_name(self, bus: FakeBus) -> Callable[[str], None]:
        return bus.taken_names.add


class TestRabbitMQ(BusConformance):
    @pytest.fixture
    async def bus(self, rabbitmq: RabbitMQ) -> AsyncIterator[Bus]:
        async with open_rabbitmq(rabbitmq.url, confirm_s=CONFIRM_S) as bus:
            yield bus

    @pytest.fixture
    def read_ids(self, rabbitmq: RabbitMQ) -> ReadIds:
        return lambda queue: [each.id for each in read_all(rabbitmq.url, queue)]

    @pytest.fixture
    def take_name(self, rabbitmq: RabbitMQ) -> Callable[[str], None]:
        def take(name: str) -> None:
            with amqp.open_channel(rabbitmq.url) as channel:
                channel.queue_declare(name, durable=False, exclusive=False, auto_delete=True)

        return take


async def publish_for_a_while(bus: Bus, route: Route) -> None:
    """Publish until the queue is two seconds old.

    Why: RabbitMQ 3.10 never elects a leader again for a quorum queue that was killed in its first
    second.
    """
    give_up_at = anyio.current_time() + 2
    while anyio.current_time() < give_up_at:
        assert await bus.publish(route, [message(0)]) == [Outcome.CONFIRMED]


def read_all(url: str, queue: str) -> list[amqp.Delivered]:
    """What a queue holds now; every message was confirmed before."""
    with amqp.open_channel(url) as channel:
        ready = channel.queue_declare(queue, passive=True).method.message_count
    return amqp.read(url, queue, until=lambda found: len(found) >= ready)


@pytest.mark.anyio
async def test_a_subscriber_sees_the_properties_it_needs(rabbitmq: RabbitMQ, route: Route) -> None:
    async with open_rabbitmq(rabbitmq.url, confirm_s=CONFIRM_S) as bus:
        await bus.declare(route)
        await bus.publish(route, [message(7)])
    (delivered,) = read_all(rabbitmq.url, route.bindings[0].queue)
    properties = delivered.properties
    assert delivered.routing_key == "batch.job.JOB_RUNNING.job-00000001"
    assert delivered.body == b"body 7"
    assert properties.message_id == message(7).id
    assert properties.type == "JOB_RUNNING"
    assert properties.content_type == "application/json"
    assert properties.content_encoding == "base64"
    assert properties.delivery_mode == 2
    assert properties.timestamp == int(message(7).created_at.timestamp())
    assert properties.headers == {"uin": OWNER, "region": REGION, "seq": 7}


@pytest.mark.anyio
async def test_the_queue_of_a_subscriber_is_a_durable_quorum_queue(
    rabbitmq: RabbitMQ, route: Route
) -> None:
    async with open_rabbitmq(rabbitmq.url, confirm_s=CONFIRM_S) as bus:
        await bus.declare(route)
    with amqp.open_channel(rabbitmq.url) as channel:
        arguments = {"x-queue-type": "quorum"}
        channel.queue_declare(route.bindings[0].queue, durable=True, arguments=arguments)


@pytest.mark.anyio
async def test_an_absent_broker_is_unavailable_and_loses_the_message(
    rabbitmq: RabbitMQ, route: Route
) -> None:
    rabbitmq.stop()
    async with open_rabbitmq(rabbitmq.url, confirm_s=CONFIRM_S) as bus:
        with pytest.raises(BusUnavailable):
            await bus.connect()
        assert await bus.publish(route, [message(1)]) == [Outcome.LOST]


@pytest.mark.anyio
async def test_after_a_kill_the_same_bus_connects_again_under_a_new_number(
    rabbitmq: RabbitMQ, route: Route
) -> None:
    async with open_rabbitmq(rabbitmq.url, confirm_s=CONFIRM_S) as bus:
        before = await bus.connect()
        await bus.declare(route)
        await publish_for_a_while(bus, route)
        rabbitmq.kill()
        assert await bus.publish(route, [message(1)]) == [Outcome.LOST]
        rabbitmq.start()
        assert await bus.connect() != before
        await bus.declare(route)
        with anyio.fail_after(CONFIRM_S):
            while await bus.publish(route, [message(1)]) != [Outcome.CONFIRMED]:
                pass
    ids = {each.id for each in read_all(rabbitmq.url, route.bindings[0].queue)}
    assert ids == {message(0).id, message(1).id}
