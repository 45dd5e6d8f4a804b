"""The folders that a command finds made, under each isolation, and what becomes of them."""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.batch.engines import Mount
from gateway.batch.engines.local import LocalEngine
from gateway.batch.executor.wanted_folders import make_wanted, remove_wanted
from tests.support.attempts import Watch, launch

pytestmark = pytest.mark.anyio


async def test_a_command_writes_to_a_folder_of_its_own_in_its_work_folder(
    engine: LocalEngine,
) -> None:
    command = "echo 1 > o/deep/f && touch o/g && ls -d $HOME/o/deep && test -O o -a -O o/deep"
    attempt = replace(launch(command), folders=("/work/o/deep", "/work/o", "/elsewhere/x"))
    await engine.start([attempt])
    [ended] = await Watch(engine).ended([attempt])
    log = engine.log_path(attempt.folder, "stderr")
    assert (ended.cause, log.read_text()) == (None, "")
    work = engine.attempt_path(attempt.folder) / "work"
    assert (work / "o/deep/f").read_text() == "1\n"


async def test_who_wrote_nothing_leaves_nothing_although_folders_were_made(
    engine: LocalEngine, isolation: str
) -> None:
    silent = replace(launch("true"), has_files=False, folders=("/work/o/deep", "/work/p"))
    writer = replace(launch(": > o/f"), has_files=False, folders=("/work/o", "/work/p"))
    await engine.start([silent, writer])
    ended = await Watch(engine).ended([silent, writer])
    assert [each.left_nothing for each in ended] == [isolation != "sandbox", False]
    works = [engine.attempt_path(each.folder) / "work" for each in (silent, writer)]
    assert not works[0].exists()
    assert os.listdir(works[1]) == ["o"]


@pytest.mark.parametrize("isolation", ["sandbox"])
async def test_a_folder_on_a_disk_is_made_on_the_disk_and_stays_there(engine: LocalEngine) -> None:
    disk = engine.node_path("node-1") / "disk"
    disk.mkdir(parents=True)
    mounts = (Mount(str(disk), "/data", writable=True),)
    for command in ("echo 1 > /data/o/f", "echo 2 >> /data/o/f"):
        attempt = replace(launch(command), mounts=mounts, folders=("/data/o", "/data/empty"))
        await engine.start([attempt])
        [ended] = await Watch(engine).ended([attempt])
        assert ended.cause is None
    assert (disk / "o/f").read_text() == "1\n2\n"
    assert (disk / "empty").is_dir()


def test_nothing_is_made_through_a_link_nor_where_others_have_their_files(
    tmp_path: Path,
) -> None:
    work, share, disk = (tmp_path / name for name in ("root/work", "share", "root/disk"))
    for folder in (work, share, disk):
        folder.mkdir(parents=True)
    (work / "way").symlink_to(share)
    (work / "file").write_text("stays")
    (share / "given").mkdir()
    mounts = (
        Mount(str(share), "/share", writable=True),
        Mount(str(disk), "/in"),
    )
    asked = ("/work/way", "/work/way/a", "/work/file", "/share/a", "/in/a", "/work/made/a")
    wanting = replace(launch("true"), mounts=mounts, folders=(*asked, "/work/way/given"))
    make_wanted(wanting, root=tmp_path / "root", work=str(work), user=None)
    assert (work / "made/a").is_dir()
    assert (os.listdir(share), os.listdir(disk)) == (["given"], [])
    remove_wanted(wanting, work=str(work))
    assert sorted(os.listdir(work)) == ["file", "way"]
    assert (share / "given").is_dir()
