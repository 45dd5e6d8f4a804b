"""A broker in memory that passes the bus's conformance suite, and can be told to fail."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import anyio

from gateway.events.bus import Binding, BusRefused, BusUnavailable, Message, Outcome, Route
from gateway.events.routing import matches


class FakeBus:
    """Keeps what it is given. `away`: nobody answers. `refusing`: exchanges it says no for.

    held: the messages of each queue, in the order of arrival, duplicates included. refusals: how
    often each message is still refused. slow: exchanges whose messages arrive once `gate` is set.
    bytes_max: of bodies under way at a time. silent: queues that take nothing and say nothing.
    """

    def __init__(self) -> None:
        self.held: dict[str, list[Message]] = defaultdict(list)
        self.exchanges: dict[str, set[Binding]] = {}
        self.queues: set[str] = set()
        self.away = False
        self.refusing: set[str] = set()
        self.refusals: dict[str, int] = {}
        self.taken_names: set[str] = set()
        self.slow: set[str] = set()
        self.silent: set[str] = set()
        self.gate = anyio.Event()
        self.bytes_under_way = self.bytes_max = 0
        self._number = 1

    async def connect(self) -> int:
        self._answer()
        return self._number

    async def declare(self, route: Route) -> None:
        self._answer()
        names = {binding.queue for binding in route.bindings} | {*route.queues.values()}
        if names & self.taken_names:
            raise BusRefused("PRECONDITION_FAILED")
        self.queues |= names
        self.exchanges.setdefault(route.exchange, set()).update(route.bindings)

    async def unbind(self, exchange: str, *, binding: Binding) -> None:
        self._answer()
        self.exchanges.get(exchange, set()).discard(binding)

    async def remove(self, exchange: str) -> None:
        self._answer()
        self.exchanges.pop(exchange, None)

    async def publish(
        self,
        route: Route,
        messages: Sequence[Message],
        *,
        written: Callable[[], None] = lambda: None,
    ) -> list[Outcome]:
        written()
        size = sum(len(message.body) for message in messages)
        self.bytes_under_way += size
        self.bytes_max = max(self.bytes_max, self.bytes_under_way)
        if route.exchange in self.slow:
            await self.gate.wait()
        self.bytes_under_way -= size
        return [self._publish_one(route, message) for message in messages]

    def restart(self) -> None:
        """Lose the connection; what is held stays."""
        self._number += 1

    def _publish_one(self, route: Route, message: Message) -> Outcome:
        if self.away or route.exchange not in self.exchanges:
            return Outcome.LOST
        if route.exchange in self.refusing:
            return Outcome.REFUSED
        if self.refusals.get(message.id, 0):
            self.refusals[message.id] -= 1
            return Outcome.REFUSED
        exchange, key, mandatory = route.destination(message)
        queues = {
            binding.queue
            for binding in self.exchanges.get(exchange, ())
            if matches(binding.key, key)
        }
        if not exchange:
            queues = {key} & self.queues
        if mandatory and not queues:
            return Outcome.RETURNED
        for queue in sorted(queues - self.silent):
            self.held[queue].append(message)
        return Outcome.LOST if queues & self.silent else Outcome.CONFIRMED

    def _answer(self) -> None:
        if self.away:
            raise BusUnavailable("nobody answers")
