"""Publishing: a lane for each topic with unsent messages, while the broker can be reached."""

from collections.abc import Iterable
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup, TaskStatus
from sqlalchemy.exc import OperationalError

from gateway.clock import Clock
from gateway.events import outbox
from gateway.events.bus import Bus, BusUnavailable, LoginRefused
from gateway.events.lane import ROOM_OF_ALL_BYTES, Depot, Ending, Lane
from gateway.events.marker import Marker
from gateway.events.room import Room
from gateway.events.subscribers import Subscribers
from gateway.events.topology import Topology
from gateway.store import Store, StoreUnavailable
from gateway.telemetry import BROKER_CONNECTED, TOPICS_HELD, log

LANES_MAX = 64
POLL_S = 1.0  # how late a message is seen that another process wrote
LOOK_EVERY_S = 0.02  # for topics without a lane, while others have one
LOOK_SHARE = 0.1  # of the time, at most, while there are many topics
LOOK_REST_S_MAX = 0.5
RECONNECT_S = 0.5
LOGIN_S = 5.0  # a person must mend it, and the broker logs every try
LOSSES_MAX = 2  # then one queue may be to blame
REST_S_MIN = 0.1
REST_S_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Rest:
    """A topic whose lane failed is left alone until `until`, in the loop's time.

    failures: running, without a message that was confirmed. losses: running, with one of which
    nobody knows whether the broker has it. The others are as the lane's.
    """

    failures: int
    until: float
    is_careful: bool
    why_held: str
    losses: int = 0
    silent: tuple[str, ...] = ()


class Publisher:
    """Publishes whatever is unsent. Who waits for a lane stands in line, so that all have turns."""

    def __init__(self, store: Store, bus: Bus, *, subscribers: Subscribers, clock: Clock) -> None:
        self._store = store
        self._bus = bus
        self._depot = Depot(
            store,
            bus,
            subscribers,
            Marker(store, clock=clock),
            Topology(store, bus),
            Room(ROOM_OF_ALL_BYTES),
        )
        self._connection = 0
        self._lanes: set[str] = set()
        self._line: dict[str, None] = {}  # topics, in their order
        self._rests: dict[str, Rest] = {}

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Publish for ever; while the broker or the database is away, try again and again."""
        reachable = True
        task_status.started()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._depot.marker.run)
            while True:
                seen = self._store.signals.count(outbox.SIGNAL)
                began = anyio.current_time()
                try:
                    await self._look()
                except (BusUnavailable, StoreUnavailable, OperationalError) as error:
                    self._line.clear()
                    await anyio.sleep(_report(error, first=reachable))
                    reachable = False
                    continue
                if not reachable:
                    log.info("publishing_again")
                reachable = True
                BROKER_CONNECTED.set(1)
                self._open_lanes(tasks)
                await self._until_more(seen, took_s=anyio.current_time() - began)

    async def _until_more(self, seen: int, *, took_s: float) -> None:
        """Wait for messages, or for the end of a rest, and not too eagerly.

        took_s: how long it took to look for them.
        """
        least_s = LOOK_EVERY_S if self._lanes else 0.0
        await anyio.sleep(max(least_s, min(took_s / LOOK_SHARE - took_s, LOOK_REST_S_MAX)))
        at_most_s = self._until_next_rest_ends()
        signals = self._store.signals
        await signals.wait(outbox.SIGNAL, seen=seen, at_most_s=at_most_s)
        if signals.count(outbox.SIGNAL) == seen:  # another process may have written something
            signals.wake([outbox.signal_of(topic) for topic in self._lanes])

    async def _look(self) -> None:
        """Have each topic stand in line that has something to do, no lane, and no rest."""
        topics: set[str] = set()
        if (connection := await self._bus.connect()) != self._connection:
            self._depot.topology.forget()
            bound = self._depot.subscribers.list_bound_topics
            topics |= set(await self._store.read_list(bound))
        topics |= await self._store.read_list(outbox.list_waiting_topics)
        self._connection = connection
        self._forget_rests(self._rests.keys() - topics - self._lanes)
        now = anyio.current_time()
        for topic in sorted(topics - self._lanes):
            rest = self._rests.get(topic)
            if rest is None or rest.until <= now:
                self._line.setdefault(topic)

    def _open_lanes(self, tasks: TaskGroup) -> None:
        """Give the free places to those who stand in line."""
        while self._line and len(self._lanes) < LANES_MAX:
            topic = next(iter(self._line))
            del self._line[topic]
            self._lanes.add(topic)
            tasks.start_soon(self._run_lane, topic, tasks)

    def _until_next_rest_ends(self) -> float:
        now = anyio.current_time()
        ends = (rest.until - now for rest in self._rests.values())
        return min([POLL_S, *(max(end, REST_S_MIN) for end in ends)])

    async def _run_lane(self, topic: str, tasks: TaskGroup) -> None:
        """Publish a topic's messages until its turn is over, and hand its place on."""
        rest = self._rests.get(topic)
        lane = Lane(topic, self._depot)
        if rest is not None:
            lane = Lane(
                topic,
                self._depot,
                is_careful=rest.is_careful,
                is_suspicious=rest.losses >= LOSSES_MAX,
                silent=rest.silent,
            )
        try:
            ending = await lane.run(may_go_on=lambda: not self._line)
        except Exception:  # a fault of our own: one topic may not stop the others
            log.exception("lane_failed", topic=topic)
            ending = Ending.FAILED
        finally:
            self._lanes.discard(topic)
        if ending is Ending.FAILED:
            self._rest(topic, lane)
            self._store.signals.wake([outbox.SIGNAL])  # the next look ends when the rest does
            return  # and finds out whether there still is a broker
        if lane.is_careful:
            self._rests[topic] = Rest(0, 0.0, is_careful=True, why_held="")
        else:
            self._forget_rests([topic])
        if ending is Ending.INTERRUPTED:
            self._line.setdefault(topic)
        self._open_lanes(tasks)

    def _rest(self, topic: str, lane: Lane) -> None:
        """Leave a topic alone for a while, longer each time; declare its exchange again then."""
        self._depot.topology.forget(topic)
        last = self._rests.get(topic)
        failures = last.failures + 1 if last and not lane.has_confirmed else 1
        rest_s = min(REST_S_MAX, REST_S_MIN * 2 ** min(failures - 1, 16))
        if lane.why_held and (last is None or last.why_held != lane.why_held):
            log.error("topic_held", topic=topic, why=lane.why_held)
        until = anyio.current_time() + rest_s
        losses = (last.losses if last else 0) + 1 if lane.has_lost else 0
        self._rests[topic] = Rest(
            failures, until, lane.is_careful, lane.why_held, losses, lane.silent
        )
        self._count_held()

    def _forget_rests(self, topics: Iterable[str]) -> None:
        for topic in topics:
            self._rests.pop(topic, None)
        self._count_held()

    def _count_held(self) -> None:
        TOPICS_HELD.set(sum(bool(rest.why_held) for rest in self._rests.values()))


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
