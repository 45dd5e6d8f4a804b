"""Unpacking a package, which is somebody else's and may be hostile, into a folder of ours.

Nothing is written outside the folder, nothing through a link, no device, no set-user-id bit, and
no more than the bounds below, nor into the last room of the disk; nor is more read than that, or
kept in memory. Links are made last,
so that no file can be written through one, and one that leads out of the folder makes the whole
package be refused.
"""

import gzip
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from gateway.batch.staging import StagingFailed
from gateway.batch.staging.tarballs import Entry, Kind, Reader, Tarball
from gateway.batch.storage import trees

BYTES_MAX: Final = 8 * 2**30
ENTRIES_MAX: Final = 100_000
DEPTH_MAX: Final = 64
NAME_BYTES_MAX: Final = 4_096
LINK_BYTES_MAX: Final = 4_096
ZIP_DIRECTORY_BYTES_MAX: Final = 64 * 2**20
PADDING_MAX: Final = 64 * 2**20
CHUNK: Final = 1 << 20
STREAM_BYTES_PER_ENTRY: Final = 4_096
"""What a tar archive may have of headers and of filling, for each entry that it may have."""
_END_OF_ZIP: Final = struct.Struct("<4s4H2LH")
_ZIP64_BYTES: Final = 20
_IN_DIRECTORY: Final = struct.Struct("<4s24x3H12x")
_KNOWN_PACKING: Final = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED: Final = 0x1
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a package may hold."""

    bytes_max: int = BYTES_MAX
    entries_max: int = ENTRIES_MAX
    depth_max: int = DEPTH_MAX


def unpack(
    archive: Path,
    into: Path,
    *,
    bounds: Bounds = Bounds(),
    is_stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Unpack a tar archive, plain or gzipped, or a zip archive; its content says which it is.

    into: an empty folder that nobody else writes to meanwhile. is_stopped: asked often; once it
    says so, StagingFailed is raised. Raises OSError; what was unpacked until then is left, for
    whoever made the folder to remove.
    """
    with archive.open("rb") as file:
        begin = file.read(4)
        file.seek(0)
        unpacking = Unpacking(into, bounds, is_stopped)
        try:
            if begin[:2] == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=file) as plain:
                    _read_to_the_end(_unpack_tar(plain, unpacking))
            elif begin in {b"PK\x03\x04", b"PK\x05\x06"}:
                _unpack_zip(file, unpacking)
            else:
                _unpack_tar(file, unpacking)
        except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
            raise StagingFailed("The package is damaged.") from error
        unpacking.make_links()


class Metered:
    """A stream that ends with StagingFailed once it was read too far, or is to stop.

    Why besides the bound of what is written: what is skipped has to be unpacked as well.
    """

    def __init__(self, stream: Reader, unpacking: "Unpacking") -> None:
        bounds = unpacking.bounds
        self._stream = stream
        self._unpacking = unpacking
        self._left = bounds.bytes_max + bounds.entries_max * STREAM_BYTES_PER_ENTRY

    def read(self, size: int, /) -> bytes:
        """Read on."""
        self._unpacking.check_stopped()
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise self._unpacking.too_large()
        return data


def _unpack_tar(stream: Reader, unpacking: "Unpacking") -> Reader:
    """Unpack; returns what is to be read of what follows the archive."""
    metered = Metered(stream, unpacking)
    tarball = Tarball(metered, entries_max=unpacking.bounds.entries_max)
    empty = True
    for entry in tarball:
        empty = False
        unpacking.add(entry, tarball)
    if empty:
        raise StagingFailed("The package is empty, or no archive.")
    return metered


def _read_to_the_end(plain: Reader) -> None:
    """Read what follows a tar archive, for the checksum behind it to be looked at."""
    left = PADDING_MAX
    while chunk := plain.read(CHUNK):
        left -= len(chunk)
        if left < 0:
            raise StagingFailed("The package has much behind its end.")


def _unpack_zip(file: IO[bytes], unpacking: "Unpacking") -> None:
    _check_directory(file, unpacking)
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if info.flag_bits & _ENCRYPTED:
                    raise StagingFailed("The package is encrypted.")
                if info.compress_type not in _KNOWN_PACKING:
                    raise _is_strange()
                with archive.open(info) as content:
                    unpacking.add(_zip_entry(info, content), content)
    except (ValueError, RuntimeError, struct.error, ArithmeticError) as error:
        # What the standard library says of a zip that contradicts itself, or is of a newer kind.
        raise _is_strange() from error


