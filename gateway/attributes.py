"""What a policy's conditions may ask of what a room keeps: its tags, and who made it.

A room says of each type of its resources where they are (`Kind`); decisions on one resource and
lists of many are then answered alike.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import groupby
from operator import itemgetter

from sqlalchemy import Column, ColumnElement, Table, exists, false, select

from gateway.call import AttributeTest, Resource
from gateway.policy.condition import Condition, carried_by_tags, read_test
from gateway.store import Judged, Store, Tx, is_one_of

MAKER = "qcs:create_uin"

Texts = tuple[str, ...]
"""The values of a condition key."""
Carried = Mapping[str, Texts]
"""What a resource has for each condition key; a key that is absent is left out."""
Value = tuple[str, ...]
"""What stands in a row's columns: a tag's key and value, or who made it."""


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """Where the resources of one type are.

    table: has `id`, `owner_uin`, `region` and `created_by`. name: the column of what stands after
    the type in a resource's path. key: an indexed column to find them by. tags: the table of their
    tags, which has `resource_id`, `key` and `value`.
    key_of: what is in `key` for a resource of this name.
    """

    table: Table
    name: Column[str]
    key: Column[str]
    tags: Table
    key_of: Callable[[Resource, str], str]

    @classmethod
    def by_id(cls, table: Table, tags: Table) -> "Kind":
        """Resources that policies name by their ids."""
        return cls(table, table.c.id, table.c.id, tags, lambda resource, id_: id_)


class Attributes:
    """Tells the decision what resources of one service carry."""

    def __init__(self, store: Store, *, service: str, kinds: Mapping[str, Kind]) -> None:
        self._store = store
        self._service = service
        self._kinds = kinds

    async def __call__(self, resources: Sequence[Resource]) -> Mapping[Resource, Carried]:
        """Give what each resource that exists carries; the others are left out.

        A path such as `job/job-97zcl3wt` means that job of this owner and region alone.
        """
        keys: dict[str, set[str]] = {}
        for resource in resources:
            type_, _, name = resource.path.partition("/")
            if resource.service == self._service and type_ in self._kinds:
                keys.setdefault(type_, set()).add(self._kinds[type_].key_of(resource, name))
        if not keys:
            return {}
        found = await self._store.read_list(lambda tx: self._read_all(tx, keys))
        return {resource: found[resource] for resource in resources if resource in found}

    def _read_all(self, tx: Tx, keys: Mapping[str, Collection[str]]) -> Mapping[Resource, Carried]:
        return dict(each for type_, some in keys.items() for each in self._read(tx, type_, some))

    def _read(
        self, tx: Tx, type_: str, keys: Collection[str]
    ) -> Iterator[tuple[Resource, Carried]]:
        kind = self._kinds[type_]
        table, tag = kind.table, kind.tags
        own = (kind.name, table.c.owner_uin, table.c.region, table.c.created_by)
        statement = (
            select(*own, tag.c.key, tag.c.value)
            .outerjoin_from(table, tag, tag.c.resource_id == table.c.id)
            .where(is_one_of([kind.key], [(key,) for key in keys], dialect=tx.dialect))
            .order_by(table.c.id, tag.c.key)
        )
        for of_one, rows in groupby(tx.execute(statement), key=itemgetter(slice(len(own)))):
            name, owner_uin, region, made_by = of_one
            tags = [(row.key, row.value) for row in rows if row.key is not None]
            resource = Resource(self._service, region, owner_uin, f"{type_}/{name}")
            yield resource, {MAKER: (made_by,), **carried_by_tags(tags)}


class Verdict(Enum):
    """What a test says of one value."""

    FITS = "fits"
    FITS_NOT = "fits not"
    UNCLEAR = "cannot be judged"


class ListJudge:
    """Judges tests of attributes for the list of one type in an account's region.

    Every value that exists there is judged alone, by the operator that decides on a resource;
    what is left to SQL is which resources have a value that fits, or one that does not.

    Why: an operator written once more in SQL, for two databases, would be a second opinion on
    what a policy means, and a list must show exactly what a decision allows.
    """

    def __init__(self, tx: Tx, kind: Kind, *, owner_uin: str, region: str) -> None:
        table = kind.table
        self._tx = tx
        self._table = table
        self._tag = kind.tags
        self._listed = (table.c.owner_uin == owner_uin, table.c.region == region)
        self._judged: dict[object, Judged] = {}

    def __call__(self, test: AttributeTest) -> Judged:
        """See `store.Judge`. Tests that say the same of what there is get the same answer."""
        condition = read_test(test)
        values = self._makers if test.key == MAKER else self._tags.get(test.key, {})
        verdicts = {value: _judge(condition, texts) for value, texts in values.items()}
        absent = condition.holds_if_absent
        outcome = (test.key, condition.combines_any, absent, tuple(verdicts.values()))
        if outcome not in self._judged:
            self._judged[outcome] = self._tell(condition, verdicts)
        return self._judged[outcome]

    def _tell(self, condition: Condition, verdicts: Mapping[Value, Verdict]) -> Judged:
        """Put together what is said of values: one that fits is enough, or all of them must."""

        def some(wanted: Verdict) -> ColumnElement[bool]:
            return self._has(condition.key, verdicts, wanted=wanted)

        if not condition.combines_any:
            holds = ~some(Verdict.FITS_NOT)
            if not condition.holds_if_absent:
                holds &= some(Verdict.FITS)
        else:
            holds = some(Verdict.FITS)
            if condition.holds_if_absent:
                holds |= ~some(Verdict.FITS_NOT)
        return Judged(holds, some(Verdict.UNCLEAR))

    def _has(
        self, key: str, verdicts: Mapping[Value, Verdict], *, wanted: Verdict
    ) -> ColumnElement[bool]:
        """Whether a resource has a value of this verdict."""
        values = [value for value, verdict in verdicts.items() if verdict is wanted]
        if not values:
            return false()
        if key == MAKER:
            return is_one_of([self._table.c.created_by], values, dialect=self._tx.dialect)
        tag = self._tag
        is_wanted = is_one_of([tag.c.key, tag.c.value], values, dialect=self._tx.dialect)
        return exists().where(tag.c.resource_id == self._table.c.id, is_wanted)

    @cached_property
    def _makers(self) -> Mapping[Value, Texts]:
        different = select(self._table.c.created_by).where(*self._listed).distinct()
        return {(uin,): (uin,) for uin in self._tx.execute(different).scalars()}

    @cached_property
    def _tags(self) -> Mapping[str, Mapping[Value, Texts]]:
        """The different tags of all that is listed, by each condition key that they make."""
        found: dict[str, dict[Value, Texts]] = {}
        tag = self._tag
        of_listed = tag.c.resource_id == self._table.c.id
        different = select(tag.c.key, tag.c.value).where(of_listed, *self._listed).distinct()
        for row in self._tx.execute(different):
            pair = (row.key, row.value)
            for key, texts in carried_by_tags([pair]).items():
                found.setdefault(key, {})[pair] = texts
        return found


def _judge(condition: Condition, texts: Texts) -> Verdict:
    try:
        return Verdict.FITS if condition.holds({condition.key: texts}, {}) else Verdict.FITS_NOT
    except ValueError:
        return Verdict.UNCLEAR
