"""`policy diff` and `policy suggest`, on calls that a real server decided."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from click.testing import Result

from gateway.call import Effect, Principal, Resource
from gateway.cam.decisions import queries
from gateway.cam.decisions.queries import Filter
from gateway.commands.recorded_calls import read_call
from gateway.policy.record import RefusedCall
from gateway.store import Store
from tests.commands.asking import ANN, DROP, JOB, KILL, USERS, folder_of, run
from tests.support.decisions import NOON, decision_log, make
from tests.support.policies import allow, write_policies
from tests.support.raw_client import call
from tests.support.running import ROOT, Gateway, running_gateway


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "policies", USERS)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway in which ann and bob have made calls; then it was stopped."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(ROOT / "policies", folder / "policies")
    write_policies(folder / "policies", USERS)
    with running_gateway(folder) as gateway:
        ann, bob = gateway.key_of("ann"), gateway.key_of("bob")
        for number in range(3):
            call(gateway, ann, "TerminateJob", JobId=f"job-{number}0000000")
        call(gateway, ann, "TerminateJob", JobId="job-shut")
        call(gateway, ann, "DescribeJobs")
        call(gateway, ann, "DescribeInstanceCategories")
        call(gateway, bob, "DescribeJob", JobId="job-a0000000")
        call(gateway, bob, "DeleteJob", JobId="job-a0000000")
        gateway.stop()
        yield gateway


@pytest.fixture(scope="module")
def exported(served: Gateway) -> Path:
    file = served.folder / "export.jsonl"
    file.write_text(served.verb("decisions", "export").stdout, "utf-8")
    return file


def run_served(gateway: Gateway, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return gateway.verb("policy", *map(str, arguments))


def run_process(gateway: Gateway, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return gateway.command("policy", *map(str, arguments), check=False)


def test_a_call_is_explained_by_the_command_as_the_server_decided_it(served: Gateway) -> None:
    asked = (*ANN, "--action", KILL, "--resource", "job/job-shut")
    done = run_process(served, "explain", *asked)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[0] == "deny  explicit-deny  ann/3"
    assert run_process(served, "simulate", *asked, "--expect", "deny").returncode == 0


def test_unchanged_policies_answer_recorded_calls_as_they_were_answered(
    served: Gateway, exported: Path
) -> None:
    folders = (served.policies, served.policies)
    for source in (("--corpus", exported), ("--since", "1h")):
        done = run_served(served, "diff", *folders, *source, "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["Differences"] == []
        assert (found["Calls"], found["Partial"], found["OtherwiseRecorded"]) == (8, 0, 0)


def test_a_change_is_told_by_user_and_action_with_an_example(
    served: Gateway, exported: Path, tmp_path: Path
) -> None:
    changed = {
        "ann": [allow("batch:Describe*"), allow(KILL, f"{JOB}/job-shut")],
        "bob": [allow("*")],
    }
    new = folder_of(tmp_path / "new", changed)
    options = ("--since", "1h", "--json", "--fail-on-new-allow")
    done = run_process(served, "diff", served.policies, new, *options)
    assert done.returncode == 1
    found = json.loads(done.stdout)["Differences"]
    assert [
        (one["Shift"], one["Calls"], one["Principal"]["Name"], one["Action"]) for one in found
    ] == [
        ("newly-allowed", 1, "ann", KILL),
        ("newly-allowed", 1, "bob", DROP),
        ("newly-denied", 3, "ann", KILL),
    ]
    [example] = {one["Example"] for one in found if one["Action"] == DROP}
    shown = json.loads(served.verb("decisions", "show", example, "--json").stdout)
    assert (shown["Action"], shown["Effect"]) == (DROP, "deny")
    text = run("diff", served.policies, new, "--corpus", exported, "--fail-on-new-deny")
    assert text.exit_code == 1
    assert "newly-denied   3  ann" in text.stdout
    assert f"such as {example}" in text.stdout
    assert "8 recorded calls, 0 of them recorded in part" in text.stderr


def test_nothing_fails_that_only_opens_or_only_closes(served: Gateway, tmp_path: Path) -> None:
    wider = folder_of(tmp_path / "wider", {"ann": [allow("*")], "bob": [allow("*")]})
    both = {"open": (served.policies, wider), "close": (wider, served.policies)}
    for what, folders in both.items():
        new_allow = run_served(served, "diff", *folders, "--since", "1h", "--fail-on-new-allow")
        new_deny = run_served(served, "diff", *folders, "--since", "1h", "--fail-on-new-deny")
        assert (new_allow.returncode, new_deny.returncode) == (
            int(what == "open"),
            int(what != "open"),
        )


def test_a_gate_without_recorded_calls_is_misuse_and_not_passed(
    folder: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    asked = ("diff", folder, folder, "--corpus", empty)
    assert run(*asked).exit_code == 0
    assert run(*asked, "--fail-on-new-allow").exit_code == 2
    assert run(*asked, "--fail-on-new-deny").exit_code == 2


def test_what_is_suggested_allows_what_was_called_and_no_more(
    served: Gateway, tmp_path: Path
) -> None:
    done = run_served(served, "suggest", *ANN, "--since", "1h")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("Made from 5 calls of ann, from 20")
    suggested = json.loads(done.stdout)["statement"]
    new = folder_of(tmp_path / "new", {"ann": suggested, "bob": USERS["bob"]})
    compared = run_served(served, "diff", served.policies, new, "--since", "1h", "--json")
    shifts = {(one["Shift"], one["Action"]) for one in json.loads(compared.stdout)["Differences"]}
    assert shifts == {("other-reason", KILL)}  # the one that was denied has no deny any more
    asked = (*ANN, "--action", KILL, "--resource", "job/job-x")
    assert run("explain", "--policies", new, *asked).exit_code == 1


def test_what_was_denied_is_suggested_only_if_asked(served: Gateway) -> None:
    done = run_served(served, "suggest", "--user", "bob", "--since", "1h")
    assert DROP not in done.stdout
    done = run_served(served, "suggest", "--user", "bob", "--since", "1h", "--include-denied")
    assert DROP in done.stdout


def test_ids_are_generalised_beyond_the_number_given(served: Gateway, exported: Path) -> None:
    asked = ("suggest", *ANN, "--policies", str(served.policies), "--corpus", str(exported))
    assert f"{JOB}/*" not in killing(run(*asked))
    assert killing(run(*asked, "--ids", "2")) == [f"{JOB}/*"]
    assert len(killing(run(*asked, "--ids", "2", "--keep-ids"))) == 3


def killing(result: Result) -> list[str]:
    statements = json.loads(result.stdout)["statement"]
    [found] = [one["resource"] for one in statements if KILL in one["action"]]
    return list(found)


def test_a_record_of_an_older_form_is_decided_with_what_it_has(
    served: Gateway, exported: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old.jsonl"
    lines = []
    for line in exported.read_text("utf-8").splitlines():
        record = json.loads(line)["Record"]
        for name in ("Context", "DenyOnly", "Attributes", "Listed"):
            record.pop(name)
        lines.append(json.dumps(record))
    old.write_text("\n".join([*lines, "", ""]), "utf-8")
    done = run("diff", served.policies, served.policies, "--corpus", old, "--json")
    found = json.loads(done.stdout)
    assert (found["Calls"], found["Partial"], found["Differences"]) == (8, 8, [])


def test_a_record_gives_back_the_question_that_was_decided() -> None:
    job, topic = (
        Resource(service, "ap-guangzhou", "1", path)
        for service, path in (("batch", "job/*"), ("tdmq", "topic/jobs"))
    )
    principal = Principal("1", "300", "runner", role="runner", session="s", session_policy="{}")
    context = {"qcs:ip": ("192.0.2.7",), "qcs:request_tag": ("team&a", "team&b")}
    attributes = {str(job): {"qcs:tag/team": ("a",)}}
    record = make(
        "r-1",
        principal=principal,
        deny_only=(str(topic),),
        deny_only_action="tdmq:PublishCmqMsg",
        context=context,
        attributes=attributes,
        listed="job",
    )().public()
    found = read_call(msgspec.json.encode({"Chain": "c", "Seq": 1, "Record": record}))
    assert found is not None
    query = found.question.query
    assert (query.principal, query.context) == (principal, context)
    assert (query.resources, query.deny_only) == ((job,), (topic,))
    assert query.attributes == {job: attributes[str(job)]}
    assert query.deny_only_action == "tdmq:PublishCmqMsg"
    assert (found.question.lists, found.effect, found.is_partial) == ("job", Effect.DENY, False)
    assert read_call(msgspec.json.encode(record)) == found


@pytest.mark.parametrize("line", ["{}", "nonsense", '{"Record": 1}', "[]"])
def test_a_corpus_that_is_none_is_misuse_and_names_the_line(
    folder: Path, tmp_path: Path, line: str
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(f"\n{line}\n", "utf-8")
    done = run("diff", folder, folder, "--corpus", corpus)
    assert done.exit_code == 2
    assert "corpus.jsonl, line 2" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("source", [(), ("--since", "1h", "--corpus", __file__)])
def test_calls_come_from_one_place(folder: Path, source: tuple[str, ...]) -> None:
    assert run("diff", folder, folder, *source).exit_code == 2
    assert run("suggest", "--policies", folder, *ANN, *source).exit_code == 2


def test_a_suggestion_is_for_one_who_is_declared(folder: Path) -> None:
    for who in ((), ("--user", "carol"), (*ANN, "--role", "runner")):
        assert run("suggest", "--policies", folder, *who, "--since", "1h").exit_code == 2


def test_a_suggestion_for_machines_is_a_policy_a_line(served: Gateway) -> None:
    done = run_process(served, "suggest", *ANN, "--since", "1h", "--json")
    assert [json.loads(line)["version"] for line in done.stdout.splitlines()] == ["2.0"]


@pytest.mark.anyio
async def test_the_log_is_walked_in_pages_from_the_oldest_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "PAGE", 2)
    log = decision_log(store)
    for number in (3, 1, 4, 0, 2):
        time = NOON + timedelta(minutes=number)
        await log.record(make(f"r-{number}", time=time), durably=True)
    stranger = Principal("1", "3", "bob")
    await log.record(make("r-5", time=NOON, principal=stranger), durably=True)
    wanted = Filter(user="2", since=NOON + timedelta(minutes=1))
    walked = await store.read_list(
        lambda tx: list(filter(None, map(read_call, queries.walk_decisions(tx, wanted))))
    )
    assert [one.request_id for one in walked] == ["r-1", "r-2", "r-3", "r-4"]
    assert not any(one.is_partial for one in walked)


def test_a_call_on_which_nothing_was_decided_is_no_question() -> None:
    refused = RefusedCall("r-1", NOON, Principal("1", "2", "ann"), "", "192.0.2.7", "InvalidAction")
    assert read_call(msgspec.json.encode(refused.public())) is None
