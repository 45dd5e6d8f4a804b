"""`qcs-gateway decisions …`, beside a server that makes them."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from click.testing import CliRunner, Result
from tencentcloud.common.common_client import CommonClient
from tencentcloud.common.credential import Credential
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile

from gateway.call import Principal
from gateway.cli import main
from gateway.commands.decisions import decision_line, decision_text
from gateway.store.migrations import HEAD, find_revision
from tests.support.databases import upgrade_to
from tests.support.decisions import make
from tests.support.policies import OWNER, allow, deny, metric, uin_of, write_policies
from tests.support.raw_client import Answer, call
from tests.support.running import REGION, ROOT, Credentials, Gateway, wait_until

Done = subprocess.CompletedProcess[str]
OWN = f"qcs::cam::uin/{OWNER}:uin/${{uin}}"
USERS = {
    "ann": [
        allow("batch:Describe*"),
        deny("batch:DescribeJob"),
        allow("cam:DescribeDecision", OWN),
    ],
    "ben": [allow("cam:DescribeDecision")],
    "cat": [],
}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that nobody but these tests calls."""
    gateway = Gateway(tmp_path_factory.mktemp("judged"), settings={})
    write_policies(gateway.policies, USERS)
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.remove()


def denied(gateway: Gateway, user: str = "ann") -> Answer:
    answer = call(gateway, gateway.key_of(user), "DescribeJob", JobId="job-00000000")
    assert answer.code == "UnauthorizedOperation"
    return answer


def run(gateway: Gateway, *arguments: str) -> Done:
    return gateway.verb("decisions", *arguments)


def run_process(gateway: Gateway, *arguments: str) -> Done:
    return gateway.command("decisions", *arguments, check=False)


def listed(gateway: Gateway, *arguments: str) -> list[dict[str, Any]]:
    done = run(gateway, "list", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def request_ids(found: list[dict[str, Any]]) -> list[str]:
    return [one["RequestId"] for one in found]


def test_a_denied_call_is_listed_first_and_at_once(judged: Gateway) -> None:
    answers = [denied(judged).request_id for _ in range(3)]
    done = run_process(judged, "list", "--json", "--limit", "3")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, request_ids(found)) == (0, answers[::-1])


def test_a_plain_read_is_listed_within_a_second(judged: Gateway) -> None:
    answer = call(judged, judged.key_of("ann"), "DescribeJobs")
    assert answer.code == ""
    wait_until(lambda: answer.request_id in request_ids(listed(judged)), at_most_s=10)


def test_decisions_are_chosen_by_who_what_effect_reason_and_time(judged: Gateway) -> None:
    answer = denied(judged)
    for options in (
        ["--user", "ann"],
        ["--user", uin_of("ann"), "--effect", "deny"],
        ["--action", "batch:DescribeJob"],
        ["--action", "name/batch:describejob"],
        ["--action", "batch:*", "--reason", "explicit-deny"],
        ["--since", "15m"],
        ["--since", "2020-01-01", "--until", "2999-01-01T00:00:00+08:00"],
    ):
        assert answer.request_id in request_ids(listed(judged, *options)), options
    for options in (
        ["--user", "ben"],
        ["--effect", "allow"],
        ["--action", "batch:DescribeJobs"],
        ["--reason", "implicit-deny"],
        ["--until", "15m"],
        ["--since", "2999-01-01"],
    ):
        assert answer.request_id not in request_ids(listed(judged, *options)), options


def test_a_list_is_a_line_for_each_decision_for_people(judged: Gateway) -> None:
    answer = denied(judged)
    line = run(judged, "list", "--limit", "1").stdout
    for word in ("deny", "explicit-deny", "batch:DescribeJob", "ann", answer.request_id):
        assert word in line
    assert line.count("\n") == 1


def test_a_decision_names_the_role_and_who_holds_it() -> None:
    holder = Principal("1", "461", "ops", role="ops", session="night-shift")
    found = make("r-1", principal=holder)().public()
    for text in (decision_line(found), decision_text(found)):
        assert "role/ops (1/461) session night-shift" in text
    del found["Principal"]["Role"], found["Principal"]["Session"]  # as in older records
    for text in (decision_line(found), decision_text(found)):
        assert "  ops (1/461)" in text


