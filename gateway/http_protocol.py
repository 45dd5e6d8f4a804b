"""uvicorn's HTTP/1.1 with bounds it has not, and what ASGI does not let an application do."""

import asyncio
from contextlib import AbstractContextManager
from typing import cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEADER_BYTES_MAX = 16 * 1_024
EXTENSION = "gateway.exchange"


class Exchange:
    """What an application can do with one request and its answer, besides ASGI."""

    __slots__ = ("_cycle",)

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    def abort(self) -> None:
        """Drop the connection, as it is."""
        self._cycle.transport.abort()

    def has_left(self) -> bool:
        """Whether the connection is closed, or about to be."""
        return self._cycle.transport.is_closing()

    def has_come(self) -> bool:
        """Whether all of the request is here."""
        return not self._cycle.more_body

    def writing_at_once(self) -> AbstractContextManager[None]:
        """A block in which head and body of the answer are gathered, to be written at its end."""
        return _AtOnce(self._cycle)


def exchange_of(scope: Scope) -> Exchange | None:
    """What `HttpProtocol` has put into a scope; None in one of another server."""
    extension = scope.get("extensions", {}).get(EXTENSION)
    return None if extension is None else extension["exchange"]


class _AtOnce:
    """Stands in for the transport of one answer, and writes what was written to it at the end.

    Why: uvicorn writes the head, then the body; each is a call of the kernel, and a packet.
    """

    __slots__ = ("_cycle", "_pieces", "_transport")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        self._pieces: list[bytes] = []

    def __enter__(self) -> None:
        self._cycle.transport = cast("asyncio.Transport", self)

    def __exit__(self, *_: object) -> None:
        self._cycle.transport = self._transport
        self._flush()

    def write(self, data: bytes) -> None:
        self._pieces.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._pieces:
            self._transport.write(b"".join(self._pieces))
            self._pieces.clear()


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's reader of HTTP/1.1, with bounds on what comes before the body, and on its reader.

    head_bytes_max: beyond it the connection is closed while it is still being read.
    head_s: how long a request line and headers may take, and a new connection may stay silent.
    read_s: how long a client may take to read some more of a long answer.
    Why: uvicorn has none of these bounds, so a client could have memory, and connections for ever,
    before anybody asks who it is, and by what it never reads.
    """

    head_bytes_max = 4 * HEADER_BYTES_MAX
    head_s = 20.0
    read_s = 60.0

    def connection_made(  # type: ignore[override]  # uvicorn narrows the transport, too
        self, transport: asyncio.Transport
    ) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._head_bytes = 0
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._await_head()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """The head has come; the body has a bound of its own, in `read_body`."""
        self._in_head = False
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()
        self.scope["extensions"] = {EXTENSION: {"exchange": Exchange(self.cycle)}}

    def data_received(self, data: bytes) -> None:
        """Read on, unless the head is too large."""
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > self.head_bytes_max:
                self.send_400_response("The headers are too large.")
            elif self._head_timer is None:
                self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        for timer in (self._head_timer, self._read_timer):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        """More has been written than the client has read of late."""
        super().pause_writing()
        if self._read_timer is None:
            self._await_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The client has read nearly all of it."""
        super().resume_writing()
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_s, self.transport.close)

    def _await_reader(self, unread: int) -> None:
        self._read_timer = self.loop.call_later(self.read_s, self._look_at_reader, unread)

    def _look_at_reader(self, unread: int) -> None:
        """Go on while something is read; `unread` is how much was left when it was last looked."""
        left = self.transport.get_write_buffer_size()
        if left < unread:
            self._await_reader(left)
        else:
            self.transport.abort()
