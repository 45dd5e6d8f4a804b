"""The permissions that the README gives: what the gateway's own user needs, what readers get."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from msgspec.structs import replace
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from gateway.events.bus import Binding, Bus, BusRefused, Outcome, Route, TopicAddress
from gateway.events.rabbitmq import open_rabbitmq
from tests.support import amqp
from tests.support.events import OWNER, REGION, message
from tests.support.services import LOOPBACK, RabbitMQ

CONFIRM_S = 10.0
HOST = "rights"
PASSWORD = "not-a-secret"
GATEWAY = (r"^cmq\.", r"^(cmq\..*|amq\.default)$", r"^cmq\.")
"""configure, write, read; as in the README."""
READER = ("^$", "^$", rf"^cmq\.{OWNER}\.")
OTHER_OWNER = f"{OWNER}1"  # begins alike


@dataclass(frozen=True)
class Guarded:
    """A virtual host of the broker with users of few rights."""

    broker: RabbitMQ

    def allow(self, user: str, permissions: tuple[str, str, str]) -> None:
        self.broker.control("set_permissions", "-p", HOST, user, *permissions)

    def url(self, user: str) -> str:
        return f"amqp://{user}:{PASSWORD}@{LOOPBACK}:{self.broker.port}/{HOST}"


@pytest.fixture(scope="module")
def guarded(rabbitmq_server: RabbitMQ) -> Iterator[Guarded]:
    rabbitmq_server.start()
    rabbitmq_server.control("add_vhost", HOST)
    for user in ("gateway", "reader"):
        rabbitmq_server.control("add_user", user, PASSWORD)
    host = Guarded(rabbitmq_server)
    host.allow("reader", READER)
    yield host
    for user in ("gateway", "reader"):
        rabbitmq_server.control("delete_user", user)
    rabbitmq_server.control("delete_vhost", HOST)


def route_of(owner: str, name: str = "jobs") -> Route:
    address = TopicAddress(owner, REGION, name)
    queue = address.queue(name)
    return Route(address.exchange, (Binding(queue, "#"),), {"first": queue})


@asynccontextmanager
async def gateway(guarded: Guarded, permissions: tuple[str, str, str]) -> AsyncIterator[Bus]:
    guarded.allow("gateway", permissions)
    async with open_rabbitmq(guarded.url("gateway"), confirm_s=CONFIRM_S) as bus:
        yield bus


@pytest.mark.anyio
async def test_the_gateway_can_do_all_that_it_does(guarded: Guarded) -> None:
    route = route_of(OWNER, "all")
    again = replace(message(1), replay=1, only_subscription_id="first")
    async with gateway(guarded, GATEWAY) as bus:
        await bus.declare(route)
        await bus.declare(route)
        assert await bus.publish(route, [message(1), again]) == [Outcome.CONFIRMED] * 2
        await bus.unbind(route.exchange, binding=route.bindings[0])
        await bus.remove(route.exchange)


@pytest.mark.anyio
@pytest.mark.parametrize("index", [0, 1, 2])
async def test_the_gateway_can_do_without_none_of_its_rights(guarded: Guarded, index: int) -> None:
    less = list(GATEWAY)
    less[index] = "^$"
    configure, write, read = less
    async with gateway(guarded, (configure, write, read)) as bus:
        with pytest.raises(BusRefused, match="ACCESS_REFUSED"):
            await bus.declare(route_of(OWNER, f"less-{index}"))


@pytest.mark.anyio
async def test_a_replay_for_one_subscription_needs_the_default_exchange(guarded: Guarded) -> None:
    route = route_of(OWNER, "replayed")
    again = replace(message(1), replay=1, only_subscription_id="first")
    async with gateway(guarded, (r"^cmq\.", r"^cmq\.", r"^cmq\.")) as bus:
        await bus.declare(route)
        assert await bus.publish(route, [message(1)]) == [Outcome.CONFIRMED]
        assert await bus.publish(route, [again]) == [Outcome.LOST]


MINE, THEIRS = route_of(OWNER), route_of(OTHER_OWNER)
MY_QUEUE, THEIR_QUEUE = MINE.bindings[0].queue, THEIRS.bindings[0].queue
QUORUM = {"x-queue-type": "quorum"}
FORBIDDEN: dict[str, Callable[[BlockingChannel], object]] = {
    "read another account's queue": lambda c: c.basic_get(THEIR_QUEUE),
    "consume another account's queue": lambda c: c.basic_consume(THEIR_QUEUE, print),
    "empty another account's queue": lambda c: c.queue_purge(THEIR_QUEUE),
    "declare a queue": lambda c: c.queue_declare(f"cmq.{OWNER}.new"),
    "declare its own queue": lambda c: c.queue_declare(MY_QUEUE, durable=True, arguments=QUORUM),
    "delete its own queue": lambda c: c.queue_delete(MY_QUEUE),
    "bind its own queue": lambda c: c.queue_bind(MY_QUEUE, MINE.exchange, "more"),
    "bind its own queue to another's topic": lambda c: c.queue_bind(MY_QUEUE, THEIRS.exchange, "#"),
    "unbind its own queue": lambda c: c.queue_unbind(MY_QUEUE, MINE.exchange, "#"),
    "declare a topic": lambda c: c.exchange_declare(f"cmq.{OWNER}.new", "topic"),
    "delete its own topic": lambda c: c.exchange_delete(MINE.exchange),
    "publish to its own topic": lambda c: c.basic_publish(MINE.exchange, "key", b"forged"),
    "publish to its own queue": lambda c: c.basic_publish("", MY_QUEUE, b"forged"),
    "publish to the broker's own exchanges": lambda c: c.basic_publish("amq.topic", "key", b""),
    "bind exchanges": lambda c: c.exchange_bind(MINE.exchange, THEIRS.exchange, "#"),
}


@pytest.fixture(scope="module")
async def filled(guarded: Guarded) -> Guarded:
    async with gateway(guarded, GATEWAY) as bus:
        for route in (MINE, THEIRS):
            await bus.declare(route)
            assert await bus.publish(route, [message(1)]) == [Outcome.CONFIRMED]
    return guarded


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize("what", list(FORBIDDEN))
async def test_a_reader_cannot(filled: Guarded, what: str) -> None:
    with amqp.open_channel(filled.url("reader")) as channel:
        channel.confirm_delivery()
        with pytest.raises(ChannelClosedByBroker, match="ACCESS_REFUSED"):
            FORBIDDEN[what](channel)


@pytest.mark.anyio
async def test_a_reader_reads_its_own_queue_and_acknowledges(filled: Guarded) -> None:
    with amqp.open_channel(filled.url("reader")) as channel:
        for method, properties, _ in channel.consume(MY_QUEUE, inactivity_timeout=10):
            assert method is not None
            assert properties.message_id == message(1).id
            channel.basic_ack(method.delivery_tag)
            break
        channel.cancel()
    with amqp.open_channel(filled.url("reader")) as channel:
        assert channel.basic_get(MY_QUEUE)[0] is None


@pytest.mark.anyio
async def test_a_reader_can_see_how_much_another_account_has_waiting(filled: Guarded) -> None:
    """The broker guards no passive declaration: the README says so."""
    with amqp.open_channel(filled.url("reader")) as channel:
        assert channel.queue_declare(THEIR_QUEUE, passive=True).method.message_count == 1
