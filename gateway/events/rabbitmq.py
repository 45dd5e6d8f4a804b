"""The bus on RabbitMQ: the connection and its loss, exchanges and queues, the publishing channel.

aio-pika connects and declares; `confirms.py` publishes on the channel below it.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import cast

import aio_pika
import anyio
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.connection import make_url
from aiormq import Channel as RawChannel
from aiormq.exceptions import AMQPChannelError, AMQPError

from gateway.events import confirms
from gateway.events.bus import (
    Binding,
    BusRefused,
    BusUnavailable,
    Message,
    Outcome,
    Route,
)
from gateway.telemetry import log

QUORUM = {"x-queue-type": "quorum"}
CLOSE_S = 1.0
TRIAL_S = 1.0
"""How long the first confirm on a new connection may take, doubled each time that it does not come.

Why: what is published while a quorum queue is just electing its leader is never confirmed. To wait
the whole deadline for it would silence the topic for that long after every restart of the broker.
"""
LINE_ERRORS = (AMQPError, OSError, RuntimeError, TimeoutError)
"""How the libraries say that the line is gone; RuntimeError is theirs for a closed connection."""


@asynccontextmanager
async def open_rabbitmq(url: str, *, confirm_s: float) -> AsyncIterator["RabbitMQ"]:
    """A bus on the broker at `url` ("amqp://…"), which need not be there yet.

    confirm_s: how long the broker may take to answer anything.
    """
    for name in ("aio_pika", "aiormq"):  # the relay reports an outage once, they at every try
        logging.getLogger(name).setLevel(logging.CRITICAL)
    bus = RabbitMQ(url, confirm_s=confirm_s)
    try:
        yield bus
    finally:
        with anyio.CancelScope(shield=True):
            await bus.aclose()


class RabbitMQ:
    """A `Bus` with one connection, made when it is needed, and one channel for publishing."""

    def __init__(self, url: str, *, confirm_s: float) -> None:
        self._url = url
        self._confirm_s = confirm_s
        self._connection: AbstractConnection | None = None
        self._channel: RawChannel | None = None
        self._number = 0
        self._patience_s: dict[str, float] = {}
        self._lock = anyio.Lock()

    async def connect(self) -> int:
        """See `Bus.connect`."""
        async with self._lock:
            await self._connected()
            return self._number

    async def declare(self, route: Route) -> None:
        """See `Bus.declare`. Exchanges and queues are durable, queues are quorum queues."""
        async with self._administering() as channel:
            exchange = await channel.declare_exchange(
                route.exchange, aio_pika.ExchangeType.TOPIC, durable=True
            )
            for name in sorted({binding.queue for binding in route.bindings}):
                await channel.declare_queue(name, durable=True, arguments=dict(QUORUM))
            for binding in route.bindings:
                queue = await channel.get_queue(binding.queue, ensure=False)
                await queue.bind(exchange, binding.key)

    async def unbind(self, exchange: str, *, binding: Binding) -> None:
        """See `Bus.unbind`. For RabbitMQ what does not exist is unbound already."""
        async with self._administering() as channel:
            queue = await channel.get_queue(binding.queue, ensure=False)
            await queue.unbind(exchange, binding.key)

    async def remove(self, exchange: str) -> None:
        """See `Bus.remove`."""
        async with self._administering() as channel:
            await channel.exchange_delete(exchange)

    async def publish(self, route: Route, messages: Sequence[Message]) -> list[Outcome]:
        """See `Bus.publish`. A channel that was late once may never confirm again: it is closed."""
        lost = [Outcome.LOST] * len(messages)
        try:
            channel = await self._open_channel()
            with _line():
                outcomes = await confirms.publish(
                    channel,
                    route,
                    messages,
                    first_s=self._patience_of(route.exchange),
                    then_s=self._confirm_s,
                )
        except (BusUnavailable, BusRefused):
            return lost
        if Outcome.LOST in outcomes:
            await self._abandon(channel, exchange=route.exchange)
        else:
            self._patience_s[route.exchange] = self._confirm_s
        return outcomes

    def _patience_of(self, exchange: str) -> float:
        return self._patience_s.get(exchange, min(TRIAL_S, self._confirm_s))

    async def _abandon(self, channel: RawChannel, *, exchange: str) -> None:
        """Publish on a new channel from now on, and wait longer for it."""
        self._patience_s[exchange] = min(2 * self._patience_of(exchange), self._confirm_s)
        if self._channel is channel:
            log.warning("channel_abandoned", exchange=exchange)
            self._channel = None
        with anyio.move_on_after(CLOSE_S):
            await channel.close()

    async def aclose(self) -> None:
        """Close the connection; what is not confirmed by now is published again next time."""
        await self._close_connection()

    async def _close_connection(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(*LINE_ERRORS), anyio.move_on_after(CLOSE_S):
                await self._connection.close()

    async def _open_channel(self) -> RawChannel:
        async with self._lock:
            connection = await self._connected()
            if self._channel is None or self._channel.is_closed:
                with _line(), anyio.fail_after(self._confirm_s):
                    channel = connection.channel(on_return_raises=True)
                    await channel.initialize()
                    # the abstract type does not know of confirms
                    self._channel = cast(RawChannel, await channel.get_underlay_channel())
            return self._channel

    @asynccontextmanager
    async def _administering(self) -> AsyncIterator[AbstractChannel]:
        """A channel of its own for one piece of work: the broker closes it to refuse something."""
        async with self._lock:
            connection = await self._connected()
        with _line(), anyio.fail_after(self._confirm_s):
            async with connection.channel() as channel:
                yield channel

    async def _connected(self) -> AbstractConnection:
        """The open connection, a new one if need be; call it with the lock held."""
        if self._connection is None or not self._connection.connected.is_set():
            self._channel = None
            self._patience_s.clear()
            await self._close_connection()
            # kept even if it fails: aio-pika wants every connection closed, open or not
            self._connection = aio_pika.Connection(make_url(self._url))
            with _line(), anyio.fail_after(self._confirm_s):
                await self._connection.connect()
            self._number += 1
            log.info("broker_connected", connection=self._number)
        return self._connection


@contextmanager
def _line() -> Iterator[None]:
    """Turn the libraries' errors into ours.

    Why CancelledError: a connection that closes cancels whoever waits for an answer on it, which
    is not a wish of ours to stop. A task that is really cancelled says so by `cancelling`.
    """
    try:
        yield
    except AMQPChannelError as error:
        raise BusRefused(str(error)) from error
    except LINE_ERRORS as error:
        raise BusUnavailable(repr(error)) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise BusUnavailable("the connection was closed") from error
