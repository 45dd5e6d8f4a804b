"""The handlers of tdmq 2020-02-17 for subscriptions, and two of our own for their secrets."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial

from gateway.call import Call, Grant
from gateway.clock import Clock
from gateway.cmq import limits, queues, subscriptions, topics
from gateway.cmq.endpoints import (
    Protocol,
    check_content_format,
    check_endpoint,
    read_content_format,
    read_protocol,
)
from gateway.cmq.lists import read_page, shows
from gateway.cmq.naming import check_name
from gateway.cmq.push.addresses import Reach
from gateway.cmq.push.secrets import Secret, Secrets
from gateway.cmq.subscribing import Subscribing
from gateway.cmq.subscriptions import Subscription, SubscriptionChanges
from gateway.cmq.tdmq import datatypes as wire
from gateway.cmq.tdmq.views import milliseconds, view_subscription
from gateway.errors import MissingParameter, UnsupportedOperation
from gateway.events.bus import TopicAddress
from gateway.ids import NewId
from gateway.service import Empty, Operation
from gateway.store import Store, Tx


@dataclass(frozen=True, slots=True)
class SubscriptionCalls:
    """One method per action. reach: where pushes may go."""

    store: Store
    subscribing: Subscribing
    _: KW_ONLY
    secrets: Secrets
    reach: Reach
    clock: Clock
    new_id: NewId

    @property
    def operations(self) -> Mapping[str, Operation]:
        """The actions and how they are served."""
        one = wire.SubscriptionRequest
        return {
            "CreateCmqSubscribe": Operation(wire.CreateCmqSubscribeRequest, self.subscribe),
            "ModifyCmqSubscriptionAttribute": Operation(
                wire.ModifyCmqSubscriptionAttributeRequest, self.modify
            ),
            "ClearCmqSubscriptionFilterTags": Operation(one, self.clear_filter_tags),
            "DeleteCmqSubscribe": Operation(one, self.unsubscribe),
            "DescribeCmqSubscriptionDetail": Operation(
                wire.DescribeCmqSubscriptionDetailRequest, self.describe
            ),
            "RevealCmqSubscriptionSecret": Operation(one, self.reveal_secret),
            "RotateCmqSubscriptionSecret": Operation(one, self.rotate_secret),
        }

    async def subscribe(
        self, call: Call, grant: Grant, request: wire.CreateCmqSubscribeRequest
    ) -> wire.CreateCmqSubscribeResponse:
        """Subscribe a queue of ours, one on the broker, or an HTTP server to a topic."""
        draft = self._read_draft(request)
        await self.subscribing.subscribe(address_of(call, grant, request.topic_name), draft)
        return wire.CreateCmqSubscribeResponse(subscription_id=draft.id)

    def _read_draft(self, request: wire.CreateCmqSubscribeRequest) -> Subscription:
        """A subscription as asked for, not yet placed. Raises the error for what it may not be."""
        protocol = read_protocol(request.protocol)
        self.subscribing.check_served(protocol)
        filter_tags = limits.check_filter_tags(request.filter_tag or ())
        subscriptions.check_filters(protocol, filter_tags)
        form = request.notify_content_format
        now = self.clock()
        return Subscription(
            id=self.new_id("subsc"),
            topic_id="",
            name=check_name(request.subscription_name, parameter="SubscriptionName"),
            protocol=protocol,
            endpoint=check_endpoint(protocol, request.endpoint, reach=self.reach),
            queue_id=None,
            notify_strategy=limits.read_strategy(request.notify_strategy),
            notify_content_format=check_content_format(
                protocol, read_content_format(form) if form else None
            ),
            filter_tags=filter_tags,
            binding_keys=limits.check_binding_keys(request.binding_key or ()),
            created_at=now,
            modified_at=now,
        )

    async def modify(
        self, call: Call, grant: Grant, request: wire.ModifyCmqSubscriptionAttributeRequest
    ) -> Empty:
        """Change what is given of a subscription; an empty list takes a filter away."""
        strategy, form = request.notify_strategy, request.notify_content_format
        tags, keys = request.filter_tags, request.binding_key
        changes = SubscriptionChanges(
            notify_strategy=None if strategy is None else limits.read_strategy(strategy),
            notify_content_format=None if form is None else read_content_format(form),
            filter_tags=None if tags is None else limits.check_filter_tags(tags),
            binding_keys=None if keys is None else limits.check_binding_keys(keys),
        )
        address = address_of(call, grant, request.topic_name)
        await self.subscribing.change(address, request.subscription_name, changes=changes)
        return Empty()

    async def clear_filter_tags(
        self, call: Call, grant: Grant, request: wire.SubscriptionRequest
    ) -> Empty:
        """Take the tag filter of a subscription away."""
        address = address_of(call, grant, request.topic_name)
        changes = SubscriptionChanges(filter_tags=())
        await self.subscribing.change(address, request.subscription_name, changes=changes)
        return Empty()

    async def unsubscribe(
        self, call: Call, grant: Grant, request: wire.SubscriptionRequest
    ) -> Empty:
        """End a subscription."""
        address = address_of(call, grant, request.topic_name)
        await self.subscribing.unsubscribe(address, request.subscription_name)
        return Empty()

    async def describe(
        self, call: Call, grant: Grant, request: wire.DescribeCmqSubscriptionDetailRequest
    ) -> wire.DescribeCmqSubscriptionDetailResponse:
        """List the subscriptions of a topic, or those that feed a queue.

        Why nobody has to be allowed each: they are a property of the topic, or the queue, and
        whoever may describe that is told who gets its messages, or whose it gets; in what the dead
        letters of a queue come from, too. What keeps a caller from knowing is a deny on the topic,
        the queue, or the subscription itself.
        """
        offset, limit = read_page(request.offset, request.limit)
        by = limits.check_choice(
            request.query_type, parameter="QueryType", choices=("topic", "queue")
        )
        owner_uin = grant.principal.owner_uin
        search = (request.subscription_name or "").lower()
        find = partial(
            find_of_queue if by == "queue" else find_of_topic,
            owner_uin=owner_uin,
            region=call.region,
            request=request,
        )

        def read(tx: Tx) -> wire.DescribeCmqSubscriptionDetailResponse:
            found = [
                (each, topic_name)
                for each, topic_name in find(tx)
                if search in each.name.lower() and shows(grant.scope, f"{topic_name}/{each.name}")
            ]
            page = found[offset : offset + limit]
            waiting = subscriptions.count_waiting(tx, [each for each, _ in page])
            return wire.DescribeCmqSubscriptionDetailResponse(
                total_count=len(found),
                subscription_set=[
                    view_subscription(
                        each,
                        topic_name=topic_name,
                        owner_uin=owner_uin,
                        waiting=waiting.get(each.id, 0),
                    )
                    for each, topic_name in page
                ],
            )

        return await self.store.read_list(read)

    async def reveal_secret(
        self, call: Call, grant: Grant, request: wire.SubscriptionRequest
    ) -> wire.SubscriptionSecretResponse:
        """Show what an HTTP subscriber verifies its pushes with; it is made now if need be."""
        address = address_of(call, grant, request.topic_name)

        def describe(tx: Tx) -> Secret:
            subscription = get_signed(tx, address, name=request.subscription_name)
            return self.secrets.describe(tx, subscription.id, now=self.clock())

        return view_secret(await self.store.write(describe))

    async def rotate_secret(
        self, call: Call, grant: Grant, request: wire.SubscriptionRequest
    ) -> wire.SubscriptionSecretResponse:
        """Give an HTTP subscriber a new secret; the old one is good for a while besides."""
        address = address_of(call, grant, request.topic_name)

        def rotate(tx: Tx) -> Secret:
            subscription = get_signed(tx, address, name=request.subscription_name)
            return self.secrets.rotate(tx, subscription.id, now=self.clock())

        return view_secret(await self.store.write(rotate))


def address_of(call: Call, grant: Grant, topic_name: str) -> TopicAddress:
    """Which topic a call means."""
    return TopicAddress(grant.principal.owner_uin, call.region, topic_name)


def find_of_topic(
    tx: Tx, *, owner_uin: str, region: str, request: wire.DescribeCmqSubscriptionDetailRequest
) -> list[tuple[Subscription, str]]:
    """The subscriptions of the topic that is asked for, each with the topic's name."""
    name = required(request.topic_name, parameter="TopicName")
    topic = topics.get_topic(tx, owner_uin, region=region, name=name)
    return [(each, topic.name) for each in subscriptions.list_of_topic(tx, topic)]


