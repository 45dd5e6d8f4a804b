"""What becomes of the folders of attempts that are over, and which of them serve again."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.batch.engines import Cause
from gateway.batch.engines.local import LocalEngine
from gateway.batch.executor import work_folders
from gateway.batch.executor.command import open_logs
from gateway.batch.executor.folders import SPARE
from gateway.batch.executor.isolation import NOBODY
from gateway.batch.executor.work_folders import WorkFolders, make_folder, make_passable
from tests.batch.executor.executors import until
from tests.support.attempts import Watch, launch
from tests.support.disks import mounted


@pytest.fixture
def folders(tmp_path: Path) -> WorkFolders:
    opened = WorkFolders(tmp_path)
    opened.open()
    return opened


def made(folders: WorkFolders, folder: Path, *, is_shut: bool = False) -> Path:
    return Path(folders.make(str(folder), user=None, is_shut=is_shut))


def identity(path: Path) -> int:
    return path.stat().st_ino


@pytest.mark.anyio
async def test_an_empty_work_folder_goes_with_its_attempt_and_a_full_one_stays(
    engine: LocalEngine,
) -> None:
    tidy, busy = launch("echo tidy; : > left; rm left"), launch("echo done > result")
    failing = launch("exit 3")
    attempts = [tidy, busy, failing]
    await engine.start(attempts)
    await Watch(engine).ended(attempts)
    there = [(engine.attempt_path(each.folder) / "work").exists() for each in attempts]
    assert there == [False, True, False]
    assert (engine.attempt_path(busy.folder) / "work" / "result").read_text() == "done\n"
    assert engine.log_path(tidy.folder, "stdout").read_text() == "tidy\n"


@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["none"])
async def test_a_command_that_no_process_can_be_given_leaves_no_folder_and_others_run_on(
    engine: LocalEngine,
) -> None:
    impossible, plain = launch("echo \0"), launch("echo well")
    await engine.start([impossible, plain])
    causes = [each.cause for each in await Watch(engine).ended([impossible, plain])]
    assert causes == [Cause.INFRA_LOST, None]
    assert not (engine.attempt_path(impossible.folder) / "work").exists()
    assert engine.log_path(plain.folder, "stdout").read_text() == "well\n"


@pytest.mark.anyio
async def test_every_attempt_finds_its_work_folder_empty_and_its_own(engine: LocalEngine) -> None:
    watch = Watch(engine)
    for _ in range(3):
        attempts = [launch("ls -A; stat -c %a .; chmod 755 .") for _ in range(4)]
        attempts += [launch("ls -A; stat -c %a .") for _ in range(4)]
        await engine.start(attempts)
        await watch.ended(attempts)
        for each in attempts:
            assert engine.log_path(each.folder, "stdout").read_text() == "700\n"


def test_a_folder_that_is_as_it_was_made_serves_again(folders: WorkFolders, tmp_path: Path) -> None:
    first = made(folders, tmp_path / "a" / "1")
    number = identity(first)
    folders.end(str(first.parent), user=None, is_shut=False)
    assert not first.exists()
    assert identity(made(folders, tmp_path / "a" / "2")) == number


changes_of_a_work_folder = pytest.mark.parametrize(
    "change",
    [
        lambda work: work.chmod(0o755),
        lambda work: os.setxattr(work, "user.mark", b"1"),
        lambda work: os.chown(work, NOBODY, NOBODY),
    ],
    ids=["mode", "attribute", "owner"],
)


@changes_of_a_work_folder
def test_a_folder_that_was_changed_never_serves_again(
    folders: WorkFolders, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    first = made(folders, tmp_path / "a" / "1")
    change(first)
    with os.scandir(first):  # it is open, so that no other gets its number
        number = identity(first)
        folders.end(str(first.parent), user=None, is_shut=False)
        assert not first.exists()
        second = made(folders, tmp_path / "a" / "2")
        assert identity(second) != number
    assert second.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_shut_to_others_is_not_handed_on(
    folders: WorkFolders, tmp_path: Path
) -> None:
    first = made(folders, tmp_path / "a" / "1", is_shut=True)
    with os.scandir(first):
        number = identity(first)
        folders.end(str(first.parent), user=None, is_shut=True)
        assert not first.exists()
        assert identity(made(folders, tmp_path / "a" / "2")) != number
        assert identity(made(folders, tmp_path / "a" / "3", is_shut=True)) != number


def test_what_was_put_into_a_folder_beforehand_stays(folders: WorkFolders, tmp_path: Path) -> None:
    folders.end(str(made(folders, tmp_path / "a" / "1").parent), user=None, is_shut=False)
    staged = Path(make_folder(str(tmp_path / "a" / "2"), user=None))
    (staged / "input").touch()
    assert made(folders, tmp_path / "a" / "2") == staged
    assert os.listdir(staged) == ["input"]


def with_logs(folders: WorkFolders, folder: Path) -> Path:
    """A folder made for an attempt that has no other files."""
    made(folders, folder)
    for file in open_logs(str(folder), user=None):
        os.close(file)
    return folder


def end_bare(folders: WorkFolders, folder: Path) -> bool:
    return folders.end(str(folder), user=None, is_shut=False, has_files=False)


def with_known_logs(folders: WorkFolders, folder: Path) -> Path:
    """A folder for an attempt, of which it is known how it was when it was looked at last."""
    first = with_logs(folders, folder.parent / "before")
    wait_for_a_tick(after=first / "stderr")
    assert end_bare(folders, first)
    return with_logs(folders, folder)


def wait_for_a_tick(*, after: Path) -> None:
    """Wait until whatever is changed now bears a later time than a file's last change."""
    while time.clock_gettime_ns(work_folders.CLOCK_REALTIME_COARSE) <= after.stat().st_ctime_ns:
        pass


