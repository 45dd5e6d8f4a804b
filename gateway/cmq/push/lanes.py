"""One subscriber's lane: its messages pushed in order, and marked."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import anyio

from gateway.clock import Clock, optional_wire_time
from gateway.cmq.push import backlog, dead_letters
from gateway.cmq.push.backlog import Delivery, Page, Pausing, Subscriber
from gateway.cmq.push.dead_letters import Death, count_buried
from gateway.cmq.push.marking import DeliveryMarker, write_surely
from gateway.cmq.push.posting import Answer, Poster
from gateway.cmq.push.schedules import WELL
from gateway.cmq.push.secrets import Secrets, SecretUnreadable
from gateway.cmq.push.webhooks import body_of, headers_of
from gateway.errors import ResourceNotFound
from gateway.store import Store
from gateway.telemetry import PUSH_SECONDS, PUSHES, log

SLOW_S = 1.0  # who took longer is not well
MARK_S = 0.2  # how long a delivered message may be unmarked
STOP_S = 5.0
EXPIRED_AT_ONCE = 256
DELIVERED, FAILED = PUSHES.labels("delivered"), PUSHES.labels("failed")


@dataclass(frozen=True, slots=True)
class Office:
    """What all lanes push with."""

    store: Store
    marker: DeliveryMarker
    secrets: Secrets
    pausing: Pausing
    clock: Clock
    new_request_id: Callable[[], str]


class PushLane:
    """Pushes to one subscription. One at a time exists for each.

    is_well: the last push succeeded and was quick.
    """

    def __init__(
        self, office: Office, poster: Poster, *, subscription_id: str, is_well: bool
    ) -> None:
        self.subscription_id = subscription_id
        self.is_well = is_well
        self._again = False
        self._read_up_to = 0
        self._office = office
        self._poster = poster
        self._page_messages = backlog.PAGE if is_well else 1
        self._asked_at: float | None = None
        self._unmarked: list[int] = []

    def is_slow(self, *, now: float) -> bool:
        """Whether the subscriber is not well, or takes long with the request that is on its way.

        now: the loop's time.
        """
        return not self.is_well or (self._asked_at is not None and now - self._asked_at > SLOW_S)

    def note(self, newest: int) -> None:
        """Hear up to which position messages wait: whether some have come since it last read."""
        self._again = self._again or newest > self._read_up_to

    async def run(self, *, may_go_on: Callable[[], bool]) -> bool:
        """Push until nothing waits or a push goes wrong; returns whether more may wait.

        may_go_on: asked between pages; others may need the place.
        """
        is_first = True
        while is_first or (self.is_well and self._page_messages > 1 and may_go_on()):
            is_first = self._again = False
            try:
                page = await self._read()
            except SecretUnreadable:  # nobody but us can mend it, so nothing is held against them
                return False
            if page is not None and page.deliveries:
                self._read_up_to = page.deliveries[-1].position
            if page is not None and not await self._push_page(page):
                return False
            if (page is None or page.is_last) and not self._again:
                return False
        return True

    async def _read(self) -> Page | None:
        office = self._office
        read = partial(
            backlog.read_page,
            subscription_id=self.subscription_id,
            limit=self._page_messages,
            secrets=office.secrets,
            now=office.clock(),
        )
        return await office.store.read_point(read)

    async def _bury_expired(self) -> None:
        bury = partial(
            dead_letters.bury_expired,
            subscription_id=self.subscription_id,
            limit=EXPIRED_AT_ONCE,
            now=self._office.clock(),
        )
        count = await self._office.store.write(bury)
        count_buried(Death.EXPIRED, count)
        log.warning("messages_given_up", subscription=self.subscription_id, messages=count)

    async def _push_page(self, page: Page) -> bool:
        """Push messages and mark them; False if the subscriber is to be left alone for a while."""
        if not page.deliveries:
            await self._bury_expired()
            return True
        try:
            subscriber = await self._signed(page.subscriber)
        except ResourceNotFound:  # deleted since
            return False
        failed = await self._push_and_mark(subscriber, page.deliveries)
        if failed is None:
            return True
        delivery, answer = failed
        if answer.ours:
            log.error("push_not_possible", subscription=subscriber.id, why=answer.why)
            return False
        return await self._settle_failure(subscriber, delivery, why=answer.why or "")

    async def _push_and_mark(
        self, subscriber: Subscriber, deliveries: tuple[Delivery, ...]
    ) -> tuple[Delivery, Answer] | None:
        """Push until one goes wrong, which is returned. What is delivered is marked soon."""
        try:
            if len(deliveries) == 1:
                failed = await self._push_each(subscriber, deliveries)
            else:
                async with anyio.create_task_group() as beside:
                    beside.start_soon(self._mark_now_and_then, subscriber)
                    failed = await self._push_each(subscriber, deliveries)
                    beside.cancel_scope.cancel()
            await self._mark(subscriber)
        finally:  # told to end: what is delivered is still marked, or it would be sent again
            if self._unmarked:
                with anyio.move_on_after(STOP_S, shield=True):
                    await self._mark_by_itself(subscriber)
        return failed

    async def _signed(self, subscriber: Subscriber) -> Subscriber:
        """The subscriber with the keys to sign for it, made if this is its first push."""
        if subscriber.keys:
            return subscriber
        office = self._office
        find = partial(office.secrets.signing, subscription_id=subscriber.id, now=office.clock())
        return replace(subscriber, keys=await office.store.write(find))

    async def _push_each(
        self, subscriber: Subscriber, deliveries: tuple[Delivery, ...]
    ) -> tuple[Delivery, Answer] | None:
        """Push until one goes wrong: that one, and how it went."""
        for delivery in deliveries:
            answer = await self._push(subscriber, delivery)
            if answer.why is not None:
                self.is_well = self.is_well and answer.ours
                return delivery, answer
            self._unmarked.append(delivery.position)
            self.is_well = answer.seconds <= SLOW_S
        return None

    async def _push(self, subscriber: Subscriber, delivery: Delivery) -> Answer:
        office = self._office
        body = body_of(delivery.letter, subscriber.addressee)
        headers = headers_of(
            delivery.letter,
            body,
            request_id=office.new_request_id(),
            keys=subscriber.keys,
            now=office.clock(),
        )
        self._asked_at = anyio.current_time()
        try:
            answer = await self._poster.post(subscriber.endpoint, body, headers=headers)
        finally:
            self._asked_at = None
        (DELIVERED if answer.why is None else FAILED).inc()
        PUSH_SECONDS.observe(answer.seconds)
        return answer

    async def _mark_now_and_then(self, subscriber: Subscriber) -> None:
        while True:
            await anyio.sleep(MARK_S)
            await self._mark(subscriber)

    async def _mark(self, subscriber: Subscriber) -> None:
        """Store which messages are delivered."""
        positions = tuple(self._unmarked)
        if not positions:
            return
        if subscriber.standing == WELL:
            await self._office.marker.mark(subscriber.id, positions)
            del self._unmarked[: len(positions)]
        else:
            await self._mark_by_itself(subscriber)

    async def _mark_by_itself(self, subscriber: Subscriber) -> None:
        """Store which messages are delivered, and that the subscriber is well again."""
        office = self._office
        positions = tuple(self._unmarked)
        mark = partial(
            backlog.mark_delivered, subscriber=subscriber, positions=positions, now=office.clock()
        )
        await write_surely(office.store, mark)
        del self._unmarked[: len(positions)]
        if subscriber.standing.paused_at is not None:
            log.info("subscription_resumed", subscription=subscriber.id)

    async def _settle_failure(self, subscriber: Subscriber, failed: Delivery, *, why: str) -> bool:
        """Store that a push failed, and what follows; whether it is the next one's turn."""
        fail = partial(
            backlog.mark_failed,
            subscriber=subscriber,
            failed=failed,
            why=why,
            pausing=self._office.pausing,
            now=self._office.clock(),
        )
        verdict = await write_surely(self._office.store, fail)
        if verdict is None:
            return False
        about = {"subscription": subscriber.id, "message": failed.letter.id, "why": why}
        if verdict.standing.paused_at is not None and subscriber.standing.paused_at is None:
            log.warning("subscription_paused", **about)
        if verdict.next_at is None:
            count_buried(Death.NO_RETRY_LEFT, 1)
            log.warning("message_given_up", **about)
            self._again = True
            return True
        retry_at = optional_wire_time(verdict.next_at)
        log.info("push_failed", **about, attempt=failed.attempts + 1, retry_at=retry_at)
        return False
