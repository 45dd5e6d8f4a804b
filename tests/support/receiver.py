"""An HTTP subscriber on loopback that can be told how to misbehave, and logs what it was asked."""

import contextlib
import os
import socket
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSListener

from tests.support.services import LOOPBACK

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEAD_BYTES_MAX = 64 * 1024


@dataclass(frozen=True)
class Request:
    """One request as it came. headers: by their names in small letters. connection: counted."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def message_id(self) -> str:
        return self.headers["x-cmq-message-id"]


Answer = Callable[[ByteStream], Awaitable[bool]]
"""Answers a request; returns whether the connection goes on."""


class Receiver:
    """Answers every request well, unless it is told otherwise.

    wrong: how the next requests are answered, one each. always: how all others are.
    """

    def __init__(self, port: int, *, scheme: str = "http") -> None:
        self.port = port
        self.url = f"{scheme}://{LOOPBACK}:{port}/cgi"
        self.requests: list[Request] = []
        self.wrong: deque[Answer] = deque()
        self.always: Answer = says(GOOD, then="go on")
        self.connections = 0
        self.answered = 0

    @property
    def bodies(self) -> list[bytes]:
        return [request.body for request in self.requests]

    async def serve(self, stream: ByteStream) -> None:
        self.connections += 1
        number = self.connections
        broken = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.IncompleteRead)
        with contextlib.suppress(*broken):
            async with stream:
                reader = BufferedByteReceiveStream(stream)
                while True:
                    self.requests.append(await _read(reader, connection=number))
                    answer = self.wrong.popleft() if self.wrong else self.always
                    goes_on = await answer(stream)
                    self.answered += 1
                    if not goes_on:
                        return


@asynccontextmanager
async def open_receiver(
    *, tls: ssl.SSLContext | None = None, host: str = LOOPBACK
) -> AsyncIterator[Receiver]:
    """A receiver that listens. tls: of its own certificate, for https."""
    listener = await anyio.create_tcp_listener(local_host=host)
    port = listener.extra(SocketAttribute.local_port)  # noqa: S610  # anyio's extra, not Django's
    receiver = Receiver(port, scheme="https" if tls else "http")
    serving = TLSListener(listener, tls, standard_compatible=False) if tls else listener
    async with serving, anyio.create_task_group() as tasks:
        tasks.start_soon(serving.serve, receiver.serve)
        yield receiver
        tasks.cancel_scope.cancel()


async def _read(reader: BufferedByteReceiveStream, *, connection: int) -> Request:
    head = (await reader.receive_until(b"\r\n\r\n", HEAD_BYTES_MAX)).decode("latin-1")
    first, *lines = head.split("\r\n")
    method, path, _ = first.split(" ")
    pairs = (line.partition(": ") for line in lines)
    headers = {name.lower(): value for name, _, value in pairs}
    assert len(headers) == len(lines), "a header came twice"
    body = await reader.receive_exactly(int(headers["content-length"]))
    return Request(method, path, headers, body, connection)


def says(raw: bytes, *, then: str = "close") -> Answer:
    """Answer with these bytes, and then close, reset, hang, or go on."""

    async def answer(stream: ByteStream) -> bool:
        if raw:
            await stream.send(raw)
        if then == "hang":
            await _hang(stream)
        if then == "reset":
            _reset(stream)
        return then == "go on"

    return answer


def status(line: str, *headers: str) -> Answer:
    """Answer with a status such as `500 Internal Server Error`, and these headers, properly."""
    text = "\r\n".join([f"HTTP/1.1 {line}", *headers, "Content-Length: 0", "", ""])
    return says(text.encode(), then="go on")


def repeats(raw: bytes, *, first: bytes = b"", every_s: float = 0.0) -> Answer:
    """Answer with these bytes over and over, until the other side has enough."""

    async def answer(stream: ByteStream) -> bool:
        await stream.send(first or raw)
        while True:
            await stream.send(raw)
            await anyio.sleep(every_s)

    return answer


def held_until(release: anyio.Event) -> Answer:
    """Answer well, once the event is set."""

    async def answer(stream: ByteStream) -> bool:
        await release.wait()
        await stream.send(GOOD)
        return True

    return answer


async def _hang(stream: ByteStream) -> None:
    while True:
        await stream.receive()


def _reset(stream: ByteStream) -> None:
    """Have the next close be rude, as that of a crashed process is."""
    number = stream.extra(SocketAttribute.raw_socket).fileno()  # noqa: S610
    with socket.socket(fileno=os.dup(number)) as twin:
        twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