def test_a_whole_folder_in_which_nothing_was_written_serves_again(
    folders: WorkFolders, tmp_path: Path
) -> None:
    first, second = tmp_path / "a" / "1", tmp_path / "b" / "0" / "2"
    numbers = [identity(path) for path in [with_logs(folders, first), *sorted(first.iterdir())]]
    assert end_bare(folders, first)
    assert not first.exists()
    with_logs(folders, second)
    assert [identity(path) for path in [second, *sorted(second.iterdir())]] == numbers


def test_a_whole_folder_is_looked_into_once(
    folders: WorkFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_known_logs(folders, tmp_path / "a" / "1")
    number = identity(folder)
    monkeypatch.delattr(work_folders, "_look_at")
    monkeypatch.delattr(work_folders, "_wrote_nothing")
    for name in ("2", "3"):
        assert end_bare(folders, folder)
        folder = with_logs(folders, tmp_path / "a" / name)
        assert identity(folder) == number


def test_a_whole_folder_is_looked_into_again_if_a_later_change_could_bear_its_times(
    folders: WorkFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_logs(folders, tmp_path / "a" / "1")
    os.utime(folder, (time.time() + 1_000,) * 2)
    assert end_bare(folders, folder)
    folder = with_logs(folders, tmp_path / "a" / "2")
    monkeypatch.delattr(work_folders, "_look_at")
    with pytest.raises(NameError, match="_look_at"):
        end_bare(folders, folder)


def test_a_change_between_the_look_and_the_move_is_seen_at_the_next_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = work_folders._wrote_nothing  # noqa: SLF001

    def look_too_soon(folder: str, *, user: int | None) -> bool:
        found = look(folder, user=user)
        work = Path(folder, "work")
        work.chmod(0)
        wait_for_a_tick(after=work)
        return found

    # Times are coarse here, whatever the kernel: two changes within a tick bear the same one.
    with mounted(tmp_path, kind="ramfs", options="mode=755"):
        folders = WorkFolders(tmp_path)
        folders.open()
        wait_for_a_tick(after=tmp_path)
        first = with_logs(folders, tmp_path / "a" / "1")
        with monkeypatch.context() as patch:
            patch.setattr(work_folders, "_wrote_nothing", look_too_soon)
            assert end_bare(folders, first)
        second = with_logs(folders, tmp_path / "a" / "2")
        assert (second / "work").stat().st_mode & 0o777 == 0
        end_bare(folders, second)
        third = with_logs(folders, tmp_path / "a" / "3")
        assert (third / "work").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("with_new", [with_logs, with_known_logs], ids=["new", "known"])
@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "stdout").write_bytes(b"said"),
        lambda folder: (folder / "stderr").write_bytes(b"complained"),
        lambda folder: (folder / "stdout").chmod(0o666),
        lambda folder: os.chown(folder / "stdout", NOBODY, NOBODY),
        lambda folder: os.link(folder / "stdout", folder.parent / "another-name"),
        lambda folder: os.setxattr(folder / "stderr", "user.mark", b"1"),
        lambda folder: (folder / "verdict").touch(),
        lambda folder: (folder / "stdout").unlink(),
    ],
    ids=["stdout", "stderr", "mode", "owner", "link", "attribute", "more", "less"],
)
def test_a_folder_whose_logs_were_touched_stays(
    folders: WorkFolders,
    tmp_path: Path,
    change: Callable[[Path], None],
    with_new: Callable[[WorkFolders, Path], Path],
) -> None:
    folder = with_new(folders, tmp_path / "a" / "1")
    change(folder)
    there = {each.name for each in folder.iterdir()}
    assert end_bare(folders, folder)
    assert {each.name for each in folder.iterdir()} == there - {"work"}


