"""HTTP in and out. Two applications: the API, and management on a port of its own.

Errors become envelopes here and nowhere else; what is no ApiError is a bug and says nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from time import perf_counter

import anyio
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import protocol
from gateway.call import HAS_LEFT, HttpRequest
from gateway.clock import Clock
from gateway.errors import ApiError, InternalError, InvalidRequest, RequestSizeLimitExceeded
from gateway.http_protocol import HEADER_BYTES_MAX, exchange_of
from gateway.pipeline import Pipeline
from gateway.stream import Stream, Streams
from gateway.telemetry import CALL_SECONDS, calls_of, log

CLASSIC_PATH = "/v2/index.php"
STREAM_PATH = "/events/stream"
BODY_S = 60.0
HEADERS_MAX = 64

STREAM_STATUSES: Mapping[str, int] = {
    "AuthFailure": 401,
    "InternalError": 500,
    "RequestLimitExceeded": 429,
    "ServiceUnavailable": 503,
    "UnauthorizedOperation": 403,
}
"""By the family of an error; 400 for the others."""
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
        if (exchange := exchange_of(scope)) is not None:
            HAS_LEFT.set(exchange.has_left)
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
                _abort(scope)
            except Exception:
                log.exception("event_stream_failed")
                _abort(scope)
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
    exchange = exchange_of(scope) if len(body) <= WRITTEN_AT_ONCE_MAX else None
    with nullcontext() if exchange is None else exchange.writing_at_once():
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
    exchange = exchange_of(scope)
    return exchange is not None and exchange.has_come()


def _abort(scope: Scope) -> None:
    """Drop the connection. Raises RuntimeError where there is none to drop."""
    exchange = exchange_of(scope)
    if exchange is None:
        raise RuntimeError("this server cannot drop a connection")
    exchange.abort()


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
