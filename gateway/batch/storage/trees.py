"""Local folders: listed, read and written by name, and never through a link.

Names are relative, with "/" between their parts. Each part is opened below the one before, so that
whoever may write in a folder cannot lead us out of it, not even while we look. What these functions
raise is what `gateway.batch.storage` promises.
"""

import errno
import fcntl
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import BinaryIO, TypeVar

from gateway.batch.engines.room import STAGING_FLOOR_BYTES, STAGING_FLOOR_PERCENT
from gateway.batch.storage import Halted, never
from gateway.batch.storage.paths import KEY_MAX, is_name

CHUNK_BYTES = 1024 * 1024
LEFT_OUT_MAX = 20
FAILURES_TOLD = 3
FLOOR_BYTES = STAGING_FLOOR_BYTES
FLOOR_PERCENT = STAGING_FLOOR_PERCENT
UNFINISHED = ".qcs-part-"
"""How the name of a file begins that is being written."""

OF_ONE_NAME = frozenset(
    {
        errno.EEXIST,
        errno.EFBIG,
        errno.EILSEQ,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
    }
)
"""What may be wrong with one file of a tree, and so tells nothing of the others."""
_OF_EVERY_READING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ECANCELED})

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not make us wait
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_numbers = itertools.count()

Item = TypeVar("Item")


def check_wanted(halted: Halted) -> None:
    """Raise OSError with ECANCELED if nobody wants it any more."""
    if halted():
        raise problem(errno.ECANCELED, "It was stopped before all was copied.")


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
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise problem(errno.EISDIR, f"`{parts[-1]}` is a directory.")
        if not stat.S_ISREG(mode):
            raise problem(errno.EACCES, f"`{parts[-1]}` is not a file.")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


@contextmanager
def new_file(
    root: Path, parts: Sequence[str], *, durable: bool, aside: Path | None = None
) -> Iterator[BinaryIO]:
    """Write a file that takes its name, and the place of what had it, when the block ends well.

    The folders on the way are made. durable: it outlives a power cut from then on. aside: a folder
    of the same file system to write it in until then; None for the one it will be in.
    """
    with folder_below(root, parts[:-1], make=True) as folder, _unfinished_in(folder, aside) as way:
        unfinished, descriptor = _new_unfinished(way)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fchmod(descriptor, 0o644)
                if durable:
                    os.fsync(descriptor)
                os.replace(unfinished, parts[-1], src_dir_fd=way, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished, dir_fd=way)
            raise
        if durable:
            os.fsync(folder)


@contextmanager
def _unfinished_in(folder: int, aside: Path | None) -> Iterator[int]:
    if aside is None:
        yield folder
        return
    with folder_below(aside, ()) as way:
        yield way


def _new_unfinished(folder: int) -> tuple[str, int]:
    """Make a file that is locked for as long as it is open, so that `sweep` leaves it alone."""
    while True:
        name = f"{UNFINISHED}{os.getpid()}-{next(_numbers)}"
        try:
            descriptor = os.open(name, _NEW, 0o600, dir_fd=folder)
        except FileExistsError:  # left by a crash
            continue
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return name, descriptor
        os.close(descriptor)  # swept before it was locked


def sweep(folder: Path) -> None:
    """Remove the unfinished files that nobody writes any more from a folder that holds no others.

    Why by their locks: other processes, and other storages of this one, may write there meanwhile.
    """
    with suppress(OSError), folder_below(folder, ()) as opened:
        for name in os.listdir(opened):
            with suppress(OSError):
                _sweep_one(name, opened)


def _sweep_one(name: str, folder: int) -> None:
    descriptor = os.open(name, _READ, dir_fd=folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=folder)
    finally:
        os.close(descriptor)


def copy(source: BinaryIO, target: BinaryIO, *, halted: Halted) -> None:
    """Copy a file into a new one; where the one has holes, the other has them too.

    Raises as `check_wanted` and `check_room`.

    Why holes count: a command makes a file of terabytes without writing a byte.
    """
    ours, theirs, size = source.fileno(), target.fileno(), os.fstat(source.fileno()).st_size
    for begin, end in _written_parts(ours, size):
        at = begin
        while at < end:
            check_wanted(halted)
            data = os.pread(ours, min(CHUNK_BYTES, end - at), at)
            if not data:
                raise problem(errno.EIO, "It became shorter while it was read.")
            check_room(theirs, len(data))
            _write_all(theirs, data, at)
            at += len(data)
    os.ftruncate(theirs, size)


