"""Statements run again and again on SQLite: their SQL and what goes where, worked out once.

Why beside SQLAlchemy, which keeps its SQL too: for each row it goes through the parameters by name
and by type, which takes several times as long as SQLite takes to store them. And why many rows in
one statement: at every step of SQLite another thread may take the interpreter, and give it back
only after milliseconds.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Delete, Dialect, Executable, Insert, Select, Update
from sqlalchemy import Row as SqlRow
from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

from gateway.store.schema import Moment, to_microseconds, to_moment

Converters = tuple[tuple[int, Callable[[Any], Any]], ...]
Row = Mapping[str, Any]
VALUES_MAX = 1_000
"""So many values one statement has at most, lists aside; every SQLite takes that many."""
LIST_MAX = 1_024


class Found:
    """The columns of the rows that a statement answers with.

    make: makes such a row of its values.
    """

    __slots__ = ("make", "metadata")

    def __init__(self, names: Sequence[str], processors: Any = None) -> None:
        self.metadata: Any = SimpleResultMetaData(names, _processors=processors)
        # What a row is made with has no public name.
        convert = self.metadata._effective_processors  # noqa: SLF001
        places = self.metadata._key_to_index  # noqa: SLF001
        self.make: Callable[[tuple[Any, ...]], SqlRow[Any]] = partial(
            SqlRow, self.metadata, convert, places
        )


class Answer(IteratorResult[Any]):
    """The rows that a statement found, and how many it changed.

    Why the common ways to read them are written anew: SQLAlchemy makes functions for each result,
    in a ring of references, so that all of it waits for the garbage collector.
    """

    def __init__(
        self, found: Found, rows: Sequence[tuple[Any, ...]], *, rowcount: int = -1
    ) -> None:
        super().__init__(found.metadata, iter(rows))
        self.rowcount = rowcount
        self._rows = rows
        self._make = found.make

    def __iter__(self) -> Iterator[SqlRow[Any]]:
        """The rows, once."""
        rows, self._rows = self._rows, ()
        return map(self._make, rows)

    def all(self) -> list[SqlRow[Any]]:
        """All rows."""
        return list(self)

    def first(self) -> SqlRow[Any] | None:
        """The first row; None if there is none."""
        return self._make(self._rows[0]) if self._rows else None

    def one_or_none(self) -> SqlRow[Any] | None:
        """The only row; None if there is none. Raises MultipleResultsFound."""
        return self.first() if len(self._rows) <= 1 else super().one_or_none()

    def scalar_one(self) -> Any:
        """The first value of the only row. Raises NoResultFound or MultipleResultsFound."""
        return self._make(self._rows[0])[0] if len(self._rows) == 1 else super().scalar_one()


NOTHING = Found(())


@dataclass(frozen=True, slots=True)
class Prepared:
    """One statement, for one set of parameter names.

    pick: takes the values of the SQL, `count` of them, in its order, from a row. fixed: those that
    the statement itself has.
    lists: the parameters that are lists, each by its place in the SQL. found: the columns of the
    rows it answers with; None if there are none. values_sql: what stands in an INSERT for one row.
    """

    sql: str
    pick: Callable[[Row], tuple[Any, ...]]
    count: int
    fixed: Row
    converters: Converters
    lists: tuple[tuple[int, str], ...]
    found: Found | None
    values_sql: str

    def values_of(self, row: Row) -> list[Any]:
        """The values of one row, as SQLite takes them. Raises KeyError for one that is missing."""
        values = list(self.pick({**self.fixed, **row} if self.fixed else row))
        for index, convert in self.converters:
            values[index] = convert(values[index])
        return values

    def with_lists(self, values: list[Any]) -> tuple[str, list[Any]]:
        """SQL and values with every list written out.

        The last value stands in its list again until they are 1, 2, 4, 8, …: that asks for nothing
        more, and there are few different texts, which SQLite need not read again. An empty list
        stays so: SQLite takes one, as SQL does not.
        """
        sql, written = self.sql, list(values)
        for index, name in reversed(self.lists):
            given = list(values[index])
            given += given[-1:] * ((1 << (len(given) - 1).bit_length()) - len(given))
            written[index : index + 1] = given
            sql = sql.replace(f"__[POSTCOMPILE_{name}]", ", ".join("?" * len(given)))
        return sql, written


class Shelf:
    """What has been prepared, for all connections of a store; what is gone goes by itself.

    Why only from the second time on: a list's filters are composed anew for each call.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._prepared: WeakKeyDictionary[Executable, dict[tuple[str, ...], Prepared | None]] = (
            WeakKeyDictionary()
        )

    def __len__(self) -> int:
        return len(self._prepared)

    def find(self, statement: Executable, names: Iterable[str]) -> Prepared | None:
        """A statement that has been run before; None if it is new, or SQLAlchemy should run it."""
        known = self._prepared.get(statement)
        if known is None:
            self._prepared[statement] = {}
            return None
        key = tuple(names)
        if key not in known:
            known[key] = prepare(statement, key, dialect=self._dialect)
        return known[key]


