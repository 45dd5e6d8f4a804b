"""Who on the broker gets a message that waited for it: who was subscribed when it was published."""

import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest
from sqlalchemy import select

from gateway.cmq import subscribers
from gateway.cmq.tables import subscription
from gateway.errors import FailedOperation
from gateway.events import outbox, relay, tables
from gateway.events.bus import TopicAddress
from gateway.events.routing import matches
from gateway.store import Store, Tx
from tests.support.cmq import Cmq
from tests.support.events import OWNER, REGION, eventually
from tests.support.fake_bus import FakeBus

pytestmark = pytest.mark.anyio
TOPIC = {"TopicName": "job-message"}
READERS = ("one", "two", "three")
KEYS: tuple[list[str], ...] = (["batch.#"], ["batch.job.#"], ["batch.*.DONE", "batch.task.#"], [])
ROUTING_KEYS = ("batch.job.DONE", "batch.task.BEGUN", "other")


ADDRESS = TopicAddress(OWNER, REGION, "job-message")


def queue_of(reader: str) -> str:
    return ADDRESS.queue(reader)


async def publish(cmq: Cmq, *bodies: str, key: str = "batch.job.DONE") -> None:
    for body in bodies:
        add = partial(outbox.publish, topic=ADDRESS, body=body.encode(), routing_key=key)
        await cmq.store.write(partial(add, message_id=f"m-{body}", now=cmq.now))


async def subscribe(cmq: Cmq, reader: str, *, keys: list[str] | None = None) -> None:
    subscription = cmq.subscription(reader, reader, "amqp")
    await cmq.call("CreateCmqSubscribe", **subscription, BindingKey=keys or [])


async def unsubscribe(cmq: Cmq, reader: str) -> None:
    await cmq.call("DeleteCmqSubscribe", **TOPIC, SubscriptionName=reader)


def bodies_of(cmq: Cmq, reader: str) -> list[str]:
    assert cmq.bus is not None
    return [message.body.decode() for message in cmq.bus.held[queue_of(reader)]]


async def nothing_waits(store: Store) -> bool:
    return not await store.read_list(outbox.list_waiting_topics)


@asynccontextmanager
async def relayed(cmq: Cmq) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        run = partial(relay.run, subscribers=subscribers, clock=cmq.clock)
        await tasks.start(partial(run, cmq.store, cmq.bus))
        yield
        tasks.cancel_scope.cancel()


async def relay_all(cmq: Cmq) -> None:
    """Have the broker answer until nothing waits any more."""
    assert cmq.bus is not None
    cmq.bus.away = False
    async with relayed(cmq):
        await eventually(lambda: nothing_waits(cmq.store))


def tell_again(tx: Tx) -> None:
    """Have the only message told again, to the only subscriber alone."""
    row = dict(tx.execute(select(tables.message)).mappings().one())
    del row["position"]
    only = tx.execute(select(subscription.c.id)).scalar_one()
    again = {"replay": 1, "only_subscription_id": only, "expanded_at": None, "sent_at": None}
    tx.execute(tables.ADD_MESSAGES, row | again)


def go_away(cmq: Cmq) -> None:
    """Have the broker answer nobody."""
    assert cmq.bus is not None
    cmq.bus.away = True


async def left_waiting(cmq: Cmq, body: str) -> None:
    """Let reader `one` be subscribed, and a message wait for it while the broker is away."""
    await cmq.call("CreateCmqTopic", **TOPIC)
    await subscribe(cmq, "one")
    go_away(cmq)
    await publish(cmq, body)


async def test_who_unsubscribes_while_the_broker_is_away_gets_what_was_published_before(
    brokered: Cmq,
) -> None:
    await left_waiting(brokered, "before")
    await unsubscribe(brokered, "one")
    await publish(brokered, "after")
    await relay_all(brokered)
    assert bodies_of(brokered, "one") == ["before"]


async def test_though_the_topic_is_deleted_too(brokered: Cmq) -> None:
    await left_waiting(brokered, "before")
    await unsubscribe(brokered, "one")
    await publish(brokered, "for nobody")
    await brokered.call("DeleteCmqTopic", **TOPIC)
    await relay_all(brokered)
    assert bodies_of(brokered, "one") == ["before"]
    assert brokered.bus is not None
    assert brokered.bus.exchanges == {}


async def test_a_new_topic_of_the_name_is_told_nothing_of_the_old_one(brokered: Cmq) -> None:
    await left_waiting(brokered, "old")
    await unsubscribe(brokered, "one")
    await brokered.call("DeleteCmqTopic", **TOPIC)
    await brokered.call("CreateCmqTopic", **TOPIC)
    await brokered.call("CreateCmqQueue", QueueName="events")
    await brokered.call("CreateCmqSubscribe", **brokered.subscription("q", "events"))
    await subscribe(brokered, "two")
    await publish(brokered, "new")
    await relay_all(brokered)
    assert bodies_of(brokered, "one") == ["old"]
    assert bodies_of(brokered, "two") == ["new"]
    assert (await brokered.receive())["msgBody"] == "new"


