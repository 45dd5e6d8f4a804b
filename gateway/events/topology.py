"""What each topic has on the broker, and giving it what it lacks."""

from collections.abc import Sequence

import anyio

from gateway.events import rebinding
from gateway.events.bus import Bus, Route
from gateway.events.rebinding import Change
from gateway.store import Store

CHECK_S = 5.0
"""How old what we know of a topic's exchange and queues may be when something is published to it.

Why: what is published to an exchange comes back only if none of its queues takes it. If there are
several and one is deleted behind our back, nobody says so; it is found and made again by this.
"""


class Topology:
    """Knows which route of each topic was declared, and when, as long as that is of use."""

    def __init__(self, store: Store, bus: Bus) -> None:
        self._store = store
        self._bus = bus
        self._declared: dict[str, tuple[Route, float]] = {}  # the oldest first

    def forget(self, topic: str | None = None) -> None:
        """Have a topic declared again before its next message; without one, every topic."""
        if topic is None:
            self._declared.clear()
        else:
            self._declared.pop(topic, None)

    async def align(self, topic: str, route: Route | None, *, changes: Sequence[Change]) -> None:
        """Give the broker what the topic needs from here on, and make the changes that are due.

        Raises BusUnavailable, BusRefused.
        """
        for change in changes:
            # a topic that was deleted and made again may spell its exchange another way
            is_wanted = route is not None and route.exchange == change.exchange
            if change.binding is None:
                if not is_wanted:
                    await self._bus.remove(change.exchange)
            elif not change.comes and (
                route is None or not is_wanted or change.binding not in route.bindings
            ):
                await self._bus.unbind(change.exchange, binding=change.binding)
        if changes or route is None:
            self.forget(topic)
        if route is not None:
            await self._declare(topic, route)
        if changes:
            await self._store.write(lambda tx: rebinding.drop(tx, changes))

    async def _declare(self, topic: str, route: Route) -> None:
        now = anyio.current_time()
        self._drop_old(now)
        declared = self._declared.get(topic)
        if declared is None or declared[0] != route:
            await self._bus.declare(route)
            self._declared.pop(topic, None)
            self._declared[topic] = route, now

    def _drop_old(self, now: float) -> None:
        while self._declared:
            topic, (_, at) = next(iter(self._declared.items()))
            if now - at <= CHECK_S:
                return
            del self._declared[topic]
