"""A topic whose subscribers are pushed to, and the time they go by."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from ipaddress import ip_network
from typing import Any

import anyio
from cryptography.fernet import Fernet
from sqlalchemy import select

from gateway import ids
from gateway.cmq import subscribers, subscriptions, tables, topics
from gateway.cmq.endpoints import Protocol
from gateway.cmq.push import pusher
from gateway.cmq.push.addresses import Reach
from gateway.cmq.push.schedules import Fraction, Strategy
from gateway.cmq.push.secrets import Secrets
from gateway.cmq.push.webhooks import ContentFormat
from gateway.cmq.subscribers import PUSH_SIGNAL
from gateway.cmq.subscriptions import Subscription
from gateway.cmq.topics import Topic
from gateway.events import outbox, relay
from gateway.events import tables as event_tables
from gateway.store import Store, Tx
from tests.support.events import JOB_TOPIC, NOW, OWNER, REGION, eventually

LOOPBACK_NETWORKS = Reach((ip_network("127.0.0.0/8"),))


class Pushing:
    """A topic, `job-message`, on a store of its own."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now: datetime = NOW
        sealer = Fernet(Fernet.generate_key())
        self.secrets = Secrets(sealer.encrypt, sealer.decrypt)
        self._published = 0

    @classmethod
    async def open(cls, store: Store) -> "Pushing":
        made = cls(store)
        topic = Topic("topic-1", OWNER, REGION, JOB_TOPIC.name, 1_048_576, 1, 86_400, *made._made)
        await store.write(lambda tx: topics.create(tx, topic))
        return made

    @property
    def _made(self) -> tuple[Any, ...]:
        return False, OWNER, self.now, self.now

    @asynccontextmanager
    async def running(
        self,
        *,
        reach: Reach = LOOPBACK_NETWORKS,
        fraction: Fraction = lambda: 0.5,
        pause_after_s: int = 3_600,
        tls: ssl.SSLContext | None = None,
        answer_s: float = 5.0,
    ) -> AsyncIterator[None]:
        """The pusher at work."""
        run = partial(
            pusher.run,
            self.store,
            secrets=self.secrets,
            reach=reach,
            clock=lambda: self.now,
            fraction=fraction,
            new_request_id=ids.new_request_id,
            pause_after_s=pause_after_s,
            tls=tls,
            answer_s=answer_s,
        )
        async with anyio.create_task_group() as tasks:
            await tasks.start(run)
            yield
            tasks.cancel_scope.cancel()

    async def subscribe(self, url: str, name: str = "s1", **differing: Any) -> str:
        """Subscribe an endpoint; returns the subscription's id. differing: other attributes."""
        plain: dict[str, Any] = {
            "id": f"subsc-{name}",
            "topic_id": "topic-1",
            "name": name,
            "protocol": Protocol.HTTP,
            "endpoint": url,
            "queue_id": None,
            "notify_strategy": Strategy.EXPONENTIAL_DECAY_RETRY,
            "notify_content_format": ContentFormat.SIMPLIFIED,
            "filter_tags": (),
            "binding_keys": (),
            "created_at": self.now,
            "modified_at": self.now,
        }
        subscription = Subscription(**plain | differing)

        def subscribe(tx: Tx) -> None:
            topic = topics.lock_topic(tx, OWNER, region=REGION, name=JOB_TOPIC.name)
            subscriptions.subscribe(tx, topic, subscription)

        await self.store.write(subscribe)
        return subscription.id

    async def publish(self, *bodies: bytes, tags: tuple[str, ...] = ()) -> list[str]:
        """Publish messages and expand them, as the relay does; returns their ids."""
        found = []
        for body in bodies:
            self._published += 1
            found.append(f"message-{self._published}")
            publish = partial(
                outbox.publish, topic=JOB_TOPIC, body=body, message_id=found[-1], tags=tags
            )
            await self.store.write(partial(publish, now=self.now))
        await self.expand()
        return found

    async def replay(self, message_id: str) -> None:
        """Have a message told again, as the first replay of it."""
        message = event_tables.message
        found = select(message).where(message.c.id == message_id)

        def add(tx: Tx) -> None:
            row = dict(tx.execute(found).mappings().one())
            del row["position"]
            again = row | {"replay": 1, "expanded_at": None, "sent_at": None}
            tx.execute(event_tables.ADD_MESSAGES, again)

        await self.store.write(add)
        await self.expand()

    async def modify(self) -> None:
        """Change the subscription `s1` in nothing."""
        changes = subscriptions.SubscriptionChanges()

        def change(tx: Tx) -> None:
            topic = topics.lock_topic(tx, OWNER, region=REGION, name=JOB_TOPIC.name)
            subscriptions.change(tx, topic, name="s1", changes=changes, now=self.now)

        await self.store.write(change)

    async def unsubscribe(self) -> None:
        """Delete the subscription `s1`."""
        await self.store.write(
            lambda tx: subscriptions.unsubscribe(tx, JOB_TOPIC, name="s1", now=self.now)
        )

    async def expand(self) -> None:
        await self.store.write(lambda tx: relay.expand(tx, subscribers, now=self.now, final=True))

    def pass_time(self, **amount: float) -> None:
        """Move the clock on, and have the pusher look at it."""
        self.now += timedelta(**amount)
        self.store.signals.wake([PUSH_SIGNAL])

    async def deliveries(self, subscription_id: str = "subsc-s1") -> list[Any]:
        """What became of the messages for a subscription, in their order."""
        found = select(tables.delivery).where(tables.delivery.c.subscription_id == subscription_id)
        query = found.order_by(tables.delivery.c.position)
        return list(await self.store.read_list(lambda tx: tx.execute(query).all()))

    async def states(self, subscription_id: str = "subsc-s1") -> list[str]:
        return [row.state for row in await self.deliveries(subscription_id)]

    async def dead_letters(self) -> list[Any]:
        query = select(tables.dead_letter).order_by(tables.dead_letter.c.id)
        return list(await self.store.read_list(lambda tx: tx.execute(query).all()))

    async def subscription(self, subscription_id: str = "subsc-s1") -> Any:
        query = select(tables.subscription).where(tables.subscription.c.id == subscription_id)
        return await self.store.read_list(lambda tx: tx.execute(query).one())

    async def events(self) -> list[Any]:
        """The ledger of events."""
        query = select(event_tables.event).order_by(event_tables.event.c.position)
        return list(await self.store.read_list(lambda tx: tx.execute(query).all()))

    async def until_failed(self, times: int, *, subscription_id: str = "subsc-s1") -> Any:
        """The oldest message that waits, once it has failed so many times."""
        found: list[Any] = []

        async def has_failed() -> bool:
            rows = await self.deliveries(subscription_id)
            found[:] = [
                row for row in rows if row.state == tables.WAITING and row.attempts == times
            ]
            return bool(found)

        await eventually(has_failed)
        return found[0]

    async def until_delivered(self, count: int, *, subscription_id: str = "subsc-s1") -> None:
        async def is_delivered() -> bool:
            return (await self.states(subscription_id)).count(tables.DELIVERED) == count

        await eventually(is_delivered)