READING_VERBS = [
    (1, "decisions show r-1"),
    (1, "decisions list"),
    (1, "decisions tail"),
    (1, "decisions export"),
    (1, "decisions verify"),
    (1, "keys list --user ann"),
    (2, "policy suggest --user ann --since 1h"),  # 1 is an answer of theirs
    (2, "policy diff policies policies --since 1h"),
]


def read_with(verb: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """Run a verb on the data in `folder/var`."""
    monkeypatch.chdir(folder)
    shutil.copytree(ROOT / "policies", folder / "policies")
    write_policies(folder / "policies", USERS)
    environment = {"QCS_GATEWAY_DATA": "var", "QCS_GATEWAY_POLICIES": "policies"}
    return CliRunner().invoke(main, verb.split(), env=environment)


@pytest.mark.parametrize(("code", "verb"), READING_VERBS)
def test_what_only_reads_makes_no_database(
    code: int, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = read_with(verb, tmp_path, monkeypatch)
    assert (done.exit_code, done.stdout) == (code, "")
    assert re.fullmatch(r"qcs-gateway: there is no database in var;.*\n", done.stderr)
    assert not (tmp_path / "var").exists()


@pytest.mark.parametrize(("code", "verb"), READING_VERBS)
def test_what_only_reads_leaves_an_older_database_as_it_is(
    code: int, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "var").mkdir()
    url = f"sqlite:///{tmp_path}/var/gateway.db"
    upgrade_to("0004", url)
    done = read_with(verb, tmp_path, monkeypatch)
    assert (done.exit_code, done.stdout) == (code, "")
    assert re.fullmatch(rf"qcs-gateway: .* revision 0004 .* {HEAD};.*\n", done.stderr)
    assert find_revision(url) == "0004"


def test_what_writes_brings_an_older_database_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "var").mkdir()
    url = f"sqlite:///{tmp_path}/var/gateway.db"
    upgrade_to("0004", url)
    assert read_with("keys create --user ann", tmp_path, monkeypatch).exit_code == 0
    assert find_revision(url) == HEAD


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "--since", "yesterday"),
        ("list", "--since", "99999999d"),
        ("list", "--limit", "0"),
        ("list", "--effect", "maybe"),
        ("verify", "--head", "chain:1"),
        ("verify", "--file", "absent"),
        ("tail", "--last", "-1"),
    ],
)
def test_misuse_is_told(judged: Gateway, arguments: tuple[str, ...]) -> None:
    done = run(judged, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


@contextmanager
def tailing(gateway: Gateway, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "decisions", "tail", *arguments],
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **gateway.environment},
        cwd=gateway.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def next_id(output: IO[str] | None) -> str:
    assert output
    found: str = json.loads(output.readline())["RequestId"]
    return found


def test_a_tail_shows_the_last_ones_then_each_new_one_and_ends_well_when_interrupted(
    judged: Gateway,
) -> None:
    before = [denied(judged).request_id for _ in range(3)]
    options = ("--json", "--last", "2", "--reason", "explicit-deny")
    with tailing(judged, *options) as process:
        assert [next_id(process.stdout) for _ in range(2)] == before[1:]
        after = [denied(judged).request_id for _ in range(3)]
        assert [next_id(process.stdout) for _ in range(3)] == after
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr
        assert process.stderr.read() == ""


def test_a_tail_whose_reader_has_gone_ends_without_a_traceback(judged: Gateway) -> None:
    denied(judged)
    with tailing(judged, "--last", "1") as process:
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        denied(judged)
        process.wait(20)
        assert process.stderr
        assert "Traceback" not in process.stderr.read()


