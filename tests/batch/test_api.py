"""What the describing actions answer, and the refusals that belong to the call itself."""

from base64 import b64decode
from typing import Any

import pytest

from gateway.batch.attempts import parse_attempt
from gateway.batch.views import LOG_PREFIX
from gateway.errors import ApiError
from gateway.store import Store
from tests.batch.test_datatypes import API
from tests.support.batch import ELASTIC, START, Batch, Turns, a_job, a_task, check_rows
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio
LOGS = ("Stdout", "Stderr")
COS = "cos://batchdemo-1251783334.cos.ap-guangzhou.myqcloud.com/logs/"


async def code_of(batch: Batch, action: str, **params: Any) -> str:
    with pytest.raises(ApiError) as caught:
        await batch.call(action, **params)
    return caught.value.code


def write_log(engine: FakeEngine, attempt_id: str, stream: str, content: bytes) -> None:
    path = engine.log_path(parse_attempt(attempt_id).folder, stream)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


async def test_a_job_shows_its_tasks_and_how_far_they_are(store: Store, batch: Batch) -> None:
    tags = [{"Key": "k", "Value": "v"}]
    job_id = await batch.submit(
        a_task("a", 3), a_task("b", 2), after=["a b"], Priority=5, Tags=tags
    )
    turns = Turns(store, job_id)
    first, _ = await turns.turn(slots=2)
    await turns.turn(turns.ended(first))
    answer = await batch.call("DescribeJob", JobId=job_id)
    assert (answer["JobState"], answer["Priority"], answer["Tags"]) == ("RUNNING", 5, tags)
    assert answer["Zone"] == "ap-guangzhou-2"
    assert answer["EndTime"] is None
    assert [task["TaskState"] for task in answer["TaskSet"]] == ["RUNNING", "PENDING"]
    assert answer["DependenceSet"] == [{"StartTask": "a", "EndTask": "b"}]
    tasks, instances = answer["TaskMetrics"], answer["TaskInstanceMetrics"]
    assert (tasks["RunningCount"], tasks["PendingCount"]) == (1, 1)
    assert instances == {
        **dict.fromkeys(instances, 0),
        "RunnableCount": 1,
        "StartingCount": 1,
        "SucceedCount": 1,
        "PendingCount": 2,
    }
    [shown] = (await batch.call("DescribeJobs"))["JobSet"]
    assert shown["TaskMetrics"] == tasks


@pytest.mark.parametrize(
    ("action", "params"),
    [
        ("DescribeJob", {}),
        ("DescribeJobs", None),
        ("DescribeJobSubmitInfo", {}),
        ("DescribeTask", {"TaskName": "a"}),
        ("DescribeTaskLogs", {"TaskName": "a"}),
    ],
)
async def test_every_documented_member_is_in_the_answer(
    batch: Batch, action: str, params: dict[str, Any] | None
) -> None:
    job_id = await batch.submit(a_task("a"), a_task("b"), after=["a b"])
    answer = await batch.call(action, **({} if params is None else {"JobId": job_id, **params}))
    members = [m["name"] for m in API["objects"][f"{action}Response"]["members"]]
    assert [*answer, "RequestId"] == members


