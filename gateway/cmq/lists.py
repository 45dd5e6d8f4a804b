"""The lists of topics and queues: what they are asked with, and what they show."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, select

from gateway.attributes import Kind, ListJudge
from gateway.call import AttributeTest, Clause, Scope
from gateway.cmq import limits, tags
from gateway.cmq.naming import NAME_MAX
from gateway.cmq.tags import TagFilter
from gateway.errors import InvalidParameterValue
from gateway.policy.condition import read_test
from gateway.policy.pattern import fits
from gateway.store import Tx, escape_like, visible

NAMES_MAX = 1_000  # our limit


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a list is asked for.

    search: a part of the name, in any case of letters. names: only these, if any are given.
    filters: on tags. scope: what the caller may see. offset, limit: the page.
    """

    search: str = ""
    names: Sequence[str] = ()
    filters: Sequence[TagFilter] = ()
    scope: Scope | None = None
    offset: int = limits.OFFSET.default
    limit: int = limits.LIMIT.default


def read_page(offset: int | None, limit: int | None) -> tuple[int, int]:
    """Offset and limit of a list: 0 and 20 unless given. Raises InvalidParameterValue."""
    return limits.OFFSET.read(offset), limits.LIMIT.read(limit)


def check_search(text: str, *, parameter: str) -> str:
    """A part of a name. Raises InvalidParameterValue for what is longer than any name."""
    if len(text) > NAME_MAX:
        raise InvalidParameterValue(f"`{parameter}` must have at most {NAME_MAX} characters.")
    return text


def check_names(names: Sequence[str], *, parameter: str) -> Sequence[str]:
    """The names that alone are listed. Raises InvalidParameterValue for too many."""
    limits.check_count(names, parameter=parameter, most=NAMES_MAX)
    return names


def shows(scope: Scope | None, name: str) -> bool:
    """Whether a list may show what has this name, and neither tags nor a known maker.

    name: as policies have it behind the type, such as "topic/subscription".
    """
    return scope is None or not any(_hides(clause, name) for clause in scope.deny)


def _hides(clause: Clause, name: str) -> bool:
    return fits(clause.pattern, name) and all(map(_holds_of_nothing, clause.tests))


def _holds_of_nothing(test: AttributeTest) -> bool:
    """Whether a test holds where the key it asks for is absent; it does if it cannot be judged."""
    try:
        return read_test(test).holds({}, {})
    except ValueError:
        return True


def find_listed(
    tx: Tx, kind: Kind, *, owner_uin: str, region: str, wanted: Wanted
) -> tuple[int, Sequence[Row[Any]]]:
    """How many things of a kind there are, and one page of their rows, by name.

    Raises InvalidParameterValue for too many filters.
    """
    table = kind.table
    found = select(table).where(table.c.owner_uin == owner_uin, table.c.region == region)
    if wanted.scope is not None:
        judge = ListJudge(tx, kind, owner_uin=owner_uin, region=region)
        found = found.where(visible(kind.name, wanted.scope, dialect=tx.dialect, judge=judge))
    if wanted.search:
        pattern = f"%{escape_like(wanted.search.lower())}%"
        found = found.where(func.lower(kind.name).like(pattern, escape="\\"))
    if wanted.names:
        found = found.where(kind.name.in_(wanted.names))
    found = tags.filtered(found, wanted.filters, by=table.c.id)
    total: int = tx.execute(select(func.count()).select_from(found.subquery())).scalar_one()
    page = found.order_by(kind.name).offset(wanted.offset).limit(wanted.limit)
    return total, tx.execute(page).all()
