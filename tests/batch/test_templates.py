"""Task templates: kept, shown, changed and removed; on every kind of database."""

from typing import Any

import anyio
import pytest
from sqlalchemy import select

from gateway.batch.tables import tag, task_template
from gateway.call import Clause, Principal, Scope
from gateway.catalog import find
from gateway.errors import ApiError
from gateway.store import Store
from tests.batch.test_datatypes import API
from tests.support.batch import ELASTIC, OWNER, REGION, ROOT, Batch, a_task

pytestmark = pytest.mark.anyio
ALICE = Principal(OWNER, "100000000101", "alice")
OTHER_ACCOUNT = Principal("200000000002", "200000000002", "root")
COS = "cos://demo-1250000000.cos.ap-guangzhou.myqcloud.com/logs/"
ABSENT = "task-tmpl-00000000"
VALUE = "InvalidParameterValue"


def a_template(name: str = "t", *, info: Any = None, **members: Any) -> dict[str, Any]:
    """A template as a caller writes it."""
    task = a_task() if info is None else info
    return {"TaskTemplateName": name, "TaskTemplateInfo": task, **members}


def tags(**pairs: str) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in pairs.items()]


async def create(batch: Batch, *args: str, who: Principal = ROOT, **members: Any) -> str:
    answer = await batch.call("CreateTaskTemplate", who=who, **a_template(*args, **members))
    return str(answer["TaskTemplateId"])


async def shown(batch: Batch, **params: Any) -> dict[str, dict[str, Any]]:
    """What DescribeTaskTemplates shows, by id; its total counts it."""
    answer = await batch.call("DescribeTaskTemplates", **params)
    assert answer["TotalCount"] == len(answer["TaskTemplateSet"])
    return {each["TaskTemplateId"]: each for each in answer["TaskTemplateSet"]}


async def code_of(batch: Batch, action: str, **params: Any) -> str:
    with pytest.raises(ApiError) as caught:
        await batch.call(action, **params)
    return caught.value.code


def given(value: Any) -> Any:
    """What is left of an answer without the members that the caller left out."""
    if isinstance(value, dict):
        return {name: given(each) for name, each in value.items() if each not in (None, [])}
    return [given(each) for each in value] if isinstance(value, list) else value


async def test_a_template_is_given_back_as_it_was_created(batch: Batch) -> None:
    task = a_task("render", 3, MaxRetryCount=2, EnvVars=[{"Name": "A", "Value": "<&'\\\n"}])
    labels = tags(team="film", cost="7")
    template_id = await create(batch, "模板 ü", info=task, TaskTemplateDescription="d", Tags=labels)
    assert template_id.startswith("task-tmpl-")
    view = (await shown(batch))[template_id]
    assert [member["name"] for member in API["objects"]["TaskTemplateView"]["members"]] == [*view]
    assert view.pop("CreateTime").endswith("Z")
    assert sorted(view.pop("Tags"), key=str) == sorted(labels, key=str)
    assert given(view) == {
        "TaskTemplateId": template_id,
        "TaskTemplateName": "模板 ü",
        "TaskTemplateDescription": "d",
        "TaskTemplateInfo": task,
    }


async def test_what_is_left_out_of_a_template_is_not_filled_in(batch: Batch) -> None:
    bare = {"Application": {"DeliveryForm": "LOCAL", "Command": "true"}, "ComputeEnv": ELASTIC}
    template_id = await create(batch, info=bare)
    view = (await shown(batch))[template_id]
    assert (view["TaskTemplateDescription"], view["Tags"]) == ("", [])
    assert given(view["TaskTemplateInfo"]) == bare


async def test_a_job_can_be_made_of_a_described_template(batch: Batch) -> None:
    template_id = await create(batch, info=a_task("a", 2))
    view = (await shown(batch))[template_id]
    job_id = await batch.submit(view["TaskTemplateInfo"])
    assert len(await batch.instances(job_id)) == 2


async def test_a_template_knows_who_made_it(store: Store, batch: Batch) -> None:
    template_id = await create(batch, who=ALICE)
    [row] = await store.read_list(lambda tx: tx.execute(select(task_template)).all())
    assert (row.id, row.owner_uin, row.created_by) == (template_id, OWNER, ALICE.uin)


