"""Subscribing, changing and unsubscribing: one transaction, then the broker.

Why the broker comes after the commit: an absent one must not keep a subscriber out. What is
published meanwhile waits in the outbox until the relay has declared the queue.
"""

from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from datetime import datetime

import anyio
from msgspec.structs import replace

from gateway.clock import Clock
from gateway.cmq import queues, subscribers, subscriptions, topics
from gateway.cmq.endpoints import Protocol
from gateway.cmq.push.dead_letters import Death, count_buried
from gateway.cmq.subscribers import PUSH_SIGNAL
from gateway.cmq.subscriptions import Subscription, SubscriptionChanges
from gateway.cmq.topics import Topic
from gateway.errors import FailedOperation, ResourceNotFound, UnsupportedOperation
from gateway.events import outbox, rebinding
from gateway.events.bus import Bus, BusRefused, BusUnavailable, Route, TopicAddress
from gateway.store import Store, Tx
from gateway.telemetry import log

DECLARE_S = 3.0  # how long a subscriber waits for the broker; the relay goes on trying
PAGE = 256
PAGE_BYTES = 4 * 1024 * 1024  # of bodies


@dataclass(frozen=True, slots=True)
class Subscribing:
    """What both APIs do with subscriptions.

    bus: without one, subscriptions of protocol `amqp` are refused. cloud_limits: whether the
    vendor's quotas hold.
    """

    store: Store
    bus: Bus | None
    _: KW_ONLY
    clock: Clock
    cloud_limits: bool = False

    def check_served(self, protocol: Protocol) -> None:
        """Refuse a subscriber on a broker that there is not. Raises UnsupportedOperation."""
        if protocol is Protocol.AMQP and self.bus is None:
            raise UnsupportedOperation("`amqp` needs a broker, and none is configured here.")

    async def subscribe(self, address: TopicAddress, draft: Subscription) -> None:
        """Add a subscription that has no place yet to a topic.

        Raises what `topics.lock_topic`, `queues.hold_queue` and `subscriptions.subscribe` raise.
        """

        def add(tx: Tx) -> tuple[Topic, Route]:
            where = {"owner_uin": address.owner_uin, "region": address.region}
            topic = topics.lock_topic(tx, **where, name=address.name)
            queue_id = None
            if draft.protocol is Protocol.QUEUE:
                queue_id = queues.hold_queue(tx, **where, name=draft.endpoint).id
            placed = draft.placed(topic_id=topic.id, queue_id=queue_id)
            subscriptions.subscribe(tx, topic, placed, limited=self.cloud_limits)
            return topic, _route_now(tx, topic, placed)

        topic, route = await self.store.write(add)
        try:
            await self._declare(route)
        except BusRefused as error:
            await self._withdraw(topic.address, draft)
            raise FailedOperation(
                f"The broker refuses the queue `{draft.endpoint}`: {error}",
                detail="CreateSubscription",
            ) from error

    async def change(
        self, address: TopicAddress, name: str, *, changes: SubscriptionChanges
    ) -> None:
        """Change a subscription. Raises what `subscriptions.change` raises."""

        def change(tx: Tx) -> tuple[Topic, Route]:
            topic = topics.lock_topic(
                tx, address.owner_uin, region=address.region, name=address.name
            )
            now = self.clock()
            changed = subscriptions.change(tx, topic, name=name, changes=changes, now=now)
            if changed.protocol is Protocol.HTTP:
                tx.wake(PUSH_SIGNAL)
            return topic, _route_now(tx, topic, changed)

        topic, route = await self.store.write(change)
        try:
            await self._declare(route)
        except BusRefused as error:  # the relay says so, too, and goes on trying
            log.warning("subscription_not_declared", topic=topic.address.key, why=str(error))

    async def unsubscribe(self, address: TopicAddress, name: str) -> None:
        """End a subscription. Raises what `unsubscribe` raises."""
        buried = await self.store.write(
            lambda tx: unsubscribe(tx, address, name=name, now=self.clock())
        )
        count_buried(Death.UNSUBSCRIBED, buried)

    async def _withdraw(self, address: TopicAddress, draft: Subscription) -> None:
        """Take a subscription back that the broker refuses, unless it is another one by now."""

        def withdraw(tx: Tx) -> None:
            with suppress(ResourceNotFound):
                if subscriptions.lock_subscription(tx, address, name=draft.name).id == draft.id:
                    subscriptions.unsubscribe(
                        tx, address, name=draft.name, now=self.clock(), was_served=False
                    )

        await self.store.write(withdraw)

    async def _declare(self, route: Route) -> None:
        """Have the queue on the broker before the answer, if one is wanted and the broker is there.

        Raises BusRefused if the broker has something else by that name.
        """
        if self.bus is None or not route.queues:
            return
        try:
            with anyio.fail_after(DECLARE_S):
                await self.bus.declare(route)
        except (BusUnavailable, TimeoutError):
            log.warning("subscription_not_yet_declared", exchange=route.exchange)


def unsubscribe(tx: Tx, address: TopicAddress, *, name: str, now: datetime) -> int:
    """Give a subscription what was published before, and end it; returns how much was buried.

    Why first: its publishers have their answers, and the relay, a moment behind them, would find
    no subscription any more. Then a message is in the queue, or among the dead letters; on the
    broker, the bindings stay until it has been published. Raises what `subscriptions.unsubscribe`
    raises.
    """
    subscription = subscriptions.lock_subscription(tx, address, name=name)
    if subscription.protocol is not Protocol.AMQP:
        _deliver_the_rest(tx, address, subscription=subscription, now=now)
    return subscriptions.unsubscribe(tx, address, name=name, now=now)


def _route_now(tx: Tx, topic: Topic, subscription: Subscription) -> Route:
    """What the broker may be given for a subscription before the relay comes to it."""
    route = subscriptions.route_of(topic.address, [subscription])
    return rebinding.without_coming(route, rebinding.list_changes(tx, topic.address.key))


def _deliver_the_rest(
    tx: Tx, address: TopicAddress, *, subscription: Subscription, now: datetime
) -> None:
    """Do for one subscription, which is locked, what the relay is about to do for all."""
    after, more = 0, True
    while more:
        page = outbox.list_unexpanded(
            tx, address.key, after=after, limit=PAGE, bytes_max=PAGE_BYTES
        )
        mine = [
            replace(message, only_subscription_id=subscription.id)
            for message in page.messages
            if message.only_subscription_id in (None, subscription.id)
        ]
        while mine:
            mine = mine[subscribers.deliver(tx, mine, now=now) :]
        after, more = page.last, page.more
