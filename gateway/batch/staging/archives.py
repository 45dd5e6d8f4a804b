"""The archives of packages, each fetched once for all instances of a task that want it at a time.

Why not kept for those that come later: the instances of a task begin together, and nobody then has
to say when a package is too old, or remove it after a crash.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio

from gateway.batch.staging.places import PACKAGE, Order
from gateway.batch.staging.shares import Shares, Waits, quietly

FETCHES_MAX: Final = 32
FETCHES_OF_ONE: Final = 8
Fetch = Callable[[Order, Path, Waits], Awaitable[None]]


@dataclass(slots=True)
class Shared:
    """An archive that some attempts want. users: one for each of these attempts. is_waiting: for a
    place. file: open once it is there; -1 before. failure: why it cannot be had, which all of them
    are told.
    """

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    users: list[Waits] = field(default_factory=list)
    is_waiting: bool = False
    file: int = -1
    failure: OSError | None = None

    def wait(self, is_so: bool) -> None:
        """Tell all who want it whether it has to wait for a place."""
        self.is_waiting = is_so
        for waits in self.users:
            waits(is_so)


class Archives:
    """Fetches archives, and holds each for as long as one attempt unpacks it.

    An archive has a place from before it is fetched until it is gone. So there are never more than
    FETCHES_MAX on the disk, and never more than FETCHES_OF_ONE of one account.
    """

    def __init__(self, fetch: Fetch) -> None:
        """fetch: brings the archive of an order to a path. It raises OSError."""
        self._fetch = fetch
        self._shares = Shares(FETCHES_MAX, of_one=FETCHES_OF_ONE)
        self._shared: dict[Path, Shared] = {}

    @asynccontextmanager
    async def archive(self, order: Order, *, waits: Waits = quietly) -> AsyncIterator[Path]:
        """The archive of an order, to be read as long as the block runs. Raises OSError."""
        of_task = order.attempt.parent
        shared = self._shared.setdefault(of_task, Shared())
        shared.users.append(waits)
        if shared.is_waiting:
            waits(True)
        try:
            async with shared.lock:
                if shared.failure is not None:
                    raise shared.failure
                if shared.file < 0:
                    await self._bring(order, shared)
            yield Path(f"/proc/self/fd/{shared.file}")
        finally:
            shared.users.remove(waits)
            if shared.is_waiting:
                waits(False)
            if not shared.users:
                del self._shared[of_task]
                if shared.file >= 0:
                    os.close(shared.file)
                    self._shares.give_back(order.owner_uin)

    async def _bring(self, order: Order, shared: Shared) -> None:
        """Fetch an archive into the folder of the attempt that asked first; another asks again if
        that one is cancelled.

        Why its name goes at once: with the last who reads it the file is gone, after a crash too.
        """
        await self._shares.take(order.owner_uin, waits=shared.wait)
        path = order.attempt / PACKAGE
        try:
            await self._fetch(order, path, shared.wait)
            shared.file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            path.unlink()
        except OSError as error:
            shared.failure = error
            raise
        finally:
            if shared.file < 0:
                self._shares.give_back(order.owner_uin)
