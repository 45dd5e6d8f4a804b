"""A policy document: CAM's JSON, read strictly and as a whole, or refused as a whole."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from gateway.call import Effect
from gateway.errors import InvalidParameter
from gateway.policy.action import ActionPattern, KnownActions
from gateway.policy.condition import Condition, read_conditions
from gateway.policy.resource import ResourcePattern, read_resource_pattern

LENGTH_MAX = 6144
ELEMENTS = frozenset({"version", "statement"})
STATEMENT_ELEMENTS = frozenset({"effect", "action", "resource", "condition"})
INTERNED_MAX = 4_096

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Statement:
    """One allow or deny. index: its place in the document, from 1."""

    effect: Effect
    actions: tuple[ActionPattern, ...]
    resources: tuple[ResourcePattern, ...]
    conditions: tuple[Condition, ...]
    index: int


@dataclass(frozen=True, slots=True)
class Document:
    """One version of a policy. version: which one, from 1; not the grammar's "2.0".

    file: where it was read from, inside the folder of policies; empty for one kept elsewhere.
    """

    name: str
    version: int
    statements: tuple[Statement, ...]
    file: str = ""


def parse(
    text: str,
    *,
    name: str,
    version: int = 1,
    file: str = "",
    known_actions: KnownActions | None = None,
) -> Document:
    """Read a policy for a user, a group or a role.

    known_actions: what `ActionPattern.check_known` asks; nothing is asked without it. Services
    that are not in it are accepted: a policy may speak of the whole cloud.
    Raises InvalidParameter with the vendor's detail codes.

    Why `principal` is refused: it belongs to the trust policy of a role.
    """
    written = read_document(text, name=name)
    check_elements(written, allowed=ELEMENTS, detail="PolicyDocumentError")
    statements = tuple(
        _read_statement(one, index, known_actions=known_actions or {})
        for index, one in enumerate(statements_of(written), start=1)
    )
    return Document(name, version, statements, file)


def read_document(text: str, *, name: str) -> dict[str, object]:
    """The JSON object of a document of any kind. Raises InvalidParameter."""
    if len("".join(text.split())) > LENGTH_MAX:
        raise InvalidParameter(
            f"The policy `{name}` is longer than {LENGTH_MAX} characters without blanks.",
            detail="PolicyDocumentLengthOverLimit",
        )
    written = _read_json(text, name=name)
    if not isinstance(written, dict):
        raise InvalidParameter(f"The policy `{name}` is no object.", detail="PolicyDocumentError")
    return written


def statements_of(written: dict[str, object]) -> list[object]:
    """The statements of a document of any kind, after its `version` was looked at."""
    if written.get("version") != "2.0":
        raise InvalidParameter('The policy\'s `version` must be "2.0".', detail="VersionError")
    statements = written.get("statement")
    if not isinstance(statements, list) or not statements:
        raise InvalidParameter(
            "The policy's `statement` must be a list with statements.", detail="StatementError"
        )
    return statements


def _read_json(text: str, *, name: str) -> object:
    try:
        written = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
        json.dumps(written, ensure_ascii=False).encode()  # half a surrogate pair cannot be recorded
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(
            f"The policy `{name}` is not JSON that can be used: {error}.",
            detail="PolicyDocumentError",
        ) from error
    return written


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"`{twice}` stands twice in one object")
    return unique


def _refuse_constant(name: str) -> object:
    raise ValueError(f"`{name}` is no JSON")


def check_elements(written: dict[str, object], *, allowed: frozenset[str], detail: str) -> None:
    """Refuse an element that does not belong there, `principal` with a code of its own."""
    if "principal" in written and "principal" not in allowed:
        raise InvalidParameter(
            "A policy for users, groups and roles has no `principal`.", detail="PrincipalError"
        )
    for key in written:
        if key not in allowed:
            raise InvalidParameter(f"The policy's element `{key}` is unknown.", detail=detail)


def _read_statement(written: object, index: int, *, known_actions: KnownActions) -> Statement:
    if not isinstance(written, dict):
        raise InvalidParameter(f"Statement {index} is no object.", detail="StatementError")
    check_elements(written, allowed=STATEMENT_ELEMENTS, detail="StatementError")
    effect = read_effect(written, index)
    actions = read_actions(written, index)
    for action in actions:
        action.check_known(known_actions)
        if effect is Effect.DENY and action.is_set:
            raise InvalidParameter(
                f"A deny on `{action.text}` would deny nothing here: name the actions.",
                detail="ActionError",
            )
    return Statement(
        effect=effect,
        actions=actions,
        resources=_read_each(
            written.get("resource"), read_resource_pattern, detail="ResourceError"
        ),
        conditions=read_condition_element(written),
        index=index,
    )


def read_effect(written: dict[str, object], index: int) -> Effect:
    """The effect of a statement. Raises InvalidParameter.EffectError."""
    effect = written.get("effect")
    if effect not in ("allow", "deny"):
        raise InvalidParameter(
            f'The `effect` of statement {index} must be "allow" or "deny".', detail="EffectError"
        )
    return Effect(effect)


def read_actions(written: dict[str, object], index: int) -> tuple[ActionPattern, ...]:
    """The actions of a statement. Raises InvalidParameter.ActionMiss and those of the actions."""
    if written.get("action") in (None, []):
        raise InvalidParameter(f"Statement {index} has no `action`.", detail="ActionMiss")
    return _shared(_read_each(written["action"], ActionPattern.read, detail="ActionError"))


def read_condition_element(written: dict[str, object]) -> tuple[Condition, ...]:
    """The conditions of a statement, none if it has no such element."""
    if "condition" not in written:
        return ()
    return _read_conditions(json.dumps(written["condition"]))


@lru_cache(maxsize=INTERNED_MAX)
def _read_conditions(text: str) -> tuple[Condition, ...]:
    """Read conditions once: many statements have the same ones, and they are large."""
    return read_conditions(json.loads(text))


@lru_cache(maxsize=INTERNED_MAX)
def _shared(actions: tuple[ActionPattern, ...]) -> tuple[ActionPattern, ...]:
    """The first of equal tuples: many statements have the same actions."""
    return actions


def _read_each(written: object, read: Callable[[str], P], *, detail: str) -> tuple[P, ...]:
    values = written if isinstance(written, list) else [written]
    texts = [value for value in values if isinstance(value, str)]
    if not texts or len(texts) != len(values):
        element = detail.removesuffix("Error").lower()
        raise InvalidParameter(
            f"A statement's `{element}` must be a string or a list of strings.", detail=detail
        )
    return tuple(read(text) for text in dict.fromkeys(texts))