def test_an_export_can_be_proved_and_a_changed_one_cannot(judged: Gateway) -> None:
    answer = denied(judged)
    done = run_process(judged, "export")
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert answer.request_id in [line["Record"]["RequestId"] for line in lines]
    assert [line["Seq"] for line in lines] == list(range(1, len(lines) + 1))
    [head] = done.stderr.split()
    assert re.fullmatch(rf"chain-[a-z0-9]{{8}}:{len(lines)}:[0-9a-f]{{64}}", head)
    file = judged.folder / "export.jsonl"
    file.write_text(done.stdout, encoding="utf-8")
    assert run(judged, "verify", "--file", str(file), "--head", head).returncode == 0
    file.write_text(done.stdout.replace(answer.request_id, "0" * 36), encoding="utf-8")
    changed = run(judged, "verify", "--file", str(file), "--head", head)
    assert changed.returncode == 1
    assert "0" * 36 in changed.stdout
    denied(judged)
    assert run(judged, "verify", "--head", head).returncode == 0


def test_the_log_is_proved_beside_the_running_server(judged: Gateway) -> None:
    denied(judged)
    done = run_process(judged, "verify")
    assert done.returncode == 0
    assert re.fullmatch(
        r"sound    \d+ records from 1 on  chain-\w{8}:\d+:[0-9a-f]{64}\n", done.stdout
    )
    [report] = [json.loads(line) for line in run(judged, "verify", "--json").stdout.splitlines()]
    assert report["Sound"] is True


def test_each_start_has_a_chain_and_a_change_by_another_program_is_found(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, settings={})
    write_policies(gateway.policies, USERS)
    try:
        for _ in range(2):
            gateway.start()
            answer = denied(gateway)
            gateway.stop()
        assert run(gateway, "verify").stdout.count("sound") == 2
        with closing(sqlite3.connect(gateway.data / "gateway.db")) as database, database:
            database.execute(
                "UPDATE cam_decision SET record = replace(record, 'deny', 'fine')"
                " WHERE request_id = ?",
                (answer.request_id,),
            )
        done = run(gateway, "verify")
        assert done.returncode == 1
        assert answer.request_id in done.stdout
        assert (done.stdout.count("sound  "), done.stdout.count("DAMAGED")) == (1, 1)
    finally:
        gateway.remove()


def client(gateway: Gateway, who: Credentials) -> CommonClient:
    """The official client for any action of any service."""
    http = HttpProfile(protocol="http", endpoint=gateway.url.removeprefix("http://"))
    credential = Credential(who.secret_id, who.secret_key)
    return CommonClient("cam", "2019-01-16", credential, REGION, ClientProfile(httpProfile=http))


def ask_why(gateway: Gateway, user: str, request_id: str) -> dict[str, Any]:
    answer = client(gateway, gateway.key_of(user)).call_json(
        "DescribeDecision", {"DecisionRequestId": request_id}
    )
    found: dict[str, Any] = answer["Response"]["Decision"]
    return found


def test_callers_ask_why_with_the_official_client(judged: Gateway) -> None:
    request_id = denied(judged).request_id
    own = ask_why(judged, "ann", request_id)
    assert (own["Reason"], own["Determining"]) == (
        "explicit-deny",
        [{"Policy": "ann", "Version": 1, "Statement": 2}],
    )
    whole = ask_why(judged, "ben", request_id)
    assert whole["Determining"][0]["Pattern"] == "*"
    shown = run_process(judged, "show", request_id, "--json").stdout
    assert json.loads(shown) == whole


@pytest.mark.parametrize(
    ("asker", "asked", "code"),
    [
        ("ann", "ben", "ResourceNotFound.Decision"),
        ("ann", "", "ResourceNotFound.Decision"),
        ("ben", "", "ResourceNotFound.Decision"),
        ("cat", "cat", "UnauthorizedOperation"),
    ],
)
def test_who_may_not_know_is_not_told_whether_there_is_anything(
    judged: Gateway, asker: str, asked: str, code: str
) -> None:
    request_id = denied(judged, asked).request_id if asked else "0" * 36
    with pytest.raises(TencentCloudSDKException) as raised:
        ask_why(judged, asker, request_id)
    assert raised.value.get_code() == code


def test_no_decision_was_dropped(judged: Gateway) -> None:
    denied(judged)
    assert metric(judged, "qcs_gateway_decisions_dropped_total") == 0
