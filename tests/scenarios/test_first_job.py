"""The shortest story, told by the official command line."""

from base64 import b64decode

from tests.support.running import Gateway, wait_until

PLACEMENT = {"Zone": "ap-guangzhou-2"}


def test_a_submitted_command_runs_and_its_output_can_be_read(gateway: Gateway) -> None:
    task = {
        "TaskName": "hello",
        "Application": {"DeliveryForm": "LOCAL", "Command": "echo hello $BATCH_TASK_NAME"},
        "ComputeEnv": {"EnvData": {"InstanceType": "S1.SMALL1", "ImageId": "img-31tjrtph"}},
    }
    job = {"JobName": "first", "Tasks": [task]}
    submitted = gateway.tccli(gateway.root, "batch", "SubmitJob", Job=job, Placement=PLACEMENT)
    job_id = submitted["JobId"]

    def state() -> str:
        answer = gateway.tccli(gateway.root, "batch", "DescribeJob", JobId=job_id)
        return str(answer["JobState"])

    wait_until(lambda: state() == "SUCCEED", what=lambda: gateway.log)
    logs = gateway.tccli(gateway.root, "batch", "DescribeTaskLogs", JobId=job_id, TaskName="hello")
    stdout = logs["TaskInstanceLogSet"][0]["StdoutLog"].partition("base64,")[2]
    assert b64decode(stdout) == b"hello hello\n"
