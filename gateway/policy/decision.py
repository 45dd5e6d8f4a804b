"""Why a decision is what it is: the statements that settled it, or the one that nearly did."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from gateway.call import Decision, Effect, Reason, Resource
from gateway.errors import ApiError
from gateway.policy.action import ActionPattern
from gateway.policy.condition import Condition, Context
from gateway.policy.match import (
    Query,
    Variables,
    conditions_hold,
    judge,
    matches_action,
    matching_patterns,
    resolve,
)
from gateway.policy.resource import ResourcePattern, read_resource_pattern
from gateway.policy.snapshot import Candidate, Layer, Rights
from gateway.policy.trust import Trust, misfits, names_of, settling
from gateway.policy.verdict import Rules, Verdict, effect_of

LOOKED_AT_MAX = 1_000
"""Patterns that are looked through for the nearest miss: a denied call waits for that."""
COMPARED_MAX = 10_000
"""Comparisons of a resource with a pattern, after which no further resource is explained."""
NEARNESS = (
    "action",
    "principal",
    "project_id",
    "service_type",
    "region",
    "account",
    "resource",
    "condition",
)
"""The elements of a statement; one that comes late is nearer than one that comes early.

Only the trust policy of a role has a `principal`.
"""


@dataclass(frozen=True, slots=True)
class Determinant:
    """A statement that settled a decision.

    version: the policy's. file: where it stands, or empty. statement: its place in the document,
    from 1. via: how the caller has it: `user`, `group readers`, `role x`, `everyone`,
    `boundary` or `session-policy`.
    pattern: the resource pattern that matched, as written; of a role's trust policy, which has
    none and one version only, the principal.
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
    Of a role's trust policy in which no statement fails in one element only, it is the first
    element of the nearest one; statement: 0 if it allows nobody anything.
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

    attach_to: whose policies lack it: `user ann`, `role x`, `boundary NAME of user ann`, or the
    `session policy`, which only whoever makes the session can change.
    caution: what it would do besides; empty for nothing.
    """

    attach_to: str
    action: str
    resources: tuple[str, ...]
    caution: str = ""

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
    """Give the statements that settled a verdict, each once for each of its patterns.

    candidates: those of the caller that speak of the query's action.
    For an allow those of every layer that allow one of the resources; for an explicit deny those
    that deny the one that settled it. What is not allowed was settled by none. Of a call on many
    resources, what is found within COMPARED_MAX comparisons, one resource after the other.
    """
    reason, resource = verdict
    if effect_of(reason) is Effect.ALLOW:
        effect, resources = Effect.ALLOW, query.resources
    elif reason is Reason.EXPLICIT_DENY and resource is not None:
        effect, resources = Effect.DENY, (resource,)
    else:
        return ()
    speaking = [one for one in candidates if one.statement.effect is effect]
    found: dict[tuple[int, str], Determinant] = {}
    left = COMPARED_MAX
    for one in resources:
        for candidate in speaking:
            left -= len(candidate.statement.resources)
            for pattern in _settling_patterns(candidate, query, one):
                key = id(candidate), pattern.text
                if key not in found:
                    found[key] = determinant(candidate, pattern)
        if left < 0:
            break
    return tuple(found.values())


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


def denied_by_trust(trust: Trust, query: Query) -> tuple[Determinant, ...]:
    """Name the denies of a role's trust policy that apply, by the principals that match."""
    names = names_of(query.principal)
    return tuple(
        Determinant(
            policy=trust.name,
            version=1,
            file=trust.file,
            statement=one.index,
            via="role",
            pattern=name,
        )
        for one in settling(trust, query.principal, context=query.context)
        if one.effect is Effect.DENY
        for name in one.principals
        if name in names
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

    Other actions' statements are looked at, too; of all, the first LOOKED_AT_MAX patterns.
    """
    reason, resource = verdict
    if reason not in _LACKING or resource is None:
        return None
    if resource.owner_uin != query.principal.owner_uin:
        return None
    allows = (
        (candidate, pattern)
        for candidate in rights.candidates()
        if candidate.layer.value is reason and candidate.statement.effect is Effect.ALLOW
        for pattern in candidate.statement.resources
    )
    nearest: NearestMiss | None = None
    for candidate, pattern in islice(allows, LOOKED_AT_MAX):
        miss = _miss(candidate, pattern, query, resource=resource)
        if miss is None or (nearest and _nearness(miss) <= _nearness(nearest)):
            continue
        nearest = miss
        if miss.element == NEARNESS[-1]:
            break
    return nearest


def trust_miss(trust: Trust, query: Query) -> NearestMiss:
    """Find the statement of a role's trust policy that nearly admits the caller."""
    principal, context = query.principal, query.context
    misses = [
        (one, misfits(one, principal, context=context))
        for one in trust.statements
        if one.effect is Effect.ALLOW
    ]
    found = names_of(principal)[-1]
    if not misses:
        return _named_trust_miss(trust, "principal", statement=0, wanted="nobody", found=found)
    nearest, (element, *_) = min(misses, key=lambda one: (len(one[1]), -NEARNESS.index(one[1][0])))
    if element == "principal":
        wanted = ", ".join((*nearest.principals, *nearest.services))
    elif element == "action":
        wanted, found = _texts_of(nearest.actions), query.action
    else:
        wanted, found = _failing(nearest.conditions, context, values=query.variables)
    return _named_trust_miss(trust, element, statement=nearest.index, wanted=wanted, found=found)


def _named_trust_miss(
    trust: Trust, element: str, *, statement: int, wanted: str, found: str
) -> NearestMiss:
    return NearestMiss(
        policy=trust.name,
        version=1,
        file=trust.file,
        statement=statement,
        via="role",
        element=element,
        wanted=wanted,
        found=found,
    )


def _nearness(miss: NearestMiss) -> int:
    return NEARNESS.index(miss.element)


_LACKING = frozenset(layer.value for layer in Layer)


def _miss(
    candidate: Candidate, pattern: ResourcePattern, query: Query, *, resource: Resource
) -> NearestMiss | None:
    """The one element in which a pattern's statement fails; None if it is not exactly one."""
    statement = candidate.statement
    resolved = resolve(pattern, statement, query)
    if resolved is None:
        return None
    segments = list(resolved.differing(resource))
    action_fits = matches_action(statement, query.action)
    if len(segments) + (not action_fits) > 1:
        return None
    condition_fits = conditions_hold(statement, query, resource)
    if len(segments) + (not action_fits) + (not condition_fits) != 1:
        return None
    if segments:
        named = segments[0].value, pattern.text, str(resource)
    elif not action_fits:
        named = "action", _texts_of(statement.actions), query.action
    else:
        context = query.context_of(resource)
        named = "condition", *_failing(statement.conditions, context, values=query.variables)
    return _named_miss(candidate, *named)


def _texts_of(actions: Iterable[ActionPattern]) -> str:
    return ", ".join(action.text for action in actions)


def _failing(
    conditions: Iterable[Condition], context: Context, *, values: Callable[[], Variables]
) -> tuple[str, str]:
    """Say what an allow's conditions that do not hold ask for, and what the call had."""
    failing = [
        one for one in conditions if not judge((one,), context, values=values, effect=Effect.ALLOW)
    ]
    wanted = [f"{one.name} {one.key} {' or '.join(one.written)}" for one in failing]
    found = [f"{one.key} {' and '.join(context.get(one.key, ())) or 'absent'}" for one in failing]
    return "; ".join(wanted), "; ".join(dict.fromkeys(found))


def _named_miss(candidate: Candidate, element: str, wanted: str, found: str) -> NearestMiss:
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


def find_fixes(
    rules: Rules, rights: Rights, query: Query, *, verdict: Verdict, miss: NearestMiss | None
) -> tuple[Fix, ...]:
    """The least to be allowed, for each layer that lacks it. None if no allow can help.

    miss: the nearest one; a fix without its condition says that it sets the condition aside.
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
    caution = ""
    if miss is not None and miss.element == "condition":
        caution = f"sets aside what {miss.policy}/{miss.statement} asks for: {miss.wanted}"
    return tuple(
        Fix(
            _holder(layer, rights, query),
            query.action,
            tuple(dict.fromkeys(texts)),
            caution if layer.value is verdict[0] else "",
        )
        for layer, texts in lacking.items()
    )


def _can_be_written(text: str) -> bool:
    """Whether a pattern means the resource and nothing else; `job/*` is what SubmitJob asks for."""
    try:
        pattern = read_resource_pattern(text)
    except ApiError:
        return False
    return not pattern.has_variables and "*" not in pattern.path.removesuffix("*")


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