async def test_no_password_of_a_template_is_kept(store: Store, batch: Batch) -> None:
    login = {**ELASTIC["EnvData"], "LoginSettings": {"Password": "B1habcd"}}
    secret = a_task(ComputeEnv={"EnvData": login})
    created = await create(batch, info=secret)
    modified = await create(batch)
    await batch.call("ModifyTaskTemplate", TaskTemplateId=modified, TaskTemplateInfo=secret)
    rows = await store.read_list(lambda tx: tx.execute(select(task_template.c.spec)).all())
    assert [b"B1habcd" in row.spec for row in rows] == [False, False]
    for view in (await shown(batch, TaskTemplateIds=[created, modified])).values():
        data = view["TaskTemplateInfo"]["ComputeEnv"]["EnvData"]
        assert set(data["LoginSettings"]["Password"]) == {"*"}


@pytest.mark.parametrize(
    "change",
    [
        {"TaskTemplateName": "new"},
        {"TaskTemplateDescription": "new"},
        {"TaskTemplateDescription": ""},
        {"TaskTemplateInfo": {**a_task("new"), "MaxRetryCount": 1}},
        {"TaskTemplateName": "n", "TaskTemplateDescription": "", "TaskTemplateInfo": a_task("b")},
    ],
    ids=["name", "description", "no-description", "task", "all"],
)
async def test_modifying_changes_what_is_given_of_one_template_and_nothing_else(
    batch: Batch, change: dict[str, Any]
) -> None:
    old = a_task("old", MaxRetryCount=3, Timeout=60)
    changed, other = [
        await create(batch, name, info=old, TaskTemplateDescription="old", Tags=tags(k="v"))
        for name in ("changed", "other")
    ]
    before = given(await shown(batch))
    assert await batch.call("ModifyTaskTemplate", TaskTemplateId=changed, **change) == {}
    expected = {changed: {**before[changed], **change}, other: before[other]}
    assert given(await shown(batch)) == expected


async def test_templates_are_deleted_all_or_none_and_their_tags_with_them(
    store: Store, batch: Batch
) -> None:
    first, second, third = [await create(batch, Tags=tags(k="v")) for _ in range(3)]
    foreign = await create(batch, who=OTHER_ACCOUNT)
    before = await shown(batch)
    for ids, code in [
        ([first, ABSENT], "ResourceNotFound.TaskTemplate"),
        ([foreign, first], "ResourceNotFound.TaskTemplate"),
        ([first, second, "task-tmpl-1"], "InvalidParameter.TaskTemplateIdMalformed"),
        ([], VALUE),
        ([first] * 101, VALUE),
    ]:
        assert await code_of(batch, "DeleteTaskTemplates", TaskTemplateIds=ids) == code
    assert await shown(batch) == before
    await batch.call("DeleteTaskTemplates", TaskTemplateIds=[second, first, second])
    assert [*await shown(batch)] == [third]
    assert [*await shown(batch, who=OTHER_ACCOUNT)] == [foreign]
    left = await store.read_list(lambda tx: tx.execute(select(tag.c.resource_id)).scalars().all())
    assert left == [third]
    again = await code_of(batch, "DeleteTaskTemplates", TaskTemplateIds=[first])
    assert again == "ResourceNotFound.TaskTemplate"


async def test_a_template_is_deleted_by_one_of_those_who_try_at_once(batch: Batch) -> None:
    ids = [await create(batch) for _ in range(4)]
    refused: list[str] = []

    async def delete(order: list[str]) -> None:
        try:
            await batch.call("DeleteTaskTemplates", TaskTemplateIds=order)
        except ApiError as error:
            refused.append(error.code)

    async with anyio.create_task_group() as tasks:
        for order in (ids, ids[::-1], ids[2:] + ids[:2]):
            tasks.start_soon(delete, order)
    assert refused == ["ResourceNotFound.TaskTemplate"] * 2
    assert await shown(batch) == {}


async def test_another_accounts_or_regions_template_does_not_exist(batch: Batch) -> None:
    template_id = await create(batch)
    before = await shown(batch)
    for who, region in [(OTHER_ACCOUNT, REGION), (ROOT, "ap-beijing")]:
        place: dict[str, Any] = {"who": who, "region": region}
        assert await shown(batch, **place) == {}
        assert await shown(batch, **place, TaskTemplateIds=[template_id]) == {}
        cases: list[tuple[str, dict[str, Any]]] = [
            ("ModifyTaskTemplate", {"TaskTemplateId": template_id, "TaskTemplateName": "x"}),
            ("DeleteTaskTemplates", {"TaskTemplateIds": [template_id]}),
        ]
        for action, params in cases:
            code = await code_of(batch, action, **place, **params)
            assert code == "ResourceNotFound.TaskTemplate"
    assert await shown(batch) == before


