"""Every reason why a document is refused, not only the first, and where each one stands."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.errors import ApiError
from gateway.policy.lines import Path, json_lines, nearest_line

TOO_LONG = "PolicyDocumentLengthOverLimit"

Parse = Callable[[str], object]
Statement = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Refusal:
    """code: the public one. statement: from 1, or 0 for the whole document."""

    code: str
    message: str
    line: int
    statement: int


def refusals(text: str, parse: Parse, *, good: Statement) -> tuple[Refusal, ...]:
    """Say why `parse` refuses a text; nothing if it does not.

    Each statement is judged on its own, and in it each value, so that one mistake does not hide
    the next. What is only wrong with the document as a whole is told once; one that is too long
    is not looked into.
    good: a statement that is never refused, put in the place of what is not judged.
    """
    error = _refusal(text, parse)
    if error is None:
        return ()
    if error.detail == TOO_LONG:
        return (Refusal(error.code, error.message, 1, 0),)
    lines = json_lines(text)
    written = json.loads(text) if lines else None
    found: list[Refusal] = []
    if isinstance(written, dict) and isinstance(written.get("statement"), list):
        judges = (
            _Judge({**frame, "version": "2.0"}, written["statement"], parse, lines, good)
            for frame in (written, {})
        )
        judge = next((one for one in judges if one.is_fair), None)
        found = list(judge.refusals()) if judge else []
    if not any(one.message == error.message for one in found):
        found.insert(0, Refusal(error.code, error.message, _line(error, lines), 0))
    return tuple(found)


def _refusal(text: str, parse: Parse) -> ApiError | None:
    try:
        parse(text)
    except ApiError as error:
        return error
    return None


def _line(error: ApiError, lines: Mapping[Path, int]) -> int:
    cause = error.__cause__
    if isinstance(cause, json.JSONDecodeError):
        return cause.lineno
    element = {"VersionError": "version", "StatementError": "statement"}.get(error.detail or "")
    return nearest_line(lines, (element,) if element else ())


@dataclass(frozen=True, slots=True)
class _Judge:
    """One document, judged piece by piece. frame: what stands around the statements."""

    frame: dict[str, Any]
    statements: list[object]
    parse: Parse
    lines: Mapping[Path, int]
    good: Statement

    @property
    def is_fair(self) -> bool:
        """Whether nothing is refused but for the statements themselves."""
        return self._judge(0, self.good) is None

    def refusals(self) -> Iterator[Refusal]:
        for index, statement in enumerate(self.statements):
            whole = self._judge(index, statement)
            if whole is None or whole.detail == TOO_LONG:
                continue
            pieces = _pieces(statement, self.good) if isinstance(statement, dict) else ()
            told = False
            for piece, path in pieces:
                part = self._judge(index, piece)
                if part is not None:
                    told = True
                    yield self._refusal(part, index, path)
            if not told:
                yield self._refusal(whole, index, ())

    def _judge(self, index: int, statement: object) -> ApiError | None:
        """Put a statement in its place among good ones, so that a refusal counts it rightly."""
        document = {**self.frame, "statement": [*([self.good] * index), statement]}
        return _refusal(json.dumps(document), self.parse)

    def _refusal(self, error: ApiError, index: int, path: Path) -> Refusal:
        line = nearest_line(self.lines, ("statement", index, *path))
        return Refusal(error.code, error.message, line, index + 1)


def _pieces(statement: dict[str, Any], good: Statement) -> Iterator[tuple[Statement, Path]]:
    """Good statements that each have one value of this one.

    The effect goes along with the actions: what an allow may name, a deny may not.
    """
    for element, written in statement.items():
        frame = good
        if element == "action" and statement.get("effect") in ("allow", "deny"):
            frame = {**good, "effect": statement["effect"]}
        for value, path in _values(element, written):
            yield {**frame, element: value}, (element, *path)


def _values(element: str, written: object) -> Iterator[tuple[object, Path]]:
    if element == "condition" and isinstance(written, dict) and written:
        for name, keys in written.items():
            if isinstance(keys, dict) and keys:
                for key, value in keys.items():
                    yield {name: {key: value}}, (name, key)
            else:
                yield {name: keys}, (name,)
    elif isinstance(written, list) and written:
        for index, value in enumerate(written):
            yield [value], (index,)
    else:
        yield written, ()
