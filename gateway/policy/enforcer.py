"""The decision. casbin holds the model and the role graph, and judges; this is its only door.

casbin's own matchers (`keyMatch` and its family) are not registered, so no model can use them:
in `qcs::` strings they let another account's uin match, and let a newline skip a deny.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from threading import Lock
from types import CodeType

import casbin
from casbin.effect import AllowAndDenyEffector
from casbin.model import FunctionMap

from gateway.call import Decision, Effect, Reason, Resource, Scope
from gateway.policy.accounts import Mode
from gateway.policy.decision import (
    Determinant,
    Explanation,
    NearestMiss,
    ShadowVerdict,
    determinant,
    determining,
    nearest_miss,
)
from gateway.policy.document import Statement
from gateway.policy.match import Query, applies
from gateway.policy.scope import scope_of, showing_patterns
from gateway.policy.snapshot import Candidate, Snapshot, user_subject
from gateway.policy.strict_toml import PolicySetRefused

SECTIONS = ("r", "p", "g", "e", "m")
TOKENS = ("r_sub", "r_query", "r_resource", "p_sub", "p_statement", "p_eft")
LINES_MAX = 16_384  # (user, action) pairs whose candidates are kept, per snapshot

Function = Callable[..., object]
Line = tuple[str, Statement, str]
"""What casbin is handed: subject, statement, "allow" or "deny", as `p` in the model."""


@dataclass(frozen=True, slots=True)
class Lines:
    """The candidates of one user and action.

    denying: those of `enforced` that deny. has_shadow: the user has a shadow policy, be it of
    another action. candidates: what `with_shadow` was made of.
    """

    enforced: tuple[Line, ...]
    denying: tuple[Line, ...]
    with_shadow: tuple[Line, ...]
    has_shadow: bool
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision that still knows its resource; None if the query named none."""

    reason: Reason
    resource: Resource | None

    @property
    def effect(self) -> Effect:
        """Whether the call may go on."""
        if self.reason is Reason.EXPLICIT_ALLOW or self.reason is Reason.ROOT:
            return Effect.ALLOW
        return Effect.DENY


class Enforcer:
    """Decides queries on the current snapshot. May be used by several threads.

    model_text: `policies/model.conf`. Raises PolicySetRefused if it is not the model expected.
    """

    def __init__(self, model_text: str, snapshot: Snapshot) -> None:
        self._model_text = model_text
        self._judge = _Judge(model_text, snapshot)

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot that decisions are made on now."""
        return self._judge.snapshot

    def swap(self, snapshot: Snapshot) -> None:
        """Decide on `snapshot` from now on; a decision under way keeps the old one."""
        self._judge = _Judge(self._model_text, snapshot)

    def decide(self, query: Query) -> Decision:
        """Answer "may they?". Every resource must be allowed; the first that is not is named.

        A query without resources is denied, for there is nothing an allow could match, except to
        the root account: a list is decided by `scope`.
        """
        return self._judge.decide(query)

    def scope(self, query: Query, *, resource_type: str, region: str) -> Scope:
        """Give the ids of one type, such as `job`, that the query's action is allowed on."""
        return self._judge.scope(query, resource_type=resource_type, region=region)

    def explain(self, query: Query) -> Explanation:
        """Decide, and say why; slower."""
        return self._judge.explain(query)

    @property
    def explain_as_now(self) -> Callable[[Query], Explanation]:
        """`explain` on the snapshot in force now, also when it is called after a change."""
        return self._judge.explain

    def explain_list_as_now(
        self, *, resource_type: str, region: str
    ) -> Callable[[Query], Explanation]:
        """`explain_as_now` for a list without ids, which is allowed if it may show anything.

        The query's resource is the whole type, such as `job/*`.
        """
        return partial(self._judge.explain_list, resource_type=resource_type, region=region)


