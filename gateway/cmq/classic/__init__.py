"""The service of the classic CMQ data API (2017), with numbered errors.

Parameters are plain text; a list is written `receiptHandle.1`, `receiptHandle.2`, from 0 or 1 on.
The members of an answer stand beside `code`, `message` and `requestId`, which the caller adds; an
answer that only half succeeded brings `code` and `message` itself, and they win.
"""

from dataclasses import dataclass

import msgspec

from gateway.call import Call, Grant, Reply
from gateway.clock import Clock
from gateway.cmq.classic.parameters import failure
from gateway.cmq.classic.queue_calls import QueueCalls
from gateway.store import Store


@dataclass(frozen=True, slots=True)
class ClassicService:
    """An `Upstream` for the classic data API."""

    store: Store
    clock: Clock

    @property
    def actions(self) -> frozenset[str]:
        """The actions that have a handler."""
        return frozenset(QueueCalls(self.store, self.clock).handlers)

    async def __call__(self, call: Call, grant: Grant) -> Reply:
        """Serve one call that was decided on before. Raises ClassicError."""
        queues = QueueCalls(self.store, self.clock)
        handler = queues.handlers.get(call.action)
        if handler is None:
            raise failure(4000, 10430, f"action name {call.action} is not existed")
        params = {name: str(value) for name, value in call.params.items()}
        answer = await queues.serve(handler, call=call, grant=grant, params=params)
        return Reply(msgspec.json.encode(answer))
