"""The classic API's answers about queues and messages. Times are in seconds since 1970."""

from gateway.cmq.classic.answers import Classic, seconds
from gateway.cmq.queue_messages import Backlog, Received
from gateway.cmq.queues import Queue


class CreateQueueAnswer(Classic):
    """Members of CreateQueue."""

    queue_id: str


class ListedQueue(Classic):
    """A queue in a list."""

    queue_id: str
    queue_name: str


class ListQueueAnswer(Classic):
    """Members of ListQueue."""

    total_count: int
    queue_list: list[ListedQueue]


class GetQueueAttributesAnswer(Classic):
    """Members of GetQueueAttributes. Times are in seconds since 1970, 0 where there is none."""

    max_msg_heap_num: int
    polling_wait_seconds: int
    visibility_timeout: int
    max_msg_size: int
    msg_retention_seconds: int
    create_time: int
    last_modify_time: int
    active_msg_num: int
    inactive_msg_num: int
    rewind_seconds: int
    rewind_msg_num: int
    min_msg_time: int
    delay_msg_num: int


class SendMessageAnswer(Classic):
    """Members of SendMessage."""

    msg_id: str


class BatchSendMessageAnswer(Classic):
    """Members of BatchSendMessage: an id for each message, in the order they were given."""

    msg_list: list[SendMessageAnswer]


class ReceivedMessage(Classic):
    """A received message. Times are in seconds since 1970."""

    msg_body: str
    msg_id: str
    receipt_handle: str
    enqueue_time: int
    first_dequeue_time: int
    next_visible_time: int
    dequeue_count: int


class BatchReceiveMessageAnswer(Classic):
    """Members of BatchReceiveMessage."""

    msg_info_list: list[ReceivedMessage]


class DeleteFailure(Classic):
    """Why one message of a batch was not deleted."""

    code: int
    message: str
    receipt_handle: str


class PartialFailure(Classic):
    """Members of BatchDeleteMessage if some messages were not deleted; the others were."""

    code: int
    message: str
    error_list: list[DeleteFailure]


def view_attributes(queue: Queue, backlog: Backlog) -> GetQueueAttributesAnswer:
    """A queue as the classic API writes it."""
    return GetQueueAttributesAnswer(
        max_msg_heap_num=queue.max_messages,
        polling_wait_seconds=queue.polling_wait_s,
        visibility_timeout=queue.visibility_s,
        max_msg_size=queue.max_message_bytes,
        msg_retention_seconds=queue.retention_s,
        create_time=seconds(queue.created_at),
        last_modify_time=seconds(queue.modified_at),
        active_msg_num=backlog.active,
        inactive_msg_num=backlog.inactive,
        rewind_seconds=queue.rewind_s,
        rewind_msg_num=backlog.kept,
        min_msg_time=seconds(backlog.oldest) if backlog.oldest else 0,
        delay_msg_num=backlog.delayed,
    )


def view_message(message: Received) -> ReceivedMessage:
    """A received message as the classic API writes it."""
    return ReceivedMessage(
        msg_body=message.body,
        msg_id=message.id,
        receipt_handle=message.receipt,
        enqueue_time=seconds(message.enqueued_at),
        first_dequeue_time=seconds(message.first_dequeued_at),
        next_visible_time=seconds(message.visible_at),
        dequeue_count=message.dequeue_count,
    )
