"""What jobs do: order, instances, variables, failures, ends. Told by the official SDK."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from tencentcloud.batch.v20170312 import models

from tests.support.running import Gateway, Refused, wait_until
from tests.support.sdk import PLACEMENT, SMALL, Sdk, task

BUCKET = "cos://scenarios-1250000000.cos.ap-guangzhou.myqcloud.com/"


@pytest.fixture(scope="module")
def sdk(gateway: Gateway) -> Sdk:
    return Sdk(gateway, gateway.root)


def refused_code(sdk: Sdk, action: str, **parameters: Any) -> str:
    with pytest.raises(Refused) as caught:
        sdk(action, **parameters)
    return str(caught.value.code)


def instance(sdk: Sdk, job_id: str, task_name: str) -> dict[str, Any]:
    """The only instance of a task."""
    (found,) = sdk("DescribeTask", JobId=job_id, TaskName=task_name)["TaskInstanceSet"]
    return dict(found)


def states(job: dict[str, Any]) -> dict[str, str]:
    return {each["TaskName"]: each["TaskState"] for each in job["TaskSet"]}


def test_tasks_run_after_those_they_depend_on(sdk: Sdk) -> None:
    stamp = "python3 -c 'import time; print(time.monotonic_ns())'"
    names = ("split", "left", "right", "join")
    pairs = [("split", "left"), ("split", "right"), ("left", "join"), ("right", "join")]
    job_id = sdk.submit(
        *(task(name, f"{stamp}; {stamp}") for name in names),
        Dependences=[{"StartTask": start, "EndTask": end} for start, end in pairs],
    )
    job = sdk.wait(job_id)
    assert states(job) == dict.fromkeys(names, "SUCCEED")
    assert {(each["StartTask"], each["EndTask"]) for each in job["DependenceSet"]} == set(pairs)
    ran = {name: [int(n) for n in sdk.logs(job_id, name)[0][0].split()] for name in names}
    assert [pair for pair in pairs if not ran[pair[0]][1] < ran[pair[1]][0]] == []


def test_what_depends_on_a_failed_task_never_runs(sdk: Sdk) -> None:
    job_id = sdk.submit(
        task("first", "exit 3"),
        task("second", "echo ran"),
        Dependences=[{"StartTask": "first", "EndTask": "second"}],
    )
    job = sdk.wait(job_id)
    assert job["JobState"] == "FAILED"
    assert states(job) == {"first": "FAILED", "second": "FAILED"}
    assert instance(sdk, job_id, "first")["ExitCode"] == 3
    assert sdk.logs(job_id, "second") == [("", "")]


def test_each_instance_knows_which_one_it_is(sdk: Sdk) -> None:
    names = ("JOB_ID", "TASK_NAME", "TASK_INSTANCE_NUM", "TASK_INSTANCE_INDEX")
    line = " ".join(f"$BATCH_{name}" for name in names)
    job_id = sdk.submit(task("many", f"echo {line}", TaskInstanceNum=5))
    assert sdk.wait(job_id)["JobState"] == "SUCCEED"
    found = sdk.logs(job_id, "many")
    assert found == [(f"{job_id} many 5 {index}\n", "") for index in range(5)]


def test_variables_reach_the_command_as_they_were_given(sdk: Sdk) -> None:
    value = "a b\t$HOME 'c' \"d\" \\ 批量\nnext"
    variables = [{"Name": "GIVEN", "Value": value}, {"Name": "EMPTY", "Value": ""}]
    command = """python3 -c 'import os; print(ascii((os.environ["GIVEN"], os.environ["EMPTY"])))'"""
    job_id = sdk.submit(task("echo", command, EnvVars=variables))
    assert sdk.wait(job_id)["JobState"] == "SUCCEED"
    assert sdk.logs(job_id, "echo")[0][0] == f"{(value, '')!a}\n"


def test_a_command_sees_neither_keys_nor_settings_of_the_gateway(sdk: Sdk) -> None:
    job_id = sdk.submit(task("peek", f"env; cat {sdk.gateway.data}/root.env"))
    assert sdk.wait(job_id)["JobState"] == "FAILED"
    ((output, _),) = sdk.logs(job_id, "peek")
    assert "BATCH_JOB_ID" in output
    assert "QCS_GATEWAY" not in output
    assert "SECRET" not in output


def test_a_failure_tells_its_exit_code_and_what_was_written(sdk: Sdk) -> None:
    job_id = sdk.submit(task("fail", "echo out; echo err >&2; exit 42"))
    assert sdk.wait(job_id)["JobState"] == "FAILED"
    assert instance(sdk, job_id, "fail")["ExitCode"] == 42
    assert sdk.logs(job_id, "fail") == [("out\n", "err\n")]


def test_a_command_is_ended_when_its_time_is_over(sdk: Sdk) -> None:
    began = time.monotonic()
    job_id = sdk.submit(task("slow", "echo begun; sleep 600", Timeout=1))
    job = sdk.wait(job_id)
    assert job["JobState"] == "FAILED"
    assert 1 <= time.monotonic() - began < 30
    assert "TIMEOUT" in instance(sdk, job_id, "slow")["StateReason"].upper()
    assert sdk.logs(job_id, "slow") == [("begun\n", "")]


def test_a_call_with_the_same_client_token_makes_one_job(sdk: Sdk) -> None:
    wanted = task("once", "true")
    first = sdk.submit(wanted, token="scenario-token")
    assert sdk.submit(wanted, token="scenario-token") == first
    with pytest.raises(Refused) as caught:
        sdk.submit(task("other", "true"), token="scenario-token")
    assert caught.value.code == "InvalidParameterValue"
    assert sdk.submit(wanted, token="another-token") != first


def test_output_is_redirected_to_the_files_it_is_asked_for(sdk: Sdk) -> None:
    name = "${BATCH_JOB_ID}-${BATCH_TASK_NAME}-${BATCH_TASK_INSTANCE_INDEX}.txt"
    redirect = {
        "StdoutRedirectPath": f"{BUCKET}out/",
        "StdoutRedirectFileName": name,
        "StderrRedirectPath": f"{BUCKET}err/",
    }
    command = "echo $BATCH_TASK_INSTANCE_INDEX; echo oh >&2"
    job_id = sdk.submit(task("write", command, TaskInstanceNum=2, RedirectInfo=redirect))
    assert sdk.wait(job_id)["JobState"] == "SUCCEED"
    bucket = sdk.gateway.data / "cos" / "scenarios-1250000000"
    for index in range(2):
        assert (bucket / "out" / f"{job_id}-write-{index}.txt").read_text() == f"{index}\n"
        assert (bucket / "err" / f"stderr.{job_id}.write.{index}.log").read_text() == "oh\n"


def test_a_terminated_job_ends_its_commands_and_fails(sdk: Sdk) -> None:
    job_id = sdk.submit(
        task("long", "echo begun; sleep 600", TaskInstanceNum=2),
        task("later", "echo ran"),
        Dependences=[{"StartTask": "long", "EndTask": "later"}],
    )
    sdk.wait(job_id, states=["RUNNING"])
    assert refused_code(sdk, "DeleteJob", JobId=job_id) == "ResourceInUse.Job"
    sdk("TerminateJob", JobId=job_id)
    job = sdk.wait(job_id)
    assert states(job) == {"long": "FAILED", "later": "FAILED"}
    assert job["EndTime"] is not None
    assert sdk.logs(job_id, "later") == [("", "")]
    wait_until(lambda: not commands_of(job_id), what=lambda: str(commands_of(job_id)))


def commands_of(job_id: str) -> list[str]:
    """The processes of this machine that carry the job's id in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"BATCH_JOB_ID={job_id}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_a_deleted_job_is_gone_for_every_call(sdk: Sdk) -> None:
    job_id = sdk.submit(task("brief", "true"))
    sdk.wait(job_id)
    sdk("DeleteJob", JobId=job_id)
    assert refused_code(sdk, "DescribeJob", JobId=job_id) == "ResourceNotFound.Job"
    assert refused_code(sdk, "DeleteJob", JobId=job_id) == "ResourceNotFound.Job"
    assert refused_code(sdk, "TerminateJob", JobId=job_id) == "ResourceNotFound.Job"
    assert job_id not in {each["JobId"] for each in sdk("DescribeJobs", Limit=100)["JobSet"]}


