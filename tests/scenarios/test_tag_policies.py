"""Policies on tags and on the maker, on a real gateway: a list shows what each decision allows."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.policies import allow, change_policies, deny, write_policies
from tests.support.running import Gateway, Refused, running_gateway
from tests.support.sdk import PLACEMENT, SMALL, Sdk, task

TEAM = {"for_any_value:string_equal": {"qcs:resource_tag": ["team&blue", "team&green"]}}
SECRET = {"string_equal_if_exist": {"qcs:tag/secret": "yes"}}
OWN = {"string_equal": {"qcs:create_uin": "${uin}"}}
YOUNG = {"numeric_less_than": {"qcs:tag/level": 5}}
EVERYTHING = allow("name/batch:*")
POLICIES = {
    "maker": [EVERYTHING],
    "teamed": [{**EVERYTHING, "condition": TEAM}],
    "careful": [EVERYTHING, {**deny("name/batch:*"), "condition": SECRET}],
    "own": [{**EVERYTHING, "condition": OWN}, allow(["name/batch:Submit*", "name/batch:Create*"])],
    "young": [{**EVERYTHING, "condition": YOUNG}],
    "elder": [EVERYTHING, {**deny("name/batch:*"), "condition": YOUNG}],
}
MADE: dict[str, dict[str, str]] = {
    "plain": {},
    "blue": {"team": "blue"},
    "red": {"team": "red", "secret": "no"},
    "green": {"team": "green", "secret": "yes", "level": "3"},
    "unread": {"level": "high", "secret": "no"},
    "own": {},  # made by the user of that name, the others by `maker`
}
IDS = {"Job": "JobId", "ComputeEnv": "EnvId"}
SHOWN = {
    "maker": set(MADE),
    "teamed": {"blue", "green"},
    "careful": {"red", "unread"},  # `_if_exist` holds for what has no such tag
    "own": {"own"},
    "young": {"green"},
    "elder": {"plain", "blue", "red", "own"},  # a deny that cannot be judged applies
}


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with the users of POLICIES."""
    with running_gateway(tmp_path_factory.mktemp("tags")) as running:
        write_policies(running.policies, {})
        yield running


@pytest.fixture(scope="module")
def callers(owned: Gateway) -> dict[str, Sdk]:
    change_policies(owned, POLICIES)
    return {name: Sdk(owned, owned.create_key(name)) for name in POLICIES}


@pytest.fixture(scope="module")
def made(callers: dict[str, Sdk]) -> dict[str, dict[str, str]]:
    """For jobs and for environments: ids by the names of MADE."""
    found: dict[str, dict[str, str]] = {"Job": {}, "ComputeEnv": {}}
    for name, labels in MADE.items():
        maker = callers["own" if name == "own" else "maker"]
        tags = [{"Key": key, "Value": value} for key, value in labels.items()]
        found["Job"][name] = maker.submit(task("a", "true"), Tags=tags)
        env = {"EnvName": name, "DesiredComputeNodeCount": 0, "Tags": tags, **SMALL}
        answer = maker("CreateComputeEnv", ComputeEnv=env, Placement=PLACEMENT)
        found["ComputeEnv"][name] = answer["EnvId"]
    return found


@pytest.mark.parametrize("kind", IDS)
@pytest.mark.parametrize("user", POLICIES)
def test_a_list_shows_what_may_be_described_one_by_one(
    user: str, kind: str, callers: dict[str, Sdk], made: dict[str, dict[str, str]]
) -> None:
    caller, ids = callers[user], made[kind]
    one_by_one = {name for name in ids if may(caller, f"Describe{kind}", **{IDS[kind]: ids[name]})}
    assert one_by_one == SHOWN[user]
    answer = caller(f"Describe{kind}s")
    assert {each[IDS[kind]] for each in answer[f"{kind}Set"]} == {ids[name] for name in one_by_one}
    assert answer["TotalCount"] == len(one_by_one)


def may(caller: Sdk, action: str, **parameters: Any) -> bool:
    try:
        caller(action, **parameters)
    except Refused as refused:
        if refused.code != "UnauthorizedOperation":
            raise
        return False
    return True
