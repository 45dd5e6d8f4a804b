import json

import pytest

from gateway.cam.identities import PolicyFolder
from gateway.policy.condition import ALL, ANY, IF_EXIST, OPERATORS
from gateway.policy.coverage import measure
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.document import parse
from gateway.policy.refusal import PolicySetRefused
from gateway.policy.scenarios import Outcome, Scenario, judge, parse_scenarios
from tests.policy.policies import FOLDER, allow, deny, evaluator

pytestmark = pytest.mark.usefixtures("each_evaluator")

TEXTS = {
    path.relative_to(FOLDER).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(FOLDER.rglob("*"))
    if path.suffix in {".json", ".toml"}
}
SCENARIOS = [
    scenario
    for file, text in TEXTS.items()
    if file.startswith("tests/")
    for scenario in parse_scenarios(text, name=file, files=TEXTS)
]
SHIPPED = PolicyFolder(FOLDER).read_snapshot(generation=1)
CASE = """
[[case]]
name = "one"
when = { caller = "100/200", action = "name/batch:A", resource = "*", region = "gz" }
then = { effect = "allow", reason = "explicit-allow", determining = ["p/1"] }
"""
JOB = "qcs::batch:ap-guangzhou:uin/100:job/job-1"


def shipped() -> DecisionPoint:
    return DecisionPoint(evaluator(), SHIPPED)


def document_text(*statements: object) -> str:
    return json.dumps({"version": "2.0", "statement": list(statements)})


FILES = {
    "read.json": document_text(allow("batch:Describe*", "qcs::batch:::job/*")),
    "team.json": document_text(
        allow(
            "batch:*", "qcs::batch:::job/*", condition={"string_equal": {"qcs:tag/team": "physics"}}
        ),
        deny("batch:*", "*", condition={"bool_equal": {"qcs:mfa": "false"}}),
    ),
}


def case(when: str, then: str) -> Scenario:
    text = f'[[case]]\nname = "one"\nwhen = {{ {when} }}\nthen = {{ {then} }}\n'
    [scenario] = parse_scenarios(text, name="x.toml", files=FILES)
    return scenario


def outcome(when: str, then: str) -> Outcome:
    return judge(case(when, then), shipped(), evaluator=evaluator())


ALONE = 'caller = "100/200", policies = "read.json"'
READ = f'{ALONE}, action = "batch:DescribeJob", resource = "{JOB}"'
END = f'{ALONE}, action = "batch:TerminateJob", resource = "{JOB}"'
TEAM = f'caller = "100/200", policies = "team.json", action = "batch:A", resource = "{JOB}"'
TAGGED = f'attributes = {{ "{JOB}" = {{ "qcs:resource_tag" = ["team&physics"] }} }}'


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_shipped_policies_decide_as_written(scenario: Scenario) -> None:
    assert judge(scenario, shipped(), evaluator=evaluator()).differences == ()


def test_every_statement_of_the_shipped_policies_settles_a_case() -> None:
    policies = shipped()
    outcomes = [judge(one, policies, evaluator=evaluator()) for one in SCENARIOS]
    trusts = {role.trust for account in SHIPPED.accounts for role in account.roles}
    documents = [
        parse(text, name=file, file=file)
        for file, text in TEXTS.items()
        if file.endswith(".json") and not file.startswith("tests/") and file not in trusts
    ]
    assert [one.file for one in measure(documents, TEXTS, outcomes).uncovered] == []


def test_every_operator_prefix_and_suffix_has_an_example() -> None:
    names = {
        condition.name
        for file, text in TEXTS.items()
        if file.startswith("examples/")
        for statement in parse(text, name=file).statements
        for condition in statement.conditions
    }
    assert OPERATORS.keys() | {"null_equal"} <= names
    assert {True} == {any(name.startswith(prefix) for name in names) for prefix in (ANY, ALL)}
    assert any(name.endswith(IF_EXIST) for name in names)


def test_a_decision_other_than_written_is_told_in_all_its_parts() -> None:
    [scenario] = parse_scenarios(CASE, name="x.toml")
    assert judge(scenario, shipped(), evaluator=evaluator()).differences == (
        "effect is deny, not allow",
        "reason is implicit-deny, not explicit-allow",
        "determining is none, not p/1",
    )


