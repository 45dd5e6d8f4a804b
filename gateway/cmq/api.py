"""The service of tdmq 2020-02-17: its `*Cmq*` actions."""

from gateway.clock import Clock
from gateway.cmq.queue_calls import QueueCalls
from gateway.cmq.topic_calls import TopicCalls
from gateway.events.bus import Bus
from gateway.ids import NewId
from gateway.service import Service
from gateway.store import Store


def build_service(store: Store, bus: Bus | None, *, clock: Clock, new_id: NewId) -> Service:
    """The service; without a bus, subscriptions of protocol `amqp` are refused."""
    return Service(
        {
            **TopicCalls(store, bus, clock, new_id).operations,
            **QueueCalls(store, clock, new_id).operations,
        }
    )
