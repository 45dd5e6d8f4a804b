"""What is given up: what retention may take of it, and dead letters that are told again."""

from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import func, select

from gateway.cmq import deliveries, subscribers, tables
from gateway.cmq.push import dead_letters, replaying
from gateway.cmq.push.dead_letters import DeadLetter, Death, Graveyard
from gateway.events import ledger, outbox, retention
from gateway.events.ledger import Wanted
from gateway.events.tables import message
from gateway.store import Tx
from tests.support.cmq import Cmq
from tests.support.events import JOB_TOPIC, NOW, asks, job_event, stream

pytestmark = pytest.mark.anyio

LATER = NOW + timedelta(days=40)
NOBODY = "http://192.0.2.1/"


@pytest.fixture
async def told(cmq: Cmq) -> Cmq:
    """Three events, delivered to a queue and waiting to be pushed to nobody."""
    await cmq.subscribe_queue()
    await subscribe_http(cmq)
    await tell(cmq, count=3)
    return cmq


async def subscribe_http(cmq: Cmq, name: str = "push", **params: Any) -> None:
    subscription = cmq.subscription(name, NOBODY, "http")
    await cmq.call("CreateCmqSubscribe", **subscription, NotifyContentFormat="JSON", **params)


async def tell(cmq: Cmq, *, count: int, now: datetime = NOW) -> None:
    events = [job_event(number) for number in range(count)]
    await cmq.store.write(
        lambda tx: outbox.append(tx, stream(), events, notifications=[asks()], now=now)
    )
    await cmq.expand()

    def mark_sent(tx: Tx) -> None:
        unsent = outbox.list_unsent(tx, JOB_TOPIC.key, after=0, limit=100, bytes_max=1 << 20)
        outbox.mark_sent(tx, [each.position for each in unsent.messages], now=now)

    await cmq.store.write(mark_sent)


async def prune(cmq: Cmq) -> retention.Pruned:
    return await retention.prune(cmq.store, subscribers=subscribers, before=NOW + timedelta(days=1))


async def bury_all(cmq: Cmq) -> None:
    """Give up everything that waits."""
    waiting = select(tables.delivery.c.subscription_id).where(tables.delivery.c.state == "waiting")
    for each in set(await cmq.store.read_list(lambda tx: tx.execute(waiting).scalars().all())):
        bury = partial(
            dead_letters.bury_all, subscription_id=each, death=Death.UNSUBSCRIBED, now=NOW
        )
        await cmq.store.write(bury)


async def letters(cmq: Cmq) -> list[DeadLetter]:
    """The dead letters, the oldest first."""
    found = await cmq.store.read_list(lambda tx: dead_letters.list_last(tx, Graveyard(), limit=100))
    return found[::-1]


async def replay(cmq: Cmq) -> dict[int, str]:
    ids = [letter.id for letter in await letters(cmq)]
    return await cmq.store.write(lambda tx: replaying.replay(tx, ids, now=LATER))


async def test_retention_leaves_what_waits_to_be_pushed(told: Cmq) -> None:
    await tell(told, count=1, now=LATER)
    assert await prune(told) == retention.Pruned(events=0, messages=0)
    count = select(func.count()).select_from(tables.delivery)
    assert await told.store.read_list(lambda tx: tx.execute(count).scalar_one()) == 8
    await bury_all(told)
    assert await prune(told) == retention.Pruned(events=3, messages=3)
    assert await told.store.read_list(lambda tx: tx.execute(count).scalar_one()) == 1
    assert len(await letters(told)) == 4


async def test_the_deliveries_of_an_event_are_told_for_each_subscriber(told: Cmq) -> None:
    entries = await told.store.read_list(lambda tx: ledger.list_last(tx, Wanted(), limit=1))
    sendings = await told.store.read_list(lambda tx: ledger.list_sendings(tx, entries[0]))
    positions = [each.position for each in sendings]
    found = await told.store.read_list(lambda tx: deliveries.list_fates(tx, positions))
    assert [(each.subscription_name, each.state) for each in found] == [
        ("push", "waiting"),
        ("s1", "delivered"),
    ]


async def test_a_dead_letter_is_told_again_although_its_message_is_gone(told: Cmq) -> None:
    await bury_all(told)
    bodies = select(message.c.id, message.c.body).order_by(message.c.position)
    before = await told.store.read_list(lambda tx: tx.execute(bodies).all())
    await tell(told, count=1, now=LATER)
    await prune(told)
    assert await replay(told) == {}
    rows = select(message).where(message.c.replay > 0).order_by(message.c.position)
    again = await told.store.read_list(lambda tx: tx.execute(rows).all())
    assert [(row.id, row.body) for row in again] == [tuple(row) for row in before]
    await told.expand()
    assert [letter.replayed_at for letter in await letters(told)] == [LATER] * 3
    queued = select(func.count()).select_from(tables.queue_message)
    assert await told.store.read_list(lambda tx: tx.execute(queued).scalar_one()) == 4


async def test_a_dead_letter_told_again_twice_has_two_numbers(told: Cmq) -> None:
    await bury_all(told)
    for _ in range(2):
        assert await replay(told) == {}
    numbers = select(message.c.replay).where(message.c.id == "job-00000001-1-0")
    found = await told.store.read_list(lambda tx: tx.execute(numbers).scalars().all())
    assert sorted(found) == [0, 1, 2]


async def test_a_new_subscription_of_the_name_gets_what_the_old_one_was_due(told: Cmq) -> None:
    unsubscribe = {"TopicName": "job-message", "SubscriptionName": "push"}
    await told.call("DeleteCmqSubscribe", **unsubscribe)
    failures = await replay(told)
    assert set(failures.values()) == {"its topic has no subscription `push` now"}
    await subscribe_http(told, FilterTag=["urgent"])
    failures = await replay(told)
    assert set(failures.values()) == {"the filter of `push` does not let it through"}
    await told.call("DeleteCmqSubscribe", **unsubscribe)
    await subscribe_http(told)
    assert await replay(told) == {}
    await told.expand()
    waiting = select(func.count()).where(tables.delivery.c.state == "waiting")
    assert await told.store.read_list(lambda tx: tx.execute(waiting).scalar_one()) == 3


async def test_the_dead_are_chosen_by_topic_subscription_message_and_replay(told: Cmq) -> None:
    await bury_all(told)
    first = (await letters(told))[0]
    await told.store.write(lambda tx: replaying.replay(tx, [first.id], now=LATER))
    for wanted, count in {
        Graveyard(topic_key=JOB_TOPIC.key): 3,
        Graveyard(topic_key="1/elsewhere/job-message"): 0,
        Graveyard(subscription_name="PUSH"): 3,
        Graveyard(subscription_name="s1"): 0,
        Graveyard(message_ids=frozenset({first.message_id})): 1,
        Graveyard(not_yet_replayed=True): 2,
    }.items():
        look = partial(dead_letters.list_last, wanted=wanted, limit=100)
        found = await told.store.read_list(look)
        assert len(found) == count, wanted
