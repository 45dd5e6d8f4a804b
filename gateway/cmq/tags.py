"""The tags of topics and queues: given when one is made, shown and filtered by in the lists."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, delete, exists, insert, select

from gateway.cmq.tables import tag
from gateway.errors import InvalidParameterValue
from gateway.store import Tx

TAGS_MAX = 50
KEY_LENGTH_MAX, VALUE_LENGTH_MAX = 127, 255
FILTERS_MAX, FILTER_VALUES_MAX = 20, 100  # our limits

ADD_TAGS = insert(tag)
TAGS_OF = (
    select(tag)
    .where(tag.c.resource_id.in_(bindparam("resource_ids", expanding=True)))
    .order_by(tag.c.resource_id, tag.c.key)
)
DROP_TAGS = delete(tag).where(tag.c.resource_id == bindparam("resource_id_"))


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class TagFilter:
    """What a list is narrowed to: what has the tag `key`, with one of `values`."""

    key: str
    values: tuple[str, ...]


def put(tx: Tx, resource_id: str, tags: Sequence[Tag]) -> None:
    """Give tags to a topic or a queue that has none yet. Raises InvalidParameterValue."""
    check(tags)
    if tags:
        rows = [{"resource_id": resource_id, "key": each.key, "value": each.value} for each in tags]
        tx.execute(ADD_TAGS, rows)


def check(tags: Sequence[Tag]) -> None:
    """Refuse what cannot be told apart in a policy, or not be kept. Raises InvalidParameterValue.

    Why a key has no `&`: policies write a tag as `key&value`, and it would read like another one.
    """
    if len(tags) > TAGS_MAX:
        raise InvalidParameterValue(f"There are more than {TAGS_MAX} Tags.")
    for each in tags:
        key, value = each.key, each.value
        if not 0 < len(key) <= KEY_LENGTH_MAX or len(value) > VALUE_LENGTH_MAX:
            raise InvalidParameterValue(
                f"A tag's key must have from 1 to {KEY_LENGTH_MAX} characters, "
                f"its value at most {VALUE_LENGTH_MAX}."
            )
        if "&" in key or not (key + value).isprintable():
            raise InvalidParameterValue(
                f"The tag `{key}` has characters that no tag can have: `&` in its key, or control"
                " characters."
            )
    if len({each.key for each in tags}) < len(tags):
        raise InvalidParameterValue("Every tag needs a key of its own.")


def of(tx: Tx, resource_ids: Sequence[str]) -> dict[str, list[Tag]]:
    """The tags of topics or queues by id, each by key; what has none is absent."""
    found: dict[str, list[Tag]] = defaultdict(list)
    for row in tx.execute(TAGS_OF, {"resource_ids": list(resource_ids)}):
        found[row.resource_id].append(Tag(row.key, row.value))
    return dict(found)


def drop(tx: Tx, resource_id: str) -> None:
    """Forget the tags of what is deleted."""
    tx.execute(DROP_TAGS, {"resource_id_": resource_id})


def filtered(
    found: Select[Any], filters: Sequence[TagFilter], *, by: ColumnElement[str]
) -> Select[Any]:
    """Narrow a list to what fits every filter; `by`: the column of the ids that have the tags.

    Raises InvalidParameterValue for too many.
    """
    if len(filters) > FILTERS_MAX:
        raise InvalidParameterValue(f"There are more than {FILTERS_MAX} Filters.")
    for each in filters:
        if len(each.values) > FILTER_VALUES_MAX:
            raise InvalidParameterValue(
                f"The filter on the tag `{each.key}` has more than {FILTER_VALUES_MAX} values."
            )
        found = found.where(
            exists().where(
                tag.c.resource_id == by, tag.c.key == each.key, tag.c.value.in_(each.values)
            )
        )
    return found
