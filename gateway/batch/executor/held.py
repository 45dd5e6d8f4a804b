"""What an attempt holds of a disk, of which there may be too little, and what of its logs can go.

A disk can be out of bytes, and out of files: inodes.
"""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from gateway.batch.engines.room import FLOOR_BYTES, FLOOR_PERCENT
from gateway.batch.executor.folders import STREAMS
from gateway.batch.executor.group_trees import read
from gateway.batch.executor.mountinfo import mount_lines, unescaped

BLOCK_BYTES: Final = 512
HOG_LOG_BYTES_MAX: Final = 1_048_576
FLOOR_FILES: Final = 65_536  # or FLOOR_PERCENT of those of the disk, whichever is less
PATH_LONG: Final = 3_000
HELD_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Taken:
    """How many bytes and how many files of a disk something takes."""

    bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class Shortage:
    """A disk has fewer bytes left than the floor, or fewer files if `of_files`."""

    floor: int
    of_files: bool

    def share(self, taken: Taken) -> int:
        """How much is taken of what is short."""
        return taken.files if self.of_files else taken.bytes


def find_shortage(folder: str) -> Shortage | None:
    """What the disk of a folder is nearly out of; None if there is enough. Raises OSError."""
    found = os.statvfs(folder)
    floor = min(FLOOR_BYTES, found.f_blocks * found.f_frsize * FLOOR_PERCENT // 100)
    if found.f_bavail * found.f_frsize < floor:
        return Shortage(floor, of_files=False)
    floor = min(FLOOR_FILES, found.f_files * FLOOR_PERCENT // 100)  # 0 where files are not counted
    return Shortage(floor, of_files=True) if found.f_favail < floor else None


def taken_below(folder: str) -> Taken:
    """What the files below a folder take of their disk; what cannot be looked at is not counted.

    A folder whose path grows long is held open until all below it is counted. Why never more than
    HELD_MAX, though what lies deeper is missed: a command may not use up this process's files.
    """
    size = count = 0
    held: list[int] = []
    waiting: list[str | None] = [folder]  # None: what was held last is counted
    try:
        while waiting:
            path = waiting.pop()
            if path is None:
                os.close(held.pop())
                continue
            if len(path) > PATH_LONG:
                if len(held) == HELD_MAX:
                    continue
                with suppress(OSError):
                    held.append(os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
                    path = f"/proc/self/fd/{held[-1]}"
                    waiting.append(None)
            with suppress(OSError), os.scandir(path) as entries:
                for entry in entries:
                    with suppress(OSError):
                        size += entry.stat(follow_symlinks=False).st_blocks * BLOCK_BYTES
                        count += 1
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
    finally:
        for file in held:
            os.close(file)
    return Taken(size, count)


def held(folder: str, *, disks: Iterable[str], pids: Iterable[int], container_pid: int) -> Taken:
    """What an attempt takes on the disk, files that are open and in no folder any more included.

    folder: its own. disks: others that it writes to. container_pid: of its container's first
    process; 0 for none. Raises OSError.
    """
    device = os.stat(folder).st_dev
    folders = [folder]
    for disk in sorted(disks):  # one comes before those within it
        if not any(_is_within(disk, os.path.realpath(each)) for each in folders):
            folders.append(disk)
    upper = root_layer(container_pid) if container_pid else ""
    with suppress(OSError):
        if upper and os.stat(upper).st_dev == device:
            folders.append(upper)
    taken = [unseen(pids, device=device), *map(taken_below, folders)]
    return Taken(sum(each.bytes for each in taken), sum(each.files for each in taken))


def _is_within(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder}/")


def log_excess_bytes(folder: str) -> int:
    """How many bytes the logs of an attempt take beyond HOG_LOG_BYTES_MAX."""
    size = 0
    for stream in STREAMS:
        with suppress(OSError):
            found = os.lstat(f"{folder}/{stream}")
            if found.st_size > HOG_LOG_BYTES_MAX:
                size += max(0, found.st_blocks * BLOCK_BYTES - HOG_LOG_BYTES_MAX)
    return size


def cut_logs(folder: str) -> None:
    """Cut the logs of an attempt to HOG_LOG_BYTES_MAX. Raises OSError."""
    for stream in STREAMS:
        path = f"{folder}/{stream}"
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(path).st_mode):
                continue  # a command without a sandbox may put a pipe there
            file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if os.fstat(file).st_size > HOG_LOG_BYTES_MAX:
                    os.ftruncate(file, HOG_LOG_BYTES_MAX)
            finally:
                os.close(file)


def unseen(pids: Iterable[int], *, device: int) -> Taken:
    """What the files on a device take that processes have open and that are in no folder."""
    found: dict[int, int] = {}
    for pid in pids:
        with suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    file = os.stat(f"/proc/{pid}/fd/{name}")
                    if file.st_nlink == 0 and file.st_dev == device:
                        found[file.st_ino] = file.st_blocks * BLOCK_BYTES
    return Taken(sum(found.values()), len(found))


def root_layer(pid: int) -> str:
    """Where what a process writes to its root comes to be; "" if that is no overlay."""
    upper = ""
    for mount in mount_lines(read(f"/proc/{pid}/mountinfo")):
        if mount.point == "/":  # the last one hides those before
            options = (each.partition("=") for each in mount.options.split(","))
            upper = next((value for name, _, value in options if name == "upperdir"), "")
    return unescaped(upper)
