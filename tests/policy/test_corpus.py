"""Every form that was ever accepted is accepted, and means what it meant.

The documents below `tests/golden/accepted/` may only grow in number: a policy that somebody wrote
last year must not be refused, or understood differently, tomorrow. `GOLDEN=write` adds what is
new to `digests.txt`; a line of it that changes is a promise that is broken.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.policy.condition import OPERATORS, NullCondition, ValueCondition
from gateway.policy.document import Document, Statement, parse

ACCEPTED = Path(__file__).parents[1] / "golden" / "accepted"
DIGESTS = ACCEPTED / "digests.txt"
DOCUMENTS = sorted(ACCEPTED.glob("*.json"))


def read(path: Path) -> Document:
    return parse(path.read_text(encoding="utf-8"), name=path.stem)


def understood(statement: Statement) -> Iterator[str]:
    """What a statement means, in words that no change of our own names alters."""
    yield statement.effect.value
    for action in statement.actions:
        yield f"action {action.folded or 'a set'}"
    for resource in statement.resources:
        place = resource.place
        segments = (place.service, place.region, place.account)
        texts = ["any" if one is None else one.text for one in segments]
        project = "" if place.has_project else " in no project"
        yield f"resource {' '.join(texts)} {resource.path!r}{project}"
    for one in statement.conditions:
        match one:
            case ValueCondition():
                kind = (one.operator.negated, one.needs_all, one.needs_any, one.holds_if_absent)
                yield f"condition {one.name} {one.key} {one.written} {one.templates} {kind}"
            case NullCondition():
                yield f"condition null {one.key} {one.wants_null}"


def digest(document: Document) -> str:
    lines = [line for statement in document.statements for line in understood(statement)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def known() -> dict[str, str]:
    lines = DIGESTS.read_text(encoding="utf-8").splitlines() if DIGESTS.exists() else []
    return {name: text for name, _, text in (line.partition(" ") for line in lines)}


@pytest.fixture(scope="module", autouse=True)
def _new_ones_are_written() -> None:
    if os.environ.get("GOLDEN") == "write":
        found = {path.stem: digest(read(path)) for path in DOCUMENTS}
        lines = [f"{name} {text}\n" for name, text in sorted({**found, **known()}.items())]
        DIGESTS.write_text("".join(lines), encoding="utf-8")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_what_was_accepted_is_accepted_and_means_the_same(path: Path) -> None:
    assert digest(read(path)) == known().get(path.stem), "GOLDEN=write adds what is new"


def test_nothing_that_was_accepted_has_left_the_corpus() -> None:
    assert known().keys() == {path.stem for path in DOCUMENTS}


def test_every_operator_has_every_prefix_and_suffix_in_the_corpus() -> None:
    names = {
        condition.name
        for path in DOCUMENTS
        for statement in read(path).statements
        for condition in statement.conditions
    }
    wanted = {
        f"{prefix}{name}{suffix}"
        for name in OPERATORS
        for prefix in ("", "for_any_value:", "for_all_value:")
        for suffix in ("", "_if_exist")
    }
    assert wanted | {"null_equal"} == names
