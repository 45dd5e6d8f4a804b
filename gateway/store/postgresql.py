"""PostgreSQL: the same transaction functions, run in threads on pooled connections."""

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
RETRIED_SQLSTATES = frozenset({"40001", "40P01"})  # serialization failure, deadlock


def driver_url(url: str) -> str:
    """The same URL with the driver named: psycopg 3."""
    return "postgresql+psycopg://" + url.split("://", 1)[1]


class PostgresqlStore:
    """A `Store` on a PostgreSQL database."""

    def __init__(self, engine: Engine) -> None:
        self.signals = Signals()
        self._engine = engine
        self._threads = anyio.CapacityLimiter(CONNECTIONS)

    async def write(self, function: Callable[[Tx], T]) -> T:
        """See `Store.write`. A deadlock or serialization failure is tried again."""
        result, woken = await anyio.to_thread.run_sync(
            self._write, function, limiter=self._threads
        )
        self.signals.wake(woken)
        return result

    async def read_point(self, function: Callable[[Tx], T]) -> T:
        """See `Store.read_point`."""
        return await self.read_list(function)

    async def read_list(self, function: Callable[[Tx], T]) -> T:
        """See `Store.read_list`."""
        return await anyio.to_thread.run_sync(self._read, function, limiter=self._threads)

    async def ping(self) -> None:
        """See `Store.ping`."""
        await self.read_point(lambda tx: tx.execute(text("SELECT 1")))

    def _write(self, function: Callable[[Tx], T]) -> tuple[T, set[str]]:
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
            return result, tx.woken
        raise AssertionError("unreachable: the last try returns or raises")

    def _read(self, function: Callable[[Tx], T]) -> T:
        with self._engine.connect().execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        ) as connection:
            return function(Tx(connection))


@asynccontextmanager
async def open_postgresql(url: str) -> AsyncIterator[PostgresqlStore]:
    """Open the store; connections are made when first used."""
    engine = create_engine(
        driver_url(url), pool_size=CONNECTIONS, max_overflow=0, pool_pre_ping=True
    )
    try:
        yield PostgresqlStore(engine)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(engine.dispose)
