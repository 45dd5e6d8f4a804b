"""The service of tdmq 2020-02-17: its `*Cmq*` actions."""

from gateway.clock import Clock
from gateway.cmq.push.addresses import Reach
from gateway.cmq.push.secrets import Secrets
from gateway.cmq.subscribing import Subscribing
from gateway.cmq.tdmq.queue_calls import QueueCalls
from gateway.cmq.tdmq.subscription_calls import SubscriptionCalls
from gateway.cmq.tdmq.topic_calls import TopicCalls
from gateway.events.bus import Bus
from gateway.ids import NewId
from gateway.service import Service
from gateway.store import Store


def build_service(
    store: Store,
    bus: Bus | None,
    *,
    secrets: Secrets,
    reach: Reach,
    clock: Clock,
    new_id: NewId,
    cloud_limits: bool = False,
) -> Service:
    """The service; without a bus, subscriptions of protocol `amqp` are refused.

    secrets: of HTTP subscribers. reach: where they may be. cloud_limits: whether the vendor's
    quotas hold.
    """
    limited = {"cloud_limits": cloud_limits}
    subscribing = Subscribing(store, bus, clock=clock, **limited)
    topics = TopicCalls(store, clock=clock, new_id=new_id, **limited)
    queues = QueueCalls(store, clock=clock, new_id=new_id, **limited)
    subscriptions = SubscriptionCalls(
        store, subscribing, secrets=secrets, reach=reach, clock=clock, new_id=new_id
    )
    return Service({**topics.operations, **subscriptions.operations, **queues.operations})
