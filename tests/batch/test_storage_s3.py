"""The storage on an S3-compatible service: moto's server, and lines to it that break."""

import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.batch.storage import Keys, RemoteFile, RemotePath, Storage
from gateway.batch.storage.s3 import MB, S3Storage
from gateway.batch.storage.s3_clients import TRIES, Clients, addressing
from tests.conformance.storage import FEW, Buckets, StorageConformance, files_below
from tests.support.s3 import REGION, CutLine, S3Server, running_s3
from tests.support.services import LOOPBACK, free_port

ANYBODY = Keys("AKIDanybody", "secret-of-anybody")
BIG = 11 * MB
StorageAt = Callable[..., S3Storage]
odd_keys = st.lists(
    st.sampled_from(["", ".", "..", "a", "b", "ü", "a" * 256, "\\"]), min_size=1, max_size=4
).map("/".join)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def storage_at() -> Iterator[StorageAt]:
    """Makes storages, and closes their lines afterwards."""
    with contextlib.ExitStack() as stack:

        def make(url: str, *, keys: Keys | None = ANYBODY, read_s: float = 30) -> S3Storage:
            clients = Clients(url, keys=keys, region=REGION, read_s=read_s)
            stack.callback(clients.close)
            return S3Storage(clients)

        yield make


@pytest.fixture
def storage(server: S3Server, storage_at: StorageAt) -> Storage:
    return storage_at(server.url)


@pytest.fixture
def bucket(server: S3Server) -> str:
    return server.new_bucket()


@pytest.fixture
async def line(server: S3Server) -> AsyncIterator[CutLine]:
    async with CutLine.open(server.port) as opened:
        assert isinstance(opened, CutLine)
        yield opened


class S3Buckets:
    """A `Buckets` that asks the server."""

    def __init__(self, server: S3Server, bucket: str) -> None:
        self.bucket = bucket
        self._server = server

    def read(self, key: str) -> bytes | None:
        return self._server.read(self.bucket, key)

    def write(self, key: str, content: bytes) -> None:
        self._server.write(self.bucket, key, content)

    def keys(self) -> set[str]:
        return self._server.keys(self.bucket)


class TestS3Storage(StorageConformance):
    """`cos://` on an S3-compatible service."""

    @pytest.fixture
    def buckets(self, server: S3Server, bucket: str) -> Buckets:
        return S3Buckets(server, bucket)


@FEW
@given(keys=st.sets(odd_keys, min_size=1, max_size=4))
@example(keys={"../x"})
@example(keys={"/etc/x"})
@example(keys={"/"})
@example(keys={"a//b"})
@example(keys={"a", "a/b"})
@example(keys={"a", "a/"})
@example(keys={"a/", "a/b", "b/"})
def test_no_key_of_a_bucket_leads_out_of_the_target(
    storage: Storage,
    server: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
    keys: set[str],
) -> None:
    bucket, around = server.new_bucket(), tmp_path_factory.mktemp("around")
    target = around / "in" / "target"
    target.mkdir(parents=True)
    for key in keys:
        server.write(bucket, f"p/{key}", b"" if key.endswith("/") else b"x")
    parts = [key.removesuffix("/").split("/") for key in keys if key]
    unfit = any(part in {"", ".", ".."} or len(part) > 255 for each in parts for part in each)
    files = {key for key in keys if key and not key.endswith("/")}
    both = any(other != key and other.startswith(f"{key}/") for key in files for other in keys)
    if unfit or both:
        with pytest.raises(OSError, match=r"^\[Errno \d+\] `.*` is (not a name|both)"):
            storage.fetch_tree(RemotePath(bucket, "p/"), target)
    else:
        storage.fetch_tree(RemotePath(bucket, "p/"), target)
        assert {name for name, content in files_below(target).items() if content} == files
    outside = [path for path in around.rglob("*") if not path.is_relative_to(target)]
    assert outside == [target.parent]
    assert files_below(target).keys() <= {key.strip("/") for key in keys} | keys


