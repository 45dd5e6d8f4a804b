"""The shortcut past the relay: what is delivered with the event, and what is left as it was."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from functools import partial

import pytest
from sqlalchemy import Row, func, select

from gateway.events import outbox, relay, tables
from gateway.events.bus import Message
from gateway.events.messages import Event, Notification
from gateway.events.names import EventName
from gateway.events.shortcut import MANY, SHUT, Shortcut
from gateway.store import Store, Tx
from tests.support.events import JOB_TOPIC, NOW, Routed, asks, job_event, stream

pytestmark = pytest.mark.anyio

Rows = Sequence[Row[tuple[int, str, str | None, datetime | None, datetime | None]]]
MESSAGES = select(
    tables.message.c.position,
    tables.message.c.id,
    tables.message.c.topic_key,
    tables.message.c.expanded_at,
    tables.message.c.sent_at,
).order_by(tables.message.c.position)


class Taking(Routed):
    """Takes at most so many messages at once; fails, or is just being changed, on request."""

    at_most = 1_000
    fails = False
    is_free = True

    def hold(self, tx: Tx, topic_keys: Collection[str]) -> bool:
        return self.is_free

    def deliver(self, tx: Tx, messages: Sequence[Message], *, now: datetime) -> int:
        if self.fails:
            raise LookupError("a fault of ours")
        return super().deliver(tx, messages[: self.at_most], now=now)

    @property
    def ids(self) -> list[str]:
        return [message.id for message in self.delivered]


@pytest.fixture
def taking() -> Taking:
    return Taking()


@pytest.fixture
def shortcut(taking: Taking) -> Shortcut:
    """Without a bus."""
    return Shortcut(taking, final=True)


async def tell(
    store: Store,
    shortcut: Shortcut,
    *events: Event,
    job_id: str = "job-00000001",
    asked: Sequence[Notification] = (asks(),),
    now: datetime = NOW,
) -> None:
    function = partial(
        shortcut.append,
        stream=stream(job_id),
        events=events or [job_event(1)],
        notifications=asked,
        now=now,
    )
    await store.write(function)


async def relay_what_waits(store: Store, taking: Taking) -> None:
    while (await store.write(lambda tx: relay.expand(tx, taking, now=NOW, final=True))).messages:
        pass


async def messages(store: Store) -> Rows:
    return await store.read_list(lambda tx: tx.execute(MESSAGES).all())


async def waiting(store: Store) -> list[str]:
    return [row.id for row in await messages(store) if row.expanded_at is None]


def ids(last: int, *, first: int = 1) -> list[str]:
    """The messages of the events of the usual job."""
    return [f"job-00000001-{seq}-0" for seq in range(first, last + 1)]


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("count", [1, 2, 7, 64])
async def test_events_are_delivered_in_their_order_in_the_same_transaction(
    store: Store, taking: Taking, *, final: bool, count: int
) -> None:
    shortcut = Shortcut(taking, final=final)
    events = [job_event(number) for number in range(count)]
    asked = [asks(), asks("another", colour="blue")]
    for _ in range(3):  # the first time is SQLAlchemy's on SQLite
        await tell(store, shortcut, *events, asked=asked)
    rows = await messages(store)
    expected = [f"job-00000001-{seq}-{n}" for seq in range(1, 3 * count + 1) for n in (0, 1)]
    assert [row.id for row in rows] == taking.ids == expected
    assert [row.position for row in rows] == [each.position for each in taking.delivered]
    assert {row.expanded_at for row in rows} == {NOW}
    assert {row.sent_at for row in rows} == {NOW if final else None}


async def test_a_message_is_delivered_as_the_relay_would(
    store: Store, taking: Taking, shortcut: Shortcut
) -> None:
    await tell(store, shortcut)
    [at_once] = taking.delivered
    read_again = tables.message.update().values(expanded_at=None)
    await store.write(lambda tx: tx.execute(read_again))
    await relay_what_waits(store, taking)
    assert taking.delivered == [at_once, at_once]


async def test_what_is_older_comes_first(store: Store, taking: Taking, shortcut: Shortcut) -> None:
    await store.write(
        lambda tx: outbox.append(tx, stream(), [job_event(1)], notifications=[asks()], now=NOW)
    )
    await tell(store, shortcut)
    await tell(store, shortcut)
    assert taking.delivered == []
    await relay_what_waits(store, taking)
    await tell(store, shortcut)
    assert taking.ids == ids(4)


async def test_in_one_transaction_what_is_older_comes_first_too(
    store: Store, taking: Taking, shortcut: Shortcut
) -> None:
    def append_both(tx: Tx) -> None:
        for append in (outbox.append, shortcut.append):
            append(tx, stream(), [job_event(1)], notifications=[asks()], now=NOW)

    await store.write(append_both)
    await relay_what_waits(store, taking)
    assert taking.ids == ids(2)


async def test_few_messages_of_jobs_in_turns_are_left_to_the_relay_and_many_are_not(
    store: Store, taking: Taking, shortcut: Shortcut
) -> None:
    await tell(store, shortcut, *(job_event(number) for number in range(MANY)))
    await tell(store, shortcut, *[job_event(1)] * MANY, job_id="job-00000002")
    assert len(taking.delivered) == 2 * MANY
    await tell(store, shortcut, *[job_event(1)] * (MANY - 1))
    assert await waiting(store) == ids(2 * MANY - 1, first=MANY + 1)
    await relay_what_waits(store, taking)
    await tell(store, shortcut)
    assert await waiting(store) == []


async def test_more_than_one_transaction_should_deliver_is_left_to_the_relay(
    store: Store, taking: Taking, shortcut: Shortcut
) -> None:
    events = [job_event(number) for number in range(relay.EXPANDED_AT_ONCE + 1)]
    await tell(store, shortcut, *events)
    assert taking.delivered == []
    assert await waiting(store) == ids(len(events))


async def test_bodies_longer_than_one_transaction_should_deliver_are_left_to_the_relay(
    store: Store, taking: Taking, shortcut: Shortcut
) -> None:
    size = relay.EXPANDED_BYTES // 2  # longer in base64
    events = [Event(EventName.JOB_RUNNING, "job-00000001", {"Why": "x" * size})] * 2
    await tell(store, shortcut, *events)
    assert taking.delivered == []
    assert await waiting(store) == ids(2)


@pytest.mark.parametrize("final", [True, False])
async def test_what_is_not_taken_at_once_follows_in_its_order(
    store: Store, taking: Taking, *, final: bool
) -> None:
    taking.at_most = 2
    shortcut = Shortcut(taking, final=final)
    await tell(store, shortcut, *(job_event(number) for number in range(5)))
    assert taking.ids == ids(2)
    assert await waiting(store) == ids(5, first=3)
    unsent = [row.id for row in await messages(store) if row.sent_at is None]
    assert unsent == (ids(5, first=3) if final else ids(5))
    taking.at_most = 1_000
    await tell(store, shortcut)
    assert await waiting(store) == ids(6, first=3)
    await relay_what_waits(store, taking)
    assert taking.ids == ids(6)


async def test_while_a_subscription_is_changed_it_is_not_waited_for(
    store: Store, taking: Taking, shortcut: Shortcut
) -> None:
    taking.is_free = False
    await tell(store, shortcut)
    assert taking.delivered == []
    assert await waiting(store) == ids(1)


async def test_events_that_nobody_asked_for_are_recorded_alone(
    store: Store, taking: Taking, shortcut: Shortcut
) -> None:
    await tell(store, shortcut, asked=[])
    count = select(func.count()).select_from(tables.event)
    assert await store.read_list(lambda tx: tx.execute(count).scalar_one()) == 1
    assert taking.delivered == []
    assert await messages(store) == []


async def test_a_fault_undoes_everything_and_the_next_try_leaves_the_deliveries_to_the_relay(
    store: Store, taking: Taking, shortcut: Shortcut
) -> None:
    taking.fails = True
    with pytest.raises(LookupError):
        await tell(store, shortcut)
    count = select(func.count()).select_from(tables.event)
    assert await store.read_list(lambda tx: tx.execute(count).scalar_one()) == 0
    assert await messages(store) == []
    await tell(store, shortcut, now=NOW + SHUT / 2)
    assert await waiting(store) == ids(1)


async def test_some_time_after_a_fault_the_shortcut_is_open_again(
    store: Store, taking: Taking, shortcut: Shortcut
) -> None:
    taking.fails = True
    with pytest.raises(LookupError):
        await tell(store, shortcut)
    taking.fails = False
    await tell(store, shortcut, now=NOW + SHUT - timedelta(seconds=1))
    await relay_what_waits(store, taking)
    await tell(store, shortcut, now=NOW + SHUT)
    assert taking.ids == ids(2)
    assert await waiting(store) == []


@pytest.mark.parametrize(
    ("final", "at_most", "is_woken"), [(True, 9, False), (True, 0, True), (False, 9, True)]
)
async def test_who_publishes_and_who_delivers_are_woken_only_if_something_is_left(
    store: Store, taking: Taking, *, final: bool, at_most: int, is_woken: bool
) -> None:
    taking.at_most = at_most
    names = [outbox.SIGNAL, outbox.signal_of(JOB_TOPIC.key), outbox.LEDGER_SIGNAL]
    before = [store.signals.count(name) for name in names]
    await tell(store, Shortcut(taking, final=final))
    grown = [store.signals.count(name) - n for name, n in zip(names, before, strict=True)]
    assert grown == [int(is_woken), int(is_woken), 1]
