"""`cos://` on an S3-compatible service: a bucket there for each bucket.

Why botocore, and not a client with less code: the keys of a bucket must arrive as they are.
obstore, the first choice, drops what a path should not have, so that the mark of an empty folder
(`a/`) becomes a file `a`, and `/a` is taken for `a`.
"""

import errno
import math
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

from botocore.exceptions import BotoCoreError, ClientError

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
from gateway.batch.storage.s3_clients import TRIES, Client, Clients, in_words
from gateway.telemetry import log

MB = 1024 * 1024
PART_MB_MIN, PART_MB_MAX = 5, 1_024  # S3 takes no smaller part but the last
PARTS_MAX = 10_000
WORKERS_MAX = 16
OBJECT_BYTES_MAX = 5 * 1024 * 1024 * MB


class S3Storage:
    """A `Storage` whose buckets are those of an S3-compatible service; they are never made here.

    clients: how it is reached; a request that fails is tried again.
    """

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

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
        target = RemoteFile(folder.bucket, f"{folder.key}{name}")
        with trees.naming(source.name), trees.open_file(source.parent, [source.name]) as file:
            how = _How(keys, PART_MB * MB, WORKERS, halted)
            self._upload(file, target, how=how)

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
        """See `Storage.put_tree`. Large files go one after the other, their parts at once."""
        workers = min(max(workers, 1), WORKERS_MAX)
        part = min(max(part_mb, PART_MB_MIN), PART_MB_MAX) * MB
        how = _How(keys, part, workers, halted)
        tree, large = trees.Tree(source, halted=halted), list[tuple[str, str]]()

        def put(item: tuple[str, str], *, may_wait: bool = True) -> None:
            name, origin = item
            target = RemoteFile(folder.bucket, f"{folder.key}{name}")
            with tree.sparing():
                trees.check_key(target.key)
                if not origin:
                    self._mark_folder(target, keys=keys)
                    return
                with tree.open(origin) as file, trees.naming(origin):
                    if file is None:
                        return
                    if may_wait and _size(file) > part:
                        large.append(item)
                        return
                    self._upload(file, target, how=how)

        trees.for_each(tree.files(), put, workers=workers)
        for item in large:
            put(item, may_wait=False)
        tree.raise_failures()
        return tuple(tree.left_out)

    def fetch_tree(
        self,
        folder: RemotePath,
        target: Path,
        *,
        keys: Keys | None = None,
        halted: Halted = never,
    ) -> None:
        """See `Storage.fetch_tree`."""
        client = self._clients.of(keys)

        def fetch(key: str) -> None:
            trees.check_wanted(halted)
            name = key.removeprefix(folder.key)
            try:
                parts = trees.local_parts(name.removesuffix("/"))
                with trees.naming(name):
                    if name.endswith("/"):
                        trees.make_folder(target, parts)
                    else:
                        path = RemoteFile(folder.bucket, key)
                        self._download(
                            path, client=client, target=target, parts=parts, halted=halted
                        )
            except (NotADirectoryError, IsADirectoryError):
                words = f"`{name}` is both a file and a folder in the bucket, or below one."
                raise trees.problem(errno.ENOTDIR, words) from None

        trees.for_each(self._keys_below(folder, client=client), fetch, workers=WORKERS)

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
        client = self._clients.of(keys)
        with trees.naming(target.name):
            self._download(
                path,
                client=client,
                target=target.parent,
                parts=[target.name],
                halted=halted,
                bytes_max=bytes_max,
            )

    def find_folder(self, folder: RemotePath) -> None:
        """See `Storage.find_folder`: it always has to be fetched."""
        return

    def _keys_below(self, folder: RemotePath, *, client: Client) -> Iterator[str]:
        """The keys that begin with the folder's, but for its own mark."""
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=folder.bucket, Prefix=folder.key
        )
        is_there = not folder.key
        with in_words(str(folder)):
            for page in pages:
                for entry in page.get("Contents", ()):
                    is_there = True
                    if entry["Key"] != folder.key:
                        yield entry["Key"]
        if not is_there:
            raise trees.problem(errno.ENOENT, f"The folder `{folder}` does not exist.")

    def _upload(self, file: BinaryIO, target: RemoteFile, *, how: "_How") -> None:
        try:
            self._upload_unless_halted(file, target, how=how)
        except _Unwanted:
            trees.check_wanted(how.halted)

    def _upload_unless_halted(self, file: BinaryIO, target: RemoteFile, *, how: "_How") -> None:
        size, part = _size(file), how.part
        if size > OBJECT_BYTES_MAX:
            raise trees.problem(errno.EFBIG, f"`{target}` is larger than a bucket can hold.")
        client, to = self._clients.of(how.keys), {"Bucket": target.bucket, "Key": target.key}
        with in_words(str(target)):
            if size <= part:
                client.put_object(Body=_Section(file, start=0, size=size, halted=how.halted), **to)
                return
            part = max(part, math.ceil(size / PARTS_MAX))
            upload_id = client.create_multipart_upload(**to)["UploadId"]
            try:
                tags = dict[int, str]()

                def upload(number: int) -> None:
                    start = (number - 1) * part
                    length = min(part, size - start)
                    body = _Section(file, start=start, size=length, halted=how.halted)
                    answer = client.upload_part(
                        Body=body, PartNumber=number, UploadId=upload_id, **to
                    )
                    tags[number] = answer["ETag"]

                trees.for_each(range(1, math.ceil(size / part) + 1), upload, workers=how.workers)
                parts = [{"PartNumber": each, "ETag": tags[each]} for each in sorted(tags)]
                client.complete_multipart_upload(
                    UploadId=upload_id, MultipartUpload={"Parts": parts}, **to
                )
            except BaseException:
                _abort(client, UploadId=upload_id, **to)
                raise

    def _mark_folder(self, folder: RemoteFile, *, keys: Keys | None) -> None:
        with in_words(str(folder)):
            self._clients.of(keys).put_object(Bucket=folder.bucket, Key=folder.key, Body=b"")

    def _download(
        self,
        path: RemoteFile,
        *,
        client: Client,
        target: Path,
        parts: list[str],
        halted: Halted,
        bytes_max: int | None = None,
    ) -> None:
        """Write the file `parts` lead to below `target`; a line that is cut is taken up again."""
        asked = {"Bucket": path.bucket, "Key": path.key}
        rest = dict[str, str]()
        with trees.new_file(target, parts, durable=False) as file:
            for tries_left in reversed(range(TRIES)):
                trees.check_wanted(halted)
                with in_words(str(path)):
                    answer = client.get_object(**asked, **rest)
                with closing(answer["Body"]) as body:
                    if "ContentRange" not in answer:  # all of it, whatever was asked for
                        file.seek(0)
                        file.truncate()
                    size = file.tell() + answer["ContentLength"]
                    if bytes_max is not None and size > bytes_max:
                        words = f"`{path}` is larger than {bytes_max} bytes."
                        raise trees.problem(errno.EFBIG, words)
                    try:
                        with in_words(str(path)):
                            _read_all(body, file, halted=halted)
                    except (ConnectionError, TimeoutError):
                        if not tries_left:
                            raise
                if file.tell() == size:
                    return
                log.info("download_cut", file=str(path), at_byte=file.tell(), of_bytes=size)
                rest = {"Range": f"bytes={file.tell()}-", "IfMatch": answer.get("ETag", "*")}


