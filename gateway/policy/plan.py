"""Plans: the statements that speak of one action, folded into tables of resources.

A plan is made at the first query of a principal and an action. Everything but the last segment of
a resource is the same for a whole service and region, so each of those gets its own table, at the
first resource there: exact paths, prefixes, and other patterns by what stands before their first
and after their last `*`. A path is then found by looking up a few of its beginnings and ends,
however many statements there are. A decision takes about as long as fetching the objects it looks
at, so they are few.
"""

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from gateway.call import Effect, Resource
from gateway.policy.condition import Condition, is_of_resource
from gateway.policy.document import Statement
from gateway.policy.match import Query, Variables, applies, judge
from gateway.policy.pattern import fits
from gateway.policy.resource import ResourcePattern

PLACES_MAX = 64
"""Services and regions a plan keeps tables of: bounded, for a caller may invent regions."""
ALLOW, DENY = Effect.ALLOW, Effect.DENY

Guard = tuple[Condition, ...]
"""Conditions that must hold besides."""
V = TypeVar("V")
Ends = tuple[tuple[int, int, dict[tuple[str, str], list[tuple[str, V]]]], ...]
"""Patterns by the lengths, then the texts, of what stands before their first `*` and after their
last."""


class Paths(Generic[V]):
    """Patterns of paths, and what is said of each.

    A path is looked up as it is, and as each of its beginnings with a `*` behind. That may find a
    pattern that is the very text of the path, `*` and all: such a pattern fits, too.
    """

    __slots__ = ("_lengths", "_said", "_wild")

    def __init__(self, said: Mapping[str, V]) -> None:
        self._said = said
        stars = {pattern: pattern.find("*") for pattern in said}
        prefixes = {at for pattern, at in stars.items() if -1 < at == len(pattern) - 1}
        self._lengths = tuple(sorted(prefixes))
        self._wild: Ends[V] = _by_ends(
            {pattern: said[pattern] for pattern, at in stars.items() if -1 < at < len(pattern) - 1}
        )

    def lookup(self, path: str) -> tuple[V, ...]:
        """What is said by the patterns that fit; once or twice."""
        found: tuple[V, ...] = ()
        said = self._said
        value = said.get(path)
        if value is not None:
            found = (value,)
        for length in self._lengths:
            value = said.get(path[:length] + "*")
            if value is not None:
                found += (value,)
        for head, tail, patterns in self._wild:
            for pattern, value in patterns.get((path[:head], path[len(path) - tail :]), ()):
                if fits(pattern, path):
                    found += (value,)
        return found


def _by_ends(said: Mapping[str, V]) -> Ends[V]:
    lengths: dict[tuple[int, int], dict[tuple[str, str], list[tuple[str, V]]]] = {}
    for pattern, value in said.items():
        head, _, rest = pattern.partition("*")
        tail = rest.rpartition("*")[2]
        found = lengths.setdefault((len(head), len(tail)), {})
        found.setdefault((head, tail), []).append((pattern, value))
    return tuple((head, tail, lengths[head, tail]) for head, tail in sorted(lengths))


Guarded = dict[str, set[Guard]]
"""Patterns of paths, with the sets of conditions under which each counts."""


class _Place:
    """The tables of one service and region.

    said: what is said without conditions; where both are said of one pattern, deny.
    """

    __slots__ = ("_allowed_if", "_denied_if", "_said", "region", "service")

    def __init__(
        self,
        resource: Resource,
        *,
        said: dict[str, Effect],
        denied_if: Guarded,
        allowed_if: Guarded,
    ) -> None:
        self.service = resource.service
        self.region = resource.region
        self._said = Paths(said)
        self._denied_if = Paths(denied_if) if denied_if else None
        self._allowed_if = Paths(allowed_if) if allowed_if else None

    def effect(self, query: Query, resource: Resource) -> Effect | None:
        said = self._said.lookup(resource.path)
        if DENY in said:
            return DENY
        if self._denied_if is not None and _hold(self._denied_if, query, resource, effect=DENY):
            return DENY
        if said:
            return ALLOW
        if self._allowed_if is not None and _hold(self._allowed_if, query, resource, effect=ALLOW):
            return ALLOW
        return None


