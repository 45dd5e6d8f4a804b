"""The guide's other material as files for the official command line, each run to its end.

The requests are in `requests/`, as `tccli batch … --cli-input-json file://…` takes them.
"""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.running import Gateway, running_gateway
from tests.support.sdk import Sdk

REQUESTS = Path(__file__).parent / "requests"
BUCKET = "batchdemo-1251783334"
SERVER = "10.66.0.1"
COUNT = """
import pathlib
import sys

source, target = map(pathlib.Path, sys.argv[1:])
words = sum(len(path.read_text().split()) for path in source.rglob("*.txt"))
(target / "result").mkdir()
(target / "result" / "count").write_text(f"{words}\\n")
print(words, "words")
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("requests")
    shared = folder / "mounts" / SERVER / "shared"
    shared.mkdir(parents=True)
    shared.chmod(0o777)  # as an export that anybody may write to
    with running_gateway(folder, QCS_GATEWAY_MOUNT_ROOT=str(folder / "mounts")) as running:
        yield running


@pytest.fixture
def sdk(gateway: Gateway) -> Sdk:
    return Sdk(gateway, gateway.root)


def put(gateway: Gateway, key: str, content: bytes) -> None:
    """Put an object into the guide's bucket."""
    path = bucket(gateway) / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def bucket(gateway: Gateway) -> Path:
    return gateway.data / "cos" / BUCKET


def send(gateway: Gateway, action: str, name: str, **replaced: str) -> dict[str, str]:
    """Send a file with the official command line; replaced: what stands for an id of ours."""
    text = (REQUESTS / f"{name}.json").read_text(encoding="utf-8")
    for placeholder, value in replaced.items():
        text = text.replace(placeholder.replace("_", "-"), value)
    path = gateway.folder / f"{name}.json"
    path.write_text(text, encoding="utf-8")
    flag = {"cli-input-json": f"file://{path}"}
    return gateway.tccli(gateway.root, "batch", action, **flag)


def archive(**files: str) -> bytes:
    """A .tgz with these files in the folder `codepkg`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"codepkg/{name}.py")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def test_a_package_reads_a_mapped_folder_and_what_it_writes_is_in_the_bucket(
    gateway: Gateway, sdk: Sdk
) -> None:
    put(gateway, "codepkg/codepkg.tgz", archive(count=COUNT))
    put(gateway, "input/one.txt", b"run batch jobs")
    put(gateway, "input/deep/two.txt", b"and hear what happened")
    job_id = send(gateway, "SubmitJob", "package_with_mappings")["JobId"]

    assert sdk.wait(job_id)["JobState"] == "SUCCEED"
    assert (bucket(gateway) / "output/result/count").read_text() == "7\n"
    assert (bucket(gateway) / "logs/count-0.out").read_text() == "7 words\n"
    assert (bucket(gateway) / f"logs/stderr.{job_id}.count.0.log").read_text() == ""


def test_a_named_environment_is_a_cluster_whose_nodes_keep_their_disks(
    gateway: Gateway, sdk: Sdk
) -> None:
    env_id = send(gateway, "CreateComputeEnv", "cluster")["EnvId"]
    first = send(gateway, "SubmitJob", "job_on_a_cluster", env_00000000=env_id)["JobId"]
    assert sdk.wait(first)["JobState"] == "SUCCEED"

    shared = gateway.folder / "mounts" / SERVER / "shared"
    seen = [(shared / f"seen-{number}").read_text().split() for number in range(6)]
    assert all(str(number) in visits for number, visits in enumerate(seen))
    assert max(map(len, seen)) > 1, "a node's disk is there for the next instance"

    nodes = sdk("DescribeComputeEnv", EnvId=env_id)["ComputeNodeSet"]
    assert [node["ComputeNodeState"] for node in nodes] == ["RUNNING", "RUNNING"]
    sdk("TerminateComputeNodes", EnvId=env_id, ComputeNodeIds=[n["ComputeNodeId"] for n in nodes])
    sdk("DeleteComputeEnv", EnvId=env_id)


def test_an_array_splits_its_work_by_the_variables_of_its_instances(
    gateway: Gateway, sdk: Sdk
) -> None:
    put(gateway, "input/numbers", "".join(f"{number}\n" for number in range(1, 101)).encode())
    job_id = send(gateway, "SubmitJob", "array_split")["JobId"]

    assert sdk.wait(job_id)["JobState"] == "SUCCEED"
    assert sdk.logs(job_id, "sum") == [("5050\n", "")]
    shares = sorted(path.name for path in (bucket(gateway) / "shares").iterdir())
    assert shares == [f"share-{number}" for number in range(4)]
