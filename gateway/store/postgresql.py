"""PostgreSQL: the same transaction functions, run in threads on pooled connections."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio.to_thread
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError

from gateway.store.signals import Signals
from gateway.store.transactions import StoreUnavailable, Tx
from gateway.telemetry import log

T = TypeVar("T")
CONNECTIONS = 16
TRIES = 5
LINE_OPTIONS = {
    "connect_timeout": 10,  # seconds
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
    then, `StoreUnavailable` may be raised for a change that is stored.
    """

    def __init__(self, engine: Engine, *, loop: asyncio.AbstractEventLoop) -> None:
        self.signals = Signals()
        self._engine = engine
        self._loop = loop
        self._threads = anyio.CapacityLimiter(CONNECTIONS)

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
        """See `Store.ping`."""
        await self.read_point(lambda tx: tx.execute(text("SELECT 1")))

    def _write(self, function: Callable[[Tx], T]) -> T:
        for left in reversed(range(TRIES)):
            try:
                with self._engine.begin() as connection:
                    tx = Tx(connection)
                    result = function(tx)
            except DBAPIError as error:
                if left and getattr(error.orig, "sqlstate", None) in RETRIED_SQLSTATES:
                    continue
                if isinstance(error, OperationalError):
                    log.exception("commit_failed")
                    raise StoreUnavailable("The change could not be stored. Try again.") from error
                raise
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
        except OperationalError as error:
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
    try:
        yield PostgresqlStore(engine, loop=asyncio.get_running_loop())
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(engine.dispose)