WRONG_TEXTS: list[tuple[str, dict[str, Any]]] = [
    ("InvalidParameter.TaskTemplateName", {"TaskTemplateName": ""}),
    ("InvalidParameter.TaskTemplateName", {"TaskTemplateName": "a\nb"}),
    ("InvalidParameter.TaskTemplateNameTooLong", {"TaskTemplateName": "x" * 61}),
    ("InvalidParameter.TaskTemplateDescriptionTooLong", {"TaskTemplateDescription": "x" * 201}),
]
WRONG_TASKS: list[tuple[str, dict[str, Any]]] = [
    ("AllowedOneAttributeInEnvIdAndComputeEnv", a_task(ComputeEnv=None)),
    (
        "AllowedOneAttributeInEnvIdAndComputeEnv",
        {**a_task(EnvId="env-00000001"), "ComputeEnv": ELASTIC},
    ),
    ("InvalidParameter.CvmParameters", a_task(ComputeEnv={"EnvData": {"InstanceType": "HUGE"}})),
    ("InvalidParameter.EnvIdMalformed", a_task(EnvId="env-1")),
    ("InvalidParameter.ImageIdMalformed", a_task(ComputeEnv={"EnvData": {"ImageId": "img-1"}})),
    ("InvalidParameter.TaskName", a_task("a b")),
    ("InvalidParameter.TaskNameTooLong", a_task("a" * 61)),
    (f"{VALUE}.ComputeEnv", a_task(ComputeEnv={})),
    (f"{VALUE}.LocalPath", a_task(RedirectInfo={"StdoutRedirectFileName": "../x"})),
    (f"{VALUE}.MaxRetryCount", a_task(MaxRetryCount=101)),
    (f"{VALUE}.Negative", a_task(instances=-1)),
    (f"{VALUE}.RemoteStoragePath", a_task(RedirectInfo={"StdoutRedirectPath": COS.rstrip("/")})),
    (
        f"{VALUE}.RemoteStorageSchemeType",
        a_task(RedirectInfo={"StdoutRedirectPath": "s3://bucket/"}),
    ),
    (
        "InvalidParameterValue.RemoteStorageSchemeType",
        a_task(InputMappings=[{"SourcePath": "x", "DestinationPath": "/"}]),
    ),
    (
        "InvalidParameterValue.LocalPath",
        a_task(InputMappings=[{"SourcePath": "cfs://10.0.0.1/", "DestinationPath": "/"}]),
    ),
    (f"{VALUE}.TaskInstanceNum", a_task(instances=0)),
    ("MissingParameter", {"TaskName": "a", "ComputeEnv": ELASTIC}),
    ("UnknownParameter", a_task(Nonsense=1)),
    ("InvalidParameter", a_task(MaxRetryCount="often")),
]
WRONG_TAGS: list[tuple[str, dict[str, Any]]] = [
    (VALUE, {"Tags": tags(**{f"k{n}": "" for n in range(11)})}),
    (VALUE, {"Tags": tags(k="1") + tags(k="2")}),
    (VALUE, {"Tags": [{"Key": "", "Value": "v"}]}),
]
WRONG = [*WRONG_TEXTS, *[(code, {"TaskTemplateInfo": task}) for code, task in WRONG_TASKS]]


async def test_a_wrong_template_is_refused_with_its_public_code_and_not_kept(batch: Batch) -> None:
    for code, members in [
        *WRONG,
        *WRONG_TAGS,
        ("MissingParameter", {"TaskTemplateName": None}),
        ("UnknownParameter", {"ClientToken": "t"}),  # this action has none
    ]:
        params = {k: v for k, v in {**a_template(), **members}.items() if v is not None}
        assert await code_of(batch, "CreateTaskTemplate", **params) == code, members
    assert await shown(batch) == {}


async def test_a_wrong_change_is_refused_with_its_public_code_and_changes_nothing(
    batch: Batch,
) -> None:
    template_id = await create(batch)
    before = await shown(batch)
    name = {"TaskTemplateName": "new"}
    for code, members in [
        *[(code, {**name, **members}) for code, members in WRONG],
        ("InvalidParameterAtLeastOneAttribute", {}),
        ("ResourceNotFound.TaskTemplate", {**name, "TaskTemplateId": ABSENT}),
        ("InvalidParameter.TaskTemplateIdMalformed", {**name, "TaskTemplateId": "job-00000000"}),
        ("InvalidParameter.TaskTemplateIdMalformed", {**name, "TaskTemplateId": f"{ABSENT}\n"}),
        ("UnknownParameter", {**name, "Tags": []}),
    ]:
        params = {"TaskTemplateId": template_id, **members}
        assert await code_of(batch, "ModifyTaskTemplate", **params) == code, members
    assert await shown(batch) == before


