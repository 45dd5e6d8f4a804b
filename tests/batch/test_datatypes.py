"""The wire structures against the vendor's own, and what older and rawer callers send."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch import datatypes
from gateway.batch.datatypes import (
    CreateComputeEnvRequest,
    DescribeJobsRequest,
    DescribeJobSubmitInfoResponse,
    Job,
    SubmitJobRequest,
    Task,
    TaskMetrics,
    TaskView,
    prepare_create_compute_env,
    prepare_filters,
    prepare_submit_job,
)
from gateway.catalog import UNBUILT
from gateway.errors import ApiError, InvalidParameter, MissingParameter, UnknownParameter
from gateway.service import Empty, Wire, decode

FOLDER = files("tccli").joinpath("services", "batch", "v20170312")
API = json.loads(FOLDER.joinpath("api.json").read_text())
EXAMPLES = json.loads(FOLDER.joinpath("examples.json").read_text())["actions"]
ACTIONS = tuple(action for action in EXAMPLES if ("batch", action) not in UNBUILT)
STRUCTURES = sorted(
    (
        value
        for value in vars(datatypes).values()
        if isinstance(value, type) and issubclass(value, Wire) and value not in {Wire, Empty}
    ),
    key=lambda structure: structure.__name__,
)


def structure(name: str) -> type[Wire]:
    found: type[Wire] = getattr(datatypes, name)
    return found


def answer_to(action: str) -> type[Wire]:
    """What answers an action; Empty if none is written down for it."""
    if action == "DescribeComputeEnvCreateInfo":
        return datatypes.ComputeEnvCreateInfo
    found: type[Wire] = getattr(datatypes, f"{action}Response", Empty)
    return found


def official_members(name: str) -> list[dict[str, Any]]:
    return [m for m in API["objects"][name]["members"] if m["name"] != "RequestId"]


def read_example(text: str) -> dict[str, Any]:
    """The parameters of an official example, written as a GET query or as a POST."""
    if text.startswith("POST"):
        posted: dict[str, Any] = json.loads(text.partition("\n\n")[2])
        return posted
    params: dict[str, Any] = {}
    for pair in text.replace("\r", "").split("\n&")[1:]:
        name, _, value = pair.partition("=")
        if not name.startswith("<"):
            _insert(params, name.split("."), value)
    lists: dict[str, Any] = _with_lists(params)
    return lists


def _insert(into: dict[str, Any], steps: list[str], value: str) -> None:
    for step in steps[:-1]:
        into = into.setdefault(step, {})
    into[steps[-1]] = value


def _with_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "0" in value:
        return [_with_lists(element) for element in value.values()]
    return {name: _with_lists(member) for name, member in value.items()}


def examples(side: str) -> list[Any]:
    return [
        pytest.param(name, example[side], id=f"{name}-{number}")
        for name in ACTIONS
        for number, example in enumerate(EXAMPLES[name])
    ]


@pytest.mark.parametrize("kind", STRUCTURES, ids=lambda kind: kind.__name__)
def test_the_members_are_the_official_ones_in_name_and_order(kind: type[Wire]) -> None:
    official = [m["name"] for m in official_members(kind.__name__)]
    assert list(kind.__struct_encode_fields__) == official


@pytest.mark.parametrize("name", ACTIONS)
def test_every_served_action_has_its_request_and_its_response(name: str) -> None:
    asked = [m["name"] for m in official_members(f"{name}Request")]
    assert list(structure(f"{name}Request").__struct_encode_fields__) == asked
    answered = [m["name"] for m in official_members(f"{name}Response")]
    assert list(answer_to(name).__struct_encode_fields__) == answered


@pytest.mark.parametrize("kind", STRUCTURES, ids=lambda kind: kind.__name__)
def test_what_the_api_requires_is_required_except_event_vars(kind: type[Wire]) -> None:
    needed = {f.encode_name for f in msgspec.structs.fields(kind) if f.required}
    official = {m["name"] for m in official_members(kind.__name__) if m.get("required")}
    assert official - {"EventVars"} <= needed


@pytest.mark.parametrize(("name", "text"), examples("input"))
def test_every_official_request_is_understood(name: str, text: str) -> None:
    params = read_example(text)
    assert params or not official_members(f"{name}Request")
    decoded = decode(params, structure(f"{name}Request"))
    echo = msgspec.to_builtins(decoded)
    assert set(params) <= set(echo)


@pytest.mark.parametrize(("name", "text"), examples("output"))
def test_every_official_answer_could_be_ours(name: str, text: str) -> None:
    members = json.loads(text)["Response"]
    del members["RequestId"]
    kind = answer_to(name)
    encoded = msgspec.to_builtins(msgspec.convert(members, kind))
    assert {member: encoded[member] for member in members}.keys() == members.keys()


def test_the_query_form_of_an_example_keeps_numbers_as_numbers() -> None:
    request = decode(read_example(EXAMPLES["SubmitJob"][0]["input"]), SubmitJobRequest)
    assert request.job.priority == 1
    assert request.job.tasks[0].task_instance_num == 1
    assert request.job.tasks[0].application.command == "sleep 10"


def minimal_task(**members: Any) -> dict[str, Any]:
    return {"Application": {"DeliveryForm": "LOCAL", "Command": "true"}, **members}


def submission(**members: Any) -> dict[str, Any]:
    return {"Placement": {"Zone": "ap-guangzhou-2"}, "Job": {"Tasks": [minimal_task()], **members}}


def test_numbers_and_booleans_may_be_strings() -> None:
    internet = {"PublicIpAssigned": "TRUE", "InternetMaxBandwidthOut": "5"}
    task = minimal_task(
        MaxRetryCount="3",
        RestartComputeNode="TRUE",
        ComputeEnv={"EnvData": {"InternetAccessible": internet}},
    )
    job = decode(submission(Priority="1", Tasks=[task]), SubmitJobRequest).job
    assert job.priority == 1
    assert (job.tasks[0].max_retry_count, job.tasks[0].restart_compute_node) == (3, True)
    env = job.tasks[0].compute_env
    assert env is not None
    assert env.env_data is not None
    assert env.env_data.internet_accessible is not None
    assert env.env_data.internet_accessible.public_ip_assigned is True


@pytest.mark.parametrize("priority", ["high", "", "1.5", 2**63, "9" * 30, [1], {}])
def test_what_is_no_number_is_refused_with_its_place(priority: object) -> None:
    with pytest.raises(InvalidParameter, match=r"`Job\.Priority`"):
        decode(submission(Priority=priority), SubmitJobRequest)


def test_an_unknown_and_a_missing_member_are_named_with_their_place() -> None:
    with pytest.raises(UnknownParameter, match=r"`Job\.Nonsense`"):
        decode(submission(Nonsense=1), SubmitJobRequest)
    with pytest.raises(MissingParameter, match=r"`Job\.Tasks\[0\]\.Application`"):
        decode(submission(Tasks=[{}]), SubmitJobRequest)


def test_a_task_is_given_back_as_it_was_submitted_and_nothing_is_filled_in() -> None:
    task = decode(minimal_task(TaskName="A", MaxRetryCount=0), Task)
    answer = DescribeJobSubmitInfoResponse(
        job_id="job-97zcl3wt",
        job_name="",
        job_description="",
        priority=0,
        tasks=[task],
        dependences=[],
        tags=[],
    )
    echo = json.loads(msgspec.json.encode(answer))["Tasks"][0]
    given_back = {name: value for name, value in echo.items() if value not in (None, [])}
    assert given_back == {
        "Application": {
            "DeliveryForm": "LOCAL",
            "Command": "true",
            "PackagePath": None,
            "Docker": None,
            "Commands": [],
        },
        "TaskName": "A",
        "MaxRetryCount": 0,
    }


def test_two_jobs_do_not_share_their_empty_lists() -> None:
    first, second = Job(tasks=[]), Job(tasks=[])
    first.tags.append(datatypes.Tag(key="k", value="v"))
    assert second.tags == []


def test_an_answer_has_all_members_also_the_empty_ones() -> None:
    view = TaskView(task_name="A", task_state="RUNNING", create_time="t", end_time=None)
    assert json.loads(msgspec.json.encode(view))["EndTime"] is None
    assert set(json.loads(msgspec.json.encode(TaskMetrics())).values()) == {0}


PASCAL = {
    "TopicName": "job-message",
    "EventConfigs": [
        {"EventName": "JobFailed"},
        {"EventName": "JobSucceed", "EventVars": [{"Name": "jobSucceed", "Value": "Success"}]},
    ],
}
SNAKE = {
    "topic_name": "job-message",
    "event_configs": [
        {"event_name": "JobFailed"},
        {"event_name": "JobSucceed", "event_vars": [{"name": "jobSucceed", "value": "Success"}]},
    ],
}


@pytest.mark.parametrize(
    "written",
    [
        {"Notifications": [PASCAL]},
        {"Notifications": PASCAL},
        {"Notifications": [SNAKE]},
        {"notifications": [SNAKE]},
        {"notifications": SNAKE},
        {"notifications": [PASCAL]},
    ],
)
def test_notifications_may_be_one_object_and_in_snake_case(written: dict[str, Any]) -> None:
    job = decode(prepare_submit_job(submission(**written)), SubmitJobRequest).job
    assert msgspec.to_builtins(job.notifications) == [
        {
            "TopicName": "job-message",
            "EventConfigs": [
                {"EventName": "JobFailed", "EventVars": []},
                {
                    "EventName": "JobSucceed",
                    "EventVars": [{"Name": "jobSucceed", "Value": "Success"}],
                },
            ],
        }
    ]
    env = {"EnvName": "e", "DesiredComputeNodeCount": 1, **written}
    params = {"Placement": {"Zone": "ap-guangzhou-2"}, "ComputeEnv": env}
    created = decode(prepare_create_compute_env(params), CreateComputeEnvRequest)
    assert created.compute_env.notifications == job.notifications


def test_what_is_prepared_is_left_alone_by_preparing() -> None:
    params = submission(notifications=SNAKE)
    prepare_submit_job(params)
    assert params == submission(notifications=SNAKE)


def test_snake_case_is_accepted_only_where_the_guide_writes_it() -> None:
    for params in (submission(job_name="x"), {**submission(), "client_token": "x"}):
        with pytest.raises(UnknownParameter):
            decode(prepare_submit_job(params), SubmitJobRequest)


def test_notifications_in_both_spellings_are_refused() -> None:
    params = submission(notifications=[SNAKE], Notifications=[PASCAL])
    with pytest.raises(UnknownParameter, match=r"`Job\.notifications`"):
        decode(prepare_submit_job(params), SubmitJobRequest)


def test_filters_may_be_one_object() -> None:
    one = {"Name": "job-state", "Values": ["RUNNING"]}
    expected = decode({"Filters": [one]}, DescribeJobsRequest)
    assert decode(prepare_filters({"Filters": one}), DescribeJobsRequest) == expected
    assert decode(prepare_filters({}), DescribeJobsRequest).filters == []


SPELLINGS = [
    *("notifications", "topic_name", "event_configs", "event_name", "event_vars", "name", "value"),
    *("Notifications", "EventConfigs", "EventVars", "Name", "Tasks", "Application", "Zone"),
]
garbage = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(SPELLINGS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(params=st.dictionaries(st.sampled_from(["Job", "ComputeEnv", "Filters", "x"]), garbage))
def test_any_parameters_are_prepared_and_then_understood_or_refused(
    params: Mapping[str, Any],
) -> None:
    for prepare, kind in (
        (prepare_submit_job, SubmitJobRequest),
        (prepare_create_compute_env, CreateComputeEnvRequest),
        (prepare_filters, DescribeJobsRequest),
    ):
        try:
            decode(prepare(params), kind)
        except ApiError as error:
            assert error.family in {"MissingParameter", "UnknownParameter", "InvalidParameter"}  # noqa: PT017
