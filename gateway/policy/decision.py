"""Why a decision is what it is: the statements that settled it, or the one that nearly did."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gateway.call import Decision, Effect, Resource
from gateway.policy.match import (
    Query,
    conditions_hold,
    matches_action,
    matching_patterns,
    resolve,
)
from gateway.policy.resource import ResourcePattern
from gateway.policy.snapshot import Candidate


@dataclass(frozen=True, slots=True)
class Determinant:
    """A statement that settled a decision.

    version: the policy's. statement: its place in the document, from 1.
    pattern: the resource pattern that matched, as written.
    """

    policy: str
    version: int
    statement: int
    pattern: str


@dataclass(frozen=True, slots=True)
class NearestMiss:
    """An allow that would have applied but for one element.

    element: `action`, a segment of the resource such as `region`, or `condition`.
    wanted: what the statement asks for. found: what the call had; empty for a condition.
    """

    policy: str
    version: int
    statement: int
    element: str
    wanted: str
    found: str


@dataclass(frozen=True, slots=True)
class ShadowVerdict:
    """What would have been decided, were the caller's shadow policies enforced."""

    decision: Decision
    determining: tuple[Determinant, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision and what it rests on. shadow: None if the caller has no shadow policy."""

    decision: Decision
    determining: tuple[Determinant, ...]
    nearest_miss: NearestMiss | None
    shadow: ShadowVerdict | None


def determining(
    candidates: Iterable[Candidate], query: Query, *, effect: Effect, resources: Iterable[Resource]
) -> tuple[Determinant, ...]:
    """Give the statements of `effect` that apply to one of `resources`, each once."""
    found = (
        determinant(candidate, pattern)
        for resource in resources
        for candidate in candidates
        for pattern in _settling_patterns(candidate, query, resource, effect=effect)
    )
    return tuple(dict.fromkeys(found))


def determinant(candidate: Candidate, pattern: ResourcePattern) -> Determinant:
    """Name the statement that settles something by one of its patterns."""
    document = candidate.policy.document
    return Determinant(document.name, document.version, candidate.statement.index, pattern.text)


def _settling_patterns(
    candidate: Candidate, query: Query, resource: Resource, *, effect: Effect
) -> Iterator[ResourcePattern]:
    statement = candidate.statement
    if (
        statement.effect is effect
        and resource.owner_uin == query.principal.owner_uin
        and matches_action(statement, query.action)
        and conditions_hold(statement, query)
    ):
        yield from matching_patterns(statement, query, resource)


def nearest_miss(
    candidates: Iterable[Candidate], query: Query, resource: Resource
) -> NearestMiss | None:
    """Find the allow that fails in one element only; a late element is nearer than an early one.

    candidates: all statements of the caller, other actions' included.
    """
    misses = (
        miss
        for candidate in candidates
        if candidate.statement.effect is Effect.ALLOW
        for miss in _misses(candidate, query, resource)
    )
    nearness = (
        "action",
        "project_id",
        "service_type",
        "region",
        "account",
        "resource",
        "condition",
    )
    return max(misses, key=lambda miss: nearness.index(miss.element), default=None)


def _misses(candidate: Candidate, query: Query, resource: Resource) -> Iterator[NearestMiss]:
    statement = candidate.statement
    action_fits = matches_action(statement, query.action)
    condition_fits = conditions_hold(statement, query)
    for pattern in statement.resources:
        resolved = resolve(pattern, statement, query)
        if resolved is None:
            continue
        segments = list(resolved.differing(resource))
        if resource.owner_uin != query.principal.owner_uin:
            continue
        if len(segments) + (not action_fits) + (not condition_fits) != 1:
            continue
        if segments:
            yield _miss(candidate, segments[0].value, wanted=pattern.text, found=str(resource))
        elif not action_fits:
            actions = ", ".join(action.text for action in statement.actions)
            yield _miss(candidate, "action", wanted=actions, found=query.action)
        else:
            conditions = ", ".join(condition.text for condition in statement.conditions)
            yield _miss(candidate, "condition", wanted=conditions, found="")


def _miss(candidate: Candidate, element: str, *, wanted: str, found: str) -> NearestMiss:
    document = candidate.policy.document
    index = candidate.statement.index
    return NearestMiss(document.name, document.version, index, element, wanted, found)
