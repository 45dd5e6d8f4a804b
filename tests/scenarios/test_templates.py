"""Task templates under policies, on a real gateway: made, shown, changed, used, removed."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tencentcloud.batch.v20170312 import models

from tests.support.policies import OWNER, allow, change_policies, deny, write_policies
from tests.support.running import Gateway, Refused, running_gateway
from tests.support.sdk import Sdk, task

LABELS = [{"Key": "colour", "Value": "red"}, {"Key": "team", "Value": "film"}]


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose policies these tests write."""
    with running_gateway(tmp_path_factory.mktemp("templates")) as running:
        write_policies(running.policies, {})
        yield running


@pytest.fixture(scope="module")
def root(owned: Gateway) -> Sdk:
    return Sdk(owned, owned.root)


@pytest.fixture(scope="module")
def made(root: Sdk) -> tuple[str, str]:
    """Two templates: one open to the user ann, and one that is not."""
    first, second = [make(root, name, Tags=LABELS) for name in ("open", "shut")]
    return first, second


@pytest.fixture(scope="module")
def ann(owned: Gateway, made: tuple[str, str]) -> Sdk:
    """Reads every template but one, changes one alone, makes none."""
    reading = "name/batch:DescribeTaskTemplates"
    changing = ["name/batch:ModifyTaskTemplate", "name/batch:DeleteTaskTemplates"]
    statements = [
        allow(reading, named("*")),
        deny(reading, named(made[1])),
        allow(changing, named(made[0])),
    ]
    change_policies(owned, {"ann": statements, "ben": [allow("name/batch:*Job*")]})
    return Sdk(owned, owned.create_key("ann"))


def named(template: str) -> str:
    return f"qcs::batch:ap-guangzhou:uin/{OWNER}:tasktemplate/{template}"


def make(sdk: Sdk, name: str, **members: Any) -> str:
    info = task("greet", f"echo hello from {name}")
    answer = sdk("CreateTaskTemplate", TaskTemplateName=name, TaskTemplateInfo=info, **members)
    template_id: str = answer["TaskTemplateId"]
    return template_id


def shown(sdk: Sdk, **parameters: Any) -> dict[str, dict[str, Any]]:
    """What DescribeTaskTemplates shows, by id; its total counts it."""
    answer = sdk("DescribeTaskTemplates", **parameters)
    assert answer["TotalCount"] == len(answer["TaskTemplateSet"])
    return {each["TaskTemplateId"]: each for each in answer["TaskTemplateSet"]}


def refusal(call: Callable[[], Any]) -> Refused:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value


def test_a_described_template_runs_as_a_task_of_a_job(root: Sdk, made: tuple[str, str]) -> None:
    template = shown(root)[made[0]]
    assert (template["TaskTemplateName"], template["Tags"]) == ("open", LABELS)
    job_id = root.submit(template["TaskTemplateInfo"])
    assert root.wait(job_id)["JobState"] == "SUCCEED"
    assert root.logs(job_id, "greet") == [("hello from open\n", "")]


def test_the_typed_client_reads_what_it_wrote(root: Sdk) -> None:
    wanted = models.CreateTaskTemplateRequest()
    members = {"TaskTemplateName": "typed", "TaskTemplateInfo": task("a", "true")}
    wanted.from_json_string(json.dumps(members))
    template_id = root.batch.CreateTaskTemplate(wanted).TaskTemplateId
    question = models.DescribeTaskTemplatesRequest()
    question.TaskTemplateIds = [template_id]
    answer = root.batch.DescribeTaskTemplates(question)
    [view] = answer.TaskTemplateSet
    assert (answer.TotalCount, view.TaskTemplateName) == (1, "typed")
    assert view.TaskTemplateInfo.Application.Command == "true"


def test_a_policy_shows_only_some_templates(ann: Sdk, root: Sdk, made: tuple[str, str]) -> None:
    is_open, shut = made
    seen = {*shown(ann)}
    assert is_open in seen
    assert seen == {*shown(root)} - {shut}
    by_tag = [{"Name": "tag:colour", "Values": ["red"]}]
    assert {*shown(root, Filters=by_tag)} == {is_open, shut}
    assert {*shown(ann, Filters=by_tag)} == {is_open}
    assert {*shown(ann, TaskTemplateIds=[is_open])} == {is_open}
    both = refusal(lambda: ann("DescribeTaskTemplates", TaskTemplateIds=[is_open, shut]))
    assert both.code == "UnauthorizedOperation"
    assert named(shut) in both.message


def test_a_policy_lets_one_template_be_changed_and_no_other(
    ann: Sdk, root: Sdk, made: tuple[str, str]
) -> None:
    is_open, shut = made
    before = shown(root)
    ann("ModifyTaskTemplate", TaskTemplateId=is_open, TaskTemplateDescription="changed")
    changed = {**before[is_open], "TaskTemplateDescription": "changed"}
    for call in (
        lambda: ann("ModifyTaskTemplate", TaskTemplateId=shut, TaskTemplateDescription="x"),
        lambda: ann("DeleteTaskTemplates", TaskTemplateIds=[is_open, shut]),
        lambda: make(ann, "third"),
    ):
        assert refusal(call).code == "UnauthorizedOperation"
    assert shown(root) == {**before, is_open: changed}


@pytest.mark.usefixtures("ann")
def test_who_may_do_nothing_with_templates_is_refused_the_list(owned: Gateway) -> None:
    ben = Sdk(owned, owned.create_key("ben"))
    assert refusal(lambda: ben("DescribeTaskTemplates")).code == "UnauthorizedOperation"


def test_a_template_of_another_region_does_not_exist(owned: Gateway, made: tuple[str, str]) -> None:
    elsewhere = Sdk(owned, owned.root, region="ap-beijing")
    assert shown(elsewhere) == {}
    refused = refusal(lambda: elsewhere("DeleteTaskTemplates", TaskTemplateIds=[made[0]]))
    assert refused.code == "ResourceNotFound.TaskTemplate"


def test_templates_outlive_a_restart_and_are_gone_once_deleted(owned: Gateway, root: Sdk) -> None:
    gone = [make(root, name) for name in ("one", "two")]
    before = shown(root)
    owned.kill()
    owned.start()
    assert shown(root) == before
    root("DeleteTaskTemplates", TaskTemplateIds=gone)
    assert shown(root) == {each: before[each] for each in before if each not in gone}
