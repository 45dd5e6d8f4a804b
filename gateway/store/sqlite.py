"""SQLite: one writing thread with group commit, reads beside it.

Why: SQLite has one writer at a time, and a durable commit costs one fsync. Whatever is waiting
is put into one transaction, each of several functions under a savepoint of its own, so that a
hundred callers share one fsync and one failing function undoes only itself.
"""

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio.to_thread
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from gateway.store.prepared import PreparedLine, Shelf
from gateway.store.signals import Signals
from gateway.store.transactions import CALLERS_FAULTS, StoreUnavailable, Tx
from gateway.telemetry import log

T = TypeVar("T")
GROUP_MAX = 256
READERS = 4
BUSY_MS = 30_000
WAL_TRIES = 200
WAL_PAUSE_S = 0.02
PRAGMAS = (
    f"busy_timeout={BUSY_MS}",  # first: the others may have to wait, too
    "synchronous=FULL",
    "foreign_keys=ON",
)


@dataclass(slots=True)
class _Request:
    function: Callable[[Tx], Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


def create_sqlite_engine(url: str) -> Engine:
    """An engine whose connections leave BEGIN and COMMIT to us."""
    engine = create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        poolclass=QueuePool,
        pool_size=READERS + 2,
        max_overflow=0,
        hide_parameters=True,  # an error is logged; what was to be stored may be a secret
        connect_args={"check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _set_pragmas(connection: Any, _record: object) -> None:
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        _enter_wal(connection)

    return engine


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Use the write-ahead log.

    Why the loop: of two programs that switch a new file at once, one is told immediately that it
    is locked; here SQLite does not wait as `busy_timeout` asks.
    """
    for left in reversed(range(WAL_TRIES)):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if not left or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(WAL_PAUSE_S)
        else:
            return


class SqliteStore:
    """A `Store` on one SQLite file."""

    def __init__(self, engine: Engine, *, loop: asyncio.AbstractEventLoop) -> None:
        self.signals = Signals()
        self._engine = engine
        self._loop = loop
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._closed = False
        self._shelf = Shelf(engine.dialect)
        self._point = engine.connect()
        self._point.exec_driver_sql("PRAGMA query_only=ON")
        self._point_line = self._line_of(self._point)
        self._readers = anyio.CapacityLimiter(READERS)
        self._writer = threading.Thread(target=self._write_forever, name="sqlite-writer")
        self._writer.start()

    async def write(self, function: Callable[[Tx], T]) -> T:
        """See `Store.write`."""
        if self._closed:
            raise StoreUnavailable("The service is stopping. Try again.")
        request = _Request(function, self._loop.create_future())
        self._queue.put(request)
        result: T = await request.future
        return result

    async def read_point(self, function: Callable[[Tx], T]) -> T:
        """See `Store.read_point`. Runs on the event loop: a hop to a thread would cost more."""
        try:
            return function(Tx(self._point, self._point_line))
        except DBAPIError:
            with _telling_outages():  # only now: to enter it takes a good part of a small read
                raise

    async def read_list(self, function: Callable[[Tx], T]) -> T:
        """See `Store.read_list`."""
        return await anyio.to_thread.run_sync(self._read, function, limiter=self._readers)

    async def ping(self) -> None:
        """See `Store.ping`."""
        if not self._writer.is_alive():
            raise StoreUnavailable("The writing thread has ended.")
        await self.read_point(lambda tx: tx.execute(text("SELECT 1")))

    async def aclose(self) -> None:
        """Finish what is queued, then close every connection."""
        self._closed = True
        self._queue.put(None)
        await anyio.to_thread.run_sync(self._writer.join)
        self._point.close()
        self._engine.dispose()

    def _line_of(self, connection: Connection) -> PreparedLine:
        """The quick way to what a connection of SQLAlchemy leads to."""
        driver: Any = connection.connection.driver_connection
        return PreparedLine(driver, self._shelf, dialect=self._engine.dialect)

    def _read(self, function: Callable[[Tx], T]) -> T:
        with _telling_outages(), self._engine.connect() as connection:
            line = self._line_of(connection)
            line.say("PRAGMA query_only=ON")
            line.say("BEGIN")
            try:
                result = function(Tx(connection, line))
                line.say("COMMIT")
            except BaseException:
                with suppress(DBAPIError):  # SQLite has done so already if the disk failed, say
                    line.say("ROLLBACK")
                raise
            return result

    def _write_forever(self) -> None:
        with self._engine.connect() as connection:
            line = self._line_of(connection)
            # What a savepoint may have to restore is written to a file else, beyond 64 KiB of it.
            line.say("PRAGMA temp_store=MEMORY")
            while (first := self._queue.get()) is not None:
                group, closing = self._collect(first)
                woken = self._run_group(connection, line, group)
                self._loop.call_soon_threadsafe(self._settle, group, woken)
                if closing:
                    return

    def _collect(self, first: _Request) -> tuple[list[_Request], bool]:
        """Take what is waiting now; the flag says that the store is being closed."""
        group = [first]
        while len(group) < GROUP_MAX:
            try:
                request = self._queue.get_nowait()
            except queue.Empty:
                break
            if request is None:
                return group, True
            group.append(request)
        return group, False

    def _run_group(
        self, connection: Connection, line: PreparedLine, group: list[_Request]
    ) -> set[str]:
        """Run a group in one transaction; returns the signals to wake after its commit."""
        woken: set[str] = set()
        try:
            line.say("BEGIN IMMEDIATE")
            alone = len(group) == 1
            for request in group:
                woken |= (self._run if alone else self._run_saved)(connection, line, request)
            line.say("ROLLBACK" if alone and group[0].error else "COMMIT")
        except Exception as error:
            log.exception("commit_failed", transactions=len(group))
            self._roll_back(connection)
            for request in group:
                request.error = StoreUnavailable("The change could not be stored. Try again.")
                request.error.__cause__ = error
            return set()
        return woken

    def _run_saved(self, connection: Connection, line: PreparedLine, request: _Request) -> set[str]:
        """Run one function of several under a savepoint, so that it is undone by itself.

        Why not always: below a savepoint SQLite keeps a copy of every page that is changed.
        """
        line.say("SAVEPOINT one")
        woken = self._run(connection, line, request)
        if request.error is not None:
            line.say("ROLLBACK TO one")
        line.say("RELEASE one")
        return woken

    @staticmethod
    def _run(connection: Connection, line: PreparedLine, request: _Request) -> set[str]:
        """Run one function. A full disk or a broken file fails the group."""
        tx = Tx(connection, line)
        try:
            request.result = request.function(tx)
        except Exception as error:
            if _is_outage(error):
                raise
            request.error = _as_raisable(error)
            return set()
        return tx.woken

    @staticmethod
    def _roll_back(connection: Connection) -> None:
        try:
            connection.exec_driver_sql("ROLLBACK")
        except DBAPIError:
            log.info("nothing_to_roll_back")

    def _settle(self, group: list[_Request], woken: set[str]) -> None:
        """Tell every caller how it ended; runs on the event loop."""
        for request in group:
            if request.future.done():
                continue
            if request.error is not None:
                request.future.set_exception(request.error)
            else:
                request.future.set_result(request.result)
        self.signals.wake(woken)


@contextmanager
def _telling_outages() -> Iterator[None]:
    """Raise StoreUnavailable for a read that failed because the database did."""
    try:
        yield
    except DBAPIError as error:
        if not _is_outage(error):
            raise
        log.exception("read_failed")
        raise StoreUnavailable("The database does not answer. Try again.") from error


def _is_outage(error: Exception) -> bool:
    """Whether the database itself failed, and not the one statement (such as a missing table)."""
    if not isinstance(error, DBAPIError) or isinstance(error, CALLERS_FAULTS):
        return False
    code: int = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_IOERR)
    return code & 0xFF != sqlite3.SQLITE_ERROR  # the low byte is the family


def _as_raisable(error: Exception) -> Exception:
    """The error itself, unless it is the one kind that a future refuses to carry."""
    if not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError("a transaction raised StopIteration")
    wrapped.__cause__ = error
    return wrapped


@asynccontextmanager
async def open_sqlite(url: str) -> AsyncIterator[SqliteStore]:
    """Open the store; on leaving, what is queued is finished first."""
    store = SqliteStore(create_sqlite_engine(url), loop=asyncio.get_running_loop())
    try:
        yield store
    finally:
        with anyio.CancelScope(shield=True):
            await store.aclose()
