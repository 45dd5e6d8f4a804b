"""A full disk: what can be stored is stored whole, what cannot is refused, and all goes on after.

The data folder is a small file system of its own; a file that takes all of it is the full disk.
"""

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.events.names import BATCH_EVENTS
from tests.support.classic import ClassicClient
from tests.support.disks import small_disk
from tests.support.inbox import event_in
from tests.support.running import Gateway, Refused, running_gateway, wait_until
from tests.support.sdk import Sdk, task

SIZE_MIB = 64
TOPIC = "full"
ALL_EVENTS = [
    {"TopicName": TOPIC, "EventConfigs": [{"EventName": name.value} for name in BATCH_EVENTS]}
]
UNTIL_TOLD = "until test -e go; do sleep 0.02; done"
TRIES = 400
ONE_RUN = [
    "COMPUTE_NODE_CREATED",
    "COMPUTE_NODE_RUNNING",
    "JOB_RUNNING",
    "TASK_RUNNING",
    "TASK_INSTANCE_RUNNING",
    "TASK_INSTANCE_SUCCEED",
    "COMPUTE_NODE_DELETING",
    "TASK_SUCCEED",
    "JOB_SUCCEED",
]


@pytest.fixture
def confined(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway whose data folder has little room, which a test may use up."""
    with (
        small_disk(tmp_path / "var", kib=SIZE_MIB * 1_024),
        running_gateway(tmp_path) as gateway,
    ):
        yield gateway


class Filler:
    """The file that takes what is left of the data folder."""

    def __init__(self, gateway: Gateway) -> None:
        self._path = gateway.data / "filler"

    def fill(self) -> None:
        with self._path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 4_096)

    def remove(self) -> None:
        self._path.unlink()


def subscribe(sdk: Sdk) -> None:
    sdk("CreateCmqTopic", TopicName=TOPIC)
    sdk("CreateCmqQueue", QueueName=TOPIC)
    sdk(
        "CreateCmqSubscribe",
        TopicName=TOPIC,
        SubscriptionName=TOPIC,
        Protocol="queue",
        Endpoint=TOPIC,
        NotifyContentFormat="SIMPLIFIED",
    )


def submit_until_refused(sdk: Sdk) -> tuple[list[str], Refused]:
    """Submit jobs until one is refused: SQLite's log has some room left in itself."""
    accepted: list[str] = []
    for _ in range(TRIES):
        try:
            accepted.append(sdk.submit(task("one", "true"), Notifications=ALL_EVENTS))
        except Refused as refused:
            return accepted, refused
    raise AssertionError("no job was refused")


def working_folder(gateway: Gateway, job_id: str) -> Path:
    """Where the first attempt at the only instance of a job runs."""
    return gateway.data / "engine" / "attempts" / job_id / "0" / "0.1" / "work"


def is_ready(gateway: Gateway) -> bool:
    return gateway.management("/readyz")[0] == 200


def test_a_full_disk_refuses_jobs_whole_and_loses_nothing(confined: Gateway) -> None:
    sdk = Sdk(confined, confined.root)
    subscribe(sdk)
    running = sdk.submit(task("one", UNTIL_TOLD), Notifications=ALL_EVENTS)
    wait_until(working_folder(confined, running).exists)
    sdk.wait(running, states=["RUNNING"])
    filler = Filler(confined)
    filler.fill()
    accepted, refused = submit_until_refused(sdk)
    assert refused.code == "ServiceUnavailable"
    assert sdk("DescribeJob", JobId=running)["JobState"] == "RUNNING"
    wait_until(lambda: not is_ready(confined))
    assert "nothing can be stored" in confined.management("/readyz")[1]
    (working_folder(confined, running) / "go").touch()
    wait_until(lambda: "job_not_moved" in confined.log)  # its end is known, and has no place yet
    assert sdk("DescribeJob", JobId=running)["JobState"] == "RUNNING"

    filler.remove()
    wait_until(lambda: is_ready(confined), what=lambda: confined.management("/readyz")[1])
    accepted.append(running)
    accepted.append(sdk.submit(task("one", "true"), Notifications=ALL_EVENTS))
    ends = {job_id: sdk.wait(job_id)["JobState"] for job_id in accepted}
    assert set(ends.values()) == {"SUCCEED"}, ends
    assert sdk("DescribeJobs")["TotalCount"] == len(accepted)
    audit = json.loads(confined.command("events", "audit", "--json", check=False).stdout)
    assert audit["Discrepancies"] == []
    assert audit["Streams"] == len(accepted)
    assert audit["Messages"] == audit["Events"] == len(ONE_RUN) * len(accepted)
    told = defaultdict[str, list[str]](list)
    for body in ClassicClient(confined, confined.root).drain(TOPIC, count=audit["Messages"]):
        event = event_in(body)
        if "JobId" in event["Batch"]:
            told[event["Batch"]["JobId"]].append(event["EventName"])
    of_job = [name for name in ONE_RUN if "NODE" not in name]
    assert told == dict.fromkeys(accepted, of_job)
