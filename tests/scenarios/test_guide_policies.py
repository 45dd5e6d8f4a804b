"""The guide's two policies, on a real gateway: written to files while it runs, then tried."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.running import Gateway, Refused, running_gateway, wait_until
from tests.support.sdk import PLACEMENT, SMALL, Sdk, task

ACCOUNT = "100000000001"
SEEN_WITHIN_S = 2.0
ALLOWED_ALL = {
    "effect": "allow",
    "action": ["name/batch:*"],
    "resource": [f"qcs::batch:ap-guangzhou:uin/{ACCOUNT}:computeenv/*"],
}
SUBMIT = {
    "effect": "allow",
    "action": ["name/batch:SubmitJob"],
    "resource": [f"qcs::batch:ap-guangzhou:uin/{ACCOUNT}:job/*"],
}
READ_JOBS = {
    "effect": "allow",
    "action": [
        "name/batch:DescribeJobs",
        "name/batch:DescribeJobSubmitInfo",
        "name/batch:DescribeJob",
        "name/batch:DescribeTask",
        "name/batch:DescribeTaskLogs",
    ],
    "resource": [f"qcs::batch::uin/{ACCOUNT}:job/*"],
}
ACCOUNTS = f"""
[[account]]
uin = "{ACCOUNT}"
policy = [
  {{ name = "allow-first", file = "allow-first.json" }},
  {{ name = "deny-first", file = "deny-first.json" }},
  {{ name = "read-jobs", file = "read-jobs.json" }},
]
user = [
  {{ name = "ann", uin = "100000000201", policies = ["allow-first"] }},
  {{ name = "ben", uin = "100000000202", policies = ["deny-first"] }},
  {{ name = "cat", uin = "100000000203", policies = ["read-jobs"] }},
]
"""


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose policies these tests write."""
    with running_gateway(tmp_path_factory.mktemp("policies")) as running:
        yield running


@pytest.fixture(scope="module")
def root(owned: Gateway) -> Sdk:
    return Sdk(owned, owned.root)


@pytest.fixture(scope="module")
def envs(root: Sdk) -> tuple[str, str]:
    """Two environments: an open one, and the one that the policy denies."""
    return make_env(root, "open"), make_env(root, "denied")


@pytest.fixture(scope="module")
def callers(owned: Gateway, envs: tuple[str, str]) -> dict[str, Sdk]:
    """The users of ACCOUNTS, once their policies are in force."""
    denied = {
        "effect": "deny",
        "action": ["name/batch:*"],
        "resource": [f"qcs::batch:ap-guangzhou:uin/{ACCOUNT}:computeenv/{envs[1]}"],
    }
    replace_policies(
        owned,
        {
            "allow-first.json": document(ALLOWED_ALL, denied, SUBMIT),
            "deny-first.json": document(denied, ALLOWED_ALL, SUBMIT),
            "read-jobs.json": document(READ_JOBS),
            "accounts.toml": ACCOUNTS,
        },
    )
    return {name: Sdk(owned, owned.create_key(name)) for name in ("ann", "ben", "cat")}


def make_env(sdk: Sdk, name: str) -> str:
    wanted = {"EnvName": name, "DesiredComputeNodeCount": 0, **SMALL}
    env_id: str = sdk("CreateComputeEnv", ComputeEnv=wanted, Placement=PLACEMENT)["EnvId"]
    return env_id


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"version": "2.0", "statement": list(statements)})


def generation(gateway: Gateway) -> float:
    return metric(gateway, "qcs_gateway_policy_generation")


def metric(gateway: Gateway, name: str) -> float:
    _, text = gateway.management("/metrics")
    (value,) = (line.split()[1] for line in text.splitlines() if line.startswith(f"{name} "))
    return float(value)


def replace_policies(gateway: Gateway, files: dict[str, str]) -> None:
    """Write policy files, each at once and the accounts last; return when they are in force."""
    before = generation(gateway)
    for name, text in files.items():
        write(gateway.policies / name, text)
    wait_until(
        lambda: generation(gateway) > before and not metric(gateway, "qcs_gateway_policy_broken"),
        at_most_s=SEEN_WITHIN_S,
        what=lambda: gateway.log[-2000:],
    )


def write(path: Path, text: str) -> None:
    """Replace a file at once, as editors do."""
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def refusal(call: Callable[[], Any]) -> Refused:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("name", ["ann", "ben"])
def test_one_environment_is_denied_whatever_the_order_of_the_statements(
    name: str, callers: dict[str, Sdk], envs: tuple[str, str]
) -> None:
    caller, (open_env, denied_env) = callers[name], envs
    assert caller("DescribeComputeEnv", EnvId=open_env)["EnvId"] == open_env

    for action in ("DescribeComputeEnv", "DeleteComputeEnv", "DescribeComputeEnvCreateInfo"):
        refused = refusal(lambda action=action: caller(action, EnvId=denied_env))  # type: ignore[misc]
        assert refused.code == "UnauthorizedOperation"
        assert refused.message == (
            f"[request id:{refused.request_id}]you are not authorized to perform operation"
            f" (batch:{action})\nresource (qcs::batch:ap-guangzhou:uin/{ACCOUNT}"
            f":computeenv/{denied_env}) has no permission\n"
        )


