"""Remote paths, and the storage on a local folder."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch.attempts import Attempt
from gateway.batch.redirection import file_name
from gateway.batch.storage import RemotePath, Storage, is_file_name, parse_cos_folder
from gateway.batch.storage.local import LocalStorage
from gateway.errors import InvalidParameterValue
from tests.conformance.storage import FOLDER, ReadFile, StorageConformance

BUCKET = "batchdemo-1251783334"
HOST = f"{BUCKET}.cos.ap-guangzhou.myqcloud.com"
ATTEMPT = Attempt("job-00000001", 0, 7, 1)


class TestLocalStorage(StorageConformance):
    """`cos://` on a local folder."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return LocalStorage(tmp_path / "cos")

    @pytest.fixture
    def read_file(self, tmp_path: Path) -> ReadFile:
        def read(folder: RemotePath, name: str) -> bytes | None:
            path = tmp_path / "cos" / folder.bucket / folder.key / name
            return path.read_bytes() if path.exists() else None

        return read


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
