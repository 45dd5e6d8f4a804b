"""A lane: the messages of one topic on their way to the broker, in order and at their own pace."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum

import anyio
from anyio.abc import TaskGroup
from sqlalchemy.exc import OperationalError

from gateway.events import outbox, rebinding
from gateway.events.bus import (
    Bus,
    BusRefused,
    BusUnavailable,
    Message,
    Outcome,
    Route,
)
from gateway.events.marker import Marker
from gateway.events.rebinding import Stretch
from gateway.events.room import Room
from gateway.events.silence import find_silent
from gateway.events.subscribers import Subscribers
from gateway.events.topology import Topology
from gateway.store import Store, StoreUnavailable, Tx
from gateway.telemetry import MESSAGES_PUBLISHED, log

PAGES_MAX = 16  # on their way at a time in one lane
ROOM_OF_ALL_BYTES = 16 * 1024 * 1024  # for the bodies of what is on its way
ROOM_OF_ONE_BYTES = ROOM_OF_ALL_BYTES // 2
PASS_S = 1.0
LINGER_S = 0.05  # how long a lane that has nothing to do stays open for the next message


@dataclass(frozen=True, slots=True)
class Size:
    """How much a page has at most. bytes_: of bodies."""

    messages: int
    bytes_: int


SMALL = Size(64, 128 * 1024)  # so little is read on the event loop, where it is quickest
LARGE = Size(512, 1024 * 1024)


class Ending(Enum):
    """How a lane ended.

    DRY: nothing is left. INTERRUPTED: others need the place. FAILED: something must be published
    again.
    """

    DRY = "dry"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Depot:
    """What all lanes publish with. room: for the bodies of what is on its way."""

    store: Store
    bus: Bus
    subscribers: Subscribers
    marker: Marker
    topology: Topology
    room: Room


@dataclass(frozen=True, slots=True)
class Page:
    """Some unsent messages of one topic, and what the broker must have for them.

    is_overtaken: a message before them has been committed since the pass went by its position.
    """

    stretch: Stretch
    is_overtaken: bool

    @property
    def route(self) -> Route | None:
        """What the broker must have."""
        return self.stretch.route

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages."""
        return self.stretch.waiting.messages


@dataclass(slots=True)
class Passage:
    """A page under way. written: the next one may follow. settled: it is known how it ended."""

    route: Route | None
    written: anyio.Event = field(default_factory=anyio.Event)
    settled: anyio.Event = field(default_factory=anyio.Event)

    async def until_followed_by(self, page: Page) -> None:
        """Wait until another page may be published behind this one.

        Why longer if the bindings change: they do for what is on its way, too.
        """
        stretch = page.stretch
        is_same = stretch.route == self.route and not stretch.changes
        awaited = self.written if is_same else self.settled
        if not awaited.is_set():
            await awaited.wait()


