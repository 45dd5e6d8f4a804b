"""The answers of the classic API. Times are in seconds since 1970."""

from datetime import datetime

import msgspec


class Classic(msgspec.Struct, rename="camel", kw_only=True):
    """An answer of the classic API. Snake case here is lowerCamelCase on the wire."""


class Nothing(Classic):
    """No members of its own."""


class SendMessageAnswer(Classic):
    """Members of SendMessage."""

    msg_id: str


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


def seconds(moment: datetime) -> int:
    """A time as the classic API writes it: whole seconds since 1970."""
    return int(moment.timestamp())
