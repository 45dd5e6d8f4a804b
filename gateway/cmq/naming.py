"""Names of topics, queues and subscriptions. No two differ in case alone. Pure."""

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, false, func, true

from gateway.call import AttributeTest, Scope
from gateway.errors import InvalidParameterValue
from gateway.policy.condition import read_test
from gateway.store import Judged, escape_like, visible

NAME_MAX = 64
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def check_name(name: str, *, parameter: str) -> str:
    """A name that begins with a letter and goes on with letters, digits, `-` and `_`; at most 64.

    Raises InvalidParameterValue, naming the parameter.
    """
    if len(name) > NAME_MAX or not _NAME.fullmatch(name):
        raise InvalidParameterValue(
            f"`{parameter}` must begin with a letter, have only letters, digits, `-` and `_`, "
            f"and be at most {NAME_MAX} characters long; `{name[: NAME_MAX + 1]}` is not."
        )
    return name


def key_of(owner_uin: str, *, region: str, name: str) -> str:
    """One word for a thing of an account in a region, the same for every spelling of its name.

    It keeps a name from being given twice. Whoever looks a thing up by it compares the spelling,
    too: case does not matter in CMQ's names, but it does in a policy's, and a deny on `orders`
    must not be evaded by asking for `Orders`.
    """
    return f"{owner_uin}/{region}/{name.lower()}"


def filter_by_name(
    found: Select[Any],
    column: ColumnElement[str],
    *,
    search: str,
    names: Sequence[str],
    scope: Scope | None,
    dialect: str,
) -> Select[Any]:
    """Narrow a list to names that contain `search`, to `names` if any are given, and to `scope`."""
    if scope is not None:
        found = found.where(visible(column, scope, dialect=dialect, judge=_judge_absent))
    if search:
        pattern = f"%{escape_like(search.lower())}%"
        found = found.where(func.lower(column).like(pattern, escape="\\"))
    if names:
        found = found.where(column.in_(names))
    return found


def _judge_absent(test: AttributeTest) -> Judged:
    """Topics and queues have neither tags nor a known maker: every key is absent."""
    return Judged(true() if read_test(test).holds_if_absent else false(), false())
