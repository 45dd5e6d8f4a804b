"""The handlers of tdmq 2020-02-17 for topics and subscriptions: check, then one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import anyio

from gateway.call import Call, Grant
from gateway.clock import Clock
from gateway.cmq import datatypes as wire
from gateway.cmq import limits, queues, subscriptions, topics
from gateway.cmq.lists import asks_for_tags, read_page, refuse_tags
from gateway.cmq.naming import check_name
from gateway.cmq.subscriptions import Protocol, Subscription
from gateway.cmq.topics import Topic
from gateway.cmq.views import view_subscription, view_topic
from gateway.errors import (
    FailedOperation,
    InvalidParameterValue,
    MissingParameter,
    UnsupportedOperation,
)
from gateway.events import outbox
from gateway.events.bus import Bus, BusRefused, BusUnavailable
from gateway.ids import NewId, new_request_id
from gateway.service import Empty, Operation
from gateway.store import Store, Tx
from gateway.telemetry import log

DECLARE_S = 3.0  # how long a subscriber waits for the broker; the relay goes on trying


@dataclass(frozen=True, slots=True)
class TopicCalls:
    """One method per action; without a bus, subscriptions of protocol `amqp` are refused."""

    store: Store
    bus: Bus | None
    clock: Clock
    new_id: NewId

    @property
    def operations(self) -> Mapping[str, Operation]:
        """The actions and how they are served."""
        return {
            "CreateCmqTopic": Operation(wire.CreateCmqTopicRequest, self.create_topic),
            "DeleteCmqTopic": Operation(wire.TopicRequest, self.delete_topic),
            "DescribeCmqTopics": Operation(wire.DescribeCmqTopicsRequest, self.describe_topics),
            "DescribeCmqTopicDetail": Operation(wire.TopicRequest, self.describe_topic),
            "PublishCmqMsg": Operation(wire.PublishCmqMsgRequest, self.publish_message),
            "CreateCmqSubscribe": Operation(wire.CreateCmqSubscribeRequest, self.subscribe),
            "DeleteCmqSubscribe": Operation(wire.DeleteCmqSubscribeRequest, self.unsubscribe),
            "DescribeCmqSubscriptionDetail": Operation(
                wire.DescribeCmqSubscriptionDetailRequest, self.describe_subscriptions
            ),
        }

    async def create_topic(
        self, call: Call, grant: Grant, request: wire.CreateCmqTopicRequest
    ) -> wire.CreateCmqTopicResponse:
        """Make a topic."""
        refuse_tags(request.tags)
        now = self.clock()
        topic = Topic(
            id=self.new_id("topic"),
            owner_uin=grant.principal.owner_uin,
            region=call.region,
            name=check_name(request.topic_name, parameter="TopicName"),
            max_message_bytes=limits.MESSAGE_BYTES.read(request.max_msg_size),
            filter_type=limits.FILTER_TYPE.read(request.filter_type),
            retention_s=limits.TOPIC_RETENTION_S.read(request.msg_retention_seconds),
            trace=bool(request.trace),
            created_by=grant.principal.uin,
            created_at=now,
            modified_at=now,
        )
        await self.store.write(lambda tx: topics.create(tx, topic))
        return wire.CreateCmqTopicResponse(topic_id=topic.id)

    async def delete_topic(self, call: Call, grant: Grant, request: wire.TopicRequest) -> Empty:
        """Delete a topic that has no subscriptions."""
        where = {"region": call.region, "name": request.topic_name}
        await self.store.write(lambda tx: topics.delete(tx, grant.principal.owner_uin, **where))
        return Empty()

    async def describe_topics(
        self, call: Call, grant: Grant, request: wire.DescribeCmqTopicsRequest
    ) -> wire.DescribeCmqTopicsResponse:
        """List topics by name."""
        if asks_for_tags(request.filters):
            return wire.DescribeCmqTopicsResponse(topic_list=[], total_count=0)
        find = partial(
            topics.list_topics,
            owner_uin=grant.principal.owner_uin,
            region=call.region,
            search=request.topic_name or "",
            names=request.topic_name_list or (),
            scope=grant.scope,
            page=read_page(request.offset, request.limit),
        )

        def read(tx: Tx) -> wire.DescribeCmqTopicsResponse:
            total, found = find(tx)
            return wire.DescribeCmqTopicsResponse(
                topic_list=view_topics(tx, found), total_count=total
            )

        return await self.store.read_list(read)

    async def describe_topic(
        self, call: Call, grant: Grant, request: wire.TopicRequest
    ) -> wire.DescribeCmqTopicDetailResponse:
        """Show one topic."""
        where = {"region": call.region, "name": request.topic_name}

        def read(tx: Tx) -> wire.CmqTopic:
            topic = topics.get_topic(tx, grant.principal.owner_uin, **where)
            return view_topics(tx, [topic])[0]

        return wire.DescribeCmqTopicDetailResponse(topic_describe=await self.store.read_list(read))

    async def publish_message(
        self, call: Call, grant: Grant, request: wire.PublishCmqMsgRequest
    ) -> wire.MessageResponse:
        """Publish a message to a topic's subscribers; they get it after the answer."""
        message_id = new_request_id()
        now = self.clock()

        def publish(tx: Tx) -> None:
            topic = topics.get_topic(
                tx, grant.principal.owner_uin, region=call.region, name=request.topic_name
            )
            body = limits.check_content(request.msg_content, bytes_max=topic.max_message_bytes)
            routing_key, tags = read_message_tags(request.msg_tag or (), topic=topic)
            subscribed = subscriptions.list_of_topic(tx, topic)
            if not subscribed:
                raise FailedOperation(
                    "(10650) topic has no subscription, "
                    "please create a subscription before publishing message"
                )
            if not any(each.wants(routing_key=routing_key, tags=tags) for each in subscribed):
                raise FailedOperation("(10730) no subscription of the topic wants the message")
            outbox.publish(
                tx,
                topic.address,
                body,
                message_id=message_id,
                routing_key=routing_key,
                tags=tags,
                now=now,
            )

        await self.store.write(publish)
        return wire.MessageResponse(result=True, msg_id=message_id)

    async def subscribe(
        self, call: Call, grant: Grant, request: wire.CreateCmqSubscribeRequest
    ) -> wire.CreateCmqSubscribeResponse:
        """Subscribe a queue to a topic: one of ours, or one on the broker.

        Why the broker comes after the commit: an absent one must not keep a subscriber out. What
        is published meanwhile waits in the outbox until the relay has declared the queue.
        """
        draft = self._read_subscription(request)
        owner_uin = grant.principal.owner_uin

        def add(tx: Tx) -> Topic:
            topic = topics.lock_topic(tx, owner_uin, region=call.region, name=request.topic_name)
            queue_id = None
            if draft.protocol is Protocol.QUEUE:
                queue_id = queues.hold_queue(
                    tx, owner_uin, region=call.region, name=request.endpoint
                ).id
            subscriptions.subscribe(tx, draft.placed(topic_id=topic.id, queue_id=queue_id))
            return topic

        topic = await self.store.write(add)
        if draft.protocol is Protocol.AMQP:
            await self._declare(topic, draft)
        return wire.CreateCmqSubscribeResponse(subscription_id=draft.id)

    def _read_subscription(self, request: wire.CreateCmqSubscribeRequest) -> Subscription:
        """A subscription as asked for, not yet placed. Raises the error for what it may not be."""
        protocol = read_protocol(request.protocol)
        if protocol is Protocol.AMQP:
            if self.bus is None:
                raise UnsupportedOperation("`amqp` needs a broker, and none is configured here.")
            if request.filter_tag:
                raise InvalidParameterValue("`amqp` filters by BindingKey, not by FilterTag.")
            check_name(request.endpoint, parameter="Endpoint")
        content_format = request.notify_content_format or "SIMPLIFIED"
        if content_format != "SIMPLIFIED":
            raise InvalidParameterValue(
                f"`NotifyContentFormat` must be SIMPLIFIED for protocol `{protocol.value}`."
            )
        now = self.clock()
        return Subscription(
            id=self.new_id("subsc"),
            topic_id="",
            name=check_name(request.subscription_name, parameter="SubscriptionName"),
            protocol=protocol,
            endpoint=request.endpoint,
            queue_id=None,
            notify_strategy=limits.check_choice(
                request.notify_strategy,
                parameter="NotifyStrategy",
                choices=limits.NOTIFY_STRATEGIES,
            ),
            notify_content_format=content_format,
            filter_tags=limits.check_filter_tags(request.filter_tag or ()),
            binding_keys=limits.check_binding_keys(request.binding_key or ()),
            created_at=now,
            modified_at=now,
        )

    async def _declare(self, topic: Topic, subscription: Subscription) -> None:
        """Have the queue on the broker before the answer, if the broker is there.

        Raises FailedOperation.CreateSubscription, and takes the subscription back, if the broker
        has something else by that name.
        """
        if self.bus is None:
            return
        route = subscriptions.route_of(topic.address, [subscription])
        try:
            with anyio.fail_after(DECLARE_S):
                await self.bus.declare(route)
        except (BusUnavailable, TimeoutError):
            log.warning("subscription_not_yet_declared", exchange=route.exchange)
        except BusRefused as error:
            await self.store.write(
                lambda tx: subscriptions.unsubscribe(
                    tx,
                    topic.owner_uin,
                    region=topic.region,
                    topic_name=topic.name,
                    name=subscription.name,
                )
            )
            raise FailedOperation(
                f"The broker refuses the queue `{subscription.endpoint}`: {error}",
                detail="CreateSubscription",
            ) from error

    async def unsubscribe(
        self, call: Call, grant: Grant, request: wire.DeleteCmqSubscribeRequest
    ) -> Empty:
        """End a subscription."""
        where = {
            "region": call.region,
            "topic_name": request.topic_name,
            "name": request.subscription_name,
        }
        owner_uin = grant.principal.owner_uin
        await self.store.write(lambda tx: subscriptions.unsubscribe(tx, owner_uin, **where))
        return Empty()

    async def describe_subscriptions(
        self, call: Call, grant: Grant, request: wire.DescribeCmqSubscriptionDetailRequest
    ) -> wire.DescribeCmqSubscriptionDetailResponse:
        """List the subscriptions of a topic, or those that feed a queue."""
        offset, limit = read_page(request.offset, request.limit)
        by = limits.check_choice(
            request.query_type, parameter="QueryType", choices=("topic", "queue")
        )
        owner_uin = grant.principal.owner_uin
        search = (request.subscription_name or "").lower()

        def read(tx: Tx) -> list[tuple[Subscription, str]]:
            if by == "queue":
                name = required(request.queue_name, parameter="QueueName")
                queue = queues.get_queue(tx, owner_uin, region=call.region, name=name)
                return subscriptions.list_of_queue(tx, queue)
            name = required(request.topic_name, parameter="TopicName")
            topic = topics.get_topic(tx, owner_uin, region=call.region, name=name)
            return [(each, topic.name) for each in subscriptions.list_of_topic(tx, topic)]

        found = [
            pair for pair in await self.store.read_list(read) if search in pair[0].name.lower()
        ]
        return wire.DescribeCmqSubscriptionDetailResponse(
            total_count=len(found),
            subscription_set=[
                view_subscription(subscription, topic_name=topic_name, owner_uin=owner_uin)
                for subscription, topic_name in found[offset : offset + limit]
            ],
        )


