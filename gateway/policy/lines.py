"""Where something stands in a JSON text or in `accounts.toml`: the line, from 1."""

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping

Path = tuple[str | int, ...]
"""The way from the whole value to one inside it, such as `("statement", 0, "action", 1)`."""

_BLANKS = " \t\n\r"
_DECODER = json.JSONDecoder()
_HEADER = re.compile(r"\s*\[\[(?P<table>[a-z.]+)\]\]")
_MEMBER = re.compile(r"\s*(?P<key>name|uin)\s*=\s*(?P<quote>[\"'])(?P<value>.*?)(?P=quote)")


def json_lines(text: str) -> Mapping[Path, int]:
    """The line on which each value begins. Empty for a text that is no JSON."""
    try:
        return dict(_Scanner(text).scan())
    except (ValueError, RecursionError):
        return {}


def nearest_line(lines: Mapping[Path, int], path: Path) -> int:
    """The line of a value, or of the innermost one around it that is known."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def declared_line(text: str, table: str, *, name: str, owner_uin: str) -> int:
    """The line of `accounts.toml` that names a policy, group, user or role of one account.

    table: `policy`, `group`, `user` or `role`. Gives 1 if it is written in another way.
    """
    header = owner = ""
    for number, line in enumerate(text.splitlines(), start=1):
        found = _HEADER.match(line)
        if found:
            header = found["table"]
            continue
        member = _MEMBER.match(line)
        if member is None:
            continue
        if header == "account" and member["key"] == "uin":
            owner = member["value"]
        wanted = (f"account.{table}", owner_uin, "name", name)
        if (header, owner, member["key"], member["value"]) == wanted:
            return number
    return 1


class _Scanner:
    """Walks a JSON text once. Raises ValueError where it is none."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._ends = [place for place, letter in enumerate(text) if letter == "\n"]

    def scan(self) -> Iterator[tuple[Path, int]]:
        """Give each value's path and line, the outer ones first."""
        yield from self._value(())
        if self._peek():
            raise ValueError("something follows the value")

    def _value(self, path: Path) -> Iterator[tuple[Path, int]]:
        opening = self._peek()
        yield path, bisect_left(self._ends, self._at) + 1
        if opening == "{":
            for _ in self._members("}"):
                if self._peek() != '"':
                    raise ValueError("a member has no name")
                name, self._at = _DECODER.raw_decode(self._text, self._at)
                self._expect(":")
                yield from self._value((*path, name))
        elif opening == "[":
            for index in self._members("]"):
                yield from self._value((*path, index))
        else:
            _, self._at = _DECODER.raw_decode(self._text, self._at)

    def _members(self, closing: str) -> Iterator[int]:
        """Step to the beginning of each member; after each, past its comma."""
        self._at += 1
        index = 0
        if self._peek() == closing:
            self._at += 1
            return
        while True:
            self._peek()
            yield index
            index += 1
            if self._peek() == closing:
                self._at += 1
                return
            self._expect(",")

    def _peek(self) -> str:
        """The next character that is no blank, and step to it."""
        while self._at < len(self._text) and self._text[self._at] in _BLANKS:
            self._at += 1
        return self._text[self._at : self._at + 1]

    def _expect(self, character: str) -> None:
        if self._peek() != character:
            raise ValueError(f"`{character}` is missing")
        self._at += 1
