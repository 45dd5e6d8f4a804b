"""HTTP in and out. Two applications: the API, and management on a port of its own.

Errors become envelopes here and nowhere else; what is no ApiError is a bug and says nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from time import perf_counter
from typing import cast

import anyio
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway import protocol
from gateway.call import HAS_LEFT, HttpRequest
from gateway.clock import Clock
from gateway.errors import ApiError, InternalError, InvalidRequest, RequestSizeLimitExceeded
from gateway.pipeline import Pipeline
from gateway.stream import Stream, Streams
from gateway.telemetry import CALL_SECONDS, calls_of, log

CLASSIC_PATH = "/v2/index.php"
STREAM_PATH = "/events/stream"
BODY_S = 60.0
HEADERS_MAX = 64
HEADER_BYTES_MAX = 16 * 1_024

STREAM_STATUSES: Mapping[str, int] = {
    "AuthFailure": 401,
    "InternalError": 500,
    "RequestLimitExceeded": 429,
    "ServiceUnavailable": 503,
    "UnauthorizedOperation": 403,
}
"""By the family of an error; 400 for the others."""
ABORT = "gateway.abort"
"""The ASGI extension by which `HttpProtocol` lets an application drop its connection."""
LEFT = "gateway.left"
"""The one by which it tells whether its connection is closed."""
HAS_COME = "gateway.has_come"
"""The one by which it tells whether all of a request has come."""
AT_ONCE = "gateway.at_once"
"""The one by which it writes head and body of an answer at once."""
WRITTEN_AT_ONCE_MAX = 64 * 1_024
"""A longer body is not copied for that."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """How the service does. problems: why it can take no calls now; none: it can.

    degraded: what else is not as it should be, and keeps nobody from calling.
    """

    problems: Sequence[str]
    degraded: Sequence[str]


Ready = Callable[[], Awaitable[Readiness]]


class Endpoint:
    """The API as a bare ASGI application: one path, one dialect."""

    def __init__(
        self, pipeline: Pipeline, *, clock: Clock, new_request_id: Callable[[], str], classic: bool
    ) -> None:
        self._pipeline = pipeline
        self._clock = clock
        self._new_request_id = new_request_id
        self._classic = classic
        self._body_max = protocol.CLASSIC_MAX_BODY if classic else protocol.MAX_BODY

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the status is always 200."""
        began = perf_counter()
        request_id = self._new_request_id()
        if LEFT in scope.get("extensions", ()):
            HAS_LEFT.set(scope["extensions"][LEFT]["connection"])
        try:
            request = await read_request(scope, receive, clock=self._clock, body_max=self._body_max)
            reply = await self._pipeline(request, request_id=request_id, classic=self._classic)
            body, code = self._success(reply, request_id), "ok"
        except ApiError as error:
            body, code = self._failure(error, request_id), error.code
        except Exception:
            log.exception("call_failed", request_id=request_id)
            ours = InternalError("An internal error has occurred. Retry your request.")
            body, code = self._failure(ours, request_id), ours.code
        calls_of(code).inc()
        CALL_SECONDS.observe(perf_counter() - began)
        await send_json(scope, send, body, status=200)

    @property
    def _success(self) -> Callable[..., bytes]:
        return protocol.classic_success if self._classic else protocol.success

    @property
    def _failure(self) -> Callable[..., bytes]:
        return protocol.classic_failure if self._classic else protocol.failure


class StreamEndpoint:
    """The stream of events as a bare ASGI application.

    Why its errors have a status of their own, unlike those of the API: a client of server-sent
    events takes every 200 for a stream, and an envelope in it for silence.
    """

    def __init__(
        self, streams: Streams, *, clock: Clock, new_request_id: Callable[[], str]
    ) -> None:
        self._streams = streams
        self._clock = clock
        self._new_request_id = new_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell one reader, until they leave or the stream ends."""
        if scope["method"] != "GET":  # Starlette lets HEAD in with it
            await PlainTextResponse("Method Not Allowed", 405)(scope, receive, send)
            return
        request_id = self._new_request_id()
        error: ApiError
        try:
            request = await read_request(scope, receive, clock=self._clock)
            stream = await self._streams.open(request, request_id=request_id)
        except ApiError as refused:
            error = refused
        except Exception:
            log.exception("call_failed", request_id=request_id)
            error = InternalError("An internal error has occurred. Retry your request.")
        else:
            calls_of("ok").inc()
            try:
                await self._tell(stream, scope, receive, send)
            finally:
                self._streams.leave(stream)
            return
        calls_of(error.code).inc()
        status = STREAM_STATUSES.get(error.family, 400)
        await send_json(scope, send, protocol.failure(error, request_id), status=status)

    async def _tell(self, stream: Stream, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(piece: bytes) -> None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})

        async def run(left: anyio.CancelScope) -> None:
            try:
                await stream.run(write)
                await send({"type": "http.response.body", "body": b""})
            except TimeoutError:
                log.info("event_stream_cut", why="the reader does not read")
                scope["extensions"][ABORT]["connection"]()
            except Exception:
                log.exception("event_stream_failed")
                scope["extensions"][ABORT]["connection"]()
            else:
                left.cancel()

        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),  # a proxy in front must not collect what is told
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, tasks.cancel_scope)
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()


async def read_request(
    scope: Scope, receive: Receive, *, clock: Clock, body_max: int = protocol.MAX_BODY
) -> HttpRequest:
    """Read a request whole. Raises the ApiError of one that is malformed or too large."""
    headers = read_headers(scope["headers"])
    client = scope.get("client")
    return HttpRequest(
        method=scope["method"],
        path=scope["path"],
        query=scope["query_string"].decode("latin-1"),
        headers=headers,
        body=await read_body(headers, receive, most=body_max, has_come=_has_come(scope)),
        source_ip=client[0] if client else "",
        received_at=clock(),
    )


async def send_json(scope: Scope, send: Send, body: bytes, *, status: int) -> None:
    """Answer with an envelope."""
    headers = [
        (b"content-type", protocol.CONTENT_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    at_once = scope.get("extensions", {}).get(AT_ONCE)
    gathering = at_once is not None and len(body) <= WRITTEN_AT_ONCE_MAX
    with at_once["writing"]() if gathering else nullcontext():
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def read_headers(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by lower-case name. Raises InvalidRequest if one is repeated, or there are too many.

    Why: two Host or Authorization headers mean different things to different readers.
    """
    headers: dict[str, str] = {}
    if len(raw) > HEADERS_MAX or sum(map(len, chain.from_iterable(raw))) > HEADER_BYTES_MAX:
        raise InvalidRequest("The request has too many or too large headers.")
    for name, value in raw:
        key = name.decode("latin-1").lower()
        if key in headers:
            raise InvalidRequest(f"The header `{key[:64]}` is given twice.")
        headers[key] = value.decode("latin-1")
    if "content-length" in headers and "transfer-encoding" in headers:
        raise InvalidRequest("Content-Length and Transfer-Encoding exclude each other.")
    return headers


