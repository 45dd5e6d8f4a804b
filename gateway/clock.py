"""Time: the only module that reads the clock. Times are aware and in UTC everywhere."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

Clock = Callable[[], datetime]


def now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


def wire_time(moment: datetime) -> str:
    """Write a moment as the API does, `2018-06-15T14:43:17Z`."""
    return _written(moment.timestamp() // 1)


@lru_cache(maxsize=4_096)
def _written(second: float) -> str:
    """Write a second, since 1970.

    Why it is kept: many calls come in one second, and the time at which a job was made, say, is
    told with each event of its parts.
    """
    return datetime.fromtimestamp(second, UTC).replace(tzinfo=None).isoformat() + "Z"


def optional_wire_time(moment: datetime | None) -> str | None:
    """Write what may not have come yet; None stays None."""
    return None if moment is None else wire_time(moment)
