import pytest

from gateway.policy.enforcer import Enforcer
from gateway.policy.scenarios import Scenario, differences, parse_scenarios
from gateway.policy.strict_toml import PolicySetRefused
from tests.policy.policies import FOLDER, shipped_enforcer

SCENARIOS = [
    scenario
    for path in sorted((FOLDER / "tests").glob("*.toml"))
    for scenario in parse_scenarios(path.read_text(encoding="utf-8"), name=path.name)
]
CASE = """
[[case]]
name = "one"
when = { caller = "100/200", action = "name/batch:A", resource = "*", region = "gz" }
then = { effect = "allow", reason = "explicit-allow", determining = ["p/1"] }
"""


@pytest.fixture(scope="module")
def enforcer() -> Enforcer:
    return shipped_enforcer()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_shipped_accounts_decide_as_written(scenario: Scenario, enforcer: Enforcer) -> None:
    assert differences(scenario, enforcer.explain) == ()


def test_a_decision_other_than_written_is_told_in_all_its_parts(enforcer: Enforcer) -> None:
    (scenario,) = parse_scenarios(CASE, name="x.toml")
    assert differences(scenario, enforcer.explain) == (
        "effect is deny, not allow",
        "reason is implicit-deny, not explicit-allow",
        "determining is none, not p/1",
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('caller = "100/200"', 'caller = "ann"'),
        ('action = "name/batch:A"', 'action = "A"'),
        ('resource = "*"', 'resource = "job/1"'),
        ('resource = "*"', 'resources = "*"'),
        ('effect = "allow"', 'effect = "maybe"'),
        ("[[case]]", "[[cases]]"),
        ('name = "one"', 'name = "one"\nname = "two"'),
        ('region = "gz"', 'zone = "gz"'),
    ],
)
def test_a_scenario_file_with_a_mistake_is_refused(old: str, new: str) -> None:
    with pytest.raises(PolicySetRefused):
        parse_scenarios(CASE.replace(old, new), name="x.toml")
