"""What a caller asked to be told: Notifications, checked and turned into plain values. Pure."""

import re
from collections.abc import Sequence

import msgspec

from gateway.batch import datatypes
from gateway.errors import InvalidParameter, InvalidParameterValue
from gateway.events.messages import Notification
from gateway.events.names import EventName, parse_event_name

TOPIC_NAME_MAX = 64
TARGETS = frozenset({"CMQ", "TDMQ_CMQ"})
_TOPIC_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def read_notifications(
    notifications: Sequence[datatypes.Notification] | None, *, target: str | None
) -> tuple[Notification, ...]:
    """Check the Notifications of a job or an environment.

    Raises InvalidParameter with detail NotificationTopicName, NotificationTopicNameTooLong or
    NotificationEventNameDuplicate; InvalidParameterValue for an event that does not exist.
    """
    if target is not None and target not in TARGETS:
        raise InvalidParameterValue(f"NotificationTarget `{target}` is not CMQ or TDMQ_CMQ.")
    return tuple(_read_one(notification) for notification in notifications or ())


def _read_one(notification: datatypes.Notification) -> Notification:
    _check_topic_name(notification.topic_name)
    events: dict[EventName, tuple[tuple[str, str], ...]] = {}
    for config in notification.event_configs:
        name = parse_event_name(config.event_name)
        if name is None:
            raise InvalidParameterValue(f"There is no event `{config.event_name}`.")
        if name in events:
            raise InvalidParameter(
                f"The event `{config.event_name}` is named twice in one notification.",
                detail="NotificationEventNameDuplicate",
            )
        events[name] = tuple((var.name, var.value) for var in config.event_vars or ())
    return Notification(topic=notification.topic_name, events=events)


def _check_topic_name(name: str) -> None:
    if len(name) > TOPIC_NAME_MAX:
        raise InvalidParameter(
            f"The topic name `{name}` is longer than {TOPIC_NAME_MAX} characters.",
            detail="NotificationTopicNameTooLong",
        )
    if not _TOPIC_NAME.fullmatch(name):
        raise unknown_topic(name)


def unknown_topic(name: str) -> InvalidParameter:
    """The error for a topic that cannot exist, or does not."""
    return InvalidParameter(
        f"There is no topic `{name}`; TopicName is the topic's name, not its id.",
        detail="NotificationTopicName",
    )


def dump_notifications(notifications: Sequence[Notification]) -> bytes:
    """Write notifications for their column in the job's or environment's row."""
    return msgspec.json.encode(
        [
            [
                notification.topic,
                [[name.value, vars_] for name, vars_ in notification.events.items()],
            ]
            for notification in notifications
        ]
    )


_Stored = list[tuple[str, list[tuple[str, tuple[tuple[str, str], ...]]]]]


def load_notifications(column: bytes) -> tuple[Notification, ...]:
    """Read what `dump_notifications` wrote."""
    return tuple(
        Notification(topic=topic, events={EventName(name): vars_ for name, vars_ in events})
        for topic, events in msgspec.json.decode(column, type=_Stored)
    )