def _hold(paths: Paths[set[Guard]], query: Query, resource: Resource, *, effect: Effect) -> bool:
    """Tell whether a pattern fits whose conditions hold."""
    found = paths.lookup(resource.path)
    if not found:
        return False
    guards = found[0].union(*found[1:])  # equal conditions are judged once
    context = query.context_of(resource)
    for guard in guards:  # noqa: SIM110  # any() makes a generator
        if judge(guard, context, values=query.variables, effect=effect):
            return True
    return False


class Plan:
    """The statements of one layer that speak of one action, for one principal.

    variables: the caller's own, which are put into the patterns once. A pattern with `${app_id}`
    is looked at statement by statement.
    """

    __slots__ = ("__weakref__", "_last", "_places", "_statements", "_variables", "_with_app_id")

    def __init__(self, statements: Iterable[Statement], variables: Variables) -> None:
        self._statements = tuple(statements)
        self._variables = variables
        self._with_app_id = tuple(one for one in self._statements if _names_app_id(one))
        self._places: dict[tuple[str, str], _Place] = {}
        self._last: _Place | None = None

    @property
    def has_variables(self) -> bool:
        """Whether a pattern asks who the caller is."""
        return any(one.has_variables for each in self._statements for one in each.resources)

    @property
    def reads_resources(self) -> bool:
        """Whether a condition asks what a resource carries."""
        return any(is_of_resource(one) for each in self._statements for one in each.conditions)

    def effect(self, query: Query, resource: Resource) -> Effect | None:
        """What the statements say of a resource of the caller's own account."""
        place = self._last  # mostly the only one
        if place is None or place.region != resource.region or place.service != resource.service:
            place = self._find_place(resource)
        effect = place.effect(query, resource)
        if self._with_app_id and effect is not DENY:
            return self._judge_each(query, resource) or effect
        return effect

    def _find_place(self, resource: Resource) -> _Place:
        key = (resource.service, resource.region)
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= PLACES_MAX:
                self._places = {}
            place = self._places[key] = self._open(resource)
        self._last = place
        return place

    def _open(self, resource: Resource) -> _Place:
        said: dict[str, Effect] = {}
        guarded: dict[Effect, Guarded] = {ALLOW: {}, DENY: {}}
        inside: dict[int, bool] = {}  # by the places' identity, for many patterns share one
        for statement in self._statements:
            effect = statement.effect
            for pattern in statement.resources:
                known = inside.get(id(pattern.place))
                if known is None:
                    known = inside[id(pattern.place)] = pattern.place.contains(resource)
                if not known:
                    continue
                for path in self._paths(pattern, effect, service=resource.service):
                    if statement.conditions:
                        guarded[effect].setdefault(path, set()).add(statement.conditions)
                    elif effect is DENY:
                        said[path] = DENY
                    else:
                        said.setdefault(path, ALLOW)
        return _Place(resource, said=said, denied_if=guarded[DENY], allowed_if=guarded[ALLOW])

    def _paths(self, pattern: ResourcePattern, effect: Effect, *, service: str) -> tuple[str, ...]:
        if "${" not in pattern.path:
            return pattern.paths(service)
        if "${app_id}" in pattern.path:
            return ()
        resolved = pattern.resolved(self._variables, denies=effect is DENY)
        return () if resolved is None else resolved.paths(service)

    def _judge_each(self, query: Query, resource: Resource) -> Effect | None:
        effects = {one.effect for one in self._with_app_id if applies(one, query, resource)}
        if DENY in effects:
            return DENY
        return ALLOW if effects else None


def _names_app_id(statement: Statement) -> bool:
    return any("${app_id}" in pattern.path for pattern in statement.resources)