class Lane:
    """Publishes what is unsent of one topic.

    is_careful: the broker said no to a message, and since then no whole page went well. Then each
    is published once the one before is confirmed. has_confirmed: something was. has_lost: nobody
    knows of something whether the broker has it. is_suspicious: that was so twice; it is found out
    whether one queue is to blame. silent: the queues that were. why_held: why nothing can be
    published before somebody mends it, in the broker's own words or ours; empty: it can.
    """

    def __init__(
        self,
        topic: str,
        depot: Depot,
        *,
        is_careful: bool = False,
        is_suspicious: bool = False,
        silent: Sequence[str] = (),
    ) -> None:
        self.is_careful = is_careful
        self.has_confirmed = False
        self.has_lost = False
        self.silent = tuple(silent)
        self.why_held = ""
        self._is_suspicious = is_suspicious
        self._topic = topic
        self._signal = outbox.signal_of(topic)
        self._depot = depot
        self._has_small_page = False
        self._pages = anyio.Semaphore(PAGES_MAX, fast_acquire=True)
        self._room = Room(ROOM_OF_ONE_BYTES)
        self._failed = False
        self._failed_shards: set[int] = set()
        self._passed: set[int] = set()

    async def run(self, *, may_go_on: Callable[[], bool]) -> Ending:
        """Publish until nothing is left, or others need the place, or something fails.

        A pass begins at the oldest unsent message and goes on from there while there is something
        to do. Why it ends after a second: a smaller position may be committed after a larger one;
        before anything is published that may come after it, see `_is_overtaken`.
        may_go_on: asked after each page.
        """
        signals = self._depot.store.signals
        while True:
            seen, is_dry = signals.count(self._signal), False
            async with anyio.create_task_group() as pages:
                try:
                    if await self._is_heard():
                        is_dry = await self._pass(pages, may_go_on=may_go_on)
                except BusRefused as error:
                    self.why_held = str(error)
                    self._failed = True
                except (BusUnavailable, StoreUnavailable, OperationalError) as error:
                    log.warning("topic_not_published", topic=self._topic, why=str(error))
                    self._failed = True
            if self._failed:
                return Ending.FAILED
            if is_dry and signals.count(self._signal) == seen:
                return Ending.DRY
            if not may_go_on():
                return Ending.INTERRUPTED

    async def _is_heard(self) -> bool:
        """Whether every queue takes messages, as far as there is a doubt; if not, the lane fails.

        While a queue is silent it alone is asked, and the others get nothing twice.
        """
        if not (self.silent or self._is_suspicious):
            return True
        page = await self._read(after=0, size=LARGE)
        due, _ = _divide(page)
        asked, self.silent = self.silent, ()
        if page.route is not None and due:
            await self._depot.topology.align(self._topic, page.route, changes=page.stretch.changes)
            self.silent = await find_silent(self._depot.bus, page.route, due[0], among=asked)
        self._is_suspicious = False
        if self.silent:
            names = ", ".join(f"`{queue}`" for queue in self.silent)
            self.why_held = f"the broker's queue {names} takes no messages"
            self._failed = True
        return not self.silent

    async def _pass(self, pages: TaskGroup, *, may_go_on: Callable[[], bool]) -> bool:
        """Read page after page, each while the one before is on its way.

        Returns whether nothing was left.
        """
        signals = self._depot.store.signals
        ends_at = anyio.current_time() + PASS_S
        before: Passage | None = None
        after, size = 0, SMALL
        self._passed.clear()
        while anyio.current_time() < ends_at:
            seen = signals.count(self._signal)
            async with AsyncExitStack() as place:
                keep = await place.enter_async_context(self._place(size))
                page = await self._read(after=after, size=size)
                if page.is_overtaken:
                    return False
                keep(sum(len(message.body) for message in page.messages))
                self._passed.update(message.position for message in page.messages)
                if before is not None:
                    await before.until_followed_by(page)
                if self._failed:
                    return False
                await self._depot.topology.align(
                    self._topic, page.route, changes=page.stretch.changes
                )
                if page.messages:
                    passage = Passage(page.route)
                    pages.start_soon(self._publish, page, passage, before, place.pop_all())
                    before = passage
            is_dry = not page.stretch.waiting.more
            if (is_dry or page.messages) and not may_go_on():
                return is_dry
            after, size = page.stretch.waiting.last, SMALL if is_dry else LARGE
            if is_dry:
                await signals.wait(self._signal, seen=seen, at_most_s=LINGER_S)
                if signals.count(self._signal) == seen:
                    return True
        return False

    @asynccontextmanager
    async def _place(self, size: Size) -> AsyncIterator[Callable[[int], None]]:
        """Room for a page, from before it is read until it is settled.

        Yields what is to be told how many bytes the page really has. What is under way of all
        topics together is bounded by this, however long the messages.
        Why a small page needs none if it is the lane's only one: topics whose pages do not settle
        may have all the room there is, and hold up no short message of another.
        """
        if size is SMALL and not self._has_small_page:
            self._has_small_page = True
            try:
                yield lambda _: None
            finally:
                self._has_small_page = False
            return
        async with (
            self._pages,
            self._room.held(size.bytes_) as of_one,
            self._depot.room.held(size.bytes_) as of_all,
        ):

            def keep(bytes_: int) -> None:
                of_one.keep(bytes_)
                of_all.keep(bytes_)

            yield keep

    async def _read(self, *, after: int, size: Size) -> Page:
        """Read a page; what is on its way to being marked as sent is not in it any more.

        A small page is left empty by a message that does not fit in; a large one never is.
        """
        unmarked = self._depot.marker.unmarked(self._topic)

        def read(tx: Tx) -> Page:
            waiting = outbox.list_unsent(
                tx,
                self._topic,
                after=after,
                but=unmarked,
                limit=size.messages,
                bytes_max=size.bytes_,
                at_least_one=size is LARGE,
            )
            changes = rebinding.list_changes(tx, self._topic)
            wanted = self._depot.subscribers.find_route(tx, self._topic)
            stretch = rebinding.next_stretch(waiting, wanted, changes)
            return Page(stretch, self._is_overtaken(tx, after=after, unmarked=unmarked))

        store = self._depot.store
        return await (store.read_point(read) if size is SMALL else store.read_list(read))

    def _is_overtaken(self, tx: Tx, *, after: int, unmarked: frozenset[int]) -> bool:
        """Whether there is an unsent message up to a position that this pass has not seen there.

        On PostgreSQL a position is taken before its transaction is committed, so it may appear
        behind the place where the pass is; what follows of the same job is in front of it. Read in
        the same view as the page: whoever sees what follows sees what went before.
        """
        if not after or tx.dialect == "sqlite":  # which has one writer
            return False
        unsent = outbox.list_positions_unsent(tx, self._topic, upto=after)
        return not unsent <= self._passed | unmarked

    async def _publish(
        self, page: Page, passage: Passage, before: Passage | None, place: AsyncExitStack
    ) -> None:
        """Publish a page, and once the one before is settled have what was sent marked."""
        async with place:
            try:
                due, not_due = _divide(page)
                outcomes = [Outcome.LOST] * len(due)
                if page.route is None:
                    log.info("topic_gone", topic=self._topic, messages=len(not_due))
                elif due and not self._failed:  # nothing overtakes what has failed
                    outcomes = await self._tell(page.route, due, passage)
                self._note(outcomes)
                passage.written.set()
                if before is not None and not before.settled.is_set():
                    await before.settled.wait()
                sent = settled(due, outcomes, failed=self._failed_shards)
                MESSAGES_PUBLISHED.inc(len(sent))
                done = [message.position for message in (*sent, *not_due)]
                await self._depot.marker.add(self._topic, done)
            finally:
                passage.settled.set()

    async def _tell(
        self, route: Route, messages: Sequence[Message], passage: Passage
    ) -> list[Outcome]:
        """Publish messages, all at once or, if care is needed, one by one."""
        if not self.is_careful:
            return await self._depot.bus.publish(route, messages, written=passage.written.set)
        outcomes: list[Outcome] = []
        failed: set[int] = set()
        for message in messages:
            if Outcome.LOST in outcomes:
                outcomes.append(Outcome.LOST)
            elif message.shard in failed:
                outcomes.append(Outcome.REFUSED)
            else:
                outcomes += await self._depot.bus.publish(route, [message])
            if outcomes[-1] is not Outcome.CONFIRMED:
                failed.add(message.shard)
        return outcomes

    def _note(self, outcomes: Sequence[Outcome]) -> None:
        """Note how a page went."""
        failures = {each for each in outcomes if each is not Outcome.CONFIRMED}
        self.has_confirmed |= Outcome.CONFIRMED in outcomes
        if not failures:
            self.is_careful &= not outcomes
            return
        self._failed = True
        self.has_lost |= Outcome.LOST in failures
        self.is_careful |= failures != {Outcome.LOST}
        log.warning(
            "messages_not_confirmed",
            topic=self._topic,
            messages=sum(each is not Outcome.CONFIRMED for each in outcomes),
            outcomes=sorted(each.value for each in failures),
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
    order, if partly for the second time. What was on its way with a message that the broker
    refuses arrives before it, that once; from then on the topic is published with care, one by
    one, until a whole page has gone well.
    """
    sent: list[Message] = []
    for message, outcome in zip(messages, outcomes, strict=True):
        if outcome is not Outcome.CONFIRMED:
            failed.add(message.shard)
        elif message.shard not in failed:
            sent.append(message)
    return sent
