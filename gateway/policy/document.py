"""A policy document: CAM's JSON, read strictly and as a whole, or refused as a whole."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from gateway.call import Effect
from gateway.errors import InvalidParameter
from gateway.policy.action import ActionPattern
from gateway.policy.condition import Condition, read_conditions
from gateway.policy.resource import ResourcePattern, read_resource_pattern

LENGTH_MAX = 6144
ELEMENTS = frozenset({"version", "statement"})
STATEMENT_ELEMENTS = frozenset({"effect", "action", "resource", "condition"})

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
    """One version of a policy. version: which one, from 1; not the grammar's "2.0"."""

    name: str
    version: int
    statements: tuple[Statement, ...]


def parse(text: str, *, name: str, version: int = 1) -> Document:
    """Read a policy for a user or a group.

    Raises InvalidParameter with the vendor's detail codes. Services and actions that are not
    served here are accepted: a policy may speak of the whole cloud.

    Why `principal` is refused: it belongs to the trust policy of a role.
    """
    if len("".join(text.split())) > LENGTH_MAX:
        raise InvalidParameter(
            f"The policy `{name}` is longer than {LENGTH_MAX} characters without blanks.",
            detail="PolicyDocumentLengthOverLimit",
        )
    written = _read_json(text, name=name)
    if not isinstance(written, dict):
        raise InvalidParameter(f"The policy `{name}` is no object.", detail="PolicyDocumentError")
    _check_elements(written, allowed=ELEMENTS, detail="PolicyDocumentError")
    if written.get("version") != "2.0":
        raise InvalidParameter('The policy\'s `version` must be "2.0".', detail="VersionError")
    statements = written.get("statement")
    if not isinstance(statements, list) or not statements:
        raise InvalidParameter(
            "The policy's `statement` must be a list with statements.", detail="StatementError"
        )
    read = tuple(_read_statement(one, index) for index, one in enumerate(statements, start=1))
    return Document(name, version, read)


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


def _check_elements(written: dict[str, object], *, allowed: frozenset[str], detail: str) -> None:
    if "principal" in written:
        raise InvalidParameter(
            "A policy for users and groups has no `principal`.", detail="PrincipalError"
        )
    for key in written:
        if key not in allowed:
            raise InvalidParameter(f"The policy's element `{key}` is unknown.", detail=detail)


def _read_statement(written: object, index: int) -> Statement:
    if not isinstance(written, dict):
        raise InvalidParameter(f"Statement {index} is no object.", detail="StatementError")
    _check_elements(written, allowed=STATEMENT_ELEMENTS, detail="StatementError")
    effect = written.get("effect")
    if effect not in ("allow", "deny"):
        raise InvalidParameter(
            f'The `effect` of statement {index} must be "allow" or "deny".', detail="EffectError"
        )
    if written.get("action") in (None, []):
        raise InvalidParameter(f"Statement {index} has no `action`.", detail="ActionMiss")
    return Statement(
        effect=Effect(effect),
        actions=_read_each(written.get("action"), ActionPattern.read, detail="ActionError"),
        resources=_read_each(
            written.get("resource"), read_resource_pattern, detail="ResourceError"
        ),
        conditions=read_conditions(written["condition"]) if "condition" in written else (),
        index=index,
    )


def _read_each(written: object, read: Callable[[str], P], *, detail: str) -> tuple[P, ...]:
    values = written if isinstance(written, list) else [written]
    texts = [value for value in values if isinstance(value, str)]
    if not texts or len(texts) != len(values):
        element = detail.removesuffix("Error").lower()
        raise InvalidParameter(
            f"A statement's `{element}` must be a string or a list of strings.", detail=detail
        )
    return tuple(read(text) for text in texts)
