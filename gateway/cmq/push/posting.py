"""One push: a request to a subscriber's endpoint, and what came of it."""

import asyncio
import errno
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace

import aiohttp
import anyio
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.cmq.push.addresses import AddressRefused, Reach
from gateway.cmq.push.answering import Connector
from gateway.telemetry import log

ANSWER_S = 15.0
"""From connecting to the end of the answer's head. Source: CMQ 2017, "Message delivery"."""
KEPT_S = 4.0  # how long an idle connection is kept: less than the 5 s that many servers keep theirs
BODY_BYTES_MAX, BODY_S = 64 * 1024, 0.5
RESOLVERS = 32  # names asked for at once, of those known to be quick and of the others
QUICK_S, HOSTS_MAX = 1.0, 10_000
URLS_MAX = 10_000
HTTP_1 = (aiohttp.HttpVersion10, aiohttp.HttpVersion11)
WHY_LENGTH_MAX = 200
SUCCESS = range(200, 300)
OUR_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a push. why: what was wrong; None if the subscriber has it.

    ours: what was wrong lies on this side, and says nothing of the subscriber.
    """

    why: str | None
    seconds: float
    ours: bool = False


@dataclass(slots=True)
class Attempt:
    """What one request went over: a new connection, or one that was kept from before."""

    reused: bool = False


class Resolver(AbstractResolver):
    """Asks the system for names, in threads of its own.

    Why of its own: the loop has four for all, and a name server that does not answer holds one for
    half a minute. Names that were found quickly the last time never wait behind others.
    """

    def __init__(self) -> None:
        self._threads, self._quick_threads = (
            ThreadPoolExecutor(RESOLVERS, thread_name_prefix=name)
            for name in ("resolver", "quick-resolver")
        )
        self._quick: set[str] = set()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name. Raises OSError if it has none."""

        def ask() -> list[ResolveResult]:
            found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
            return [
                ResolveResult(
                    hostname=host,
                    host=str(address[0]),
                    port=port,
                    family=kind,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
                for kind, _, protocol, _, address in found
            ]

        threads = self._quick_threads if host in self._quick else self._threads
        found, took_s = await asyncio.get_running_loop().run_in_executor(threads, _timed, ask)
        if took_s > QUICK_S:
            self._quick.discard(host)
        elif len(self._quick) < HOSTS_MAX:
            self._quick.add(host)
        return found

    async def close(self) -> None:
        """Ask for no more names."""
        for threads in (self._threads, self._quick_threads):
            threads.shutdown(wait=False, cancel_futures=True)


def _timed(ask: Callable[[], list[ResolveResult]]) -> tuple[list[ResolveResult], float]:
    began = time.monotonic()
    return ask(), time.monotonic() - began


class Poster:
    """Pushes, over connections that are kept a little while."""

    def __init__(self, session: aiohttp.ClientSession, *, answer_s: float) -> None:
        self._session = session
        self._answer_s = answer_s

    async def post(self, url: str, body: bytes, *, headers: Mapping[str, str]) -> Answer:
        """Push once. Never raises but when it is cancelled."""
        began = anyio.current_time()
        why: str | None = f"there was no answer within {self._answer_s:g} s"
        ours = False
        try:
            with anyio.move_on_after(self._answer_s) as scope:
                status = await self._request(url, body, headers, scope)
                why = None if status in SUCCESS else f"the answer was {status}"
        except Exception as error:  # whatever it is, the subscriber has not got the message
            why = _describe(error)
            ours = find_errno(error) in OUR_SHORTAGES
        return Answer(why and why[:WHY_LENGTH_MAX], anyio.current_time() - began, ours)

    async def _request(
        self, url: str, body: bytes, headers: Mapping[str, str], scope: anyio.CancelScope
    ) -> int:
        """The status of the answer, asked for again while a kept connection turns out closed."""
        while True:
            attempt = Attempt()
            try:
                response = await self._session.post(
                    _read_url(url),
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    trace_request_ctx=attempt,
                )
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if not attempt.reused:
                    raise
                continue
            try:
                scope.deadline = float("inf")  # the head is there: the rest does not matter
                if response.version not in HTTP_1:
                    raise aiohttp.ClientPayloadError
                if response.status in SUCCESS and not response.content.is_eof():
                    await _drain(response)
            finally:
                response.close()
            return response.status


@lru_cache(URLS_MAX)
def _read_url(text: str) -> yarl.URL:
    return yarl.URL(text)


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read a short body, so that its connection can be kept; what it says is of no interest."""
    left = BODY_BYTES_MAX
    try:
        with anyio.move_on_after(BODY_S):
            while left > 0 and (chunk := await response.content.readany()):
                left -= len(chunk)
    except aiohttp.ClientError:
        return


@asynccontextmanager
async def open_poster(
    reach: Reach, *, tls: ssl.SSLContext, answer_s: float = ANSWER_S
) -> AsyncIterator[Poster]:
    """Open the connections of pushes. tls: how the certificates of https are checked."""
    connector = Connector(
        ssl=tls,
        limit=0,  # who pushes keeps to limits of its own
        keepalive_timeout=KEPT_S,
        resolver=Resolver(),
        socket_factory=reach.open_socket,
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        skip_auto_headers=("Accept", "Accept-Encoding"),
        auto_decompress=False,
        trust_env=False,
        trace_configs=[_tracing_reuse()],
    ) as session:
        yield Poster(session, answer_s=answer_s)


def _tracing_reuse() -> aiohttp.TraceConfig:
    """Have an attempt told that its connection was kept from before."""

    async def note(
        session: aiohttp.ClientSession,
        context: SimpleNamespace,
        params: aiohttp.TraceConnectionReuseconnParams,
    ) -> None:
        context.trace_request_ctx.reused = True

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_reuseconn.append(note)
    return tracing


def find_errno(error: Exception) -> int | None:
    """The number that the system gave an error; None if it did not come from there."""
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return inner.errno if isinstance(inner, OSError) else None


def _describe(error: Exception) -> str:  # noqa: PLR0911  # a list of sentences
    """Say what was wrong with a push, never in words that came from the other side."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return f"the name of the host cannot be resolved: {error.os_error.strerror}"
        case aiohttp.ClientConnectorCertificateError(
            certificate_error=ssl.SSLCertVerificationError() as found
        ):
            return f"the certificate is not valid: {found.verify_message}"
        case aiohttp.ClientSSLError():
            return "TLS could not be agreed on"
        case aiohttp.ClientConnectorError(os_error=AddressRefused() as refused):
            return str(refused)
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno
            reason = str(error.os_error) if number is None else os.strerror(number)
            return f"there was no connection: {reason}"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return "the connection was closed before the answer"
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return "the answer was not HTTP"
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError() | ValueError():
            return "the endpoint is no URL that can be asked"
    log.error("push_broke", exc_info=error)
    return "the push went wrong in the gateway"
