"""What is told: an event, who asked for it, and the bytes of its message. Pure."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from gateway.call import Value
from gateway.clock import wire_time
from gateway.events.names import EventName

EVENT_VERSION = "1.0"
EventVars = tuple[tuple[str, str], ...]
_encoder = msgspec.json.Encoder()


class Event(Value, frozen=True):
    """Something that happened to a job, an environment or a part of one.

    subject_id: the job's id for a job, a task or an instance; the environment's; the node's.
    batch: the members of `Batch` in the message, in their order and wire spelling.
    """

    name: EventName
    subject_id: str
    batch: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Notification:
    """A request to be told.

    topic: the topic's name. events: each event asked for, with the (name, value) pairs that its
    messages give back as EventVars.
    """

    topic: str
    events: Mapping[EventName, EventVars]


def encode_batch(event: Event) -> bytes:
    """The members of `Batch` as JSON, as the ledger keeps them and every message has them."""
    return _encoder.encode(event.batch)


def encode(
    event: Event,
    *,
    time: datetime,
    region: str,
    event_vars: EventVars = (),
    batch: bytes | None = None,
) -> bytes:
    """The final bytes of a message, the same for every subscriber: JSON in standard base64.

    batch: what `encode_batch` makes of the event, if that has been done.

    Why: the guide says that a queue's message "requires Base64 processing" and not where it is
    encoded; encoding once, before anything is stored, gives every subscriber the same bytes.
    """
    return b64encode(
        _encoder.encode(
            {
                "Events": [
                    {
                        "EventVersion": EVENT_VERSION,
                        "EventTime": wire_time(time),
                        "Region": region,
                        "Batch": event.batch if batch is None else msgspec.Raw(batch),
                        "EventName": event.name.value,
                        "EventVars": [{"Name": name, "Value": value} for name, value in event_vars],
                    }
                ]
            }
        )
    )


def routing_key(event: Event) -> str:
    """How a RabbitMQ subscriber picks the event: `batch.<kind>.<EVENT_NAME>.<id>`."""
    return f"batch.{event.name.subject.value}.{event.name.value}.{event.subject_id}"
