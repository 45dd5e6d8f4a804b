"""The bus on RabbitMQ. Messages are published with confirms, up to a hundred outstanding.

Why aiormq below aio-pika: the channel that aio-pika wraps publishes a third faster and says by
itself whether a message was confirmed, returned or refused.
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
from aiormq.exceptions import AMQPChannelError, AMQPError, DeliveryError, PublishError
from pamqp.commands import Basic
from pamqp.common import FieldValue

from gateway.events.bus import (
    Binding,
    BusRefused,
    BusUnavailable,
    Message,
    Outcome,
    Route,
)
from gateway.telemetry import log

WINDOW = 100  # outstanding confirms; more gains nothing
PERSISTENT = 2
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
        """See `Bus.publish`. A window of workers shares one line of messages, taken in order."""
        outcomes = [Outcome.LOST] * len(messages)
        try:
            channel = await self._open_channel()
        except BusUnavailable:
            return outcomes
        waiting = iter(enumerate(messages))

        async def work() -> None:
            for index, message in waiting:
                outcomes[index] = await self._publish_one(channel, route, message)
                if outcomes[index] is Outcome.LOST:
                    return

        async with anyio.create_task_group() as workers:
            for _ in range(min(WINDOW, len(messages))):
                workers.start_soon(work)
        if Outcome.LOST in outcomes and self._channel is not channel:
            with anyio.move_on_after(CLOSE_S):
                await channel.close()
        return outcomes

    async def aclose(self) -> None:
        """Close the connection; what is not confirmed by now is published again next time."""
        await self._close_connection()

    async def _close_connection(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(*LINE_ERRORS), anyio.move_on_after(CLOSE_S):
                await self._connection.close()

    async def _publish_one(self, channel: RawChannel, route: Route, message: Message) -> Outcome:
        patience_s = self._patience_s.setdefault(route.exchange, min(TRIAL_S, self._confirm_s))
        try:
            with _line():
                await channel.basic_publish(
                    message.body,
                    exchange=route.exchange,
                    routing_key=message.routing_key,
                    properties=properties_of(message),
                    mandatory=route.reaches_anyone(message.routing_key),
                    timeout=patience_s,
                    wait=False,
                )
        except PublishError:
            return Outcome.RETURNED
        except DeliveryError:
            return Outcome.REFUSED
        except (BusUnavailable, BusRefused) as error:
            self._patience_s[route.exchange] = min(patience_s * 2, self._confirm_s)
            self._abandon(channel, why=error)
            return Outcome.LOST
        self._patience_s[route.exchange] = self._confirm_s
        return Outcome.CONFIRMED

    def _abandon(self, channel: RawChannel, *, why: Exception) -> None:
        """Publish on a new channel from now on: one that was late once may never confirm again."""
        if self._channel is channel:
            log.warning("channel_abandoned", why=repr(why))
            self._channel = None

    async def _open_channel(self) -> RawChannel:
        async with self._lock:
            connection = await self._connected()
            if self._channel is None or self._channel.is_closed:
                with _line(), anyio.fail_after(self._confirm_s):
                    channel = connection.channel(on_return_raises=True)
                    await channel.initialize()
                    # the abstract type does not know basic_publish's `wait`
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
    """Turn the libraries' errors into ours; what became of one message passes unchanged.

    Why CancelledError: a connection that closes cancels whoever waits for an answer on it, which
    is not a wish of ours to stop. A task that is really cancelled says so by `cancelling`.
    """
    try:
        yield
    except (PublishError, DeliveryError):
        raise
    except AMQPChannelError as error:
        raise BusRefused(str(error)) from error
    except LINE_ERRORS as error:
        raise BusUnavailable(repr(error)) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise BusUnavailable("the connection was closed") from error


def properties_of(message: Message) -> Basic.Properties:
    """The AMQP properties of a message: enough to filter, to order and to see a duplicate."""
    headers: dict[str, FieldValue] = {"uin": message.owner_uin, "region": message.region}
    if message.seq is not None:
        headers["seq"] = message.seq
    if message.traceparent is not None:
        headers["traceparent"] = message.traceparent
    from_batch = message.event_name is not None
    return Basic.Properties(
        content_type="application/json" if from_batch else "text/plain",
        content_encoding="base64" if from_batch else "utf-8",
        delivery_mode=PERSISTENT,
        message_id=message.id,
        message_type=message.event_name,
        timestamp=message.created_at,
        headers=headers,
    )