@dataclass(frozen=True, slots=True)
class _How:
    """How files are uploaded. part: size of the parts of a large one, in bytes; workers: how many
    of them at once.
    """

    keys: Keys | None
    part: int
    workers: int
    halted: Halted


def _abort(client: Client, **upload: str) -> None:
    """Have the service drop the parts of an upload; one that we cannot tell keeps them, unseen."""
    try:
        client.abort_multipart_upload(**upload)
    except (ClientError, BotoCoreError) as error:
        log.warning("upload_not_aborted", key=upload["Key"], error=type(error).__name__)


def _read_all(body: Any, file: BinaryIO, *, halted: Halted) -> None:
    """Write what comes, and not into the last room of the disk."""
    while data := body.read(trees.CHUNK_BYTES):
        trees.check_wanted(halted)
        trees.check_room(file.fileno(), len(data))
        file.write(data)


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


class _Unwanted(BaseException):
    """Nobody wants the upload any more. Why no Exception: a client takes those for a broken line,
    and tries again.
    """


class _Section(RawIOBase):
    """A part of an open file as a file of its own; several can be read at once."""

    def __init__(self, file: BinaryIO, *, start: int, size: int, halted: Halted) -> None:
        self._descriptor, self._start, self._size, self._at = file.fileno(), start, size, 0
        self._halted = halted

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(origin + offset, 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._halted():
            raise _Unwanted
        length = min(len(buffer), max(self._size - self._at, 0))
        data = os.pread(self._descriptor, length, self._start + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
