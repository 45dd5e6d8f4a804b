"""What Linux knows of processes: who they are, whose they are, how to be rid of them.

A pid alone proves nothing, since the kernel gives it out again; a pid with its start time does.
"""

import ctypes
import errno
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_STANDARD_STREAMS: Final = ("0", "1", "2")


@dataclass(frozen=True, slots=True)
class Process:
    """A process as `/proc/<pid>/stat` shows it.

    session: the pid of the leader, also after the leader is gone. start_ticks: clock ticks
    between boot and its start.
    """

    pid: int
    parent: int
    session: int
    start_ticks: int
    is_zombie: bool


def find_process(pid: int) -> Process | None:
    """Look a process up; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        start_ticks=int(fields[19]),
        is_zombie=fields[0] in {b"Z", b"X"},
    )


def all_processes() -> Iterator[Process]:
    """Every process that this one can see."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := find_process(int(name))) is not None:
            yield process


def children() -> list[int]:
    """The pids of this process's children, adopted ones included, zombies too.

    Why: the kernel calls its list unreliable because a child may vanish while it is read. Only we
    reap our children, and new ones join at its end, so for our own list that cannot happen.
    """
    own = os.getpid()
    try:
        with open(f"/proc/{own}/task/{own}/children", "rb") as file:
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:
        return [process.pid for process in all_processes() if process.parent == own]


def ended_child() -> int | None:
    """The pid of a child that ended and is not waited for; None if there is none."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def become_subreaper() -> None:
    """Adopt every descendant whose parent dies: none can leave our sight. Raises OSError."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Be killed when the parent is. Raises OSError, also if that has happened already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def kill(pid: int) -> None:
    """Send SIGKILL to one process, unless it is gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_group(group: int) -> None:
    """Send SIGKILL to a process group, unless it is gone or belongs to others altogether."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def home_of(pid: int) -> bytes:
    """The HOME that a process's program began with; empty if it had none or cannot be seen."""
    with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        for entry in file.read().split(b"\0"):
            if entry.startswith(b"HOME="):
                return entry.removeprefix(b"HOME=")
    return b""


def works_in(pid: int, folder: str) -> bool:
    """Whether a process shows that it came from the attempt in `folder`.

    Its home, its working folder or a standard stream lies there. Only a process that gave up all
    of them shows nothing.
    """
    inside = os.fsencode(folder) + b"/"
    return any(place.startswith(inside) for place in places_of(pid))


def places_of(pid: int) -> Iterator[bytes]:
    """The paths a process shows: its first home, its working folder, its standard streams."""
    yield home_of(pid)
    links = [f"/proc/{pid}/cwd", *(f"/proc/{pid}/fd/{number}" for number in _STANDARD_STREAMS)]
    for link in links:
        with suppress(OSError):
            yield os.readlink(os.fsencode(link))


def boot_id() -> str:
    """What tells this boot of the machine from every other: start times count from it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def descendants(pid: int, table: Iterable[Process]) -> set[int]:
    """A process, its session and all they started that did not leave both."""
    found = {pid}
    size = 0
    while size != len(found):
        size = len(found)
        found |= {each.pid for each in table if each.session == pid or each.parent in found}
    return found
