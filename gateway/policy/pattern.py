"""Wildcards: `*` stands for any run of characters, everything else for itself."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

VARIABLES = ("uin", "owner_uin", "app_id")


@dataclass(frozen=True, slots=True)
class Wildcard:
    """A pattern cut at its `*`: one part means an exact text.

    Why: no regular expression is made from a policy. A `.` or a newline in one must mean
    itself, and matching must stay linear whatever the writer of the policy had in mind.
    """

    parts: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> "Wildcard":
        """Cut `text` at its `*`; several in a row are one."""
        first, *rest = text.split("*")
        if not rest:
            return cls((first,))
        return cls((first, *filter(None, rest[:-1]), rest[-1]))

    @property
    def text(self) -> str:
        """The pattern as written, repeated `*` reduced to one."""
        return "*".join(self.parts)

    @property
    def is_everything(self) -> bool:
        """Whether this is `*` alone."""
        return self.parts == ("", "")

    def matches(self, text: str) -> bool:
        """Tell whether the whole of `text` fits. A `*` inside `text` is an ordinary character."""
        parts = self.parts
        if len(parts) == 1:
            return text == parts[0]
        first, last = parts[0], parts[-1]
        if not text.startswith(first) or not text.endswith(last):
            return False
        at = len(first)
        end = len(text) - len(last)
        if end < at:
            return False
        for part in parts[1:-1]:
            at = text.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

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
    for name in VARIABLES:
        variable = f"${{{name}}}"
        if variable not in text:
            continue
        if name not in values:
            return None
        text = text.replace(variable, values[name])
    return text
