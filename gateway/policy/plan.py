"""Plans: the statements that speak of one action, folded into tables of resources.

A plan is made at the first query of a principal and an action. Everything but the last segment of
a resource is the same for a whole service and region, so each of those gets its own tables, at
the first resource there: exact paths, prefixes by their length, and other patterns by what stands
before their first and after their last `*`. A path is then found by looking up a few of its
beginnings and ends, however many statements there are.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

from gateway.call import Effect, Resource
from gateway.policy.condition import Condition, is_of_resource
from gateway.policy.document import Statement
from gateway.policy.match import Query, applies, judge
from gateway.policy.pattern import fits
from gateway.policy.resource import ResourcePattern

PLACES_MAX = 64
"""Services and regions a plan keeps tables of: bounded, for a caller may invent regions."""

Guard = tuple[Condition, ...]
"""Conditions that must hold besides."""
NO_GUARDS: Set[Guard] = frozenset()
ALLOW, DENY = Effect.ALLOW, Effect.DENY

_Drafts = tuple[list[str], dict[str, set[Guard]]]
"""Paths without conditions, and those with them."""


class Paths:
    """Patterns of paths."""

    __slots__ = ("_exact", "_prefixes", "_wild")

    def __init__(self, patterns: Iterable[str]) -> None:
        distinct = set(patterns)
        self._exact = frozenset(path for path in distinct if "*" not in path)
        prefixes = {p for p in distinct if p.endswith("*") and p.index("*") == len(p) - 1}
        self._prefixes = _by_length(prefix[:-1] for prefix in prefixes)
        self._wild = _by_ends(distinct - self._exact - prefixes)

    def match(self, path: str) -> bool:
        """Tell whether one of them fits."""
        if path in self._exact:
            return True
        for length, prefixes in self._prefixes:
            if path[:length] in prefixes:
                return True
        if self._wild:
            for pattern in _having_ends(self._wild, path):
                if fits(pattern, path):
                    return True
        return False


class GuardedPaths:
    """Patterns of paths, each with conditions under which it counts."""

    __slots__ = ("_effect", "_guards", "_wild")

    def __init__(self, guards: Mapping[str, set[Guard]], effect: Effect) -> None:
        self._effect = effect
        self._guards = guards
        self._wild = _by_ends(path for path in guards if "*" in path)

    def match(self, query: Query, resource: Resource) -> bool:
        """Tell whether one fits whose conditions hold."""
        path = resource.path
        guards: Set[Guard] = NO_GUARDS
        if "*" not in path:  # a pattern that is equal to such a path is found below
            guards = self._guards.get(path, NO_GUARDS)
        for pattern in _having_ends(self._wild, path):
            if fits(pattern, path):
                guards = guards | self._guards[pattern]  # equal conditions are judged once
        if not guards:
            return False
        context = query.context_of(resource)
        return any(judge(guard, context, query, effect=self._effect) for guard in guards)


Ends = tuple[tuple[int, int, dict[tuple[str, str], list[str]]], ...]
"""Patterns by the lengths, then the texts, of what stands before their first `*` and after their
last."""


def _by_length(prefixes: Iterable[str]) -> tuple[tuple[int, frozenset[str]], ...]:
    lengths: dict[int, set[str]] = {}
    for prefix in prefixes:
        lengths.setdefault(len(prefix), set()).add(prefix)
    return tuple((length, frozenset(lengths[length])) for length in sorted(lengths))


def _by_ends(patterns: Iterable[str]) -> Ends:
    lengths: dict[tuple[int, int], dict[tuple[str, str], list[str]]] = {}
    for pattern in patterns:
        head, _, rest = pattern.partition("*")
        tail = rest.rpartition("*")[2]
        found = lengths.setdefault((len(head), len(tail)), {})
        found.setdefault((head, tail), []).append(pattern)
    return tuple((head, tail, lengths[head, tail]) for head, tail in sorted(lengths))


def _having_ends(ends: Ends, path: str) -> Iterator[str]:
    """The patterns that begin and end as a path does."""
    for head, tail, patterns in ends:
        found = patterns.get((path[:head], path[len(path) - tail :]))
        if found is not None and head + tail <= len(path):
            yield from found


@dataclass(frozen=True, slots=True)
class _Place:
    """The tables of one service and region; None for one that is empty."""

    denied: Paths | None
    denied_if: GuardedPaths | None
    allowed: Paths | None
    allowed_if: GuardedPaths | None

    def effect(self, query: Query, resource: Resource) -> Effect | None:
        path = resource.path
        if self.denied is not None and self.denied.match(path):
            return DENY
        if self.denied_if is not None and self.denied_if.match(query, resource):
            return DENY
        if self.allowed is not None and self.allowed.match(path):
            return ALLOW
        if self.allowed_if is not None and self.allowed_if.match(query, resource):
            return ALLOW
        return None


class Plan:
    """The statements of one layer that speak of one action, for one principal.

    variables: the caller's own, which are put into the patterns once. A pattern with `${app_id}`
    is looked at statement by statement.
    """

    __slots__ = ("__weakref__", "_places", "_statements", "_variables", "_with_app_id")

    def __init__(self, statements: Iterable[Statement], variables: Mapping[str, str]) -> None:
        self._statements = tuple(statements)
        self._variables = variables
        self._with_app_id = tuple(one for one in self._statements if _names_app_id(one))
        self._places: dict[tuple[str, str], _Place] = {}

    @property
    def reads_resources(self) -> bool:
        """Whether a condition asks what a resource carries."""
        return any(is_of_resource(one) for each in self._statements for one in each.conditions)

    def effect(self, query: Query, resource: Resource) -> Effect | None:
        """What the statements say of a resource of the caller's own account."""
        place = self._places.get((resource.service, resource.region))
        if place is None:
            place = self._open(resource)
        effect = place.effect(query, resource)
        if self._with_app_id and effect is not DENY:
            return self._judge_each(query, resource) or effect
        return effect

    def _open(self, resource: Resource) -> _Place:
        tables: dict[Effect, _Drafts] = {ALLOW: ([], {}), DENY: ([], {})}
        inside: dict[int, bool] = {}  # by the places' identity, for many patterns share one
        for statement in self._statements:
            plain, guarded = tables[statement.effect]
            for pattern in statement.resources:
                place = pattern.place
                known = inside.get(id(place))
                if known is None:
                    known = inside[id(place)] = place.contains(resource)
                if known:
                    for path in self._paths(pattern, statement, service=resource.service):
                        if statement.conditions:
                            guarded.setdefault(path, set()).add(statement.conditions)
                        else:
                            plain.append(path)
        opened = _Place(*_folded(tables[DENY], DENY), *_folded(tables[ALLOW], ALLOW))
        if len(self._places) >= PLACES_MAX:
            self._places = {}
        self._places[resource.service, resource.region] = opened
        return opened

    def _paths(
        self, pattern: ResourcePattern, statement: Statement, *, service: str
    ) -> tuple[str, ...]:
        if "${" not in pattern.path:
            return pattern.paths(service)
        if "${app_id}" in pattern.path:
            return ()
        resolved = pattern.resolved(self._variables, denies=statement.effect is DENY)
        return () if resolved is None else resolved.paths(service)

    def _judge_each(self, query: Query, resource: Resource) -> Effect | None:
        effects = {one.effect for one in self._with_app_id if applies(one, query, resource)}
        if Effect.DENY in effects:
            return Effect.DENY
        return Effect.ALLOW if effects else None


def _folded(drafts: _Drafts, effect: Effect) -> tuple[Paths | None, GuardedPaths | None]:
    plain, guarded = drafts
    return Paths(plain) if plain else None, GuardedPaths(guarded, effect) if guarded else None


def _names_app_id(statement: Statement) -> bool:
    return any("${app_id}" in pattern.path for pattern in statement.resources)
