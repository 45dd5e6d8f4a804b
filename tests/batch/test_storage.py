"""Remote paths, and the storage on a local folder."""

import itertools
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch.attempts import Attempt
from gateway.batch.redirection import file_name
from gateway.batch.storage import (
    PASSING,
    NfsPath,
    RemoteFile,
    RemotePath,
    Storage,
    is_file_name,
    parse_cos_file,
    parse_cos_folder,
    parse_input_source,
    trees,
)
from gateway.batch.storage.local import ASIDE, LocalStorage
from gateway.batch.storage.trees import UNFINISHED, for_each
from gateway.errors import InvalidParameterValue
from tests.conformance.storage import Buckets, StorageConformance
from tests.support.disks import small_disk

BUCKET = "batchdemo-1251783334"
HOST = f"{BUCKET}.cos.ap-guangzhou.myqcloud.com"
ATTEMPT = Attempt("job-00000001", 0, 7, 1)
HUGE_BYTES = 3 * 2**30


FOLDER = RemotePath(BUCKET, "a/b/")


class LocalBuckets:
    """A `Buckets` that is a folder."""

    def __init__(self, root: Path) -> None:
        self.bucket = BUCKET
        self._folder = root / BUCKET
        self._folder.mkdir(parents=True)

    def read(self, key: str) -> bytes | None:
        path = self._folder / key
        return path.read_bytes() if path.exists() else None

    def write(self, key: str, content: bytes) -> None:
        path = self._folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def keys(self) -> set[str]:
        found = ((path, path.relative_to(self._folder).as_posix()) for path in _ends(self._folder))
        return {name if path.is_file() else f"{name}/" for path, name in found}


def _ends(folder: Path) -> Iterator[Path]:
    """The files below a folder, and the folders that are empty."""
    for path in folder.rglob("*"):
        if path.is_file() or not any(path.iterdir()):
            yield path


