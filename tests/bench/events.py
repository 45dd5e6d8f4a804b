"""Events: from committed rows to the broker's confirm and the last mark, beside bare clients.

All publish 593 bytes to topic exchanges with one durable queue behind each, on a RabbitMQ of the
benchmark's own, on uvloop, each round in a process of its own. Ours is the real `Publisher` on a
real SQLite, with all properties; the peers send a body and nothing else. The latency is that of a
paced stream, from the commit, or from the bare publish, to a consumer in another process.
"""

import argparse
import logging
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aio_pika
import anyio
import structlog
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage
from sqlalchemy import insert, select

from gateway import clock
from gateway.events import outbox, relay, tables
from gateway.events.bus import Binding, Route, TopicAddress
from gateway.events.publisher import Publisher
from gateway.events.rabbitmq import open_rabbitmq
from gateway.store import Store, Tx, open_store
from gateway.store.migrations import migrate
from tests.bench.amqp_ceiling import Ceiling
from tests.bench.measure import Result, in_turn, show
from tests.support import amqp
from tests.support.events import NOW, OWNER, REGION, Routed
from tests.support.services import RabbitMQ

BODY = b"e" * 593
ROUTING_KEY = "batch.instance.TASK_INSTANCE_SUCCEED.job-00000001"
JOBS = 100
OUTSTANDING = 100
WINDOW = 1_000
KINDS = {"quorum": {"x-queue-type": "quorum"}, "classic": {}}
CONFIRM_S = 10.0
WAIT_S = 120.0
CHUNK = 5_000

Publish = Callable[[Sequence[AbstractExchange], int], Awaitable[None]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=int, default=1_000, help="events a second, for the latency")
    parser.add_argument("--only", choices=["throughput", "latency", "restart"])
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory() as name:
        broker = RabbitMQ(Path(name))
        broker.start()
        try:
            if options.only in (None, "throughput"):
                show_throughput(broker, count=options.messages, rounds=options.rounds)
            if options.only in (None, "latency"):
                show_latency(broker, rate=options.rate, rounds=options.rounds)
            if options.only in (None, "restart"):
                show_restart(broker, rounds=options.rounds)
        finally:
            broker.close()


def show_throughput(broker: RabbitMQ, *, count: int, rounds: int) -> None:
    url = broker.url
    contenders: dict[str, Callable[[], Result]] = {}
    for kind in KINDS:
        contenders |= {
            f"aio-pika, one at a time, {kind}": partial(
                run_peer, publish_one_by_one, url, kind=kind, count=count // 20
            ),
            f"aio-pika, {OUTSTANDING} outstanding, {kind}": partial(
                run_peer, publish_many, url, kind=kind, count=count
            ),
            f"prebuilt frames, {kind}": partial(run_ceiling, url, kind=kind, count=count),
        }
    contenders |= {
        "aio-pika, 10 topics": partial(
            run_peer, publish_many, url, kind="quorum", count=count, topics=10
        ),
        "outbox, quorum": partial(run_outbox, url, count=count, topics=1),
        "outbox, 10 topics": partial(run_outbox, url, count=count, topics=10),
    }
    results = in_turn({name: apart(run) for name, run in contenders.items()}, rounds=rounds)
    print(
        f"{count} messages of {len(BODY)} bytes to the last confirm; the outbox: to the last mark"
    )
    against = ["aio-pika, one at a time", f"aio-pika, {OUTSTANDING} outstanding", "prebuilt frames"]
    show(results, unit="events", against=[f"{name}, quorum" for name in against])


def show_latency(broker: RabbitMQ, *, rate: int, rounds: int) -> None:
    contenders = {
        "aio-pika": apart(partial(time_bare, broker.url, rate=rate)),
        "commit, then aio-pika": apart(partial(time_bare_beside_commits, broker.url, rate=rate)),
        "outbox": apart(partial(time_outbox, broker.url, rate=rate)),
    }
    results = in_turn(contenders, rounds=rounds)
    print(f"\n{rate} events a second to one consumer; ms since the publish, or since the commit")
    show(results, unit="events", against=[])
    for peer in ("aio-pika", "commit, then aio-pika"):
        for note in ("p50 ms", "p99 ms"):
            ratio = results["outbox"].notes[note] / results[peer].notes[note]
            print(f"{note}: {ratio:.2f} x {peer}")


