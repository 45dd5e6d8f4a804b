"""Local folders: listed, read and written by name, and never through a link.

Names are relative, with "/" between their parts. Each part is opened below the one before, so that
whoever may write in a folder cannot lead us out of it, not even while we look. What these functions
raise is what `gateway.batch.storage` promises.
"""

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import BinaryIO, TypeVar

from gateway.batch.storage.paths import KEY_MAX, is_name

CHUNK_BYTES = 1024 * 1024
LEFT_OUT_MAX = 20
UNFINISHED = ".qcs-part-"
"""How the name of a file begins that is being written; one that a crash left is never listed."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not make us wait
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_numbers = itertools.count()

Item = TypeVar("Item")


def problem(number: int, words: str) -> OSError:
    """An OSError of the class that fits `number`, with `words` for its strerror."""
    return OSError(number, words)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Have errors of the operating system tell `name` instead of a path of the machine."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.strerror != os.strerror(error.errno):
            raise  # it has its words already
        raise problem(error.errno, f"`{name}`: {error.strerror}.") from None


def local_parts(name: str) -> list[str]:
    """The parts of a name from outside. Raises OSError for one that no file here can have."""
    parts = name.split("/")
    if not all(is_name(part) for part in parts):
        raise problem(errno.EINVAL, f"`{name}` is not a name that a file or folder here can have.")
    return parts


def check_key(key: str) -> None:
    """Refuse a name that a bucket cannot hold. Raises OSError."""
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        raise problem(errno.EILSEQ, f"The name {key!a} is not valid UTF-8.") from None
    if length > KEY_MAX:
        raise problem(
            errno.ENAMETOOLONG, f"`{key[:80]}…` is longer than the {KEY_MAX} bytes of a key."
        )
    if any(ord(letter) < ord(" ") or letter == "\x7f" for letter in key):
        raise problem(errno.EINVAL, f"The name {key!a} holds control characters.")


@contextmanager
def folder_below(root: Path, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """Open the folder that `parts` lead to, for use as `dir_fd`; `make` it if it is not there.

    Raises PermissionError for a link on the way, NotADirectoryError for a file.
    """
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            inner = _open_inner(folder, part, make=make)
            os.close(folder)
            folder = inner
        yield folder
    finally:
        os.close(folder)


def _open_inner(folder: int, part: str, *, make: bool) -> int:
    made = False
    if make:
        with suppress(FileExistsError):
            os.mkdir(part, dir_fd=folder)
            made = True
    try:
        inner = os.open(part, _FOLDER, dir_fd=folder)
    except NotADirectoryError:
        if stat.S_ISLNK(os.lstat(part, dir_fd=folder).st_mode):
            raise problem(errno.EACCES, f"`{part}` is a link, which is not followed.") from None
        raise
    if made:
        os.fchmod(inner, 0o755)  # commands run as somebody else
    return inner


@contextmanager
def open_file(root: Path, parts: Sequence[str]) -> Iterator[BinaryIO]:
    """Open a file for reading. Raises as `folder_below`, and OSError for what is no file."""
    with folder_below(root, parts[:-1]) as folder:
        try:
            descriptor = os.open(parts[-1], _READ, dir_fd=folder)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENXIO}:  # a link; a socket
                raise problem(errno.EACCES, f"`{parts[-1]}` is not a file.") from None
            raise
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise problem(errno.EISDIR, f"`{parts[-1]}` is a directory.")
        if not stat.S_ISREG(mode):
            raise problem(errno.EACCES, f"`{parts[-1]}` is not a file.")
        yield file


@contextmanager
def new_file(root: Path, parts: Sequence[str], *, durable: bool) -> Iterator[BinaryIO]:
    """Write a file that takes its name, and the place of what had it, when the block ends well.

    The folders on the way are made. durable: it outlives a power cut from then on.
    """
    with folder_below(root, parts[:-1], make=True) as folder:
        unfinished, descriptor = _new_unfinished(folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fchmod(descriptor, 0o644)
                if durable:
                    os.fsync(descriptor)
            os.replace(unfinished, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished, dir_fd=folder)
            raise
        if durable:
            os.fsync(folder)


def _new_unfinished(folder: int) -> tuple[str, int]:
    while True:
        name = f"{UNFINISHED}{os.getpid()}-{next(_numbers)}"
        with suppress(FileExistsError):  # left by a crash
            return name, os.open(name, _NEW, 0o600, dir_fd=folder)


def make_folder(root: Path, parts: Sequence[str]) -> None:
    """Make a folder and those on the way to it, unless they are there."""
    with folder_below(root, parts, make=True):
        pass


class Tree:
    """What is below a local folder, to be gone through once.

    left_out: the first names that are no file and no folder, or links that lead elsewhere.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._real_root = Path(os.path.realpath(root))
        self.left_out: list[str] = []

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield (name, name of the file with the bytes); (name + "/", "") for an empty folder."""
        waiting = [""]
        while waiting:
            above = waiting.pop()
            check_key(above)  # the sooner the better: a folder can be as deep as the disk is large
            with naming(above or "./"), folder_below(self._root, above.split("/")[:-1]) as folder:
                found = sorted(_kinds_in(folder))
            if above and not found:
                yield above, ""
            for name, kind in found:
                inner = f"{above}{name}"
                if kind == stat.S_IFDIR:
                    waiting.append(f"{inner}/")
                elif kind == stat.S_IFREG:
                    yield inner, inner
                elif kind == stat.S_IFLNK and (target := self._file_behind(inner)):
                    yield inner, target
                elif len(self.left_out) < LEFT_OUT_MAX:
                    self.left_out.append(inner)

    def _file_behind(self, link: str) -> str | None:
        """The file below the same root that a link names, if it does."""
        target = Path(os.path.realpath(self._root / link))
        if target.is_relative_to(self._real_root) and target.is_file():
            return target.relative_to(self._real_root).as_posix()
        return None


def _kinds_in(folder: int) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(UNFINISHED):
                yield entry.name, stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)


def for_each(items: Iterable[Item], do: Callable[[Item], None], *, workers: int) -> None:
    """Do something with each item, `workers` at once; the first error ends it and is raised."""
    waiting, lock, failed = iter(items), Lock(), False

    def take() -> list[Item]:
        with lock:
            return list(itertools.islice(waiting, 1))

    def work() -> None:
        nonlocal failed
        try:
            while not failed and (taken := take()):
                do(taken[0])
        except BaseException:
            failed = True
            raise

    with ThreadPoolExecutor(workers) as threads:
        for future in [threads.submit(work) for _ in range(workers)]:
            future.result()