class PreparedLine:
    """A connection to SQLite that runs prepared statements."""

    def __init__(self, connection: sqlite3.Connection, shelf: Shelf, *, dialect: Dialect) -> None:
        self._connection = connection
        self._shelf = shelf
        self._dialect = dialect

    def run(self, statement: Executable, rows: Sequence[Row]) -> Answer | None:
        """Run a statement once for each row; None if SQLAlchemy should do so.

        What an INSERT of many rows answers with is in their order, as far as anybody has seen;
        SQLite does not promise it. Raises what SQLAlchemy would.
        """
        prepared = self._shelf.find(statement, rows[0])
        if prepared is None:
            return None
        try:
            if len(rows) > 1:
                return self._run_many(prepared, rows)
            return self._run_one(prepared, rows[0])
        except KeyError:
            return None  # SQLAlchemy says what is missing
        except sqlite3.Error as error:
            raise self._as_usual(prepared.sql, error) from error

    def say(self, sql: str) -> None:
        """Run SQL that takes and gives nothing, such as BEGIN. Raises what SQLAlchemy would."""
        try:
            self._connection.execute(sql)
        except sqlite3.Error as error:
            raise self._as_usual(sql, error) from error

    def _as_usual(self, sql: str, error: sqlite3.Error) -> Exception:
        return DBAPIError.instance(
            sql, None, error, sqlite3.Error, hide_parameters=True, dialect=self._dialect
        )

    def _run_one(self, prepared: Prepared, row: Row) -> Answer | None:
        values = prepared.values_of(row)
        sql = prepared.sql
        if prepared.lists:
            if not all(len(values[index]) <= LIST_MAX for index, _ in prepared.lists):
                return None
            sql, values = prepared.with_lists(values)
        cursor = self._connection.execute(sql, values)
        if prepared.found is None:
            return Answer(NOTHING, (), rowcount=cursor.rowcount)
        return Answer(prepared.found, cursor.fetchall(), rowcount=cursor.rowcount)

    def _run_many(self, prepared: Prepared, rows: Sequence[Row]) -> Answer | None:
        if prepared.lists or (prepared.found is not None and not prepared.values_sql):
            return None
        values = [prepared.values_of(row) for row in rows]
        if not prepared.values_sql:
            cursor = self._connection.executemany(prepared.sql, values)
            return Answer(NOTHING, (), rowcount=cursor.rowcount)
        count, found = 0, []
        for portion in _portions(values, rows_max=max(1, VALUES_MAX // prepared.count)):
            more = f", {prepared.values_sql}" * (len(portion) - 1)
            sql = prepared.sql.replace(prepared.values_sql, prepared.values_sql + more, 1)
            cursor = self._connection.execute(sql, list(chain(*portion)))
            found += cursor.fetchall()
            count += cursor.rowcount  # which it knows once all is fetched
        return Answer(prepared.found or NOTHING, found, rowcount=count)


def _portions(values: list[list[Any]], *, rows_max: int) -> Iterator[list[list[Any]]]:
    """Rows in portions of 1, 2, 4, 8, …: there are few different texts, which are kept."""
    begin = 0
    while left := len(values) - begin:
        size = 1 << (min(left, rows_max).bit_length() - 1)
        yield values[begin : begin + size]
        begin += size


def prepare(statement: Executable, names: tuple[str, ...], *, dialect: Dialect) -> Prepared | None:
    """Work a statement out for parameters of these names; None for a kind that is left alone."""
    if not isinstance(statement, Select | Insert | Update | Delete):
        return None
    compiled = statement.compile(dialect=dialect, column_keys=sorted(names))
    if not isinstance(compiled, SQLCompiler) or not _is_plain(compiled):
        return None
    order = tuple(compiled.positiontup or ())
    binds = {name: bind for bind, name in compiled.bind_names.items()}
    converters = _converters(_to_stored(binds[name].type, dialect=dialect) for name in order)
    lists = {compiled.bind_names[bind] for bind in compiled.post_compile_params}
    places = tuple((index, name) for index, name in enumerate(order) if name in lists)
    converted = {index for index, _ in converters}
    if {name for _, name in places} != lists or any(index in converted for index, _ in places):
        return None
    return Prepared(
        sql=compiled.string,
        pick=_picker(order),
        count=len(order),
        fixed={
            name: value
            for name, value in compiled.params.items()
            if name not in names and not binds[name].required
        },
        converters=converters,
        lists=places,
        found=_found(statement, dialect=dialect),
        values_sql=_values_sql(statement, compiled.string, count=len(order)),
    )


def _is_plain(compiled: SQLCompiler) -> bool:
    """Whether its values are all given, none made by SQLAlchemy or written into the SQL."""
    made = compiled.insert_prefetch or compiled.update_prefetch
    return not (made or compiled.literal_execute_params or compiled.escaped_bind_names)


def _picker(names: Sequence[str]) -> Callable[[Row], tuple[Any, ...]]:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda row: tuple(row[name] for name in names)


def _converters(found: Iterable[Callable[[Any], Any] | None]) -> Converters:
    return tuple((index, convert) for index, convert in enumerate(found) if convert is not None)


def _found(statement: Select[Any] | Insert | Update | Delete, *, dialect: Dialect) -> Found | None:
    columns = statement.exported_columns
    if not len(columns):
        return None
    processors = [_from_stored(column.type, dialect=dialect) for column in columns]
    return Found([str(column.key) for column in columns], processors)


def _to_stored(kind: TypeEngine[Any], *, dialect: Dialect) -> Callable[[Any], Any] | None:
    """What makes a value of a column as it is stored; None if it is stored as it is.

    Why times are told apart: a row has many, and for each SQLAlchemy's way takes two calls more.
    """
    if isinstance(kind, Moment):
        return to_microseconds
    return kind.dialect_impl(dialect).bind_processor(dialect)


def _from_stored(kind: TypeEngine[Any], *, dialect: Dialect) -> Callable[[Any], Any] | None:
    """The way back from `_to_stored`."""
    if isinstance(kind, Moment):
        return to_moment
    return kind.dialect_impl(dialect).result_processor(dialect, None)


def _values_sql(statement: Executable, sql: str, *, count: int) -> str:
    """What stands in an INSERT for one row; "" for anything else."""
    values = f"({', '.join('?' * count)})"
    plain = isinstance(statement, Insert) and sql.count("?") == count
    return values if plain and sql.count(f"VALUES {values}") == 1 else ""
