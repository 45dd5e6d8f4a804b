"""HTTP in and out. Two applications: the API, and management on a port of its own.

Errors become envelopes here and nowhere else; what is no ApiError is a bug and says nothing.
"""

from collections.abc import Awaitable, Callable
from time import perf_counter

import anyio
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from gateway import protocol
from gateway.call import HttpRequest
from gateway.clock import Clock
from gateway.errors import ApiError, InternalError, InvalidRequest, RequestSizeLimitExceeded
from gateway.pipeline import Pipeline
from gateway.telemetry import CALL_SECONDS, CALLS, log

CLASSIC_PATH = "/v2/index.php"
BODY_S = 60.0
HEADERS_MAX = 64
HEADER_BYTES_MAX = 16 * 1_024

Ready = Callable[[], Awaitable[list[str]]]
"""Says what is not ready; nothing means ready."""


class Endpoint:
    """The API as a bare ASGI application: one path, one dialect."""

    def __init__(
        self, pipeline: Pipeline, *, clock: Clock, new_request_id: Callable[[], str], classic: bool
    ) -> None:
        self._pipeline = pipeline
        self._clock = clock
        self._new_request_id = new_request_id
        self._classic = classic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the status is always 200."""
        began = perf_counter()
        request_id = self._new_request_id()
        try:
            request = await self._read(scope, receive)
            reply = await self._pipeline(request, request_id=request_id, classic=self._classic)
            body, code = self._success(reply, request_id), "ok"
        except ApiError as error:
            body, code = self._failure(error, request_id), error.code
        except Exception:
            log.exception("call_failed", request_id=request_id)
            ours = InternalError("An internal error has occurred. Retry your request.")
            body, code = self._failure(ours, request_id), ours.code
        CALLS.labels(code=code).inc()
        CALL_SECONDS.observe(perf_counter() - began)
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", protocol.CONTENT_TYPE.encode()),
                    (b"content-length", str(len(body)).encode()),
                ],
            }
        )
        await send({"type": "http.response.body", "body": body})

    @property
    def _success(self) -> Callable[..., bytes]:
        return protocol.classic_success if self._classic else protocol.success

    @property
    def _failure(self) -> Callable[..., bytes]:
        return protocol.classic_failure if self._classic else protocol.failure

    async def _read(self, scope: Scope, receive: Receive) -> HttpRequest:
        headers = read_headers(scope["headers"])
        client = scope.get("client")
        return HttpRequest(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode("latin-1"),
            headers=headers,
            body=await read_body(headers, receive),
            source_ip=client[0] if client else "",
            received_at=self._clock(),
        )


def read_headers(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by lower-case name. Raises InvalidRequest if one is repeated, or there are too many.

    Why: two Host or Authorization headers mean different things to different readers.
    """
    headers: dict[str, str] = {}
    if len(raw) > HEADERS_MAX or sum(len(n) + len(v) for n, v in raw) > HEADER_BYTES_MAX:
        raise InvalidRequest("The request has too many or too large headers.")
    for name, value in raw:
        key = name.decode("latin-1").lower()
        if key in headers:
            raise InvalidRequest(f"The header `{key[:64]}` is given twice.")
        headers[key] = value.decode("latin-1")
    if "content-length" in headers and "transfer-encoding" in headers:
        raise InvalidRequest("Content-Length and Transfer-Encoding exclude each other.")
    return headers


async def read_body(headers: dict[str, str], receive: Receive) -> bytes:
    """Read the whole body. Raises RequestSizeLimitExceeded before more than the limit is kept."""
    if int(headers.get("content-length") or 0) > protocol.MAX_BODY:
        raise _too_large()
    chunks: list[bytes] = []
    size = 0
    try:
        with anyio.fail_after(BODY_S):
            while True:
                message: Message = await receive()
                if message["type"] == "http.disconnect":
                    raise InvalidRequest("The connection was closed before the end of the body.")
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > protocol.MAX_BODY:
                    raise _too_large()
                chunks.append(chunk)
                if not message.get("more_body"):
                    return b"".join(chunks) if len(chunks) > 1 else chunk
    except TimeoutError:
        raise InvalidRequest(f"The body did not arrive within {BODY_S:.0f} s.") from None


def _too_large() -> RequestSizeLimitExceeded:
    return RequestSizeLimitExceeded(f"The body is larger than {protocol.MAX_BODY} bytes.")


def create_api(pipeline: Pipeline, *, clock: Clock, new_request_id: Callable[[], str]) -> Starlette:
    """The API. Whatever is not served is 404, before any thought."""
    api = Endpoint(pipeline, clock=clock, new_request_id=new_request_id, classic=False)
    classic = Endpoint(pipeline, clock=clock, new_request_id=new_request_id, classic=True)
    methods = ["GET", "POST"]
    return Starlette(
        routes=[
            Route("/", api, methods=methods),
            Route(CLASSIC_PATH, classic, methods=methods),
        ]
    )


def create_management(ready: Ready) -> Starlette:
    """Liveness, readiness and metrics."""

    async def livez(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        problems = await ready()
        text = "".join(f"{problem}\n" for problem in problems) or "ok\n"
        return PlainTextResponse(text, status_code=503 if problems else 200)

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)]
    )
