"""What the lists of topics and queues are asked with."""

from collections.abc import Sequence

from gateway.cmq import datatypes as wire
from gateway.cmq import limits
from gateway.errors import InvalidFilter, UnsupportedOperation


def read_page(offset: int | None, limit: int | None) -> tuple[int, int]:
    """Offset and limit of a list: 0 and 20 unless given. Raises InvalidParameterValue."""
    return limits.OFFSET.read(offset), limits.LIMIT.read(limit)


def asks_for_tags(filters: Sequence[wire.Filter] | None) -> bool:
    """Whether a list is narrowed by tags; nothing here has tags. Raises InvalidFilter."""
    for each in filters or ():
        if not each.name.startswith("tag:"):
            raise InvalidFilter(f"The filter `{each.name}` is not of the form `tag:<key>`.")
    return bool(filters)


def refuse_tags(tags: Sequence[wire.Tag] | None) -> None:
    """Refuse tags: dropped in silence, they would be missed where a policy asks for them."""
    if tags:
        raise UnsupportedOperation("Tags of topics and queues are not served yet.")
