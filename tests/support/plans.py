"""How a database goes about a statement."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ClauseElement, CursorResult, Executable
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from gateway.store import Tx

EXPLAIN = {"sqlite": "EXPLAIN QUERY PLAN", "postgresql": "EXPLAIN"}


class _Explained(Executable, ClauseElement):
    inherit_cache = False

    def __init__(self, statement: ClauseElement) -> None:
        self.statement = statement


@compiles(_Explained)
def _compile(element: _Explained, compiler: SQLCompiler, **options: Any) -> str:
    return f"{EXPLAIN[compiler.dialect.name]} {compiler.process(element.statement, **options)}"


def plan_of(tx: Tx, statement: ClauseElement, parameters: Mapping[str, Any]) -> str:
    """The database's own words, a line for each step."""
    result = tx.execute(_Explained(statement), dict(parameters))
    assert isinstance(result, CursorResult)
    rows = result.cursor.fetchall()  # as they are: they have not the types of the statement's
    return "\n".join(str(row[-1]) for row in rows)
