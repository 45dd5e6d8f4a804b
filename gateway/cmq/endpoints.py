"""Where the messages of a subscription go: protocols, endpoints, forms of a message. Pure.

Why `https://` though classic CMQ refuses it: a push carries the whole message, and without TLS
whoever is on the way reads and changes it. The protocol is `http` for both.
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum
from urllib.parse import urlsplit

from gateway.cmq.naming import check_name
from gateway.cmq.refusals import NeedsSimplified
from gateway.errors import InvalidParameterValue

URL_LENGTH_MAX = 1_024  # our limit
SCHEMES = ("http://", "https://")
JSON, SIMPLIFIED = "JSON", "SIMPLIFIED"
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")


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


def check_endpoint(protocol: Protocol, endpoint: str) -> str:
    """A place that a protocol can reach. Raises InvalidParameterValue."""
    for check in CHECKS[protocol]:
        check(endpoint)
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
        has_place = bool(parts.hostname) and parts.port != 0
    except ValueError:
        has_place = False
    if not has_place or "@" in parts.netloc:
        raise InvalidParameterValue(
            "The URL in `Endpoint` must name a host, with a port or without, and no user."
        )


def check_queue_name(name: str) -> None:
    """Refuse what no queue can be called. Raises InvalidParameterValue."""
    check_name(name, parameter="Endpoint")


CHECKS: Mapping[Protocol, tuple[Callable[[str], None], ...]] = {
    Protocol.HTTP: (check_blanks, check_scheme, check_url),
    Protocol.QUEUE: (check_queue_name,),
    Protocol.AMQP: (check_queue_name,),
}


def check_content_format(protocol: Protocol, content_format: str | None) -> str:
    """How a message is written for a subscriber: JSON if nothing is said and there is a choice.

    Raises NeedsSimplified, or InvalidParameterValue for what is no form.
    """
    if protocol is Protocol.HTTP:
        return check_form(content_format or JSON)
    if check_form(content_format or SIMPLIFIED) != SIMPLIFIED:
        raise NeedsSimplified(
            f"`NotifyContentFormat` of protocol `{protocol.value}` must be {SIMPLIFIED}."
        )
    return SIMPLIFIED


def check_form(content_format: str) -> str:
    """One of the two forms of a message. Raises InvalidParameterValue."""
    if content_format not in (JSON, SIMPLIFIED):
        raise InvalidParameterValue(f"`NotifyContentFormat` must be {JSON} or {SIMPLIFIED}.")
    return content_format
