"""Why a decision is what it is: the statements that settled it, or the one that nearly did."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from gateway.call import Decision, Effect, Reason, Resource
from gateway.errors import ApiError
from gateway.policy.match import (
    Query,
    conditions_hold,
    judge,
    matches_action,
    matching_patterns,
    resolve,
)
from gateway.policy.resource import ResourcePattern, read_resource_pattern
from gateway.policy.snapshot import Candidate, Layer, Rights
from gateway.policy.verdict import Rules, Verdict, effect_of

LOOKED_AT_MAX = 2_000
"""Statements that are looked through for the nearest miss."""
NEARNESS = ("action", "project_id", "service_type", "region", "account", "resource", "condition")
"""The elements of a statement; one that comes late is nearer than one that comes early."""


@dataclass(frozen=True, slots=True)
class Determinant:
    """A statement that settled a decision.

    version: the policy's. file: where it stands, or empty. statement: its place in the document,
    from 1. via: how the caller has it: `user`, `group readers`, `role x`, `everyone`,
    `boundary` or `session-policy`.
    pattern: the resource pattern that matched, as written.
    """

    policy: str
    version: int
    file: str
    statement: int
    via: str
    pattern: str


@dataclass(frozen=True, slots=True)
class NearestMiss:
    """An allow that would have applied but for one element.

    element: one of NEARNESS. wanted: what the statement asks for. found: what the call had.
    """

    policy: str
    version: int
    file: str
    statement: int
    via: str
    element: str
    wanted: str
    found: str


@dataclass(frozen=True, slots=True)
class Fix:
    """The least that would have to be allowed besides.

    attach_to: whose policies lack it: `user 200`, `role x`, `boundary of user 200`, or the
    `session policy`, which only whoever makes the session can change.
    """

    attach_to: str
    action: str
    resources: tuple[str, ...]

    def policy(self) -> dict[str, Any]:
        """A whole policy document, to be attached or copied from."""
        return {
            "version": "2.0",
            "statement": [
                {"effect": "allow", "action": [self.action], "resource": list(self.resources)}
            ],
        }


@dataclass(frozen=True, slots=True)
class ShadowVerdict:
    """What would have been decided, were the caller's shadow policies enforced."""

    decision: Decision
    determining: tuple[Determinant, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision and what it rests on.

    nearest_miss: for a call that nothing allows. fixes: all of them together would allow it; empty
    if no allow can. shadow: None if the caller has no shadow policy.
    """

    decision: Decision
    determining: tuple[Determinant, ...]
    nearest_miss: NearestMiss | None
    fixes: tuple[Fix, ...]
    shadow: ShadowVerdict | None


def determining(
    candidates: Iterable[Candidate], query: Query, verdict: Verdict
) -> tuple[Determinant, ...]:
    """Give the statements that settled a verdict, each once.

    candidates: those of the caller that speak of the query's action.

    For an allow those of every layer that allow one of the resources; for an explicit deny those
    that deny the one that settled it. What is not allowed was settled by none.
    """
    reason, resource = verdict
    if effect_of(reason) is Effect.ALLOW:
        effect, resources = Effect.ALLOW, query.resources
    elif reason is Reason.EXPLICIT_DENY and resource is not None:
        effect, resources = Effect.DENY, (resource,)
    else:
        return ()
    speaking = [one for one in candidates if one.statement.effect is effect]
    found = (
        determinant(candidate, pattern)
        for resource in resources
        for candidate in speaking
        for pattern in _settling_patterns(candidate, query, resource)
    )
    return tuple(dict.fromkeys(found))


def determinant(candidate: Candidate, pattern: ResourcePattern) -> Determinant:
    """Name the statement that settles something by one of its patterns."""
    document = candidate.policy.document
    return Determinant(
        policy=document.name,
        version=document.version,
        file=document.file,
        statement=candidate.statement.index,
        via=_via(candidate),
        pattern=pattern.text,
    )


def _via(candidate: Candidate) -> str:
    if candidate.layer is not Layer.IDENTITY:
        reason: Reason = candidate.layer.value
        return reason.value
    _, _, holder = candidate.subject.partition("/")
    kind, slash, name = holder.partition("/")
    return f"{kind} {name}" if slash else "everyone" if kind == "everyone" else "user"


def _settling_patterns(
    candidate: Candidate, query: Query, resource: Resource
) -> Iterator[ResourcePattern]:
    statement = candidate.statement
    if resource.owner_uin == query.principal.owner_uin and (
        not statement.conditions or conditions_hold(statement, query, resource)
    ):
        yield from matching_patterns(statement, query, resource)


def nearest_miss(rights: Rights, query: Query, verdict: Verdict) -> NearestMiss | None:
    """Find the allow that fails in one element only, in the layer that allows nothing.

    Other actions' statements are looked at, too; of all, the first LOOKED_AT_MAX.
    """
    reason, resource = verdict
    if reason not in _LACKING or resource is None:
        return None
    if resource.owner_uin != query.principal.owner_uin:
        return None
    candidates = islice(rights.candidates(), LOOKED_AT_MAX)
    misses = (
        miss
        for candidate in candidates
        if candidate.layer.value is reason and candidate.statement.effect is Effect.ALLOW
        for miss in _misses(candidate, query, resource)
    )
    return max(misses, key=lambda miss: NEARNESS.index(miss.element), default=None)


_LACKING = frozenset(layer.value for layer in Layer)


def _misses(candidate: Candidate, query: Query, resource: Resource) -> Iterator[NearestMiss]:
    statement = candidate.statement
    action_fits = matches_action(statement, query.action)
    condition_fits = conditions_hold(statement, query, resource)
    if not action_fits and not condition_fits:
        return
    for pattern in statement.resources:
        resolved = resolve(pattern, statement, query)
        if resolved is None:
            continue
        segments = list(resolved.differing(resource))
        if len(segments) + (not action_fits) + (not condition_fits) != 1:
            continue
        if segments:
            yield _miss(candidate, segments[0].value, wanted=pattern.text, found=str(resource))
        elif not action_fits:
            actions = ", ".join(action.text for action in statement.actions)
            yield _miss(candidate, "action", wanted=actions, found=query.action)
        else:
            wanted, found = _failing_conditions(candidate, query, resource)
            yield _miss(candidate, "condition", wanted=wanted, found=found)


def _failing_conditions(candidate: Candidate, query: Query, resource: Resource) -> tuple[str, str]:
    """Say what the conditions that do not hold ask for, and what the call had."""
    context = query.context_of(resource)
    failing = [
        one
        for one in candidate.statement.conditions
        if not judge((one,), context, query, effect=Effect.ALLOW)
    ]
    wanted = [f"{one.name} {one.key} {' or '.join(one.written)}" for one in failing]
    found = [f"{one.key} {' and '.join(context.get(one.key, ())) or 'absent'}" for one in failing]
    return "; ".join(wanted), "; ".join(dict.fromkeys(found))


def _miss(candidate: Candidate, element: str, *, wanted: str, found: str) -> NearestMiss:
    document = candidate.policy.document
    return NearestMiss(
        policy=document.name,
        version=document.version,
        file=document.file,
        statement=candidate.statement.index,
        via=_via(candidate),
        element=element,
        wanted=wanted,
        found=found,
    )


def find_fixes(rules: Rules, rights: Rights, query: Query, *, verdict: Verdict) -> tuple[Fix, ...]:
    """The least to be allowed, for each layer that lacks it. None if no allow can help.

    No allow can where something is denied, another account's, or cannot be written as a pattern.
    """
    if verdict[0] not in _LACKING or not query.resources:
        return ()
    reasons = [rules.reason(query, resource) for resource in (*query.resources, *query.deny_only)]
    foreign = any(one.owner_uin != query.principal.owner_uin for one in query.resources)
    if foreign or Reason.EXPLICIT_DENY in reasons:
        return ()
    lacking: dict[Layer, list[str]] = {}
    for resource in query.resources:
        for layer in rules.lacking(query, resource):
            lacking.setdefault(layer, []).append(str(resource))
    if not all(_can_be_written(text) for texts in lacking.values() for text in texts):
        return ()
    return tuple(
        Fix(_holder(layer, rights, query), query.action, tuple(dict.fromkeys(texts)))
        for layer, texts in lacking.items()
    )


def _can_be_written(text: str) -> bool:
    try:
        return not read_resource_pattern(text).has_variables
    except ApiError:
        return False


def _holder(layer: Layer, rights: Rights, query: Query) -> str:
    principal = query.principal
    holder = f"role {principal.role}" if principal.role else f"user {principal.name}"
    if layer is Layer.IDENTITY:
        return holder
    if layer is Layer.SESSION:
        return "session policy"
    names = _policy_names(rights, layer)
    return f"boundary {', '.join(names)} of {'the root account' if principal.is_root else holder}"


def _policy_names(rights: Rights, wanted: Layer) -> Iterable[str]:
    return [
        held.policy.document.name
        for layer, policies in rights.layers
        if layer is wanted
        for held in policies
    ]
