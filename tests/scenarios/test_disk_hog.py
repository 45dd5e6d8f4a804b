"""A job that fills the disk: it alone ends, and the service goes on without anybody's help.

The data folder is a small file system of its own.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.disks import small_disk
from tests.support.running import Gateway, running_gateway, wait_until
from tests.support.sdk import SMALL, Sdk, task

SIZE_MIB = 64
WITH_DISK = {**SMALL, "MountDataDisks": [{"LocalPath": "/disk"}]}
UNTIL_TOLD = "until test -e go; do sleep 0.02; done"
FILLERS = {
    "the work folder": "cat /dev/zero > big",
    "what it sees as /tmp": "cat /dev/zero > /tmp/big",
    "standard output": "cat /dev/zero",
    "a disk of its node": "cat /dev/zero > /disk/big",
    "a file in no folder": "exec 5> big; rm big; cat /dev/zero >&5",
}


@pytest.fixture
def confined(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway whose data folder has little room."""
    with (
        small_disk(tmp_path / "var", kib=SIZE_MIB * 1_024),
        running_gateway(tmp_path) as gateway,
    ):
        yield gateway


def test_what_fills_the_disk_is_ended_and_its_files_go(confined: Gateway) -> None:
    sdk = Sdk(confined, confined.root)
    modest = sdk.submit(task("one", UNTIL_TOLD))
    attempts = confined.data / "engine" / "attempts"
    [work] = wait_until(lambda: list((attempts / modest).rglob("work")))
    for where, command in FILLERS.items():
        one = task("one", f"{command}; sleep 1000", MaxRetryCount=3, ComputeEnv=WITH_DISK)
        hog = sdk.submit(one)
        assert sdk.wait(hog)["JobState"] == "FAILED", where
        [instance] = sdk("DescribeTask", JobId=hog, TaskName="one")["TaskInstanceSet"]
        assert "It filled the disk." in str(instance), where
        assert len(list((attempts / hog).rglob("stdout"))) == 1, f"{where}: tried again"
        assert not list((attempts / hog).rglob("big")), where
    assert sdk("DescribeJob", JobId=modest)["JobState"] == "RUNNING"
    (work / "go").touch()
    assert sdk.wait(modest)["JobState"] == "SUCCEED"
    wait_until(lambda: confined.management("/readyz")[0] == 200)


def test_a_start_on_a_full_disk_says_what_takes_the_room(confined: Gateway) -> None:
    confined.stop()
    job = confined.data / "engine" / "attempts" / "job-large"
    job.mkdir()
    with (job / "big").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4_096)
    done = confined.command("serve", check=False)
    assert done.returncode == 1
    assert f"{job} (" in done.stderr
    assert "Traceback" not in done.stderr
    (job / "big").unlink()
    confined.start()