class TestLocalStorage(StorageConformance):
    """`cos://` on a local folder."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return LocalStorage(tmp_path / "cos")

    @pytest.fixture
    def buckets(self, tmp_path: Path) -> Buckets:
        return LocalBuckets(tmp_path / "cos")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f"cos://{HOST}/", ""),
        (f"cos://{HOST}/logs/", "logs/"),
        (f"cos://{HOST}/a/b c/ä/", "a/b c/ä/"),
        (f"cos://{BUCKET}.cosgz.myqcloud.com/hello2/logs/", "hello2/logs/"),
        (f"cos://{BUCKET}.cosbj.myqcloud.com/logs/", "logs/"),
        (f"cos://{BUCKET}.ap-guangzhou.myqcloud.com/logs/", "logs/"),
    ],
)
def test_a_cos_folder_is_read(text: str, key: str) -> None:
    assert parse_cos_folder(text) == RemotePath(BUCKET, key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/logs/",
        f"https://{HOST}/",
        f"s3://{HOST}/",
        f"COS://{HOST}/",
        f" cos://{HOST}/",
        "cfs://10.0.0.1/",
        "nfs://10.0.0.1/",
        "file:///etc/",
    ],
)
def test_another_kind_of_storage_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameterValue) as caught:
        parse_cos_folder(text)
    assert caught.value.detail == "RemoteStorageSchemeType"


@pytest.mark.parametrize(
    "text",
    [
        "cos://",
        "cos:///",
        "cos:///logs/",
        f"cos://{HOST}",
        f"cos://{HOST}/logs",
        f"cos://{HOST}//",
        f"cos://{HOST}/a//b/",
        f"cos://{HOST}/../",
        f"cos://{HOST}/a/../../b/",
        f"cos://{HOST}/./",
        f"cos://{HOST}/a\0/",
        f"cos://{HOST}/a\n/",
        f"cos://{HOST}/{'a' * 256}/",
        f"cos://{HOST}/{'a/' * 600}",
        f"cos://{HOST}:8080/",
        f"cos://user@{HOST}/",
        "cos://bucket/dir/",
        "cos://bucket.cos.ap-guangzhou.myqcloud.com/",
        "cos://Batch-1251783334.cos.ap-guangzhou.myqcloud.com/",
        "cos://-b-1251783334.cos.ap-guangzhou.myqcloud.com/",
        "cos://..-1251783334.cos.ap-guangzhou.myqcloud.com/",
        f"cos://{BUCKET}.cos.ap-guangzhou.myqcloud.com.evil.example/",
        f"cos://{BUCKET}.cos.ap-guangzhouXmyqcloud.com/",
    ],
)
def test_a_path_that_is_no_folder_of_a_bucket_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameterValue) as caught:
        parse_cos_folder(text)
    assert caught.value.detail == "RemoteStoragePath"


OLD_DOMAINS = ["cosgz.myqcloud.com", "cosbj.myqcloud.com", "ap-guangzhou.myqcloud.com"]


@pytest.mark.parametrize("domain", ["cos.ap-guangzhou.myqcloud.com", *OLD_DOMAINS])
def test_every_form_of_the_domain_names_the_same_bucket(domain: str) -> None:
    text = f"cos://{BUCKET}.{domain}"
    assert parse_cos_folder(f"{text}/in/") == RemotePath(BUCKET, "in/")
    assert parse_input_source(f"{text}/in/") == RemotePath(BUCKET, "in/")
    assert parse_cos_file(f"{text}/in/a.tgz") == RemoteFile(BUCKET, "in/a.tgz")


@pytest.mark.parametrize("domain", OLD_DOMAINS)
def test_the_guides_rule_allows_the_xml_domain_alone(domain: str) -> None:
    parse_cos_folder(f"cos://{HOST}/", xml_only=True)
    parse_input_source(f"cos://{HOST}/", xml_only=True)
    parse_cos_file(f"cos://{HOST}/x", xml_only=True)
    text = f"cos://{BUCKET}.{domain}"
    assert detail_of(parse_cos_folder, f"{text}/", xml_only=True) == "RemoteStoragePath"
    assert detail_of(parse_input_source, f"{text}/", xml_only=True) == "RemoteStoragePath"
    assert detail_of(parse_cos_file, f"{text}/x", xml_only=True) == "RemoteStoragePath"


@pytest.mark.parametrize("scheme", ["cfs", "nfs"])
def test_an_input_may_come_from_a_file_server(scheme: str) -> None:
    assert parse_input_source(f"{scheme}://10.66.0.1/") == NfsPath("10.66.0.1", "")
    assert parse_input_source(f"{scheme}://10.66.0.1/a/ä b/") == NfsPath("10.66.0.1", "a/ä b/")


@pytest.mark.parametrize(
    "text",
    [
        "cfs://10.66.0.1",
        "cfs://10.66.0.1/a",
        "cfs:///a/",
        "cfs:///",
        "nfs://server/a/",
        "nfs://10.66.0/a/",
        "nfs://10.66.0.256/",
        "nfs://010.66.0.1/",
        "nfs://10.66.0.1:2049/",
        "nfs://[::1]/",
        "nfs://::1/",
        "nfs://../",
        "nfs://10.66.0.1//",
        "nfs://10.66.0.1/../",
        "nfs://10.66.0.1/a/../../b/",
        "nfs://10.66.0.1/a\0/",
        f"nfs://10.66.0.1/{'ä' * 128}/",
        f"nfs://10.66.0.1/{'ä/' * 400}",
        f"cos://{HOST}",
        f"cos://{HOST}/a",
    ],
)
def test_a_path_that_is_no_folder_of_a_server_is_refused(text: str) -> None:
    assert detail_of(parse_input_source, text) == "RemoteStoragePath"


@pytest.mark.parametrize(
    "text", ["", "10.66.0.1/", "NFS://10.66.0.1/", "smb://10.66.0.1/", "s3://b/"]
)
def test_an_input_from_elsewhere_is_refused(text: str) -> None:
    assert detail_of(parse_input_source, text) == "RemoteStorageSchemeType"


@pytest.mark.parametrize("key", ["", "a/", "/a", "a//b", "../a", "a/..", ".", "a\n", "a" * 256])
def test_a_path_that_is_no_file_of_a_bucket_is_refused(key: str) -> None:
    assert detail_of(parse_cos_file, f"cos://{HOST}/{key}") == "RemoteStoragePath"
    assert detail_of(parse_cos_file, f"https://{HOST}/{key}") == "RemoteStorageSchemeType"


def detail_of(parse: Callable[..., object], text: str, *, xml_only: bool = False) -> str | None:
    """The detail of the code that refuses a text."""
    with pytest.raises(InvalidParameterValue) as caught:
        parse(text, xml_only=xml_only)
    return caught.value.detail


@given(key=st.text(st.sampled_from("ab./\\\0\n ~"), max_size=12))
def test_no_key_leads_out_of_its_bucket(key: str) -> None:
    try:
        folder = parse_cos_folder(f"cos://{HOST}/{key}")
    except InvalidParameterValue:
        return
    bucket = Path("/cos") / folder.bucket
    assert Path(os.path.normpath(bucket / folder.key)).is_relative_to(bucket)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "a\0", "a\n", "ä" * 128])
def test_what_cannot_be_a_files_name_is_none(name: str) -> None:
    assert not is_file_name(name)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, "stdout.job-00000001.render.7.log"),
        ("", "stdout.job-00000001.render.7.log"),
        ("${BATCH_JOB_ID}-${BATCH_TASK_INSTANCE_INDEX}.out", "job-00000001-7.out"),
        ("${BATCH_TASK_NAME}.${OTHER}.$HOME", "render.${OTHER}.$HOME"),
    ],
)
def test_placeholders_in_a_files_name_are_filled_in(template: str | None, expected: str) -> None:
    made = file_name(template, stream="stdout", attempt=ATTEMPT, task_name="render")
    assert made == expected


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A bucket that is a file system of its own."""
    with small_disk(tmp_path / "cos" / BUCKET, kib=262_144) as path:
        yield path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"secret")
    return path


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        (RemotePath(BUCKET, "../"), "x"),
        (RemotePath(BUCKET, "../../elsewhere/"), "x"),
        (RemotePath(BUCKET, "/etc/"), "x"),
        (RemotePath("..", ""), "x"),
        (RemotePath(BUCKET, ""), "../x"),
        (RemotePath(BUCKET, ""), "/tmp/x"),  # noqa: S108  # it must not get there
        (RemotePath(BUCKET, ""), ".."),
        (RemotePath(BUCKET, "a/"), ""),
    ],
)
def test_nothing_is_written_outside_although_the_form_was_not_checked(
    tmp_path: Path, source: Path, folder: RemotePath, name: str
) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError):  # noqa: PT011  # which one does not matter
        LocalStorage(tmp_path / "cos").put_file(source, folder=folder, name=name)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [source]
    assert set(before) <= set(tmp_path.iterdir()) <= {*before, tmp_path / "cos"}