def _is_strange() -> StagingFailed:
    """Why bzip2 and LZMA are strange: the standard library unpacks a megabyte of them in one go,
    and that may be gigabytes.
    """
    return StagingFailed(
        "The package is packed in a way not known here: have it deflated, or use .tgz."
    )


def _check_directory(file: IO[bytes], unpacking: "Unpacking") -> None:
    """Refuse a zip whose list of files is too large, before it is read into memory.

    Why no zip64, which has another list in another place: it is for more or larger files than are
    taken from a zip here, and two lists would be two truths.
    """
    size = file.seek(0, os.SEEK_END)
    tail_at = max(0, size - _END_OF_ZIP.size - 0xFFFF - _ZIP64_BYTES)
    file.seek(tail_at)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06", 0, len(tail) - _END_OF_ZIP.size + 4)
    if at < 0:
        raise StagingFailed("The package is damaged.")
    if tail[max(0, at - _ZIP64_BYTES) : at].startswith(b"PK\x06\x07"):
        raise StagingFailed("The package is a zip of the large kind, zip64: use .tgz.")
    _, _, _, _, _, directory_bytes, _, _ = _END_OF_ZIP.unpack_from(tail, at)
    if directory_bytes > ZIP_DIRECTORY_BYTES_MAX:
        raise StagingFailed("The package's list of files is too large.")
    file.seek(max(0, tail_at + at - directory_bytes))
    _count_entries(file.read(directory_bytes), unpacking)
    file.seek(0)


def _count_entries(directory: bytes, unpacking: "Unpacking") -> None:
    """Count what a zip's list of files has; what its end says of that need not be true."""
    at = count = 0
    while at + _IN_DIRECTORY.size <= len(directory):
        mark, name, extra, remark = _IN_DIRECTORY.unpack_from(directory, at)
        if mark != b"PK\x01\x02":
            return  # damaged, as will be found
        at += _IN_DIRECTORY.size + name + extra + remark
        count += 1
        if count > unpacking.bounds.entries_max:
            raise unpacking.too_many()


def _zip_entry(info: zipfile.ZipInfo, content: IO[bytes]) -> Entry:
    mode = info.external_attr >> 16
    kind, target = Kind.FILE, ""
    if info.is_dir():
        kind = Kind.FOLDER
    elif stat.S_ISLNK(mode):
        kind = Kind.LINK
        target = content.read(LINK_BYTES_MAX).decode(errors="surrogateescape")
    elif stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
        raise StagingFailed("The package has a device, or something else that is no plain file.")
    return Entry(info.filename, kind, info.file_size, stat.S_IMODE(mode) or 0o644, target)


