"""Names that a commit can wake: who waits for work sleeps until there is some."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable


class Signals:
    """Counters with waiters. Used on one event loop only.

    Read `count`, look at the state, then `wait` with that count: a wake-up between the look and
    the wait is not missed.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = defaultdict(int)
        self._waiters: dict[str, set[asyncio.Future[None]]] = defaultdict(set)

    def count(self, name: str) -> int:
        """How often `name` has been woken so far."""
        return self._counts.get(name, 0)

    def wake(self, names: Iterable[str]) -> None:
        """Wake everybody who waits for one of `names`."""
        for name in names:
            self._counts[name] += 1
            for waiter in self._waiters.pop(name, ()):
                if not waiter.done():
                    waiter.set_result(None)

    async def wait(self, name: str, *, seen: int, at_most_s: float) -> None:
        """Return once `name` has been woken more than `seen` times, or after `at_most_s`."""
        if self.count(name) != seen:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[name].add(waiter)
        try:
            await asyncio.wait_for(waiter, at_most_s)
        except TimeoutError:
            return
        finally:
            waiting = self._waiters.get(name)
            if waiting is not None:
                waiting.discard(waiter)
                if not waiting:
                    del self._waiters[name]
