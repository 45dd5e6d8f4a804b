"""`policy explain` and `policy simulate`, as people and machines call them."""

import json
from pathlib import Path
from shutil import copy
from typing import Any

import pytest
from click.testing import Result

from tests.commands.asking import ANN, DROP, JOB, KILL, READ, USERS, folder_of, run, write
from tests.support.policies import OWNER, allow, uin_of
from tests.support.running import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "policies", USERS)


def explain(folder: Path, *arguments: str | Path) -> Result:
    return run("explain", "--policies", folder, *arguments)


def simulate(folder: Path, *arguments: str | Path) -> Result:
    return run("simulate", "--policies", folder, *arguments)


def rows(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def effects(result: Result) -> dict[tuple[str, str], str]:
    """Effect by user and action."""
    return {(row["Principal"]["Name"], row["Action"]): row["Effect"] for row in rows(result)}


def test_a_deny_names_its_statement_in_the_first_line_and_its_place_below() -> None:
    denied = f"qcs::batch:ap-guangzhou:uin/{OWNER}:computeenv/env-00000000"
    action = "name/batch:DescribeComputeEnv"
    found = explain(ROOT / "policies", "--user", "alice", "--action", action, "--resource", denied)
    first, *rest = found.stdout.splitlines()
    assert first == "deny  explicit-deny  deny-one-environment/2"
    settled = next(line for line in rest if "settled" in line)
    for part in ("examples/deny-one-environment.json", "via user", denied):
        assert part in settled
    assert found.exit_code == 1


def test_the_evaluator_of_the_settings_decides(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QCS_GATEWAY_EVALUATOR", "casbin")
    asked = (*ANN, "--action", KILL, "--resource", "job/job-a")
    without_model = explain(folder, *asked)
    assert (without_model.exit_code, "model.conf" in without_model.stderr) == (2, True)
    copy(ROOT / "policies" / "model.conf", folder)
    assert explain(folder, *asked).stdout.splitlines()[0] == "allow  explicit-allow  ann/2"


def test_an_allowed_call_ends_with_zero(folder: Path) -> None:
    found = explain(folder, *ANN, "--action", KILL, "--resource", "job/job-a")
    assert found.stdout.splitlines()[0] == "allow  explicit-allow  ann/2"
    assert found.exit_code == 0


def test_the_fix_of_an_implicit_deny_can_be_pasted_and_then_allows(
    folder: Path, tmp_path: Path
) -> None:
    asked = ("--user", "bob", "--action", READ, "--resource", "job/job-b")
    found = explain(folder, *asked)
    assert found.exit_code == 1
    assert found.stdout.splitlines()[0] == "deny  implicit-deny"
    assert f"its resource is {JOB}/job-a*" in found.stdout
    assert f"the call has {JOB}/job-b" in found.stdout
    fix = tmp_path / "fix.json"
    fix.write_text(found.stdout[found.stdout.index("\n{") : found.stdout.rindex("}") + 1], "utf-8")
    attached = simulate(folder, *asked, "--attach", f"{fix}:to=user/bob", "--json")
    assert [(row["Effect"], row["Change"]) for row in rows(attached)] == [
        ("allow", "newly-allowed")
    ]


def test_a_machine_reads_what_decision_records_hold(folder: Path) -> None:
    caller = f"{OWNER}/{uin_of('ann')}"
    asked = ("--caller", caller, "--action", KILL, "--resource", f"{JOB}/job-shut", "--json")
    found = json.loads(explain(folder, *asked).stdout)
    assert (found["Effect"], found["Reason"]) == ("deny", "explicit-deny")
    assert found["Resource"] == f"{JOB}/job-shut"
    [settled] = found["Determining"]
    assert (settled["Policy"], settled["Statement"]) == ("ann", 3)
    assert settled["Pattern"] == f"{JOB}/job-shut"
    assert found["Principal"]["Name"] == "ann"


def test_all_resources_must_be_allowed_and_those_for_a_deny_not_be_denied(folder: Path) -> None:
    one, shut = ("--resource", "job/job-a"), "job/job-shut"
    asked = (*ANN, "--action", KILL, *one)
    assert explain(folder, *asked, "--resource", shut).exit_code == 1
    assert explain(folder, *asked, "--deny-only", shut).exit_code == 1
    assert explain(folder, *asked, "--deny-only", "job/job-b").exit_code == 0


def test_a_list_is_explained_with_what_it_shows(folder: Path) -> None:
    asked = ("--action", KILL, "--list", "job")
    found = explain(folder, *ANN, *asked)
    assert found.exit_code == 0
    assert "  shows     *\n  hides     job-shut\n" in found.stdout
    scope = json.loads(explain(folder, *ANN, *asked, "--json").stdout)["Scope"]
    assert scope["Deny"] == [{"Pattern": "job-shut", "Tests": []}]
    nobody = explain(folder, "--user", "bob", *asked)
    assert nobody.exit_code == 1


def test_an_action_that_lists_is_asked_as_a_list_unless_ids_are_given(folder: Path) -> None:
    found = explain(folder, *ANN, "--action", "batch:DescribeJobs", "--json")
    assert json.loads(found.stdout)["Listed"] == "job"
    found = explain(
        folder, *ANN, "--action", "batch:DescribeJobs", "--resource", "job/job-a", "--json"
    )
    assert json.loads(found.stdout)["Listed"] is None


def test_conditions_are_judged_on_what_is_given(tmp_path: Path) -> None:
    condition = {
        "ip_equal": {"qcs:ip": "10.0.0.0/8"},
        "string_equal": {"qcs:resource_tag": ["team&a"]},
    }
    folder = folder_of(tmp_path / "set", {"ann": [{**allow(KILL), "condition": condition}]})
    asked = (*ANN, "--action", KILL, "--resource", f"{JOB}/job-a")
    tag = ("--attribute", f"qcs::batch:gz:uin/{OWNER}:job/job-a:qcs:resource_tag=team&a")
    inside = ("--context", "qcs:ip=10.1.2.3")
    assert explain(folder, *asked, *inside, *tag).exit_code == 0
    outside = explain(folder, *asked, "--context", "qcs:ip=11.1.2.3", *tag)
    assert outside.exit_code == 1
    assert "its condition is ip_equal qcs:ip 10.0.0.0/8" in outside.stdout
    assert explain(folder, *asked, *tag).exit_code == 1
    assert explain(folder, *asked, *inside).exit_code == 1


def test_a_session_policy_narrows(folder: Path, tmp_path: Path) -> None:
    narrow = write(tmp_path / "narrow.json", allow(READ))
    asked = (*ANN, "--action", KILL, "--resource", "job/job-a", "--session-policy", narrow)
    found = explain(folder, *asked)
    assert found.stdout.startswith("deny  session-policy\n")
    assert "fix       session policy:" in found.stdout


def test_a_role_is_asked_by_its_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", {"ann": [allow(KILL)]})
    trust = {"effect": "allow", "action": "sts:AssumeRole", "principal": "*"}
    write(folder / "trust.json", trust)
    accounts = (folder / "accounts.toml").read_text("utf-8")
    role = '[[account.role]]\nname = "runner"\nid = "300"\ntrust = "trust.json"\n'
    other = accounts.index("[[account]]", 1)
    role += 'policies = ["ann"]\n'
    (folder / "accounts.toml").write_text(accounts[:other] + role + accounts[other:], "utf-8")
    asked = ("--action", KILL, "--resource", "job/job-a")
    found = explain(folder, "--role", "runner", *asked)
    assert found.exit_code == 0
    assert "via role runner" in found.stdout
    attached = simulate(folder, "--action", KILL, "--json")
    assert effects(attached) == {("ann", KILL): "allow", ("runner", KILL): "allow"}


def test_what_no_call_would_ask_is_answered_with_a_warning(folder: Path) -> None:
    found = explain(folder, *ANN, "--action", KILL, "--resource", "computeenv/env-a")
    assert "No call of batch:TerminateJob is about" in found.stderr
    stranger = explain(folder, "--caller", f"{OWNER}/77", "--action", KILL)
    assert f"does not declare {OWNER}/77" in stranger.stderr
    assert stranger.exit_code == 1


WRONG = {
    "nobody asks": ("--action", KILL),
    "two ask": (*ANN, "--user", "bob", "--action", KILL),
    "an unknown user": ("--user", "carol", "--action", KILL),
    "an unknown role": ("--role", "ann", "--action", KILL),
    "a caller that is none": ("--caller", "100", "--action", KILL),
    "an unknown action": (*ANN, "--action", "batch:TerminateJobs"),
    "no action": (*ANN, "--action", "batch"),
    "a pattern of actions": (*ANN, "--action", "batch:*"),
    "an action of elsewhere on nothing": (*ANN, "--action", "cos:GetObject"),
    "a resource that is none": (*ANN, "--action", KILL, "--resource", "job-a"),
    "a resource of too few segments": (*ANN, "--action", KILL, "--resource", "qcs::batch:job/a"),
    "a list of ids": (*ANN, "--action", KILL, "--list", "job", "--resource", "job/job-a"),
    "a context that is none": (*ANN, "--action", KILL, "--context", "qcs:ip"),
    "an attribute that is none": (*ANN, "--action", KILL, "--attribute", "job/a:qcs:tag=a&b"),
    "attributes of something else": (
        *(*ANN, "--action", KILL, "--resource", "job/job-a"),
        *("--attribute", f"{JOB}/job-b:qcs:resource_tag=a&b"),
    ),
    "an option that is none": (*ANN, "--action", KILL, "--verbosely"),
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_a_question_that_is_none_is_misuse(folder: Path, arguments: tuple[str, ...]) -> None:
    found = explain(folder, *arguments)
    assert found.exit_code == 2
    assert found.stdout == ""
    assert found.stderr.strip()


def test_a_misspelt_action_is_answered_with_the_likely_one(folder: Path) -> None:
    found = explain(folder, *ANN, "--action", "batch:TerminatJob")
    assert "batch:TerminateJob" in found.stderr


def test_policies_that_cannot_be_read_are_misuse_and_no_denial(folder: Path) -> None:
    (folder / "accounts.toml").write_text("[[account]]\nuin = 7\n", "utf-8")
    assert explain(folder, *ANN, "--action", KILL).exit_code == 2


@pytest.mark.parametrize("text", ["{", '{"version": "1.0"}', "\xff"])
def test_a_session_policy_that_is_none_is_misuse(folder: Path, tmp_path: Path, text: str) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text(text, "latin-1")
    asked = (*ANN, "--action", KILL, "--session-policy", broken)
    assert explain(folder, *asked).exit_code == 2


def test_a_matrix_asks_everybody_declared_on_all_that_an_action_may_touch(folder: Path) -> None:
    found = simulate(folder, "--action", "batch:*Job", "--json")
    assert found.exit_code == 0
    assert effects(found) == {
        ("ann", READ): "allow",
        ("ann", KILL): "allow",
        ("ann", DROP): "deny",
        ("ann", "batch:SubmitJob"): "deny",
        **{("bob", action): "deny" for action in (READ, KILL, DROP, "batch:SubmitJob")},
    }
    assert {tuple(row["Resources"]) for row in rows(found)} == {(f"{JOB}/*",)}


def test_of_a_pattern_only_the_actions_that_can_be_about_the_resource_are_asked(
    folder: Path,
) -> None:
    found = simulate(folder, *ANN, "--action", "*", "--resource", "job/job-a", "--json")
    asked = {row["Action"] for row in rows(found)}
    assert {READ, KILL, DROP} <= asked
    assert not asked & {"batch:DescribeComputeEnv", "batch:SubmitJob", "cam:GetUser"}


def test_every_action_of_the_catalogue_can_be_asked(folder: Path) -> None:
    found = simulate(folder, *ANN, "--action", "*", "--json")
    assert found.exit_code == 0
    assert len(rows(found)) > 100


def test_a_table_says_what_a_supposed_change_changes(folder: Path, tmp_path: Path) -> None:
    wider = write(tmp_path / "wider.json", allow(DROP))
    asked = (*ANN, "--action", DROP, "--action", KILL, "--resource", "job/job-a")
    found = simulate(folder, *asked, "--attach", wider)
    head, dropped, killed = found.stdout.splitlines()
    assert head.split() == [
        *("caller", "action", "resource", "effect", "reason", "settled", "by", "change")
    ]
    assert dropped.split()[-2:] == ["wider/1", "newly-allowed"]
    assert killed.split()[-1] == "ann/2"


def test_a_policy_can_be_supposed_gone_and_a_boundary_to_be_there(
    folder: Path, tmp_path: Path
) -> None:
    asked = (*ANN, "--action", KILL, "--action", READ, "--json")
    gone = simulate(folder, *asked, "--detach", "ann")
    assert {row["Change"] for row in rows(gone)} == {"newly-denied"}
    boundary = write(tmp_path / "boundary.json", allow(READ))
    narrowed = simulate(folder, *asked, "--boundary", boundary)
    assert [(row["Reason"], row["Change"]) for row in rows(narrowed)] == [
        ("boundary", "newly-denied"),
        ("explicit-allow", None),
    ]


def test_an_expectation_that_a_row_breaks_ends_with_one(folder: Path) -> None:
    asked = ("--action", KILL, "--resource", "job/job-a")
    assert simulate(folder, *ANN, *asked, "--expect", "allow").exit_code == 0
    assert simulate(folder, *ANN, *asked, "--expect", "deny").exit_code == 1
    assert simulate(folder, *asked, "--expect", "allow").exit_code == 1


@pytest.mark.parametrize(
    "change",
    [
        ("--detach", "nothing"),
        ("--attach", "nowhere.json"),
        ("--attach", f"{ROOT}/policies/examples/read-jobs.json:to=user/carol"),
        ("--attach", f"{ROOT}/policies/accounts.toml"),
        ("--action", "batch:Nothing*"),
    ],
)
def test_a_change_that_cannot_be_supposed_is_misuse(folder: Path, change: tuple[str, str]) -> None:
    found = simulate(folder, *ANN, "--action", KILL, *change)
    assert found.exit_code == 2
    assert found.stdout == ""
