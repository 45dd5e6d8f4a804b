"""Which statements a set of scenarios has put to the test."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gateway.call import Effect
from gateway.policy.document import Document
from gateway.policy.lines import json_lines, nearest_line
from gateway.policy.scenarios import Outcome


@dataclass(frozen=True, slots=True)
class Place:
    """A statement of a document. line: on which it begins. statement: from 1."""

    file: str
    line: int
    statement: int
    effect: Effect


@dataclass(frozen=True, slots=True)
class Coverage:
    """The statements that settled a case, and those that settled none."""

    covered: tuple[Place, ...]
    uncovered: tuple[Place, ...]

    @property
    def percent(self) -> float:
        """How many of a hundred statements settled a case; 100 if there is no statement."""
        every = len(self.covered) + len(self.uncovered)
        return 100 * len(self.covered) / every if every else 100.0


def measure(
    documents: Iterable[Document], texts: Mapping[str, str], outcomes: Iterable[Outcome]
) -> Coverage:
    """Find the statements that settled a case: an allow by allowing, a deny by denying.

    texts: the documents as written, by file. A statement of a policy that is only watched counts
    if it settled what the policy would have decided.
    """
    settled = {place for outcome in outcomes for place in _settled(outcome)}
    places = [place for document in documents for place in _places(document, texts[document.file])]
    return Coverage(
        covered=tuple(one for one in places if (one.file, one.statement) in settled),
        uncovered=tuple(one for one in places if (one.file, one.statement) not in settled),
    )


def _settled(outcome: Outcome) -> Iterable[tuple[str, int]]:
    explanation = outcome.explanation
    watched = explanation.shadow.determining if explanation.shadow else ()
    return ((one.file, one.statement) for one in (*explanation.determining, *watched))


def _places(document: Document, text: str) -> Iterator[Place]:
    lines = json_lines(text)
    for index, statement in enumerate(document.statements):
        line = nearest_line(lines, ("statement", index))
        yield Place(document.file, line, statement.index, statement.effect)
