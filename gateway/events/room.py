"""Room: how many bytes may be in memory at a time, shared by whoever asks for some."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio


class Room:
    """So many bytes. Who asks first has them first."""

    def __init__(self, bytes_: int) -> None:
        self._free = bytes_
        self._waiting: deque[tuple[int, anyio.Event]] = deque()

    @asynccontextmanager
    async def held(self, bytes_: int) -> AsyncIterator["Held"]:
        """Hold so many bytes, once they are free, or fewer when it is known how many it takes."""
        await self._take(bytes_)
        held = Held(self, bytes_)
        try:
            yield held
        finally:
            held.keep(0)

    def give_back(self, bytes_: int) -> None:
        """Have bytes free again; whoever waits for them goes on."""
        self._free += bytes_
        while self._waiting and self._waiting[0][0] <= self._free:
            asked, granted = self._waiting.popleft()
            self._free -= asked
            granted.set()

    async def _take(self, bytes_: int) -> None:
        if not self._waiting and bytes_ <= self._free:
            self._free -= bytes_
            return
        place = bytes_, anyio.Event()
        self._waiting.append(place)
        try:
            await place[1].wait()
        except BaseException:  # cancelled
            if place[1].is_set():
                self.give_back(bytes_)
            else:
                self._waiting.remove(place)
                self.give_back(0)  # those behind may ask for less
            raise


class Held:
    """Bytes of a room that somebody holds."""

    def __init__(self, room: Room, bytes_: int) -> None:
        self._room = room
        self._bytes = bytes_

    def keep(self, bytes_: int) -> None:
        """Give back all but so many; nothing if they are no fewer."""
        surplus = max(0, self._bytes - bytes_)
        self._bytes -= surplus
        self._room.give_back(surplus)
