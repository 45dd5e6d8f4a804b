"""What is kept of events and messages, and what goes once it is old enough."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

import anyio
import pytest
from sqlalchemy import func, select, text

from gateway import clock
from gateway.events import ledger, outbox, relay, retention
from gateway.events.bus import Message
from gateway.events.retention import Pruned
from gateway.events.tables import event, message
from gateway.store import Store, open_store
from gateway.store.migrations import migrate
from tests.support.databases import connected, upgrade_to
from tests.support.events import NOW, Routed, asks, eventually, job_event, stream

pytestmark = pytest.mark.anyio

OLD, BEFORE = NOW - timedelta(days=40), NOW - timedelta(days=30)


async def tell(
    store: Store,
    job_id: str = "job-00000001",
    *,
    count: int = 1,
    now: datetime = OLD,
    topics: Sequence[str] = ("job-message",),
    final: bool = True,
) -> list[Message]:
    """Have events happen and their messages expanded; final: and sent."""
    events = [job_event(number, job_id=job_id) for number in range(count)]
    asked = [asks(topic) for topic in topics]
    subscribers = Routed()
    await store.write(
        lambda tx: outbox.append(tx, stream(job_id), events, notifications=asked, now=now)
    )
    while (await store.write(lambda tx: relay.expand(tx, subscribers, now=now, final=final))).more:
        continue
    return subscribers.delivered


async def prune(store: Store, subscribers: Routed | None = None) -> Pruned:
    return await retention.prune(store, subscribers=subscribers or Routed(), before=BEFORE)


async def kept(store: Store) -> tuple[list[int], list[int]]:
    """The numbers of the events, and of the messages, of the first job."""
    of_event = select(event.c.seq).where(event.c.stream_id == "job-00000001")
    of_message = select(message.c.seq).where(message.c.stream_id == "job-00000001")
    return await store.read_list(
        lambda tx: (
            list(tx.execute(of_event.order_by(event.c.seq)).scalars()),
            list(tx.execute(of_message.order_by(message.c.position)).scalars()),
        )
    )


async def test_what_is_old_and_told_goes_and_what_is_young_stays(store: Store) -> None:
    await tell(store, count=3)
    await tell(store, count=2, now=NOW)
    assert await prune(store) == Pruned(events=3, messages=3)
    assert await kept(store) == ([4, 5], [4, 5])
    assert await prune(store) == Pruned(events=0, messages=0)


async def test_how_far_the_removal_went_is_stored_once_and_never_goes_back(store: Store) -> None:
    await tell(store, count=3)
    await tell(store, "job-00000002", now=OLD + timedelta(days=1))
    await tell(store, "job-00000002", now=NOW)
    assert await store.read_point(ledger.find_removed_before) is None
    subscribers = Routed()
    for before, removed in (
        (OLD, 0),
        (OLD + timedelta(hours=1), 3),
        (BEFORE, 1),
        (BEFORE + timedelta(days=1), 0),
    ):
        done = await retention.prune(store, subscribers=subscribers, before=before)
        assert done.events == removed
    assert await store.read_point(ledger.find_removed_before) == BEFORE
    await tell(store, count=1, now=OLD)
    await tell(store, "job-00000002", now=NOW)
    done = await retention.prune(store, subscribers=subscribers, before=OLD + timedelta(hours=1))
    assert done.events == 1
    assert await store.read_point(ledger.find_removed_before) == BEFORE


async def test_where_only_messages_could_go_it_is_stored_too(store: Store) -> None:
    delivered = await tell(store, count=4)
    await tell(store, "job-00000002", now=NOW)
    subscribers = Routed()
    subscribers.waiting = {delivered[0].position}
    assert await prune(store, subscribers) == Pruned(events=0, messages=3)
    assert await store.read_point(ledger.find_removed_before) == BEFORE


async def test_what_could_not_be_removed_is_not_stored_as_removed(store: Store) -> None:
    delivered = await tell(store, count=4)
    await tell(store, "job-00000002", now=NOW)
    subscribers = Routed()
    subscribers.waiting = {each.position for each in delivered}
    assert await prune(store, subscribers) == Pruned(events=0, messages=0)
    assert await store.read_point(ledger.find_removed_before) is None


async def test_pages_go_one_after_the_other(store: Store) -> None:
    count = 2 * retention.PAGE + 1
    await tell(store, count=count)
    await tell(store, now=NOW)
    assert await prune(store) == Pruned(events=count, messages=count)


async def test_what_waits_for_a_subscriber_stays_and_so_do_the_events_behind_it(
    store: Store,
) -> None:
    delivered = await tell(store, count=4)
    await tell(store, "job-00000002", now=NOW)
    subscribers = Routed()
    subscribers.waiting = {delivered[1].position}
    assert await prune(store, subscribers) == Pruned(events=1, messages=3)
    assert await kept(store) == ([2, 3, 4], [2])
    assert subscribers.forgotten == {each.position for each in delivered} - subscribers.waiting


async def test_what_the_broker_has_not_confirmed_stays(store: Store) -> None:
    await tell(store, count=2, final=False)
    await tell(store, "job-00000002", now=NOW)
    assert await prune(store) == Pruned(events=0, messages=0)


async def test_what_is_not_expanded_stays(store: Store) -> None:
    for _ in range(2):
        await store.write(
            lambda tx: outbox.append(tx, stream(), [job_event(1)], notifications=[asks()], now=OLD)
        )
    await prune(store)
    assert await kept(store) == ([1, 2], [1, 2])


async def test_the_newest_rows_stay_so_that_no_position_is_given_out_twice(store: Store) -> None:
    await tell(store, count=3)
    await prune(store)
    assert await kept(store) == ([3], [3])
    newest = select(func.max(event.c.position))
    last = await store.read_list(lambda tx: tx.execute(newest).scalar_one())
    await tell(store)
    assert (await kept(store))[0] == [3, 4]
    assert await store.read_list(lambda tx: tx.execute(newest).scalar_one()) == last + 1


async def test_the_numbers_of_a_job_go_on_after_its_events_are_gone(store: Store) -> None:
    await tell(store, count=3)
    await tell(store, "job-00000002", now=NOW)
    await prune(store)
    assert await kept(store) == ([], [])
    (told,) = await tell(store)
    assert told.id == "job-00000001-4-0"


async def test_nothing_goes_if_events_are_kept_for_ever(store: Store) -> None:
    await tell(store, count=3)
    run = partial(retention.run, store, subscribers=Routed(), clock=lambda: NOW)
    with anyio.fail_after(10):
        await run(keep_days=0)
    assert (await kept(store))[0] == [1, 2, 3]


async def test_the_loop_deletes_what_is_older_than_it_may_be(store: Store) -> None:
    await tell(store, count=3)
    await tell(store, now=NOW)
    async with anyio.create_task_group() as tasks:
        run = partial(retention.run, store, subscribers=Routed(), clock=lambda: NOW)
        await tasks.start(partial(run, keep_days=30))

        async def is_done() -> bool:
            return (await kept(store))[0] == [4]

        await eventually(is_done)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("has_events", [True, False])
async def test_a_database_from_before_counts_as_removed_what_may_have_been(
    database_url: str, has_events: bool
) -> None:
    upgrade_to("0009", database_url)
    add = text(
        "INSERT INTO event (stream_id, seq, name, subject_id, batch, happened_at)"
        " VALUES ('job-a', 9, 'JOB_RUNNING', 'job-a', :batch, 1)"
    )
    if has_events:
        with connected(database_url) as connection, connection.begin():
            connection.execute(add, {"batch": b"{}"})
    begun = clock.now()
    migrate(database_url)
    async with open_store(database_url) as store:
        found = await store.read_point(ledger.find_removed_before)
    if has_events:
        assert found is not None
        assert begun <= found + timedelta(days=1) <= clock.now()
    else:
        assert found is None
