"""Every official example is sent to a real gateway, accepted, and answered as documented.

An example names objects by ids that its author had; what it needs is made first, and its ids are
put in their place.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.batch.templates import TEMPLATES_MAX
from gateway.catalog import UNBUILT
from tests.batch.test_datatypes import API, EXAMPLES, read_example
from tests.support.running import Gateway, Refused, running_gateway, wait_until
from tests.support.sdk import OVER, PLACEMENT, Sdk, task

BUCKET = "cos://bucket-1250000000.cos.ap-guangzhou.myqcloud.com"
TOPIC = "compute-env-topic"
PASSWORD, SECRET = "B1habcd5678", "kept-from-everybody"  # of nothing
Ids = Mapping[str, str]


def requests() -> list[Any]:
    """Every official request, but those of what is not built."""
    return [
        pytest.param(action, example, id=f"{action}-{number}")
        for action, examples in EXAMPLES.items()
        if ("batch", action) not in UNBUILT
        for number, example in enumerate(examples)
    ]


def catalogue() -> str:
    """A catalogue with every image and every machine that a request names."""
    text = " ".join(example["input"] for examples in EXAMPLES.values() for example in examples)
    images = sorted(set(re.findall(r"img-[a-z0-9]{8}", text)))
    machines = sorted(set(re.findall(r"ins-[a-z0-9]{8}", text)))
    size = "cpu = 1\nmem_gib = 2\n"
    return "".join(
        [f'[[image]]\nid = "{image}"\n' for image in images]
        + [
            f'[[machine]]\nid = "{machine}"\n{size}address = "10.0.0.{number}"\n'
            for number, machine in enumerate(machines, start=1)
        ]
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("examples")
    file = folder / "catalogue.toml"
    file.write_text(catalogue(), encoding="utf-8")
    with running_gateway(folder, QCS_GATEWAY_CATALOGUE=str(file)) as gateway:
        Sdk(gateway, gateway.root)("CreateCmqTopic", TopicName=TOPIC)
        yield gateway


class Stage:
    """Makes what an example needs."""

    def __init__(self, gateway: Gateway) -> None:
        self.sdk = Sdk(gateway, gateway.root)

    def env(self, *, nodes: int = 1) -> str:
        """An environment with every list filled, and its nodes running."""
        data = {
            "InstanceTypes": ["S5.SMALL2"],
            "ImageId": "img-31tjrtph",
            "Zones": ["ap-guangzhou-2"],
            "SystemDisk": {"DiskType": "CLOUD_SSD", "DiskSize": 50},
            "DataDisks": [{"DiskType": "CLOUD_SSD", "DiskSize": 10, "DeleteWithInstance": True}],
            "InternetAccessible": {"PublicIpAssigned": True},
            "LoginSettings": {"Password": PASSWORD},
            "SecurityGroupIds": ["sg-1234t1"],
            "EnhancedService": {"MonitorService": {"Enabled": True}},
            "InstanceMarketOptions": {"SpotOptions": {"MaxPrice": "1"}, "MarketType": "spot"},
        }
        event = {"EventName": "COMPUTE_ENV_CREATED", "EventVars": [{"Name": "n", "Value": "v"}]}
        env = {
            "EnvName": "test-env",
            "EnvDescription": "test-env",
            "EnvData": data,
            "DesiredComputeNodeCount": nodes,
            "MountDataDisks": [{"LocalPath": "/mnt", "FileSystemType": "EXT4"}],
            "InputMappings": [{"SourcePath": f"{BUCKET}/in/", "DestinationPath": "/opt/data"}],
            "Authentications": [{"Scene": "COS", "SecretId": "AKIDx", "SecretKey": SECRET}],
            "Tags": [{"Key": "demo-env1", "Value": "demo-tag"}],
            "Notifications": [{"TopicName": TOPIC, "EventConfigs": [event]}],
        }
        made = self.sdk("CreateComputeEnv", ComputeEnv=env, Placement=PLACEMENT)
        env_id = str(made["EnvId"])
        self.until_running(env_id, nodes)
        return env_id

    def until_running(self, env_id: str, nodes: int) -> None:
        def counts() -> dict[str, int]:
            found: dict[str, int] = self.sdk("DescribeComputeEnv", EnvId=env_id)[
                "ComputeNodeMetrics"
            ]
            return found

        wait_until(lambda: counts()["RunningCount"] == nodes, what=lambda: str(counts()))

    def nodes(self, env_id: str) -> list[str]:
        found = self.sdk("DescribeComputeEnv", EnvId=env_id)["ComputeNodeSet"]
        return [str(node["ComputeNodeId"]) for node in found]

    def job(self, *names: str, command: str = "true", **members: Any) -> str:
        """A job that waits for nothing but its commands; over when this returns, unless endless."""
        tasks = [task(name, command, TaskInstanceNum=2, RedirectInfo=redirect()) for name in names]
        job_id = self.sdk.submit(*tasks, Tags=[{"Key": "k", "Value": "v"}], **members)
        self.sdk.wait(job_id, states=OVER if "sleep" not in command else ("RUNNING",))
        return job_id

    def template(self) -> str:
        made = self.sdk(
            "CreateTaskTemplate",
            TaskTemplateName="A",
            TaskTemplateInfo={
                **task("A", "true"),
                "OutputMappings": [
                    {
                        "SourcePath": "/opt/t1",
                        "DestinationPath": f"{BUCKET}/",
                        "OutputMappingOption": {"Workspace": "BATCH_WORKSPACE"},
                    }
                ],
                "Timeout": 259_200,
            },
            Tags=[{"Key": "k", "Value": "v"}],
        )
        return str(made["TaskTemplateId"])


def redirect() -> dict[str, str]:
    return {"StdoutRedirectPath": f"{BUCKET}/logs/", "StderrRedirectPath": f"{BUCKET}/logs/"}


def dag(stage: Stage) -> Ids:
    pairs = ("A B", "A C", "B D", "C D")
    edges = [dict(zip(("StartTask", "EndTask"), pair.split(), strict=True)) for pair in pairs]
    return {"job-97zcl3wt": stage.job(*"ABCD", Dependences=edges)}


def attached(stage: Stage) -> Ids:
    env_id = stage.env(nodes=0)
    stage.sdk("AttachInstances", EnvId=env_id, Instances=[{"InstanceId": "ins-kjoossv5"}])
    stage.until_running(env_id, 1)
    return {"env-1mekuyxs": env_id}


def two_nodes(stage: Stage) -> Ids:
    env_id = stage.env(nodes=2)
    first, second = stage.nodes(env_id)
    return {"env-lcx7qbbr": env_id, "node-lcpcej85": first, "node-lcz8jkvw": second}


def one_node(stage: Stage) -> Ids:
    env_id = stage.env()
    [node_id] = stage.nodes(env_id)
    return {"env-lcx7qbbr": env_id, "node-lcpcej85": node_id}


def nothing(stage: Stage) -> Ids:
    return {}


NEEDED: dict[str, Callable[[Stage], Ids]] = {
    "AttachInstances": lambda stage: {"env-nuydksjj": stage.env(nodes=0)},
    "DeleteComputeEnv": lambda stage: {"env-3dhmblr3": stage.env(nodes=0)},
    "DeleteJob": lambda stage: {"job-f5da1edl": stage.job("A")},
    "DeleteTaskTemplates": lambda stage: {"task-tmpl-7vtx96n2": stage.template()},
    "DescribeComputeEnv": lambda stage: {"env-lcpcej85": stage.env(nodes=2)},
    "DescribeComputeEnvActivities": lambda stage: {"env-lcpcej85": stage.env(nodes=2)},
    "DescribeComputeEnvCreateInfo": lambda stage: {"env-lcpcej85": stage.env()},
    "DescribeComputeEnvCreateInfos": lambda stage: {"env-lcx7qbbr": stage.env()},
    "DescribeComputeEnvs": lambda stage: {"env-lcx7qbbr": stage.env()},
    "DescribeJob": dag,
    "DescribeJobMonitorData": lambda stage: {"job-1jj9noyr": stage.job("demo-1")},
    "DescribeJobSubmitInfo": dag,
    "DescribeJobs": lambda stage: {
        "job-7e7evk2x": stage.job("A", command="false"),
        "job-3n2weaqt": stage.job("A"),
    },
    "DescribeTask": dag,
    "DescribeTaskLogs": lambda stage: {"job-mawzp3ja": stage.job("task", command="echo main")},
    "DescribeTaskTemplates": lambda stage: {
        "task-tmpl-pq24rq1e": stage.template(),
        "task-tmpl-606i415o": stage.template(),
    },
    "DetachInstances": attached,
    "ModifyComputeEnv": lambda stage: {"env-lcpcej85": stage.env()},
    "ModifyTaskTemplate": lambda stage: {"task-tmpl-606i415o": stage.template()},
    "RetryJobs": lambda stage: {
        "job-rybewp57": stage.job("A", command="false"),
        "job-97zcl3wt": stage.job("A", command="false"),
    },
    "TerminateComputeNode": one_node,
    "TerminateComputeNodes": two_nodes,
    "TerminateJob": lambda stage: {"job-rybewp57": stage.job("A", command="sleep 600")},
    "TerminateTaskInstance": lambda stage: {"job-rybewp57": stage.job("A", command="sleep 600")},
}


def with_ids(text: str, ids: Ids) -> str:
    """A request with ids that exist."""
    for theirs, ours in ids.items():
        assert theirs in text
        text = text.replace(theirs, ours)
    return text


def region_of(text: str) -> str:
    """The region of the zone that a request names."""
    zone = re.search(r"(ap-[a-z]+)-\d", text)
    return zone[1] if zone else "ap-guangzhou"


@pytest.mark.parametrize(("action", "example"), requests())
def test_an_official_example_is_accepted_and_answered_as_documented(
    served: Gateway, action: str, example: dict[str, str]
) -> None:
    text = with_ids(example["input"], NEEDED.get(action, nothing)(Stage(served)))
    answer = Sdk(served, served.root, region=region_of(text))(action, **read_example(text))
    check_documented(answer, f"{action}Response", path=action)
    check_like(answer, json.loads(example["output"])["Response"], path=action, depth=0)
    assert SECRET not in json.dumps(answer)
    assert PASSWORD not in json.dumps(answer)


def check_documented(answer: dict[str, Any], kind: str, *, path: str) -> None:
    """Every member that is documented is there, no other is, and so on within."""
    members = {member["name"]: member for member in API["objects"][kind]["members"]}
    assert set(answer) == set(members), path
    for name, member in members.items():
        inner = member.get("member", "")
        values = answer[name] if member["type"] == "list" else [answer[name]]
        assert isinstance(values, list), f"{path}.{name}"
        for value in values:
            if inner in API["objects"] and value is not None:
                check_documented(value, inner, path=f"{path}.{name}")


def check_like(answer: Any, example: Any, *, path: str, depth: int) -> None:
    """What the example has is there, of its type; a list it fills is filled, at the top."""
    if isinstance(example, dict):
        for name, value in example.items():
            assert name in answer, f"{path}.{name}"
            if answer[name] is not None:
                check_like(answer[name], value, path=f"{path}.{name}", depth=depth + 1)
        return
    if isinstance(example, list):
        assert isinstance(answer, list), path
        assert answer or not example or depth > 1, path
        for ours, theirs in zip(answer, example, strict=False):
            check_like(ours, theirs, path=path, depth=depth + 1)
        return
    assert kind_of(answer) == kind_of(example), path


def kind_of(value: Any) -> str:
    """The JSON type of a value."""
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else type(value).__name__


BY_COMMAND_LINE = {
    "SubmitJob": 0,
    "CreateComputeEnv": 0,
    "CreateTaskTemplate": 0,
    "DescribeAvailableCvmInstanceTypes": 0,
    "DescribeInstanceCategories": 0,
}


@pytest.mark.parametrize("action", BY_COMMAND_LINE)
def test_the_official_command_line_has_it_too(served: Gateway, action: str) -> None:
    example = EXAMPLES[action][BY_COMMAND_LINE[action]]
    parameters = read_example(with_ids(example["input"], {}))
    answer = served.tccli(served.root, "batch", action, **parameters)
    check_documented(answer, f"{action}Response", path=action)
    check_like(answer, json.loads(example["output"])["Response"], path=action, depth=0)


def test_the_guides_strict_rule_and_the_vendors_quotas_are_settings(tmp_path: Path) -> None:
    strict = {"QCS_GATEWAY_COS_FORMS": "xml", "QCS_GATEWAY_LIMITS": "cloud"}
    with running_gateway(tmp_path, **strict) as gateway:
        sdk = Sdk(gateway, gateway.root)
        with pytest.raises(Refused) as refused:
            sdk("SubmitJob", **read_example(EXAMPLES["SubmitJob"][0]["input"]))
        assert refused.value.code == "InvalidParameterValue.RemoteStoragePath"
        for _ in range(TEMPLATES_MAX):
            Stage(gateway).template()
        with pytest.raises(Refused) as refused:
            Stage(gateway).template()
        assert refused.value.code == "LimitExceeded.TaskTemplateQuota"


def test_a_catalogue_that_cannot_be_used_keeps_the_gateway_from_starting(tmp_path: Path) -> None:
    file = tmp_path / "catalogue.toml"
    file.write_text("[[machine]]\n", encoding="utf-8")
    gateway = Gateway(tmp_path, settings={"QCS_GATEWAY_CATALOGUE": str(file)})
    gateway.start(wait=False)
    try:
        wait_until(lambda: gateway.ended)
        assert "catalogue: catalogue.toml, machine 1: `id` is missing" in gateway.log
    finally:
        gateway.remove()
