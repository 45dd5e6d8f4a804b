"""What `policy test` runs and prints."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.cam.identities import KNOWN_ACTIONS, PolicyFolder, open_evaluator
from gateway.commands.lint_report import read_text, read_texts
from gateway.config import Settings
from gateway.errors import ApiError
from gateway.policy.coverage import Coverage, Place, measure
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.document import Document, parse
from gateway.policy.refusal import PolicySetRefused
from gateway.policy.scenarios import Outcome, Scenario, judge, parse_scenarios
from gateway.policy.snapshot import Snapshot

TESTS = "tests/"


@dataclass(frozen=True, slots=True)
class Report:
    """How all cases went. outcomes: by file."""

    outcomes: Mapping[str, Sequence[Outcome]]
    coverage: Coverage

    @property
    def every(self) -> list[Outcome]:
        """The outcomes of all files."""
        return [one for cases in self.outcomes.values() for one in cases]

    @property
    def has_cases(self) -> bool:
        """Whether there was anything to judge."""
        return bool(self.every)

    @property
    def has_failures(self) -> bool:
        """Whether a decision was not as written."""
        return any(one.differences for one in self.every)


def run(files: Sequence[Path], settings: Settings) -> Report:
    """Judge every case of `files`, or else of the tests that stand among the policies.

    Raises OSError or PolicySetRefused for what cannot be read.
    """
    texts = read_texts(settings.policies)
    folder = PolicyFolder.of(settings)
    snapshot = folder.read_snapshot(generation=1)
    evaluator = open_evaluator(settings, folder)
    policies = DecisionPoint(evaluator, snapshot)
    outcomes = {
        name: [judge(one, policies, evaluator=evaluator) for one in cases]
        for name, cases in _scenarios(files, texts).items()
    }
    judged = [one for cases in outcomes.values() for one in cases]
    return Report(outcomes, measure(_documents(snapshot, texts), texts, judged))


def _scenarios(files: Sequence[Path], texts: Mapping[str, str]) -> dict[str, tuple[Scenario, ...]]:
    written = {str(path): read_text(path) for path in files} or {
        file: text
        for file, text in texts.items()
        if file.startswith(TESTS) and file.endswith(".toml")
    }
    return {
        name: parse_scenarios(text, name=name, files=texts, known_actions=KNOWN_ACTIONS)
        for name, text in written.items()
    }


def _documents(snapshot: Snapshot, texts: Mapping[str, str]) -> Iterator[Document]:
    """Every policy of the folder, attached or not."""
    trusts = {role.trust for account in snapshot.accounts for role in account.roles}
    for file, text in texts.items():
        if not file.endswith(".json") or file.startswith(TESTS) or file in trusts:
            continue
        try:
            yield parse(text, name=Path(file).stem, file=file)
        except ApiError as error:
            raise PolicySetRefused(f"{file}: {error.message} ({error.code})") from error


def text(report: Report) -> str:
    """For people: what is not as written, what no case is about, and the count."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    for file, cases in report.outcomes.items():
        for outcome in cases:
            if outcome.differences:
                yield f"FAILED  {file}: {outcome.scenario.name}"
                yield from (f"        {one}" for one in outcome.differences)
    for place in report.coverage.uncovered:
        yield (
            f"no case  {place.file}:{place.line}: statement {place.statement},"
            f" {place.effect.value}, settled nothing"
        )
    failures = sum(bool(one.differences) for one in report.every)
    covered, uncovered = len(report.coverage.covered), len(report.coverage.uncovered)
    yield (
        f"{len(report.every)} cases, {failures} failed; {covered} of {covered + uncovered}"
        f" statements settled a case, {report.coverage.percent:.1f} %"
    )


def public(report: Report) -> dict[str, Any]:
    """For machines."""
    return {
        "Cases": [
            {"File": file, "Name": one.scenario.name, "Differences": list(one.differences)}
            for file, cases in report.outcomes.items()
            for one in cases
        ],
        "Coverage": {
            "Percent": round(report.coverage.percent, 2),
            "Covered": [_public_place(one) for one in report.coverage.covered],
            "Uncovered": [_public_place(one) for one in report.coverage.uncovered],
        },
    }


def _public_place(place: Place) -> dict[str, Any]:
    return {
        "File": place.file,
        "Line": place.line,
        "Statement": place.statement,
        "Effect": place.effect.value,
    }