@pytest.mark.parametrize("with_new", [with_logs, with_known_logs], ids=["new", "known"])
def test_a_folder_that_holds_what_the_command_left_stays(
    folders: WorkFolders, tmp_path: Path, with_new: Callable[[WorkFolders, Path], Path]
) -> None:
    folder = with_new(folders, tmp_path / "a" / "1")
    (folder / "work" / "left").touch()
    assert not end_bare(folders, folder)
    assert (folder / "work" / "left").exists()


@changes_of_a_work_folder
def test_a_known_folder_whose_work_folder_was_changed_stays_with_its_logs(
    folders: WorkFolders, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder = with_known_logs(folders, tmp_path / "a" / "1")
    change(folder / "work")
    with os.scandir(folder / "work"):  # it is open, so that no other gets its number
        number = identity(folder / "work")
        assert end_bare(folders, folder)
        assert {each.name for each in folder.iterdir()} == {"stdout", "stderr"}
        second = with_logs(folders, tmp_path / "a" / "2")
        assert identity(second / "work") != number


@pytest.mark.anyio
async def test_who_wrote_nothing_leaves_nothing_unless_somebody_has_files_there(
    engine: LocalEngine, isolation: str
) -> None:
    silent, asked = replace(launch("true"), has_files=False), launch("true")
    talks = replace(launch("echo said"), has_files=False)
    attempts = [silent, asked, talks]
    await engine.start(attempts)
    ended = await Watch(engine).ended(attempts)
    there = [engine.log_path(each.folder, "stdout").exists() for each in attempts]
    is_shared = isolation != "sandbox"  # there a folder is shut, and stays until its job goes
    assert there == [not is_shared, True, True]
    assert [each.left_nothing for each in ended] == [is_shared, False, is_shared]
    assert engine.log_path(talks.folder, "stdout").read_text() == "said\n"


@pytest.mark.anyio
async def test_what_an_executor_moved_aside_is_removed_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / SPARE / "7"
    left.mkdir(parents=True)
    folders = WorkFolders(tmp_path)
    folders.open()
    await until(lambda: not left.exists())
    work = made(folders, tmp_path / "a")
    folders.end(str(work.parent), user=None, is_shut=False)
    assert not work.exists()


def test_a_folder_that_another_makes_at_the_same_time_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def mkdir_by_another_first(path: str, mode: int = 0o777) -> None:
        if os.path.isdir(os.path.dirname(path)):
            mkdir(path, mode)
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", mkdir_by_another_first)
    assert make_passable(str(tmp_path / "above" / "below")) is False
    assert (tmp_path / "above" / "below").is_dir()
