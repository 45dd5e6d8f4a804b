"""Signals: how many names there ever were is no matter, and no wake-up is missed for it."""

import anyio
import pytest

from gateway.store import Signals

pytestmark = pytest.mark.anyio


def test_the_names_that_are_kept_are_bounded() -> None:
    signals = Signals(names_max=100)
    for number in range(10_000):
        signals.wake([f"outbox/{number}"])
    assert len(signals._counts) <= 100  # noqa: SLF001  # nothing else tells of memory


async def test_a_wake_up_is_not_missed_though_its_name_was_forgotten_since() -> None:
    signals = Signals(names_max=2)
    signals.wake(["mine"])
    seen, never_woken = signals.count("mine"), signals.count("new")
    signals.wake(["mine", "new"])
    signals.wake([f"{number}" for number in range(10)])
    with anyio.fail_after(10):
        await signals.wait("mine", seen=seen, at_most_s=60)
        await signals.wait("new", seen=never_woken, at_most_s=60)


async def test_who_waits_is_woken_though_the_name_is_forgotten_meanwhile() -> None:
    signals = Signals(names_max=2)
    woken = anyio.Event()

    async def wait() -> None:
        await signals.wait("mine", seen=signals.count("mine"), at_most_s=60)
        woken.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            signals.wake([f"{number}" for number in range(10)])
            signals.wake(["mine"])
            await woken.wait()


async def test_a_name_that_was_not_woken_is_waited_for() -> None:
    signals = Signals(names_max=2)
    for number in range(10):
        signals.wake([f"{number}"])
    seen = signals.count("mine")
    signals.wake(["other"])
    with anyio.move_on_after(0.05) as scope:
        await signals.wait("mine", seen=seen, at_most_s=60)
    assert scope.cancelled_caught
