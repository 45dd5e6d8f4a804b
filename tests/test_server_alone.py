"""What must be waited for, or cannot be had of a real gateway, tried on the API alone."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import anyio
import anyio.from_thread
import pytest
import uvicorn
from starlette.types import Message

from gateway import server
from gateway.app import Server
from gateway.call import HttpRequest, Reply
from gateway.clock import now
from gateway.errors import AuthFailure, InvalidRequest
from gateway.http_protocol import HttpProtocol
from gateway.ids import new_request_id
from gateway.pipeline import Pipeline
from gateway.server import create_api, read_body, read_headers
from gateway.stream import Streams
from tests.support.raw_client import open_line
from tests.support.services import LOOPBACK


class Bug(Exception):
    """What no one has foreseen."""


@contextmanager
def served(
    protocol: type[HttpProtocol] = HttpProtocol,
    *,
    raises: Exception | None = None,
    says: Reply | None = None,
) -> Iterator[int]:
    """The API alone on a port of its own; whatever is asked raises an error, or has one answer."""

    async def answer(request: HttpRequest, **_: object) -> Reply:
        if says is not None:
            return says
        raise raises or AuthFailure("nobody")

    api = create_api(
        cast("Pipeline", answer),
        streams=cast("Streams", None),
        clock=now,
        new_request_id=new_request_id,
    )
    listener = socket.create_server((LOOPBACK, 0))
    with listener, anyio.from_thread.start_blocking_portal() as portal:
        running = Server(
            uvicorn.Config(api, http=protocol, ws="none", lifespan="off", log_config=None)
        )
        done = portal.start_task_soon(running.serve, [listener])
        try:
            yield listener.getsockname()[1]
        finally:
            running.should_exit = True
            done.result(timeout=10)


class Impatient(HttpProtocol):
    head_s = 0.2


GOOD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("first", [b"", b"G", b"GET / HTTP/1.1\r\nHost: ", GOOD + b"GET / HT"])
def test_who_does_not_finish_a_head_in_time_is_cut_off(first: bytes) -> None:
    with served(Impatient) as port, open_line(port) as line:
        line.send(first)
        if first.startswith(GOOD):
            assert line.answer().status == 200
        assert line.is_closed()


def test_who_finishes_a_head_in_time_is_not_cut_off() -> None:
    with served(Impatient) as port, open_line(port) as line:
        give_up_at = time.monotonic() + 3 * Impatient.head_s
        while time.monotonic() < give_up_at:
            line.send(GOOD)
            assert line.answer().status == 200


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nX: "])
def test_a_head_without_end_is_not_kept_in_memory(start: bytes) -> None:
    with served() as port, open_line(port) as line:
        line.send(start)
        for _ in range(64):
            line.send_as_far_as_possible(b"x" * 16_384)
        assert line.is_closed() or line.answer().status == 400


def test_a_bug_says_nothing_of_the_inside() -> None:
    with served(raises=Bug("the secret word")) as port, open_line(port) as line:
        line.send(GOOD)
        answer = line.answer()
    assert (answer.status, answer.code) == (200, "InternalError")
    assert b"secret" not in answer.body


class Hurried(HttpProtocol):
    read_s = 0.2
    lost = threading.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost.set()


LONG = Reply(b'{"Text":"' + b"x" * 8 * 1024 * 1024 + b'"}')


@contextmanager
def unread(port: int) -> Iterator[socket.socket]:
    """A connection on which a long answer has been asked for."""
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 131_072)
        line.settimeout(10)
        line.connect((LOOPBACK, port))
        line.sendall(GOOD)
        yield line


def test_who_reads_nothing_of_a_long_answer_is_cut_off() -> None:
    Hurried.lost.clear()
    with served(Hurried, says=LONG) as port, unread(port):
        assert Hurried.lost.wait(10)


class Unread:
    """A transport of which the client has read some more at each look."""

    def __init__(self, *left: int) -> None:
        self._left = iter(left)
        self.is_cut = False
        self.looks = 0

    def get_write_buffer_size(self) -> int:
        self.looks += 1
        return next(self._left)

    def abort(self) -> None:
        self.is_cut = True


class Clockless:
    """A loop in which whatever is to be done later is done now."""

    def call_later(self, _: float, what: Callable[..., None], *given: int) -> None:
        what(*given)


def test_who_goes_on_reading_is_not_cut_off_until_they_stop() -> None:
    transport = Unread(500, 400, 399, 399)
    watched = Hurried.__new__(Hurried)
    watched.loop = cast("asyncio.AbstractEventLoop", Clockless())
    watched.transport = cast("asyncio.Transport", transport)
    watched._await_reader(transport.get_write_buffer_size())  # noqa: SLF001  # what it is about
    assert transport.is_cut
    assert transport.looks == 4


class Writes:
    """A transport that counts what is written to it."""

    counts: ClassVar[list[int]] = []

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self.counts.append(len(data))
        self._transport.write(data)


class Counted(HttpProtocol):
    def connection_made(self, transport: Any) -> None:  # type: ignore[override]  # as there
        super().connection_made(cast("asyncio.Transport", Writes(transport)))


@pytest.mark.parametrize(
    ("ending", "closes"), [(b"\r\n", False), (b"Connection: close\r\n\r\n", True)]
)
def test_an_answer_is_written_at_once(ending: bytes, closes: bool) -> None:
    Writes.counts.clear()
    with served(Counted) as port, open_line(port) as line:
        for _ in range(1 if closes else 2):
            line.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + ending)
            assert line.answer().code == "AuthFailure"
        assert not closes or line.is_closed()
    assert len(Writes.counts) == (1 if closes else 2)


def test_a_body_that_comes_late_is_waited_for_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
    with served() as port, open_line(port) as line:
        line.send(head)
        line.send(b"{}")
        assert line.answer().code == "AuthFailure"
    monkeypatch.setattr(server, "BODY_S", 0.01)
    with served() as port, open_line(port) as line:
        line.send(head)
        assert line.answer().code == "InvalidRequest"


@pytest.mark.anyio
async def test_a_body_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(server, "BODY_S", 0.01)
    with pytest.raises(InvalidRequest):
        await read_body({}, receive)


@pytest.mark.anyio
async def test_a_body_whose_sender_leaves_is_not_taken_for_the_whole() -> None:
    messages = [{"type": "http.request", "body": b"{}", "more_body": True}]
    messages.append({"type": "http.disconnect"})

    async def receive() -> Message:
        return messages.pop(0)

    with pytest.raises(InvalidRequest):
        await read_body({}, receive)


def test_both_ways_to_say_how_long_a_body_is_are_refused_together() -> None:
    with pytest.raises(InvalidRequest):
        read_headers([(b"content-length", b"2"), (b"transfer-encoding", b"chunked")])