@pytest.mark.parametrize("name", ["ann", "ben"])
def test_a_denied_environment_is_in_no_list_and_not_counted(
    name: str, callers: dict[str, Sdk], root: Sdk, envs: tuple[str, str]
) -> None:
    caller, (open_env, denied_env) = callers[name], envs
    assert ids_in(root("DescribeComputeEnvs")) == (2, {open_env, denied_env})
    assert ids_in(caller("DescribeComputeEnvs")) == (1, {open_env})
    assert ids_in(caller("DescribeComputeEnvs", Limit=1)) == (1, {open_env})
    assert ids_in(caller("DescribeComputeEnvs", Offset=1)) == (1, set())
    by_name = [{"Name": "env-name", "Values": ["denied"]}]
    assert ids_in(caller("DescribeComputeEnvs", Filters=by_name)) == (0, set())
    assert ids_in(caller("DescribeComputeEnvs", EnvIds=[open_env])) == (1, {open_env})
    both = refusal(lambda: caller("DescribeComputeEnvs", EnvIds=[open_env, denied_env]))
    assert both.code == "UnauthorizedOperation"
    assert denied_env in both.message


def ids_in(answer: dict[str, Any]) -> tuple[int, set[str]]:
    return answer["TotalCount"], {each["EnvId"] for each in answer["ComputeEnvSet"]}


@pytest.mark.parametrize("name", ["ann", "ben"])
def test_no_job_is_submitted_to_a_denied_environment(
    name: str, callers: dict[str, Sdk], root: Sdk, envs: tuple[str, str]
) -> None:
    caller, (open_env, denied_env) = callers[name], envs
    jobs = root("DescribeJobs")["TotalCount"]
    hidden = [task("one", "true", EnvId=open_env), task("two", "true", EnvId=denied_env)]
    assert refusal(lambda: caller.submit(*hidden)).code == "UnauthorizedOperation"
    assert root("DescribeJobs")["TotalCount"] == jobs, "nothing was done"
    assert caller.submit(hidden[0]).startswith("job-")


def test_a_reader_of_jobs_describes_and_does_not_terminate(
    callers: dict[str, Sdk], root: Sdk, owned: Gateway
) -> None:
    reader = callers["cat"]
    job_id = root.submit(task("long", "sleep 100"))
    root.wait(job_id, states=["RUNNING"])

    assert reader("DescribeJob", JobId=job_id)["JobState"] == "RUNNING"
    assert reader("DescribeTask", JobId=job_id, TaskName="long")["TaskInstanceTotalCount"] == 1
    assert job_id in {each["JobId"] for each in reader("DescribeJobs")["JobSet"]}
    refused = refusal(lambda: reader("TerminateJob", JobId=job_id))
    assert refused.code == "UnauthorizedOperation"
    assert refusal(lambda: reader.submit(task("own", "true"))).code == "UnauthorizedOperation"
    assert refusal(lambda: reader("DescribeComputeEnvs")).code == "UnauthorizedOperation"
    assert root("DescribeJob", JobId=job_id)["JobState"] == "RUNNING"

    shown = owned.command("decisions", "show", refused.request_id, "--json").stdout
    decision = json.loads(shown)
    assert (decision["Effect"], decision["Reason"]) == ("deny", "implicit-deny")
    assert decision["Principal"]["Name"] == "cat"
    assert decision["NearestMiss"]["Policy"] == "read-jobs"
    assert decision["NearestMiss"]["Element"] == "action"
    root("TerminateJob", JobId=job_id)
    assert root.wait(job_id)["JobState"] == "FAILED"


def test_a_changed_policy_is_in_force_within_two_seconds_without_a_restart(
    callers: dict[str, Sdk], owned: Gateway
) -> None:
    reader, pid = callers["cat"], owned.pid
    assert reader("DescribeJobs")["TotalCount"] >= 0
    replace_policies(owned, {"read-jobs.json": document({**READ_JOBS, "effect": "deny"})})
    assert refusal(lambda: reader("DescribeJobs")).code == "UnauthorizedOperation"
    replace_policies(owned, {"read-jobs.json": document(READ_JOBS)})
    assert reader("DescribeJobs")["TotalCount"] >= 0
    assert owned.pid == pid


@pytest.mark.parametrize(
    "broken",
    [
        '{"version": "2.0", "statement": [',
        '{"version": "2.0", "version": "2.0", "statement": []}',
        document({**READ_JOBS, "effect": "perhaps"}),
        document({**READ_JOBS, "condition": {"string_looks_like": {"qcs:ip": "1"}}}),
    ],
)
def test_a_broken_policy_keeps_the_last_good_set_in_force_and_says_so(
    broken: str, callers: dict[str, Sdk], owned: Gateway
) -> None:
    reader, before = callers["cat"], generation(owned)
    said = owned.log.count("policies_refused")
    write(owned.policies / "read-jobs.json", broken)
    wait_until(lambda: metric(owned, "qcs_gateway_policy_broken") == 1, at_most_s=SEEN_WITHIN_S)
    assert reader("DescribeJobs")["TotalCount"] >= 0
    assert generation(owned) == before
    news = [line for line in owned.log.splitlines() if "policies_refused" in line][said:]
    assert "read-jobs.json" in json.loads(news[0])["error"]

    replace_policies(owned, {"read-jobs.json": document(READ_JOBS)})
    assert generation(owned) == before + 1
