"""What every `Storage` does."""

import errno
import os
import stat
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.batch.storage import KEY_MAX, PASSING, RemoteFile, RemotePath, Storage
from gateway.batch.storage import trees as local_trees

FOLDER_KEY = "a/b/"
SMALL_FILES = 1_001  # more than one page of a list
# Examples share a storage, in folders of their own; each class draws its examples for itself.
ALLOWED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
FEW = settings(max_examples=15, suppress_health_check=ALLOWED)

letters = st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/")
names = st.text(letters, min_size=1, max_size=80).filter(lambda name: name not in {".", ".."})
trees = st.dictionaries(st.lists(names, min_size=1, max_size=4).map(tuple), st.binary(), max_size=6)


class Buckets(Protocol):
    """The storage as another client of it sees it. `bucket` is there, and empty."""

    bucket: str

    def read(self, key: str) -> bytes | None: ...

    def write(self, key: str, content: bytes) -> None: ...

    def keys(self) -> set[str]: ...


def files_below(root: Path) -> dict[str, bytes | None]:
    """The content of each file by its name, None for a folder that is empty."""
    found = dict[str, bytes | None]()
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_file():
            found[name] = path.read_bytes()
        elif not any(path.iterdir()):
            found[f"{name}/"] = None
    return found


class StorageConformance:
    """Subclasses give `storage` and `buckets`."""

    @pytest.fixture
    def folder(self, buckets: Buckets) -> RemotePath:
        return RemotePath(buckets.bucket, FOLDER_KEY)

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        path = tmp_path / "source"
        path.mkdir()
        return path

    @pytest.fixture
    def target(self, tmp_path: Path) -> Path:
        path = tmp_path / "target"
        path.mkdir()
        return path

    @pytest.mark.parametrize("key", ["", FOLDER_KEY])
    @pytest.mark.parametrize("content", [b"", b"hello\n", bytes(range(256)) * 10_000])
    def test_a_file_arrives_as_it_was(
        self, storage: Storage, buckets: Buckets, source: Path, key: str, content: bytes
    ) -> None:
        (source / "log").write_bytes(content)
        storage.put_file(source / "log", folder=RemotePath(buckets.bucket, key), name="out.log")
        assert buckets.read(f"{key}out.log") == content
        assert (source / "log").read_bytes() == content

    def test_a_file_replaces_the_one_before(
        self, storage: Storage, buckets: Buckets, folder: RemotePath, source: Path
    ) -> None:
        for content in (b"a long first version", b"second"):
            (source / "log").write_bytes(content)
            storage.put_file(source / "log", folder=folder, name="out.log")
        assert buckets.read(f"{FOLDER_KEY}out.log") == b"second"

    def test_a_file_that_cannot_be_read_leaves_what_was_there(
        self, storage: Storage, buckets: Buckets, folder: RemotePath, source: Path
    ) -> None:
        (source / "log").write_bytes(b"good")
        storage.put_file(source / "log", folder=folder, name="out.log")
        with pytest.raises(FileNotFoundError, match="`absent`"):
            storage.put_file(source / "absent", folder=folder, name="out.log")
        with pytest.raises(IsADirectoryError, match="directory"):
            storage.put_file(source, folder=folder, name="out.log")
        assert buckets.read(f"{FOLDER_KEY}out.log") == b"good"

    def test_names_are_taken_literally(
        self, storage: Storage, buckets: Buckets, folder: RemotePath, source: Path
    ) -> None:
        (source / "log").write_bytes(b"x")
        for name in ("a b", "ä", "${x}", "*", "%2e%2e", "-rf", "...", "a+b&c=d#e?f", "\\"):
            storage.put_file(source / "log", folder=folder, name=name)
            assert buckets.read(f"{FOLDER_KEY}{name}") == b"x"

    def test_a_file_is_not_stored_through_a_link(
        self, storage: Storage, buckets: Buckets, folder: RemotePath, source: Path
    ) -> None:
        (source / "secret").write_bytes(b"secret")
        (source / "log").symlink_to(source / "secret")
        with pytest.raises(PermissionError):
            storage.put_file(source / "log", folder=folder, name="out.log")
        assert buckets.keys() == set()

    def test_a_tree_arrives_with_its_empty_folders(
        self, storage: Storage, buckets: Buckets, folder: RemotePath, source: Path
    ) -> None:
        (source / "deep" / "deeper").mkdir(parents=True)
        (source / "nothing" / "here").mkdir(parents=True)
        (source / "top").write_bytes(b"1")
        (source / "empty").write_bytes(b"")
        (source / "deep" / "deeper" / "bottom").write_bytes(b"2")
        assert storage.put_tree(source, folder=folder, keys=None, workers=3, part_mb=1) == ()
        below = {"top", "empty", "deep/deeper/bottom", "nothing/here/"}
        assert buckets.keys() == {f"{FOLDER_KEY}{name}" for name in below}
        assert buckets.read("a/b/deep/deeper/bottom") == b"2"

    @FEW
    @given(tree=trees)
    def test_a_tree_comes_back_as_it_went(
        self,
        storage: Storage,
        buckets: Buckets,
        tmp_path_factory: pytest.TempPathFactory,
        tree: dict[tuple[str, ...], bytes],
    ) -> None:
        source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
        for parts, content in tree.items():
            path = source.joinpath(*parts)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            except OSError:  # a file and a folder of one name
                continue
        folder = RemotePath(buckets.bucket, f"{source.name}/")
        storage.put_tree(source, folder=folder)
        if tree:
            storage.fetch_tree(folder, target)
        assert files_below(target) == files_below(source)

    def test_many_small_files_go_and_come(
        self, storage: Storage, folder: RemotePath, source: Path, target: Path
    ) -> None:
        for number in range(SMALL_FILES):
            (source / f"file-{number}").write_bytes(str(number).encode())
        storage.put_tree(source, folder=folder, workers=8)
        storage.fetch_tree(folder, target)
        assert files_below(target) == files_below(source)

    def test_only_links_to_files_of_the_tree_are_stored(
        self, storage: Storage, buckets: Buckets, folder: RemotePath, source: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_bytes(b"secret")
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "secret").write_bytes(b"secret")
        (source / "lib").mkdir()
        (source / "lib" / "lib.so.1").write_bytes(b"library")
        (source / "lib.so").symlink_to("lib/lib.so.1")
        links = {
            "out": "../secret",
            "absolute": str(tmp_path / "secret"),
            "folder_out": "../outside",
            "folder_in": "lib",
            "loop": "loop",
            "dangling": "nothing",
            "around": "../source/../secret",
        }
        for name, aim in links.items():
            (source / name).symlink_to(aim)
        os.mkfifo(source / "pipe")
        os.mknod(source / "socket", stat.S_IFSOCK | 0o600)
        left_out = storage.put_tree(source, folder=folder)
        assert set(left_out) == {*links, "pipe", "socket"}
        assert buckets.keys() == {"a/b/lib.so", "a/b/lib/lib.so.1"}
        assert buckets.read("a/b/lib.so") == b"library"

    def test_a_name_that_no_bucket_takes_is_refused_in_words(
        self, storage: Storage, folder: RemotePath, source: Path, tmp_path: Path
    ) -> None:
        deep = source
        for _ in range(KEY_MAX // 200 + 1):
            deep /= "d" * 200
        deep.mkdir(parents=True)
        bad = [os.fsencode(source) + b"/\xff", os.fsencode(source) + b"/a\nb"]
        with pytest.raises(OSError, match=r"longer than the 1024 bytes") as caught:
            storage.put_tree(source, folder=folder)
        assert str(tmp_path) not in str(caught.value)
        deep.rmdir()
        for path in bad:
            with open(path, "xb"):
                pass
            with pytest.raises(OSError, match=r"The name '.*' (is not|holds)"):
                storage.put_tree(source, folder=folder)
            os.unlink(path)

    def test_one_odd_name_keeps_no_other_file_from_being_stored(
        self, storage: Storage, buckets: Buckets, folder: RemotePath, source: Path
    ) -> None:
        for name in ("a", "c\nd", "deep\n/x", "e\nf", "g\nh", "i\nj", "z"):
            path = source / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"1")
        with pytest.raises(OSError, match=r"'a/b/c\\nd' holds .* with \d more") as caught:
            storage.put_tree(source, folder=folder, workers=1)
        assert caught.value.errno not in PASSING
        assert buckets.keys() == {f"{FOLDER_KEY}a", f"{FOLDER_KEY}z"}

    def test_no_name_of_a_users_file_is_passed_over(
        self, storage: Storage, buckets: Buckets, folder: RemotePath, source: Path, target: Path
    ) -> None:
        for name in (".qcs-part-5", ".qcs-unfinished", ".parts"):
            (source / name).write_bytes(name.encode())
        assert storage.put_tree(source, folder=folder) == ()
        storage.fetch_tree(folder, target)
        assert files_below(target) == files_below(source)

    @pytest.mark.parametrize("looks", [0, 1, 3])
    def test_what_nobody_wants_any_more_is_not_copied_on(
        self, storage: Storage, buckets: Buckets, folder: RemotePath, source: Path, looks: int
    ) -> None:
        for name in ("a", "b", "c", "d", "e"):
            (source / name).write_bytes(b"1")
        answers = iter([False] * looks)

        def halted() -> bool:
            return next(answers, True)

        with pytest.raises(OSError, match="stopped") as caught:
            storage.put_tree(source, folder=folder, workers=1, halted=halted)
        assert caught.value.errno == errno.ECANCELED
        assert len(buckets.keys()) <= looks
        with pytest.raises(OSError, match="stopped") as caught:
            storage.put_file(source / "a", folder=folder, name="log", halted=lambda: True)
        assert caught.value.errno == errno.ECANCELED
        assert buckets.read(f"{FOLDER_KEY}log") is None

    @pytest.mark.parametrize("looks", [0, 1, 3])
    def test_what_nobody_wants_any_more_is_not_fetched_on(
        self, storage: Storage, buckets: Buckets, folder: RemotePath, target: Path, looks: int
    ) -> None:
        for name in ("a", "b", "c", "d", "e"):
            buckets.write(f"{FOLDER_KEY}{name}", b"1")
        answers = iter([False] * looks)

        def halted() -> bool:
            return next(answers, True)

        with pytest.raises(OSError, match="stopped") as caught:
            storage.fetch_tree(folder, target, halted=halted)
        assert caught.value.errno == errno.ECANCELED
        assert len(files_below(target)) <= looks

    def test_a_fetch_that_nobody_wants_any_more_ends_in_the_middle_of_a_file(
        self, storage: Storage, buckets: Buckets, folder: RemotePath, target: Path
    ) -> None:
        buckets.write("a/b/large", b"1" * 20 * local_trees.CHUNK_BYTES)
        looks: list[None] = []

        def halted() -> bool:
            looks.append(None)
            return len(looks) > 5

        file = RemoteFile(buckets.bucket, "a/b/large")
        for fetch in (
            lambda: storage.fetch_tree(folder, target, halted=halted),
            lambda: storage.fetch_file(file, target / "x", bytes_max=2**30, halted=halted),
        ):
            looks.clear()
            with pytest.raises(OSError, match="stopped") as caught:
                fetch()
            assert caught.value.errno == errno.ECANCELED
            assert len(looks) < 20
            assert files_below(target) == {}

    def test_what_is_fetched_does_not_take_the_last_room_of_a_disk(
        self,
        storage: Storage,
        buckets: Buckets,
        folder: RemotePath,
        target: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        buckets.write("a/b/x", b"x")
        file = RemoteFile(buckets.bucket, "a/b/x")
        monkeypatch.setattr(local_trees, "FLOOR_BYTES", 2**62)
        monkeypatch.setattr(local_trees, "FLOOR_PERCENT", 100)
        for fetch in (
            lambda: storage.fetch_tree(folder, target),
            lambda: storage.fetch_file(file, target / "x", bytes_max=9),
        ):
            with pytest.raises(OSError, match="No space left on device") as caught:
                fetch()
            assert caught.value.errno == errno.ENOSPC
            assert files_below(target) == {}

    def test_a_tree_that_is_not_there_is_not_stored(
        self, storage: Storage, folder: RemotePath, tmp_path: Path
    ) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            storage.put_tree(tmp_path / "absent", folder=folder)
        assert str(tmp_path) not in str(caught.value)

    def test_what_is_not_there_is_not_fetched(
        self, storage: Storage, buckets: Buckets, target: Path, tmp_path: Path
    ) -> None:
        buckets.write("a/bb/x", b"x")
        no_bucket = "none-1251783334"
        for folder in (RemotePath(buckets.bucket, FOLDER_KEY), RemotePath(no_bucket, "a/")):
            with pytest.raises(FileNotFoundError, match=r"does not exist\.") as caught:
                storage.fetch_tree(folder, target)
            assert str(tmp_path) not in str(caught.value)
        for file in (RemoteFile(buckets.bucket, "a/b"), RemoteFile(no_bucket, "a")):
            with pytest.raises(FileNotFoundError) as caught:
                storage.fetch_file(file, target / "x", bytes_max=9)
            assert str(tmp_path) not in str(caught.value)
        assert files_below(target) == {}

    def test_only_what_is_below_the_folder_is_fetched(
        self, storage: Storage, buckets: Buckets, folder: RemotePath, target: Path
    ) -> None:
        for key in ("a/b/x", "a/b/c/x", "a/bc", "b/a/b/x"):
            buckets.write(key, key.encode())
        storage.fetch_tree(folder, target)
        assert files_below(target) == {"x": b"a/b/x", "c/x": b"a/b/c/x"}

    def test_a_bucket_is_a_folder_too(
        self, storage: Storage, buckets: Buckets, target: Path
    ) -> None:
        storage.fetch_tree(RemotePath(buckets.bucket, ""), target)
        buckets.write("x", b"x")
        storage.fetch_tree(RemotePath(buckets.bucket, ""), target)
        assert files_below(target) == {"x": b"x"}

    def test_a_file_is_fetched_unless_it_is_too_large(
        self, storage: Storage, buckets: Buckets, target: Path
    ) -> None:
        buckets.write("a/b/c.tgz", b"12345")
        file = RemoteFile(buckets.bucket, "a/b/c.tgz")
        storage.fetch_file(file, target / "package", bytes_max=5)
        assert files_below(target) == {"package": b"12345"}
        with pytest.raises(OSError, match="larger than 4 bytes"):
            storage.fetch_file(file, target / "other", bytes_max=4)
        assert files_below(target) == {"package": b"12345"}

    def test_what_is_fetched_can_be_read_by_anybody(
        self, storage: Storage, buckets: Buckets, folder: RemotePath, target: Path
    ) -> None:
        buckets.write("a/b/c/x", b"x")
        mask = os.umask(0o077)
        try:
            storage.fetch_tree(folder, target)
        finally:
            os.umask(mask)
        modes = [path.stat().st_mode & 0o777 for path in (target / "c", target / "c" / "x")]
        assert modes == [0o755, 0o644]

    def test_a_fetched_tree_does_not_follow_links_in_its_place(
        self, storage: Storage, buckets: Buckets, folder: RemotePath, target: Path, tmp_path: Path
    ) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "victim").write_bytes(b"untouched")
        (target / "c").symlink_to(outside)
        (target / "x").symlink_to(outside / "victim")
        buckets.write("a/b/x", b"new")
        storage.fetch_tree(folder, target)
        buckets.write("a/b/c/victim", b"new")
        with pytest.raises(OSError, match=r"link|both") as caught:
            storage.fetch_tree(folder, target)
        assert str(tmp_path) not in str(caught.value)
        assert files_below(outside) == {"victim": b"untouched"}
        assert (target / "x").read_bytes() == b"new"
        assert not (target / "x").is_symlink()
