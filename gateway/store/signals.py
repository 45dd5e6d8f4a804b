"""Names that a commit can wake: who waits for work sleeps until there is some."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable

NAMES_MAX = 10_000


class Signals:
    """Counters with waiters. Used on one event loop only.

    Read `count`, look at the state, then `wait` with that count: a wake-up between the look and
    the wait is not missed. names_max: so many counters are kept; there may be a name for every
    topic and queue that ever was.
    """

    def __init__(self, *, names_max: int = NAMES_MAX) -> None:
        self._names_max = names_max
        self._counts: dict[str, int] = {}
        self._forgotten = 0  # the count of every name that is not kept
        self._waiters: dict[str, set[asyncio.Future[None]]] = defaultdict(set)

    def count(self, name: str) -> int:
        """A number that grows whenever `name` is woken, and now and then besides."""
        return self._counts.get(name, self._forgotten)

    def wake(self, names: Iterable[str]) -> None:
        """Wake everybody who waits for one of `names`."""
        for name in names:
            self._counts[name] = self.count(name) + 1
            for waiter in self._waiters.pop(name, ()):
                _end(waiter)
        if len(self._counts) > self._names_max:
            self._forget()

    def _forget(self) -> None:
        """Begin anew above every count there was: who has read one looks again, in vain at most."""
        self._forgotten = max(self._counts.values()) + 1
        self._counts.clear()

    async def wait(self, name: str, *, seen: int, at_most_s: float) -> None:
        """Return once `name` has been woken more than `seen` times, or after `at_most_s`.

        Why a timer of its own: `asyncio.wait_for` hears of a wake-up a turn of the loop later.
        """
        if self.count(name) != seen:
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters[name].add(waiter)
        timer = loop.call_later(at_most_s, _end, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            waiting = self._waiters.get(name)
            if waiting is not None:
                waiting.discard(waiter)
                if not waiting:
                    del self._waiters[name]


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
