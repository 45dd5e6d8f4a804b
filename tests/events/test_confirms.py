"""How long confirms are waited for while a broker is blocked, and after."""

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from gateway.events.bus import Message, Outcome, Route
from gateway.events.confirms import LOOKS, Batch, publish
from tests.support.events import message

pytestmark = pytest.mark.anyio

ROUTE = Route("exchange", (), queues={})
WITHIN_S = 0.01


class Written:
    """A channel that keeps what was written last; nobody confirms it unless asked."""

    batch: Batch

    async def write(self, _: Route, messages: Sequence[Message]) -> Batch:
        settled = asyncio.get_running_loop().create_future()
        self.batch = Batch(messages, first=1, settled=settled)
        return self.batch

    def confirm(self) -> None:
        self.batch.settle(1, Outcome.CONFIRMED)


async def outcome(answers: Iterator[bool], *, confirmed_after: int | None) -> Outcome:
    """What becomes of one message. answers: whether the broker is blocked, at each look.

    confirmed_after: how many of these there are before the confirm comes; None for never.
    """
    channel, looks = Written(), 0

    async def is_blocked() -> bool:
        nonlocal looks
        looks += 1
        if looks == confirmed_after:
            asyncio.get_running_loop().call_soon(channel.confirm)
        return next(answers)

    published = await publish(
        channel,
        ROUTE,
        [message(1)],
        first_s=WITHIN_S,
        then_s=WITHIN_S,
        is_blocked=is_blocked,
        written=lambda: None,
    )
    assert list(answers) == [], "it was given up too early"
    return published.outcomes[0]


@pytest.mark.parametrize("begins_at", [0, LOOKS - 1])
async def test_a_broker_has_the_whole_time_again_once_it_is_no_longer_blocked(
    begins_at: int,
) -> None:
    answers = [False] * begins_at + [True, True] + [False] * (LOOKS - 1)
    assert await outcome(iter(answers), confirmed_after=len(answers)) is Outcome.CONFIRMED


@pytest.mark.parametrize("blocked", [0, 2])
async def test_a_confirm_that_is_late_for_no_reason_is_waited_for_no_longer(blocked: int) -> None:
    answers = [True] * blocked + [False] * LOOKS
    assert await outcome(iter(answers), confirmed_after=None) is Outcome.LOST
