"""Outcomes of policy tests as JUnit XML, the form that CI systems read."""

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from gateway.policy.scenarios import Outcome


def junit_xml(outcomes: Mapping[str, Sequence[Outcome]]) -> bytes:
    """Write a suite for each file and a case for each scenario. outcomes: by file.

    Why characters are dropped: a name may hold some, such as NUL, that XML cannot.
    """
    every = [outcome for cases in outcomes.values() for outcome in cases]
    root = ElementTree.Element("testsuites", {"name": "policy", **_counts(every)})
    for file, cases in outcomes.items():
        suite = ElementTree.SubElement(root, "testsuite", {"name": file, **_counts(cases)})
        for outcome in cases:
            name = _printable(outcome.scenario.name)
            case = ElementTree.SubElement(suite, "testcase", classname=file, name=name, time="0")
            if outcome.differences:
                text = _printable("\n".join(outcome.differences))
                failure = ElementTree.SubElement(
                    case, "failure", type="difference", message=_printable(outcome.differences[0])
                )
                failure.text = text
    ElementTree.indent(root)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def _counts(outcomes: Sequence[Outcome]) -> dict[str, str]:
    failures = sum(bool(outcome.differences) for outcome in outcomes)
    return {
        "tests": str(len(outcomes)),
        "failures": str(failures),
        "errors": "0",
        "skipped": "0",
        "time": "0",
    }


def _printable(text: str) -> str:
    return "".join(letter for letter in text if letter in "\t\n" or _is_xml(ord(letter)))


def _is_xml(point: int) -> bool:
    return 0x20 <= point <= 0xD7FF or 0xE000 <= point <= 0xFFFD or point >= 0x10000  # noqa: PLR2004
