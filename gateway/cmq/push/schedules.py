"""When a push that failed is tried again, and when it is given up. Pure.

Source: CMQ 2017, "Subscription management": NotifyStrategy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

BACKOFF_RETRIES, BACKOFF_S_MIN, BACKOFF_S_MAX = 3, 10.0, 20.0
DECAY_RETRIES, DECAY_S_MAX = 176, 512
LONGEST_GAP = timedelta(seconds=DECAY_S_MAX)

Fraction = Callable[[], float]
"""Draws a number from 0 to just below 1."""


class Strategy(Enum):
    """How a subscription wants failed pushes to be repeated: the values of NotifyStrategy."""

    EXPONENTIAL_DECAY_RETRY = "EXPONENTIAL_DECAY_RETRY"
    BACKOFF_RETRY = "BACKOFF_RETRY"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a subscriber does. failing_since, paused_at: None while all is well."""

    failing_since: datetime | None = None
    paused_at: datetime | None = None


WELL = Standing()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a failed push leads to. next_at: when it is repeated; None: the message is given up."""

    standing: Standing
    next_at: datetime | None


def gap_after(strategy: Strategy, failures: int, *, fraction: Fraction) -> timedelta | None:
    """How long to wait after a message has failed `failures` times; None: no retry is left.

    Why three retries after the first attempt for BACKOFF_RETRY: one page says so, another that a
    message is discarded after three failures in all; of the two, this one loses less.
    176 decaying retries are 86,015 s of waiting: with the attempts themselves, the one day that the
    documents speak of.
    """
    if strategy is Strategy.BACKOFF_RETRY:
        if failures > BACKOFF_RETRIES:
            return None
        return timedelta(seconds=BACKOFF_S_MIN + (BACKOFF_S_MAX - BACKOFF_S_MIN) * fraction())
    if failures > DECAY_RETRIES:
        return None
    return timedelta(seconds=min(DECAY_S_MAX, 2 ** min(failures - 1, 9)))


def judge_failure(
    strategy: Strategy,
    failures: int,
    *,
    standing: Standing,
    pause_after: timedelta,
    expires_at: datetime | None,
    fraction: Fraction,
    now: datetime,
) -> Verdict:
    """Say what follows from a failure of a subscriber's oldest message, its `failures`th.

    A subscriber without success for `pause_after` is paused: from then on only its oldest message
    is tried, once in a while, and no count of failures makes it be given up. The end of its life
    does, and a retry that would come after it comes when it ends.
    """
    since = standing.failing_since or now
    paused_at = standing.paused_at or (now if now - since >= pause_after else None)
    gap: timedelta | None = min(LONGEST_GAP, pause_after)
    if paused_at is None:
        gap = gap_after(strategy, failures, fraction=fraction)
    next_at = None if gap is None else min(now + gap, expires_at or now + gap)
    return Verdict(Standing(since, paused_at), next_at)


def is_due(next_at: datetime | None, *, now: datetime) -> bool:
    """Whether a retry's time has come; None: it was due from the first.

    No schedule waits longer than the longest gap: what is due later was said by a clock that has
    since stepped back.
    """
    return next_at is None or not now < next_at <= now + LONGEST_GAP
