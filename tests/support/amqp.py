"""An AMQP subscriber that nobody here wrote: pika."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pika
from pika.adapters.blocking_connection import BlockingChannel

READ_S = 30.0


@dataclass(frozen=True)
class Delivered:
    """One message as a subscriber sees it."""

    body: bytes
    routing_key: str
    properties: pika.BasicProperties

    @property
    def id(self) -> str:
        return str(self.properties.message_id)


@contextmanager
def open_channel(url: str) -> Iterator[BlockingChannel]:
    """A channel of a new connection."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        if connection.is_open:
            connection.close()


def read(url: str, queue: str, *, until: Callable[[list[Delivered]], bool]) -> list[Delivered]:
    """Read and acknowledge messages of a subscriber's queue until a condition on them holds."""
    found: list[Delivered] = []
    give_up_at = time.monotonic() + READ_S
    with open_channel(url) as channel:
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        for method, properties, body in channel.consume(queue, inactivity_timeout=0.2):
            if method is not None:
                found.append(Delivered(body, method.routing_key, properties))
                channel.basic_ack(method.delivery_tag)
            if until(found):
                return found
            if time.monotonic() > give_up_at:
                raise AssertionError(f"{queue}: only {len(found)} messages came in {READ_S} s")
    raise AssertionError("unreachable: consume goes on for ever")
