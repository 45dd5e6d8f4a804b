"""The lanes over a bus in memory: turns, room, care after a refusal, topics that are held."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import anyio
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from gateway import clock
from gateway.events import outbox, rebinding, relay
from gateway.events.bus import Binding, Message, Outcome, Route, TopicAddress
from gateway.events.lane import LARGE, ROOM_OF_ALL_BYTES
from gateway.events.publisher import LANES_MAX
from gateway.events.silence import PROBE
from gateway.store import Store, Tx, open_store
from gateway.telemetry import TOPICS_HELD
from tests.support.events import NOW, OWNER, REGION, Routed, asks, eventually, job_event, stream
from tests.support.fake_bus import FakeBus

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
JOB_ID = "job-00000001"

Relaying = Callable[..., AbstractAsyncContextManager[None]]


def address_of(name: str) -> TopicAddress:
    return TopicAddress(OWNER, REGION, name)


def queue_of(name: str) -> str:
    return address_of(name).queue(f"{name}-reader")


def routed(*names: str) -> Routed:
    return Routed(
        *(
            (address_of(name), Route(address_of(name).exchange, (Binding(queue_of(name), "#"),)))
            for name in names
        )
    )


@pytest.fixture
def relaying(store: Store) -> Relaying:
    return partial(relaying_on, store)


@asynccontextmanager
async def relaying_on(store: Store, bus: FakeBus, *names: str) -> AsyncIterator[None]:
    async with relayed(store, bus, routed(*names)):
        yield


@asynccontextmanager
async def relayed(store: Store, bus: FakeBus, subscribers: Routed) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(relay.run, store, bus, subscribers=subscribers, clock=clock.now))
        yield
        tasks.cancel_scope.cancel()


async def publish(store: Store, name: str, *, count: int, size: int = 10) -> None:
    """Have a user publish messages, all in one transaction."""

    def add(tx: Tx) -> None:
        for number in range(count):
            body = bytes(size)
            outbox.publish(tx, address_of(name), body, message_id=f"{name}-{number}", now=NOW)

    await store.write(add)


async def happen(store: Store, name: str, *, count: int, job_id: str = JOB_ID) -> None:
    """Have things happen to one job, all in one transaction."""
    events = [job_event(number, job_id=job_id) for number in range(count)]
    told = stream(job_id)
    await store.write(
        lambda tx: outbox.append(tx, told, events, notifications=[asks(name)], now=NOW)
    )


def numbers(messages: list[Message]) -> list[int | None]:
    return [each.seq for each in messages]


class NeverDry(FakeBus):
    """Whatever arrives in a busy topic is followed by another message there."""

    def __init__(self, store: Store, busy: set[str]) -> None:
        super().__init__()
        self._store = store
        self._busy = busy
        self._count = 0

    async def publish(
        self,
        route: Route,
        messages: Sequence[Message],
        *,
        written: Callable[[], None] = lambda: None,
    ) -> list[Outcome]:
        outcomes = await super().publish(route, messages, written=written)
        name = route.exchange.rpartition(".")[2]
        if name in self._busy:
            self._count += 1
            told, id_ = address_of(name), f"more-{self._count}"
            await self._store.write(
                lambda tx: outbox.publish(tx, told, b"more", message_id=id_, now=NOW)
            )
        return outcomes


async def test_one_busy_topic_more_than_there_are_lanes_has_its_turn(
    store: Store, relaying: Relaying
) -> None:
    busy = [f"busy-{number:03d}" for number in range(LANES_MAX)]
    bus = NeverDry(store, set(busy))
    for name in busy:
        await publish(store, name, count=1)
    async with relaying(bus, *busy, "last"):
        await eventually(lambda: all(bus.held[queue_of(name)] for name in busy))
        await publish(store, "last", count=3)
        await eventually(lambda: len(bus.held[queue_of("last")]) == 3)
        before = {name: len(bus.held[queue_of(name)]) for name in busy}
        await eventually(lambda: all(len(bus.held[queue_of(n)]) > before[n] for n in busy))


async def test_long_messages_of_all_topics_share_a_bounded_room_and_all_arrive(
    store: Store, relaying: Relaying
) -> None:
    bus, names = FakeBus(), ("first", "second", "third")
    bus.slow = {address_of(name).exchange for name in names}
    for name in names:
        await publish(store, name, count=12, size=MIB)
    room = ROOM_OF_ALL_BYTES
    async with relaying(bus, *names, "small"):
        await eventually(lambda: bus.bytes_under_way == room)
        await publish(store, "small", count=3)
        await eventually(lambda: len(bus.held[queue_of("small")]) == 3)
        bus.gate.set()
        await eventually(lambda: all(len(bus.held[queue_of(name)]) == 12 for name in names))
    assert bus.bytes_max <= room + LARGE.bytes_
    for name in names:
        ids = [each.id for each in bus.held[queue_of(name)]]
        assert ids == [f"{name}-{number}" for number in range(12)]


async def test_a_message_longer_than_any_page_goes_out_alone(
    store: Store, relaying: Relaying
) -> None:
    bus = FakeBus()
    await publish(store, "long", count=2, size=2 * LARGE.bytes_)
    async with relaying(bus, "long"):
        await eventually(lambda: len(bus.held[queue_of("long")]) == 2)
    assert {len(each.body) for each in bus.held[queue_of("long")]} == {2 * LARGE.bytes_}


async def test_what_follows_a_refused_message_comes_before_it_once_and_then_in_order(
    store: Store, relaying: Relaying
) -> None:
    bus = FakeBus()
    bus.refusals = {f"{JOB_ID}-2-0": 3}
    await happen(store, "job", count=5)
    async with relaying(bus, "job"):
        await eventually(lambda: numbers(bus.held[queue_of("job")])[-4:] == [2, 3, 4, 5])
    assert numbers(bus.held[queue_of("job")]) == [1, 3, 4, 5, 2, 3, 4, 5]


async def test_a_refused_message_holds_up_no_other_job_of_its_topic(
    store: Store, relaying: Relaying
) -> None:
    bus, queue = FakeBus(), queue_of("job")
    bus.refusals = {f"{JOB_ID}-1-0": 1_000}
    other = "job-00000002"
    assert outbox.shard_of(other) != outbox.shard_of(JOB_ID)
    await happen(store, "job", count=3)
    async with relaying(bus, "job"):
        await eventually(lambda: bus.refusals[f"{JOB_ID}-1-0"] < 1_000)
        for _ in range(5):
            await happen(store, "job", count=1, job_id=other)
        await eventually(
            lambda: [each.seq for each in bus.held[queue] if other in each.id] == [1, 2, 3, 4, 5]
        )
        bus.refusals.clear()
        await eventually(lambda: len({each.id for each in bus.held[queue]}) == 8)


async def test_a_topic_that_makes_progress_is_not_left_alone_for_longer_each_time(
    store: Store, relaying: Relaying
) -> None:
    bus = FakeBus()
    bus.refusals = {f"{JOB_ID}-{number}-0": 1 for number in range(2, 25, 2)}
    await happen(store, "job", count=25)
    async with relaying(bus, "job"):
        await eventually(lambda: len({each.id for each in bus.held[queue_of("job")]}) == 25)
        await eventually(lambda: numbers(bus.held[queue_of("job")])[-1] == 25)


class Overtaken(FakeBus):
    """While the first message is under way, others are committed: one with a smaller position."""

    def __init__(self, commit: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._commit = commit

    async def publish(
        self,
        route: Route,
        messages: Sequence[Message],
        *,
        written: Callable[[], None] = lambda: None,
    ) -> list[Outcome]:
        if not self.held[queue_of("busy")]:
            written()
            await self._commit()
        return await super().publish(route, messages, written=written)


async def test_a_job_is_told_in_order_though_its_first_position_was_committed_late(
    migrated_postgresql_url: str,
) -> None:
    taken = text("SELECT nextval(pg_get_serial_sequence('event_message', 'position'))")
    place = text("UPDATE event_message SET position = :early WHERE stream_id = :job AND seq = 1")
    async with open_store(migrated_postgresql_url) as store:
        early = await store.write(lambda tx: tx.execute(taken).scalar_one())

        async def commit() -> None:
            told = stream(JOB_ID)

            def add(tx: Tx) -> None:
                for number in range(2):
                    event = job_event(number, job_id=JOB_ID)
                    outbox.append(tx, told, [event], notifications=[asks("busy")], now=NOW)
                tx.execute(place, {"early": early, "job": JOB_ID})

            await store.write(add)

        bus = Overtaken(commit)
        await happen(store, "busy", count=1, job_id="job-00000002")
        async with relaying_on(store, bus, "busy"):
            await eventually(lambda: len(bus.held[queue_of("busy")]) >= 3)
        of_job = [each for each in bus.held[queue_of("busy")] if each.id.startswith(JOB_ID)]
        assert numbers(of_job) == [1, 2]


def held_now() -> float:
    (metric,) = TOPICS_HELD.collect()
    return metric.samples[0].value


async def test_a_queue_that_takes_nothing_is_named_and_the_others_get_nothing_again_meanwhile(
    store: Store,
) -> None:
    address, bus = address_of("job"), Probed()
    well, dead = address.queue("well"), address.queue("dead")
    route = Route(
        address.exchange, (Binding(well, "#"), Binding(dead, "#")), {"s1": well, "s2": dead}
    )
    bus.silent = {dead}
    with capture_logs() as logs:
        async with relayed(store, bus, Routed((address, route))):
            await happen(store, "job", count=3)
            await eventually(lambda: held_now() == 1)
            seen, probes = len(bus.held[well]), bus.probes
            await eventually(lambda: bus.probes >= probes + 3)
            assert len(bus.held[well]) == seen
            bus.silent.clear()
            await eventually(lambda: list(dict.fromkeys(numbers(bus.held[dead]))) == [1, 2, 3])
            await eventually(lambda: list(dict.fromkeys(numbers(bus.held[well]))) == [1, 2, 3])
            await eventually(lambda: held_now() == 0)
    told = [each for each in logs if each["event"] == "topic_held"]
    assert [each["why"] for each in told] == [f"the broker's queue `{dead}` takes no messages"]
    assert [*bus.exchanges] == [address.exchange]


class Probed(FakeBus):
    """Counts how often one queue alone is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.probes = 0

    async def publish(
        self,
        route: Route,
        messages: Sequence[Message],
        *,
        written: Callable[[], None] = lambda: None,
    ) -> list[Outcome]:
        self.probes += route.exchange.startswith(PROBE)
        return await super().publish(route, messages, written=written)


