"""`cos://` on a local folder: `<root>/<bucket>/<key>`."""

import errno
import os
import shutil
from pathlib import Path

from gateway.batch.storage import (
    PART_MB,
    WORKERS,
    Keys,
    RemoteFile,
    RemotePath,
    is_file_name,
    trees,
)

WORKERS_MAX = 32


class LocalStorage:
    """A `Storage` that keeps buckets as folders under `root`; a bucket comes with its first file.

    Keys are ignored: whoever may call the gateway may name any bucket. No link below `root` is
    followed.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def put_file(
        self, source: Path, *, folder: RemotePath, name: str, keys: Keys | None = None
    ) -> None:
        """See `Storage.put_file`."""
        if not is_file_name(name):
            raise trees.problem(errno.EACCES, f"`{name}` cannot be the name of a file.")
        self._root.mkdir(parents=True, exist_ok=True)
        self._put(source.parent, source.name, target=[*_parts(folder), name])

    def put_tree(
        self,
        source: Path,
        *,
        folder: RemotePath,
        keys: Keys | None = None,
        workers: int = WORKERS,
        part_mb: int = PART_MB,
    ) -> tuple[str, ...]:
        """See `Storage.put_tree`."""
        above = _parts(folder)
        self._root.mkdir(parents=True, exist_ok=True)
        tree = trees.Tree(source)

        def put(item: tuple[str, str]) -> None:
            name, origin = item
            trees.check_key(f"{folder.key}{name}")
            target = [*above, *name.rstrip("/").split("/")]
            if origin:
                self._put(source, origin, target=target)
            else:
                with trees.naming(name):
                    trees.make_folder(self._root, target)

        trees.for_each(tree.files(), put, workers=_clamped(workers))
        return tuple(tree.left_out)

    def _put(self, source: Path, origin: str, *, target: list[str]) -> None:
        parts = origin.split("/")
        with (
            trees.naming(origin),
            trees.open_file(source, parts) as content,
            trees.new_file(self._root, target, durable=True) as file,
        ):
            shutil.copyfileobj(content, file, trees.CHUNK_BYTES)

    def fetch_tree(self, folder: RemotePath, target: Path, *, keys: Keys | None = None) -> None:
        """See `Storage.fetch_tree`."""
        source = self.find_folder(folder)
        tree = trees.Tree(source)

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
                    shutil.copyfileobj(content, file, trees.CHUNK_BYTES)

        trees.for_each(tree.files(), fetch, workers=WORKERS)
        if tree.left_out:
            raise trees.problem(errno.EACCES, f"`{tree.left_out[0]}` is not a file of the bucket.")

    def fetch_file(
        self, path: RemoteFile, target: Path, *, keys: Keys | None = None, bytes_max: int
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
            shutil.copyfileobj(content, file, trees.CHUNK_BYTES)

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


def _clamped(workers: int) -> int:
    return min(max(workers, 1), WORKERS_MAX)