def test_numbers_and_truth_values_may_be_written_as_text(sdk: Sdk) -> None:
    wanted = task(
        "text",
        "echo $BATCH_TASK_INSTANCE_NUM",
        TaskInstanceNum="2",
        MaxRetryCount="3",
        Timeout="60",
        RestartComputeNode="TRUE",
    )
    job_id = sdk.submit(wanted, Priority="7")
    job = sdk.wait(job_id)
    assert (job["JobState"], job["Priority"]) == ("SUCCEED", 7)
    (kept,) = sdk("DescribeJobSubmitInfo", JobId=job_id)["Tasks"]
    assert (kept["TaskInstanceNum"], kept["MaxRetryCount"], kept["Timeout"]) == (2, 3, 60)


def test_the_official_models_carry_a_job_there_and_back(sdk: Sdk) -> None:
    request = models.SubmitJobRequest()
    job = {"JobName": "typed", "Tasks": [task("typed", "echo typed")]}
    request.from_json_string(json.dumps({"Job": job, "Placement": PLACEMENT}))
    job_id = sdk.batch.SubmitJob(request).JobId
    sdk.wait(job_id)
    ask = models.DescribeJobRequest()
    ask.JobId = job_id
    answer = sdk.batch.DescribeJob(ask)
    assert (answer.JobName, answer.JobState, answer.Zone) == ("typed", "SUCCEED", "ap-guangzhou-2")
    assert answer.TaskMetrics.SucceedCount == 1
    assert answer.TaskInstanceMetrics.SucceedCount == 1


def test_a_task_runs_on_the_nodes_of_a_named_environment(sdk: Sdk) -> None:
    wanted = {"EnvName": "named", "DesiredComputeNodeCount": 2, **SMALL}
    env_id = sdk("CreateComputeEnv", ComputeEnv=wanted, Placement=PLACEMENT)["EnvId"]

    def nodes() -> dict[str, str]:
        found = sdk("DescribeComputeEnv", EnvId=env_id)["ComputeNodeSet"]
        return {each["ComputeNodeId"]: each["ComputeNodeState"] for each in found}

    wait_until(lambda: list(nodes().values()) == ["RUNNING", "RUNNING"])
    job_id = sdk.submit(task("on", "echo here", EnvId=env_id, TaskInstanceNum=5))
    assert sdk.wait(job_id)["JobState"] == "SUCCEED"
    ran_on = sdk("DescribeTask", JobId=job_id, TaskName="on")["TaskInstanceSet"]
    assert len({each["ComputeNodeInstanceId"] for each in ran_on}) <= 2
    assert refused_code(sdk, "DeleteComputeEnv", EnvId=env_id) == (
        "UnsupportedOperation.ComputeNodeForbidTerminate"
    )
    sdk("TerminateComputeNodes", EnvId=env_id, ComputeNodeIds=list(nodes()))
    wait_until(lambda: not nodes())
    sdk("DeleteComputeEnv", EnvId=env_id)
    assert refused_code(sdk, "DescribeComputeEnv", EnvId=env_id) == "ResourceNotFound.ComputeEnv"
