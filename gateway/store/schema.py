"""What the rooms' tables share: one MetaData, a column type for times, patterns in a WHERE."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Dialect,
    Integer,
    MetaData,
    String,
    TypeDecorator,
    any_,
    exists,
    false,
    func,
    literal,
    or_,
    select,
    tuple_,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

POSITION = BigInteger().with_variant(Integer, "sqlite")
"""A key that counts up by itself, which in SQLite only an INTEGER does."""


TIMES_KEPT = 4_096
"""Of many rows the times are the same."""


@lru_cache(maxsize=TIMES_KEPT)
def to_microseconds(moment: datetime | None) -> int | None:
    """An aware time as a `Moment` is kept."""
    return None if moment is None else (moment - _EPOCH) // _MICROSECOND


@lru_cache(maxsize=TIMES_KEPT)
def to_moment(microseconds: int | None) -> datetime | None:
    """What is kept of a `Moment` as an aware time."""
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)


class Moment(TypeDecorator[datetime]):
    """An aware UTC time, kept as whole microseconds since 1970.

    Why: one integer sorts, compares and indexes alike in SQLite and PostgreSQL, and is read
    without parsing.
    """

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Turn an aware time into microseconds."""
        return to_microseconds(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """Turn microseconds into an aware time."""
        return to_moment(value)


def escape_like(text: str) -> str:
    r"""Make `text` literal inside a LIKE pattern whose escape character is `\`."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def matches_any(
    column: ColumnElement[str], patterns: Iterable[str], *, dialect: str
) -> ColumnElement[bool]:
    """A condition: `column` matches one of `patterns`, in which only `*` is a wildcard.

    dialect: "sqlite" or "postgresql". Why: LIKE ignores case in SQLite and not in PostgreSQL;
    GLOB does not, but exists in SQLite alone. The patterns go in as one value: a policy may hold
    thousands, and SQLite refuses an OR of more than a thousand terms.
    """
    possible = [pattern for pattern in patterns if _is_storable(pattern)]
    exact = [pattern for pattern in possible if "*" not in pattern]
    wild = [pattern for pattern in possible if "*" in pattern]
    terms: list[ColumnElement[bool]] = [column.in_(exact)] if exact else []
    if wild:
        terms.append(_globs(column, wild) if dialect == "sqlite" else _likes(column, wild))
    return or_(*terms) if terms else false()


def is_one_of(
    columns: Sequence[ColumnElement[str]], rows: Iterable[Sequence[str]], *, dialect: str
) -> ColumnElement[bool]:
    """A condition: the columns together have the values of one of `rows`.

    dialect: "sqlite" or "postgresql". However many rows there are, they go in as one value for a
    column at most: the databases limit how many values one statement may have.
    """
    possible = [list(row) for row in rows if all(map(_is_storable, row))]
    if not possible:
        return false()
    if dialect == "sqlite":
        row = func.json_each(json.dumps(possible)).table_valued("value").c.value
        given = select(*(func.json_extract(row, f"$[{at}]") for at in range(len(columns))))
    else:
        arrays = [literal(list(each), ARRAY(String)) for each in zip(*possible, strict=True)]
        names = [f"value_{at}" for at in range(len(columns))]
        given = select(*func.unnest(*arrays).table_valued(*names).render_derived().c)
    return tuple_(*columns).in_(given) if len(columns) > 1 else columns[0].in_(given)


def _is_storable(text: str) -> bool:
    """Whether a column can hold `text`. What it cannot hold, it cannot match.

    Why: SQLite reads a pattern only up to a NUL, and would match more than was meant.
    """
    return "\x00" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def _globs(column: ColumnElement[str], patterns: list[str]) -> ColumnElement[bool]:
    given = func.json_each(json.dumps([_glob(pattern) for pattern in patterns]))
    pattern = given.table_valued("value").c.value
    return exists(select(pattern).where(column.op("GLOB", is_comparison=True)(pattern)))


def _likes(column: ColumnElement[str], patterns: list[str]) -> ColumnElement[bool]:
    given = literal([escape_like(pattern).replace("*", "%") for pattern in patterns], ARRAY(String))
    return column.op("LIKE", is_comparison=True)(any_(given))


def _glob(pattern: str) -> str:
    return pattern.replace("[", "[[]").replace("?", "[?]")
