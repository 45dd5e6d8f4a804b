"""What every `Storage` does."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.batch.storage import RemotePath, Storage, parse_cos_folder

FOLDER = parse_cos_folder("cos://logs-1251783334.cos.ap-guangzhou.myqcloud.com/a/b/")
ROOT_FOLDER = parse_cos_folder("cos://logs-1251783334.cos.ap-guangzhou.myqcloud.com/")

ReadFile = Callable[[RemotePath, str], bytes | None]
"""The content of a stored file, as another client of the storage sees it; None if there is none."""


class StorageConformance:
    """Subclasses give `storage`, and `read_file`."""

    @pytest.mark.parametrize("folder", [FOLDER, ROOT_FOLDER])
    @pytest.mark.parametrize("content", [b"", b"hello\n", bytes(range(256)) * 10_000])
    def test_a_file_arrives_as_it_was(
        self,
        storage: Storage,
        read_file: ReadFile,
        tmp_path: Path,
        folder: RemotePath,
        content: bytes,
    ) -> None:
        source = tmp_path / "source"
        source.write_bytes(content)
        storage.put_file(source, folder=folder, name="out.log")
        assert read_file(folder, "out.log") == content
        assert source.read_bytes() == content

    def test_a_file_replaces_the_one_before(
        self, storage: Storage, read_file: ReadFile, tmp_path: Path
    ) -> None:
        source = tmp_path / "source"
        for content in (b"a long first version", b"second"):
            source.write_bytes(content)
            storage.put_file(source, folder=FOLDER, name="out.log")
        assert read_file(FOLDER, "out.log") == b"second"

    def test_a_file_that_cannot_be_read_leaves_what_was_there(
        self, storage: Storage, read_file: ReadFile, tmp_path: Path
    ) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"good")
        storage.put_file(source, folder=FOLDER, name="out.log")
        with pytest.raises(OSError, match="absent"):
            storage.put_file(tmp_path / "absent", folder=FOLDER, name="out.log")
        with pytest.raises(OSError, match="directory"):
            storage.put_file(tmp_path, folder=FOLDER, name="out.log")
        assert read_file(FOLDER, "out.log") == b"good"

    def test_names_are_taken_literally(
        self, storage: Storage, read_file: ReadFile, tmp_path: Path
    ) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"x")
        for name in ("a b", "ä", "${x}", "*", "%2e%2e", "-rf", "..."):
            storage.put_file(source, folder=FOLDER, name=name)
            assert read_file(FOLDER, name) == b"x"
