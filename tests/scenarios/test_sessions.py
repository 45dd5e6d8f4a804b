"""Roles and temporary sessions on a real gateway, by the official SDK."""

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.policies import (
    OWNER,
    allow,
    deny,
    generation,
    replace_file,
    uin_of,
    wait_for_generation,
)
from tests.support.running import ROOT, Credentials, Gateway, Refused, running_gateway, wait_until
from tests.support.sdk import PLACEMENT, SMALL, Sdk, task

DEPLOYER_ID, AUDITOR_ID = "4611686018427397919", "4611686018427397920"
DEPLOYER = f"qcs::cam::uin/{OWNER}:roleName/deployer"
DEPLOYER_BY_ID = f"qcs::cam::uin/{OWNER}:role/{DEPLOYER_ID}"
AUDITOR = f"qcs::cam::uin/{OWNER}:roleName/auditor"
JOBS = f"qcs::batch::uin/{OWNER}:job/*"
DOCUMENTS = {
    "assume": [allow(["sts:AssumeRole", "sts:GetCallerIdentity"])],
    "not-by-name": [allow("sts:AssumeRole"), deny("sts:AssumeRole", DEPLOYER)],
    "batch": [allow(["batch:*", "sts:Get*"])],
    "jobs": [
        allow("sts:GetCallerIdentity"),
        allow(["batch:SubmitJob", "batch:DescribeJob", "batch:DescribeTaskLogs"], JOBS),
        allow("sts:AssumeRole", AUDITOR),
    ],
    "read": [allow("batch:Describe*")],
}
TRUSTS = {
    "users": {"qcs": [f"qcs::cam::uin/{OWNER}:uin/{uin_of(name)}" for name in ("ann", "cat")]},
    "account": {"qcs": [f"qcs::cam::uin/{OWNER}:root"]},
}
USERS = {"ann": "assume", "ben": "assume", "cat": "not-by-name", "dan": "batch"}
ROLES = f"""
[[account.role]]
name = "deployer"
id = "{DEPLOYER_ID}"
trust = "trust-users.json"
policies = ["jobs"]

[[account.role]]
name = "auditor"
id = "{AUDITOR_ID}"
trust = "trust-account.json"
policies = ["read"]
session_s_max = 60
"""