def test_a_large_file_goes_in_parts_and_comes_back(
    storage: Storage, server: S3Server, bucket: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    content = bytes(range(251)) * (BIG // 251)
    (source / "big").write_bytes(content)
    (source / "small").write_bytes(b"1")
    folder = RemotePath(bucket, "")
    storage.put_tree(source, folder=folder, workers=2, part_mb=1)  # raised to what S3 takes
    assert server.tag(bucket, "big").endswith("-3")
    assert "-" not in server.tag(bucket, "small")
    storage.put_file(source / "big", folder=folder, name="log")
    assert server.tag(bucket, "log").endswith("-2")
    assert server.read(bucket, "log") == content
    (tmp_path / "target").mkdir()
    storage.fetch_tree(folder, tmp_path / "target")
    assert files_below(tmp_path / "target") == {"big": content, "small": b"1", "log": content}


def test_a_folder_always_has_to_be_fetched(storage: Storage, bucket: str) -> None:
    assert storage.find_folder(RemotePath(bucket, "")) is None


def test_a_bucket_is_not_made(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="The bucket of `none-1250000000/a/x` does not"):
        storage.put_file(tmp_path / "x", folder=RemotePath("none-1250000000", "a/"), name="x")


def test_keys_of_a_task_count_before_those_of_the_storage(
    storage_at: StorageAt, server: S3Server, bucket: str, tmp_path: Path
) -> None:
    server.write(bucket, "x", b"x")
    file = RemoteFile(bucket, "x")
    with server.signatures_checked() as pair:
        good, wrong, unknown = Keys(*pair), Keys(pair[0], "wrong" * 8), ANYBODY
        refused = [(wrong, None), (unknown, None), (good, wrong), (good, unknown)]
        for own, keys in refused:
            storage = storage_at(server.url, keys=own)
            with pytest.raises(PermissionError, match="The storage refused access") as caught:
                storage.fetch_file(file, tmp_path / "x", keys=keys, bytes_max=9)
            for key in (*pair, "wrong", ANYBODY.secret_id, ANYBODY.secret_key):
                assert key not in str(caught.value)
        accepted = [(good, None), (wrong, good), (None, good)]
        for storages, given in accepted:
            storage = storage_at(server.url, keys=storages)
            storage.fetch_file(file, tmp_path / "x", keys=given, bytes_max=9)
    assert (tmp_path / "x").read_bytes() == b"x"
    assert pair[1] not in repr(good)


def test_without_keys_only_what_is_public_is_fetched(
    storage_at: StorageAt, server: S3Server, bucket: str, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(b"mine")
    storage_at(server.url).put_file(tmp_path / "x", folder=RemotePath(bucket, ""), name="private")
    server.write(bucket, "public", b"public")
    unsigned = storage_at(server.url, keys=None)
    unsigned.fetch_file(RemoteFile(bucket, "public"), tmp_path / "y", bytes_max=9)
    assert (tmp_path / "y").read_bytes() == b"public"
    with pytest.raises(PermissionError):
        unsigned.fetch_file(RemoteFile(bucket, "private"), tmp_path / "y", bytes_max=9)


def test_nothing_in_the_environment_counts(
    storage_at: StorageAt,
    storage: Storage,
    server: S3Server,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "config").write_text("[default]\nregion = nowhere\nendpoint_url = http://x\n")
    for name, value in {
        "AWS_PROFILE": "absent",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_ENDPOINT_URL": "http://localhost:1",
        "AWS_ENDPOINT_URL_S3": "http://localhost:1",
        "AWS_CA_BUNDLE": "absent",
        "AWS_SESSION_TOKEN": "token",
        "AWS_REGION": "nowhere",
        "AWS_MAX_ATTEMPTS": "-1",
        "AWS_RETRY_MODE": "nonsense",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "HTTP_PROXY": "http://localhost:1",
        "http_proxy": "http://localhost:1",
    }.items():
        monkeypatch.setenv(name, value)
    server.write(bucket, "x", b"x")
    for own in (ANYBODY, None):
        file = RemoteFile(bucket, "x")
        storage_at(server.url, keys=own).fetch_file(file, tmp_path / "x", bytes_max=9)
    assert (tmp_path / "x").read_bytes() == b"x"


@pytest.mark.anyio
async def test_a_download_that_is_cut_is_taken_up_where_it_was(
    storage_at: StorageAt, server: S3Server, bucket: str, line: CutLine, tmp_path: Path
) -> None:
    content = bytes(range(251)) * (3 * MB // 251)
    server.write(bucket, "x", content)
    line.after_bytes, line.cuts_left = MB, TRIES - 1
    storage = storage_at(f"http://{LOOPBACK}:{line.port}")
    fetch = partial(
        storage.fetch_file, RemoteFile(bucket, "x"), tmp_path / "x", bytes_max=len(content)
    )
    await anyio.to_thread.run_sync(fetch)
    assert line.cuts_left == 0
    assert (tmp_path / "x").read_bytes() == content


@pytest.mark.anyio
async def test_a_download_that_is_always_cut_leaves_what_was_there(
    storage_at: StorageAt, server: S3Server, bucket: str, line: CutLine, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "x").write_bytes(b"before")
    server.write(bucket, "x", b"x" * 3 * MB)
    line.after_bytes, line.cuts_left = 2_000, 1_000
    storage = storage_at(f"http://{LOOPBACK}:{line.port}")
    for fetch in (
        partial(storage.fetch_file, RemoteFile(bucket, "x"), target / "x", bytes_max=9 * MB),
        partial(storage.fetch_tree, RemotePath(bucket, ""), target),
    ):
        with pytest.raises(ConnectionError, match=f"The line to the storage .* `{bucket}/x`"):
            await anyio.to_thread.run_sync(fetch)
        assert [path.name for path in target.iterdir()] == ["x"]
        assert (target / "x").read_bytes() == b"before"


@pytest.mark.anyio
async def test_an_upload_that_is_cut_is_tried_again(
    storage_at: StorageAt, server: S3Server, bucket: str, line: CutLine, tmp_path: Path
) -> None:
    content = bytes(range(251)) * (BIG // 251)
    (tmp_path / "x").write_bytes(content)
    line.after_bytes, line.cuts_left = MB, TRIES - 1
    storage = storage_at(f"http://{LOOPBACK}:{line.port}")
    put = partial(storage.put_file, tmp_path / "x", folder=RemotePath(bucket, ""), name="x")
    await anyio.to_thread.run_sync(put)
    assert line.cuts_left == 0
    assert server.read(bucket, "x") == content


@pytest.mark.anyio
async def test_an_upload_that_is_always_cut_leaves_what_was_there(
    storage_at: StorageAt, server: S3Server, bucket: str, line: CutLine, tmp_path: Path
) -> None:
    server.write(bucket, "x", b"before")
    (tmp_path / "x").write_bytes(b"x" * BIG)
    line.after_bytes, line.cuts_left = MB, 1_000
    storage = storage_at(f"http://{LOOPBACK}:{line.port}")
    put = partial(storage.put_file, tmp_path / "x", folder=RemotePath(bucket, ""), name="x")
    with pytest.raises(ConnectionError, match=f"The line to the storage .* `{bucket}/x`"):
        await anyio.to_thread.run_sync(put)
    assert server.read(bucket, "x") == b"before"
    assert server.uploads(bucket) == []


def test_a_service_that_says_nothing_is_not_waited_for(
    storage_at: StorageAt, tmp_path: Path
) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        storage = storage_at(f"http://{LOOPBACK}:{silent.getsockname()[1]}", read_s=0.1)
        with pytest.raises(TimeoutError, match="did not answer in time for `b-1250000000/x`"):
            storage.fetch_file(RemoteFile("b-1250000000", "x"), tmp_path / "x", bytes_max=9)


def test_a_service_that_is_not_there_is_told(storage_at: StorageAt, tmp_path: Path) -> None:
    storage = storage_at(f"http://{LOOPBACK}:{free_port()}")
    with pytest.raises(ConnectionError, match="could not be made, for `b-1250000000/`"):
        storage.fetch_tree(RemotePath("b-1250000000", ""), tmp_path)


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://127.0.0.1:9000", "path"),
        ("https://minio.example.org", "path"),
        ("https://cos.ap-guangzhou.myqcloud.com", "virtual"),
        ("https://myqcloud.com.example.org", "path"),
    ],
)
def test_only_cos_itself_has_the_bucket_in_the_host(endpoint: str, expected: str) -> None:
    assert addressing(endpoint) == expected
