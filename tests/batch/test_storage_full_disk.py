"""A full disk: no file is there by half, and all goes on once there is room."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.batch.storage import RemoteFile, RemotePath
from gateway.batch.storage.local import LocalStorage
from gateway.batch.storage.s3 import S3Storage
from gateway.batch.storage.s3_clients import Clients
from tests.conformance.storage import files_below
from tests.support.disks import small_disk
from tests.support.s3 import REGION, running_s3

KB = 1024
DISK_KB = 256
BUCKET = "batchdemo-1251783334"
FOLDER = RemotePath(BUCKET, "a/")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    with small_disk(tmp_path / "disk", kib=DISK_KB) as path:
        yield path


def check_that_it_goes_on(work: Callable[[], object], disk: Path, *, before: Path) -> None:
    """The disk is too small for `work`; with the file `before` gone from it, it is not."""
    held = files_below(disk)
    with pytest.raises(OSError, match=r"No space left on device") as caught:
        work()
    assert str(disk) not in str(caught.value)
    assert files_below(disk).items() >= held.items()
    before.unlink()
    work()


def test_what_has_no_room_in_a_bucket_is_not_there_by_half(disk: Path, tmp_path: Path) -> None:
    storage = LocalStorage(disk)
    (tmp_path / "log").write_bytes(b"x" * 100 * KB)
    storage.put_file(tmp_path / "log", folder=FOLDER, name="log")
    (tmp_path / "log").write_bytes(b"y" * 100 * KB)
    (disk / "filler").write_bytes(b"z" * 100 * KB)

    def put_file() -> None:
        storage.put_file(tmp_path / "log", folder=FOLDER, name="log")

    check_that_it_goes_on(put_file, disk, before=disk / "filler")


def test_what_has_no_room_is_not_fetched_by_half(disk: Path, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "cos")
    (tmp_path / "log").write_bytes(b"x" * 200 * KB)
    storage.put_file(tmp_path / "log", folder=FOLDER, name="log")
    (disk / "filler").write_bytes(b"z" * 100 * KB)
    check_that_it_goes_on(lambda: storage.fetch_tree(FOLDER, disk), disk, before=disk / "filler")
    assert files_below(disk) == {"log": b"x" * 200 * KB}


def test_what_has_no_room_is_not_fetched_by_half_from_a_service(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "s3").mkdir()
    with running_s3(tmp_path / "s3") as server:
        bucket = server.new_bucket()
        server.write(bucket, "log", b"x" * 200 * KB)
        clients = Clients(server.url, keys=None, region=REGION)
        storage, file = S3Storage(clients), RemoteFile(bucket, "log")
        (disk / "filler").write_bytes(b"z" * 100 * KB)
        try:
            check_that_it_goes_on(
                lambda: storage.fetch_file(file, disk / "log", bytes_max=KB * KB),
                disk,
                before=disk / "filler",
            )
        finally:
            clients.close()
    assert files_below(disk) == {"log": b"x" * 200 * KB}
