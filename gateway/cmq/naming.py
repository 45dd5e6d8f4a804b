"""Names of topics, queues and subscriptions. No two differ in case alone. Pure."""

import re

from gateway.errors import InvalidParameterValue
from gateway.events.bus import TopicAddress

NAME_MAX = 64
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def check_name(name: str, *, parameter: str) -> str:
    """A name that begins with a letter and goes on with letters, digits, `-` and `_`; at most 64.

    Raises InvalidParameterValue, naming the parameter.
    """
    if len(name) > NAME_MAX or not _NAME.fullmatch(name):
        raise InvalidParameterValue(
            f"`{parameter}` must begin with a letter, have only letters, digits, `-` and `_`, "
            f"and be at most {NAME_MAX} characters long; `{name[: NAME_MAX + 1]}` is not."
        )
    return name


def key_of(owner_uin: str, *, region: str, name: str) -> str:
    """One word for a thing of an account in a region, the same for every spelling of its name.

    It keeps a name from being given twice. Whoever looks a thing up by it compares the spelling,
    too: case does not matter in CMQ's names, but it does in a policy's, and a deny on `orders`
    must not be evaded by asking for `Orders`.
    """
    return TopicAddress(owner_uin, region, name).key
