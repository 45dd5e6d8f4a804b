"""Work folders: made for each attempt, and gone when it ends if it left nothing there.

An empty one is moved aside, not removed: to remove a folder frees a block, and a disk that is told
of every freed block keeps the executor waiting for milliseconds. One that is as it was made serves
another attempt, where attempts could reach each other's folders anyhow; what is shut to others is
never handed on, since a process may have given away an opened folder. The others are removed by a
thread of their own.

The whole folder of an attempt that wrote nothing, logs and all, serves another attempt too, if
nobody else has files in it: in large jobs most are such, and to make a folder and two files costs a
file system more than to run a small command. Of one that did so before it is known when it was
changed last. If that was not since, it is as it was; no look into it could tell more.

The folder `tmp` beside a work folder is what a sandboxed command has as its /tmp. It is moved aside
and removed with all that is in it.
"""

import os
import queue
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from subprocess import SubprocessError
from typing import Final

from gateway.batch.executor.folders import LOG_MODE, SCRATCH, SPARE, STREAMS, TMP, WORK
from gateway.batch.executor.removal import remove_empty, remove_trees

CLOCK_REALTIME_COARSE: Final = 5
"""Linux's clock that changes of files are timed by, in ticks; Python has no name for it."""
SPARE_MAX: Final = 256
_PASSABLE: Final = 0o711
_OWN: Final = 0o700
_Changed = tuple[int, ...]
"""When each part of an attempt's folder was changed last, in nanoseconds; () if nobody knows."""


@dataclass(frozen=True, slots=True)
class _Whole:
    """The folder of an attempt, as new with all that is in it."""

    path: str
    changed: _Changed


class WorkFolders:
    """The work folders below one executor's root. `open` must have been called."""

    def __init__(self, root: Path) -> None:
        self._aside = f"{root}/{SPARE}"
        self._names: Iterator[int] = count(1)
        self._spare: dict[int | None, list[str]] = {}  # work folders, by their users
        self._whole: dict[int | None, list[_Whole]] = {}
        self._changed: dict[str, _Changed] = {}  # by the attempt's folder that it is now
        self._spare_count = 0
        self._to_remove: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._remover: threading.Thread | None = None
        self.trees: list[str] = []
        """What somebody has to remove with all that is in it."""

    def open(self) -> None:
        """Begin to remove what is not used again, an earlier executor's first. Raises OSError."""
        os.makedirs(self._aside, mode=_OWN, exist_ok=True)
        names = os.listdir(self._aside)
        self._names = count(1 + max((int(name) for name in names if name.isdigit()), default=0))
        for name in names:
            self._remove_soon(f"{self._aside}/{name}")

    def make(self, folder: str, *, user: int | None, is_shut: bool) -> str:
        """Make the folder of an attempt and its work folder, see `make_folder`; return the latter.

        is_shut: whether other attempts cannot reach it. Raises OSError.
        """
        work = f"{folder}/{WORK}"
        if not is_shut:
            if spare_wholes := self._whole.get(user):
                whole = spare_wholes.pop()
                if self._move_whole(whole.path, folder):
                    self._spare_count -= 1
                    self._changed[folder] = whole.changed
                    return work
                if os.path.exists(whole.path):  # something stood in its way
                    spare_wholes.append(whole)
                else:
                    self._spare_count -= 1
            spare = self._spare.get(user)
            # If the attempt's folder is there already, its inputs may be, too.
            if spare and make_passable(folder):
                self._spare_count -= 1
                with suppress(OSError):
                    os.rename(spare.pop(), work)
                    return work
        return make_folder(folder, user=user)

    @staticmethod
    def _move_whole(aside: str, folder: str) -> bool:
        """Put the folder of an attempt where it is wanted; False if something is there."""
        try:
            try:
                os.rename(aside, folder)
            except FileNotFoundError:
                make_passable(os.path.dirname(folder))
                os.rename(aside, folder)
        except OSError:
            return False
        return True

    def end(self, folder: str, *, user: int | None, is_shut: bool, has_files: bool = True) -> bool:
        """Take the work folder of an attempt that is over, if the attempt left nothing there.

        folder: the attempt's own. user, is_shut: as it was made. has_files: if not, its whole
        folder may go. Returns whether the work folder is gone.
        """
        work = f"{folder}/{WORK}"
        known = self._changed.pop(folder, ())
        may_serve = not is_shut and self._spare_count < SPARE_MAX
        looked_at = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
        try:
            changed = _last_changes(folder) if may_serve and not has_files else ()
            if changed and changed == known:
                self._put_aside(folder, known, user=user)
                return True
            is_empty, is_new = _look_at(work, user=user)
            if not is_empty:
                return False
            if is_new and changed and _wrote_nothing(folder, user=user):
                # What changes after the look must not bear a time that it saw.
                known = changed if max(changed) < looked_at else ()
                self._put_aside(folder, known, user=user)
                return True
            aside = f"{self._aside}/{next(self._names)}"
            os.rename(work, aside)
        except OSError:
            return remove_empty(work)
        if is_new and may_serve:
            self._spare.setdefault(user, []).append(aside)
            self._spare_count += 1
        else:
            self._remove_empty(aside)
        return True

    def _put_aside(self, folder: str, known: _Changed, *, user: int | None) -> None:
        """Put the folder of an attempt where it waits for another. Raises OSError."""
        aside = f"{self._aside}/{next(self._names)}"
        os.rename(folder, aside)
        self._whole.setdefault(user, []).append(_Whole(aside, known))
        self._spare_count += 1

    def end_tmp(self, folder: str) -> None:
        """Take the folder `tmp` of an attempt that is over, with all that is in it."""
        aside = f"{self._aside}/{next(self._names)}"
        with suppress(OSError):
            os.rename(f"{folder}/{TMP}", aside)
            self._remove_soon(aside)

    def _remove_soon(self, path: str) -> None:
        """Have a folder removed: an empty one by our thread. Raises OSError."""
        if os.listdir(path):
            self.trees.append(path)
        else:
            self._remove_empty(path)

    def _remove_empty(self, path: str) -> None:
        self._to_remove.put(path)
        if self._remover is None:
            self._remover = threading.Thread(target=self._remove, name="work folders", daemon=True)
            self._remover.start()

    def _remove(self) -> None:
        while True:
            remove_empty(self._to_remove.get())


