"""What the parameters of the classic API's queue actions may be. Pure."""

from datetime import UTC, datetime

from gateway.cmq import limits
from gateway.cmq.classic.parameters import Params, number, required
from gateway.cmq.queues import QueueChanges

ATTRIBUTES = frozenset(
    {
        "maxMsgHeapNum",
        "pollingWaitSeconds",
        "visibilityTimeout",
        "maxMsgSize",
        "msgRetentionSeconds",
        "rewindSeconds",
    }
)
WAITS = ("pollingWaitSeconds", "UserpollingWaitSeconds")
_RETENTION_S_MIN = 60
_REWIND_S_MAX = 43_200
_TIME_MAX = 253_370_764_800  # the year 9999, in seconds since 1970


def read_changes(params: Params) -> QueueChanges:
    """The attributes of a queue that are given. Raises ClassicError 4000/10350 or 10360."""
    heap, wait, visibility = limits.QUEUE_MESSAGES, limits.POLLING_WAIT_S, limits.VISIBILITY_S
    size, retention = limits.MESSAGE_BYTES, limits.QUEUE_RETENTION_S
    return QueueChanges(
        max_messages=_given(params, "maxMsgHeapNum", low=heap.low, high=heap.high),
        polling_wait_s=_given(params, "pollingWaitSeconds", low=wait.low, high=wait.high),
        visibility_s=_given(params, "visibilityTimeout", low=visibility.low, high=visibility.high),
        max_message_bytes=_given(params, "maxMsgSize", low=size.low, high=size.high),
        retention_s=_given(
            params, "msgRetentionSeconds", low=_RETENTION_S_MIN, high=retention.high
        ),
        rewind_s=_given(params, "rewindSeconds", low=0, high=_REWIND_S_MAX),
    )


def read_start_time(params: Params) -> datetime:
    """The time that a queue is rewound to. Raises ClassicError 4000."""
    required(params, "startConsumeTime")
    seconds = number(params, "startConsumeTime", low=0, high=_TIME_MAX, default=0)
    return datetime.fromtimestamp(seconds, UTC)


def read_wait(params: Params) -> int | None:
    """How long a receive waits, in seconds; None: as long as its queue says.

    Why `UserpollingWaitSeconds` is not read: the vendor's clients send it to themselves, as how
    long their own connection waits, some in milliseconds; and 30 s where their caller said
    nothing, which leaves the wait to the queue. Raises ClassicError 4000/10350 or 10360.
    """
    wait = limits.POLLING_WAIT_S
    return _given(params, "pollingWaitSeconds", low=wait.low, high=wait.high)


def _given(params: Params, name: str, *, low: int, high: int) -> int | None:
    """A whole number; None if it is not given."""
    return number(params, name, low=low, high=high, default=low) if params.get(name) else None
