"""What is kept of an attempt: output folders, logs in local folders; and what is never kept."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.batch import datatypes
from gateway.batch.attempts import Attempt
from gateway.batch.engines import Cause, Ended, Launch, Mount
from gateway.batch.staging.keeping import Keeper
from gateway.batch.staging.places import Order, Spot, find_spot
from gateway.batch.storage import Halted, RemotePath, never, trees
from gateway.batch.storage.local import LocalStorage
from gateway.errors import InvalidParameterValue
from gateway.service import decode
from gateway.store import Store
from tests.support.batch import START, Batch, a_task, eventually
from tests.support.staging import BUCKET, COS, Machine, put

pytestmark = pytest.mark.anyio
OVER = ("SUCCEED", "FAILED")
OUTPUT = {"SourcePath": "/data/out/", "DestinationPath": f"{COS}out/"}
Command = Callable[[Machine, Launch], int | None]


async def run(
    store: Store, root: Path, command: Command, **members: Any
) -> tuple[str, dict[str, Any]]:
    """Run one task to its end; returns the job's id and the first instance."""
    batch = Batch(store, Machine(root, command), folder=root)
    async with batch.scheduling():
        job_id = await batch.submit(a_task(**members))
        await batch.until_state(job_id, *OVER)
    return job_id, (await batch.instances(job_id))[0]


def kept(root: Path, folder: str = "out") -> dict[str, str]:
    """The files of a folder in the bucket."""
    top = root / "cos" / BUCKET / folder
    return {
        each.relative_to(top).as_posix(): each.read_text()
        for each in sorted(top.rglob("*"))
        if each.is_file()
    }


@pytest.mark.parametrize("code", [0, 7])
async def test_an_output_folder_is_kept_however_the_command_ended(
    store: Store, tmp_path: Path, code: int
) -> None:
    def command(machine: Machine, launch: Launch) -> int:
        out = machine.seen_at(launch, "/data/out")
        assert list(out.iterdir()) == []
        (out / "a").mkdir()
        (out / "a/b.txt").write_text("result")
        return code

    _, instance = await run(store, tmp_path, command, OutputMappings=[OUTPUT])
    assert instance["ExitCode"] == code
    assert kept(tmp_path) == {"a/b.txt": "result"}


async def test_output_in_the_working_folder_needs_no_mount(store: Store, tmp_path: Path) -> None:
    def command(machine: Machine, launch: Launch) -> int:
        assert launch.mounts == ()
        (machine.work(launch) / "results").mkdir()
        (machine.work(launch) / "results" / "x").write_text("x")
        return 0

    mappings = [
        {"SourcePath": "/work/results", "DestinationPath": f"{COS}out/"},
        {"SourcePath": "/work/absent", "DestinationPath": f"{COS}absent/"},
    ]
    _, instance = await run(store, tmp_path, command, OutputMappings=mappings)
    assert instance["TaskInstanceState"] == "SUCCEED", "nothing to leave is no failure"
    assert kept(tmp_path) == {"x": "x"}