def accounts(*, roles: str) -> str:
    lines = ["[[account]]", f'uin = "{OWNER}"']
    for name in DOCUMENTS:
        lines += ["[[account.policy]]", f'name = "{name}"', f'file = "{name}.json"']
    for name, policy in USERS.items():
        lines += ["[[account.user]]", f'name = "{name}"', f'uin = "{uin_of(name)}"']
        lines += [f'policies = ["{policy}"]']
    return "\n".join(lines) + roles


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with two roles: users may take on the one, the whole account the other."""
    folder = tmp_path_factory.mktemp("sessions")
    policies = folder / "policies"
    shutil.copytree(ROOT / "policies", policies)
    for name, statements in DOCUMENTS.items():
        document = {"version": "2.0", "statement": statements}
        (policies / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    for name, principal in TRUSTS.items():
        statement = {"effect": "allow", "action": "name/sts:AssumeRole", "principal": principal}
        document = {"version": "2.0", "statement": [statement]}
        (policies / f"trust-{name}.json").write_text(json.dumps(document), encoding="utf-8")
    (policies / "accounts.toml").write_text(accounts(roles=ROLES), encoding="utf-8")
    with running_gateway(folder) as running:
        yield running


def caller(gateway: Gateway, name: str) -> Sdk:
    return Sdk(gateway, gateway.key_of(name))


def session(gateway: Gateway, who: Sdk, arn: str = DEPLOYER, **params: Any) -> Sdk:
    """The clients of a new session of a role."""
    answer = who("AssumeRole", RoleArn=arn, RoleSessionName="scenario", **params)
    return Sdk(gateway, temporary(answer))


def temporary(answer: dict[str, Any]) -> Credentials:
    made = answer["Credentials"]
    return Credentials(made["TmpSecretId"], made["TmpSecretKey"], made["Token"])


def written(*statements: dict[str, Any]) -> str:
    """The policy of a session, as STS wants it: JSON in percent-encoding."""
    return quote(json.dumps({"version": "2.0", "statement": statements}))


def refusal(call: Callable[..., Any], *arguments: Any, **parameters: Any) -> str:
    with pytest.raises(Refused) as caught:
        call(*arguments, **parameters)
    return caught.value.code


def test_a_user_takes_on_a_role_and_does_what_the_role_may_and_no_more(owned: Gateway) -> None:
    ann = caller(owned, "ann")
    assert refusal(ann.submit, task("own", "true")) == "UnauthorizedOperation"
    deployer = session(owned, ann)
    job_id = deployer.submit(task("greet", "echo hello from a role"))
    assert deployer.wait(job_id)["JobState"] == "SUCCEED"
    assert deployer.logs(job_id, "greet")[0][0] == "hello from a role\n"
    assert refusal(deployer, "TerminateJob", JobId=job_id) == "UnauthorizedOperation"
    env = {"EnvName": "e", "DesiredComputeNodeCount": 0, **SMALL}
    made = refusal(deployer, "CreateComputeEnv", ComputeEnv=env, Placement=PLACEMENT)
    assert made == "UnauthorizedOperation"


def test_the_policy_of_a_session_narrows_its_role_and_widens_nothing(owned: Gateway) -> None:
    ann = caller(owned, "ann")
    job_id = session(owned, ann).submit(task("one", "true"))
    reading = session(owned, ann, Policy=written(allow("batch:Describe*")))
    assert reading("DescribeJob", JobId=job_id)["JobId"] == job_id
    assert refusal(reading.submit, task("two", "true")) == "UnauthorizedOperation"
    wide = session(owned, ann, Policy=written(allow("*")))
    assert wide("DescribeJob", JobId=job_id)["JobId"] == job_id
    assert refusal(wide, "TerminateJob", JobId=job_id) == "UnauthorizedOperation"


def test_a_role_is_taken_on_only_by_those_it_trusts_and_policies_allow(owned: Gateway) -> None:
    ben, cat, dan = (caller(owned, name) for name in ("ben", "cat", "dan"))
    assert refusal(session, owned, ben) == "UnauthorizedOperation"
    assert refusal(session, owned, dan, AUDITOR) == "UnauthorizedOperation"
    for arn in (DEPLOYER, DEPLOYER_BY_ID):
        assert refusal(session, owned, cat, arn) == "UnauthorizedOperation"
    nobody = f"qcs::cam::uin/{OWNER}:roleName/nobody"
    assert refusal(session, owned, ben, nobody) == "ResourceNotFound.RoleNotFound"
    elsewhere = "qcs::cam::uin/100000000002:roleName/deployer"
    assert refusal(session, owned, ben, elsewhere) == "UnauthorizedOperation"


def test_a_session_takes_on_a_further_role_and_leaves_its_own_rights_behind(
    owned: Gateway,
) -> None:
    deployer = session(owned, caller(owned, "ann"))
    auditor = session(owned, deployer, AUDITOR)
    job_id = deployer.submit(task("one", "true"))
    assert auditor("DescribeJob", JobId=job_id)["JobId"] == job_id
    assert refusal(auditor.submit, task("two", "true")) == "UnauthorizedOperation"
    assert refusal(session, owned, auditor, DEPLOYER) == "UnauthorizedOperation"


def test_everybody_is_told_who_they_are(owned: Gateway) -> None:
    ann, dan = caller(owned, "ann"), caller(owned, "dan")
    federated = federate(owned, dan, allow("*"))
    shown = [one("GetCallerIdentity")["UserId"] for one in (ann, session(owned, ann), federated)]
    assert shown == [uin_of("ann"), f"{DEPLOYER_ID}:scenario", f"{uin_of('dan')}:SUN"]


def federate(gateway: Gateway, who: Sdk, *statements: dict[str, Any]) -> Sdk:
    answer = who("GetFederationToken", Name="SUN", Policy=written(*statements))
    return Sdk(gateway, temporary(answer))


def test_a_federated_session_has_its_users_rights_as_far_as_its_policy_goes(
    owned: Gateway,
) -> None:
    dan = caller(owned, "dan")
    job_id = dan.submit(task("one", "true"))
    reading = federate(owned, dan, allow("batch:Describe*"))
    assert reading("DescribeJob", JobId=job_id)["JobId"] == job_id
    assert refusal(reading.submit, task("two", "true")) == "UnauthorizedOperation"
    wide = federate(owned, dan, allow("*"))
    assert refusal(wide, "CreateCmqTopic", TopicName="t") == "UnauthorizedOperation"
    assert refusal(federate, owned, wide, allow("*")) == "UnsupportedOperation"


def test_root_is_narrowed_by_the_policy_of_its_own_session(owned: Gateway) -> None:
    root = Sdk(owned, owned.root)
    reading = federate(owned, root, allow("batch:DescribeJobs"))
    assert "JobSet" in reading("DescribeJobs")
    assert refusal(reading.submit, task("two", "true")) == "UnauthorizedOperation"


def test_a_temporary_key_is_nothing_without_its_own_token(owned: Gateway) -> None:
    ann = caller(owned, "ann")
    first, second = (
        temporary(ann("AssumeRole", RoleArn=DEPLOYER, RoleSessionName=name))
        for name in ("first", "second")
    )
    for token in ("", "wrong", second.token, first.token[:-1]):
        stolen = Sdk(owned, Credentials(first.secret_id, first.secret_key, token))
        assert refusal(stolen, "GetCallerIdentity") == "AuthFailure.TokenFailure"
    lasting = owned.key_of("ann")
    mixed = Sdk(owned, Credentials(lasting.secret_id, lasting.secret_key, first.token))
    assert refusal(mixed, "GetCallerIdentity") == "AuthFailure.TokenFailure"


def test_a_temporary_key_ends_when_it_was_said_to(owned: Gateway) -> None:
    brief = session(owned, caller(owned, "ann"), DurationSeconds=1)

    def answer() -> str:
        try:
            brief("GetCallerIdentity")
        except Refused as refused:
            return refused.code
        return ""

    assert wait_until(answer, at_most_s=10) == "AuthFailure.TokenFailure"
    over = refusal(session, owned, caller(owned, "ben"), AUDITOR, DurationSeconds=61)
    assert over == "InvalidParameter.OverTimeError"


def test_the_official_command_line_uses_a_session(owned: Gateway) -> None:
    ann = caller(owned, "ann")
    made = temporary(ann("AssumeRole", RoleArn=DEPLOYER_BY_ID, RoleSessionName="tccli"))
    answer = owned.tccli(made, "sts", "GetCallerIdentity")
    assert answer["Arn"] == f"qcs::sts:{OWNER}:assumed-role/{DEPLOYER_ID}"


def test_sessions_outlive_the_gateway_and_not_their_role(owned: Gateway) -> None:
    deployer = session(owned, caller(owned, "ann"))
    job_id = deployer.submit(task("one", "true"))
    owned.kill()
    owned.start()
    assert deployer("DescribeJob", JobId=job_id)["JobId"] == job_id
    before = generation(owned)
    replace_file(owned.policies / "accounts.toml", accounts(roles=""))
    wait_for_generation(owned, before + 1)
    assert refusal(deployer, "DescribeJob", JobId=job_id) == "UnauthorizedOperation"
    assert refusal(deployer, "GetCallerIdentity") == "UnauthorizedOperation"