def show_restart(broker: RabbitMQ, *, rounds: int) -> None:
    waits = [anyio.run(time_restart, broker) for _ in range(rounds)]
    took = statistics.median(waits)
    print(f"\nbroker stopped and started: {took:.2f} s from its first answer to the last mark")


def apart(function: Callable[[], Result]) -> Callable[[], Result]:
    """Run a contender in a new process, so that memory and processor time are its own."""

    def run() -> Result:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(function).result()

    return run


async def timed(work: Callable[[], Awaitable[object]], count: int) -> Result:
    began, used = time.perf_counter(), time.process_time()
    await work()
    took, used = time.perf_counter() - began, time.process_time() - used
    return Result(count / took, {"CPU us/event": used / count * 1e6, "MB": peak_mb()})


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def run_peer(publish: Publish, url: str, *, kind: str, count: int, topics: int = 1) -> Result:
    async def measure() -> Result:
        async with (
            await aio_pika.connect(url) as connection,
            connection.channel() as channel,
            declared(channel, kind=kind, topics=topics) as exchanges,
        ):
            return await timed(lambda: publish(exchanges, count), count)

    return anyio.run(measure, backend_options={"use_uvloop": True})


@asynccontextmanager
async def declared(
    channel: AbstractChannel, *, kind: str, topics: int
) -> AsyncIterator[list[AbstractExchange]]:
    """Topic exchanges with a queue of this kind behind each, for as long as they are needed."""
    exchanges, queues = [], []
    for number in range(topics):
        name = f"bench.{number}"
        exchange = await channel.declare_exchange(name, "topic", durable=True)
        queue = await channel.declare_queue(name, durable=True, arguments=dict(KINDS[kind]))
        await queue.bind(exchange, "#")
        await exchange.publish(bare_message(), ROUTING_KEY)  # its leader is elected by now
        exchanges.append(exchange)
        queues.append(queue)
    yield exchanges
    for queue, exchange in zip(queues, exchanges, strict=True):
        await queue.delete(if_unused=False, if_empty=False)
        await exchange.delete()


def bare_message() -> aio_pika.Message:
    return aio_pika.Message(BODY, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)


async def publish_one_by_one(exchanges: Sequence[AbstractExchange], count: int) -> None:
    for _ in range(count):
        await exchanges[0].publish(bare_message(), ROUTING_KEY)


async def publish_many(exchanges: Sequence[AbstractExchange], count: int) -> None:
    turns = iter(range(count))

    async def publish_in_turn() -> None:
        for turn in turns:
            await exchanges[turn % len(exchanges)].publish(bare_message(), ROUTING_KEY)

    async with anyio.create_task_group() as tasks:
        for _ in range(OUTSTANDING):
            tasks.start_soon(publish_in_turn)


def run_ceiling(url: str, *, kind: str, count: int) -> Result:
    async def measure() -> Result:
        async with (
            await aio_pika.connect(url) as connection,
            connection.channel() as channel,
            declared(channel, kind=kind, topics=1) as (exchange,),
        ):
            with Ceiling(url, exchange=exchange.name, routing_key=ROUTING_KEY, body=BODY) as wire:
                publish = partial(wire.publish, count, window=WINDOW)
                return await timed(lambda: anyio.to_thread.run_sync(publish), count)

    return anyio.run(measure, backend_options={"use_uvloop": True})


@asynccontextmanager
async def outbox_store() -> AsyncIterator[Store]:
    with tempfile.TemporaryDirectory() as name:
        url = f"sqlite:///{Path(name) / 'gateway.db'}"
        migrate(url)
        async with open_store(url) as store:
            yield store


def run_outbox(url: str, *, count: int, topics: int) -> Result:
    addresses = [TopicAddress(OWNER, REGION, f"bench-{number}") for number in range(topics)]
    routed = Routed(*((each, route_of(each)) for each in addresses))

    async def measure() -> Result:
        async with outbox_store() as store, open_rabbitmq(url, confirm_s=CONFIRM_S) as bus:
            for address in addresses:
                await bus.declare(route_of(address))
            await fill(store, addresses, count=count)
            publisher = Publisher(store, bus, subscribers=routed, clock=clock.now)
            async with anyio.create_task_group() as tasks:

                async def publish_all() -> None:
                    tasks.start_soon(publisher.run)
                    await nothing_unsent(store)

                result = await timed(publish_all, count)
                tasks.cancel_scope.cancel()
        return result

    try:
        return anyio.run(measure, backend_options={"use_uvloop": True})
    finally:
        remove(url, addresses)


