"""One action of the classic API: who serves it, with what; and one call of it."""

from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TypedDict

from gateway.call import Call, Grant, Scope
from gateway.cmq.classic.answers import Classic
from gateway.cmq.classic.numbers import told_in_numbers
from gateway.cmq.classic.parameters import Params, check_names, required
from gateway.events.bus import TopicAddress

_ALWAYS = frozenset({"clientRequestId"})


class Place(TypedDict):
    """Where a queue or a topic is, as the functions on them take it."""

    owner_uin: str
    region: str
    name: str


@dataclass(frozen=True, slots=True)
class Asked:
    """One call, as the handlers take it. created_by: the uin of who makes it."""

    owner_uin: str
    created_by: str
    region: str
    scope: Scope | None
    params: Params

    @classmethod
    def of(cls, call: Call, grant: Grant) -> "Asked":
        """Read a call that was decided on."""
        params = {name: str(value) for name, value in call.params.items()}
        caller = grant.principal
        return cls(caller.owner_uin, caller.uin, call.region, grant.scope, params)

    @property
    def queue(self) -> Place:
        """The queue it names. Raises ClassicError 4000/10390."""
        return self._place("queueName")

    @property
    def topic(self) -> Place:
        """The topic it names. Raises ClassicError 4000/10390."""
        return self._place("topicName")

    @property
    def address(self) -> TopicAddress:
        """The topic it names, as events take it. Raises ClassicError 4000/10390."""
        return TopicAddress(**self.topic)

    def _place(self, parameter: str) -> Place:
        name = required(self.params, parameter)
        return {"owner_uin": self.owner_uin, "region": self.region, "name": name}


Handler = Callable[[Asked], Awaitable[Classic]]


@dataclass(frozen=True, slots=True)
class Action:
    """How one action is served.

    single, repeatable: the names of its parameters, of those with one value and with a list.
    """

    handler: Handler
    single: AbstractSet[str]
    repeatable: AbstractSet[str] = frozenset()

    async def serve(self, asked: Asked) -> Classic:
        """Serve a call. Raises ApiError, a ClassicError for what has numbers of its own."""
        check_names(asked.params, single=self.single | _ALWAYS, repeatable=self.repeatable)
        with told_in_numbers():
            return await self.handler(asked)
