"""What all answers of the classic API share. Times are in seconds since 1970."""

from datetime import datetime

import msgspec


class Classic(msgspec.Struct, rename="camel", kw_only=True):
    """An answer of the classic API. Snake case here is lowerCamelCase on the wire."""


class Nothing(Classic):
    """No members of its own."""


def seconds(moment: datetime) -> int:
    """A time as the classic API writes it: whole seconds since 1970."""
    return int(moment.timestamp())
