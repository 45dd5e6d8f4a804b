"""Plans: the statements that speak of one action, folded into tables of resources.

A plan is made at the first query of a principal and an action. Everything but the last segment of
a resource is the same for a whole service and region, so each of those gets its own tables, at
the first resource there: exact paths, prefixes by their length, and the patterns that are neither,
by the text before their first `*`. A path is then found by looking up a few of its beginnings,
however many statements there are.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

from gateway.call import Effect, Resource
from gateway.policy.condition import Condition, is_of_resource
from gateway.policy.document import Statement
from gateway.policy.match import Query, applies, judge
from gateway.policy.pattern import fits

PLACES_MAX = 64
"""Services and regions a plan keeps tables of: bounded, for a caller may invent regions."""

Guard = tuple[Condition, ...]
"""Conditions that must hold besides."""
NO_GUARDS: Set[Guard] = frozenset()


class Paths:
    """Patterns of paths."""

    __slots__ = ("_exact", "_heads", "_prefixes")

    def __init__(self, patterns: Iterable[str]) -> None:
        distinct = set(patterns)
        self._exact = frozenset(path for path in distinct if "*" not in path)
        self._prefixes = _by_length(p[:-1] for p in distinct if p.find("*") == len(p) - 1)
        self._heads = _by_head(p for p in distinct if -1 < p.find("*") < len(p) - 1)

    def match(self, path: str) -> bool:
        """Tell whether one of them fits."""
        if path in self._exact:
            return True
        for length, prefixes in self._prefixes:
            if path[:length] in prefixes:
                return True
        for length, heads in self._heads:
            for pattern in heads.get(path[:length], ()):
                if fits(pattern, path):
                    return True
        return False


class GuardedPaths:
    """Patterns of paths, each with conditions under which it counts."""

    __slots__ = ("_effect", "_exact", "_heads")

    def __init__(self, guards: Mapping[str, set[Guard]], effect: Effect) -> None:
        self._effect = effect
        self._exact = {path: found for path, found in guards.items() if "*" not in path}
        wild = {path: found for path, found in guards.items() if "*" in path}
        self._heads = tuple(
            (
                length,
                {head: [(path, wild[path]) for path in paths] for head, paths in heads.items()},
            )
            for length, heads in _by_head(wild)
        )

    def match(self, query: Query, resource: Resource) -> bool:
        """Tell whether one fits whose conditions hold."""
        path = resource.path
        guards = self._exact.get(path, NO_GUARDS)
        for length, heads in self._heads:
            for pattern, found in heads.get(path[:length], ()):
                if fits(pattern, path):
                    guards = guards | found  # equal conditions are judged once
        if not guards:
            return False
        context = query.context_of(resource)
        return any(judge(guard, context, query, effect=self._effect) for guard in guards)


def _by_length(prefixes: Iterable[str]) -> tuple[tuple[int, frozenset[str]], ...]:
    lengths: dict[int, set[str]] = {}
    for prefix in prefixes:
        lengths.setdefault(len(prefix), set()).add(prefix)
    return tuple((length, frozenset(lengths[length])) for length in sorted(lengths))


def _by_head(patterns: Iterable[str]) -> tuple[tuple[int, dict[str, list[str]]], ...]:
    """Patterns by the length and the text of what stands before their first `*`."""
    lengths: dict[int, dict[str, list[str]]] = {}
    for pattern in patterns:
        head = pattern[: pattern.index("*")]
        lengths.setdefault(len(head), {}).setdefault(head, []).append(pattern)
    return tuple((length, lengths[length]) for length in sorted(lengths))


@dataclass(frozen=True, slots=True)
class _Place:
    """The tables of one service and region; None for one that is empty."""

    denied: Paths | None
    denied_if: GuardedPaths | None
    allowed: Paths | None
    allowed_if: GuardedPaths | None

    def effect(self, query: Query, resource: Resource) -> Effect | None:
        if self.denied is not None and self.denied.match(resource.path):
            return Effect.DENY
        if self.denied_if is not None and self.denied_if.match(query, resource):
            return Effect.DENY
        if self.allowed is not None and self.allowed.match(resource.path):
            return Effect.ALLOW
        if self.allowed_if is not None and self.allowed_if.match(query, resource):
            return Effect.ALLOW
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
        if self._with_app_id and effect is not Effect.DENY:
            return self._judge_each(query, resource) or effect
        return effect

    def _open(self, resource: Resource) -> _Place:
        place = _Place(
            *self._tables(Effect.DENY, resource),
            *self._tables(Effect.ALLOW, resource),
        )
        if len(self._places) >= PLACES_MAX:
            self._places = {}
        self._places[resource.service, resource.region] = place
        return place

    def _tables(
        self, effect: Effect, resource: Resource
    ) -> tuple[Paths | None, GuardedPaths | None]:
        plain: list[str] = []
        guarded: dict[str, set[Guard]] = {}
        for statement in self._statements:
            if statement.effect is not effect:
                continue
            for path in self._paths(statement, resource):
                if statement.conditions:
                    guarded.setdefault(path, set()).add(statement.conditions)
                else:
                    plain.append(path)
        return (
            Paths(plain) if plain else None,
            GuardedPaths(guarded, effect) if guarded else None,
        )

    def _paths(self, statement: Statement, resource: Resource) -> Iterator[str]:
        for pattern in statement.resources:
            if not pattern.place.contains(resource):
                continue
            if not pattern.has_variables:
                yield from pattern.paths(resource.service)
            elif "${app_id}" not in pattern.path:
                denies = statement.effect is Effect.DENY
                resolved = pattern.resolved(self._variables, denies=denies)
                if resolved is not None:
                    yield from resolved.paths(resource.service)

    def _judge_each(self, query: Query, resource: Resource) -> Effect | None:
        effects = {one.effect for one in self._with_app_id if applies(one, query, resource)}
        if Effect.DENY in effects:
            return Effect.DENY
        return Effect.ALLOW if effects else None


def _names_app_id(statement: Statement) -> bool:
    return any("${app_id}" in pattern.path for pattern in statement.resources)