def _has_come(scope: Scope) -> bool:
    extension = scope.get("extensions", {}).get(HAS_COME)
    return extension is not None and extension["whole"]()


async def read_body(
    headers: dict[str, str],
    receive: Receive,
    *,
    most: int = protocol.MAX_BODY,
    has_come: bool = False,
) -> bytes:
    """Read the whole body. Raises RequestSizeLimitExceeded before more than `most` is kept.

    has_come: all of it is there, and nothing has to be waited for, as for nearly every call.
    """
    if int(headers.get("content-length") or 0) > most:
        raise _too_large(most)
    chunks: list[bytes] = []
    size = 0
    bound: AbstractAsyncContextManager[object]
    bound = nullcontext() if has_come else asyncio.timeout(BODY_S)  # anyio's costs three times that
    try:
        async with bound:
            while True:
                message: Message = await receive()
                if message["type"] == "http.disconnect":
                    raise InvalidRequest("The connection was closed before the end of the body.")
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > most:
                    raise _too_large(most)
                chunks.append(chunk)
                if not message.get("more_body"):
                    return b"".join(chunks) if len(chunks) > 1 else chunk
    except TimeoutError:
        raise InvalidRequest(f"The body did not arrive within {BODY_S:.0f} s.") from None


def _too_large(most: int) -> RequestSizeLimitExceeded:
    return RequestSizeLimitExceeded(f"The body is larger than {most} bytes.")


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
        self.scope["extensions"] = {
            ABORT: {"connection": self.transport.abort},
            LEFT: {"connection": self.transport.is_closing},
        }

    def on_headers_complete(self) -> None:
        """The head has come; the body has a bound of its own, in `read_body`."""
        self._in_head = False
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()
        cycle = self.cycle
        self.scope["extensions"][HAS_COME] = {"whole": lambda: not cycle.more_body}
        self.scope["extensions"][AT_ONCE] = {"writing": lambda: _AtOnce(cycle)}

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


def create_api(
    pipeline: Pipeline,
    *,
    streams: Streams,
    clock: Clock,
    new_request_id: Callable[[], str],
) -> ASGIApp:
    """The API. Whatever is not served is 404, before any thought."""
    api = Endpoint(pipeline, clock=clock, new_request_id=new_request_id, classic=False)
    classic = Endpoint(pipeline, clock=clock, new_request_id=new_request_id, classic=True)
    stream = StreamEndpoint(streams, clock=clock, new_request_id=new_request_id)
    methods = ["GET", "POST"]
    called = {"/": api, CLASSIC_PATH: classic}
    served = Starlette(
        routes=[
            *(Route(path, endpoint, methods=methods) for path, endpoint in called.items()),
            Route(STREAM_PATH, stream, methods=["GET"]),
        ]
    )
    served.router.redirect_slashes = False  # `/v2/index.php/` is not served either

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        """Why a call is not routed by Starlette: its layers take as long as the decision."""
        endpoint = called.get(scope.get("path", ""))
        if endpoint is None or scope.get("method") not in methods:
            await served(scope, receive, send)
        else:
            await endpoint(scope, receive, send)

    return serve


def create_management(ready: Ready) -> Starlette:
    """Liveness, readiness and metrics."""

    async def livez(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        found = await ready()
        lines = [*(found.problems or ["ok"]), *(f"degraded: {each}" for each in found.degraded)]
        text = "".join(f"{line}\n" for line in lines)
        return PlainTextResponse(text, status_code=503 if found.problems else 200)

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)]
    )
