"""The outbox: events and messages stand or fall with the transaction they were written in."""

import base64
import json
import threading

import pytest
from sqlalchemy import func, select

from gateway.events import outbox, tables
from gateway.events.bus import Message
from gateway.events.messages import Event, Notification
from gateway.events.names import EventName
from gateway.store import Store, Tx
from tests.support.events import JOB_TOPIC, NOW, asks, job_event, stream

pytestmark = pytest.mark.anyio


def unsent(tx: Tx) -> list[Message]:
    waiting = outbox.list_unsent(tx, JOB_TOPIC.key, after=0, limit=1_000, bytes_max=1_000_000)
    return list(waiting.messages)


def read_event(message: Message) -> dict[str, object]:
    event: dict[str, object] = json.loads(base64.b64decode(message.body))["Events"][0]
    return event


async def test_events_are_counted_per_stream_without_a_gap(store: Store) -> None:
    for _ in range(3):
        await store.write(
            lambda tx: outbox.append(
                tx, stream(), [job_event(1), job_event(2)], notifications=[asks()], now=NOW
            )
        )
    other = stream("job-00000002")
    await store.write(
        lambda tx: outbox.append(tx, other, [job_event(1)], notifications=[], now=NOW)
    )
    messages = await store.read_list(unsent)
    assert [message.seq for message in messages] == [1, 2, 3, 4, 5, 6]
    assert len({message.id for message in messages}) == 6


async def test_an_event_nobody_asked_for_is_in_the_ledger_alone(store: Store) -> None:
    only_failures = Notification("job-message", {EventName.JOB_FAILED: ()})
    await store.write(
        lambda tx: outbox.append(
            tx, stream(), [job_event(1)], notifications=[only_failures], now=NOW
        )
    )
    ledger = select(func.count()).select_from(tables.event)
    assert await store.read_list(lambda tx: tx.execute(ledger).scalar_one()) == 1
    assert await store.read_list(unsent) == []


async def test_each_notification_gets_a_message_with_its_own_event_vars(store: Store) -> None:
    asked = [asks(first="1"), asks(second="2")]
    await store.write(
        lambda tx: outbox.append(tx, stream(), [job_event(1)], notifications=asked, now=NOW)
    )
    first, second = await store.read_list(unsent)
    assert first.id != second.id
    assert first.seq == second.seq == 1
    assert read_event(first)["EventVars"] == [{"Name": "first", "Value": "1"}]
    assert read_event(second)["EventVars"] == [{"Name": "second", "Value": "2"}]


async def test_a_transaction_that_fails_leaves_no_event_and_wakes_nobody(store: Store) -> None:
    woken = store.signals.count(outbox.SIGNAL)

    def submit(tx: Tx) -> None:
        outbox.append(tx, stream(), [job_event(1)], notifications=[asks()], now=NOW)
        raise LookupError("after the event was written")

    with pytest.raises(LookupError):
        await store.write(submit)
    count = select(func.count()).select_from(tables.event)
    assert await store.read_list(lambda tx: tx.execute(count).scalar_one()) == 0
    assert await store.read_list(unsent) == []
    assert store.signals.count(outbox.SIGNAL) == woken
    await store.write(
        lambda tx: outbox.append(tx, stream(), [job_event(1)], notifications=[asks()], now=NOW)
    )
    assert [message.seq for message in await store.read_list(unsent)] == [1]


async def test_appending_wakes_the_relay_after_the_commit(store: Store) -> None:
    woken = store.signals.count(outbox.SIGNAL)
    seen_inside: list[int] = []
    reached = threading.Event()

    def submit(tx: Tx) -> None:
        outbox.append(tx, stream(), [job_event(1)], notifications=[asks()], now=NOW)
        seen_inside.append(store.signals.count(outbox.SIGNAL))
        reached.set()

    await store.write(submit)
    assert reached.is_set()
    assert seen_inside == [woken]
    assert store.signals.count(outbox.SIGNAL) == woken + 1


async def test_the_name_of_a_topic_is_the_same_in_any_case(store: Store) -> None:
    shouted = asks("JOB-Message")
    await store.write(
        lambda tx: outbox.append(tx, stream(), [job_event(1)], notifications=[shouted], now=NOW)
    )
    assert len(await store.read_list(unsent)) == 1


async def test_the_ledger_keeps_the_members_in_their_order(store: Store) -> None:
    event = Event(EventName.JOB_FAILED, "job-00000001", {"Z": 1, "A": [None, {"b": "ü"}]})
    await store.write(lambda tx: outbox.append(tx, stream(), [event], notifications=[], now=NOW))
    row = await store.read_list(lambda tx: tx.execute(select(tables.event)).one())
    assert row.batch.decode() == '{"Z":1,"A":[null,{"b":"ü"}]}'
    assert row.happened_at == NOW


async def test_more_messages_are_marked_at_once_than_a_statement_has_values(store: Store) -> None:
    await store.write(
        lambda tx: outbox.append(tx, stream(), [job_event(1)], notifications=[asks()], now=NOW)
    )
    [message] = await store.read_list(unsent)
    positions = [*range(message.position + 1, message.position + 300_000), message.position]
    await store.write(lambda tx: outbox.mark_sent(tx, positions, now=NOW))
    assert await store.read_list(unsent) == []
