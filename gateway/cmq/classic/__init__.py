"""The service of the classic CMQ data API (2017), with numbered errors.

Parameters are plain text; a list is written `receiptHandle.1`, `receiptHandle.2`, from 0 or 1 on.
The members of an answer stand beside `code`, `message` and `requestId`, which the caller adds; an
answer that only half succeeded brings `code` and `message` itself, and they win.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from gateway.call import Call, Grant, Reply
from gateway.clock import Clock
from gateway.cmq.classic.answers import Classic
from gateway.cmq.classic.parameters import Params, failure
from gateway.cmq.classic.queue_calls import QueueCalls
from gateway.cmq.classic.subscription_calls import SubscriptionCalls
from gateway.cmq.classic.topic_calls import TopicCalls
from gateway.cmq.subscribing import Subscribing
from gateway.events.bus import Bus
from gateway.ids import NewId
from gateway.store import Store


class Part(Protocol):
    """The handlers of the actions on one kind of thing."""

    @property
    def handlers(self) -> Mapping[str, Any]:
        """The actions, by their names."""
        ...

    async def serve(self, call: Call, grant: Grant, params: Params) -> Classic | None:
        """Serve a call; None if its action is not one of these. Raises ApiError."""
        ...


class ClassicService:
    """An `Upstream` for the classic data API."""

    def __init__(
        self,
        store: Store,
        bus: Bus | None,
        *,
        clock: Clock,
        new_id: NewId,
        cloud_limits: bool = False,
    ) -> None:
        """bus, cloud_limits: see `api.build_service`."""
        subscribing = Subscribing(store, bus, clock, cloud_limits)
        self._parts: tuple[Part, ...] = (
            QueueCalls(store, clock, new_id, cloud_limits),
            TopicCalls(store, clock, new_id, cloud_limits),
            SubscriptionCalls(store, subscribing, clock, new_id),
        )

    @property
    def actions(self) -> frozenset[str]:
        """The actions that have a handler."""
        return frozenset(name for part in self._parts for name in part.handlers)

    async def __call__(self, call: Call, grant: Grant) -> Reply:
        """Serve one call that was decided on before. Raises ApiError."""
        params = {name: str(value) for name, value in call.params.items()}
        for part in self._parts:
            answer = await part.serve(call, grant, params)
            if answer is not None:
                return Reply(msgspec.json.encode(answer))
        raise failure(4000, 10430, f"action name {call.action} is not existed")
