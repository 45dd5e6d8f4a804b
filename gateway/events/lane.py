"""A lane: the messages of one topic on their way to the broker, in order and at their own pace."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup
from sqlalchemy.exc import OperationalError

from gateway.events import outbox
from gateway.events.bus import Bus, BusRefused, BusUnavailable, Message, Outcome, Route
from gateway.events.marker import Marker
from gateway.events.subscribers import Subscribers
from gateway.store import Store, StoreUnavailable, Tx
from gateway.telemetry import MESSAGES_PUBLISHED, log

FIRST_PAGE = 64  # messages; few enough to be read on the event loop, where it is quickest
PAGE = 512
PAGES_MAX = 16  # on their way at a time
PASS_S = 1.0
LINGER_S = 0.05  # how long a lane that has nothing to do stays open for the next message
CHECK_S = 5.0
"""How old what we know of a topic's exchange and queues may be when something is published to it.

Why: what is published to an exchange comes back only if none of its queues takes it. If there are
several and one is deleted behind our back, nobody says so; it is found and made again by this.
"""


@dataclass(frozen=True, slots=True)
class Page:
    """Some unsent messages of one topic, and what the broker must have and lose before them.

    more: there may be more messages after `last`, the position of the last one that was read.
    """

    route: Route | None
    removals: tuple[outbox.Removal, ...]
    messages: tuple[Message, ...]
    last: int
    more: bool


@dataclass(slots=True)
class Passage:
    """A page under way. written: the next one may follow. settled: it is known how it ended."""

    written: anyio.Event = field(default_factory=anyio.Event)
    settled: anyio.Event = field(default_factory=anyio.Event)


class Topology:
    """What each topic has on the broker: which route was declared, and when."""

    def __init__(self, store: Store, bus: Bus) -> None:
        self._store = store
        self._bus = bus
        self._declared: dict[str, tuple[Route, float]] = {}

    def forget(self, topic: str | None = None) -> None:
        """Have a topic declared again before its next message; without one, every topic."""
        if topic is None:
            self._declared.clear()
        else:
            self._declared.pop(topic, None)

    async def align(self, topic: str, page: Page) -> None:
        """Give the broker what the topic needs, and take away what is not wanted any more."""
        wanted = page.route.bindings if page.route else ()
        for removal in page.removals:
            if removal.binding is None and page.route is None:
                await self._bus.remove(removal.exchange)
            elif removal.binding is not None and removal.binding not in wanted:
                await self._bus.unbind(removal.exchange, binding=removal.binding)
        if page.route is not None:
            now = anyio.current_time()
            route, at = self._declared.get(topic, (None, now))
            if route != page.route or now - at > CHECK_S:
                await self._bus.declare(page.route)
                self._declared[topic] = page.route, now
        if page.removals:
            await self._store.write(lambda tx: outbox.drop_removals(tx, page.removals))


class Lane:
    """Publishes what is unsent of one topic."""

    def __init__(
        self,
        topic: str,
        *,
        store: Store,
        bus: Bus,
        subscribers: Subscribers,
        marker: Marker,
        topology: Topology,
    ) -> None:
        self._topic = topic
        self._signal = outbox.signal_of(topic)
        self._store = store
        self._bus = bus
        self._subscribers = subscribers
        self._marker = marker
        self._topology = topology
        self._slots = anyio.Semaphore(PAGES_MAX)
        self._failed = False
        self._failed_shards: set[int] = set()

    async def run(self) -> bool:
        """Publish until nothing is left; False if something must be published again.

        A pass begins at the oldest unsent message and goes on from there while there is something
        to do. Why it ends after a second: a smaller position may be committed after a larger one.
        """
        while True:
            seen = self._store.signals.count(self._signal)
            async with anyio.create_task_group() as pages:
                try:
                    await self._pass(pages)
                except (BusUnavailable, BusRefused, StoreUnavailable, OperationalError) as error:
                    log.warning("topic_not_published", topic=self._topic, why=str(error))
                    self._failed = True
            if self._failed or self._store.signals.count(self._signal) == seen:
                return not self._failed

    async def _pass(self, pages: TaskGroup) -> None:
        """Read page after page, each while the one before is on its way."""
        signals = self._store.signals
        ends_at = anyio.current_time() + PASS_S
        before: Passage | None = None
        after, limit = 0, FIRST_PAGE
        while anyio.current_time() < ends_at:
            seen = signals.count(self._signal)
            page = await self._read(after=after, limit=limit)
            if before is not None:
                await before.written.wait()
            if self._failed:
                return
            await self._topology.align(self._topic, page)
            if page.messages:
                passage = Passage()
                await self._slots.acquire()
                pages.start_soon(self._publish, page, passage, before)
                before = passage
            after, limit = page.last, PAGE if page.more else FIRST_PAGE
            if not page.more:
                await signals.wait(self._signal, seen=seen, at_most_s=LINGER_S)
                if signals.count(self._signal) == seen:
                    return

    async def _read(self, *, after: int, limit: int) -> Page:
        """Read a page; what is on its way to being marked as sent is not in it any more."""
        unmarked = self._marker.unmarked(self._topic)

        def read(tx: Tx) -> Page:
            messages = outbox.list_unsent(tx, self._topic, after=after, limit=limit)
            return Page(
                route=self._subscribers.find_route(tx, self._topic),
                removals=() if after else tuple(outbox.list_removals(tx, self._topic)),
                messages=tuple(each for each in messages if each.position not in unmarked),
                last=messages[-1].position if messages else after,
                more=len(messages) == limit,
            )

        at_once = limit <= FIRST_PAGE
        return await (self._store.read_point(read) if at_once else self._store.read_list(read))

    async def _publish(self, page: Page, passage: Passage, before: Passage | None) -> None:
        """Publish a page, and once the one before is settled have what was sent marked."""
        try:
            due, not_due = _divide(page)
            outcomes = [Outcome.LOST] * len(due)
            if page.route is None:
                log.info("topic_gone", topic=self._topic, messages=len(not_due))
            elif due and not self._failed:  # nothing overtakes what has failed
                written = passage.written.set
                outcomes = await self._bus.publish(page.route, due, written=written)
            self._note_failures(outcomes)
            passage.written.set()
            if before is not None:
                await before.settled.wait()
            sent = settled(due, outcomes, failed=self._failed_shards)
            MESSAGES_PUBLISHED.inc(len(sent))
            await self._marker.add(self._topic, [*sent, *not_due])
        finally:
            passage.settled.set()
            self._slots.release()

    def _note_failures(self, outcomes: Sequence[Outcome]) -> None:
        failures = [each for each in outcomes if each is not Outcome.CONFIRMED]
        if failures:
            self._failed = True
            log.warning(
                "messages_not_confirmed",
                topic=self._topic,
                messages=len(failures),
                outcomes=sorted({each.value for each in failures}),
            )


def _divide(page: Page) -> tuple[list[Message], list[Message]]:
    """The messages that the broker has something to do with, and the others."""
    due: list[Message] = []
    not_due: list[Message] = []
    for message in page.messages:
        concerned = page.route is not None and page.route.concerns(message)
        (due if concerned else not_due).append(message)
    return due, not_due


def settled(
    messages: Sequence[Message], outcomes: Sequence[Outcome], *, failed: set[int]
) -> list[Message]:
    """The messages that are confirmed, and before which none of their shard has failed.

    failed: the shards with a failure so far; added to. Why: what follows a failed message is sent
    again after it, so that from the failure on a subscriber has the whole rest of the job in
    order, if partly for the second time.
    """
    sent: list[Message] = []
    for message, outcome in zip(messages, outcomes, strict=True):
        if outcome is not Outcome.CONFIRMED:
            failed.add(message.shard)
        elif message.shard not in failed:
            sent.append(message)
    return sent
