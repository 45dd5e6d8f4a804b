"""The official Python SDK, pointed at a gateway: in process, so that polling is quick."""

import json
from base64 import b64decode
from collections.abc import Collection
from typing import Any

from tencentcloud.batch.v20170312.batch_client import BatchClient
from tencentcloud.common.credential import Credential
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile
from tencentcloud.sts.v20180813.sts_client import StsClient
from tencentcloud.tdmq.v20200217.tdmq_client import TdmqClient

from tests.support.running import REGION, Credentials, Gateway, Refused, wait_until

OVER = ("SUCCEED", "FAILED", "FAILED_INTERRUPTED")
PLACEMENT = {"Zone": "ap-guangzhou-2"}
STS_ACTIONS = ("AssumeRole", "GetCallerIdentity", "GetFederationToken")
SMALL = {"EnvData": {"InstanceType": "S1.SMALL1", "ImageId": "img-31tjrtph"}}


class Sdk:
    """The clients of one caller. Every call answers the members of `Response`, or raises Refused.

    batch, tdmq, sts: the official clients themselves, for their typed methods.
    """

    def __init__(self, gateway: Gateway, who: Credentials, *, region: str = REGION) -> None:
        self.gateway = gateway
        credential = Credential(who.secret_id, who.secret_key, who.token or None)
        endpoint = gateway.url.removeprefix("http://")
        http = HttpProfile(protocol="http", endpoint=endpoint, reqTimeout=40)
        profile = ClientProfile(httpProfile=http)
        self.batch = BatchClient(credential, region, profile)
        self.tdmq = TdmqClient(credential, region, profile)
        self.sts = StsClient(credential, region, profile)

    def __call__(self, action: str, **parameters: Any) -> dict[str, Any]:
        """Call an action; those with `Cmq` in their names are tdmq's, most others batch's."""
        client = self.tdmq if "Cmq" in action else self.batch
        client = self.sts if action in STS_ACTIONS else client
        try:
            answer: dict[str, Any] = client.call_json(action, parameters)["Response"]
        except TencentCloudSDKException as error:
            raise Refused(error.get_code(), error.get_message(), error.get_request_id()) from error
        return answer

    def submit(self, *tasks: dict[str, Any], token: str | None = None, **job: Any) -> str:
        """Submit a job of these tasks and return its id."""
        parameters = {} if token is None else {"ClientToken": token}
        wanted = {"JobName": "scenario", "Tasks": list(tasks), **job}
        answer = self("SubmitJob", Job=wanted, Placement=PLACEMENT, **parameters)
        job_id: str = answer["JobId"]
        return job_id

    def wait(self, job_id: str, *, states: Collection[str] = OVER) -> dict[str, Any]:
        """What DescribeJob says once the job is in one of these states: by default, once over."""
        seen: dict[str, Any] = {}

        def is_there() -> bool:
            seen.update(self("DescribeJob", JobId=job_id))
            return seen["JobState"] in states

        wait_until(is_there, what=lambda: f"{json.dumps(seen)}\n{self.gateway.log[-4000:]}")
        return seen

    def logs(self, job_id: str, task_name: str) -> list[tuple[str, str]]:
        """The standard output and error of a task's first ten instances, decoded."""
        answer = self("DescribeTaskLogs", JobId=job_id, TaskName=task_name)
        found = answer["TaskInstanceLogSet"]
        found.sort(key=lambda each: each["TaskInstanceIndex"])
        return [(decoded(each["StdoutLog"]), decoded(each["StderrLog"])) for each in found]


def task(name: str, command: str, **members: Any) -> dict[str, Any]:
    """A task as SubmitJob takes it, on an elastic node unless it names an environment."""
    made = {
        "TaskName": name,
        "Application": {"DeliveryForm": "LOCAL", "Command": command},
        **members,
    }
    return made if "EnvId" in made else {"ComputeEnv": SMALL, **made}


def decoded(log: str) -> str:
    """The text of a log as DescribeTaskLogs writes it."""
    return b64decode(log.partition("base64,")[2]).decode()
