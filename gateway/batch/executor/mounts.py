"""Mounts: what else a command sees than its work folder, and where.

Checked once more here, with the rights that the mounting really has: validation at submission is
the first lock, this is the second. Nothing that a command could have written decides where a mount
comes from or goes to:

- a source is walked without following a link, and what was mounted must be what was found then: a
  share may be written to by others while we look;
- a target below another mount must be there before the sandbox is made; it is made here, and only
  in what nobody else writes to at the same time: the attempt's own folder and its node's.
"""

import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from gateway.batch.engines import Cause, Mount, view

MOUNT_REPLACED: Final = "What should be mounted was replaced meanwhile."
_MODE: Final = 0o755
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class CannotLaunch(Exception):
    """A launch that can never run here as it was asked for; it ends at once, with this cause."""

    def __init__(self, why: str, *, cause: Cause = Cause.STORAGE) -> None:
        super().__init__(why)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class CheckedMount:
    """A mount that may be made. identity: "device:inode" of what its source was found to be."""

    source: str
    target: str
    writable: bool
    identity: str


def place(
    mounts: Sequence[Mount],
    *,
    root: Path,
    work: str,
    user: int | None,
    tmp: str | None = None,
) -> list[CheckedMount]:
    """Check mounts and make what they need; parents come before what lies below them.

    root: the executor's folder. work: the attempt's work folder, which exists. user: whose the
    folders of ours are that a command may write to. tmp: what the command sees as /tmp, which
    exists; None if that is none of ours. Raises CannotLaunch.

    Why a share is never given to `user`: it belongs to others, on other machines too. A command
    may write there what the share lets that user write, as with any mount of NFS.
    """
    seen: dict[PurePosixPath, str] = {PurePosixPath(view.WORK): work}
    taken = set(seen)
    if tmp is not None:
        seen[PurePosixPath(view.TMP)] = tmp  # a mount may take its place
    placed = []
    for mount in sorted(mounts, key=lambda each: PurePosixPath(each.target).parts):
        target = _checked_target(mount.target, taken=taken)
        taken.add(target)
        status = find_source(mount.source)
        ours = PurePosixPath(os.path.normpath(mount.source)).is_relative_to(root)
        if ours and mount.writable and user is not None and stat.S_ISDIR(status.st_mode):
            os.chown(mount.source, user, user, follow_symlinks=False)
        above = next((each for each in target.parents if each in seen), None)
        if above is not None:
            _make_target(target, above=above, holder=seen[above], root=root, status=status)
        seen[target] = mount.source
        identity = f"{status.st_dev}:{status.st_ino}"
        placed.append(CheckedMount(mount.source, str(target), mount.writable, identity))
    return placed


def _checked_target(text: str, *, taken: Iterable[PurePosixPath]) -> PurePosixPath:
    target = PurePosixPath(os.path.normpath(text))
    if not text.startswith("/") or text.startswith("//") or "\0" in text or ".." in text.split("/"):
        raise CannotLaunch(f"Nothing can be mounted at {text[:200]!r}: it is no absolute path.")
    if view.is_of_the_system(str(target)):
        raise CannotLaunch(f"Nothing can be mounted at {text[:200]!r}: the system is there.")
    if target in taken:
        raise CannotLaunch(f"Two things cannot be mounted at {text[:200]!r}.")
    return target


def find_source(source: str) -> os.stat_result:
    """What a source is, found without following a link. Raises CannotLaunch.

    The words name the last part of the path only: the rest is the machine's own.
    """
    name = PurePosixPath(source).name[:200]
    try:
        folder = os.open("/", _LOOK)
        try:
            for part in PurePosixPath(source).parts[1:]:
                inner = os.open(part, _LOOK, dir_fd=folder)
                os.close(folder)
                folder = inner
            status = os.fstat(folder)
        finally:
            os.close(folder)
    except (OSError, ValueError) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "no path"
        raise CannotLaunch(f"{name!r} cannot be mounted: {why}.") from error
    if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
        raise CannotLaunch(f"{name!r} cannot be mounted: it is neither a folder nor a file.")
    return status


def _make_target(
    target: PurePosixPath,
    *,
    above: PurePosixPath,
    holder: str,
    root: Path,
    status: os.stat_result,
) -> None:
    """Make the place of a mount that lies within another, `holder` on the machine.

    Why not within a share: whoever writes to it could put a link there, and whoever mounts would
    follow it with more rights than theirs. Raises CannotLaunch.
    """
    where = f"Nothing can be mounted at {str(target)[:200]!r}"
    if not PurePosixPath(os.path.normpath(holder)).is_relative_to(root):
        raise CannotLaunch(f"{where}: it lies in a folder that others can change.")
    try:
        here = Path(holder)
        for part in target.relative_to(above).parts:
            here /= part
            is_last = here == Path(holder) / target.relative_to(above)
            _make_step(here, as_folder=not is_last or stat.S_ISDIR(status.st_mode))
    except OSError as error:
        raise CannotLaunch(f"{where}: {error.strerror}.") from error


def _make_step(path: Path, *, as_folder: bool) -> None:
    """Make one folder or empty file, or find it there as one, not as a link. Raises OSError."""
    with suppress(FileExistsError):
        if as_folder:
            path.mkdir(_MODE)
        else:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    mode = path.lstat().st_mode
    if not (stat.S_ISDIR(mode) if as_folder else stat.S_ISREG(mode)):
        raise NotADirectoryError(0, "something else is there")


def binds(placed: Iterable[CheckedMount]) -> list[str]:
    """The words for bubblewrap that make these mounts.

    Why `--dir`: bubblewrap makes what is missing above a mount for itself alone.
    """
    words: list[str] = []
    mounted = {PurePosixPath(view.WORK), PurePosixPath(view.TMP)}
    for each in placed:
        target = PurePosixPath(each.target)
        if mounted.isdisjoint(target.parents):
            for above in reversed(target.parents[:-1]):
                words += ["--dir", str(above)]
        mounted.add(target)
        words += ["--bind" if each.writable else "--ro-bind", each.source, each.target]
    return words


def still_same(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Words of a shell test that holds if each path is still the `device:inode` it should be."""
    pairs = list(pairs)
    found = ["stat", "-L", "-c", "%d:%i", "--", *(path for path, _ in pairs)]
    return [*found, "\n".join(identity for _, identity in pairs)]
