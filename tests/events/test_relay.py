"""The relay over a bus in memory: order, failures, topics that do not hold each other up."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import anyio
import pytest

from gateway import clock
from gateway.events import outbox, rebinding, relay
from gateway.events.bus import Binding, Bus, Outcome, Route, TopicAddress
from gateway.events.lane import settled
from gateway.events.messages import Event, Notification
from gateway.events.subscribers import Subscribers
from gateway.store import Store, Tx
from tests.support.events import (
    JOB_TOPIC,
    NOW,
    OWNER,
    REGION,
    Routed,
    asks,
    eventually,
    job_event,
    message,
    stream,
)
from tests.support.fake_bus import FakeBus

pytestmark = pytest.mark.anyio

READER = JOB_TOPIC.queue("reader")
ROUTE = Route(JOB_TOPIC.exchange, (Binding(READER, "#"),))
BAD_TOPIC = TopicAddress(OWNER, REGION, "bad")
BAD_ROUTE = Route(BAD_TOPIC.exchange, (Binding(BAD_TOPIC.queue("bad-reader"), "#"),))

Relaying = Callable[[Bus | None, Subscribers], AbstractAsyncContextManager[None]]


@pytest.fixture
def relaying(store: Store) -> Relaying:
    @asynccontextmanager
    async def run(bus: Bus | None, subscribers: Subscribers) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            start = partial(relay.run, store, bus, subscribers=subscribers, clock=clock.now)
            await tasks.start(start)
            yield
            tasks.cancel_scope.cancel()

    return run


async def tell(store: Store, event: Event, notifications: Sequence[Notification]) -> None:
    await store.write(
        lambda tx: outbox.append(tx, stream(), [event], notifications=notifications, now=NOW)
    )


async def append(store: Store, count: int) -> None:
    for number in range(count):
        await tell(store, job_event(number), [asks()])


async def none_waits(store: Store) -> bool:
    return await store.read_list(outbox.count_unsent) == 0


async def test_messages_go_out_in_order_once_and_are_marked(
    store: Store, relaying: Relaying
) -> None:
    bus = FakeBus()
    await append(store, 150)
    async with relaying(bus, Routed((JOB_TOPIC, ROUTE))):
        await eventually(lambda: len(bus.held[READER]) == 150)
        await append(store, 50)
        await eventually(lambda: len(bus.held[READER]) == 200)
        await eventually(lambda: none_waits(store))
    assert [each.seq for each in bus.held[READER]] == list(range(1, 201))


async def test_more_than_a_page_is_drained(store: Store, relaying: Relaying) -> None:
    bus = FakeBus()
    events = [job_event(number) for number in range(2_000)]
    await store.write(
        lambda tx: outbox.append(tx, stream(), events, notifications=[asks()], now=NOW)
    )
    async with relaying(bus, Routed((JOB_TOPIC, ROUTE))):
        await eventually(lambda: len(bus.held[READER]) >= 2_000)
    assert [each.seq for each in bus.held[READER]] == list(range(1, 2_001))


async def test_a_broker_that_comes_late_gets_everything(store: Store, relaying: Relaying) -> None:
    bus = FakeBus()
    bus.away = True
    async with relaying(bus, Routed((JOB_TOPIC, ROUTE))):
        await append(store, 20)
        assert bus.held[READER] == []
        bus.away = False
        await eventually(lambda: len(bus.held[READER]) == 20)


async def test_a_new_connection_declares_every_queue_though_nothing_is_published(
    store: Store, relaying: Relaying
) -> None:
    bus = FakeBus()
    async with relaying(bus, Routed((JOB_TOPIC, ROUTE))):
        await eventually(lambda: READER in bus.queues)
        bus.queues.clear()
        bus.exchanges.clear()
        bus.restart()
        await eventually(lambda: READER in bus.queues)


async def test_a_topic_that_is_refused_holds_up_no_other(store: Store, relaying: Relaying) -> None:
    bus = FakeBus()
    bus.refusing.add(BAD_ROUTE.exchange)
    bad_reader = BAD_ROUTE.bindings[0].queue
    both = [asks("bad"), asks()]
    async with relaying(bus, Routed((JOB_TOPIC, ROUTE), (BAD_TOPIC, BAD_ROUTE))):
        for number in range(30):
            await tell(store, job_event(number), both)
        await eventually(lambda: len(bus.held[READER]) == 30)
        assert bus.held[bad_reader] == []
        bus.refusing.clear()
        await eventually(lambda: len(bus.held[bad_reader]) == 30)
    assert [each.seq for each in bus.held[bad_reader]] == list(range(1, 31))


async def test_a_returned_message_goes_out_when_its_queue_is_back(
    store: Store, relaying: Relaying
) -> None:
    bus = FakeBus()
    async with relaying(bus, Routed((JOB_TOPIC, ROUTE))):
        await append(store, 1)
        await eventually(lambda: len(bus.held[READER]) == 1)
        bus.exchanges[ROUTE.exchange].clear()
        await append(store, 1)
        await eventually(lambda: len(bus.held[READER]) == 2)


async def test_messages_of_a_topic_that_is_gone_do_not_wait_for_ever(
    store: Store, relaying: Relaying
) -> None:
    await append(store, 3)
    async with relaying(FakeBus(), Routed()):
        await eventually(lambda: none_waits(store))


async def test_a_binding_is_taken_off_though_the_broker_was_away(
    store: Store, relaying: Relaying
) -> None:
    bus = FakeBus()
    await bus.declare(ROUTE)
    bus.away = True

    def retire(tx: Tx) -> None:
        rebinding.retire(tx, JOB_TOPIC, "subsc-1", bindings=ROUTE.bindings, shared=())

    async with relaying(bus, Routed((JOB_TOPIC, Route(ROUTE.exchange)))):
        await store.write(retire)
        assert bus.exchanges[ROUTE.exchange]
        bus.away = False
        await eventually(lambda: not bus.exchanges[ROUTE.exchange])
    assert READER in bus.queues


async def test_a_binding_that_is_wanted_again_is_not_taken_off(
    store: Store, relaying: Relaying
) -> None:
    bus = FakeBus()

    def retire(tx: Tx) -> None:
        rebinding.retire(tx, JOB_TOPIC, "subsc-1", bindings=ROUTE.bindings, shared=ROUTE.bindings)

    await store.write(retire)
    async with relaying(bus, Routed((JOB_TOPIC, ROUTE))):
        await append(store, 1)
        await eventually(lambda: len(bus.held[READER]) == 1)
    assert bus.exchanges[ROUTE.exchange] == set(ROUTE.bindings)


async def test_without_a_broker_messages_are_delivered_and_done(
    store: Store, relaying: Relaying
) -> None:
    subscribers = Routed()
    async with relaying(None, subscribers):
        await append(store, 300)
        await eventually(lambda: len(subscribers.delivered) == 300)
    assert [each.seq for each in subscribers.delivered] == list(range(1, 301))


async def test_a_message_is_expanded_once(store: Store) -> None:
    subscribers = Routed()
    await append(store, 3)
    for _ in range(2):
        await store.write(lambda tx: relay.expand(tx, subscribers, now=NOW, final=False))
    assert len(subscribers.delivered) == 3


def test_after_a_failure_the_rest_of_its_shard_is_sent_again() -> None:
    first, second, third = message(1), message(2), message(3)
    outcomes = [Outcome.CONFIRMED, Outcome.REFUSED, Outcome.CONFIRMED]
    assert settled([first, second, third], outcomes, failed=set()) == [first]
