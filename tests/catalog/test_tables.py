"""The tables against the vendor's own: actions, parameters and error codes."""

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from tencentcloud.batch.v20170312 import errorcodes as batch_codes
from tencentcloud.tdmq.v20200217 import errorcodes as tdmq_codes

from gateway.catalog import (
    ACTIONS,
    CLASSIC,
    UNBUILT,
    Access,
    Action,
    find,
    service_of_version,
)
from gateway.catalog.resources import Form, Placeholder
from gateway.errors import InvalidAction, NoSuchProduct, NoSuchVersion

OURS = {"CreateCpmComputeEnv", "DescribeEvents"}  # of Batch: one was official, one never
SECRETS = {"RevealCmqSubscriptionSecret", "RotateCmqSubscriptionSecret"}  # ours, of tdmq
OFFICIAL = [a for a in ACTIONS if a.version != CLASSIC and a.name not in OURS | SECRETS]
NUMBERS = {"int64", "uint64"}


def official_api(service: str, version: str) -> Any:
    folder = "v" + version.replace("-", "")
    return json.loads(files("tccli").joinpath("services", service, folder, "api.json").read_text())


API = {
    (a.service, a.version): official_api(a.service, a.version)
    for a in ACTIONS
    if a.version != CLASSIC
}


def placeholders(action: Action) -> Iterator[Placeholder]:
    paths = [path for group in action.resource.named for path in group]
    for path in (*paths, *action.resource.deny_only):
        yield from path.placeholders


def names(service: str, version: str) -> set[str]:
    return {a.name for a in ACTIONS if (a.service, a.version) == (service, version)}


def test_every_action_of_batch_sts_and_the_new_cmq_is_in_the_catalogue_and_no_other() -> None:
    for service, version, more in (
        ("batch", "2017-03-12", OURS),
        ("sts", "2018-08-13", set()),
        ("cmq", "2019-03-04", set()),
    ):
        assert names(service, version) == set(API[service, version]["actions"]) | more


def test_the_tdmq_actions_are_the_official_cmq_ones_and_two_of_our_own() -> None:
    official = {name for name in API["tdmq", "2020-02-17"]["actions"] if "Cmq" in name}
    assert names("tdmq", "2020-02-17") == official | SECRETS


def test_showing_a_secret_is_no_reading() -> None:
    assert {a.access for a in ACTIONS if a.name in SECRETS} == {Access.WRITE}


def test_every_cam_action_exists_but_our_own() -> None:
    assert names("cam", "2019-01-16") - set(API["cam", "2019-01-16"]["actions"]) == {
        "DescribeDecision"
    }


OLD_SPELLINGS = {"notifications", "topic_name"}  # of the user guide, accepted from raw callers


@pytest.mark.parametrize("action", OFFICIAL, ids=lambda a: f"{a.service}:{a.name}")
def test_every_parameter_that_names_a_resource_exists_and_has_that_type(action: Action) -> None:
    api = API[action.service, action.version]
    for placeholder in placeholders(action):
        if {step.name for step in placeholder.steps} & OLD_SPELLINGS:
            continue
        kind = api["actions"][action.name]["input"]
        for step in placeholder.steps:
            members = {m["name"]: m for m in api["objects"][kind]["members"]}
            assert step.name in members
            assert (members[step.name]["type"] == "list") is step.is_list
            kind = members[step.name]["member"]
        assert (kind in NUMBERS) is (placeholder.form is Form.NUMBER)


@pytest.mark.parametrize(
    ("service", "module"), [("batch", batch_codes), ("tdmq", tdmq_codes)], ids=["batch", "tdmq"]
)
def test_every_error_code_is_one_the_sdk_knows(service: str, module: object) -> None:
    removed = {  # they went with CreateCpmComputeEnv
        "InternalError.CpmResponseDataEmpty",
        "InvalidParameterValue.OsTypeId",
        "InvalidParameterValue.RegionNotSupportCpm",
    }
    known = {value for value in vars(module).values() if isinstance(value, str)} | removed
    listed = {code for a in ACTIONS if a.service == service for code in a.errors}
    assert listed <= known