class Unpacking:
    """One package on its way into a folder."""

    def __init__(
        self, into: Path, bounds: Bounds, is_stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self._into = into
        self.bounds = bounds
        self._is_stopped = is_stopped
        self._entries = 0
        self._bytes = 0
        self._links: dict[tuple[str, ...], str] = {}

    def add(self, entry: Entry, content: Reader) -> None:
        """Unpack one entry. Raises OSError."""
        self.check_stopped()
        self._count()
        parts = self._parts(entry.name)
        if not parts:
            return  # the folder itself, as `tar -C folder .` writes it
        if entry.kind is Kind.LINK:
            self._links[parts] = entry.target
            return
        self._links.pop(parts, None)  # the later of two with one name is meant
        if entry.kind is Kind.FOLDER:
            os.close(self._open_folder(parts, is_entry=True))
            return
        folder = self._open_folder(parts[:-1])
        try:
            if entry.kind is Kind.FILE:
                self._write(parts[-1], content, folder=folder, mode=entry.mode)
            else:
                self._join(self._parts(entry.target), parts[-1], folder=folder)
        finally:
            os.close(folder)

    def make_links(self) -> None:
        """Make the symbolic links, after all else. Raises StagingFailed if one leads outside."""
        made = []
        for parts, target in self._links.items():
            self.check_stopped()
            if not 0 < len(os.fsencode(target)) < LINK_BYTES_MAX or "\0" in target:
                raise StagingFailed("The package has a link that leads nowhere.")
            if target.startswith("/") or _climbs_out((*parts[:-1], *target.split("/"))):
                raise _leads_out()
            folder = self._open_folder(parts[:-1])
            try:
                os.symlink(target, parts[-1], dir_fd=folder)
            except FileExistsError as error:
                raise _is_twofold() from error
            finally:
                os.close(folder)
            made.append(self._into.joinpath(*parts))
        root = os.path.realpath(self._into)
        for link in made:  # one link may lead through another
            self.check_stopped()
            try:
                found = os.path.realpath(link)
            except RecursionError as error:
                raise StagingFailed("The package has too many links in a row.") from error
            if found != root and not found.startswith(root + os.sep):
                raise _leads_out()

    def check_stopped(self) -> None:
        """Raise StagingFailed if nobody wants the package any more."""
        if self._is_stopped():
            raise StagingFailed("The unpacking was stopped.")

    def too_many(self) -> StagingFailed:
        """The error for a package that holds more than it may."""
        return StagingFailed(f"The package has over {self.bounds.entries_max} entries.")

    def too_large(self) -> StagingFailed:
        """The error for a package that is larger than it may be."""
        return StagingFailed(f"The package has over {self.bounds.bytes_max} bytes.")

    def _parts(self, name: str) -> tuple[str, ...]:
        """A name taken apart. Raises StagingFailed for one that no package may have."""
        if name.startswith("/"):
            raise _leads_out()
        parts = tuple(part for part in name.split("/") if part not in {"", "."})
        if ".." in parts:
            raise _leads_out()
        if "\0" in name or len(os.fsencode(name)) > NAME_BYTES_MAX:
            raise StagingFailed("The package has a name that no file can have.")
        if len(parts) > self.bounds.depth_max:
            raise StagingFailed(f"The package has over {self.bounds.depth_max} nested folders.")
        return parts

    def _count(self) -> None:
        self._entries += 1
        if self._entries > self.bounds.entries_max:
            raise self.too_many()

    def _open_folder(self, parts: Sequence[str], *, is_entry: bool = False) -> int:
        """Open a folder below ours, made where it is missing, and follow no link on the way.

        is_entry: the last part is an entry of the package, which has been counted. What is made on
        the way to it counts as well: ten names can ask for hundreds of folders.
        """
        folder = os.open(self._into, _FOLDER_FLAGS)
        for depth, part in enumerate(parts, start=1):
            above = folder
            try:
                try:
                    folder = os.open(part, _FOLDER_FLAGS, dir_fd=above)
                except FileNotFoundError:
                    if not is_entry or depth < len(parts):
                        self._count()
                    os.mkdir(part, mode=0o755, dir_fd=above)
                    folder = os.open(part, _FOLDER_FLAGS, dir_fd=above)
                except NotADirectoryError as error:
                    raise _is_twofold() from error
            finally:
                os.close(above)
        return folder

    def _write(self, name: str, content: Reader, *, folder: int, mode: int) -> None:
        """Write a file anew. Only permissions are taken over: no set-user-id, nobody's owner."""
        self._make_room(name, folder=folder)
        file = os.open(name, _FILE_FLAGS, 0o600, dir_fd=folder)
        with open(file, "wb") as written:
            for chunk in _chunks(content):
                self.check_stopped()
                self._bytes += len(chunk)
                if self._bytes > self.bounds.bytes_max:
                    raise self.too_large()
                trees.check_room(file, len(chunk))
                written.write(chunk)
            os.fchmod(written.fileno(), mode & 0o777 | 0o600)

    def _join(self, original: tuple[str, ...], name: str, *, folder: int) -> None:
        """Give a file that is there a second name; links are not there yet, so it is a file."""
        if not original:
            raise _is_twofold()
        above = self._open_folder(original[:-1])
        try:
            if not stat.S_ISREG(os.lstat(original[-1], dir_fd=above).st_mode):
                raise _is_twofold()
            if name == original[-1] and os.path.sameopenfile(above, folder):
                return
            self._make_room(name, folder=folder)
            os.link(original[-1], name, src_dir_fd=above, dst_dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError as error:
            raise StagingFailed("The package has a link to a file that it has not.") from error
        finally:
            os.close(above)

    def _make_room(self, name: str, *, folder: int) -> None:
        """Remove an earlier file of this name: it may have a second name, which stays as it is."""
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError) as error:
            raise _is_twofold() from error


def _chunks(content: Reader) -> Iterator[bytes]:
    while chunk := content.read(CHUNK):
        yield chunk


def _climbs_out(parts: Iterable[str]) -> bool:
    depth = 0
    for part in parts:
        depth += -1 if part == ".." else part not in {"", "."}
        if depth < 0:
            return True
    return False


def _leads_out() -> StagingFailed:
    return StagingFailed("The package has a name or a link that leads out of its folder.")


def _is_twofold() -> StagingFailed:
    return StagingFailed("The package has one name for two things.")
