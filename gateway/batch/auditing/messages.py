"""Whether each event was told to whoever asked for it, and in its own words. Pure."""

from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from gateway.batch.auditing.fold import Discrepancy, Flaw
from gateway.clock import wire_time
from gateway.events.bus import TopicAddress
from gateway.events.inspection import Counted, Recorded, StoredMessage
from gateway.events.messages import Event, EventVars, Notification, routing_key
from gateway.events.names import EventName


def judge_messages(
    stream: Counted,
    events: Sequence[Recorded],
    *,
    messages: Sequence[StoredMessage],
    asked: Sequence[Notification] | None,
    kept_since: datetime | None,
) -> Iterator[Discrepancy]:
    """Hold the messages of some events of a stream against what was asked for.

    asked: None if nobody knows any more, because the job or environment was deleted. kept_since:
    retention may have taken what is older; None: it took nothing.
    """
    if not messages and not asked:
        return
    of_event: dict[int | None, list[StoredMessage]] = defaultdict(list)
    for message in messages:
        of_event[message.seq].append(message)
    for event in events:
        told = of_event.pop(event.seq, [])
        try:
            name = EventName(event.name)
        except ValueError:
            continue  # the fold complains
        wanted = None if asked is None else _wanted(stream, event, name=name, asked=asked)
        may_be_gone = kept_since is not None and event.happened_at < kept_since
        if wanted is not None and not may_be_gone:
            for message_id in sorted(wanted.keys() - {message.id for message in told}):
                yield Discrepancy(stream.id, Flaw.MESSAGE_MISSING, f"message {message_id} is gone")
        for message in told:
            yield from _judge(message, event, name=name, stream=stream, wanted=wanted)
    for left in of_event.values():
        what = f"message {left[0].id} tells of an event that is not there"
        yield Discrepancy(stream.id, Flaw.MESSAGE_UNASKED, what)


Wanted = Mapping[str, tuple[str, EventVars]]
"""By the message's id: the key of its topic, and its EventVars."""


def _wanted(
    stream: Counted, event: Recorded, *, name: EventName, asked: Sequence[Notification]
) -> Wanted:
    """The messages that an event must have; see `outbox.append`."""
    return {
        f"{stream.id}-{event.seq}-{index}": (
            TopicAddress(stream.owner_uin, stream.region, notification.topic).key,
            notification.events[name],
        )
        for index, notification in enumerate(asked)
        if name in notification.events
    }


def _judge(
    message: StoredMessage,
    event: Recorded,
    *,
    name: EventName,
    stream: Counted,
    wanted: Wanted | None,
) -> Iterator[Discrepancy]:
    if wanted is not None and message.id not in wanted:
        what = f"nobody asked for message {message.id}"
        yield Discrepancy(stream.id, Flaw.MESSAGE_UNASKED, what)
        return
    topic_key, event_vars = wanted[message.id] if wanted is not None else (message.topic_key, None)
    key = routing_key(Event(name, event.subject_id, {}))
    in_place = (message.topic_key, message.routing_key) == (topic_key, key)
    if not in_place or not _tells(message.body, event, region=stream.region, event_vars=event_vars):
        what = f"message {message.id} is not what event {event.seq} says"
        yield Discrepancy(stream.id, Flaw.MESSAGE_ALTERED, what)


def _tells(body: bytes, event: Recorded, *, region: str, event_vars: EventVars | None) -> bool:
    """Whether a message's bytes say what the event says. event_vars: None: any."""
    try:
        told: Any = msgspec.json.decode(b64decode(body, validate=True))
        (members,) = told["Events"]
        found = dict(members)
        del found["EventVersion"]
        if event_vars is None:
            del found["EventVars"]
        batch = msgspec.json.decode(event.batch_json)
    except (ValueError, TypeError, KeyError):
        return False
    expected: dict[str, Any] = {
        "EventTime": wire_time(event.happened_at),
        "Region": region,
        "Batch": batch,
        "EventName": event.name,
    }
    if event_vars is not None:
        expected["EventVars"] = [{"Name": name, "Value": value} for name, value in event_vars]
    return found == expected
