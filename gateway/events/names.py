"""The events, and what each one is about: the nineteen of Batch, and those of subscriptions.

Source: Batch guide, "Event Notice & Callback". Those of subscriptions are our own.
"""

from collections.abc import Mapping
from enum import Enum


class Subject(Enum):
    """What an event is about; the value is the second word of its routing key."""

    JOB = "job"
    TASK = "task"
    INSTANCE = "instance"
    ENV = "env"
    NODE = "node"
    SUBSCRIPTION = "subscription"


class EventName(Enum):
    """The events by their public names."""

    # Each member is one object; Enum's own goes through its name, in Python.
    __hash__ = object.__hash__

    JOB_RUNNING = "JOB_RUNNING"
    JOB_SUCCEED = "JOB_SUCCEED"
    JOB_FAILED = "JOB_FAILED"
    JOB_FAILED_INTERRUPTED = "JOB_FAILED_INTERRUPTED"
    TASK_RUNNING = "TASK_RUNNING"
    TASK_SUCCEED = "TASK_SUCCEED"
    TASK_FAILED = "TASK_FAILED"
    TASK_FAILED_INTERRUPTED = "TASK_FAILED_INTERRUPTED"
    TASK_INSTANCE_RUNNING = "TASK_INSTANCE_RUNNING"
    TASK_INSTANCE_SUCCEED = "TASK_INSTANCE_SUCCEED"
    TASK_INSTANCE_FAILED = "TASK_INSTANCE_FAILED"
    TASK_INSTANCE_FAILED_INTERRUPTED = "TASK_INSTANCE_FAILED_INTERRUPTED"
    COMPUTE_ENV_CREATED = "COMPUTE_ENV_CREATED"
    COMPUTE_ENV_DELETED = "COMPUTE_ENV_DELETED"
    COMPUTE_NODE_CREATED = "COMPUTE_NODE_CREATED"
    COMPUTE_NODE_CREATION_FAILED = "COMPUTE_NODE_CREATION_FAILED"
    COMPUTE_NODE_RUNNING = "COMPUTE_NODE_RUNNING"
    COMPUTE_NODE_ABNORMAL = "COMPUTE_NODE_ABNORMAL"
    COMPUTE_NODE_DELETING = "COMPUTE_NODE_DELETING"
    SUBSCRIPTION_PAUSED = "SUBSCRIPTION_PAUSED"
    SUBSCRIPTION_RESUMED = "SUBSCRIPTION_RESUMED"

    @property
    def subject(self) -> Subject:
        """What the event is about."""
        return SUBJECTS[self]


_PREFIXES: Mapping[str, Subject] = {
    "JOB_": Subject.JOB,
    "TASK_INSTANCE_": Subject.INSTANCE,
    "TASK_": Subject.TASK,
    "COMPUTE_ENV_": Subject.ENV,
    "COMPUTE_NODE_": Subject.NODE,
    "SUBSCRIPTION_": Subject.SUBSCRIPTION,
}

SUBJECTS: Mapping[EventName, Subject] = {
    name: next(subject for prefix, subject in _PREFIXES.items() if name.value.startswith(prefix))
    for name in EventName
}

BATCH_EVENTS: tuple[EventName, ...] = tuple(
    name for name in EventName if name.subject is not Subject.SUBSCRIPTION
)
"""The nineteen that a notification may ask for."""

ALIASES: Mapping[str, EventName] = {
    "".join(word.capitalize() for word in name.value.split("_")): name for name in BATCH_EVENTS
}
"""The guide's snippet writes `JobFailed` where its table writes `JOB_FAILED`: both are read."""


def parse_event_name(text: str) -> EventName | None:
    """The event of a public name, or of its CamelCase alias; None if Batch has no such event."""
    name = EventName.__members__.get(text)
    return name if name in BATCH_EVENTS else ALIASES.get(text)
