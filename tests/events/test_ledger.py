"""Reading the ledger: what is chosen, in which order, and that nobody who follows it misses any."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from gateway.events import ledger, outbox
from gateway.events.ledger import Entry, Page, Wanted
from gateway.events.messages import Event
from gateway.events.names import EventName, Subject
from gateway.store import Store, Tx, open_store
from gateway.store.postgresql import driver_url
from tests.support.events import NOW, OWNER, REGION, asks, job_event, stream

pytestmark = pytest.mark.anyio

EVERYTHING = Wanted()
JOBS = [f"job-0000000{number}" for number in range(1, 5)]


async def append(store: Store, job_id: str = JOBS[0], *, count: int = 1) -> None:
    events = [job_event(number, job_id=job_id) for number in range(count)]
    await store.write(
        lambda tx: outbox.append(tx, stream(job_id), events, notifications=[], now=NOW)
    )


async def read(store: Store, after: int = 0, *, limit: int = 1000) -> Page:
    return await ledger.read_following(store, after=after, limit=limit, wanted=EVERYTHING)


async def chosen(store: Store, wanted: Wanted) -> list[str]:
    """The ids of the events that are read, which are the same whichever way they are."""
    page = await ledger.read_following(store, after=0, limit=1000, wanted=wanted)
    last = await store.read_list(lambda tx: ledger.list_last(tx, wanted, limit=1000))
    assert list(page.entries) == last[::-1]
    return [entry.id for entry in page.entries]


async def test_events_of_all_streams_come_in_the_order_in_which_they_were_written(
    store: Store,
) -> None:
    for job_id in (JOBS[1], JOBS[0], JOBS[1]):
        await append(store, job_id, count=2)
    page = await read(store)
    ids = [(JOBS[1], 1), (JOBS[1], 2), (JOBS[0], 1), (JOBS[0], 2), (JOBS[1], 3), (JOBS[1], 4)]
    assert [(entry.stream_id, entry.seq) for entry in page.entries] == ids
    assert page.reached == page.entries[-1].position


async def test_a_page_ends_at_its_limit_and_the_next_goes_on_behind_it(store: Store) -> None:
    await append(store, count=5)
    first = await read(store, limit=3)
    second = await read(store, first.reached, limit=3)
    assert [entry.seq for entry in first.entries + second.entries] == [1, 2, 3, 4, 5]
    assert await read(store, second.reached) == Page((), second.reached)


async def test_a_reader_is_carried_past_what_it_does_not_want(store: Store) -> None:
    await append(store, JOBS[0], count=4)
    wanted = Wanted(stream_ids=frozenset({JOBS[1]}))
    page = await ledger.read_following(store, after=0, limit=10, wanted=wanted)
    assert page == Page((), (await read(store)).entries[-1].position)


async def test_events_are_chosen_by_account_region_name_kind_stream_subject_and_time(
    store: Store,
) -> None:
    elsewhere = outbox.Stream("env-00000001", "200000000001", "ap-beijing")
    node = Event(EventName.COMPUTE_NODE_RUNNING, "node-0000001", {"EnvId": elsewhere.id})
    made = Event(EventName.COMPUTE_ENV_CREATED, elsewhere.id, {"EnvId": elsewhere.id})
    later = NOW + timedelta(hours=1)
    await append(store)
    await store.write(
        lambda tx: outbox.append(tx, elsewhere, [made, node], notifications=[], now=later)
    )
    job, env = [f"{JOBS[0]}-1"], [f"{elsewhere.id}-1", f"{elsewhere.id}-2"]
    for wanted, ids in {
        EVERYTHING: job + env,
        Wanted(owner_uin=OWNER): job,
        Wanted(region="ap-beijing"): env,
        Wanted(owner_uin=OWNER, region="ap-beijing"): [],
        Wanted(names=frozenset({"JOB_RUNNING", "COMPUTE_ENV_CREATED"})): job + env[:1],
        Wanted(kind=Subject.NODE): env[1:],
        Wanted(kind=Subject.NODE, names=frozenset({"JOB_RUNNING"})): [],
        Wanted(stream_ids=frozenset({JOBS[0], JOBS[1]})): job,
        Wanted(subject_ids=frozenset({"node-0000001"})): env[1:],
        Wanted(since=later): env,
        Wanted(until=later): job,
    }.items():
        assert await chosen(store, wanted) == ids, wanted


async def test_an_event_is_found_by_its_public_id(store: Store) -> None:
    await append(store, count=2)
    found = await store.read_list(lambda tx: ledger.find(tx, f"{JOBS[0]}-2"))
    assert found is not None
    assert (found.seq, found.batch) == (2, {"JobId": JOBS[0], "Number": 1})
    assert json.loads(ledger.event_json(found)) == {
        "EventId": f"{JOBS[0]}-2",
        "Position": found.position,
        "Seq": 2,
        "EventTime": "2018-06-15T14:43:17Z",
        "EventName": "JOB_RUNNING",
        "Region": REGION,
        "Owner": OWNER,
        "Subject": JOBS[0],
        "Batch": {"JobId": JOBS[0], "Number": 1},
    }


@pytest.mark.parametrize(
    "event_id",
    [
        *("", "-", "job-00000001", "job-00000001-3", "job-00000001-01", "job-00000001-1-0"),
        *("job-00000001-9999999999999999999999", "job\x00-1", "job-00000001-1\n", "\ud800-1"),
    ],
)
async def test_what_is_no_events_id_finds_nothing(store: Store, event_id: str) -> None:
    await append(store)
    assert await store.read_list(lambda tx: ledger.find(tx, event_id)) is None


async def test_the_messages_of_an_event_are_listed_with_their_topics(store: Store) -> None:
    asked = [asks("first"), asks("second")]
    await store.write(
        lambda tx: outbox.append(tx, stream(), [job_event(1)], notifications=asked, now=NOW)
    )
    (entry,) = (await read(store)).entries
    found = await store.read_list(lambda tx: ledger.list_sendings(tx, entry))
    assert [(each.id, each.topic_key.split("/")[2]) for each in found] == [
        ("job-00000001-1-0", "first"),
        ("job-00000001-1-1", "second"),
    ]
    assert {(each.replay, each.expanded_at, each.sent_at) for each in found} == {(0, None, None)}


@contextmanager
def transaction(url: str) -> Iterator[Tx]:
    """A transaction on PostgreSQL that is committed at the end, beside any others."""
    engine = create_engine(driver_url(url))
    try:
        with engine.begin() as connection:
            yield Tx(connection)
    finally:
        engine.dispose()


def write(tx: Tx, job_id: str) -> None:
    outbox.append(tx, stream(job_id), [job_event(1, job_id=job_id)], notifications=[], now=NOW)


@pytest.mark.parametrize("first_to_begin", ["the slow one", "the quick one"])
async def test_who_follows_waits_for_a_smaller_position_that_is_committed_later(
    migrated_postgresql_url: str, first_to_begin: str
) -> None:
    """Whichever of the two got its transaction number first: positions are another order."""
    url, begin = migrated_postgresql_url, text("SELECT pg_current_xact_id()")
    async with open_store(url) as store:
        with transaction(url) as slow:
            with transaction(url) as quick:
                (slow if first_to_begin == "the slow one" else quick).execute(begin)
                (quick if first_to_begin == "the slow one" else slow).execute(begin)
                write(slow, JOBS[0])
                write(quick, JOBS[1])
            before = await read(store)
            assert before == Page((), 0)
        after = await read(store)
    assert [entry.stream_id for entry in after.entries] == JOBS[:2]


async def test_a_writer_whose_positions_come_later_holds_nobody_up(
    migrated_postgresql_url: str,
) -> None:
    url = migrated_postgresql_url
    async with open_store(url) as store:
        await append(store, JOBS[0])
        with transaction(url) as slow:
            write(slow, JOBS[1])
            assert [entry.stream_id for entry in (await read(store)).entries] == JOBS[:1]


async def test_what_was_rolled_back_holds_nobody_up(migrated_postgresql_url: str) -> None:
    url = migrated_postgresql_url
    async with open_store(url) as store:

        def fail(tx: Tx) -> None:
            write(tx, JOBS[0])
            raise LookupError("after the event was written")

        with pytest.raises(LookupError):
            await store.write(fail)
        await append(store, JOBS[1])
        assert [entry.stream_id for entry in (await read(store)).entries] == [JOBS[1]]


async def test_a_writer_is_still_known_after_a_savepoint_was_undone(
    migrated_postgresql_url: str,
) -> None:
    url = migrated_postgresql_url
    async with open_store(url) as store:
        with transaction(url) as slow:
            slow.execute(text("SAVEPOINT one"))
            write(slow, JOBS[0])
            slow.execute(text("ROLLBACK TO one"))
            write(slow, JOBS[1])
            await append(store, JOBS[2])
            assert (await read(store)).entries == ()
        assert [entry.stream_id for entry in (await read(store)).entries] == JOBS[1:3]


def write_many(tx: Tx, *, job_id: str, count: int, fails: bool) -> None:
    for number in range(count):
        outbox.append(
            tx, stream(job_id), [job_event(number, job_id=job_id)], notifications=[], now=NOW
        )
    if fails:
        raise LookupError("undone, though its positions were taken")


async def write_plan(store: Store, job_id: str, counts: list[int]) -> None:
    """A transaction after the other, with so many events each; every third of them is undone."""
    for number, count in enumerate(counts):
        act = partial(write_many, job_id=job_id, count=count, fails=number % 3 == 2)
        with suppress(LookupError):
            await store.write(act)


async def follow(store: Store, start: int, *, limit: int, done: anyio.Event) -> list[Entry]:
    """Read page after page, until nothing came after everything was written."""
    followed: list[Entry] = []
    at = start
    while True:
        is_last = done.is_set()
        await anyio.lowlevel.checkpoint()  # a read that finds nothing new may not wait at all
        page = await read(store, at, limit=limit)
        assert page.reached >= at
        followed.extend(page.entries)
        at = page.reached
        if is_last and not page.entries:
            return followed


@given(
    plan=st.lists(st.lists(st.integers(1, 4), max_size=6), min_size=1, max_size=4),
    limit=st.integers(1, 5),
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_pages_of_a_follower_are_the_ledger_though_many_write(
    store: Store, plan: list[list[int]], limit: int
) -> None:
    start = await store.read_point(ledger.find_settled)
    followed: list[Entry] = []
    done = anyio.Event()

    async def run_follower() -> None:
        followed.extend(await follow(store, start, limit=limit, done=done))

    async with anyio.create_task_group() as readers:
        readers.start_soon(run_follower)
        async with anyio.create_task_group() as writers:
            for job_id, counts in zip(JOBS, plan, strict=False):
                writers.start_soon(write_plan, store, job_id, counts)
        done.set()
    whole = await store.read_list(lambda tx: ledger.list_last(tx, EVERYTHING, limit=100_000))
    assert followed == [entry for entry in whole[::-1] if entry.position > start]