NEVER = {
    "InternalError",
    "InternalError.CallTagAPI",  # tags are kept here, by nobody else
    f"{VALUE}.DependenceNotFoundTaskName",  # a task alone depends on none
    f"{VALUE}.DependenceUnfeasible",
    f"{VALUE}.InvalidDataTypeAny",  # no member of a task has this type
    "LimitExceeded.TaskTemplateQuota",  # there are no quotas yet
}
MODIFY_ALONE = {
    "InvalidParameter.TaskTemplateIdMalformed",
    "InvalidParameterAtLeastOneAttribute",
    "ResourceNotFound.TaskTemplate",
}


@pytest.mark.parametrize("action", ["CreateTaskTemplate", "ModifyTaskTemplate"])
def test_every_documented_code_is_provoked_above_or_can_never_be(action: str) -> None:
    documented = set(find("batch", "2017-03-12", action).errors)
    assert documented <= {code for code, _ in WRONG} | MODIFY_ALONE | NEVER


async def test_templates_are_listed_newest_first_and_page_by_page(batch: Batch) -> None:
    made = [await create(batch, f"t{n}") for n in range(5)]
    assert [*await shown(batch)] == made[::-1]
    pages = [
        await batch.call("DescribeTaskTemplates", Offset=offset, Limit=2) for offset in (0, 2, 4, 6)
    ]
    found = [[each["TaskTemplateId"] for each in page["TaskTemplateSet"]] for page in pages]
    assert found == [made[:2:-1], made[2:0:-1], made[:1], []]
    assert [page["TotalCount"] for page in pages] == [5] * 4


async def test_templates_are_found_by_id_by_name_and_by_tag(batch: Batch) -> None:
    red = await create(batch, "red", Tags=tags(colour="red", team="film"))
    blue = await create(batch, "blue", Tags=tags(colour="blue"))
    plain = await create(batch, "red")
    assert {*await shown(batch, TaskTemplateIds=[plain, blue, ABSENT])} == {plain, blue}
    for name, values, expected in [
        ("task-template-name", ["red"], {red, plain}),
        ("task-template-name", ["re%", "RED"], set()),
        ("tag-key", ["team", "colour"], {red, blue}),
        ("tag-value", ["blue"], {blue}),
        ("tag:colour", ["red"], {red}),
        ("tag:team", ["red"], set()),
    ]:
        one = {"Name": name, "Values": values}
        assert {*await shown(batch, Filters=[one])} == expected, one
        assert {*await shown(batch, Filters=one)} == expected, one
    both = [{"Name": "task-template-name", "Values": ["red"]}, {"Name": "tag-key", "Values": []}]
    assert await shown(batch, Filters=both) == {}


async def test_a_list_of_templates_shows_what_the_policy_lets_be_seen(batch: Batch) -> None:
    first, second, third = [await create(batch) for _ in range(3)]

    async def seen(*allow: str, deny: str | None = None) -> set[str]:
        denied = () if deny is None else (Clause(deny),)
        scope = Scope(allow=(tuple(map(Clause, allow)),), deny=denied)
        return {*await shown(batch, scope=scope)}

    assert await seen("task-tmpl-*") == {first, second, third}
    assert await seen(first, third) == {first, third}
    assert await seen("*", deny=second) == {first, third}
    assert await seen("job-*") == set()
    assert await seen() == set()


async def test_what_a_list_of_templates_cannot_do_is_refused(batch: Batch) -> None:
    one = {"Name": "task-template-name", "Values": ["x"]}
    cases: list[tuple[str, dict[str, Any]]] = [
        (
            "InvalidParameter.InvalidParameterCombination",
            {"TaskTemplateIds": [ABSENT], "Filters": [one]},
        ),
        ("InvalidParameter.TaskTemplateIdMalformed", {"TaskTemplateIds": [ABSENT, "task-tmpl-1"]}),
        (VALUE, {"TaskTemplateIds": [f"task-tmpl-{n:08}" for n in range(101)]}),
        (VALUE, {"Limit": 0}),
        (VALUE, {"Limit": 101}),
        (f"{VALUE}.Negative", {"Limit": -1}),
        (f"{VALUE}.Negative", {"Offset": -1}),
        ("InvalidFilter", {"Filters": [{"Name": "zone", "Values": ["x"]}]}),
        ("UnknownParameter", {"TaskTemplateName": "x"}),
    ]
    for code, params in cases:
        assert await code_of(batch, "DescribeTaskTemplates", **params) == code, params
