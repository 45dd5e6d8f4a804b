"""Publishing: one lane per topic with unsent messages, each in order and at its own pace."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import anyio
from anyio.abc import TaskGroup
from sqlalchemy.exc import OperationalError

from gateway.clock import Clock
from gateway.events import outbox
from gateway.events.bus import Bus, BusRefused, BusUnavailable, Message, Outcome, Route
from gateway.events.marker import Marker
from gateway.events.subscribers import Subscribers
from gateway.store import Store, StoreUnavailable, Tx
from gateway.telemetry import MESSAGES_PUBLISHED, log

FIRST_PAGE = 64  # messages; few enough to be read on the event loop, where it is quickest
PAGE = 512
LANES_MAX = 64
POLL_S = 1.0  # how late a message is seen that another process wrote
RECONNECT_S = 0.5
REST_S_MIN = 0.1
REST_S_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Page:
    """Some unsent messages of one topic, and what the broker must have and lose before them.

    more_after: the position after which there may be more; None if this page is the last.
    """

    route: Route | None
    removals: tuple[outbox.Removal, ...]
    messages: tuple[Message, ...]
    more_after: int | None


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
        self._connection = 0
        self._lanes: dict[str, bool] = {}  # topic -> whether to look again before closing
        self._rests: dict[str, Rest] = {}
        self._declared: dict[str, Route] = {}

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
                    if reachable:
                        log.warning("publishing_stopped", why=str(error), retry_s=RECONNECT_S)
                    reachable = False
                    await anyio.sleep(RECONNECT_S)
                    continue
                if not reachable:
                    log.info("publishing_again")
                reachable = True
                at_most_s = self._until_next_rest_ends()
                await self._store.signals.wait(outbox.SIGNAL, seen=seen, at_most_s=at_most_s)

    async def _open_lanes(self, tasks: TaskGroup) -> None:
        """Open a lane for each topic with something to do that has none and is not resting."""
        topics = set()
        if (connection := await self._bus.connect()) != self._connection:
            self._declared.clear()
            topics |= set(await self._store.read_list(self._subscribers.list_bound_topics))
        topics |= await self._store.read_point(outbox.list_waiting_topics)
        self._connection = connection
        self._rests = {topic: rest for topic, rest in self._rests.items() if topic in topics}
        now = self._clock()
        for topic in sorted(topics):
            rest = self._rests.get(topic)
            if topic in self._lanes:
                self._lanes[topic] = True
            elif len(self._lanes) < LANES_MAX and (rest is None or rest.until <= now):
                self._lanes[topic] = False
                tasks.start_soon(self._run_lane, topic)

    def _until_next_rest_ends(self) -> float:
        now = self._clock()
        ends = ((rest.until - now).total_seconds() for rest in self._rests.values())
        return min([POLL_S, *(max(end, REST_S_MIN) for end in ends)])

    async def _run_lane(self, topic: str) -> None:
        """Publish a topic's messages until none is left or one fails."""
        look_again = went_well = True
        try:
            while look_again and went_well:
                self._lanes[topic] = False
                went_well = await self._pass(topic)
                look_again = self._lanes[topic]
        except (BusUnavailable, BusRefused, StoreUnavailable, OperationalError) as error:
            log.warning("topic_not_published", topic=topic, why=str(error))
            went_well = False
        finally:
            if len(self._lanes) >= LANES_MAX:
                self._store.signals.wake([outbox.SIGNAL])
            del self._lanes[topic]
        if went_well:
            self._rests.pop(topic, None)
        else:
            self._rest(topic)

    def _rest(self, topic: str) -> None:
        """Leave a topic alone for a while, longer each time; declare its exchange again then."""
        self._declared.pop(topic, None)
        last = self._rests.get(topic)
        failures = last.failures + 1 if last else 1
        rest_s = min(REST_S_MAX, REST_S_MIN * 2 ** min(failures - 1, 16))
        self._rests[topic] = Rest(failures, self._clock() + timedelta(seconds=rest_s))

    async def _pass(self, topic: str) -> bool:
        """Publish what is unsent, from the oldest on; False if something could not be sent.

        While one page is on its way, the next is read.
        """
        page: Page | None = await self._read(topic, after=0, limit=FIRST_PAGE)
        while page is not None:
            await self._align(topic, page)
            following: list[Page] = []
            async with anyio.create_task_group() as beside:
                if page.more_after is not None:
                    beside.start_soon(self._read_next, topic, page.more_after, following)
                went_well = await self._publish(topic, page)
            if not went_well:
                return False
            page = following[0] if following else None
        return True

    async def _read(self, topic: str, *, after: int, limit: int) -> Page:
        """Read a page; what is on its way to being marked as sent is not in it any more."""
        unmarked = self._marker.unmarked(topic)

        def read(tx: Tx) -> Page:
            messages = outbox.list_unsent(tx, topic, after=after, limit=limit)
            return Page(
                route=self._subscribers.find_route(tx, topic),
                removals=tuple(outbox.list_removals(tx, topic)),
                messages=tuple(each for each in messages if each.position not in unmarked),
                more_after=messages[-1].position if len(messages) == limit else None,
            )

        at_once = limit <= FIRST_PAGE
        return await (self._store.read_point(read) if at_once else self._store.read_list(read))

    async def _read_next(self, topic: str, after: int, following: list[Page]) -> None:
        """Add the next page; if it cannot be read, the next pass finds its messages."""
        try:
            following.append(await self._read(topic, after=after, limit=PAGE))
        except (StoreUnavailable, OperationalError) as error:
            log.warning("messages_not_read", topic=topic, why=str(error))

    async def _align(self, topic: str, page: Page) -> None:
        """Give the broker what the topic needs, and take away what is not wanted any more."""
        wanted = page.route.bindings if page.route else ()
        for removal in page.removals:
            if removal.binding is None and page.route is None:
                await self._bus.remove(removal.exchange)
            elif removal.binding is not None and removal.binding not in wanted:
                await self._bus.unbind(removal.exchange, binding=removal.binding)
        if page.route is not None and self._declared.get(topic) != page.route:
            await self._bus.declare(page.route)
            self._declared[topic] = page.route
        if page.removals:
            await self._store.write(lambda tx: outbox.drop_removals(tx, page.removals))

    async def _publish(self, topic: str, page: Page) -> bool:
        """Publish a page; False if some of it must be published again."""
        if page.route is None:
            log.info("topic_gone", topic=topic, messages=len(page.messages))
            await self._marker.add(topic, page.messages)
            return True
        due: list[Message] = []
        not_due: list[Message] = []
        for message in page.messages:
            (due if page.route.concerns(message) else not_due).append(message)
        outcomes = await self._bus.publish(page.route, due)
        sent = settled(due, outcomes)
        MESSAGES_PUBLISHED.inc(len(sent))
        await self._marker.add(topic, [*sent, *not_due])
        if len(sent) < len(due):
            failures = sorted({each.value for each in outcomes} - {Outcome.CONFIRMED.value})
            log.warning(
                "messages_not_confirmed",
                topic=topic,
                messages=len(due) - len(sent),
                outcomes=failures,
            )
        return len(sent) == len(due)


def settled(messages: Sequence[Message], outcomes: Sequence[Outcome]) -> list[Message]:
    """The messages that are confirmed, and before which none of their shard has failed.

    Why: what follows a failed message is sent again after it, so that from the failure on a
    subscriber has the whole rest of the job in order, if partly for the second time.
    """
    failed: set[int] = set()
    sent: list[Message] = []
    for message, outcome in zip(messages, outcomes, strict=True):
        if outcome is not Outcome.CONFIRMED:
            failed.add(message.shard)
        elif message.shard not in failed:
            sent.append(message)
    return sent
