"""The classic API's answers about topics and subscriptions. Times are in seconds since 1970."""

from gateway.cmq.classic.answers import Classic, seconds
from gateway.cmq.subscriptions import Subscription
from gateway.cmq.topics import Topic


class CreateTopicAnswer(Classic):
    """Members of CreateTopic."""

    topic_id: str


class ListedTopic(Classic):
    """One topic of a list."""

    topic_id: str
    topic_name: str


class ListTopicAnswer(Classic):
    """Members of ListTopic."""

    total_count: int
    topic_list: list[ListedTopic]


class TopicAttributes(Classic):
    """Members of GetTopicAttributes.

    Why `filter_type` is 1 or 2: the page of this action says 0 or 1, every other page, and
    CreateTopic, 1 or 2; whoever reads back what they wrote must find it.
    """

    msg_count: int
    max_msg_size: int
    msg_retention_seconds: int
    create_time: int
    last_modify_time: int
    filter_type: int


class PublishMessageAnswer(Classic):
    """Members of PublishMessage, and one of the messages of BatchPublishMessage."""

    msg_id: str


class BatchPublishMessageAnswer(Classic):
    """Members of BatchPublishMessage, in the order of the messages."""

    msg_list: list[PublishMessageAnswer]


class SubscribeAnswer(Classic):
    """Members of Subscribe."""

    subscription_id: str


class ListedSubscription(Classic):
    """One subscription of a list."""

    subscription_id: str
    subscription_name: str
    protocol: str
    endpoint: str


class ListSubscriptionByTopicAnswer(Classic):
    """Members of ListSubscriptionByTopic."""

    total_count: int
    subscription_list: list[ListedSubscription]


class SubscriptionAttributes(Classic):
    """Members of GetSubscriptionAttributes."""

    topic_owner: str
    msg_count: int
    protocol: str
    endpoint: str
    notify_strategy: str
    notify_content_format: str
    create_time: int
    last_modify_time: int
    filter_tag: list[str]
    binding_key: list[str]


def view_topic(topic: Topic, *, waiting: int) -> TopicAttributes:
    """One topic; `waiting`: messages that somebody has yet to get."""
    return TopicAttributes(
        msg_count=waiting,
        max_msg_size=topic.max_message_bytes,
        msg_retention_seconds=topic.retention_s,
        create_time=seconds(topic.created_at),
        last_modify_time=seconds(topic.modified_at),
        filter_type=topic.filter_type,
    )


def view_listed(subscription: Subscription) -> ListedSubscription:
    """One subscription as the list shows it."""
    return ListedSubscription(
        subscription_id=subscription.id,
        subscription_name=subscription.name,
        protocol=subscription.protocol.value,
        endpoint=subscription.endpoint,
    )


def view_subscription(
    subscription: Subscription, *, owner_uin: str, waiting: int
) -> SubscriptionAttributes:
    """One subscription; `waiting`: messages that are not yet pushed."""
    return SubscriptionAttributes(
        topic_owner=owner_uin,
        msg_count=waiting,
        protocol=subscription.protocol.value,
        endpoint=subscription.endpoint,
        notify_strategy=subscription.notify_strategy.value,
        notify_content_format=subscription.notify_content_format.value,
        create_time=seconds(subscription.created_at),
        last_modify_time=seconds(subscription.modified_at),
        filter_tag=list(subscription.filter_tags),
        binding_key=list(subscription.binding_keys),
    )
