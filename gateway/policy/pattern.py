"""Wildcards: `*` stands for any run of characters, everything else for itself."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

VARIABLES = ("uin", "owner_uin", "app_id")


def fits(pattern: str, text: str) -> bool:
    """Tell whether the whole of `text` fits. A `*` inside `text` is an ordinary character.

    Why: no regular expression is made from a policy. A `.` or a newline in one must mean
    itself, and matching must stay linear whatever the writer of the policy had in mind.
    """
    if "*" not in pattern:
        return text == pattern
    first, *middle, last = pattern.split("*")
    at, end = len(first), len(text) - len(last)
    if end < at or not text.startswith(first) or not text.endswith(last):
        return False
    for part in middle:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def reduced(pattern: str) -> str:
    """The pattern with every run of `*` made one."""
    while "**" in pattern:
        pattern = pattern.replace("**", "*")
    return pattern


@dataclass(frozen=True, slots=True)
class Wildcard:
    """A pattern, runs of `*` made one."""

    text: str

    @classmethod
    def read(cls, text: str) -> "Wildcard":
        """Read a pattern."""
        return cls(reduced(text))

    @property
    def is_everything(self) -> bool:
        """Whether this is `*` alone."""
        return self.text == "*"

    def matches(self, text: str) -> bool:
        """Tell whether the whole of `text` fits. A `*` inside `text` is an ordinary character."""
        return fits(self.text, text)

    def after(self, prefix: str) -> Iterator[str]:
        """Give the patterns that match `rest` exactly when this one matches `prefix + rest`.

        A `*` may end anywhere inside the prefix, so there can be several: `*b/x` after `ab/` is
        both `*b/x` and `x`.
        """
        pattern = self.text
        places = _with_skipped_stars(pattern, {0})
        for character in prefix:
            moved = {
                place if pattern[place] == "*" else place + 1
                for place in places
                if place < len(pattern) and pattern[place] in ("*", character)
            }
            places = _with_skipped_stars(pattern, moved)
        for place in sorted(places):
            follows_star = place > 0 and pattern[place - 1] == "*"
            if not (follows_star and place - 1 in places):  # the wider `*…` says it already
                yield pattern[place:]


def _with_skipped_stars(pattern: str, places: set[int]) -> set[int]:
    skipped = {place + 1 for place in places if place < len(pattern) and pattern[place] == "*"}
    return places | skipped


def has_variables(text: str) -> bool:
    """Whether a policy variable such as `${uin}` stands in `text`."""
    return "${" in text


def is_known_template(text: str) -> bool:
    """Whether every `${` in `text` opens one of the three policy variables."""
    for name in VARIABLES:
        text = text.replace(f"${{{name}}}", "-")
    return "${" not in text


def expand(text: str, values: Mapping[str, str]) -> str | None:
    """Put the caller's values for the variables; None if one that is named has no value."""
    if "${" not in text:
        return text
    for name in VARIABLES:
        variable = f"${{{name}}}"
        if variable not in text:
            continue
        if name not in values:
            return None
        text = text.replace(variable, values[name])
    return text
