"""What waits to be pushed, as the database finds it, and as the metrics say it."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import SelectBase, insert, text

from gateway.cmq.push import backlog, dead_letters, statements
from gateway.cmq.push.backlog import Load
from gateway.cmq.push.dead_letters import Death, Graveyard
from gateway.cmq.push.schedules import Strategy
from gateway.cmq.tables import dead_letter, delivery
from gateway.events.tables import message
from gateway.store import Store, Tx
from gateway.telemetry import DEAD_LETTERS
from tests.support.events import NOW, eventually
from tests.support.plans import plan_of
from tests.support.pushing import Pushing
from tests.support.receiver import open_receiver, status

pytestmark = pytest.mark.anyio
NOBODY = "http://203.0.113.1/"
DELIVERED = 20_000


@pytest.fixture
async def pushing(store: Store) -> Pushing:
    return await Pushing.open(store)


async def plan(store: Store, statement: SelectBase, **parameters: Any) -> str:
    return await store.read_list(lambda tx: plan_of(tx, statement, parameters))


async def fill(store: Store) -> None:
    """Very many messages that are delivered, and the statistics that say so."""

    def add(tx: Tx) -> None:
        plain = {"topic_key": "t", "shard": 0, "routing_key": "k", "tags": "[]", "body": b"x"}
        plain |= {"created_at": NOW, "expanded_at": NOW, "sent_at": NOW}
        numbers = range(1_000, 1_000 + DELIVERED)
        tx.execute(
            insert(message), [{**plain, "position": each, "id": f"old-{each}"} for each in numbers]
        )
        row = {"subscription_id": "subsc-s1", "state": "delivered", "changed_at": NOW}
        tx.execute(insert(delivery), [{**row, "position": each} for each in numbers])
        tx.execute(text("ANALYZE"))

    await store.write(add)


async def test_what_was_delivered_is_not_walked_to_measure_what_waits(
    pushing: Pushing, store: Store
) -> None:
    await pushing.subscribe(NOBODY)
    await pushing.publish(b"one")
    await fill(store)
    found = await plan(store, statements.COUNT_WAITING)
    assert "ix_cmq_delivery_waiting" in found, found
    assert "ix_cmq_delivery_position" not in found, found
    assert await store.read_list(backlog.measure) == Load(1, NOW, 0)


async def test_a_page_is_found_without_walking_the_messages(pushing: Pushing, store: Store) -> None:
    await pushing.subscribe(NOBODY)
    await pushing.publish(b"one")
    await fill(store)
    found = await plan(
        store,
        statements.WAITING_MESSAGES,
        subscription_id_="subsc-s1",
        limit=64,
        short_bytes=4_096,
    )
    assert "ix_cmq_delivery_waiting" in found, found
    assert "Seq Scan on event_message" not in found, found
    assert "SCAN event_message" not in found, found


async def test_the_dead_letters_of_a_message_are_found_by_its_id(
    pushing: Pushing, store: Store
) -> None:
    def add(tx: Tx) -> None:
        row: dict[str, Any] = {"topic_key": "t", "attempts": 1, "subscription_id": "subsc-s1"}
        row |= {"subscription_name": "s1", "endpoint": "e", "routing_key": "k", "tags": "[]"}
        row |= {"body": b"", "created_at": NOW, "why": "", "died_at": NOW}
        tx.execute(insert(dead_letter), [row | {"message_id": f"m-{n}"} for n in range(5_000)])
        tx.execute(text("ANALYZE"))

    await store.write(add)
    wanted = Graveyard(message_ids=frozenset({"m-7"}))
    letters = await store.read_list(lambda tx: dead_letters.list_last(tx, wanted, limit=10))
    assert [each.message_id for each in letters] == ["m-7"]
    statement = dead_letters.BURIED
    found = await plan(store, statement, subscription_ids=["subsc-s1"], message_ids=["m-7"])
    assert "ix_cmq_dead_letter_message_id" in found, found


async def test_nothing_waits_when_all_is_delivered(pushing: Pushing, store: Store) -> None:
    await pushing.subscribe(NOBODY)
    assert await store.read_list(backlog.measure) == Load(0, None, 0)


async def test_a_clock_that_steps_back_leaves_the_schedule_of_retries(pushing: Pushing) -> None:
    async with open_receiver() as receiver, pushing.running():
        receiver.always = status("500 No")
        await pushing.subscribe(receiver.url)
        pushing.now -= timedelta(days=2)
        await pushing.publish(b"one")
        failed = await pushing.until_failed(1)
        assert failed.next_at == pushing.now + timedelta(seconds=1)
        waiting = await pushing.store.read_list(
            lambda tx: backlog.list_waiting(tx, now=pushing.now)
        )
        assert [each.due_at for each in waiting] == [failed.next_at]


async def test_whatever_is_buried_is_counted_by_why(pushing: Pushing) -> None:
    def counted(death: Death) -> float:
        return float(DEAD_LETTERS.labels(death.name.lower())._value.get())  # noqa: SLF001

    before = {death: counted(death) for death in Death}

    def more(death: Death) -> float:
        return counted(death) - before[death]

    async with open_receiver() as receiver, pushing.running():
        receiver.always = status("500 No")
        await pushing.subscribe(receiver.url, notify_strategy=Strategy.BACKOFF_RETRY)
        await pushing.publish(b"one")
        for failures in (1, 2, 3):
            await pushing.until_failed(failures)
            pushing.pass_time(seconds=20)
        await eventually(lambda: more(Death.NO_RETRY_LEFT) == 1)
        await pushing.publish(b"two", b"three")
        await pushing.until_failed(1)
        pushing.pass_time(days=2)
        await eventually(lambda: more(Death.EXPIRED) == 2)