async def test_a_task_shows_its_instances_page_by_page_and_by_state(
    store: Store, batch: Batch
) -> None:
    job_id = await batch.submit(a_task(instances=5))
    turns = Turns(store, job_id)
    first, second, _ = await turns.turn(slots=3)
    await turns.turn(turns.ended(first), turns.ended(second, 3))
    page = await batch.call("DescribeTask", JobId=job_id, TaskName="a", Offset=1, Limit=2)
    assert page["TaskInstanceTotalCount"] == 5
    assert [each["TaskInstanceIndex"] for each in page["TaskInstanceSet"]] == [1, 2]
    failed, starting = page["TaskInstanceSet"]
    assert (failed["ExitCode"], failed["StateReason"]) == (3, "USER_EXIT")
    assert failed["StateDetailedReason"] == "The command ended with exit code 3."
    assert failed["ComputeNodeInstanceId"] == ""
    assert starting["ComputeNodeInstanceId"].startswith("ins-")
    assert starting["ExitCode"] is None
    filters = [{"Name": "task-instance-state", "Values": ["SUCCEED", "RUNNABLE"]}]
    some = await batch.call("DescribeTask", JobId=job_id, TaskName="a", Filters=filters)
    assert some["TaskInstanceTotalCount"] == 3
    assert [each["TaskInstanceIndex"] for each in some["TaskInstanceSet"]] == [0, 3, 4]
    both = [*filters, {"Name": "task-instance-state", "Values": ["FAILED"]}]
    none = await batch.call("DescribeTask", JobId=job_id, TaskName="a", Filters=both)
    assert none["TaskInstanceTotalCount"] == 0
    one = await batch.call("DescribeTask", JobId=job_id, TaskName="a", Filters=filters[0])
    assert one == some


async def test_an_instance_shows_its_times(store: Store, batch: Batch) -> None:
    job_id = await batch.submit()
    turns = Turns(store, job_id)
    [placed] = await turns.turn(slots=1)
    await turns.turn(turns.started(placed))
    await turns.turn(turns.ended(placed))
    [instance] = await batch.instances(job_id)
    times = [instance[name] for name in ("LaunchTime", "RunningTime", "EndTime")]
    seconds = [START.second + n for n in (1, 1, 2)]
    assert times == [f"2018-06-15T14:43:{second}Z" for second in seconds]
    assert instance["StateDetailedReason"] == "successful"


async def test_logs_are_the_last_2048_bytes_of_the_newest_attempt(
    store: Store, batch: Batch, engine: FakeEngine
) -> None:
    redirect = {"StdoutRedirectPath": COS, "StdoutRedirectFileName": "x.log"}
    job_id = await batch.submit(a_task(instances=2, RedirectInfo=redirect))
    turns = Turns(store, job_id)
    first, _ = await turns.turn(slots=2)
    write_log(engine, first, "stdout", b"a" * 5_000 + b"\xff\x00end")
    answer = await batch.call("DescribeTaskLogs", JobId=job_id, TaskName="a")
    assert answer["TotalCount"] == 2
    logs = answer["TaskInstanceLogSet"]
    assert [each["TaskInstanceIndex"] for each in logs] == [0, 1]
    assert logs[0]["StdoutLog"].startswith(LOG_PREFIX)
    stdout = b64decode(logs[0]["StdoutLog"].removeprefix(LOG_PREFIX))
    assert stdout == b"a" * 2_043 + b"\xff\x00end"
    assert logs[0]["StderrLog"] == logs[1]["StdoutLog"] == LOG_PREFIX
    assert (logs[0]["StdoutRedirectPath"], logs[0]["StderrRedirectPath"]) == (COS, "")
    assert logs[0]["StdoutRedirectFileName"] == "x.log"
    asked = await batch.call(
        "DescribeTaskLogs", JobId=job_id, TaskName="a", TaskInstanceIndexes=[1, "1"]
    )
    assert [each["TaskInstanceIndex"] for each in asked["TaskInstanceLogSet"]] == [1]


