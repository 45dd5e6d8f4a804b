"""The numbered errors of the classic API, and which of them tells what.

What is not in the table here has one pair in the whole gateway: see `protocol.classic_pair`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from gateway.cmq.endpoints import NeedsSimplified
from gateway.cmq.publishing import NobodyWants, NoSubscription
from gateway.cmq.queue_messages import CannotRewind, QueueFull
from gateway.cmq.queues import QueueInUse
from gateway.cmq.subscriptions import NoSuchSubscription
from gateway.cmq.topics import StillSubscribed
from gateway.errors import ApiError, ClassicError, InvalidParameterValue, UnsupportedOperation

Pair = tuple[int, int]
"""The code and the module code, such as 4440 and 10100."""

_PAIRS: Mapping[type[ApiError] | str, Pair] = {
    CannotRewind: (6050, 10670),
    NeedsSimplified: (4000, 10640),
    NobodyWants: (6030, 10730),
    NoSubscription: (6030, 10650),
    NoSuchSubscription: (4440, 10600),
    QueueFull: (4410, 10240),
    QueueInUse: (4000, 10540),
    StillSubscribed: (4000, 10540),
    "LimitExceeded.Subscriptions": (4500, 10480),
    "LimitExceeded.Topics": (4450, 10610),
    "ResourceInUse.Subscription": (4490, 10470),
    "ResourceNotFound.Topic": (4440, 10600),
}
"""By the kind of error, or by its public code. Source: CMQ 2017 error table.

Why 10600 for a subscription that does not exist: the table has no pair for it; the one of its
topic is the nearest. Why 10540 for a queue that is still filled: it has none for that either, and
this is what a topic that still has subscriptions answers.
"""


def failure(pair: Pair, message: str) -> ClassicError:
    """A numbered error. Source: CMQ 2017 error table."""
    number, module = pair
    return ClassicError(message, number=number, module=module)


@contextmanager
def told_as(pair: Pair) -> Iterator[None]:
    """Turn the refusal of one parameter into a numbered error, with the same sentence."""
    try:
        yield
    except (InvalidParameterValue, UnsupportedOperation) as error:
        raise failure(pair, error.message) from error


@contextmanager
def told_in_numbers() -> Iterator[None]:
    """Turn a refusal that has numbers of its own into them, with the same sentence."""
    try:
        yield
    except ApiError as error:
        pair = _PAIRS.get(type(error)) or _PAIRS.get(error.code)
        if pair is None:
            raise
        raise failure(pair, error.message) from error
