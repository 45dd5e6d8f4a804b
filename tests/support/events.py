"""Events, messages and subscriptions that tests are made of."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime

import anyio

from gateway.events.bus import Message, Route, TopicAddress
from gateway.events.messages import Event, Notification
from gateway.events.names import EventName
from gateway.events.outbox import Stream
from gateway.store import Tx

OWNER, REGION = "100000000001", "ap-guangzhou"
NOW = datetime(2018, 6, 15, 14, 43, 17, tzinfo=UTC)
JOB_TOPIC = TopicAddress(OWNER, REGION, "job-message")
WAIT_S = 30.0


def stream(job_id: str = "job-00000001") -> Stream:
    return Stream(job_id, OWNER, REGION)


def job_event(number: int, *, job_id: str = "job-00000001") -> Event:
    return Event(EventName.JOB_RUNNING, job_id, {"JobId": job_id, "Number": number})


def asks(topic: str = "job-message", **event_vars: str) -> Notification:
    """A notification for every event, with these EventVars."""
    pairs = tuple(event_vars.items())
    return Notification(topic, dict.fromkeys(EventName, pairs))


def message(number: int, *, key: str = "batch.job.JOB_RUNNING.job-00000001") -> Message:
    return Message(
        position=number,
        id=f"job-00000001-{number}-0",
        topic_key=JOB_TOPIC.key,
        shard=1,
        routing_key=key,
        body=f"body {number}".encode(),
        created_at=NOW,
        event_name="JOB_RUNNING",
        seq=number,
    )


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until a condition holds; it may be one that is asked of the store."""
    with anyio.fail_after(WAIT_S):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await anyio.sleep(0.005)


class Routed:
    """`Subscribers` with fixed routes, for a relay without the CMQ service."""

    def __init__(self, *routes: tuple[TopicAddress, Route]) -> None:
        self.routes = {address.key: route for address, route in routes}
        self.delivered: list[Message] = []
        self.waiting: set[int] = set()
        self.forgotten: set[int] = set()

    def hold(self, tx: Tx, topic_keys: Collection[str]) -> bool:
        return True

    def deliver(self, tx: Tx, messages: Sequence[Message], *, now: datetime) -> int:
        self.delivered.extend(messages)
        return len(messages)

    def find_route(self, tx: Tx, topic_key: str) -> Route | None:
        return self.routes.get(topic_key)

    def list_bound_topics(self, tx: Tx) -> Sequence[str]:
        return [key for key, route in self.routes.items() if route.bindings]

    def still_waiting(self, tx: Tx, positions: Collection[int]) -> set[int]:
        return self.waiting & set(positions)

    def forget(self, tx: Tx, positions: Collection[int]) -> None:
        self.forgotten.update(positions)
