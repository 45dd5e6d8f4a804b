"""The list queries: filters, visibility, paging."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, Table, exists, func, select

from gateway.attributes import Kind, ListJudge
from gateway.batch import datatypes
from gateway.batch.states import State
from gateway.batch.tables import compute_env, job, tag, task_template
from gateway.call import Principal, Scope
from gateway.errors import InvalidFilter, InvalidParameter, InvalidParameterValue
from gateway.store import Tx, visible

FILTERS_MAX = 20  # our limit
FILTER_VALUES_MAX = 100  # our limit
IDS_MAX = 100  # the API's for EnvIds, ours for JobIds
OFFSET_MAX = 2**31 - 1  # our limit

Condition = Callable[[Sequence[str]], ColumnElement[bool]]


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted."""

    offset: int
    limit: int


def read_page(
    offset: int | None, limit: int | None, *, default: int, most: int, least: int = 0
) -> Page:
    """Check Offset and Limit. Raises InvalidParameterValue."""
    offset = 0 if offset is None else offset
    limit = default if limit is None else limit
    if offset < 0 or limit < 0:
        raise InvalidParameterValue("Offset and Limit cannot be negative.", detail="Negative")
    if offset > OFFSET_MAX:
        raise InvalidParameterValue(f"Offset `{offset}` is over {OFFSET_MAX}.")
    if not least <= limit <= most:
        raise InvalidParameterValue(f"Limit `{limit}` is not from {least} to {most}.")
    return Page(offset, limit)


def check_combination(
    ids: Sequence[str], filters: Sequence[datatypes.Filter], *, name: str
) -> None:
    """Refuse ids together with filters, and more of either than one call may name."""
    if ids and filters:
        raise InvalidParameter(
            f"{name} and Filters exclude each other.", detail="InvalidParameterCombination"
        )
    if len(ids) > IDS_MAX:
        raise InvalidParameterValue(f"There are more than {IDS_MAX} {name}.")
    _check_number(filters)


def check_filters(filters: Sequence[datatypes.Filter], known: Collection[str]) -> None:
    """Refuse filters that a list does not have, and more of them than one call may name."""
    _check_number(filters)
    for each in filters:
        check_filter_values(each)
        if each.name not in known:
            raise unknown_filter(each.name)


def _check_number(filters: Sequence[datatypes.Filter]) -> None:
    if len(filters) > FILTERS_MAX:
        raise InvalidParameterValue(
            f"There are more than {FILTERS_MAX} Filters.", detail="LimitExceeded"
        )


def check_filter_values(each: datatypes.Filter) -> None:
    """Refuse more values than one filter may have."""
    if len(each.values) > FILTER_VALUES_MAX:
        raise InvalidParameterValue(
            f"The filter `{each.name}` has more than {FILTER_VALUES_MAX} values.",
            detail="LimitExceeded",
        )


def unknown_filter(name: str) -> InvalidFilter:
    """The error for a filter that a list does not have."""
    return InvalidFilter(f"There is no filter `{name}`.")


@dataclass(frozen=True, slots=True)
class Listed:
    """What one action lists. filters: by name, besides those on tags, if it has them."""

    table: Table
    filters: Mapping[str, Condition]
    by_tag: bool = True


def list_resources(
    tx: Tx,
    listed: Listed,
    *,
    principal: Principal,
    region: str,
    ids: Sequence[str],
    filters: Sequence[datatypes.Filter],
    scope: Scope | None,
    page: Page,
) -> tuple[list[Row[Any]], int]:
    """An account's rows, newest first, and how many match before paging."""
    table = listed.table
    conditions = _conditions(listed, filters)
    conditions += [table.c.owner_uin == principal.owner_uin, table.c.region == region]
    if ids:
        conditions.append(table.c.id.in_(ids))
    if scope is not None:
        judge = ListJudge(tx, Kind.by_id(table, tag), owner_uin=principal.owner_uin, region=region)
        conditions.append(visible(table.c.id, scope, dialect=tx.dialect, judge=judge))
    total: int = tx.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one()
    statement = (
        select(table)
        .where(*conditions)
        .order_by(table.c.created_at.desc(), table.c.id)
        .offset(page.offset)
        .limit(page.limit)
    )
    return list(tx.execute(statement).all()), total


def _conditions(listed: Listed, filters: Sequence[datatypes.Filter]) -> list[ColumnElement[bool]]:
    table, known = listed.table, listed.filters
    conditions: list[ColumnElement[bool]] = []
    for each in filters:
        check_filter_values(each)
        tagged = _tag_conditions(each) if listed.by_tag else ()
        if tagged:
            conditions.append(exists().where(tag.c.resource_id == table.c.id, *tagged))
        elif each.name in known:
            conditions.append(known[each.name](each.values))
        else:
            raise unknown_filter(each.name)
    return conditions


def _tag_conditions(each: datatypes.Filter) -> Sequence[ColumnElement[bool]]:
    """What a filter asks of one tag; nothing if it is about something else."""
    if each.name.startswith("tag:"):
        return tag.c.key == each.name.removeprefix("tag:"), tag.c.value.in_(each.values)
    columns = {"tag-key": tag.c.key, "tag-value": tag.c.value}
    column = columns.get(each.name)
    return () if column is None else (column.in_(each.values),)


def _state_is(values: Sequence[str]) -> ColumnElement[bool]:
    known = {state.value for state in State}
    for value in values:
        if value not in known:
            raise InvalidParameterValue(f"There is no state `{value}`.")
    return job.c.state.in_(values)


def _resource_type_is(values: Sequence[str]) -> ColumnElement[bool]:
    for value in values:
        if value not in {"CVM", "CPM"}:
            raise InvalidParameterValue(
                f"There is no resource type `{value}`.", detail="ResourceType"
            )
    return compute_env.c.resource_type.in_(values)


JOB_LIST = Listed(
    job,
    {
        "job-id": job.c.id.in_,
        "job-name": job.c.name.in_,
        "job-state": _state_is,
        "zone": job.c.zone.in_,
    },
)
ENV_LIST = Listed(
    compute_env,
    {
        "env-id": compute_env.c.id.in_,
        "env-name": compute_env.c.name.in_,
        "zone": compute_env.c.zone.in_,
        "resource-type": _resource_type_is,
    },
)
ENV_CREATE_INFO_LIST = Listed(
    compute_env,
    {name: ENV_LIST.filters[name] for name in ("env-id", "env-name", "zone")},
    by_tag=False,
)
TEMPLATE_LIST = Listed(task_template, {"task-template-name": task_template.c.name.in_})
