"""Transactions: what a room sees of the database, and how a store is opened."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, CursorResult, Executable
from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError

from gateway.errors import ServiceUnavailable
from gateway.store.prepared import Answer, PreparedLine
from gateway.store.signals import Signals

T = TypeVar("T")
Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
CALLERS_FAULTS = (DataError, IntegrityError, ProgrammingError)
"""What a database says of a statement. All else that it says is of itself, and an outage.

Why so few: how it fails has many names. One that has become a standby refuses a change with an
"internal error", and a broken file is no "operational" one.
"""


class StoreUnavailable(ServiceUnavailable):
    """The change could not be made durable: nothing of it has happened."""


class Conflict(Exception):
    """A guarded change found another state than it was decided on; the transaction is undone."""


class Tx:
    """One open transaction."""

    __slots__ = ("_connection", "_line", "dialect", "woken")

    def __init__(self, connection: Connection, line: PreparedLine | None = None) -> None:
        self._connection = connection
        self._line = line
        self.dialect: str = connection.dialect.name
        self.woken: set[str] = set()

    def execute(
        self, statement: Executable, parameters: Parameters = None
    ) -> CursorResult[Any] | Answer:
        """Run one statement; with a sequence of parameters, once for each."""
        if self._line is not None:
            rows = [parameters or {}] if isinstance(parameters, Mapping | None) else parameters
            if rows and (answer := self._line.run(statement, rows)) is not None:
                return answer
        return self._connection.execute(statement, parameters)

    def wake(self, name: str) -> None:
        """Wake whoever waits for the signal `name`, once this transaction is committed."""
        self.woken.add(name)


class Store(Protocol):
    """A database with durable transactions. Both implementations pass one conformance suite."""

    signals: Signals

    async def write(self, function: Callable[[Tx], T]) -> T:
        """Run `function` in a transaction; return its result after the durable commit.

        Whatever it raises undoes its own changes and nobody else's. Raises StoreUnavailable if
        the commit fails. If the caller is cancelled, the transaction may still be committed.
        """
        ...

    async def read_point(self, function: Callable[[Tx], T]) -> T:
        """Run a function that reads few rows by key."""
        ...

    async def read_list(self, function: Callable[[Tx], T]) -> T:
        """Run a function that reads many rows, in one consistent view, off the event loop."""
        ...

    async def ping(self) -> None:
        """Raise unless the database answers."""
        ...


@asynccontextmanager
async def open_store(url: str) -> AsyncIterator[Store]:
    """Open the database at `url` ("sqlite:///path" or "postgresql://…"), migrated before."""
    # they import this module
    from gateway.store.postgresql import open_postgresql  # noqa: PLC0415
    from gateway.store.sqlite import open_sqlite  # noqa: PLC0415

    opener = open_sqlite if url.startswith("sqlite") else open_postgresql
    async with opener(url) as store:
        yield store
