"""Places and threads for what is done a few at a time, of which one account never has all."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel

Waits = Callable[[bool], None]
"""Takes True when a place has to be waited for, and then False when that is over."""


def quietly(is_so: bool) -> None:
    """Tell nobody."""


def own_thread() -> anyio.CapacityLimiter:
    """A thread besides those that all share: for what takes long, and has a place already."""
    return anyio.CapacityLimiter(1)


class Shares:
    """Places that accounts wait for in turn.

    Why a share of each account: whoever has many slow packages waits for them alone. One that
    waits for its own share stands in nobody else's way.
    """

    def __init__(self, places: int, *, of_one: int) -> None:
        """of_one: how many of the places one account may have."""
        self._places = anyio.Semaphore(places)
        self._of_one = of_one
        self._own: dict[str, anyio.Semaphore] = {}  # as few as there are accounts

    @asynccontextmanager
    async def place(self, owner_uin: str, *, waits: Waits = quietly) -> AsyncIterator[None]:
        """Have a place as long as the block runs."""
        await self.take(owner_uin, waits=waits)
        try:
            yield
        finally:
            self.give_back(owner_uin)

    async def take(self, owner_uin: str, *, waits: Waits = quietly) -> None:
        """Wait for a place, and have it until `give_back`, which any task may call."""
        own = self._own.setdefault(owner_uin, anyio.Semaphore(self._of_one))
        await _acquire(own, waits)
        try:
            await _acquire(self._places, waits)
        except BaseException:
            own.release()
            raise

    def give_back(self, owner_uin: str) -> None:
        """Leave a place to whoever waits for one."""
        self._places.release()
        self._own[owner_uin].release()


async def _acquire(semaphore: anyio.Semaphore, waits: Waits) -> None:
    await anyio.lowlevel.checkpoint_if_cancelled()
    try:
        semaphore.acquire_nowait()
    except anyio.WouldBlock:
        waits(True)
        try:
            await semaphore.acquire()
        finally:
            waits(False)
