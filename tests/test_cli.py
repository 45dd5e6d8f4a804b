"""The command: results on stdout, talk on stderr; exit code 0 yes, 1 no, 2 misuse."""

import json
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.policies import uin_of, write_policies
from tests.support.raw_client import Answer, call
from tests.support.running import Gateway, running_gateway

Done = subprocess.CompletedProcess[str]
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def installation(tmp_path: Path) -> Gateway:
    """A folder of state and policies where nothing has run yet."""
    gateway = Gateway(tmp_path, settings={})
    write_policies(gateway.policies, {"ann": []})
    return gateway


def run(gateway: Gateway, *arguments: str) -> Done:
    return gateway.verb(*arguments)


def run_process(gateway: Gateway, *arguments: str) -> Done:
    return gateway.command(*arguments, check=False)


def assert_explained(done: Done, *, code: int) -> None:
    """It failed with a sentence, not with a traceback."""
    assert done.returncode == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()


def test_a_key_is_made_beside_no_server_and_printed_for_machines(installation: Gateway) -> None:
    done = run_process(installation, "keys", "create", "--user", "ann", "--json")
    assert done.returncode == 0
    made = json.loads(done.stdout)
    assert set(made) == {"User", "Uin", "SecretId", "SecretKey"}
    assert (made["User"], made["Uin"]) == ("ann", uin_of("ann"))
    assert made["SecretId"].startswith("AKID")


def test_a_key_is_printed_for_people(installation: Gateway) -> None:
    done = run_process(installation, "keys", "create", "--user", "ann")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["SecretId", "SecretKey"]


def test_a_third_key_is_refused_with_a_sentence(installation: Gateway) -> None:
    for _ in range(2):
        assert run(installation, "keys", "create", "--user", "ann").returncode == 0
    assert_explained(run(installation, "keys", "create", "--user", "ann"), code=1)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--user", "nobody"),
        ("--user", ""),
        ("--user", "ann", "--uin", "100000000002"),
        ("--user", "ann", "--uin", "nonsense"),
    ],
)
def test_a_key_for_nobody_is_refused_with_a_sentence(
    installation: Gateway, arguments: tuple[str, ...]
) -> None:
    assert_explained(run(installation, "keys", "create", *arguments), code=1)


def test_a_third_key_is_refused_until_one_is_deleted(installation: Gateway) -> None:
    first, _ = (installation.create_key("ann").secret_id for _ in range(2))
    refused = run(installation, "keys", "create", "--user", "ann")
    assert_explained(refused, code=1)
    assert "keys delete" in refused.stderr
    assert run_process(installation, "keys", "delete", first).returncode == 0
    assert_explained(run(installation, "keys", "delete", first), code=1)
    left = [installation.create_key("ann").secret_id]
    listed = json.loads(run_process(installation, "keys", "list", "--user", "ann", "--json").stdout)
    assert {key["SecretId"] for key in listed} > set(left)
    assert first not in {key["SecretId"] for key in listed}
    assert all(set(key) == {"SecretId", "CreateTime"} for key in listed)


def test_all_state_is_for_its_owner_alone(installation: Gateway) -> None:
    run_process(installation, "keys", "create", "--user", "ann")
    assert stat.S_IMODE(installation.data.stat().st_mode) == 0o711
    assert stat.S_IMODE((installation.data / "sealing.key").stat().st_mode) == 0o600


def test_broken_policies_make_no_key(installation: Gateway) -> None:
    (installation.policies / "accounts.toml").write_text("[[account]]", encoding="utf-8")
    done = run(installation, "keys", "create", "--user", "ann")
    assert_explained(done, code=1)
    assert "uin" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("keys", "create"),
        ("keys", "create", "--user", "ann", "--colour"),
        ("decisions", "show"),
        ("serve", "--port", "70000"),
        ("serve", "--config", "absent.toml"),
    ],
)
def test_misuse_is_told_from_a_no(installation: Gateway, arguments: tuple[str, ...]) -> None:
    assert_explained(run_process(installation, *arguments), code=2)


