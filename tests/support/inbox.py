"""What is in the messages that subscribers receive."""

import json
from base64 import b64decode
from collections.abc import Sequence
from typing import Any


def event_in(body: bytes | str) -> dict[str, Any]:
    """The one event of a message: base64 of JSON."""
    (event,) = json.loads(b64decode(body, validate=True))["Events"]
    return dict(event)


def names_in(bodies: Sequence[bytes | str]) -> list[str]:
    """The names of the events, in the order of their messages."""
    return [event_in(body)["EventName"] for body in bodies]
