"""Telling again: which messages, to whom, how they are marked, and that nothing else changes."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import anyio
import pytest
from msgspec.structs import replace
from sqlalchemy import select

from gateway import clock
from gateway.events import outbox, relay
from gateway.events.bus import Binding, Message, Route, TopicAddress
from gateway.events.messages import Event
from gateway.events.names import EventName
from gateway.events.replay import Chosen, Replayed, Target, replay
from gateway.events.tables import message
from gateway.store import Store
from tests.support.events import (
    JOB_TOPIC,
    NOW,
    OWNER,
    REGION,
    Routed,
    asks,
    eventually,
    job_event,
    stream,
)
from tests.support.fake_bus import FakeBus

pytestmark = pytest.mark.anyio

OTHER_TOPIC = TopicAddress(OWNER, REGION, "other")
READER = JOB_TOPIC.queue("reader")
ROUTE = Route(JOB_TOPIC.exchange, (Binding(READER, "#"),), {"subsc-1": READER})
EVERYBODY = Chosen(topic_key=JOB_TOPIC.key)


def both_topics() -> Routed:
    return Routed((JOB_TOPIC, ROUTE), (OTHER_TOPIC, Route(OTHER_TOPIC.exchange)))


async def tell(
    store: Store,
    *,
    job_id: str = "job-00000001",
    name: EventName = EventName.JOB_RUNNING,
    count: int = 1,
    topics: Sequence[str] = ("job-message",),
    now: datetime = NOW,
) -> None:
    """Have events happen, and expand their messages as the relay does."""
    events = [replace(job_event(number, job_id=job_id), name=name) for number in range(count)]
    asked = [asks(topic) for topic in topics]
    await store.write(
        lambda tx: outbox.append(tx, stream(job_id), events, notifications=asked, now=now)
    )
    await expand(store, Routed())


async def expand(store: Store, subscribers: Routed) -> list[Message]:
    """Deliver what waits; returns it."""
    while (await store.write(lambda tx: relay.expand(tx, subscribers, now=NOW, final=True))).more:
        continue
    return subscribers.delivered


async def rows(store: Store) -> list[Any]:
    statement = select(message).order_by(message.c.position)
    return await store.read_list(lambda tx: list(tx.execute(statement)))


async def again(store: Store, chosen: Chosen, **options: Any) -> list[Message]:
    """What is delivered because of a replay."""
    done = await replay(store, chosen, subscribers=both_topics(), **options)
    delivered = await expand(store, Routed())
    assert done.told == len(delivered)
    return delivered


async def test_a_replay_has_the_same_id_and_bytes_and_says_which_one_it_is(store: Store) -> None:
    await tell(store, count=3)
    first = await rows(store)
    for number in (1, 2):
        told = await again(store, EVERYBODY)
        assert [each.replay for each in told] == [number] * 3
        assert [(each.id, each.body, each.seq) for each in told] == [
            (row.id, row.body, row.seq) for row in first
        ]
    assert (await rows(store))[:3] == first


async def test_a_replay_goes_out_with_the_running_relay_which_another_process_woke(
    store: Store,
) -> None:
    bus = FakeBus()
    async with anyio.create_task_group() as tasks:
        subscribers = both_topics()

        async def run() -> None:
            await relay.run(store, bus, subscribers=subscribers, clock=clock.now)

        tasks.start_soon(run)
        await store.write(
            lambda tx: outbox.append(tx, stream(), [job_event(1)], notifications=[asks()], now=NOW)
        )
        await eventually(lambda: len(bus.held[READER]) == 1)
        await eventually(lambda: len(subscribers.delivered) == 1)
        await replay(store, EVERYBODY, subscribers=subscribers)
        await eventually(lambda: len(bus.held[READER]) == 2)
        tasks.cancel_scope.cancel()
    assert [(each.id, each.replay) for each in bus.held[READER]] == [
        ("job-00000001-1-0", 0),
        ("job-00000001-1-0", 1),
    ]


async def test_messages_are_chosen_by_id_event_topic_job_name_and_time(store: Store) -> None:
    late = NOW + timedelta(hours=1)
    await tell(store, topics=("job-message", "other"))
    await tell(store, job_id="job-00000002", name=EventName.JOB_FAILED, now=late)
    one, both = "job-00000001-1-0", ["job-00000001-1-0", "job-00000001-1-1"]
    failed = "job-00000002-1-0"
    for chosen, ids in {
        Chosen(id=one): [one],
        Chosen(id="job-00000001-1"): both,
        Chosen(id="job-00000001-1", topic_key=JOB_TOPIC.key): [one],
        EVERYBODY: [one, failed],
        Chosen(stream_ids=frozenset({"job-00000001"})): both,
        Chosen(names=frozenset({"JOB_FAILED", "JOB_SUCCEED"})): [failed],
        Chosen(since=late): [failed],
        Chosen(until=late): both,
        Chosen(id="job-00000003-1"): [],
        Chosen(id="\x00"): [],
        Chosen(id="\ud800-1"): [],
    }.items():
        assert [each.id for each in await again(store, chosen)] == ids, chosen


async def test_one_subscription_alone_is_told_what_its_filter_lets_through(store: Store) -> None:
    await tell(store, count=2)
    await tell(store, name=EventName.JOB_FAILED)
    only = Target("subsc-1", lambda routing_key, tags: ".JOB_FAILED." in routing_key)
    done = await replay(store, EVERYBODY, subscribers=both_topics(), only=only)
    assert done == Replayed(told=1, unwanted=2)
    (told,) = await expand(store, Routed())
    assert (told.only_subscription_id, told.event_name) == ("subsc-1", "JOB_FAILED")


async def test_many_messages_are_told_again_in_order_and_each_once(store: Store) -> None:
    await tell(store, count=20)
    await again(store, EVERYBODY, page=7)
    told = await again(store, EVERYBODY, page=7)
    assert [each.seq for each in told] == list(range(1, 21))


async def test_a_dry_run_counts_and_tells_nobody(store: Store) -> None:
    await tell(store, count=3)
    before = await rows(store)
    done = await replay(store, EVERYBODY, subscribers=both_topics(), dry_run=True)
    assert done == Replayed(told=3)
    assert await rows(store) == before


async def test_what_was_not_told_once_is_not_told_again(store: Store) -> None:
    await store.write(
        lambda tx: outbox.append(tx, stream(), [job_event(1)], notifications=[asks()], now=NOW)
    )
    assert await replay(store, EVERYBODY, subscribers=both_topics()) == Replayed()


async def test_messages_whose_topic_is_gone_are_counted_and_left(store: Store) -> None:
    await tell(store, topics=("job-message", "deleted"))
    done = await replay(store, Chosen(id="job-00000001-1"), subscribers=both_topics())
    assert done == Replayed(told=1, gone=1)


async def test_replays_at_the_same_time_have_numbers_of_their_own(store: Store) -> None:
    await tell(store, count=10)
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(run_replay, store)
    numbers: dict[str, list[int]] = {}
    for row in await rows(store):
        numbers.setdefault(row.id, []).append(row.replay)
    assert [sorted(each) for each in numbers.values()] == [list(range(6))] * 10


async def run_replay(store: Store) -> None:
    await replay(store, EVERYBODY, subscribers=both_topics(), page=3)


async def test_what_happens_after_a_replay_comes_after_it(store: Store) -> None:
    await tell(store, count=5)
    await replay(store, EVERYBODY, subscribers=both_topics())
    event = Event(EventName.JOB_SUCCEED, "job-00000001", {})
    await store.write(
        lambda tx: outbox.append(tx, stream(), [event], notifications=[asks()], now=NOW)
    )
    told = await expand(store, Routed())
    assert [(each.seq, each.replay) for each in told] == [*((n, 1) for n in range(1, 6)), (6, 0)]
