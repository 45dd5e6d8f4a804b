"""How topics, queues and subscriptions look on the wire. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from gateway.cmq.queue_messages import Backlog
from gateway.cmq.queues import Queue
from gateway.cmq.subscriptions import Subscription
from gateway.cmq.tags import Tag
from gateway.cmq.tdmq import datatypes as wire
from gateway.cmq.topics import Topic

NORMAL = 1  # the only status: what is not made is not there
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def milliseconds(moment: datetime) -> int:
    """A time as tdmq writes it: whole milliseconds since 1970."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def view_tags(tags: Sequence[Tag]) -> list[wire.Tag]:
    """Tags of a topic or a queue."""
    return [wire.Tag(tag_key=each.key, tag_value=each.value) for each in tags]


def view_topic(
    topic: Topic, *, subscriptions: int, waiting: int, tags: Sequence[Tag]
) -> wire.CmqTopic:
    """One topic; `waiting`: messages that somebody has yet to get."""
    return wire.CmqTopic(
        topic_id=topic.id,
        topic_name=topic.name,
        msg_retention_seconds=topic.retention_s,
        max_msg_size=topic.max_message_bytes,
        qps=0,
        filter_type=topic.filter_type,
        create_time=milliseconds(topic.created_at),
        last_modify_time=milliseconds(topic.modified_at),
        msg_count=waiting,
        create_uin=int(topic.created_by),
        tags=view_tags(tags),
        trace=topic.trace,
        tenant_id="",
        namespace_name="",
        status=NORMAL,
        broker_type=0,
        subscription_count=subscriptions,
    )


def view_queue(
    queue: Queue,
    *,
    backlog: Backlog,
    dead_letter_queue: str,
    sources: Sequence[Queue],
    tags: Sequence[Tag],
) -> wire.CmqQueue:
    """One queue and what it holds. Qps and Bps are 0: no rate is limited.

    dead_letter_queue: the name of the one that takes its dead letters, if any.
    sources: the queues whose dead letters it takes.
    """
    return wire.CmqQueue(
        queue_id=queue.id,
        queue_name=queue.name,
        qps=0,
        bps=0,
        max_delay_seconds=queue.retention_s,
        max_msg_heap_num=queue.max_messages,
        polling_wait_seconds=queue.polling_wait_s,
        msg_retention_seconds=queue.retention_s,
        visibility_timeout=queue.visibility_s,
        max_msg_size=queue.max_message_bytes,
        rewind_seconds=queue.rewind_s,
        create_time=milliseconds(queue.created_at),
        last_modify_time=milliseconds(queue.modified_at),
        active_msg_num=backlog.active,
        inactive_msg_num=backlog.inactive,
        delay_msg_num=backlog.delayed,
        rewind_msg_num=backlog.kept,
        min_msg_time=milliseconds(backlog.oldest) if backlog.oldest else 0,
        transaction=False,
        dead_letter_source=[
            wire.CmqDeadLetterSource(queue_id=each.id, queue_name=each.name) for each in sources
        ],
        dead_letter_policy=_view_policy(queue, dead_letter_queue),
        transaction_policy=None,
        create_uin=int(queue.created_by),
        tags=view_tags(tags),
        trace=queue.trace,
        tenant_id="",
        namespace_name="",
        status=NORMAL,
        max_unacked_msg_num=0,
        max_msg_backlog_size=0,
        retention_size_in_mb=queue.rewind_mb,
    )


def _view_policy(queue: Queue, dead_letter_queue: str) -> wire.CmqDeadLetterPolicy | None:
    if queue.dead_letter_policy is None:
        return None
    return wire.CmqDeadLetterPolicy(
        dead_letter_queue=dead_letter_queue,
        policy=queue.dead_letter_policy.value,
        max_time_to_live=queue.max_time_to_live_s or 0,
        max_receive_count=queue.max_receive_count or 0,
    )


def view_subscription(
    subscription: Subscription, *, topic_name: str, owner_uin: str, waiting: int
) -> wire.CmqSubscription:
    """One subscription; `waiting`: messages that are not yet pushed."""
    return wire.CmqSubscription(
        subscription_name=subscription.name,
        subscription_id=subscription.id,
        topic_owner=int(owner_uin),
        msg_count=waiting,
        last_modify_time=milliseconds(subscription.modified_at),
        create_time=milliseconds(subscription.created_at),
        binding_key=list(subscription.binding_keys),
        endpoint=subscription.endpoint,
        filter_tags=list(subscription.filter_tags),
        protocol=subscription.protocol.value,
        notify_strategy=subscription.notify_strategy.value,
        notify_content_format=subscription.notify_content_format.value,
        topic_name=topic_name,
    )