def test_every_official_error_code_of_batch_belongs_to_an_action() -> None:
    known = {v for k, v in vars(batch_codes).items() if k.isupper()}
    listed = {code for a in ACTIONS if a.service == "batch" for code in a.errors}
    assert known <= listed


def test_no_action_lists_a_code_twice_and_all_codes_have_the_public_form() -> None:
    for action in ACTIONS:
        assert len(set(action.errors)) == len(action.errors)
        assert all(re.fullmatch(r"[A-Z]\w+(\.[A-Z]\w+)?", code) for code in action.errors)


def test_the_codes_of_policy_documents_stand_for_themselves_in_create_policy() -> None:
    errors = find("cam", "2019-01-16", "CreatePolicy").errors
    assert "InvalidParameter.PolicyDocumentLengthOverLimit" in errors
    assert "DOCUMENT" not in errors


def test_only_describing_is_reading_in_batch() -> None:
    for action in ACTIONS:
        if action.service == "batch":
            assert (action.access is Access.READ) is action.name.startswith("Describe")


def test_four_actions_of_batch_two_of_each_cmq_and_our_own_are_lists() -> None:
    assert {a.name for a in ACTIONS if a.is_list} == {
        "DescribeDecision",
        "DescribeEvents",
        "DescribeCmqQueues",
        "DescribeCmqTopics",
        "DescribeJobs",
        "DescribeComputeEnvs",
        "DescribeComputeEnvCreateInfos",
        "DescribeTaskTemplates",
        "ListQueue",
        "ListTopic",
    }


def test_no_action_is_in_the_catalogue_twice() -> None:
    assert len({(a.service, a.version, a.name) for a in ACTIONS}) == len(ACTIONS)
    assert len({(a.service, a.name) for a in ACTIONS}) == len(ACTIONS)


def test_what_is_not_built_is_in_the_catalogue() -> None:
    assert {(a.service, a.name) for a in ACTIONS} >= UNBUILT


def test_an_action_is_found_by_its_name_with_either_first_letter() -> None:
    assert find("batch", "2017-03-12", "SubmitJob").name == "SubmitJob"
    assert find("batch", "2017-03-12", "submitJob").name == "SubmitJob"


@pytest.mark.parametrize("name", ["FooBar", "", "SUBMITJOB", "submitjob", "\u017fubmitJob"])
def test_an_unknown_action_is_an_invalid_action(name: str) -> None:
    with pytest.raises(InvalidAction) as caught:
        find("batch", "2017-03-12", name)
    assert caught.value.message == "The request `Action` is invalid or not found."


def test_an_unknown_version_and_an_unknown_product_are_told_apart() -> None:
    with pytest.raises(NoSuchVersion):
        find("batch", "2099-01-01", "SubmitJob")
    with pytest.raises(NoSuchProduct):
        find("cvm", "2017-03-12", "RunInstances")


def test_an_action_of_another_version_of_the_service_is_not_found() -> None:
    assert find("cmq", CLASSIC, "SendMessage").policy_action == "tdmq:SendCmqMsg"
    with pytest.raises(InvalidAction):
        find("cmq", "2019-03-04", "SendMessage")


def test_a_version_tells_its_service_and_the_classic_api_has_none() -> None:
    assert service_of_version("2017-03-12") == "batch"
    assert service_of_version("2020-02-17") == "tdmq"
    assert service_of_version("2019-03-04") == "cmq"
    assert service_of_version(CLASSIC) is None
    assert service_of_version("") is None


def test_a_classic_action_is_decided_under_the_name_of_the_new_api_where_there_is_one() -> None:
    known = names("tdmq", "2020-02-17")
    own = {
        a.name
        for a in ACTIONS
        if a.version == CLASSIC and a.policy_action.removeprefix("tdmq:") not in known
    }
    assert own == {"ReceiveMessage", "BatchReceiveMessage", "DeleteMessage", "BatchDeleteMessage"}
