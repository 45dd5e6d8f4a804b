"""What a list may show: a `Scope` as a WHERE, alike for every room that lists."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, false, or_, true

from gateway.call import AttributeTest, Clause, Scope
from gateway.store.schema import matches_any

TERMS_MAX = 100


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A test of an attribute, said of each row of the list.

    holds: means nothing for a row of which cannot_be_judged is true.
    """

    holds: ColumnElement[bool]
    cannot_be_judged: ColumnElement[bool]


Judge = Callable[[AttributeTest], Judged]
"""Given by the room that lists, for it knows what its resources carry.

Where it answers two tests with one object, their clauses become one condition.
"""
Fits = Callable[[ColumnElement[bool], Collection[Judged]], ColumnElement[bool]]


def visible(
    column: ColumnElement[str], scope: Scope, *, dialect: str, judge: Judge
) -> ColumnElement[bool]:
    """A condition: the id in `column` is inside `scope`.

    dialect: "sqlite" or "postgresql". judge: asked once for each test that differs.
    """
    if scope.is_everything:
        return true()
    if scope.is_nothing:
        return false()
    clauses = [*scope.deny, *(clause for layer in scope.allow for clause in layer)]
    judged = {test: judge(test) for test in dict.fromkeys(_tests_of(clauses))}

    def fit_one(clauses: Iterable[Clause], fits: Fits) -> ColumnElement[bool]:
        return _any_of(
            fits(_matches(column, patterns, dialect=dialect), tests)
            for tests, patterns in _by_tests(clauses, judged).items()
        )

    layers = [fit_one(layer, _fits_allow) for layer in scope.allow]
    return and_(true(), *layers, ~fit_one(scope.deny, _fits_deny))


def _tests_of(clauses: Iterable[Clause]) -> Iterable[AttributeTest]:
    return (test for clause in clauses for test in clause.tests)


def _by_tests(
    clauses: Iterable[Clause], judged: Mapping[AttributeTest, Judged]
) -> Mapping[tuple[Judged, ...], list[str]]:
    """The patterns of clauses with the same tests: most have none, and then go in as one value."""
    found: dict[tuple[Judged, ...], list[str]] = {}
    for clause in clauses:
        tests = tuple(dict.fromkeys(judged[test] for test in clause.tests))
        found.setdefault(tests, []).append(clause.pattern)
    return found


def _matches(
    column: ColumnElement[str], patterns: Sequence[str], *, dialect: str
) -> ColumnElement[bool]:
    return true() if "*" in patterns else matches_any(column, patterns, dialect=dialect)


def _fits_allow(matches: ColumnElement[bool], tests: Collection[Judged]) -> ColumnElement[bool]:
    holding = (test.holds for test in tests)
    return and_(matches, *holding, *(~test.cannot_be_judged for test in tests))


def _fits_deny(matches: ColumnElement[bool], tests: Collection[Judged]) -> ColumnElement[bool]:
    all_hold = and_(true(), *(test.holds for test in tests))
    return and_(matches, or_(all_hold, *(test.cannot_be_judged for test in tests)))


def _any_of(terms: Iterable[ColumnElement[bool]]) -> ColumnElement[bool]:
    """OR, also of very many terms: then as the opposite of "none of these, and none of those".

    Why: SQLite refuses an expression a thousand deep, and each term of an OR makes it deeper.
    Parentheses would help, but SQLAlchemy takes those of an OR inside an OR away.
    """
    left = list(terms)
    parts = [left[at : at + TERMS_MAX] for at in range(0, len(left), TERMS_MAX)]
    if len(parts) <= 1:
        return or_(false(), *left)
    return ~and_(*(~or_(false(), *part) for part in parts))
