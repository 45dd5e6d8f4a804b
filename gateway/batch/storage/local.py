"""`cos://` on a local folder: `<root>/<bucket>/<key>`."""

import errno
import os
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from gateway.batch.storage import (
    PART_MB,
    WORKERS,
    Halted,
    Keys,
    RemoteFile,
    RemotePath,
    is_file_name,
    never,
    trees,
)

WORKERS_MAX = 32
BUCKETS_KNOWN_MAX = 1_000
ASIDE = ".qcs-unfinished"
"""The folder of files that are being written. No bucket has such a name; one that lies on another
file system has its own, at its top."""


class LocalStorage:
    """A `Storage` that keeps buckets as folders under `root`; a bucket comes with its first file.

    Keys are ignored: whoever may call the gateway may name any bucket. No link below `root` is
    followed. What a crash left unfinished is removed with the next file that is put.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._opened: dict[str, Path] = {}
        self._opening = Lock()

    def put_file(
        self,
        source: Path,
        *,
        folder: RemotePath,
        name: str,
        keys: Keys | None = None,
        halted: Halted = never,
    ) -> None:
        """See `Storage.put_file`."""
        if not is_file_name(name):
            raise trees.problem(errno.EACCES, f"`{name}` cannot be the name of a file.")
        parts = _parts(folder)
        aside = self._aside(folder.bucket)
        _check_top([*parts, name])
        with trees.naming(source.name), trees.open_file(source.parent, [source.name]) as content:
            self._put(content, target=[*parts, name], aside=aside, halted=halted)

    def put_tree(
        self,
        source: Path,
        *,
        folder: RemotePath,
        keys: Keys | None = None,
        workers: int = WORKERS,
        part_mb: int = PART_MB,
        halted: Halted = never,
    ) -> tuple[str, ...]:
        """See `Storage.put_tree`."""
        above, aside = _parts(folder), self._aside(folder.bucket)
        tree = trees.Tree(source, halted=halted)

        def put(item: tuple[str, str]) -> None:
            name, origin = item
            target = [*above, *name.rstrip("/").split("/")]
            with tree.sparing(), trees.naming(name):
                trees.check_key(f"{folder.key}{name}")
                _check_top(target)
                if not origin:
                    trees.make_folder(self._root, target)
                    return
                with tree.open(origin) as content:
                    if content is not None:
                        self._put(content, target=target, aside=aside, halted=halted)

        trees.for_each(tree.files(), put, workers=_clamped(workers))
        tree.raise_failures()
        return tuple(tree.left_out)

    def _put(self, content: BinaryIO, *, target: list[str], aside: Path, halted: Halted) -> None:
        with trees.new_file(self._root, target, durable=True, aside=aside) as file:
            trees.copy(content, file, halted=halted)

    def _aside(self, bucket: str) -> Path:
        """The folder for what is being written to a bucket, on its file system; made and swept."""
        with self._opening:
            if bucket not in self._opened or not self._opened[bucket].is_dir():
                if len(self._opened) >= BUCKETS_KNOWN_MAX:
                    self._opened.clear()
                self._opened[bucket] = self._open_aside(bucket)
            return self._opened[bucket]

    def _open_aside(self, bucket: str) -> Path:
        with trees.naming(bucket):
            self._root.mkdir(parents=True, exist_ok=True)
            top = self._root
            with suppress(FileNotFoundError), trees.folder_below(self._root, [bucket]) as opened:
                if os.fstat(opened).st_dev != top.stat().st_dev:
                    top /= bucket
            aside = top / ASIDE
            trees.make_folder(top, [ASIDE])
            aside.chmod(0o700)
        trees.sweep(aside)
        return aside

    def fetch_tree(
        self,
        folder: RemotePath,
        target: Path,
        *,
        keys: Keys | None = None,
        halted: Halted = never,
    ) -> None:
        """See `Storage.fetch_tree`."""
        source = self.find_folder(folder)
        tree = trees.Tree(source, halted=halted, hidden="" if folder.key else ASIDE)

        def fetch(item: tuple[str, str]) -> None:
            name, origin = item
            parts = name.rstrip("/").split("/")
            with trees.naming(name):
                if not origin:
                    trees.make_folder(target, parts)
                    return
                with (
                    trees.open_file(source, origin.split("/")) as content,
                    trees.new_file(target, parts, durable=False) as file,
                ):
                    trees.copy(content, file, halted=halted)

        trees.for_each(tree.files(), fetch, workers=WORKERS)
        tree.raise_failures()
        if tree.left_out:
            raise trees.problem(errno.EACCES, f"`{tree.left_out[0]}` is not a file of the bucket.")

    def fetch_file(
        self,
        path: RemoteFile,
        target: Path,
        *,
        keys: Keys | None = None,
        bytes_max: int,
        halted: Halted = never,
    ) -> None:
        """See `Storage.fetch_file`."""
        parts = _parts(path)
        with (
            trees.naming(str(path)),
            trees.open_file(self._root, parts) as content,
            trees.new_file(target.parent, [target.name], durable=False) as file,
        ):
            if os.fstat(content.fileno()).st_size > bytes_max:
                raise trees.problem(errno.EFBIG, f"`{path}` is larger than {bytes_max} bytes.")
            trees.copy(content, file, halted=halted)

    def find_folder(self, folder: RemotePath) -> Path:
        """See `Storage.find_folder`: it is always there, and never has to be fetched."""
        parts = _parts(folder)
        try:
            with trees.naming(str(folder)), trees.folder_below(self._root, parts):
                return self._root.joinpath(*parts)
        except FileNotFoundError:
            words = f"The folder `{folder}` does not exist."
            raise trees.problem(errno.ENOENT, words) from None


def _parts(path: RemotePath | RemoteFile) -> list[str]:
    """The way from the root. The forms were checked before; this is the second lock."""
    key = path.key.removesuffix("/") if isinstance(path, RemotePath) else path.key
    try:
        return trees.local_parts(f"{path.bucket}/{key}" if key else path.bucket)
    except OSError:
        raise trees.problem(errno.EACCES, f"`{path}` leads out of its bucket.") from None


def _check_top(target: list[str]) -> None:
    """Refuse the one name at the top of a bucket that is taken."""
    if target[1:2] == [ASIDE]:
        raise trees.problem(errno.EINVAL, f"`{ASIDE}` is a name that no bucket here can hold.")


def _clamped(workers: int) -> int:
    return min(max(workers, 1), WORKERS_MAX)
