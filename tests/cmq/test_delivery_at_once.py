"""Deliveries that are written with the event: the same as the relay's, and nobody is waited for."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import pytest
from sqlalchemy import RowMapping, select, text

from gateway.cmq import completeness, subscribers, subscriptions
from gateway.cmq.subscribers import PUSH_SIGNAL
from gateway.cmq.tables import delivery, queue_message
from gateway.events import inspection, outbox, tables
from gateway.events.bus import TopicAddress
from gateway.events.messages import Notification
from gateway.events.names import EventName
from gateway.events.shortcut import Shortcut
from gateway.store import Tx, open_store
from tests.support.cmq import Cmq
from tests.support.events import OWNER, REGION, asks, eventually, job_event, stream

pytestmark = pytest.mark.anyio
Append = Callable[..., None]
URL = "http://receiver.example/"
TOPIC = {"TopicName": "job-message"}
ASKED = [asks(), asks("other"), asks("nobody"), Notification("other", {EventName.JOB_FAILED: ()})]


def at_once() -> Append:
    """Delivers in the same transaction; it has appended nothing before."""
    return Shortcut(subscribers, final=True).append


async def tell(cmq: Cmq, append: Append, *, job_id: str = "job-00000001", count: int = 1) -> None:
    events = [job_event(number, job_id=job_id) for number in range(count)]
    told: dict[str, Any] = {"notifications": ASKED, "now": cmq.now}
    await cmq.store.write(lambda tx: append(tx, stream(job_id), events, **told))


async def subscribe_many(cmq: Cmq) -> None:
    """Queues and HTTP subscribers of two topics: some want all, some by a key, one by a tag."""
    await cmq.subscribe_queue()
    for name in ("other", "nobody"):
        await cmq.call("CreateCmqTopic", TopicName=name)
    await cmq.call("CreateCmqQueue", QueueName="second")
    http = partial(cmq.subscription, endpoint=URL, protocol="http")
    subscribed: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (cmq.subscription("s2", "second"), {"BindingKey": ["batch.job.#"]}),
        (cmq.subscription("s3", "second"), {"BindingKey": ["batch.task.#"]}),
        (cmq.subscription("s4", "second"), {"FilterTag": ["important"]}),
        (http("h1"), {}),
        (http("h2"), {"BindingKey": ["batch.task.#"]}),
        (cmq.subscription("q1", "events") | {"TopicName": "other"}, {}),
        (http("h3") | {"TopicName": "other"}, {}),
    ]
    for subscription, filters in subscribed:
        await cmq.call("CreateCmqSubscribe", **subscription, **filters)


async def delivered(cmq: Cmq, job_id: str) -> tuple[list[Any], list[Any]]:
    """What was delivered of a job: to subscribers, and into queues, in its order."""
    of_job = tables.message.c.stream_id == job_id
    to_all = (
        select(delivery, tables.message)
        .join(tables.message, tables.message.c.position == delivery.c.position)
        .where(of_job)
        .order_by(delivery.c.position, delivery.c.subscription_id)
    )
    in_queues = (
        select(queue_message)
        .where(queue_message.c.id.in_(select(tables.message.c.id).where(of_job)))
        .order_by(queue_message.c.position)
    )

    def look(tx: Tx) -> tuple[list[Any], list[Any]]:
        rows = tx.execute(to_all).mappings(), tx.execute(in_queues).mappings()
        return [_alike(row) for row in rows[0]], [_alike(row) for row in rows[1]]

    return await cmq.store.read_list(look)


def _alike(row: RowMapping) -> dict[str, Any]:
    """A row without what is different for each job."""
    own = {"id", "position", "position_1", "stream_id", "shard", "routing_key", "body"}
    number = row["id"].split("-", 2)[2]
    return {"number": number, **{name: row[name] for name in row if name not in own}}


async def test_the_same_rows_are_written_as_by_the_relay(cmq: Cmq) -> None:
    await subscribe_many(cmq)
    for first, second in (("job-00000001", "job-00000002"), ("job-00000003", "job-00000004")):
        await tell(cmq, at_once(), job_id=first, count=9)
        rows = await delivered(cmq, first)
        await tell(cmq, outbox.append, job_id=second, count=9)
        assert await delivered(cmq, second) == ([], [])
        await cmq.expand()
        assert rows == await delivered(cmq, second)
        assert [len(each) for each in rows] == [9 * 5, 9 * 3]  # s1, s2, h1; q1, h3


async def test_an_audit_finds_nothing_missing(cmq: Cmq) -> None:
    await subscribe_many(cmq)
    cmq.pass_time(hours=1)
    await tell(cmq, at_once(), count=9)

    def audit(tx: Tx) -> tuple[int, list[Any]]:
        messages = inspection.list_messages(tx, "job-00000001", first=1, last=9)
        return len(messages), completeness.list_undelivered(tx, messages)

    assert await cmq.store.read_list(audit) == (27, [])


async def test_who_waits_for_a_queue_and_who_pushes_are_woken(cmq: Cmq) -> None:
    await cmq.subscribe_queue()
    subscription = cmq.subscription("h1", URL, "http")
    await cmq.call("CreateCmqSubscribe", **subscription)
    seen = cmq.store.signals.count(PUSH_SIGNAL)
    await tell(cmq, at_once())
    assert cmq.store.signals.count(PUSH_SIGNAL) == seen + 1
    assert (await cmq.receive())["msgBody"]


async def test_more_deliveries_than_one_transaction_should_write_follow_later(
    cmq: Cmq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscribers, "ROWS_AT_ONCE", 12)
    await subscribe_many(cmq)
    await tell(cmq, at_once(), count=9)
    some, _ = await delivered(cmq, "job-00000001")
    assert 0 < len(some) <= 12
    for _ in range(9):
        await cmq.expand()
    rows, in_queues = await delivered(cmq, "job-00000001")
    assert (len(rows), len(in_queues)) == (9 * 5, 9 * 3)


# Who waits for whom ---------------------------------------------------------------------------


@pytest.fixture
async def on_postgresql(migrated_postgresql_url: str) -> AsyncIterator[Cmq]:
    async with open_store(migrated_postgresql_url) as opened:
        yield Cmq(opened, None)


async def waiting(cmq: Cmq) -> int:
    statement = select(tables.message.c.id).where(tables.message.c.expanded_at.is_(None))
    return len(await cmq.store.read_list(lambda tx: tx.execute(statement).all()))


async def test_a_job_does_not_wait_for_somebody_who_is_just_unsubscribing(
    on_postgresql: Cmq,
) -> None:
    cmq = on_postgresql
    await cmq.subscribe_queue()
    address = TopicAddress(OWNER, REGION, "job-message")

    def unsubscribe(tx: Tx) -> None:
        subscriptions.unsubscribe(tx, address, name="s1", now=cmq.now)
        anyio.from_thread.run(partial(tell, cmq, at_once()))

    with anyio.fail_after(10):
        await cmq.store.write(unsubscribe)
    assert await waiting(cmq) == len(ASKED) - 1
    await cmq.expand()
    assert await delivered(cmq, "job-00000001") == ([], [])


async def test_nor_do_two_jobs_and_the_relay_wait_for_one_another(on_postgresql: Cmq) -> None:
    cmq = on_postgresql
    await cmq.subscribe_queue()

    def tell_both(tx: Tx) -> None:
        at_once()(tx, stream(), [job_event(1)], notifications=[asks()], now=cmq.now)
        anyio.from_thread.run(partial(tell, cmq, at_once(), job_id="job-00000002"))
        anyio.from_thread.run(partial(tell, cmq, outbox.append, job_id="job-00000003"))
        anyio.from_thread.run(cmq.expand)

    with anyio.fail_after(10):
        await cmq.store.write(tell_both)
    assert await waiting(cmq) == 0
    for number in (1, 2, 3):
        rows, _ = await delivered(cmq, f"job-0000000{number}")
        assert len(rows) == 1


async def test_who_unsubscribes_waits_for_a_job_and_nothing_of_it_is_lost(
    on_postgresql: Cmq,
) -> None:
    cmq = on_postgresql
    await cmq.subscribe_queue()
    done: list[str] = []

    async def somebody_waits() -> bool:
        count = text(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return await cmq.store.read_list(lambda tx: tx.execute(count).scalar_one()) == 1

    async def unsubscribe() -> None:
        await cmq.call("DeleteCmqSubscribe", **TOPIC, SubscriptionName="s1")
        done.append("unsubscribed")

    def tell_meanwhile(tx: Tx) -> None:
        at_once()(tx, stream(), [job_event(1)], notifications=[asks()], now=cmq.now)
        anyio.from_thread.run_sync(tasks.start_soon, unsubscribe)
        anyio.from_thread.run(eventually, somebody_waits)
        done.append("told")

    async with anyio.create_task_group() as tasks:
        await cmq.store.write(tell_meanwhile)
    assert done == ["told", "unsubscribed"]
    assert (await cmq.receive())["msgBody"]