async def test_a_line_that_breaks_while_queues_are_asked_blames_none(store: Store) -> None:
    address = address_of("job")
    reader = address.queue("reader")
    route = Route(address.exchange, (Binding(reader, "#"),), {"s1": reader})

    class Breaking(FakeBus):
        async def publish(
            self,
            route: Route,
            messages: Sequence[Message],
            *,
            written: Callable[[], None] = lambda: None,
        ) -> list[Outcome]:
            outcomes = await super().publish(route, messages, written=written)
            self.restart()
            return outcomes

    bus = Breaking()
    bus.silent = {reader}
    with capture_logs() as logs:
        async with relayed(store, bus, Routed((address, route))):
            await happen(store, "job", count=2)
            lost = "messages_not_confirmed"
            await eventually(lambda: sum(each["event"] == lost for each in logs) >= 4)
            bus.silent.clear()
            await eventually(lambda: numbers(bus.held[reader])[-2:] == [1, 2])
    assert not [each for each in logs if each["event"] == "topic_held"]


async def test_a_topic_whose_queue_the_broker_refuses_is_held_and_somebody_is_told(
    store: Store, relaying: Relaying
) -> None:
    bus = FakeBus()
    bus.taken_names = {queue_of("job")}
    with capture_logs() as logs:
        async with relaying(bus, "job"):
            await happen(store, "job", count=2)
            await eventually(lambda: held_now() == 1)
            bus.taken_names.clear()
            await eventually(lambda: numbers(bus.held[queue_of("job")]) == [1, 2])
            await eventually(lambda: held_now() == 0)
    told = [each for each in logs if each["event"] == "topic_held"]
    assert [(each["log_level"], each["topic"]) for each in told] == [
        ("error", address_of("job").key)
    ]