def find_of_queue(
    tx: Tx, *, owner_uin: str, region: str, request: wire.DescribeCmqSubscriptionDetailRequest
) -> list[tuple[Subscription, str]]:
    """The subscriptions that feed the queue that is asked for, each with its topic's name."""
    name = required(request.queue_name, parameter="QueueName")
    queue = queues.get_queue(tx, owner_uin, region=region, name=name)
    return subscriptions.list_of_queue(tx, queue)


def get_signed(tx: Tx, address: TopicAddress, *, name: str) -> Subscription:
    """A subscription whose messages are signed. Raises UnsupportedOperation for any other."""
    subscription = subscriptions.get_subscription(tx, address, name=name)
    if subscription.protocol is not Protocol.HTTP:
        raise UnsupportedOperation(
            f"Only pushes over HTTP are signed; `{name}` has protocol"
            f" `{subscription.protocol.value}`."
        )
    return subscription


def view_secret(secret: Secret) -> wire.SubscriptionSecretResponse:
    """A secret on the wire."""
    until = milliseconds(secret.old_until) if secret.old_until else 0
    return wire.SubscriptionSecretResponse(secret=secret.text, old_secret_until=until)


def required(value: str | None, *, parameter: str) -> str:
    """A parameter that this form of the request needs. Raises MissingParameter."""
    if value is None:
        raise MissingParameter(f"The request is missing a required parameter `{parameter}`.")
    return value
