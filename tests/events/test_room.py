"""Room: who asks first has it first, and nothing of it is ever mislaid."""

import anyio
import pytest
from anyio.lowlevel import checkpoint

from gateway.events.room import Room

pytestmark = pytest.mark.anyio


async def take_all(room: Room, bytes_: int) -> None:
    with anyio.fail_after(5):
        async with room.held(bytes_):
            await checkpoint()


async def test_who_asks_for_much_is_not_passed_over_for_those_who_ask_for_little() -> None:
    room, order = Room(10), list[str]()

    async def hold(name: str, bytes_: int) -> None:
        async with room.held(bytes_):
            order.append(name)

    async with anyio.create_task_group() as tasks, room.held(6):
        tasks.start_soon(hold, "much", 10)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(hold, "little", 1)
        await anyio.wait_all_tasks_blocked()
        assert order == []
    assert order == ["much", "little"]


async def test_what_is_kept_is_all_that_others_cannot_have() -> None:
    room = Room(10)
    async with room.held(10) as held:
        held.keep(4)
        held.keep(8)
        await take_all(room, 6)
        with anyio.move_on_after(0.01) as scope:
            await take_all(room, 7)
        assert scope.cancelled_caught
    await take_all(room, 10)


async def test_who_stops_waiting_takes_nothing_and_lets_those_behind_go_on() -> None:
    room, went_on = Room(10), anyio.Event()

    async def hold_little() -> None:
        async with room.held(2):
            went_on.set()

    async with anyio.create_task_group() as tasks, room.held(6):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(take_all, room, 10)
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(hold_little)
                await anyio.wait_all_tasks_blocked()
                assert not went_on.is_set()
                scope.cancel()
        with anyio.fail_after(5):
            await went_on.wait()
    await take_all(room, 10)