@pytest.mark.parametrize(
    ("redirect", "expected"),
    [
        (None, ["", "", "", ""]),
        ({"StdoutRedirectPath": COS}, [COS, "stdout.{job}.a.1.log", "", ""]),
        (
            {
                "StdoutRedirectPath": COS,
                "StderrRedirectPath": COS,
                "StderrRedirectFileName": "${BATCH_JOB_ID}-${BATCH_TASK_INSTANCE_INDEX}.${X}",
            },
            [COS, "stdout.{job}.a.1.log", COS, "{job}-1.${{X}}"],
        ),
    ],
)
async def test_an_instance_tells_the_names_of_its_own_logs(
    batch: Batch, redirect: dict[str, str] | None, expected: list[str]
) -> None:
    job_id = await batch.submit(a_task(instances=2, RedirectInfo=redirect))
    names = [f"{stream}Redirect{what}" for stream in LOGS for what in ("Path", "FileName")]
    shown = (await batch.instances(job_id))[1]["RedirectInfo"]
    answer = await batch.call("DescribeTaskLogs", JobId=job_id, TaskName="a")
    for found in (shown, answer["TaskInstanceLogSet"][1]):
        assert [found[name] for name in names] == [each.format(job=job_id) for each in expected]


async def test_wrong_questions_about_tasks_have_their_codes(batch: Batch) -> None:
    job_id = await batch.submit()
    about = {"JobId": job_id, "TaskName": "a"}
    value = "InvalidParameterValue"
    cases: list[tuple[str, str, dict[str, Any]]] = [
        ("DescribeTask", "ResourceNotFound.Task", {**about, "TaskName": "b"}),
        ("DescribeTask", "ResourceNotFound.Task", {**about, "TaskName": "a' OR '1'='1"}),
        ("DescribeTask", value, {**about, "Limit": 1_001}),
        ("DescribeTask", f"{value}.Negative", {**about, "Offset": -1}),
        ("DescribeTask", "InvalidFilter", {**about, "Filters": [{"Name": "x", "Values": []}]}),
        (
            "DescribeTask",
            value,
            {**about, "Filters": [{"Name": "task-instance-state", "Values": ["x"]}]},
        ),
        ("DescribeTaskLogs", "ResourceNotFound.Task", {**about, "TaskName": "b"}),
        ("DescribeTaskLogs", "InvalidParameter.TaskName", {**about, "TaskName": "b c"}),
        ("DescribeTaskLogs", "InvalidParameter.TaskNameTooLong", {**about, "TaskName": "b" * 61}),
        ("DescribeTaskLogs", value, {**about, "Limit": 11}),
        ("DescribeTaskLogs", value, {**about, "TaskInstanceIndexes": [0], "Offset": 0}),
        ("DescribeTaskLogs", value, {**about, "TaskInstanceIndexes": list(range(11))}),
        ("DescribeTaskLogs", f"{value}.Negative", {**about, "TaskInstanceIndexes": [-1]}),
        *[
            ("DescribeTaskLogs", "ResourceNotFound.TaskInstance", {**about, name: [number]})
            for name in ["TaskInstanceIndexes"]
            for number in (1, 2**31, 2**63 - 1)
        ],
        ("DescribeTaskLogs", "InvalidParameter", {**about, "TaskInstanceIndexes": [2**63]}),
        ("DescribeJob", "MissingParameter", {}),
        ("DescribeJob", "InvalidParameter", {"JobId": 7}),
        ("FlyToTheMoon", "InvalidAction", {}),
    ]
    for action, code, params in cases:
        assert await code_of(batch, action, **params) == code, (action, params)


async def test_many_tasks_and_instances_are_stored_and_described(
    store: Store, batch: Batch
) -> None:
    tasks = [a_task(f"t{n}", 2, ComputeEnv=ELASTIC) for n in range(300)]
    job_id = await batch.submit_job(a_job(*tasks, after=[f"t{n} t{n + 1}" for n in range(299)]))
    turns = Turns(store, job_id)
    placed = await turns.turn(slots=9)
    await turns.turn(turns.ended(placed[0], 1), turns.ended(placed[1], 1))
    await turns.turn()  # so many tasks are failed by more than one transaction
    answer = await batch.call("DescribeJob", JobId=job_id)
    assert (answer["JobState"], answer["TaskMetrics"]["FailedCount"]) == ("FAILED", 300)
    assert answer["TaskInstanceMetrics"]["FailedCount"] == 600
    await check_rows(store, job_id)
