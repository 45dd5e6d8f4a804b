"""Where the messages of a subscription go: protocols, endpoints, forms of a message. Pure.

Why `https://` though classic CMQ refuses it: a push carries the whole message, and without TLS
whoever is on the way reads and changes it. The protocol is `http` for both.
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

from gateway.cmq.naming import check_name
from gateway.cmq.push.addresses import Reach
from gateway.cmq.push.webhooks import ContentFormat
from gateway.errors import InvalidParameterValue

URL_LENGTH_MAX = 1_024  # our limit
HOST_LENGTH_MAX = 253  # without a dot at the end
SCHEMES = ("http://", "https://")
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class NeedsSimplified(InvalidParameterValue):
    """A queue holds the message itself and nothing around it."""


class Protocol(Enum):
    """How a subscriber is reached. `amqp` is our own: a queue on the RabbitMQ broker."""

    QUEUE = "queue"
    HTTP = "http"
    AMQP = "amqp"


def read_protocol(text: str) -> Protocol:
    """The protocol of a subscription. Raises InvalidParameterValue."""
    try:
        return Protocol(text)
    except ValueError:
        raise InvalidParameterValue(
            f"`Protocol` must be http, queue or amqp; `{text}` is not."
        ) from None


def check_endpoint(protocol: Protocol, endpoint: str, *, reach: Reach) -> str:
    """A place that a protocol can reach. Raises InvalidParameterValue."""
    for check in CHECKS[protocol]:
        check(endpoint)
    if protocol is Protocol.HTTP:
        check_reach(endpoint, reach=reach)
    return endpoint


def check_blanks(url: str) -> None:
    """Refuse a URL with blanks, wherever they are. Raises InvalidParameterValue."""
    if _BLANK.search(url):
        raise InvalidParameterValue("The URL in `Endpoint` cannot contain any blank characters.")


def check_scheme(url: str) -> None:
    """Refuse what is no URL of the web. Raises InvalidParameterValue."""
    if not url.lower().startswith(SCHEMES):
        raise InvalidParameterValue("`Endpoint` must begin with `http://` or `https://`.")


def check_url(url: str) -> None:
    """Refuse a URL that cannot be pushed to, or that two readers could read in two ways.

    Why none with a user's name in it: it would be shown to whoever may look at the subscription;
    a push is signed instead. Raises InvalidParameterValue.
    """
    if len(url) > URL_LENGTH_MAX or not url.isascii() or "\\" in url:
        raise InvalidParameterValue(
            f"The URL in `Endpoint` must have at most {URL_LENGTH_MAX} characters, all ASCII,"
            " without `\\`."
        )
    try:
        parts = urlsplit(url)
        has_place = parts.port != 0 and _is_host(
            parts.hostname or "", is_bracketed="[" in parts.netloc
        )
    except ValueError:
        has_place = False
    if not has_place or "@" in parts.netloc:
        raise InvalidParameterValue(
            "The URL in `Endpoint` must name a host, with a port or without, and no user."
        )


def check_reach(url: str, *, reach: Reach) -> None:
    """Refuse a good URL with an address that is not pushed to. Raises InvalidParameterValue."""
    host = urlsplit(url).hostname or ""
    if not reach.may_allow(host):
        raise InvalidParameterValue(
            f"`Endpoint` names the address {host}, which is not public and not allowed here."
        )


def _is_host(host: str, *, is_bracketed: bool) -> bool:
    """Whether a name server can be asked for a name, or it is an address, in its full form.

    Why only the full form: `127.1` is an address to some readers and a name to others. Raises
    ValueError for an address that is none.
    """
    if is_bracketed:
        return IPv6Address(host).scope_id is None
    labels = host.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return str(IPv4Address(host)) == host
    return len(".".join(labels)) <= HOST_LENGTH_MAX and all(map(_LABEL.fullmatch, labels))


def check_queue_name(name: str) -> None:
    """Refuse what no queue can be called. Raises InvalidParameterValue."""
    check_name(name, parameter="Endpoint")


CHECKS: Mapping[Protocol, tuple[Callable[[str], None], ...]] = {
    Protocol.HTTP: (check_blanks, check_scheme, check_url),
    Protocol.QUEUE: (check_queue_name,),
    Protocol.AMQP: (check_queue_name,),
}


def check_content_format(protocol: Protocol, content_format: ContentFormat | None) -> ContentFormat:
    """How a message is written for a subscriber: JSON if nothing is said and there is a choice.

    Raises NeedsSimplified.
    """
    if protocol is Protocol.HTTP:
        return content_format or ContentFormat.JSON
    if content_format is ContentFormat.JSON:
        raise NeedsSimplified(
            f"`NotifyContentFormat` of protocol `{protocol.value}` must be SIMPLIFIED."
        )
    return ContentFormat.SIMPLIFIED


def read_content_format(text: str) -> ContentFormat:
    """One of the two forms of a message. Raises InvalidParameterValue."""
    try:
        return ContentFormat(text)
    except ValueError:
        raise InvalidParameterValue("`NotifyContentFormat` must be JSON or SIMPLIFIED.") from None