def _look_at(work: str, *, user: int | None) -> tuple[bool, bool]:
    """Whether a work folder is empty, and whether it is as it was made. Raises OSError."""
    folder = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.listdir(folder):
            return False, False
        found = os.fstat(folder)
        owner = os.geteuid() if user is None else user
        is_new = (
            stat.S_IMODE(found.st_mode) == _OWN
            and found.st_uid == owner
            and (user is None or found.st_gid == user)
            and found.st_size <= found.st_blksize  # one that has held many files is slow for ever
            and not os.listxattr(folder)  # nor rights that the next would inherit
        )
        return True, is_new
    finally:
        os.close(folder)


def _last_changes(folder: str) -> _Changed:
    """When the names in an attempt's folder changed last, its work folder and its logs.

    Of what is in it the kernel's own time is meant, which nobody can set: it tells of what was
    written, of rights and owners, of other names. The folder itself bears that of its last move,
    too; so it is the time that its owner could set. Raises OSError.
    """
    parts = [os.lstat(f"{folder}/{name}").st_ctime_ns for name in (WORK, *STREAMS)]
    return (os.lstat(folder).st_mtime_ns, *parts)


def _wrote_nothing(folder: str, *, user: int | None) -> bool:
    """Whether an attempt's folder is as it was made, its logs empty. Raises OSError."""
    if {*os.listdir(folder)} != {WORK, *STREAMS}:
        return False
    owner = os.geteuid() if user is None else user
    for stream in STREAMS:
        log = f"{folder}/{stream}"
        found = os.lstat(log)
        is_new = (
            stat.S_ISREG(found.st_mode)
            and stat.S_IMODE(found.st_mode) & ~LOG_MODE == 0
            and found.st_size == 0
            and found.st_nlink == 1  # it has no other name, under which it could be written to
            and found.st_uid == owner
            and (user is None or found.st_gid == user)
            and not os.listxattr(log, follow_symlinks=False)
        )
        if not is_new:
            return False
    return True


def put_tmp_aside(root: Path, folder: str) -> None:
    """Put the folder `tmp` of a lost attempt where `WorkFolders.open` finds it. Raises OSError."""
    aside = f"{root}/{SPARE}"
    os.makedirs(aside, mode=_OWN, exist_ok=True)
    with suppress(FileNotFoundError):
        os.rename(f"{folder}/{TMP}", f"{aside}/lost-{os.lstat(f'{folder}/{TMP}').st_ino}")


def remove_scratch(folder: str) -> None:
    """Remove what only the container of an attempt needed. No container of it may be left."""
    scratch = Path(folder, SCRATCH)
    if scratch.is_dir():
        with suppress(OSError, SubprocessError):
            remove_trees([scratch])


def make_folder(folder: str, *, user: int | None) -> str:
    """Make the folder of an attempt and in it the work folder, for `user`; return the latter.

    The work folder may be there already with the attempt's inputs; they become the user's too.
    Raises OSError.
    """
    make_passable(folder)
    work = f"{folder}/{WORK}"
    try:
        os.mkdir(work, mode=_OWN)
    except FileExistsError:
        if user is not None:
            _give_inputs(work, user=user)
    if user is not None:
        os.chown(work, user, user, follow_symlinks=False)
    return work


def make_tmp(folder: str, *, user: int | None) -> str:
    """Make the folder `tmp` in that of an attempt, which exists; return it. Raises OSError."""
    tmp = f"{folder}/{TMP}"
    with suppress(FileExistsError):
        os.mkdir(tmp, mode=_OWN)
        if user is not None:
            os.chown(tmp, user, user, follow_symlinks=False)
    return tmp


def make_passable(folder: str) -> bool:
    """Make a folder, and those above it, that others can pass through and not list.

    Returns whether it was not there; several may ask for it at once. Raises OSError.
    """
    try:
        try:
            os.mkdir(folder, mode=_PASSABLE)
        except FileNotFoundError:
            make_passable(os.path.dirname(folder))
            os.mkdir(folder, mode=_PASSABLE)
    except FileExistsError:
        return False
    return True


def _give_inputs(work: str, *, user: int) -> None:
    for parent, folders, files in os.walk(work):
        for name in (*folders, *files):
            os.chown(os.path.join(parent, name), user, user, follow_symlinks=False)