def _written_parts(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Where the parts of a file that are no holes begin and end."""
    at = 0
    while at < size:
        try:
            at = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                return
            raise
        end = min(os.lseek(descriptor, at, os.SEEK_HOLE), size)
        yield at, end
        at = end


def _write_all(descriptor: int, data: bytes, at: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, at)
        rest, at = rest[written:], at + written


def check_room(descriptor: int, count: int) -> None:
    """Raise OSError with ENOSPC if `count` bytes more would leave a file system too little.

    Why not to the last byte: what decides about jobs, and what ends them, must write as well. And
    the executor kills before that, see `engines.room`.
    """
    found = os.statvfs(descriptor)
    floor = min(FLOOR_BYTES, found.f_blocks * found.f_frsize * FLOOR_PERCENT // 100)
    if found.f_bavail * found.f_frsize < count + floor:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # `naming` adds which file


def make_folder(root: Path, parts: Sequence[str]) -> None:
    """Make a folder and those on the way to it, unless they are there."""
    with folder_below(root, parts, make=True):
        pass


class Tree:
    """What is below a local folder, to be gone through once.

    left_out: the first names that are no file and no folder, or links that lead elsewhere.
    halted: asked before each name. hidden: a name at the top that is passed over.

    What is wrong with single names ends nothing: `raise_failures` tells of it in the end.
    """

    def __init__(self, root: Path, *, halted: Halted = never, hidden: str = "") -> None:
        self._root = root
        self._real_root = Path(os.path.realpath(root))
        self._halted = halted
        self._hidden = hidden
        self._failures: list[OSError] = []
        self._failed = 0
        self._noting = Lock()
        self.left_out: list[str] = []

    @contextmanager
    def sparing(self) -> Iterator[None]:
        """Note an error that is of one name alone, and go on."""
        try:
            yield
        except OSError as error:
            if error.errno not in OF_ONE_NAME:
                raise
            self._note(error)

    def _note(self, error: OSError) -> None:
        with self._noting:
            self._failed += 1
            if len(self._failures) < FAILURES_TOLD:
                self._failures.append(error)

    @contextmanager
    def open(self, origin: str) -> Iterator[BinaryIO | None]:
        """Open a file of the tree for reading; None for one that cannot be read, which is noted."""
        with ExitStack() as stack:
            file: BinaryIO | None = None
            try:
                with naming(origin):
                    file = stack.enter_context(open_file(self._root, origin.split("/")))
            except OSError as error:
                if error.errno in _OF_EVERY_READING:
                    raise
                self._note(error)
            yield file

    def raise_failures(self) -> None:
        """Raise OSError if anything was wrong: of the first one's class, with the first few."""
        if self._failures:
            words = " ".join(each.strerror or str(each) for each in self._failures)
            more = self._failed - len(self._failures)
            told = f"{words} So it was with {more} more." if more else words
            raise problem(self._failures[0].errno or errno.EIO, told)

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield (name, name of the file with the bytes); (name + "/", "") for an empty folder."""
        waiting = [""]
        while waiting:
            above = waiting.pop()
            found = self._look_into(above)
            if found is None:
                continue
            if above and not found:
                yield above, ""
            for name, kind in found:
                check_wanted(self._halted)
                inner = f"{above}{name}"
                if kind == stat.S_IFDIR:
                    waiting.append(f"{inner}/")
                elif kind == stat.S_IFREG:
                    yield inner, inner
                elif kind == stat.S_IFLNK and (target := self._file_behind(inner)):
                    yield inner, target
                elif len(self.left_out) < LEFT_OUT_MAX:
                    self.left_out.append(inner)

    def _look_into(self, above: str) -> list[tuple[str, int]] | None:
        """The names in a folder; None if it cannot be read, which is noted."""
        try:
            check_key(above)  # the sooner the better: a folder can be as deep as the disk is large
            with naming(above or "./"), folder_below(self._root, above.split("/")[:-1]) as folder:
                found = sorted(_kinds_in(folder))
        except OSError as error:
            if not above or error.errno in _OF_EVERY_READING:
                raise
            self._note(error)
            return None
        return [each for each in found if above or each[0] != self._hidden]

    def _file_behind(self, link: str) -> str | None:
        """The file below the same root that a link names, if it does."""
        target = Path(os.path.realpath(self._root / link))
        if target.is_relative_to(self._real_root) and target.is_file():
            return target.relative_to(self._real_root).as_posix()
        return None


def _kinds_in(folder: int) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
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