class Faulty(FakeBus):
    """Meets something that nobody thought of, whenever something is published to `poisoned`."""

    async def publish(
        self,
        route: Route,
        messages: Sequence[Message],
        *,
        written: Callable[[], None] = lambda: None,
    ) -> list[Outcome]:
        if route.exchange == address_of("poisoned").exchange:
            raise RuntimeError("nobody thought of this")
        return await super().publish(route, messages, written=written)


async def test_a_fault_in_one_topic_holds_up_no_other(store: Store, relaying: Relaying) -> None:
    bus = Faulty()
    await publish(store, "poisoned", count=1)
    with capture_logs() as logs:
        async with relaying(bus, "poisoned", "well"):
            await eventually(lambda: any(each["event"] == "lane_failed" for each in logs))
            await publish(store, "well", count=3)
            await eventually(lambda: len(bus.held[queue_of("well")]) == 3)
    assert {each["event"] for each in logs} == {"lane_failed"}


async def test_a_topic_made_again_in_other_letters_leaves_no_exchange_behind(
    store: Store, relaying: Relaying
) -> None:
    bus, before = FakeBus(), TopicAddress(OWNER, REGION, "Jobs")
    kept = Binding(queue_of("jobs"), "#")
    await bus.declare(Route(before.exchange, (kept,)))

    def delete(tx: Tx) -> None:
        rebinding.retire(tx, before, "subsc-1", bindings=[kept], shared=())
        rebinding.retire_exchange(tx, before)

    await store.write(delete)
    await publish(store, "jobs", count=1)
    async with relaying(bus, "jobs"):
        await eventually(lambda: len(bus.held[queue_of("jobs")]) == 1)
        await eventually(lambda: before.exchange not in bus.exchanges)
    assert bus.exchanges == {address_of("jobs").exchange: {kept}}
