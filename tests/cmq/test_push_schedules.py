"""When a push is repeated, and when it is given up: both strategies, as tables."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cmq.push.schedules import (
    LONGEST_GAP,
    WELL,
    Standing,
    Strategy,
    Verdict,
    gap_after,
    is_due,
    judge_failure,
)
from tests.support.events import NOW

HOUR = timedelta(hours=1)
DECAY, BACKOFF = Strategy.EXPONENTIAL_DECAY_RETRY, Strategy.BACKOFF_RETRY


def s(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def judge(
    strategy: Strategy,
    failures: int,
    *,
    standing: Standing = WELL,
    expires_at: datetime | None = NOW + timedelta(days=1),
    pause_after: timedelta = HOUR,
) -> Verdict:
    return judge_failure(
        strategy,
        failures,
        standing=standing,
        pause_after=pause_after,
        expires_at=expires_at,
        fraction=lambda: 0.5,
        now=NOW,
    )


def test_decay_doubles_until_512_seconds_176_times() -> None:
    gaps = [gap_after(DECAY, failures, fraction=float) for failures in range(1, 178)]
    doubling = [s(2**power) for power in range(10)]
    assert gaps == [*doubling, *[s(512)] * 166, None]
    assert sum((gap for gap in gaps if gap), timedelta()) == s(86_015)


@pytest.mark.parametrize(
    ("failures", "fraction", "gap"),
    [
        (1, 0.0, s(10)),
        (2, 0.5, s(15)),
        (3, 0.9, s(19)),
        (4, 0.0, None),
        (100, 0.0, None),
    ],
)
def test_backoff_is_three_retries_ten_to_twenty_seconds_apart(
    failures: int, fraction: float, gap: timedelta | None
) -> None:
    assert gap_after(BACKOFF, failures, fraction=lambda: fraction) == gap


@given(failures=st.integers(1, 500), fraction=st.floats(0, 1, exclude_max=True))
def test_no_gap_is_longer_than_the_longest(failures: int, fraction: float) -> None:
    for strategy in Strategy:
        gap = gap_after(strategy, failures, fraction=lambda: fraction)
        assert gap is None or timedelta() < gap <= LONGEST_GAP


def test_the_first_failure_begins_a_bad_time() -> None:
    assert judge(DECAY, 1) == Verdict(Standing(NOW, None), NOW + s(1))


def test_the_last_failure_gives_the_message_up() -> None:
    assert judge(BACKOFF, 4) == Verdict(Standing(NOW, None), None)
    assert judge(DECAY, 177).next_at is None


def test_a_bad_time_that_lasts_long_enough_is_a_pause() -> None:
    bad = Standing(NOW - HOUR, None)
    assert judge(BACKOFF, 4, standing=bad) == Verdict(Standing(NOW - HOUR, NOW), NOW + s(512))
    almost = Standing(NOW - HOUR + s(1), None)
    assert judge(BACKOFF, 1, standing=almost).standing.paused_at is None


def test_a_pause_goes_on_until_something_succeeds() -> None:
    paused = Standing(NOW - 2 * HOUR, NOW - HOUR)
    for failures in (1, 4, 177, 5_000):
        assert judge(BACKOFF, failures, standing=paused) == Verdict(paused, NOW + s(512))


def test_probes_come_no_later_than_a_pause_would() -> None:
    paused = Standing(NOW - HOUR, NOW - HOUR)
    assert judge(DECAY, 9, standing=paused, pause_after=s(30)).next_at == NOW + s(30)


def test_a_retry_that_would_come_too_late_comes_at_the_end_of_life() -> None:
    assert judge(DECAY, 10, expires_at=NOW + s(100)).next_at == NOW + s(100)
    assert judge(DECAY, 10, expires_at=None).next_at == NOW + s(512)


@pytest.mark.parametrize(
    ("next_at", "due"),
    [
        (None, True),
        (NOW - s(1), True),
        (NOW, True),
        (NOW + s(1), False),
        (NOW + LONGEST_GAP, False),
        (NOW + LONGEST_GAP + s(1), True),
    ],
)
def test_what_is_further_off_than_any_schedule_is_due(next_at: datetime | None, due: bool) -> None:
    assert is_due(next_at, now=NOW) is due
