"""How decisions look on a terminal."""

import json

from gateway.commands.answers import why_lines
from gateway.commands.decisions import decision_line, decision_text
from tests.support.decisions import make

FORGED = "job/x\n2026-11-21T00:00:00Z  allow  root\x9b2K\u202e x"


def test_what_a_caller_names_cannot_write_a_line_of_its_own() -> None:
    found = json.loads(json.dumps(make("r-1", resources=(FORGED,))().public()))
    line = decision_line(found)
    assert line.isprintable()
    assert r"job/x\n2026" in line
    assert r"\x9b2K\u202e" in line
    lines = decision_text(found).split("\n")
    assert all(one.isprintable() for one in lines)
    assert not any(one.startswith("2026") for one in lines)


def test_what_a_decision_rests_on_is_shown_without_what_does_not_print() -> None:
    miss = {"Policy": "p", "Version": 1, "File": "", "Statement": 1, "Via": "user"}
    public = {
        "Determining": [],
        "NearestMiss": {**miss, "Element": "resource", "Wanted": "job/a", "Found": FORGED},
        "Fix": [{"AttachTo": "user a", "Caution": "", "Policy": {"resource": [FORGED]}}],
        "Shadow": None,
    }
    text = "\n".join(why_lines(public))
    assert all(one.isprintable() for one in text.split("\n"))
    assert "\n2026" not in text
