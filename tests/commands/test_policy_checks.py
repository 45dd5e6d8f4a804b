"""`policy lint` and `policy test`, as CI runs them."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from gateway.policy.lint import RULES, Severity
from tests.support.running import ROOT

CASE = """
[[case]]
name = "%s"
then = { effect = "%s" }
[case.when]
caller = "100000000001/100000000102"
action = "batch:DescribeJob"
resource = "qcs::batch:ap-guangzhou:uin/100000000001:job/job-1"
"""
OPEN = '{"version": "2.0", "statement": [{"effect": "allow", "action": "*", "resource": "*"}]}'
MISSPELT = OPEN.replace('"*"', '"batch:DescribeJbo"', 1)

Run = Callable[..., Result]


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """The shipped policies, to be spoilt."""
    return Path(copytree(ROOT / "policies", tmp_path / "policies"))


@pytest.fixture
def run(policies: Path) -> Run:
    def run(*arguments: str) -> Result:
        command = ["policy", *arguments, "--policies", str(policies)]
        return CliRunner().invoke(main, command, catch_exceptions=False)

    return run


def write_case(policies: Path, *, name: str = "bob reads", effect: str = "allow") -> Path:
    file = policies.parent / "mine.toml"
    file.write_text(CASE % (name, effect), encoding="utf-8")
    return file


def read_xml(path: Path) -> ElementTree.Element:
    return ElementTree.fromstring(path.read_bytes())  # noqa: S314  # what we wrote a moment ago


def test_the_shipped_policies_pass_as_a_real_process_says() -> None:
    for verb in (("lint",), ("test", "--fail-under", "100")):
        done = subprocess.run(
            [ROOT / ".venv" / "bin" / "qcs-gateway", "policy", *verb],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stdout


def test_a_finding_is_told_as_compilers_do_and_makes_the_answer_no(
    run: Run, policies: Path
) -> None:
    (policies / "examples" / "read-jobs.json").write_text(MISSPELT, encoding="utf-8")
    done = run("lint")
    assert done.exit_code == 1
    assert (
        "examples/read-jobs.json:1: error: statement 1: `batch` has no action"
        " `batch:DescribeJbo` [unknown-action]\n    did you mean `batch:DescribeJob`?"
    ) in done.stdout
    assert done.stderr.startswith("1 error, 0 warnings, ")


def test_findings_are_told_to_machines(run: Run, policies: Path) -> None:
    (policies / "examples" / "read-jobs.json").write_text(OPEN, encoding="utf-8")
    done = run("lint", "--json")
    assert done.exit_code == 1
    [found] = [one for one in json.loads(done.stdout) if one["Severity"] != "note"]
    assert set(found) == {"Id", "Severity", "File", "Line", "Statement", "Message", "Hint"}
    assert (found["Id"], found["File"], found["Line"], found["Statement"]) == (
        "too-wide",
        "examples/read-jobs.json",
        1,
        1,
    )


def test_what_is_less_severe_than_asked_for_is_neither_told_nor_counted(
    run: Run, policies: Path
) -> None:
    (policies / "examples" / "read-jobs.json").write_text(OPEN, encoding="utf-8")
    assert run("lint", "--severity", "warning").exit_code == 1
    done = run("lint", "--severity", "error")
    assert (done.exit_code, done.stdout) == (0, "")


def test_a_broken_folder_is_linted_to_its_end(run: Run, policies: Path) -> None:
    (policies / "accounts.toml").write_text("[[account]]\nuni = 1\n", encoding="utf-8")
    (policies / "examples" / "read-jobs.json").write_text(MISSPELT, encoding="utf-8")
    (policies / "examples" / "use-events.json").write_text("{", encoding="utf-8")
    done = run("lint", "--severity", "error")
    assert done.exit_code == 1
    told = {line.split(":")[0] for line in done.stdout.splitlines() if line[0] != " "}
    assert told == {"accounts.toml", "examples/read-jobs.json", "examples/use-events.json"}


def test_the_table_of_rules_is_printed_with_its_examples(run: Run) -> None:
    text = run("lint", "--rules").stdout
    rules = json.loads(run("lint", "--rules", "--json").stdout)
    assert [rule["Id"] for rule in rules] == list(RULES)
    for rule in rules:
        assert f"{rule['Severity']:8}{rule['Id']}\n    {rule['Says']}\n" in text
        assert rule["Bad"]["Text"].strip().splitlines()[-1] in text


def test_cases_of_a_file_are_decided_on_the_policies(run: Run, policies: Path) -> None:
    done = run("test", str(write_case(policies)))
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1].startswith("1 cases, 0 failed; 1 of ")


def test_a_case_that_fails_makes_the_answer_no_and_says_why(run: Run, policies: Path) -> None:
    file = write_case(policies, effect="deny")
    done = run("test", str(file))
    assert done.exit_code == 1
    assert f"FAILED  {file}: bob reads\n        effect is allow, not deny\n" in done.stdout
    report = json.loads(run("test", str(file), "--json").stdout)
    assert report["Cases"] == [
        {"File": str(file), "Name": "bob reads", "Differences": ["effect is allow, not deny"]}
    ]


def test_too_little_coverage_makes_the_answer_no_and_names_the_statements(
    run: Run, policies: Path
) -> None:
    file = str(write_case(policies))
    assert run("test", file, "--fail-under", "1").exit_code == 0
    done = run("test", file, "--fail-under", "90")
    assert done.exit_code == 1
    assert (
        "no case  examples/deny-one-environment.json:9: statement 2, deny, settled nothing\n"
        in done.stdout
    )
    uncovered = json.loads(run("test", file, "--json").stdout)["Coverage"]["Uncovered"]
    assert {
        "File": "examples/deny-one-environment.json",
        "Line": 9,
        "Statement": 2,
        "Effect": "deny",
    } in uncovered
    assert "examples/read-jobs.json" not in {one["File"] for one in uncovered}


def test_ci_systems_read_the_outcomes_as_junit_xml(run: Run, policies: Path) -> None:
    report = policies.parent / "report.xml"
    failing = write_case(policies, name=r"<bob> & \u0001 é reads", effect="deny")
    assert run("test", str(failing), "--junit", str(report)).exit_code == 1
    suites = read_xml(report)
    assert (suites.tag, suites.get("tests"), suites.get("failures")) == ("testsuites", "1", "1")
    [suite] = suites
    assert (suite.tag, suite.get("name"), suite.get("failures")) == ("testsuite", str(failing), "1")
    [case] = suite
    assert (case.tag, case.get("name")) == ("testcase", "<bob> &  é reads")
    [failure] = case
    assert failure.get("message") == failure.text == "effect is allow, not deny"
    passing = write_case(policies)
    assert run("test", str(passing), "--junit", str(report)).exit_code == 0
    assert read_xml(report).find(".//failure") is None


@pytest.mark.parametrize("evaluator", ["compiled", "casbin"])
def test_cases_are_decided_by_the_evaluator_of_the_settings(
    run: Run, monkeypatch: pytest.MonkeyPatch, evaluator: str
) -> None:
    monkeypatch.setenv("QCS_GATEWAY_EVALUATOR", evaluator)
    assert run("test", "--fail-under", "100").exit_code == 0


def assert_misuse(done: Result) -> None:
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.strip()


@pytest.mark.parametrize("verb", ["lint", "test"])
def test_a_folder_that_is_not_there_is_misuse(verb: str, tmp_path: Path) -> None:
    command = ["policy", verb, "--policies", str(tmp_path / "absent")]
    assert_misuse(CliRunner().invoke(main, command))


def test_a_folder_with_a_file_that_is_no_text_is_misuse(run: Run, policies: Path) -> None:
    (policies / "x.json").write_bytes(b"\xff\xfe")
    assert_misuse(run("lint"))
    assert_misuse(run("test"))


def test_no_cases_are_misuse(run: Run, policies: Path) -> None:
    empty = policies.parent / "empty.toml"
    empty.write_text("", encoding="utf-8")
    for arguments in ((str(empty),), (str(policies / "absent.toml"),)):
        assert_misuse(run("test", *arguments))
    for file in (policies / "tests").iterdir():
        file.unlink()
    assert_misuse(run("test"))


@pytest.mark.parametrize("text", ["[[case]", "[[case]]\nname = 1\n", "[[cases]]\n"])
def test_cases_that_cannot_be_read_are_misuse(run: Run, policies: Path, text: str) -> None:
    file = policies.parent / "bad.toml"
    file.write_text(text, encoding="utf-8")
    assert_misuse(run("test", str(file)))


def test_policies_that_are_refused_are_misuse_of_test(run: Run, policies: Path) -> None:
    (policies / "examples" / "read-jobs.json").write_text("{", encoding="utf-8")
    done = run("test")
    assert_misuse(done)
    assert "examples/read-jobs.json" in done.stderr


def test_under_the_limits_of_the_cloud_policies_beyond_a_quota_are_a_finding_and_refused(
    run: Run, policies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = RULES["over-quota"].bad.folder()
    for file, text in accounts.items():
        (policies / file).write_text(text, encoding="utf-8")
    assert "[over-quota]" not in run("lint").stdout
    monkeypatch.setenv("QCS_GATEWAY_LIMITS", "cloud")
    done = run("lint")
    assert done.exit_code == 1
    assert "11 groups of user `ann`" in done.stdout
    assert "[over-quota]" in done.stdout
    asked = ("explain", "--user", "ann", "--action", "batch:DescribeJobs")
    for verb in (("test",), asked):
        done = run(*verb)
        assert_misuse(done)
        assert "UserGroupFull" in done.stderr


@pytest.mark.parametrize("severity", list(Severity), ids=lambda severity: severity.value)
def test_every_severity_can_be_asked_for(run: Run, severity: Severity) -> None:
    assert run("lint", "--severity", severity.value).exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("lint", "--severity", "mild"),
        ("test", "--fail-under", "101"),
        ("test", "--junit", "absent/folder/report.xml"),
        ("test", "--colour"),
    ],
)
def test_options_that_cannot_be_are_misuse(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2