def view_topics(tx: Tx, found: Sequence[Topic]) -> list[wire.CmqTopic]:
    """Topics with their counts."""
    counts = topics.count_subscriptions(tx, found)
    waiting = outbox.count_unsent_of(tx, [topic.address.key for topic in found])
    return [
        view_topic(
            topic,
            subscriptions=counts.get(topic.id, 0),
            waiting=waiting.get(topic.address.key, 0),
        )
        for topic in found
    ]


def read_protocol(text: str) -> Protocol:
    """The protocol of a subscription. Raises UnsupportedOperation or InvalidParameterValue."""
    if text in ("http", "https"):
        raise UnsupportedOperation("HTTP subscriptions are not served yet; use `queue`.")
    try:
        return Protocol(text)
    except ValueError:
        raise InvalidParameterValue(f"`Protocol` must be queue or amqp; `{text}` is not.") from None


def read_message_tags(tags: Sequence[str], *, topic: Topic) -> tuple[str, tuple[str, ...]]:
    """The routing key and the tags of a message: MsgTag is the one or the other, by FilterType."""
    if topic.filter_type == topics.FILTER_BY_TAG:
        return "", limits.check_message_tags(tags)
    if len(tags) != 1:
        raise InvalidParameterValue("`MsgTag` must be one routing key: the topic routes by key.")
    return limits.check_words(tags[0], parameter="MsgTag"), ()


def required(value: str | None, *, parameter: str) -> str:
    """A parameter that this form of the request needs. Raises MissingParameter."""
    if value is None:
        raise MissingParameter(f"The request is missing a required parameter `{parameter}`.")
    return value