async def test_who_subscribes_gets_what_is_published_from_then_on(brokered: Cmq) -> None:
    await left_waiting(brokered, "before")
    await subscribe(brokered, "two")
    await publish(brokered, "after")
    await relay_all(brokered)
    assert bodies_of(brokered, "one") == ["before", "after"]
    assert bodies_of(brokered, "two") == ["after"]


async def test_a_second_subscription_into_a_queue_takes_nothing_from_the_first(
    brokered: Cmq,
) -> None:
    await left_waiting(brokered, "before")
    await brokered.call("CreateCmqSubscribe", **brokered.subscription("again", "one", "amqp"))
    await unsubscribe(brokered, "one")
    await publish(brokered, "after")
    await relay_all(brokered)
    assert bodies_of(brokered, "one") == ["before", "after"]


async def test_other_binding_keys_hold_for_what_comes_from_then_on(brokered: Cmq) -> None:
    await brokered.call("CreateCmqTopic", **TOPIC)
    await subscribe(brokered, "one", keys=["batch.job.#"])
    go_away(brokered)
    await publish(brokered, "job before")
    await publish(brokered, "task before", key="batch.task.BEGUN")
    await brokered.call(
        "ModifyCmqSubscriptionAttribute",
        **TOPIC,
        SubscriptionName="one",
        BindingKey=["batch.task.#"],
    )
    await publish(brokered, "job after")
    await publish(brokered, "task after", key="batch.task.BEGUN")
    await relay_all(brokered)
    assert bodies_of(brokered, "one") == ["job before", "task after"]


async def test_a_replay_for_who_has_unsubscribed_since_arrives(brokered: Cmq) -> None:
    await brokered.call("CreateCmqTopic", **TOPIC)
    await subscribe(brokered, "one")
    await publish(brokered, "told")
    await relay_all(brokered)
    go_away(brokered)
    await brokered.store.write(tell_again)
    await unsubscribe(brokered, "one")
    await relay_all(brokered)
    assert bodies_of(brokered, "one") == ["told", "told"]


async def test_a_subscription_that_the_broker_refuses_holds_nothing_up(brokered: Cmq) -> None:
    assert brokered.bus is not None
    await brokered.call("CreateCmqTopic", **TOPIC)
    await subscribe(brokered, "one")
    brokered.bus.taken_names.add(queue_of("two"))
    await publish(brokered, "waits")
    with pytest.raises(FailedOperation):
        await subscribe(brokered, "two")
    await relay_all(brokered)
    assert bodies_of(brokered, "one") == ["waits"]


class World:
    """What is done at random, and what each reader should have got by then."""

    def __init__(self, cmq: Cmq, seed: int) -> None:
        self.cmq = cmq
        self.random = random.Random(seed)  # noqa: S311  # repeatable on purpose
        self.wanted: dict[str, list[str]] = {}
        self.due: dict[str, list[str]] = defaultdict(list)
        self.has_topic = False
        self.published = 0

    async def step(self) -> None:
        steps = [self.publish] * 4 + [self.subscribe, self.unsubscribe, self.change, self.retopic]
        await self.random.choice(steps)()

    async def publish(self) -> None:
        if not self.has_topic:
            return
        self.published += 1
        body, key = f"{self.published}", self.random.choice(ROUTING_KEYS)
        await publish(self.cmq, body, key=key)
        for reader, keys in self.wanted.items():
            if any(matches(each, key) for each in keys or ["#"]):
                self.due[reader].append(body)

    async def subscribe(self) -> None:
        free = [reader for reader in READERS if reader not in self.wanted]
        if self.has_topic and free:
            reader, keys = self.random.choice(free), self.random.choice(KEYS)
            await subscribe(self.cmq, reader, keys=keys)
            self.wanted[reader] = keys

    async def unsubscribe(self) -> None:
        if self.wanted:
            reader = self.random.choice(sorted(self.wanted))
            await unsubscribe(self.cmq, reader)
            del self.wanted[reader]

    async def change(self) -> None:
        if self.wanted:
            reader, keys = self.random.choice(sorted(self.wanted)), self.random.choice(KEYS)
            where = {**TOPIC, "SubscriptionName": reader}
            await self.cmq.call("ModifyCmqSubscriptionAttribute", **where, BindingKey=keys)
            self.wanted[reader] = keys

    async def retopic(self) -> None:
        if self.has_topic and not self.wanted:
            await self.cmq.call("DeleteCmqTopic", **TOPIC)
            self.has_topic = False
        elif not self.has_topic:
            await self.cmq.call("CreateCmqTopic", **TOPIC)
            self.has_topic = True


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_happens_each_gets_what_was_published_while_it_was_subscribed(
    store: Store, seed: int
) -> None:
    bus = FakeBus()
    world = World(Cmq(store, bus), seed)
    async with relayed(world.cmq):
        for _ in range(8):
            bus.away = world.random.random() < 0.7
            for _ in range(world.random.randrange(20)):
                await world.step()
        bus.away = False
        await eventually(lambda: nothing_waits(store))
    for reader in READERS:
        assert bodies_of(world.cmq, reader) == world.due[reader], (seed, reader)
    wanted = {queue_of(reader) for reader in world.wanted}
    bound = {each.queue for bindings in bus.exchanges.values() for each in bindings}
    assert bound <= wanted
