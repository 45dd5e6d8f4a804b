"""How long to wait before a node that could not be made is tried again. Pure.

Source: ResourceMaxRetryCount: 600 s before tries 1 to 3, 900 s before 4 to 10, 1,800 s before 11 to
50, 3,600 s before 51 to 100.
"""

from bisect import bisect_left
from datetime import timedelta

_LAST = (3, 10, 50)
_WAITS_S = (600, 900, 1_800, 3_600)


def wait_before(try_number: int) -> timedelta:
    """The wait before the try of this number, from 1; the first attempt of all has none."""
    return timedelta(seconds=_WAITS_S[bisect_left(_LAST, try_number)])
