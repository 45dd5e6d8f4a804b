"""The service of the classic CMQ data API (2017), with numbered errors.

Parameters are plain text; a list is written `receiptHandle.1`, `receiptHandle.2`, from 0 or 1 on.
The members of an answer stand beside `code`, `message` and `requestId`, which the caller adds; an
answer that only half succeeded brings `code` and `message` itself, and they win.
"""

from collections.abc import Mapping

import msgspec

from gateway.call import Call, Grant, Reply
from gateway.clock import Clock
from gateway.cmq.classic.actions import Action, Asked
from gateway.cmq.classic.numbers import failure
from gateway.cmq.classic.queue_calls import QueueCalls
from gateway.cmq.classic.subscription_calls import SubscriptionCalls
from gateway.cmq.classic.topic_calls import TopicCalls
from gateway.cmq.push.addresses import Reach
from gateway.cmq.subscribing import Subscribing
from gateway.events.bus import Bus
from gateway.ids import NewId
from gateway.store import Store


class ClassicService:
    """An `Upstream` for the classic data API."""

    def __init__(
        self,
        store: Store,
        bus: Bus | None,
        *,
        reach: Reach,
        clock: Clock,
        new_id: NewId,
        cloud_limits: bool = False,
    ) -> None:
        """bus, reach, cloud_limits: see `tdmq.api.build_service`."""
        limited = {"cloud_limits": cloud_limits}
        subscribing = Subscribing(store, bus, clock=clock, **limited)
        subscriptions = SubscriptionCalls(
            store, subscribing, reach=reach, clock=clock, new_id=new_id
        )
        self._actions: Mapping[str, Action] = {
            **QueueCalls(store, clock=clock, new_id=new_id, **limited).actions,
            **TopicCalls(store, clock=clock, new_id=new_id, **limited).actions,
            **subscriptions.actions,
        }

    @property
    def actions(self) -> frozenset[str]:
        """The actions that have a handler."""
        return frozenset(self._actions)

    async def __call__(self, call: Call, grant: Grant) -> Reply:
        """Serve one call that was decided on before. Raises ApiError."""
        action = self._actions.get(call.action)
        if action is None:
            raise failure((4000, 10430), f"action name {call.action} is not existed")
        return Reply(msgspec.json.encode(await action.serve(Asked.of(call, grant))))