async def test_no_link_that_a_command_left_hands_out_files_of_the_machine(
    store: Store, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("of the gateway")

    def command(machine: Machine, launch: Launch) -> int:
        (machine.work(launch) / "way").symlink_to(secret)
        out = machine.seen_at(launch, "/data/out")
        (out / "key").symlink_to(secret / "key")
        (out / "folder").symlink_to(secret)
        os.mkfifo(out / "pipe")
        (out / "mine").write_text("mine")
        return 0

    through = {"SourcePath": "/work/way", "DestinationPath": f"{COS}out/"}
    below = {"SourcePath": "/work/way/key", "DestinationPath": f"{COS}out/"}
    _, instance = await run(store, tmp_path, command, OutputMappings=[OUTPUT, through, below])
    assert kept(tmp_path) == {"mine": "mine"}
    assert instance["StateReason"] == Cause.STORAGE.value, "it asked for what it may not have"


async def test_logs_are_copied_to_folders_of_the_node_before_outputs_are_kept(
    store: Store, tmp_path: Path
) -> None:
    redirect = {
        "StdoutLocalPath": "/data/out/logs/",
        "StderrLocalPath": "/work/logs",
        "StdoutLocalFileName": "${BATCH_JOB_ID}-${BATCH_TASK_NAME}-${BATCH_TASK_INSTANCE_INDEX}",
    }
    in_work = {"SourcePath": "/work/logs", "DestinationPath": f"{COS}work/"}
    job_id, instance = await run(
        store,
        tmp_path,
        lambda *_: 0,
        RedirectLocalInfo=redirect,
        OutputMappings=[OUTPUT, in_work],
    )
    assert instance["TaskInstanceState"] == "SUCCEED"
    attempt = f"{job_id}.0.0.1"
    assert kept(tmp_path) == {f"logs/{job_id}-a-0": f"stdout of {attempt}\n"}
    assert kept(tmp_path, "work") == {f"stderr.{job_id}.a.0.log": f"stderr of {attempt}\n"}


@pytest.mark.parametrize("place", ["/data/out/way", "/data/out/file", "/work/way"])
async def test_a_log_is_copied_through_no_link(store: Store, tmp_path: Path, place: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()

    def command(machine: Machine, launch: Launch) -> int:
        for folder in (machine.work(launch), machine.seen_at(launch, "/data/out")):
            (folder / "way").symlink_to(outside)
            (folder / "file").write_text("a file where a folder should be")
        return 0

    _, instance = await run(
        store,
        tmp_path,
        command,
        OutputMappings=[OUTPUT],
        RedirectLocalInfo={"StdoutLocalPath": place},
    )
    assert list(outside.iterdir()) == []
    assert instance["StateReason"] == Cause.STORAGE.value
    assert place in instance["StateDetailedReason"]
    assert str(tmp_path) not in instance["StateDetailedReason"]


async def test_a_log_in_a_file_of_the_same_name_replaces_it_and_what_it_links_to_stays(
    store: Store, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("untouched")

    def command(machine: Machine, launch: Launch) -> int:
        (machine.seen_at(launch, "/data/out") / "log").symlink_to(outside)
        return 0

    redirect = {"StdoutLocalPath": "/data/out", "StdoutLocalFileName": "log"}
    job_id, _ = await run(
        store, tmp_path, command, OutputMappings=[OUTPUT], RedirectLocalInfo=redirect
    )
    assert outside.read_text() == "untouched"
    assert kept(tmp_path) == {"log": f"stdout of {job_id}.0.0.1\n"}


async def test_a_log_for_a_place_that_goes_with_the_attempt_is_no_failure(
    store: Store, tmp_path: Path
) -> None:
    redirect = {"StdoutLocalPath": "/opt/logs", "StderrLocalPath": "/data/logs"}
    _, instance = await run(store, tmp_path, lambda *_: 0, RedirectLocalInfo=redirect)
    assert instance["TaskInstanceState"] == "SUCCEED"


class ShutStorage(LocalStorage):
    """Takes no output folder."""

    def put_tree(self, source: Path, **_: Any) -> tuple[str, ...]:
        raise PermissionError(errno.EACCES, "The storage refused access")


class AwayStorage(LocalStorage):
    """Is full, or away, at first; `tries` counts."""

    def __init__(self, root: Path, *, fails: int, number: int = errno.ENOSPC) -> None:
        super().__init__(root)
        self.tries = 0
        self._fails, self._number = fails, number

    def put_tree(self, source: Path, **how: Any) -> tuple[str, ...]:
        self.tries += 1
        if self.tries <= self._fails:
            raise OSError(self._number, os.strerror(self._number))
        return super().put_tree(source, **how)


@pytest.mark.parametrize(("code", "cause"), [(0, Cause.STORAGE), (3, Cause.USER_EXIT)])
async def test_output_that_cannot_be_kept_makes_a_success_a_failure(
    store: Store, tmp_path: Path, code: int, cause: Cause
) -> None:
    batch = Batch(store, Machine(tmp_path, lambda *_: code), folder=tmp_path)
    batch.storage = ShutStorage(tmp_path / "cos")
    logs = {"StdoutRedirectPath": f"{COS}logs/"}
    async with batch.scheduling():
        job_id = await batch.submit(a_task(OutputMappings=[OUTPUT], RedirectInfo=logs))
        assert await batch.until_state(job_id, *OVER) == "FAILED"
    [instance] = await batch.instances(job_id)
    assert instance["StateReason"] == cause.value
    if cause is Cause.STORAGE:
        assert "`/data/out/`: The storage refused access." in instance["StateDetailedReason"]
    assert list(kept(tmp_path, "logs")) == [f"stdout.{job_id}.a.0.log"], "the logs all the same"


async def test_the_workers_that_were_asked_for_are_passed_on(store: Store, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    class Noting(LocalStorage):
        def put_tree(self, source: Path, **how: Any) -> tuple[str, ...]:
            asked.append(how)
            return ()

    batch = Batch(store, Machine(tmp_path, lambda *_: 0), folder=tmp_path)
    batch.storage = Noting(tmp_path / "cos")
    config = {"Scene": "COS", "WorkerNum": 3, "WorkerPartSize": 20}
    key = {"Scene": "COS", "SecretId": "AKIDlonglonglonglong", "SecretKey": "k" * 32}
    async with batch.scheduling():
        job_id = await batch.submit(
            a_task(OutputMappings=[OUTPUT], OutputMappingConfigs=[config], Authentications=[key])
        )
        assert await batch.until_state(job_id, *OVER) == "SUCCEED"
    [how] = asked
    assert how["folder"] == RemotePath(BUCKET, "out/")
    assert (how["workers"], how["part_mb"]) == (3, 20)
    assert how["keys"].secret_key == "k" * 32, "the real key, not the masked one"


async def test_a_global_workspace_stays_on_the_node_and_a_batch_workspace_is_new(
    store: Store, tmp_path: Path
) -> None:
    found: list[int] = []

    def command(machine: Machine, launch: Launch) -> int:
        for path in ("/data/out", "/global"):
            folder = machine.seen_at(launch, path)
            found.append(len(list(folder.iterdir())))
            (folder / launch.attempt_id).write_text("x")
        return 0

    shared = {
        "SourcePath": "/global",
        "DestinationPath": f"{COS}global/",
        "OutputMappingOption": {"Workspace": "GLOBAL_WORKSPACE"},
    }
    batch = Batch(store, Machine(tmp_path, command), folder=tmp_path)
    async with batch.scheduling():
        env_id = await batch.create_env()
        for _ in range(2):
            job_id = await batch.submit(a_task(EnvId=env_id, OutputMappings=[OUTPUT, shared]))
            assert await batch.until_state(job_id, *OVER) == "SUCCEED"
    assert found == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("path", "root", "parts", "given"),
    [
        ("/work", "/a", ("work",), 1),
        ("/work/x/y/", "/a", ("work", "x", "y"), 1),
        ("/data/out/x", "/a", ("outputs", "1", "x"), 2),
        ("/data//./out/", "/a", ("outputs", "1"), 2),
        ("/data/other", "/node", ("disks", "other"), 1),
        ("/data/in/x", None, (), 0),
        ("/data/share/x", None, (), 0),
        ("/workspace", None, (), 0),
        ("/elsewhere", None, (), 0),
    ],
)
def test_a_path_of_the_node_is_found_in_the_nearest_mount_if_that_is_ours(
    path: str, root: str | None, parts: tuple[str, ...], given: int
) -> None:
    mounts = [
        Mount("/node/disks", "/data", writable=True),
        Mount("/a/outputs/1", "/data/out", writable=True),
        Mount("/a/inputs/1", "/data/in"),
        Mount("/share/a", "/data/share", writable=True),
    ]
    spot = find_spot(path, work=Path("/a/work"), mounts=mounts, within=[Path("/a"), Path("/node")])
    assert spot == (Spot(Path(root), parts, given) if root else None)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ECONNABORTED, errno.EREMOTEIO])
async def test_a_storage_that_is_away_is_asked_again_and_says_so_meanwhile(
    store: Store, tmp_path: Path, number: int
) -> None:
    def command(machine: Machine, launch: Launch) -> int:
        (machine.seen_at(launch, "/data/out") / "x").write_text("result")
        return 0

    batch = Batch(store, Machine(tmp_path, command), folder=tmp_path)
    batch.storage = storage = AwayStorage(tmp_path / "cos", fails=1, number=number)
    async with batch.scheduling():
        job_id = await batch.submit(a_task(OutputMappings=[OUTPUT]))

        async def is_told() -> bool:
            [instance] = await batch.instances(job_id)
            return "cannot be kept yet: `/data/out/`" in instance["StateDetailedReason"]

        await eventually(is_told)
        job = await batch.call("DescribeJob", JobId=job_id)
        assert "The first is `a`: its instance 0: Its command has ended" in job["StateReason"]
        assert "cannot be kept yet: `/data/out/`" in job["StateReason"]
        assert await batch.until_state(job_id, *OVER) == "SUCCEED"
        [instance] = await batch.instances(job_id)
    assert storage.tries == 2
    assert kept(tmp_path) == {"x": "result"}
    assert instance["StateDetailedReason"] == "successful"
    assert (await batch.call("DescribeJob", JobId=job_id))["StateReason"] == ""


async def test_a_job_of_which_something_runs_does_not_say_that_the_rest_waits(
    store: Store, tmp_path: Path
) -> None:
    def command(machine: Machine, launch: Launch) -> int | None:
        return 0 if launch.environment["BATCH_TASK_INSTANCE_INDEX"] == "0" else None

    batch = Batch(store, Machine(tmp_path, command), folder=tmp_path)
    batch.storage = AwayStorage(tmp_path / "cos", fails=1_000_000)
    async with batch.scheduling():
        job_id = await batch.submit(a_task(instances=2, OutputMappings=[OUTPUT]))

        async def is_told() -> bool:
            told = [each["StateReason"] for each in await batch.instances(job_id)]
            return "cannot be kept yet" in told[0] and not told[1]

        await eventually(is_told)
        assert (await batch.call("DescribeJob", JobId=job_id))["StateReason"] == ""


async def test_a_job_that_waits_for_its_storage_can_be_terminated(
    store: Store, tmp_path: Path
) -> None:
    batch = Batch(store, Machine(tmp_path, lambda *_: 0), folder=tmp_path)
    batch.storage = storage = AwayStorage(tmp_path / "cos", fails=1_000_000)
    async with batch.scheduling():
        job_id = await batch.submit(a_task(OutputMappings=[OUTPUT]))

        async def has_tried() -> bool:
            return storage.tries > 0

        await eventually(has_tried)
        await batch.call("TerminateJob", JobId=job_id)
        assert await batch.until_state(job_id, *OVER) == "FAILED"
    [instance] = await batch.instances(job_id)
    assert instance["StateReason"] == Cause.TERMINATED.value, instance


async def test_a_long_copy_ends_when_its_job_is_terminated(store: Store, tmp_path: Path) -> None:
    copying = threading.Event()

    class Endless(LocalStorage):
        def put_tree(self, source: Path, *, halted: Halted = never, **_: Any) -> tuple[str, ...]:
            copying.set()
            while True:
                trees.check_wanted(halted)

    batch = Batch(store, Machine(tmp_path, lambda *_: 0), folder=tmp_path)
    batch.storage = Endless(tmp_path / "cos")
    async with batch.scheduling():
        job_id = await batch.submit(a_task(OutputMappings=[OUTPUT], MaxRetryCount=3))

        async def is_copying() -> bool:
            return copying.is_set()

        await eventually(is_copying)
        await batch.call("TerminateJob", JobId=job_id)
        assert await batch.until_state(job_id, *OVER) == "FAILED"
    [instance] = await batch.instances(job_id)
    assert instance["StateReason"] == Cause.TERMINATED.value
    assert "not all kept" in instance["StateDetailedReason"]


@pytest.mark.parametrize("cause", [None, Cause.TERMINATED])
async def test_a_storage_is_given_up_in_the_end_and_at_once_after_a_termination(
    tmp_path: Path, cause: Cause | None
) -> None:
    attempt = Attempt("job-00000001", 0, 0, 1)
    machine = Machine(tmp_path, lambda *_: 0)
    folder = machine.attempt_path(attempt.folder)
    (folder / "work" / "out").mkdir(parents=True)
    storage = AwayStorage(tmp_path / "cos", fails=1_000_000, number=errno.ETIMEDOUT)
    keeper = Keeper(machine, storage, pause_s=0.001, give_up_s=0 if cause else 0.1)
    mapping = {"SourcePath": "/work/out", "DestinationPath": f"{COS}out/"}
    task = decode(a_task(OutputMappings=[mapping]), datatypes.Task)
    told: list[str] = []
    ended = await keeper.keep(
        Ended(attempt.id, START, 0, cause),
        attempt,
        order=Order(task, folder),
        tell=told.append,
    )
    assert ended.cause is (cause or Cause.STORAGE)
    assert (storage.tries > 1) is (cause is None)
    assert told[-1] == ""


async def test_what_no_storage_takes_is_told_of_a_success(store: Store, tmp_path: Path) -> None:
    def command(machine: Machine, launch: Launch) -> int:
        out = machine.seen_at(launch, "/data/out")
        (out / ".qcs-part-5").write_text("mine")
        (out / "gone").symlink_to("nowhere")
        os.mkfifo(os.fsencode(out) + b"/pipe\xff\n")
        return 0

    _, instance = await run(store, tmp_path, command, OutputMappings=[OUTPUT])
    assert kept(tmp_path) == {".qcs-part-5": "mine"}
    assert instance["TaskInstanceState"] == "SUCCEED"
    words = instance["StateDetailedReason"]
    assert words.startswith("successful; not kept: `gone`, `pipe\\udcff\\n` (")


async def test_one_odd_name_is_told_and_keeps_no_other_file_away(
    store: Store, tmp_path: Path
) -> None:
    def command(machine: Machine, launch: Launch) -> int:
        for name in ("a", "c\nd", "z"):
            (machine.seen_at(launch, "/data/out") / name).write_text(name)
        return 0

    _, instance = await run(store, tmp_path, command, OutputMappings=[OUTPUT])
    assert kept(tmp_path) == {"a": "a", "z": "z"}
    assert instance["StateReason"] == Cause.STORAGE.value
    assert "c\\nd" in instance["StateDetailedReason"]


def test_an_attempts_folder_is_not_one_that_staging_uses() -> None:
    assert Attempt("job-00000001", 0, 0, 1).folder == "job-00000001/0/0.1"


DISKS = [{"LocalPath": "/disk"}]


@pytest.mark.parametrize("of_env", [False, True])
@pytest.mark.parametrize("below", ["", "/a/b"])
async def test_output_on_a_disk_is_kept_from_the_disk_that_the_command_sees(
    store: Store, tmp_path: Path, of_env: bool, below: str
) -> None:
    def command(machine: Machine, launch: Launch) -> int:
        disk = machine.seen_at(launch, "/disk")
        assert (len(launch.mounts), launch.folders) == (1, (f"/disk{below}",))
        (disk / below[1:]).mkdir(parents=True, exist_ok=True)
        (disk / below[1:] / f"of-{launch.attempt_id}").write_text("result")
        return 0

    output = {"SourcePath": f"/disk{below}/", "DestinationPath": f"{COS}out/"}
    batch = Batch(store, Machine(tmp_path, command), folder=tmp_path)
    async with batch.scheduling():
        place: dict[str, Any] = {"ComputeEnv": {"EnvData": {}, "MountDataDisks": DISKS}}
        if of_env:
            place = {"EnvId": await batch.create_env(MountDataDisks=DISKS), "ComputeEnv": None}
        job_ids = [await batch.submit(a_task(OutputMappings=[output], **place)) for _ in range(2)]
        for job_id in job_ids:
            assert await batch.until_state(job_id, *OVER) == "SUCCEED"
    assert kept(tmp_path) == {f"of-{job_id}.0.0.1": "result" for job_id in job_ids}


async def test_output_for_an_environments_input_is_refused_and_what_was_accepted_before_fails(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "input/words")
    given = {"SourcePath": f"{COS}input/", "DestinationPath": "/in/put"}
    output = {"SourcePath": "/in//put/", "DestinationPath": f"{COS}out/"}
    machine = Machine(tmp_path, lambda *_: 0)
    batch = Batch(store, machine, folder=tmp_path)
    async with batch.scheduling():
        env_id = await batch.create_env(InputMappings=[given])
        task = a_task(EnvId=env_id, OutputMappings=[output])
        with pytest.raises(InvalidParameterValue) as caught:
            await batch.submit(task)
        assert caught.value.detail == "LocalPath"
        monkeypatch.setattr("gateway.batch.jobs.check_kept_places", lambda *_, **__: None)
        job_id = await batch.submit(task)
        assert await batch.until_state(job_id, *OVER) == "FAILED"
        [instance] = await batch.instances(job_id)
    assert instance["StateReason"] == Cause.STORAGE.value
    assert "`/in/put` would hide the input" in instance["StateDetailedReason"]
    assert machine.started == []
