"""What is read in an attempt's folder where a command without a sandbox has put something else."""

import os
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.batch.engines import Launch
from gateway.batch.executor.held import HOG_LOG_BYTES_MAX, cut_logs
from gateway.batch.executor.notes import VERDICT, read_verdict
from gateway.batch.executor.samples import SAMPLES, read_samples
from gateway.batch.staging.places import STAGED
from gateway.batch.staging.preparing import read_staged
from gateway.batch.storage import trees
from gateway.store import Store
from tests.support.batch import Batch, a_task
from tests.support.staging import Machine

pytestmark = pytest.mark.anyio
OVER = ("SUCCEED", "FAILED")
Place = Callable[[Path], None]


def put_link(path: Path) -> None:
    secret = path.parent / "secret"
    secret.write_text("of the gateway")
    path.symlink_to(secret)


PLACES: list[Any] = [
    pytest.param(os.mkfifo, id="pipe"),
    pytest.param(os.mkdir, id="folder"),
    pytest.param(put_link, id="link"),
]


def replacing(place: Place, *names: str) -> Callable[[Machine, Launch], int]:
    """A command that puts something in the place of files of its attempt's folder."""

    def command(machine: Machine, launch: Launch) -> int:
        for name in names:
            path = machine.attempt_path(launch.folder) / name
            path.unlink(missing_ok=True)
            place(path)
        return 0

    return command


async def run(store: Store, root: Path, place: Place, *names: str, **members: Any) -> Any:
    batch = Batch(store, Machine(root, replacing(place, *names)), folder=root)
    async with batch.scheduling():
        job_id = await batch.submit(a_task(**members))
        await batch.until_state(job_id, *OVER)
    return batch, job_id


@pytest.mark.parametrize("place", PLACES)
async def test_a_log_that_is_no_file_reads_empty_and_the_other_is_told(
    store: Store, tmp_path: Path, place: Place
) -> None:
    batch, job_id = await run(store, tmp_path, place, "stderr")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        answer = await batch.call("DescribeTaskLogs", JobId=job_id, TaskName="a")
    assert len(os.listdir("/proc/self/fd")) < before + 20, "what was opened is closed"
    [logs] = answer["TaskInstanceLogSet"]
    told = [b64decode(logs[name].partition(",")[2]) for name in ("StdoutLog", "StderrLog")]
    assert told == [f"stdout of {job_id}.0.0.1\n".encode(), b""]


@pytest.mark.parametrize("place", PLACES)
async def test_a_log_that_is_no_file_is_not_kept(
    store: Store, tmp_path: Path, place: Place
) -> None:
    logs = {"RedirectLocalInfo": {"StdoutLocalPath": "/work/logs"}}
    batch, job_id = await run(store, tmp_path, place, "stdout", **logs)
    [instance] = await batch.instances(job_id)
    assert instance["StateReason"] == "STORAGE"
    assert "`stdout` is" in instance["StateDetailedReason"]
    assert str(tmp_path) not in instance["StateDetailedReason"]


@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_says_nothing_and_nobody_waits_for_it(tmp_path: Path, place: Place) -> None:
    for name in (SAMPLES, STAGED, VERDICT, "stdout"):
        (tmp_path / "secret").unlink(missing_ok=True)
        place(tmp_path / name)
    (tmp_path / "stderr").write_bytes(b"x" * (HOG_LOG_BYTES_MAX + 1))
    assert read_samples(tmp_path) is None
    assert read_staged(tmp_path) is None
    assert read_verdict(str(tmp_path)) is None
    cut_logs(str(tmp_path))
    assert (tmp_path / "stderr").stat().st_size == HOG_LOG_BYTES_MAX


def test_a_folder_that_should_be_a_file_is_not_left_open(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(IsADirectoryError), trees.open_file(tmp_path, ["a"]):
            pass
    assert os.listdir("/proc/self/fd") == before
