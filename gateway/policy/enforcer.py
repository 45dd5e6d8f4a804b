"""The reference evaluator. casbin holds the model and the role graph, and judges; its only door.

casbin's own matchers (`keyMatch` and its family) are not registered, so no model can use them:
in `qcs::` strings they let another account's uin match, and let a newline skip a deny.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from threading import Lock
from types import CodeType

import casbin
from casbin.effect import AllowAndDenyEffector
from casbin.model import FunctionMap

from gateway.call import Effect, Resource
from gateway.policy.condition import is_of_resource
from gateway.policy.document import Statement
from gateway.policy.match import Query, applies, matches_action
from gateway.policy.refusal import PolicySetRefused
from gateway.policy.snapshot import Held, Rights, Snapshot, subject_of
from gateway.policy.verdict import Rules

SECTIONS = ("r", "p", "g", "e", "m")
TOKENS = ("r_sub", "r_query", "r_resource", "p_sub", "p_statement", "p_eft")
MEMBERSHIPS_MAX = 16_384

Function = Callable[..., object]
Line = tuple[str, Statement, str]
"""What casbin is handed: subject, statement, "allow" or "deny", as `p` in the model."""


class CasbinEvaluator:
    """Judges with casbin, handed the statements that speak of the action.

    model_text: `policies/model.conf`. Raises PolicySetRefused if it is not the model expected.
    """

    def __init__(self, model_text: str) -> None:
        self._model_text = model_text
        self._judge = _Judge(model_text, groups={})

    def rules(self, snapshot: Snapshot, rights: Rights, query: Query) -> Rules:
        """The rules of the query's principal and action. rights: the principal's own."""
        judge = self._judge  # read once: another thread may be on another snapshot
        if snapshot.groups is not judge.groups:
            judge = self._judge = _Judge(self._model_text, groups=snapshot.groups)
        subject = subject_of(query.principal)
        return Rules(
            rights,
            [_CasbinLayer(judge, subject, _lines(held, query.action)) for _, held in rights.layers],
        )


class _Judge:
    """One casbin enforcer. It reads the candidates from its model, so it is asked one at a time.

    groups: the role graph: of each user and role, the subjects whose policies it has besides.
    """

    def __init__(self, model_text: str, *, groups: Mapping[str, tuple[str, ...]]) -> None:
        self.groups = groups
        self._casbin = _open_casbin(model_text, groups)
        self._assertion = self._casbin.get_model()["p"]["p"]
        self._lock = Lock()

    def effect(
        self, subject: str, query: Query, resource: Resource, *, lines: tuple[Line, ...]
    ) -> Effect | None:
        with self._lock:
            self._assertion.policy = lines
            allowed, stopped_at = self._casbin.enforce_ex(subject, query, resource)
        if allowed:
            return Effect.ALLOW
        return Effect.DENY if stopped_at else None  # only a deny stops it


class _CasbinLayer:
    """The lines of one layer."""

    def __init__(self, judge: _Judge, subject: str, lines: tuple[Line, ...]) -> None:
        self._judge = judge
        self._subject = subject
        self._lines = lines
        self.reads_resources = any(
            is_of_resource(one) for _, statement, _ in lines for one in statement.conditions
        )

    def effect(self, query: Query, resource: Resource) -> Effect | None:
        if not self._lines:  # casbin would evaluate its matcher on empty texts
            return None
        return self._judge.effect(self._subject, query, resource, lines=self._lines)


def _lines(held: Iterable[Held], action: str) -> tuple[Line, ...]:
    """Turn statements into lines, denies first: the first that applies ends the judging."""
    lines = [
        (one.subject, statement, statement.effect.value)
        for one in held
        for statement in one.policy.document.statements
        if matches_action(statement, action)
    ]
    return tuple(sorted(lines, key=lambda line: line[1].effect is not Effect.DENY))


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
            has_role = lru_cache(maxsize=MEMBERSHIPS_MAX)(functions["g"])  # it never changes
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


def _open_casbin(model_text: str, groups: Mapping[str, tuple[str, ...]]) -> _Casbin:
    try:
        opened = _Casbin(casbin.Enforcer.new_model(text=model_text))
        opened.check()
    except (ValueError, TypeError, RuntimeError, SyntaxError) as error:  # casbin's own among them
        raise PolicySetRefused(f"model.conf: {error}") from error
    opened.logger = _silent_logger()
    opened.fm = FunctionMap()
    opened.fm.add_function("applies", applies)
    for user, memberships in groups.items():
        for group in memberships:
            opened.get_role_manager().add_link(user, group)
    return opened


def _silent_logger() -> logging.Logger:
    """Decisions have a log of their own: a line for each from casbin costs as much as judging."""
    logger = logging.getLogger("gateway.policy.casbin")
    logger.disabled = True
    return logger
