"""What a command sees besides its work folder, and what nobody can make it see."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from msgspec.structs import replace

from gateway.batch.engines import Cause, Ended, Launch, Mount, view
from gateway.batch.engines.local import LocalEngine
from gateway.batch.executor import spawning
from gateway.batch.executor.command import Command, command_of
from gateway.batch.executor.control_groups import open_control_groups
from gateway.batch.executor.isolation import isolation_named
from gateway.batch.executor.mounts import CannotLaunch, place
from gateway.batch.executor.runner import Runner
from gateway.batch.executor.spawn_pool import SpawnPool
from gateway.clock import now
from tests.batch.executor.executors import spawn
from tests.support.attempts import Watch, launch

sandboxed = pytest.mark.parametrize("isolation", ["sandbox"])


@pytest.fixture
def share(root: Path) -> Path:
    """A folder of others, outside the executor's own, which the command's user may not enter."""
    folder = root.parent / "shares" / "data"
    folder.mkdir(parents=True)
    folder.parent.chmod(0o700)
    folder.chmod(0o755)
    (folder / "given").write_text("from outside\n")
    return folder


@pytest.fixture
def open_share(share: Path) -> Path:
    """One that everybody may write to who can reach it."""
    share.chmod(0o777)
    return share


def rights(path: Path) -> tuple[int, int]:
    """Whose a folder is, and its mode."""
    status = path.stat()
    return status.st_uid, status.st_mode


def mounting(command: str, mounts: Sequence[Mount]) -> Launch:
    return replace(launch(command), mounts=tuple(mounts))


async def run(engine: LocalEngine, attempt: Launch) -> tuple[Ended, str, str]:
    """How an attempt ends and what it wrote to stdout and stderr."""
    await engine.start([attempt])
    [ended] = await Watch(engine).ended([attempt])
    logs = [engine.log_path(attempt.folder, stream) for stream in ("stdout", "stderr")]
    return ended, *(log.read_text() if log.exists() else "" for log in logs)  # type: ignore[return-value]  # two


@sandboxed
@pytest.mark.anyio
async def test_a_read_only_mount_is_seen_and_cannot_be_written_to(
    engine: LocalEngine, open_share: Path
) -> None:
    attempt = mounting(
        "cat /data/input/given; echo no > /data/input/new",
        [Mount(str(open_share), "/data/input")],
    )
    ended, out, err = await run(engine, attempt)
    assert (ended.cause, out) == (Cause.USER_EXIT, "from outside\n")
    assert "Read-only" in err
    assert os.listdir(open_share) == ["given"]


@sandboxed
@pytest.mark.anyio
async def test_a_folder_of_ours_can_be_written_to_and_keeps_what_was_written(
    engine: LocalEngine,
) -> None:
    disk = engine.node_path("node-1") / "disk"
    disk.mkdir(parents=True)
    ended, _, err = await run(
        engine, mounting("echo kept > /data/file", [Mount(str(disk), "/data", writable=True)])
    )
    assert (ended.cause, err) == (None, "")
    assert (disk / "file").read_text() == "kept\n"


@sandboxed
@pytest.mark.anyio
async def test_a_share_that_lets_others_write_does(engine: LocalEngine, open_share: Path) -> None:
    before = rights(open_share)
    mounts = [Mount(str(open_share), "/share", writable=True)]
    ended, _, err = await run(engine, mounting("echo x > /share/new", mounts))
    assert (ended.cause, err) == (None, "")
    assert (open_share / "new").exists()
    assert rights(open_share) == before


@sandboxed
@pytest.mark.anyio
async def test_a_share_that_lets_nobody_write_is_not_given_to_the_commands_user(
    engine: LocalEngine, share: Path
) -> None:
    before = rights(share)
    mounts = [Mount(str(share), "/share", writable=True)]
    ended, _, _ = await run(engine, mounting("echo x > /share/new", mounts))
    # a gateway that is not root runs commands as itself, to whom the share belongs
    assert ended.cause is (Cause.USER_EXIT if os.geteuid() == 0 else None)
    assert rights(share) == before


@sandboxed
@pytest.mark.anyio
async def test_parents_come_before_what_lies_below_them_whatever_the_order(
    engine: LocalEngine, share: Path
) -> None:
    disk = engine.node_path("node-1") / "disk"
    disk.mkdir(parents=True)
    mounts = [Mount(str(share), "/data/in/deep"), Mount(str(disk), "/data", writable=True)]
    ended, out, err = await run(
        engine, mounting("cat /data/in/deep/given; touch /data/own", mounts)
    )
    assert (ended.cause, out, err) == (None, "from outside\n", "")


@sandboxed
@pytest.mark.anyio
async def test_a_file_and_a_folder_can_be_mounted_within_the_work_folder(
    engine: LocalEngine, share: Path
) -> None:
    mounts = [
        Mount(str(share), "/work/in put"),
        Mount(str(share / "given"), "/work/one.txt"),
    ]
    ended, out, err = await run(engine, mounting("cat 'in put/given' one.txt; ls", mounts))
    assert (ended.cause, out, err) == (None, "from outside\n" * 2 + "in put\none.txt\n", "")


@pytest.mark.parametrize(
    "target",
    ["/", "/usr", "/usr/bin/x", "/etc/x", "/lib64", "/proc/1", "/dev/x", "/work", "work", "//x",
     "/data/../usr", "/run/x"],
)  # fmt: skip
@sandboxed
@pytest.mark.anyio
async def test_nothing_hides_the_system_or_the_work_folder(
    engine: LocalEngine, share: Path, target: str
) -> None:
    ended, out, _ = await run(engine, mounting("echo ran", [Mount(str(share), target)]))
    assert (ended.cause, ended.exit_code, out) == (Cause.STORAGE, None, "")
    assert repr(target) in ended.detail


@sandboxed
@pytest.mark.anyio
async def test_a_link_left_on_a_disk_leads_no_mount_elsewhere(
    engine: LocalEngine, share: Path
) -> None:
    disk = engine.node_path("node-1") / "disk"
    disk.mkdir(parents=True)
    writing = [Mount(str(disk), "/data", writable=True)]
    links = "ln -s ../usr/bin /data/in; ln -s / /data/root"
    ended, _, _ = await run(engine, mounting(links, writing))
    assert ended.cause is None
    for target in ("/data/in", "/data/in/x", "/data/root/tmp"):
        ended, out, _ = await run(
            engine, mounting("echo ran", [*writing, Mount(str(share), target)])
        )
        assert (ended.cause, out) == (Cause.STORAGE, "")


@sandboxed
@pytest.mark.anyio
async def test_nothing_is_mounted_within_what_others_can_change(
    engine: LocalEngine, share: Path
) -> None:
    mounts = [Mount(str(share), "/share", writable=True), Mount(str(share), "/share/in")]
    ended, out, _ = await run(engine, mounting("echo ran", mounts))
    assert (ended.cause, out) == (Cause.STORAGE, "")
    assert "others can change" in ended.detail


@sandboxed
@pytest.mark.anyio
async def test_a_source_is_never_reached_through_a_link(engine: LocalEngine, share: Path) -> None:
    (share / "away").symlink_to("/etc")
    for source in (share / "away", share / "away" / "ssl", share / "none"):
        ended, out, _ = await run(engine, mounting("echo ran", [Mount(str(source), "/data")]))
        assert (ended.cause, out) == (Cause.STORAGE, "")
        assert str(share) not in ended.detail


@pytest.mark.parametrize("isolation", ["uid", "none"])
@pytest.mark.anyio
async def test_without_a_sandbox_a_launch_with_mounts_ends_at_once(
    engine: LocalEngine, share: Path, isolation: str
) -> None:
    ended, out, _ = await run(engine, mounting("echo ran", [Mount(str(share), "/data")]))
    assert (ended.cause, ended.exit_code, out) == (Cause.STORAGE, None, "")
    assert isolation in ended.detail
    after, out, _ = await run(engine, launch("echo ran"))
    assert (after.cause, out) == (None, "ran\n")


def test_what_was_replaced_after_it_was_found_is_not_shown_to_the_command(
    root: Path, share: Path
) -> None:
    root.mkdir(mode=0o711)
    (root / "attempts").mkdir(mode=0o711)
    isolation = isolation_named("sandbox", root=root)
    attempt = mounting("cat /data/given", [Mount(str(share), "/data")])
    work = root / "attempts" / attempt.folder / "work"
    command = command_of(attempt, isolation, root=root, work=str(work))
    as_found = spawn(command, work)
    assert (as_found.returncode, as_found.stdout) == (0, "from outside\n")
    share.rename(share.with_name("old"))
    share.mkdir(mode=0o755)
    (share / "given").write_text("secret\n")
    swapped = spawn(command, work)
    assert (swapped.returncode, swapped.stdout) == (126, "")
    assert "replaced" in swapped.stderr


def test_two_mounts_have_two_targets(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    mounts = [Mount(str(tmp_path / "a"), "/data"), Mount(str(tmp_path / "a"), "/data/")]
    with pytest.raises(CannotLaunch, match="Two things"):
        place(mounts, root=tmp_path / "engine", work=str(tmp_path), user=None)


def run_and_replace(root: Path, share: Path, attempt: Launch) -> Ended:
    """Replace the share after it was looked at, before the attempt's process exists.

    For a process of its own: a runner ends every child of its process that it does not know.
    """

    def command_of_and_replace(*words: Any, **more: Any) -> Command:
        command = command_of(*words, **more)
        share.rename(share.with_name("old"))
        share.mkdir(mode=0o755)
        return command

    groups = open_control_groups(root)
    groups.claim()
    isolation = isolation_named("sandbox", root=root)
    pool = SpawnPool(1)
    runner = Runner(root, isolation=isolation, pool=pool, groups=groups, clock=now)
    runner.enqueue([attempt])
    replacing = mock.patch.object(spawning, "command_of", command_of_and_replace)
    with closing(groups), closing(pool), replacing:
        assert runner.spawn(count_max=1) == []
        runner.flush()
        ended: list[Ended] = []
        while not ended:
            assert runner.hear().ended == []
            ended = runner.reap()
    [outcome] = ended
    return outcome


def test_a_share_that_is_replaced_before_it_is_mounted_is_a_failure_of_storage(
    root: Path, share: Path
) -> None:
    os.mkdir(root, mode=0o711)
    attempt = mounting("echo ran; exit 126", [Mount(str(share), "/data")])
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        outcome = pool.submit(run_and_replace, root, share, attempt).result(timeout=30)
    assert (outcome.cause, outcome.exit_code) == (Cause.STORAGE, None)
    assert "replaced" in outcome.detail
    assert (root / "attempts" / attempt.folder / "stdout").read_bytes() == b""


@pytest.mark.parametrize("isolation", ["sandbox"])
@pytest.mark.anyio
async def test_a_command_that_exits_as_that_does_has_failed_by_itself(
    engine: LocalEngine, share: Path
) -> None:
    ended, out, _ = await run(engine, mounting("echo ran; exit 126", [Mount(str(share), "/data")]))
    assert (ended.cause, ended.exit_code, out) == (Cause.USER_EXIT, 126, "ran\n")


@pytest.mark.parametrize("isolation", ["sandbox"])
@pytest.mark.anyio
async def test_something_can_be_mounted_at_tmp_and_below_it(
    engine: LocalEngine, share: Path
) -> None:
    below = [Mount(str(share), f"{view.TMP}/a/b")]
    ended, out, _ = await run(engine, mounting("cat /tmp/a/b/given; echo > /tmp/x", below))
    assert (ended.cause, out) == (None, "from outside\n")
    itself = [Mount(str(share), view.TMP)]
    ended, out, _ = await run(engine, mounting("cat /tmp/given", itself))
    assert (ended.cause, out) == (None, "from outside\n")