@pytest.mark.parametrize("link", [BUCKET, f"{BUCKET}/a", f"{BUCKET}/a/b"])
def test_a_symbolic_link_does_not_lead_out_of_the_bucket(
    tmp_path: Path, source: Path, link: str
) -> None:
    outside = tmp_path / "outside"
    (outside / "b").mkdir(parents=True)
    root = tmp_path / "cos"
    (root / link.replace(BUCKET, FOLDER.bucket)).parent.mkdir(parents=True)
    (root / link.replace(BUCKET, FOLDER.bucket)).symlink_to(outside)
    with pytest.raises(PermissionError):
        LocalStorage(root).put_file(source, folder=FOLDER, name="x")
    assert not any(path.is_file() for path in outside.rglob("*"))


def test_a_link_in_the_files_place_is_replaced_and_not_followed(
    tmp_path: Path, source: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    folder = tmp_path / "cos" / FOLDER.bucket / FOLDER.key
    folder.mkdir(parents=True)
    (folder / "x").symlink_to(victim)
    LocalStorage(tmp_path / "cos").put_file(source, folder=FOLDER, name="x")
    assert victim.read_bytes() == b"untouched"
    assert (folder / "x").read_bytes() == b"secret"
    assert not (folder / "x").is_symlink()


def test_a_failed_copy_leaves_no_half_file(tmp_path: Path, source: Path) -> None:
    storage = LocalStorage(tmp_path / "cos")
    storage.put_file(source, folder=FOLDER, name="x")
    with pytest.raises(OSError, match="absent"):
        storage.put_file(tmp_path / "absent", folder=FOLDER, name="y")
    folder = tmp_path / "cos" / FOLDER.bucket / FOLDER.key
    assert [path.name for path in folder.iterdir()] == ["x"]
    assert stat.S_IMODE((folder / "x").stat().st_mode) == 0o644


def test_a_folder_in_a_bucket_is_found_and_can_be_mounted(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "cos")
    with pytest.raises(FileNotFoundError, match=r"The folder `.*/a/b/` does not exist"):
        storage.find_folder(FOLDER)
    (tmp_path / "cos" / BUCKET / "a" / "b").mkdir(parents=True)
    assert storage.find_folder(FOLDER) == tmp_path / "cos" / BUCKET / "a" / "b"
    assert storage.find_folder(RemotePath(BUCKET, "")) == tmp_path / "cos" / BUCKET
    (tmp_path / "cos" / BUCKET / "a" / "link").symlink_to("b")
    with pytest.raises(PermissionError, match="link"):
        storage.find_folder(RemotePath(BUCKET, "a/link/"))
    (tmp_path / "cos" / BUCKET / "file").touch()
    with pytest.raises(NotADirectoryError):
        storage.find_folder(RemotePath(BUCKET, "file/"))


def test_a_link_that_an_operator_left_in_a_bucket_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "target").mkdir()
    (tmp_path / "cos" / BUCKET / "a" / "b").mkdir(parents=True)
    (tmp_path / "cos" / BUCKET / "a" / "b" / "x").symlink_to(tmp_path / "secret")
    with pytest.raises(PermissionError, match="`x` is not a file of the bucket"):
        LocalStorage(tmp_path / "cos").fetch_tree(FOLDER, tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


def test_what_a_crash_left_half_written_is_in_no_bucket_and_goes_with_the_next_file(
    tmp_path: Path, source: Path
) -> None:
    root = tmp_path / "cos"
    LocalStorage(root).put_file(source, folder=FOLDER, name="x")
    (root / ASIDE / f"{UNFINISHED}1-1").write_bytes(b"ha")
    with trees.new_file(root, [BUCKET, "y"], durable=False, aside=root / ASIDE) as other:
        LocalStorage(root).put_file(source, folder=FOLDER, name="x")
        assert len(list((root / ASIDE).iterdir())) == 1, "that which is being written stays"
        other.write(b"whole")
    assert (root / BUCKET / "y").read_bytes() == b"whole"
    assert list((root / ASIDE).iterdir()) == []


def test_a_bucket_on_another_disk_takes_files_and_its_folder_of_unfinished_ones_is_unseen(
    tmp_path: Path, source: Path, disk: Path
) -> None:
    root = disk.parent
    storage = LocalStorage(root)
    top = RemotePath(disk.name, "")
    storage.put_file(source, folder=top, name="x")
    (tmp_path / "target").mkdir()
    storage.fetch_tree(top, tmp_path / "target")
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["x"]
    with pytest.raises(OSError, match="no bucket here can hold"):
        storage.put_file(source, folder=RemotePath(disk.name, f"{ASIDE}/"), name="x")


def test_holes_of_a_file_are_not_filled_in_a_bucket(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    with (source / "sparse").open("wb") as file:
        file.truncate(HUGE_BYTES)
        os.pwrite(file.fileno(), b"in the middle", HUGE_BYTES // 2)
    storage = LocalStorage(tmp_path / "cos")
    storage.put_tree(source, folder=FOLDER)
    storage.put_file(source / "sparse", folder=FOLDER, name="log")
    for name in ("sparse", "log"):
        stored = tmp_path / "cos" / BUCKET / FOLDER.key / name
        assert stored.stat().st_size == HUGE_BYTES
        assert stored.stat().st_blocks * 512 < 1_000_000
        with stored.open("rb") as file:
            assert os.pread(file.fileno(), 13, HUGE_BYTES // 2) == b"in the middle"


def test_the_last_room_of_a_disk_is_not_taken(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "FLOOR_BYTES", 2**62)
    monkeypatch.setattr(trees, "FLOOR_PERCENT", 100)
    with pytest.raises(OSError, match="`source`: No space left on device") as caught:
        LocalStorage(tmp_path / "cos").put_file(source, folder=FOLDER, name="x")
    assert caught.value.errno in PASSING
    assert not (tmp_path / "cos" / BUCKET / FOLDER.key / "x").exists()


@pytest.mark.parametrize("workers", [-1, 0, 1_000_000])
def test_any_number_of_workers_will_do(tmp_path: Path, source: Path, workers: int) -> None:
    storage = LocalStorage(tmp_path / "cos")
    (tmp_path / "in").mkdir()
    source.rename(tmp_path / "in" / "x")
    storage.put_tree(tmp_path / "in", folder=FOLDER, workers=workers)
    assert storage.find_folder(FOLDER).joinpath("x").read_bytes() == b"secret"


def test_the_first_error_ends_the_work() -> None:
    done = list[int]()

    def work(number: int) -> None:
        done.append(number)
        if number == 3:
            raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        for_each(itertools.count(), work, workers=1)
    assert done == [0, 1, 2, 3]
