"""The handlers of the classic API for subscriptions."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

from gateway.clock import Clock
from gateway.cmq import limits, subscriptions, topics
from gateway.cmq.classic.actions import Action, Asked
from gateway.cmq.classic.answers import Nothing
from gateway.cmq.classic.numbers import failure, told_as
from gateway.cmq.classic.parameters import (
    Params,
    optional_array,
    read_page,
    read_search,
    required,
)
from gateway.cmq.classic.topic_answers import (
    ListSubscriptionByTopicAnswer,
    SubscribeAnswer,
    SubscriptionAttributes,
    view_listed,
    view_subscription,
)
from gateway.cmq.endpoints import (
    Protocol,
    check_blanks,
    check_content_format,
    check_queue_name,
    check_reach,
    check_scheme,
    check_url,
    read_content_format,
    read_protocol,
)
from gateway.cmq.lists import shows
from gateway.cmq.naming import check_name
from gateway.cmq.push.addresses import Reach
from gateway.cmq.push.schedules import Strategy
from gateway.cmq.push.webhooks import ContentFormat
from gateway.cmq.subscribing import Subscribing
from gateway.cmq.subscriptions import Subscription, SubscriptionChanges
from gateway.ids import NewId
from gateway.store import Store, Tx

LISTED_MAX = 100


@dataclass(frozen=True, slots=True)
class SubscriptionCalls:
    """One method per action. reach: where pushes may go."""

    store: Store
    subscribing: Subscribing
    _: KW_ONLY
    reach: Reach
    clock: Clock
    new_id: NewId

    @property
    def actions(self) -> Mapping[str, Action]:
        """The actions and how they are served."""
        one = {"topicName", "subscriptionName"}
        attributes = {"notifyStrategy", "notifyContentFormat"}
        page = {"searchWord", "offset", "limit"}
        picked = {"filterTag", "bindingKey"}
        place = {"protocol", "endpoint"}
        return {
            "Subscribe": Action(self.subscribe, one | place | attributes, picked),
            "Unsubscribe": Action(self.unsubscribe, one),
            "ClearSubscriptionFilterTags": Action(self.clear_filter_tags, one),
            "ListSubscriptionByTopic": Action(self.list_subscriptions, {"topicName"} | page),
            "GetSubscriptionAttributes": Action(self.get_attributes, one),
            "SetSubscriptionAttributes": Action(self.set_attributes, one | attributes, picked),
        }

    async def subscribe(self, asked: Asked) -> SubscribeAnswer:
        """Subscribe a queue of ours, one on the broker, or an HTTP server to a topic.

        Why a binding key is asked for here alone: the table of this API has an error for its
        absence; the pages of tdmq have none, and there no key means every message.
        """
        draft = self._read_draft(asked.params)
        place = asked.topic
        topic = await self.store.read_point(lambda tx: topics.get_topic(tx, **place))
        if topic.filter_type == topics.FILTER_BY_ROUTING_KEY and not draft.binding_keys:
            raise failure((4000, 10710), "parameters lack of bindingKey")
        await self.subscribing.subscribe(topic.address, draft)
        return SubscribeAnswer(subscription_id=draft.id)

    def _read_draft(self, params: Params) -> Subscription:
        """A subscription as asked for, not yet placed. Raises ApiError for what it may not be."""
        with told_as((4000, 10590)):
            name = check_name(required(params, "subscriptionName"), parameter="subscriptionName")
        with told_as((4000, 10510)):
            protocol = read_protocol(required(params, "protocol"))
            self.subscribing.check_served(protocol)
        endpoint = _read_endpoint(protocol, required(params, "endpoint"), reach=self.reach)
        filter_tags = _read_filter_tags(params) or ()
        subscriptions.check_filters(protocol, filter_tags)
        now = self.clock()
        return Subscription(
            id=self.new_id("subsc"),
            topic_id="",
            name=name,
            protocol=protocol,
            endpoint=endpoint,
            queue_id=None,
            notify_strategy=_read_strategy(params) or Strategy.EXPONENTIAL_DECAY_RETRY,
            notify_content_format=check_content_format(protocol, _read_form(params)),
            filter_tags=filter_tags,
            binding_keys=_read_binding_keys(params) or (),
            created_at=now,
            modified_at=now,
        )

    async def unsubscribe(self, asked: Asked) -> Nothing:
        """End a subscription."""
        name = required(asked.params, "subscriptionName")
        await self.subscribing.unsubscribe(asked.address, name)
        return Nothing()

    async def clear_filter_tags(self, asked: Asked) -> Nothing:
        """Take the tag filter of a subscription away."""
        return await self._change(asked, SubscriptionChanges(filter_tags=()))

    async def set_attributes(self, asked: Asked) -> Nothing:
        """Change what is given of a subscription."""
        params = asked.params
        changes = SubscriptionChanges(
            notify_strategy=_read_strategy(params),
            notify_content_format=_read_form(params),
            filter_tags=_read_filter_tags(params),
            binding_keys=_read_binding_keys(params),
        )
        return await self._change(asked, changes)

    async def _change(self, asked: Asked, changes: SubscriptionChanges) -> Nothing:
        name = required(asked.params, "subscriptionName")
        await self.subscribing.change(asked.address, name, changes=changes)
        return Nothing()

    async def list_subscriptions(self, asked: Asked) -> ListSubscriptionByTopicAnswer:
        """List the subscriptions of a topic that are not denied by name, the oldest first."""
        place = asked.topic
        offset, limit = read_page(asked.params, most=LISTED_MAX)
        search = read_search(asked.params).lower()

        def read(tx: Tx) -> list[Subscription]:
            topic = topics.get_topic(tx, **place)
            found = subscriptions.list_of_topic(tx, topic)
            return [
                each
                for each in found
                if search in each.name.lower() and shows(asked.scope, f"{topic.name}/{each.name}")
            ]

        found = await self.store.read_list(read)
        listed = [view_listed(each) for each in found[offset : offset + limit]]
        return ListSubscriptionByTopicAnswer(total_count=len(found), subscription_list=listed)

    async def get_attributes(self, asked: Asked) -> SubscriptionAttributes:
        """Show one subscription."""
        address = asked.address
        name = required(asked.params, "subscriptionName")

        def read(tx: Tx) -> SubscriptionAttributes:
            found = subscriptions.get_subscription(tx, address, name=name)
            waiting = subscriptions.count_waiting(tx, [found]).get(found.id, 0)
            return view_subscription(found, owner_uin=address.owner_uin, waiting=waiting)

        return await self.store.read_list(read)


def _read_endpoint(protocol: Protocol, endpoint: str, *, reach: Reach) -> str:
    if protocol is not Protocol.HTTP:
        with told_as((4000, 10500)):
            check_queue_name(endpoint)
        return endpoint
    with told_as((4510, 10570)):
        check_blanks(endpoint)
    with told_as((4000, 10500)):
        check_scheme(endpoint)
    with told_as((4000, 10630)):
        check_url(endpoint)
        check_reach(endpoint, reach=reach)
    return endpoint


def _read_strategy(params: Params) -> Strategy | None:
    with told_as((4000, 10520)):
        given = params.get("notifyStrategy")
        return limits.read_strategy(given) if given else None


def _read_form(params: Params) -> ContentFormat | None:
    with told_as((4000, 10530)):
        given = params.get("notifyContentFormat")
        return read_content_format(given) if given else None


def _read_filter_tags(params: Params) -> tuple[str, ...] | None:
    tags = optional_array(params, "filterTag")
    if tags is None:
        return None
    with told_as((4000, 10670)):
        limits.check_count(tags, parameter="filterTag", most=limits.FILTER_TAGS_MAX)
    return limits.check_filter_tags(tags)


def _read_binding_keys(params: Params) -> tuple[str, ...] | None:
    keys = optional_array(params, "bindingKey")
    if keys is None:
        return None
    with told_as((4000, 10680)):
        limits.check_count(keys, parameter="bindingKey", most=limits.BINDING_KEYS_MAX)
    for key in keys:
        with told_as((4000, 10691)):
            limits.check_dots(key, parameter="bindingKey")
    return limits.check_binding_keys(keys)
