"""Folders that a command finds made, because what it leaves there will be kept.

Those in its work folder go with it if it left nothing in them; those on a disk stay there.

Why no link is followed: a disk, or a work folder under another isolation than a sandbox, is written
to by other commands, and whoever makes these folders may do more than they.
"""

import errno
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from gateway.batch.engines import Launch, view

_MODE: Final = 0o755
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_FOLDER: Final = frozenset({errno.ENOTDIR, errno.ELOOP})


def make_wanted(launch: Launch, *, root: Path, work: str, user: int | None) -> None:
    """Make the folders that a launch asks for, for `user`; what is there already is left alone.

    root: the executor's folder; nothing is made in what is not below it. work: the work folder,
    which exists, as do the sources of all mounts. Raises OSError.
    """
    for path in launch.folders:
        holder, parts = _find(launch, path, work=work)
        if parts and Path(holder).is_relative_to(root):
            try:
                _make(holder, parts, user=user)
            except OSError as error:
                if error.errno not in _NO_FOLDER:
                    raise


def remove_wanted(launch: Launch, *, work: str) -> None:
    """Remove those in the work folder that are empty."""
    for path in launch.folders:
        holder, parts = _find(launch, path, work=work)
        if parts and holder == work:
            with suppress(OSError):
                _remove_empty(work, parts)


def _find(launch: Launch, path: str, *, work: str) -> tuple[str, tuple[str, ...]]:
    """The folder that holds a path the command sees, and the way from there; no way for none."""
    places = {view.WORK: work} | {
        mount.target: mount.source if mount.writable else "" for mount in launch.mounts
    }
    nearest = view.nearest_above(path, places)
    holder = places.get(nearest, "")
    return holder, tuple(path[len(nearest) :].split("/")[1:]) if holder else ()


def _make(holder: str, parts: tuple[str, ...], *, user: int | None) -> None:
    folder = os.open(holder, _FOLDER)
    try:
        for part in parts:
            made = False
            with suppress(FileExistsError):
                os.mkdir(part, _MODE, dir_fd=folder)
                made = True
            inner = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
            if made:
                os.fchmod(folder, _MODE)
                if user is not None:
                    os.fchown(folder, user, user)
    finally:
        os.close(folder)


def _remove_empty(holder: str, parts: tuple[str, ...]) -> None:
    with ExitStack() as stack:
        folders = [os.open(holder, _FOLDER)]
        stack.callback(os.close, folders[-1])
        for part in parts[:-1]:
            folders.append(os.open(part, _FOLDER, dir_fd=folders[-1]))
            stack.callback(os.close, folders[-1])
        for folder, part in zip(reversed(folders), reversed(parts), strict=True):
            os.rmdir(part, dir_fd=folder)
