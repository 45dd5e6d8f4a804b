"""The bus on RabbitMQ: exchanges, queues and bindings on one connection, publishing on another.

Why two: a broker that is short of memory or disk stops reading a connection that publishes, and
subscriptions can be made all the same. `connection.py` knows how either is lost and made again,
`confirms.py` how many messages are published at a time.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import aio_pika
import anyio
from aio_pika.abc import AbstractChannel
from aiormq.exceptions import ChannelNotFoundEntity

from gateway.events import confirms
from gateway.events.bus import (
    Binding,
    BusRefused,
    BusUnavailable,
    Message,
    Outcome,
    Route,
)
from gateway.events.confirms import Published, PublishingChannel
from gateway.events.connection import CLOSE_S, Connection, line_errors, tls_context
from gateway.telemetry import BROKER_BLOCKED, log

QUORUM = {"x-queue-type": "quorum"}
OPEN_S = 3.0  # for a channel; a line that takes longer swallows what is sent, and is given up
TRIAL_S = 1.0
"""How long the first confirm on a new connection may take, doubled each time that it does not come.

Why: what is published while a quorum queue is just electing its leader is never confirmed. To wait
the whole deadline for it would silence the topic for that long after every restart of the broker.
"""


@asynccontextmanager
async def open_rabbitmq(
    url: str, *, confirm_s: float, ca_file: str = "", cert_file: str = "", key_file: str = ""
) -> AsyncIterator["RabbitMQ"]:
    """A bus on the broker at `url` ("amqp://…" or "amqps://…"), which need not be there yet.

    confirm_s: how long the broker may take to answer anything. The files: see `tls_context`, and
    as it does this raises SettingsError.
    """
    for name in ("aio_pika", "aiormq"):  # the relay reports an outage once, they at every try
        logging.getLogger(name).setLevel(logging.CRITICAL)
    tls = tls_context(url, ca_file=ca_file, cert_file=cert_file, key_file=key_file)
    publishing = Connection(url, tls=tls, answer_s=confirm_s)
    asking = Connection(url, tls=tls, answer_s=confirm_s)
    try:
        yield RabbitMQ(publishing, asking, confirm_s=confirm_s)
    finally:  # what is not confirmed by now is published again next time
        with anyio.CancelScope(shield=True):
            await publishing.drop()
            await asking.drop()


class RabbitMQ:
    """A `Bus`. publishing: a connection with one channel, for messages. asking: for all the rest.

    confirm_s: how long the broker may take to answer anything.
    """

    def __init__(self, publishing: Connection, asking: Connection, *, confirm_s: float) -> None:
        self._publishing = publishing
        self._asking = asking
        self._confirm_s = confirm_s
        self._channel: PublishingChannel | None = None
        self._number = 0
        self._patience_s: dict[str, float] = {}
        self._seen: set[str] = set()  # queues that were there once
        self._blocked = False
        self._under_way: dict[str, list[PublishingChannel]] = {}
        self._whys: dict[str, str] = {}  # by exchange: why something was lost, as it was logged
        self._left: list[PublishingChannel] = []
        self._lock = anyio.Lock(fast_acquire=True)

    async def connect(self) -> int:
        """See `Bus.connect`."""
        await self._publishing.opened()
        if self._publishing.number != self._number:
            self._number = self._publishing.number
            self._patience_s.clear()
            log.info("broker_connected", connection=self._number)
        return self._number

    async def declare(self, route: Route) -> None:
        """See `Bus.declare`. Exchanges and queues are durable, queues are quorum queues."""
        queues = sorted({binding.queue for binding in route.bindings} | {*route.queues.values()})
        await self._notice_losses([name for name in queues if name in self._seen])
        async with self._channel_to_ask() as channel:
            exchange = await channel.declare_exchange(
                route.exchange, aio_pika.ExchangeType.TOPIC, durable=True
            )
            for name in queues:
                await channel.declare_queue(name, durable=True, arguments=dict(QUORUM))
            for binding in route.bindings:
                queue = await channel.get_queue(binding.queue, ensure=False)
                await queue.bind(exchange, binding.key)
        self._seen.update(queues)

    async def _notice_losses(self, queues: list[str]) -> None:
        """Say which queues are gone that were there, with all they held, and all due to them."""
        queue = ""
        while queues:
            try:
                async with self._channel_to_ask() as channel:
                    while queues:
                        queue = queues.pop()
                        await channel.declare_queue(queue, passive=True)
            except BusRefused as error:  # which closes the channel
                if isinstance(error.__cause__, ChannelNotFoundEntity):
                    log.error("queue_deleted_on_the_broker", queue=queue)

    async def unbind(self, exchange: str, *, binding: Binding) -> None:
        """See `Bus.unbind`. For RabbitMQ what does not exist is unbound already."""
        async with self._channel_to_ask() as channel:
            queue = await channel.get_queue(binding.queue, ensure=False)
            await queue.unbind(exchange, binding.key)
        self._seen.discard(binding.queue)

    async def remove(self, exchange: str) -> None:
        """See `Bus.remove`."""
        async with self._channel_to_ask() as channel:
            await channel.exchange_delete(exchange)
        self._patience_s.pop(exchange, None)
        self._whys.pop(exchange, None)

    async def publish(
        self,
        route: Route,
        messages: Sequence[Message],
        *,
        written: Callable[[], None] = lambda: None,
    ) -> list[Outcome]:
        """See `Bus.publish`. A channel that was late once may never confirm again: it is left."""
        exchange = route.exchange
        try:
            with line_errors():
                before = tuple(self._under_way.get(exchange, ()))
                channel = await self._current_channel()
                if any(each is not channel for each in before):
                    # the broker keeps the order within a channel, not between two
                    raise BusUnavailable("the channel of what is under way was closed")
                with self._noting(channel, exchange=exchange):
                    published = await confirms.publish(
                        channel,
                        route,
                        messages,
                        first_s=self._patience_of(exchange),
                        then_s=self._confirm_s,
                        is_blocked=self._is_blocked,
                        written=written,
                    )
                    if self._blocked:
                        await self._is_blocked()
        except (BusUnavailable, BusRefused) as error:
            published = Published([Outcome.LOST] * len(messages), str(error))
        else:
            if published.why_lost:
                self._leave(channel, exchange=exchange)
        if published.why_lost:
            self._tell_once(published.why_lost, exchange=exchange)
        else:
            self._patience_s[exchange] = self._confirm_s
            self._whys.pop(exchange, None)
        return published.outcomes

    @contextmanager
    def _noting(self, channel: PublishingChannel, *, exchange: str) -> Iterator[None]:
        """Note on which channel something is on its way to an exchange, while it is."""
        under_way = self._under_way.setdefault(exchange, [])
        under_way.append(channel)
        try:
            yield
        finally:
            under_way.remove(channel)
            if not under_way:
                self._under_way.pop(exchange, None)

    def _tell_once(self, why: str, *, exchange: str) -> None:
        """Log why it is not known what became of messages, until some are confirmed again."""
        if self._whys.get(exchange) != why:
            self._whys[exchange] = why
            log.warning("publish_interrupted", exchange=exchange, why=why)

    def _patience_of(self, exchange: str) -> float:
        return self._patience_s.get(exchange, min(TRIAL_S, self._confirm_s))

    def _leave(self, channel: PublishingChannel, *, exchange: str) -> None:
        """Publish on a new channel from now on, and wait longer for it."""
        self._patience_s[exchange] = min(2 * self._patience_of(exchange), self._confirm_s)
        if self._channel is channel:
            log.warning("channel_abandoned", exchange=exchange)
            self._channel = None
            self._left.append(channel)

    async def _current_channel(self) -> PublishingChannel:
        """The channel to publish on. Raises BusUnavailable, BusRefused."""
        async with self._lock:
            if self._channel is None or self._channel.is_closed:
                self._channel = await self._open_channel()
            return self._channel

    async def _open_channel(self) -> PublishingChannel:
        """A new channel. A connection that gives none in time is dead, and is dropped."""
        while self._left:
            with anyio.move_on_after(CLOSE_S):
                await self._left.pop().close()
        transport = (await self._publishing.opened()).transport
        if transport is None:
            raise BusUnavailable("the connection was closed")
        try:
            with line_errors(), anyio.fail_after(min(OPEN_S, self._confirm_s)):
                return await PublishingChannel.open_on(transport.connection)
        except BusUnavailable:
            await self._publishing.drop()
            raise

    async def _is_blocked(self) -> bool:
        blocked = await self._publishing.is_blocked()
        if blocked != self._blocked:
            self._blocked = blocked
            BROKER_BLOCKED.set(blocked)
            if blocked:
                log.error("broker_blocked", why="it is short of memory or disk: publishing waits")
            else:
                log.info("broker_unblocked")
        return blocked

    @asynccontextmanager
    async def _channel_to_ask(self) -> AsyncIterator[AbstractChannel]:
        """A channel of its own for one piece of work: the broker closes it to refuse something."""
        connection = await self._asking.opened()
        try:
            with line_errors(), anyio.fail_after(self._confirm_s):
                channel = connection.channel()
                with anyio.fail_after(OPEN_S):
                    await channel.initialize()
                async with channel:
                    yield channel
        except BusUnavailable:
            await self._asking.drop()
            raise
