"""What the parameters of topics, queues and messages may be. Pure.

Source: CMQ 2017 and TDMQ-CMQ documents; where a limit grew over the years, the larger one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.cmq.push.schedules import Strategy
from gateway.errors import InvalidParameterValue

FILTER_TAGS_MAX, FILTER_TAG_LENGTH_MAX = 5, 16
BINDING_KEYS_MAX, BINDING_KEY_BYTES_MAX, DOTS_MAX = 5, 64, 15
MESSAGE_TAGS_MAX, MESSAGE_TAG_LENGTH_MAX = 5, 64
TOPICS_MAX, SUBSCRIPTIONS_MAX = 10_000, 1_000  # an account's in a region; a topic's
QUEUES_MAX, DEAD_LETTER_SOURCES_MAX = 1_000, 6  # an account's in a region; a queue's
BATCH_MAX, BATCH_BYTES_MAX = 16, 1_048_576


@dataclass(frozen=True, slots=True)
class Range:
    """What a whole number may be, and what it is when it is not given."""

    parameter: str
    low: int
    high: int
    default: int

    def read(self, value: int | None) -> int:
        """The value, or the default. Raises InvalidParameterValue."""
        checked = self.check(value)
        return self.default if checked is None else checked

    def check(self, value: int | None) -> int | None:
        """The value, None if it is not given. Raises InvalidParameterValue."""
        if value is not None and not self.low <= value <= self.high:
            raise InvalidParameterValue(
                f"`{self.parameter}` must be from {self.low} to {self.high}; `{value}` is not."
            )
        return value


MESSAGE_BYTES = Range("MaxMsgSize", 1_024, 1_048_576, 1_048_576)
TOPIC_RETENTION_S = Range("MsgRetentionSeconds", 60, 86_400, 86_400)
QUEUE_RETENTION_S = Range("MsgRetentionSeconds", 30, 1_296_000, 345_600)
"""How long a queue keeps a message that nobody deletes.

Why four days: TDMQ says "the longest unacknowledged time", at most 12 hours and 1 hour if nothing
is said; CMQ says "retention", at most 15 days and 4 days if nothing is said. An event that is gone
because its reader was down for an hour is lost, so CMQ's meaning holds, in the range of both.
"""
QUEUE_MESSAGES = Range("MaxMsgHeapNum", 1_000_000, 1_000_000_000, 100_000_000)
POLLING_WAIT_S = Range("PollingWaitSeconds", 0, 30, 0)
VISIBILITY_S = Range("VisibilityTimeout", 1, 43_200, 30)
REWIND_S = Range("RewindSeconds", 0, 1_296_000, 0)
REWIND_MB = Range("RetentionSizeInMB", 10_240, 512_000, 0)
DEAD_LETTER_POLICY = Range("Policy", 0, 1, 0)
RECEIVE_COUNT = Range("MaxReceiveCount", 1, 1_000, 0)
TIME_TO_LIVE_S = Range("MaxTimeToLive", 300, 43_200, 0)
FILTER_TYPE = Range("FilterType", 1, 2, 1)
OFFSET = Range("Offset", 0, 2**31, 0)
LIMIT = Range("Limit", 1, 50, 20)


def check_content(content: str, *, bytes_max: int) -> bytes:
    """The bytes of a message. Raises InvalidParameterValue if it is empty or too long."""
    body = content.encode()
    if not 0 < len(body) <= bytes_max:
        raise InvalidParameterValue(f"`MsgContent` must have from 1 to {bytes_max} bytes.")
    return body


def read_strategy(value: str | None) -> Strategy:
    """How often a push that failed is tried again. Raises InvalidParameterValue."""
    choices = [strategy.value for strategy in Strategy]
    return Strategy(check_choice(value, parameter="NotifyStrategy", choices=choices))


def check_filter_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """The tags of a subscription. Raises InvalidParameterValue."""
    check_count(tags, parameter="FilterTag", most=FILTER_TAGS_MAX)
    if any(not 0 < len(tag) <= FILTER_TAG_LENGTH_MAX for tag in tags):
        raise InvalidParameterValue(
            f"Each `FilterTag` must have from 1 to {FILTER_TAG_LENGTH_MAX} characters."
        )
    return tuple(tags)


def check_binding_keys(keys: Sequence[str]) -> tuple[str, ...]:
    """The binding keys of a subscription. Raises InvalidParameterValue."""
    check_count(keys, parameter="BindingKey", most=BINDING_KEYS_MAX)
    for key in keys:
        check_words(key, parameter="BindingKey")
    return tuple(keys)


def check_message_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """The tags of a message. Raises InvalidParameterValue."""
    check_count(tags, parameter="MsgTag", most=MESSAGE_TAGS_MAX)
    if any(not 0 < len(tag) <= MESSAGE_TAG_LENGTH_MAX for tag in tags):
        raise InvalidParameterValue(
            f"Each `MsgTag` must have from 1 to {MESSAGE_TAG_LENGTH_MAX} characters."
        )
    return tuple(tags)


def check_words(key: str, *, parameter: str) -> str:
    """A routing key or binding key. Raises InvalidParameterValue."""
    check_dots(key, parameter=parameter)
    if not 0 < len(key.encode()) <= BINDING_KEY_BYTES_MAX:
        raise InvalidParameterValue(
            f"Each `{parameter}` must have from 1 to {BINDING_KEY_BYTES_MAX} bytes."
        )
    return key


def check_dots(key: str, *, parameter: str) -> None:
    """Refuse a key of more than sixteen words. Raises InvalidParameterValue."""
    if key.count(".") > DOTS_MAX:
        raise InvalidParameterValue(f"Each `{parameter}` must have at most {DOTS_MAX} dots.")


def check_choice(value: str | None, *, parameter: str, choices: Sequence[str]) -> str:
    """One of `choices`; the first of them if nothing is given. Raises InvalidParameterValue."""
    if value is None:
        return choices[0]
    if value not in choices:
        raise InvalidParameterValue(f"`{parameter}` must be one of {', '.join(choices)}.")
    return value


def check_count(values: Sequence[str], *, parameter: str, most: int) -> None:
    """Refuse more than so many values of one parameter. Raises InvalidParameterValue."""
    if len(values) > most:
        raise InvalidParameterValue(f"There may be at most {most} `{parameter}`.")