def route_of(address: TopicAddress) -> Route:
    return Route(address.exchange, (Binding(address.queue(address.name), "#"),))


def remove(url: str, addresses: Sequence[TopicAddress]) -> None:
    with amqp.open_channel(url) as channel:
        for address in addresses:
            channel.queue_delete(address.queue(address.name))
            channel.exchange_delete(address.exchange)


async def fill(
    store: Store, addresses: Sequence[TopicAddress], *, count: int, first: int = 0
) -> None:
    rows = [
        {
            "id": f"job-{number % JOBS:08d}-{number}-0",
            "topic_key": addresses[number % len(addresses)].key,
            "shard": number % JOBS % outbox.SHARDS,
            "stream_id": f"job-{number % JOBS:08d}",
            "seq": number,
            "event_name": "TASK_INSTANCE_SUCCEED",
            "routing_key": ROUTING_KEY,
            "tags": outbox.NO_TAGS,
            "body": BODY,
            "created_at": NOW,
            "expanded_at": NOW,
        }
        for number in range(first, first + count)
    ]

    def add(tx: Tx, chunk: Sequence[dict[str, Any]]) -> None:
        tx.execute(insert(tables.message), chunk)

    for at in range(0, count, CHUNK):
        await store.write(partial(add, chunk=rows[at : at + CHUNK]))


UNSENT_ONE = select(tables.message.c.position).where(tables.message.c.sent_at.is_(None)).limit(1)


async def nothing_unsent(store: Store) -> None:
    with anyio.fail_after(WAIT_S):
        while await store.read_point(lambda tx: tx.execute(UNSENT_ONE).first()):  # noqa: ASYNC110
            await anyio.sleep(0.005)


def time_bare(url: str, *, rate: int) -> Result:
    async def measure() -> Result:
        async with (
            await aio_pika.connect(url) as connection,
            connection.channel() as channel,
            declared(channel, kind="quorum", topics=1) as (exchange,),
        ):
            stopwatch = Stopwatch(rate)
            async with stopwatch.reading(url, exchange.name):

                async def publish(number: int) -> None:
                    stopwatch.began[number] = time.perf_counter()
                    message = bare_message()
                    message.message_id = str(number)
                    await exchange.publish(message, ROUTING_KEY)

                return await stopwatch.pace(publish)

    return anyio.run(measure, backend_options={"use_uvloop": True})


def time_bare_beside_commits(url: str, *, rate: int) -> Result:
    """Each event committed as ours are, and then published by its writer itself.

    Why: the broker and SQLite make their files durable on one disk, and wait for each other.
    """
    address = TopicAddress(OWNER, REGION, "bench")

    async def measure() -> Result:
        async with (
            outbox_store() as store,
            await aio_pika.connect(url) as connection,
            connection.channel() as channel,
            declared(channel, kind="quorum", topics=1) as (exchange,),
        ):
            stopwatch = Stopwatch(rate)
            async with stopwatch.reading(url, exchange.name):

                async def commit_and_publish(number: int) -> None:
                    await commit(store, address, number)
                    stopwatch.began[number] = time.perf_counter()
                    message = bare_message()
                    message.message_id = str(number)
                    await exchange.publish(message, ROUTING_KEY)

                return await stopwatch.pace(commit_and_publish)

    return anyio.run(measure, backend_options={"use_uvloop": True})


async def commit(store: Store, address: TopicAddress, number: int) -> None:
    def publish(tx: Tx) -> None:
        outbox.publish(tx, address, BODY, message_id=str(number), now=clock.now())

    await store.write(publish)