def test_a_wrong_setting_is_misuse(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, settings={"QCS_GATEWAY_SIGNATURE_BINDING": "loose"})
    done = run_process(gateway, "migrate")
    assert_explained(done, code=2)
    assert "`signature_binding`" in done.stderr


def test_a_settings_file_is_read_and_a_flag_wins_over_it(installation: Gateway) -> None:
    folder = installation.folder
    (folder / "settings.toml").write_text('isolation = "cage"', encoding="utf-8")
    assert run(installation, "migrate", "--config", "settings.toml").returncode == 2
    (folder / "settings.toml").write_text('isolation = "none"', encoding="utf-8")
    elsewhere = folder / "elsewhere"
    done = run_process(
        installation, "migrate", "--config", "settings.toml", "--data", str(elsewhere)
    )
    assert done.returncode == 0
    assert (elsewhere / "gateway.db").exists()
    assert not installation.data.exists()


def test_migrating_again_changes_nothing(installation: Gateway) -> None:
    assert run_process(installation, "migrate").returncode == 0
    assert run_process(installation, "migrate").returncode == 0


def test_a_decision_that_was_never_made_is_a_no(installation: Gateway) -> None:
    for request_id in (UNKNOWN_ID, "x", "' OR 1=1 --"):
        done = run(installation, "decisions", "show", request_id, "--json")
        assert_explained(done, code=1)


def denied_by_bob(gateway: Gateway) -> Answer:
    answer = call(gateway, gateway.key_of("bob"), "TerminateJob", JobId="job-00000000")
    assert answer.code == "UnauthorizedOperation"
    return answer


@pytest.fixture(scope="module")
def answer(gateway: Gateway) -> Answer:
    """What the service said to somebody who may read jobs and tried to end one."""
    return denied_by_bob(gateway)


def test_a_decision_is_shown_for_machines(gateway: Gateway, answer: Answer) -> None:
    done = run(gateway, "decisions", "show", answer.request_id, "--json")
    assert done.returncode == 0
    shown = json.loads(done.stdout)
    assert {"RequestId", "Time", "Principal", "Action", "Resources", "Effect", "Reason"} <= set(
        shown
    )
    assert shown["RequestId"] == answer.request_id
    assert shown["Action"] == "batch:TerminateJob"
    assert shown["Resources"] == ["qcs::batch:ap-guangzhou:uin/100000000001:job/job-00000000"]
    assert (shown["Effect"], shown["Reason"]) == ("deny", "implicit-deny")
    assert shown["Determining"] == []
    assert shown["NearestMiss"]["Policy"] == "read-jobs"
    assert shown["NearestMiss"]["Element"] == "action"
    assert shown["Generation"] == 1


def test_a_decision_is_shown_for_people(gateway: Gateway, answer: Answer) -> None:
    done = run_process(gateway, "decisions", "show", answer.request_id)
    assert done.returncode == 0
    first, *rest = done.stdout.splitlines()
    assert first == "deny  implicit-deny  batch:TerminateJob"
    text = "\n".join(rest)
    assert "bob (100000000001/100000000102) from 127.0.0.1" in text
    assert "qcs::batch:ap-guangzhou:uin/100000000001:job/job-00000000" in text
    assert "nearest   read-jobs/1 (examples/read-jobs.json, version 1) via user" in text
    assert "fix       user bob:" in text


def test_a_key_made_beside_a_running_server_is_good_at_once(gateway: Gateway) -> None:
    key = gateway.create_key("alice")
    assert call(gateway, key, "DescribeJobs").code == ""


@pytest.mark.needs("postgresql")
def test_the_verbs_work_on_postgresql(tmp_path: Path, postgresql_url: str) -> None:
    with running_gateway(tmp_path, QCS_GATEWAY_DATABASE_URL=postgresql_url) as gateway:
        answer = denied_by_bob(gateway)
        done = run_process(gateway, "decisions", "show", answer.request_id, "--json")
        assert json.loads(done.stdout)["Effect"] == "deny"
        assert not (gateway.data / "gateway.db").exists()
