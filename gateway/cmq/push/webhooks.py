"""What an HTTP subscriber is sent: headers, body, signatures. Pure.

Source: CMQ 2017, "Message delivery"; Standard Webhooks 1.0 for the headers `webhook-*`, which CMQ
has not: without them a subscriber cannot tell who is speaking.
"""

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from urllib.parse import quote

import msgspec

USER_AGENT = "Qcloud Notification Service Agent"
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in "%,")


class ContentFormat(Enum):
    """What the body is: an object with the message in it, or the bare message."""

    JSON = "JSON"
    SIMPLIFIED = "SIMPLIFIED"


@dataclass(frozen=True, slots=True)
class Letter:
    """One message as it is pushed. replay: 0, or the how-manieth time it is told again."""

    id: str
    body: bytes
    tags: tuple[str, ...]
    published_at: datetime
    replay: int = 0


@dataclass(frozen=True, slots=True)
class Addressee:
    """Whom it is pushed to, as the body names them."""

    owner_uin: str
    topic_name: str
    subscription_name: str
    content_format: ContentFormat


class Envelope(msgspec.Struct):
    """The body of the JSON form. publishTime: seconds since 1970.

    Why TopicOwner is a number: CMQ's table calls it a string; its sample, and TDMQ, write a number.
    Why msgId is not one: CMQ's are numbers, ours say which event a message tells of.
    """

    TopicOwner: int
    topicName: str  # noqa: N815  # the spelling of the wire, which is CMQ's own
    subscriptionName: str  # noqa: N815
    msgId: str  # noqa: N815
    msgBody: str  # noqa: N815
    publishTime: int  # noqa: N815


def body_of(letter: Letter, addressee: Addressee) -> bytes:
    """The bytes of a request: the same at every attempt."""
    if addressee.content_format is ContentFormat.SIMPLIFIED:
        return letter.body
    return msgspec.json.encode(
        Envelope(
            TopicOwner=int(addressee.owner_uin),
            topicName=addressee.topic_name,
            subscriptionName=addressee.subscription_name,
            msgId=letter.id,
            msgBody=letter.body.decode(errors="replace"),
            publishTime=int(letter.published_at.timestamp()),
        )
    )


def headers_of(
    letter: Letter, body: bytes, *, request_id: str, keys: Sequence[bytes], now: datetime
) -> Mapping[str, str]:
    """The headers of one attempt. keys: those it is signed with, the newest first."""
    headers = {
        "Content-Type": "text/plain",
        "User-Agent": USER_AGENT,
        "x-cmq-request-id": request_id,
        "x-cmq-message-id": letter.id,
    }
    if letter.tags:
        headers["x-cmq-message-tag"] = ", ".join(map(_tag_of, letter.tags))
    if letter.replay:
        headers["x-cmq-replay"] = str(letter.replay)
    seconds = int(now.timestamp())
    signatures = (sign(key, letter.id, seconds=seconds, body=body) for key in keys)
    return headers | {
        "webhook-id": letter.id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": " ".join(signatures),
    }


def _tag_of(tag: str) -> str:
    """A tag as the header has it: its reader splits at commas, strips, and decodes each `%`.

    Why: a tag may hold whatever its publisher likes, a line break, or what stands between two tags,
    and `a, b` must not read like two. A tag of other characters is written as the vendor writes it.
    """
    inner = tag.strip(" ")
    before, after = tag.partition(inner)[::2] if inner else (tag, "")
    return f"{quote(before, safe='')}{quote(inner, safe=_PLAIN)}{quote(after, safe='')}"


def sign(key: bytes, message_id: str, *, seconds: int, body: bytes) -> str:
    """One signature: its version, a comma, and HMAC-SHA256 over `id.timestamp.body` in base64."""
    signed = f"{message_id}.{seconds}.".encode() + body
    return "v1," + b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