def time_outbox(url: str, *, rate: int) -> Result:
    address = TopicAddress(OWNER, REGION, "bench")
    routed = Routed((address, route_of(address)))

    async def measure() -> Result:
        async with (
            outbox_store() as store,
            open_rabbitmq(url, confirm_s=CONFIRM_S) as bus,
            anyio.create_task_group() as tasks,
        ):
            await bus.declare(route_of(address))
            await tasks.start(partial(relay.run, store, bus, subscribers=routed, clock=clock.now))
            stopwatch = Stopwatch(rate)
            async with stopwatch.reading(url, address.queue(address.name)):

                async def commit_one(number: int) -> None:
                    await commit(store, address, number)
                    stopwatch.began[number] = time.perf_counter()

                result = await stopwatch.pace(commit_one)
            tasks.cancel_scope.cancel()
        return result

    try:
        return anyio.run(measure, backend_options={"use_uvloop": True})
    finally:
        remove(url, [address])


async def time_restart(broker: RabbitMQ) -> float:
    """How long a waiting message takes, once the broker that was stopped answers; in seconds."""
    address = TopicAddress(OWNER, REGION, "bench")
    routed = Routed((address, route_of(address)))
    async with (
        outbox_store() as store,
        open_rabbitmq(broker.url, confirm_s=CONFIRM_S) as bus,
        anyio.create_task_group() as tasks,
    ):
        publisher = Publisher(store, bus, subscribers=routed, clock=clock.now)
        tasks.start_soon(publisher.run)
        await fill(store, [address], count=1_000)
        await nothing_unsent(store)
        await anyio.to_thread.run_sync(broker.stop)
        await fill(store, [address], count=1, first=1_000)
        await anyio.to_thread.run_sync(broker.start)
        began = time.perf_counter()
        await nothing_unsent(store)
        took = time.perf_counter() - began
        tasks.cancel_scope.cancel()
    await anyio.to_thread.run_sync(remove, broker.url, [address])
    return took


class Stopwatch:
    """Paces a stream, and times each message of it from its beginning to the consumer."""

    SECONDS = 4
    WARM_UP = 0.25

    def __init__(self, rate: int) -> None:
        self._count = rate * self.SECONDS
        self._rate = rate
        self.began: dict[int, float] = {}
        self._told: Connection | None = None

    @asynccontextmanager
    async def reading(self, url: str, queue: str) -> AsyncIterator[None]:
        """A consumer, in a process of its own as subscribers are."""
        context = multiprocessing.get_context("spawn")
        self._told, tells = context.Pipe(duplex=False)
        consumer = context.Process(target=consume, args=(url, queue, self._count, tells))
        consumer.start()
        await anyio.to_thread.run_sync(self._told.recv)
        yield
        await anyio.to_thread.run_sync(consumer.join)

    async def pace(self, begin: Callable[[int], Coroutine[Any, Any, None]]) -> Result:
        """Begin so many a second, each when it is due, however long the ones before take."""
        assert self._told is not None
        count = self._count
        used, began = time.process_time(), time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for number in range(count):
                ahead_s = began + number / self._rate - time.perf_counter()
                if ahead_s > 0:
                    await anyio.sleep(ahead_s)
                tasks.start_soon(begin, number)
        ended = await anyio.to_thread.run_sync(self._told.recv)
        took, used = time.perf_counter() - began, time.process_time() - used
        late = [
            (ended[number] - self.began[number]) * 1e3
            for number in range(int(count * self.WARM_UP), count)
        ]
        cuts = statistics.quantiles(late, n=100)
        notes = {"p50 ms": cuts[49], "p99 ms": cuts[98]}
        return Result(count / took, {**notes, "CPU us/event": used / count * 1e6, "MB": peak_mb()})


def consume(url: str, queue: str, count: int, tells: Connection) -> None:
    """Tell that a queue is being read, and then when each of `count` numbered messages came.

    The clock is the machine's, the same in every process.
    """
    arrived: dict[int, float] = {}

    async def read() -> None:
        all_came = anyio.Event()

        async def note(message: AbstractIncomingMessage) -> None:
            if message.message_id and message.message_id.isdigit():
                arrived[int(message.message_id)] = time.perf_counter()
                if len(arrived) == count:
                    all_came.set()

        async with await aio_pika.connect(url) as connection, connection.channel() as channel:
            consumed = await channel.get_queue(queue, ensure=False)
            await consumed.consume(note, no_ack=True)
            tells.send(None)
            with anyio.fail_after(WAIT_S):
                await all_came.wait()

    anyio.run(read, backend_options={"use_uvloop": True})
    tells.send(arrived)


if __name__ == "__main__":
    main()
