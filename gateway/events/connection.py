"""A connection to RabbitMQ: made when it is needed, made again when it is lost, over TLS if asked.

What goes wrong on it is told in our own words: BusUnavailable, or BusRefused if the broker says no.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aio_pika
import anyio
from aio_pika.connection import make_url
from aiormq.abc import AbstractConnection
from aiormq.exceptions import (
    AMQPChannelError,
    AMQPError,
    AuthenticationError,
    ConnectionNotAllowed,
    InvalidFrameError,
    ProbableAuthenticationError,
)
from yarl import URL

from gateway.config import SettingsError
from gateway.events.bus import BusRefused, BusUnavailable, LoginRefused

CLOSE_S = 1.0
HEARTBEAT_S = 10
"""Why not aiormq's own 60: a line that swallows everything in silence is given up after three
heartbeats. The URL may say otherwise, by `?heartbeat=`.
"""
LINE_ERRORS = (AMQPError, OSError, RuntimeError, TimeoutError, StopAsyncIteration)
"""How the libraries say that the line is gone; RuntimeError is theirs for a closed connection, and
StopAsyncIteration for one that is closed before the broker has said who it is.
"""
LOGIN_ERRORS = (AuthenticationError, ConnectionNotAllowed, ProbableAuthenticationError)


def tls_context(url: str, *, ca_file: str, cert_file: str, key_file: str) -> ssl.SSLContext | None:
    """How the broker's certificate is checked, and what is shown to it; None for "amqp://…".

    ca_file, cert_file, key_file: PEM files; empty: the system's authorities, no certificate of
    our own, the key beside the certificate. Raises SettingsError for files that are of no use.
    Why the URL cannot say it (`?no_verify_ssl=1`): a check that the settings ask for is made.
    """
    if not url.startswith("amqps:"):
        if ca_file or cert_file or key_file:
            raise SettingsError("`amqp_ca_file` and the like need an `amqp_url` of amqps://")
        return None
    if key_file and not cert_file:
        raise SettingsError("`amqp_key_file` needs `amqp_cert_file`")
    named = {"amqp_ca_file": ca_file, "amqp_cert_file": cert_file, "amqp_key_file": key_file}
    for name, file in named.items():
        if file and not Path(file).is_file():
            raise SettingsError(f"`{name}`: there is no file {file}")
    name = "amqp_ca_file"
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
        name = "amqp_cert_file"
        if cert_file:
            # an empty password: a key that needs one would be asked for at the terminal
            context.load_cert_chain(cert_file, key_file or None, password="")
    except OSError as error:  # ssl.SSLError is one, too
        raise SettingsError(f"`{name}` cannot be used: {error}") from error
    return context


class Connection:
    """One connection to the broker, or none for the moment.

    number: 0, then one more with each connection that is made.
    """

    def __init__(self, url: str, *, tls: ssl.SSLContext | None, answer_s: float) -> None:
        parts = make_url(url)
        if parts.scheme not in ("amqp", "amqps"):
            raise SettingsError("`amqp_url` must be amqp://… or amqps://…")
        self.number = 0
        self._url: URL = parts.update_query({"heartbeat": str(HEARTBEAT_S)} | dict(parts.query))
        self._tls = tls
        self._answer_s = answer_s
        self._connection: aio_pika.Connection | None = None
        self._lock = anyio.Lock()

    async def opened(self) -> aio_pika.Connection:
        """The open connection, a new one if need be. Raises BusUnavailable."""
        async with self._lock:
            if self._connection is None or not self._connection.connected.is_set():
                await self._close()
                # kept even if it fails: aio-pika wants every connection closed, open or not
                self._connection = aio_pika.Connection(self._url, ssl_context=self._tls)
                with line_errors(), anyio.fail_after(self._answer_s), _noticing_no_entry():
                    await self._connection.connect()
                self.number += 1
            return self._connection

    async def is_blocked(self) -> bool:
        """Whether the broker takes nothing now, because it is short of memory or disk."""
        line = self._line()
        if line is None or line.is_closed:
            return False
        with anyio.move_on_after(0) as scope:
            await line.ready()  # returns at once unless it is blocked
        return scope.cancelled_caught

    async def drop(self) -> None:
        """Close the connection; the next who needs one makes another."""
        async with self._lock:
            await self._close()

    def _line(self) -> AbstractConnection | None:
        connection = self._connection
        return connection.transport.connection if connection and connection.transport else None

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with contextlib.suppress(*LINE_ERRORS), anyio.move_on_after(CLOSE_S):
            await connection.close()


@contextmanager
def _noticing_no_entry() -> Iterator[None]:
    """Tell a virtual host that is closed to us, which aiormq reports as a frame it cannot read."""
    try:
        yield
    except InvalidFrameError as error:
        if "Connection.Close" not in str(error):
            raise
        raise LoginRefused("the virtual host is not there, or closed to this user") from error


@contextmanager
def line_errors() -> Iterator[None]:
    """Turn the libraries' errors into ours; no error of theirs holds the URL's password.

    Why CancelledError: a connection that closes cancels whoever waits for an answer on it, which
    is not a wish of ours to stop. A task that is really cancelled says so by `cancelling`.
    """
    try:
        yield
    except AMQPChannelError as error:
        raise BusRefused(str(error)) from error
    except LINE_ERRORS as error:
        reason = error.__cause__ or error
        if isinstance(error, LOGIN_ERRORS) or _is_tls_refusal(reason):
            raise LoginRefused(repr(reason)) from error
        raise BusUnavailable(repr(error)) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise BusUnavailable("the connection was closed") from error


def _is_tls_refusal(error: BaseException) -> bool:
    """Whether one side does not trust the other; a line that broke in the middle is no refusal."""
    broken = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
    return isinstance(error, ssl.SSLError) and not isinstance(error, broken)
