"""A short differential run; `scripts/differential` makes a long one."""

import json
from dataclasses import replace

import pytest

from gateway.policy.match import Query
from gateway.policy.plans import PlanEvaluator
from gateway.policy.snapshot import Layer, Rights, Snapshot
from gateway.policy.verdict import Rules
from tests.campaigns import differential

KINDS = {
    "allowed": {"explicit-allow", "root"},
    "denied": {"explicit-deny"},
    "nothing": {"implicit-deny", "boundary", "session-policy"},
}


@pytest.mark.timeout(300)
def test_the_evaluators_agree_with_the_model_on_120_000_cases() -> None:
    report = differential.run(cases=120_000, seed=1, casbin_every=6)
    assert [differential.minimal(one).reproduction() for one in report.disagreements] == []
    assert report.judged["plan"] == report.judged["model"] == 120_000
    assert report.judged["casbin"] >= 19_000
    assert set(report.reasons) == {reason for reasons in KINDS.values() for reason in reasons}
    for kind, reasons in KINDS.items():
        share = sum(report.reasons[reason] for reason in reasons) / report.cases
        assert 0.2 < share < 0.5, kind


class ForgetsBoundaries(PlanEvaluator):
    """An evaluator with a hole in it."""

    def rules(self, snapshot: Snapshot, rights: Rights, query: Query) -> Rules:
        layers = tuple(one for one in rights.layers if one[0] is not Layer.BOUNDARY)
        return super().rules(snapshot, replace(rights, layers=layers), query)


def test_a_hole_in_an_evaluator_is_found_and_shown_by_few_statements(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(differential.EVALUATORS, "plan", ForgetsBoundaries)
    report = differential.run(cases=600, seed=1, evaluators=("plan", "model"))
    assert differential.show(report, seconds=1.0) == 1
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[0] == "{"]
    assert shown
    for one in shown:
        assert one["plan"] != one["model"]
        statements = [*one["own"], *one["group"], *one["everyone"], *one["boundary"]]
        assert len(statements) <= 2


def test_the_same_seed_asks_the_same_questions() -> None:
    first, second = (differential.run(cases=300, seed=7, evaluators=("plan",)) for _ in range(2))
    assert first == second
    assert first.reasons != differential.run(cases=300, seed=8, evaluators=("plan",)).reasons
