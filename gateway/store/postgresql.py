"""PostgreSQL: the same transaction functions, run in threads on pooled connections."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio.to_thread
import psycopg
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError

from gateway.store.lines import CONNECT_S, Line, Lines, Prober, Watch
from gateway.store.signals import Signals
from gateway.store.transactions import CALLERS_FAULTS, StoreUnavailable, Tx
from gateway.telemetry import log

T = TypeVar("T")
CONNECTIONS = 16
TRIES = 5
PING_S = 2.5
LINE_OPTIONS = {
    "connect_timeout": CONNECT_S,
    "tcp_user_timeout": 30_000,  # milliseconds without an acknowledgement from the other side
    "options": "-c lock_timeout=30s",
}
RETRIED_SQLSTATES = frozenset({"40001", "40P01"})  # serialization failure, deadlock


def driver_url(url: str) -> str:
    """The same URL with the driver named: psycopg 3."""
    return "postgresql+psycopg://" + url.split("://", 1)[1]


class PostgresqlStore:
    """A `Store` on a PostgreSQL database.

    If the line is lost during COMMIT itself, nobody can tell whether it happened: then, and only
    then, `StoreUnavailable` may be raised for a change that is stored. No call waits for ever for
    a server that is silent: see `lines`.
    """

    def __init__(self, engine: Engine, *, loop: asyncio.AbstractEventLoop) -> None:
        self.signals = Signals()
        self._engine = engine
        self._loop = loop
        self._threads = anyio.CapacityLimiter(CONNECTIONS)
        lines = Lines()
        event.listen(engine, "connect", lambda line, _: lines.add(line))
        self._prober = Prober(self._open_line)
        self._watch = Watch(lines, self._prober)
        event.listen(engine, "do_connect", lambda *_: self._watch.check())

    async def write(self, function: Callable[[Tx], T]) -> T:
        """See `Store.write`. A deadlock or serialization failure is tried again."""
        return await anyio.to_thread.run_sync(self._write, function, limiter=self._threads)

    async def read_point(self, function: Callable[[Tx], T]) -> T:
        """See `Store.read_point`."""
        return await self.read_list(function)

    async def read_list(self, function: Callable[[Tx], T]) -> T:
        """See `Store.read_list`."""
        return await anyio.to_thread.run_sync(self._read, function, limiter=self._threads)

    async def ping(self) -> None:
        """See `Store.ping`. On a line of its own, so that a busy pool does not look like an outage.

        Who is cancelled leaves the thread behind, which ends soon.
        """
        await anyio.to_thread.run_sync(self._ping, abandon_on_cancel=True)

    async def aclose(self) -> None:
        """Close every line, once nothing is under way any more."""
        await anyio.to_thread.run_sync(self._close)

    def _ping(self) -> None:
        try:
            self._prober.ask(at_most_s=PING_S)
        except (TimeoutError, psycopg.Error) as error:
            raise StoreUnavailable(f"The database does not answer: {error}") from error

    def _open_line(self, connect_s: int) -> Line:
        """A line beside those of the pool."""
        dialect = self._engine.dialect
        arguments, options = dialect.create_connect_args(self._engine.url)
        options = {**options, **LINE_OPTIONS, "connect_timeout": connect_s, "autocommit": True}
        line: Any = dialect.connect(*arguments, **options)
        opened: Line = line
        return opened

    def _close(self) -> None:
        self._watch.close()
        self._prober.close()
        self._engine.dispose()

    def _write(self, function: Callable[[Tx], T]) -> T:
        for left in reversed(range(TRIES)):
            try:
                with self._engine.begin() as connection:
                    tx = Tx(connection)
                    result = function(tx)
            except DBAPIError as error:
                if left and getattr(error.orig, "sqlstate", None) in RETRIED_SQLSTATES:
                    continue
                if isinstance(error, CALLERS_FAULTS):
                    raise
                log.exception("commit_failed")
                if not isinstance(error, OperationalError):  # such as: it is a standby now
                    self._engine.dispose()  # new lines may lead to another
                raise StoreUnavailable("The change could not be stored. Try again.") from error
            if tx.woken:  # from here, so that a caller who has gone does not take them along
                self._loop.call_soon_threadsafe(self.signals.wake, tx.woken)
            return result
        raise AssertionError("unreachable: the last try returns or raises")

    def _read(self, function: Callable[[Tx], T]) -> T:
        try:
            with self._engine.connect().execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            ) as connection:
                return function(Tx(connection))
        except DBAPIError as error:
            if isinstance(error, CALLERS_FAULTS):
                raise
            log.exception("read_failed")
            raise StoreUnavailable("The database does not answer. Try again.") from error


@asynccontextmanager
async def open_postgresql(url: str) -> AsyncIterator[PostgresqlStore]:
    """Open the store; connections are made when first used."""
    engine = create_engine(
        driver_url(url),
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_pre_ping=True,
        hide_parameters=True,  # an error is logged; what was to be stored may be a secret
        connect_args=LINE_OPTIONS,
    )
    store = PostgresqlStore(engine, loop=asyncio.get_running_loop())
    try:
        yield store
    finally:
        with anyio.CancelScope(shield=True):
            await store.aclose()
