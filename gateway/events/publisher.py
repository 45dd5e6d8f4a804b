"""Publishing: a lane for each topic with unsent messages, while the broker can be reached."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import anyio
from anyio.abc import TaskGroup
from sqlalchemy.exc import OperationalError

from gateway.clock import Clock
from gateway.events import outbox
from gateway.events.bus import Bus, BusUnavailable, LoginRefused
from gateway.events.lane import Lane, Topology
from gateway.events.marker import Marker
from gateway.events.subscribers import Subscribers
from gateway.store import Store, StoreUnavailable
from gateway.telemetry import BROKER_CONNECTED, log

LANES_MAX = 64
POLL_S = 1.0  # how late a message is seen that another process wrote
LOOK_EVERY_S = 0.02  # for topics without a lane, while others have one
RECONNECT_S = 0.5
LOGIN_S = 5.0  # a person must mend it, and the broker logs every try
REST_S_MIN = 0.1
REST_S_MAX = 30.0


@dataclass(slots=True)
class Rest:
    """A topic that failed `failures` times running is left alone until `until`."""

    failures: int
    until: datetime


class Publisher:
    """Publishes whatever is unsent."""

    def __init__(self, store: Store, bus: Bus, *, subscribers: Subscribers, clock: Clock) -> None:
        self._store = store
        self._bus = bus
        self._subscribers = subscribers
        self._clock = clock
        self._marker = Marker(store, clock=clock)
        self._topology = Topology(store, bus)
        self._connection = 0
        self._lanes: set[str] = set()
        self._rests: dict[str, Rest] = {}

    async def run(self) -> None:
        """Publish for ever; while the broker or the database is away, try again and again."""
        reachable = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._marker.run)
            while True:
                seen = self._store.signals.count(outbox.SIGNAL)
                try:
                    await self._open_lanes(tasks)
                except (BusUnavailable, StoreUnavailable, OperationalError) as error:
                    await anyio.sleep(_report(error, first=reachable))
                    reachable = False
                    continue
                if not reachable:
                    log.info("publishing_again")
                reachable = True
                BROKER_CONNECTED.set(1)
                await self._until_more(seen)

    async def _until_more(self, seen: int) -> None:
        """Wait for messages, or for the end of a rest, and not too eagerly."""
        if self._lanes:
            await anyio.sleep(LOOK_EVERY_S)
        at_most_s = self._until_next_rest_ends()
        signals = self._store.signals
        await signals.wait(outbox.SIGNAL, seen=seen, at_most_s=at_most_s)
        if signals.count(outbox.SIGNAL) == seen:  # another process may have written something
            signals.wake([outbox.signal_of(topic) for topic in self._lanes])

    async def _open_lanes(self, tasks: TaskGroup) -> None:
        """Open a lane for each topic with something to do that has none and is not resting."""
        topics = set()
        if (connection := await self._bus.connect()) != self._connection:
            self._topology.forget()
            topics |= set(await self._store.read_list(self._subscribers.list_bound_topics))
        topics |= await self._store.read_point(outbox.list_waiting_topics)
        self._connection = connection
        self._rests = {topic: rest for topic, rest in self._rests.items() if topic in topics}
        now = self._clock()
        for topic in sorted(topics - self._lanes):
            rest = self._rests.get(topic)
            if len(self._lanes) < LANES_MAX and (rest is None or rest.until <= now):
                self._lanes.add(topic)
                tasks.start_soon(self._run_lane, topic)

    def _until_next_rest_ends(self) -> float:
        now = self._clock()
        ends = ((rest.until - now).total_seconds() for rest in self._rests.values())
        return min([POLL_S, *(max(end, REST_S_MIN) for end in ends)])

    async def _run_lane(self, topic: str) -> None:
        """Publish a topic's messages until none is left or one fails."""
        lane = Lane(
            topic,
            store=self._store,
            bus=self._bus,
            subscribers=self._subscribers,
            marker=self._marker,
            topology=self._topology,
        )
        try:
            went_well = await lane.run()
        finally:
            self._lanes.discard(topic)
            self._store.signals.wake([outbox.SIGNAL])  # there is room, or came more just now
        if went_well:
            self._rests.pop(topic, None)
        else:
            self._rest(topic)

    def _rest(self, topic: str) -> None:
        """Leave a topic alone for a while, longer each time; declare its exchange again then."""
        self._topology.forget(topic)
        last = self._rests.get(topic)
        failures = last.failures + 1 if last else 1
        rest_s = min(REST_S_MAX, REST_S_MIN * 2 ** min(failures - 1, 16))
        self._rests[topic] = Rest(failures, self._clock() + timedelta(seconds=rest_s))


def _report(error: Exception, *, first: bool) -> float:
    """Log why nothing is published: an absence once, a refusal at every try. Returns the pause."""
    if isinstance(error, BusUnavailable):
        BROKER_CONNECTED.set(0)
    if isinstance(error, LoginRefused):
        log.error("publishing_stopped", why=str(error), retry_s=LOGIN_S)
        return LOGIN_S
    if first:
        log.warning("publishing_stopped", why=str(error), retry_s=RECONNECT_S)
    return RECONNECT_S