@pytest.mark.parametrize(
    ("when", "then"),
    [
        (READ, 'effect = "allow", determining = ["read/1"], via = ["user"]'),
        (END, 'effect = "deny", nearest_miss = "action", fix = ["user 200"]'),
        (END + ", mfa = true", 'effect = "deny", reason = "implicit-deny"'),
        (f'{READ}, role = "runner"', 'effect = "allow", via = ["role runner"]'),
        (f"{TEAM}, mfa = true, {TAGGED}", 'effect = "allow", determining = "team/1"'),
        (f"{TEAM}, {TAGGED}", 'effect = "deny", determining = "team/2"'),
        (f"{TEAM}, mfa = true", 'effect = "deny", nearest_miss = "condition"'),
        (f'{TEAM}, {TAGGED}, context = {{ "qcs:mfa" = [] }}', 'effect = "allow"'),
        (
            f'{ALONE}, action = "batch:DescribeJobs", list = "job", region = "gz"',
            'effect = "allow"',
        ),
        (f'{ALONE}, action = "batch:DescribeX", list = "x", region = "gz"', 'effect = "deny"'),
        (f'{READ}, session_policy = "team.json"', 'effect = "deny", reason = "explicit-deny"'),
        (
            f"{READ}, session_policy = '{document_text(allow('batch:TerminateJob'))}'",
            'effect = "deny", reason = "session-policy", fix = "session policy"',
        ),
    ],
)
def test_everything_a_decision_can_rest_on_can_be_written_down(when: str, then: str) -> None:
    assert outcome(when, then).differences == ()


@pytest.mark.parametrize(
    ("when", "then", "difference"),
    [
        (READ, 'effect = "allow", via = "group x"', "via is user, not group x"),
        (END, 'effect = "deny", nearest_miss = "region"', "nearest_miss is action, not region"),
        (END, 'effect = "deny", nearest_miss = ""', "nearest_miss is action, not none"),
        (READ, 'effect = "allow", fix = "user 200"', "fix is none, not user 200"),
        (READ, 'effect = "allow", shadow = "deny"', "shadow is none, not deny"),
    ],
)
def test_each_part_that_is_not_as_written_is_told(when: str, then: str, difference: str) -> None:
    assert outcome(when, then).differences == (difference,)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('caller = "100/200"', 'caller = "ann"'),
        ('action = "name/batch:A"', 'action = "A"'),
        ('resource = "*"', 'resource = "job/1"'),
        ('resource = "*"', 'resources = "*"'),
        ('resource = "*"', "resource = []"),
        ('resource = "*"', 'resource = "*", list = "job"'),
        ('resource = "*"', 'resource = "*", mfa = "yes"'),
        ('resource = "*"', 'resource = "*", policies = "absent.json"'),
        ('resource = "*"', 'resource = "*", policies = ["read.json", "read.json"]'),
        ('resource = "*"', 'resource = "*", policies = "bad.json"'),
        ('resource = "*"', 'resource = "*", session_policy = "absent.json"'),
        ('resource = "*"', "resource = \"*\", session_policy = '{}'"),
        ('resource = "*"', 'resource = "*", attributes = { "job/1" = { "qcs:tag" = "a&b" } }'),
        ('caller = "100/200"', 'caller = "100/100", policies = "read.json"'),
        ('effect = "allow"', 'effect = "maybe"'),
        ('effect = "allow"', 'effect = "allow", nearest_miss = "weather"'),
        ('effect = "allow"', 'effect = "allow", shadow = "maybe"'),
        ("[[case]]", "[[cases]]"),
        ('name = "one"', 'name = "one"\nname = "two"'),
        ('region = "gz"', 'zone = "gz"'),
    ],
)
def test_a_scenario_file_with_a_mistake_is_refused(old: str, new: str) -> None:
    assert old in CASE
    with pytest.raises(PolicySetRefused):
        parse_scenarios(CASE.replace(old, new), name="x.toml", files={**FILES, "bad.json": "{}"})


def test_a_statement_is_covered_only_by_a_case_that_it_settled() -> None:
    documents = [parse(text, name=file, file=file) for file, text in FILES.items()]
    denied = outcome(f"{TEAM}, {TAGGED}", 'effect = "deny"')
    coverage = measure(documents, FILES, [denied])
    assert [(one.file, one.statement) for one in coverage.covered] == [("team.json", 2)]
    assert [(one.file, one.statement) for one in coverage.uncovered] == [
        ("read.json", 1),
        ("team.json", 1),
    ]
    assert round(coverage.percent) == 33
    allowed = outcome(f"{TEAM}, mfa = true, {TAGGED}", 'effect = "allow"')
    assert len(measure(documents, FILES, [denied, allowed]).uncovered) == 1


def test_a_case_that_would_test_nothing_is_refused() -> None:
    known = {"batch": frozenset({"describejob"})}
    with pytest.raises(PolicySetRefused, match="does not exist"):
        parse_scenarios(
            CASE.replace(":TerminateJob", ":TerminateJbo"), name="x.toml", known_actions=known
        )