class _Judge:
    """One snapshot, and the casbin enforcer that holds its role graph."""

    def __init__(self, model_text: str, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._casbin = _open_casbin(model_text, snapshot)
        self._assertion = self._casbin.get_model()["p"]["p"]
        self._lock = Lock()  # casbin reads the candidates from its model, so one at a time
        self._lines = lru_cache(maxsize=LINES_MAX)(self._find_lines)

    def decide(self, query: Query) -> Decision:
        if query.principal.is_root:
            return self._decision(_root_verdict(query))
        lines = self._lines(_subject(query), query.action)
        return self._decision(self._verdict(query, lines.enforced, lines.denying))

    def scope(self, query: Query, *, resource_type: str, region: str) -> Scope:
        if query.principal.is_root:
            return Scope()
        lines = self._lines(_subject(query), query.action)
        statements = (statement for _, statement, _ in lines.enforced)
        return scope_of(statements, query, resource_type=resource_type, region=region)

    def explain(self, query: Query) -> Explanation:
        if query.principal.is_root:
            decision = self._decision(_root_verdict(query))
            return Explanation(decision, determining=(), nearest_miss=None, shadow=None)
        lines = self._lines(_subject(query), query.action)
        verdict = self._verdict(query, lines.enforced, lines.denying)
        return Explanation(
            decision=self._decision(verdict),
            determining=_determining(_enforced(lines.candidates), query, verdict),
            nearest_miss=self._nearest_miss(query, verdict),
            shadow=self._shadow(query, lines) if lines.has_shadow else None,
        )

    def explain_list(self, query: Query, *, resource_type: str, region: str) -> Explanation:
        explanation = self.explain(query)
        scope = self.scope(query, resource_type=resource_type, region=region)
        if explanation.decision.allowed or scope.is_nothing:
            return explanation
        showing = (
            determinant(one, pattern)
            for one in _enforced(self._lines(_subject(query), query.action).candidates)
            if one.statement.effect is Effect.ALLOW
            for pattern in showing_patterns(
                one.statement, query, resource_type=resource_type, region=region
            )
        )
        return Explanation(
            decision=replace(
                explanation.decision, effect=Effect.ALLOW, reason=Reason.EXPLICIT_ALLOW
            ),
            determining=tuple(dict.fromkeys(showing)),
            nearest_miss=None,
            shadow=explanation.shadow,
        )

    def _shadow(self, query: Query, lines: Lines) -> ShadowVerdict:
        verdict = self._verdict(query, lines.with_shadow, _denying(lines.with_shadow))
        return ShadowVerdict(
            self._decision(verdict), _determining(lines.candidates, query, verdict)
        )

    def _nearest_miss(self, query: Query, verdict: Verdict) -> NearestMiss | None:
        """Look through all statements of the caller, those of other actions too."""
        if verdict.reason is not Reason.IMPLICIT_DENY or verdict.resource is None:
            return None
        everything = self.snapshot.candidates(_subject(query))
        return nearest_miss(_enforced(everything), query, verdict.resource)

    def _verdict(self, query: Query, lines: tuple[Line, ...], denying: tuple[Line, ...]) -> Verdict:
        for resource in query.resources:
            reason = self._reason(query, resource, lines)
            if reason is not Reason.EXPLICIT_ALLOW:
                return Verdict(reason, resource)
        for resource in query.deny_only:
            if self._reason(query, resource, denying) is Reason.EXPLICIT_DENY:
                return Verdict(Reason.EXPLICIT_DENY, resource)
        if not query.resources:
            return Verdict(Reason.IMPLICIT_DENY, None)
        return Verdict(Reason.EXPLICIT_ALLOW, query.resources[0])

    def _reason(self, query: Query, resource: Resource, lines: tuple[Line, ...]) -> Reason:
        if not lines:  # casbin would evaluate its matcher on empty texts
            return Reason.IMPLICIT_DENY
        with self._lock:
            self._assertion.policy = lines
            allowed, stopped_at = self._casbin.enforce_ex(_subject(query), query, resource)
        if allowed:
            return Reason.EXPLICIT_ALLOW
        return Reason.EXPLICIT_DENY if stopped_at else Reason.IMPLICIT_DENY  # only a deny stops it

    def _decision(self, verdict: Verdict) -> Decision:
        resource = "*" if verdict.resource is None else str(verdict.resource)
        return Decision(verdict.effect, verdict.reason, resource, self.snapshot.generation)

    def _find_lines(self, subject: str, action: str) -> Lines:
        found = self.snapshot.candidates(subject, action)
        enforced = _lines(_enforced(found))
        return Lines(
            enforced,
            denying=_denying(enforced),
            with_shadow=_lines(found),
            has_shadow=any(
                one.policy.mode is Mode.SHADOW for one in self.snapshot.candidates(subject)
            ),
            candidates=found,
        )


def _root_verdict(query: Query) -> Verdict:
    for resource in query.resources:
        if resource.owner_uin != query.principal.owner_uin:
            return Verdict(Reason.IMPLICIT_DENY, resource)
    return Verdict(Reason.ROOT, query.resources[0] if query.resources else None)


def _determining(
    candidates: Sequence[Candidate], query: Query, verdict: Verdict
) -> tuple[Determinant, ...]:
    if verdict.reason is Reason.EXPLICIT_ALLOW:
        return determining(candidates, query, effect=Effect.ALLOW, resources=query.resources)
    if verdict.reason is Reason.EXPLICIT_DENY and verdict.resource is not None:
        return determining(candidates, query, effect=Effect.DENY, resources=(verdict.resource,))
    return ()


def _enforced(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    return tuple(one for one in candidates if one.policy.mode is Mode.ENFORCE)


def _subject(query: Query) -> str:
    return user_subject(query.principal.owner_uin, query.principal.uin)


def _lines(candidates: Iterable[Candidate]) -> tuple[Line, ...]:
    """Turn candidates into lines, denies first: the first that applies ends the judging."""
    lines = [(one.subject, one.statement, one.statement.effect.value) for one in candidates]
    return tuple(sorted(lines, key=lambda line: line[1].effect is not Effect.DENY))


def _denying(lines: tuple[Line, ...]) -> tuple[Line, ...]:
    return tuple(line for line in lines if line[1].effect is Effect.DENY)


class _Expression:
    """The model's matcher as Python bytecode, evaluated on names that casbin provides."""

    __slots__ = ("_code", "_functions")

    def __init__(self, code: CodeType, functions: Mapping[str, Function]) -> None:
        self._code = code
        self._functions = {"__builtins__": {}, **functions}

    def eval(self, names: dict[str, object]) -> object:
        return eval(self._code, self._functions, names)  # noqa: S307  # the model's text, not a caller's


class _Casbin(casbin.Enforcer):  # type: ignore[misc]  # casbin has no types
    """casbin with its matcher compiled once: reading it anew costs more than the decision."""

    _expression: _Expression | None = None

    def _get_expression(self, expr: str, functions: Mapping[str, Function]) -> _Expression:
        if self._expression is None:
            has_role = lru_cache(maxsize=LINES_MAX)(functions["g"])  # the graph never changes
            self._expression = _Expression(_compile(expr), {**functions, "g": has_role})
        return self._expression

    def check(self) -> None:
        """Refuse a model under which a deny could lose or nobody asks whether a statement applies.

        Raises ValueError or SyntaxError.
        """
        if not set(SECTIONS) <= set(self.model.keys()):
            raise ValueError("a section is missing")
        tokens = (*self.model["r"]["r"].tokens, *self.model["p"]["p"].tokens)
        if tokens != TOKENS:
            raise ValueError("the definitions of requests or policies are not ours")
        if type(self.eft) is not AllowAndDenyEffector:
            raise ValueError("the policy effect is not `an allow and no deny`")
        matcher = _compile(self.model["m"]["m"].value)
        if "applies" not in matcher.co_names:
            raise ValueError("the matcher does not ask `applies`")


def _compile(matcher: str) -> CodeType:
    text = matcher.replace("&&", " and ").replace("||", " or ").strip()
    return compile(text, "model.conf", "eval")


def _open_casbin(model_text: str, snapshot: Snapshot) -> _Casbin:
    try:
        opened = _Casbin(casbin.Enforcer.new_model(text=model_text))
        opened.check()
    except (ValueError, TypeError, RuntimeError, SyntaxError) as error:  # casbin's own among them
        raise PolicySetRefused(f"model.conf: {error}") from error
    opened.fm = FunctionMap()
    opened.fm.add_function("applies", applies)
    for user, groups in snapshot.groups.items():
        for group in groups:
            opened.get_role_manager().add_link(user, group)
    return opened
