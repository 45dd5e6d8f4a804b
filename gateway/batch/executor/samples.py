"""Samples: what every running attempt uses, taken now and then and kept in a file of its folder.

The file is a header and then a line for each sample, JSON arrays both. It never has more than
SAMPLES_MAX samples: when it is full every second one is dropped and the next are taken half as
often. What ends within the first second has none.

A container is not in the attempt's own control group: its processes are added up, from the first of
them on. Under docker it is not known which they are, and there are no samples.

Whoever looks at the disk anyhow sees it fill up, too: see `Sampler.guard_room`.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from gateway.batch.engines import Ended, Launch
from gateway.batch.executor import processes
from gateway.batch.executor.containers import PID_FILE
from gateway.batch.executor.control_groups import Group
from gateway.batch.executor.folders import SCRATCH, WORK, attempt_folder
from gateway.batch.executor.group_trees import read
from gateway.batch.executor.held import (
    Shortage,
    Taken,
    cut_logs,
    find_shortage,
    held,
    log_excess_bytes,
    taken_below,
)
from gateway.batch.executor.left_files import read_left
from gateway.call import Value
from gateway.clock import Clock
from gateway.errors import InvalidParameterValue

log = logging.getLogger("executor")

SAMPLES: Final = "samples"
FIRST_S: Final = 1.0
EVERY_S: Final = 5.0
ROUND_S: Final = 1.0
GOING_S_MAX: Final = 60.0  # that the removal of a folder is waited for
SAMPLES_MAX: Final = 720
SAMPLES_BYTES_MAX: Final = 16 * 2**20
BY_GROUP: Final = "group"
BY_PROCESS: Final = "process"
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Header(msgspec.Struct, array_like=True, frozen=True):
    """What the samples of an attempt are measured by.

    began: seconds since 1970. cores, mem_bytes: of its node, or of the machine if it has no limits.
    counted_by: "group" if the kernel counts for the attempt as a whole, "process" if its living
    processes are added up, so that what those that ended had used may be missing. disks: where
    the command sees each disk, its work folder first.
    """

    began: float
    cores: int
    mem_bytes: int
    counted_by: str
    disks: tuple[str, ...]


class Sample(msgspec.Struct, array_like=True, frozen=True):
    """What an attempt uses at a moment.

    at: seconds since 1970. cpu_s: of all cores together, since it began. disks: the percentage
    used of each disk of the header; None where it cannot be told.
    """

    at: float
    cpu_s: float
    mem_bytes: int
    disks: tuple[float | None, ...]


class Record(msgspec.Struct, frozen=True):
    """The samples of one attempt, in order."""

    header: Header
    samples: tuple[Sample, ...]


_header = msgspec.json.Decoder(Header)
_sample = msgspec.json.Decoder(Sample)


def read_samples(folder: Path) -> Record | None:
    """The samples of the attempt in a folder, up to a torn end; None if there are none."""
    try:
        found = read_left(f"{folder}/{SAMPLES}", bytes_max=SAMPLES_BYTES_MAX)
        first, *lines = found.split(b"\n")
        header = _header.decode(first)
    except (OSError, msgspec.DecodeError):
        return None
    samples = []
    with suppress(msgspec.DecodeError):
        for line in filter(None, lines):
            samples.append(_sample.decode(line))  # noqa: PERF401  # up to the first that is torn
    return Record(header, tuple(samples))


@dataclass(slots=True)
class Watched:
    """A running attempt.

    pid_file: where the pid of its container's first process will be; "" if there is none, or it is
    known. disks: where each is seen and where it really is. own_disks: see `Sampler.own_disks`.
    """

    attempt_id: str
    folder: str
    pid: int
    group: Group | None
    disks: Mapping[str, str]
    cores: int
    mem_bytes: int
    began: float
    next_at: float
    own_disks: Sequence[str] = ()
    is_container: bool = False
    pid_file: str = ""
    every_s: float = EVERY_S
    count: int = 0
    cpu_s: float = 0.0


class EndedFiles(Value, frozen=True):
    """The files of an attempt that ended, until that is acknowledged.

    folder: its own, absolute. name: the same as its launch says it. failed: whether nothing of its
    work folder is to be kept.
    """

    folder: str
    name: str
    failed: bool


class Sampler:
    """Takes the samples in a thread of its own.

    Why a thread: a file system that hangs, a network's say, must not stop the executor's loop.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
        root: str | None = None,
    ) -> None:
        """root: on whose file system room is to be left; None for none."""
        self._root = root
        self._hogs: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._useless: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._hog = ""
        self._going, self._going_until = "", 0.0  # a folder that is being removed
        self._is_low = False
        self._clock = clock
        self._monotonic = monotonic
        self._watched: dict[str, Watched] = {}
        self._left: dict[str, EndedFiles] = {}
        self._something = threading.Event()
        self._cores = os.cpu_count() or 1
        self._mem_bytes = os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES

    def start(self) -> None:
        """Begin to take samples; the thread ends with this process."""
        threading.Thread(target=self._run, name="sampler", daemon=True).start()

    def watch(self, launch: Launch, *, folder: str, pid: int, group: Group | None) -> None:
        """Take samples of an attempt from now on. folder: its own, absolute."""
        limits = launch.limits
        self._watched[launch.attempt_id] = Watched(
            attempt_id=launch.attempt_id,
            folder=folder,
            pid=pid,
            group=None if launch.container else group,
            disks={
                "/": f"{folder}/{WORK}",
                **{mount.target: mount.source for mount in launch.mounts},
            },
            cores=self._cores if limits is None else min(limits.cores, self._cores),
            mem_bytes=self._mem_bytes if limits is None else limits.mem_bytes,
            began=self._clock().timestamp(),
            next_at=self._monotonic() + FIRST_S,
            own_disks=self.own_disks(launch),
            is_container=launch.container is not None,
            pid_file=f"{folder}/{SCRATCH}/{PID_FILE}" if launch.container else "",
        )
        if not self._something.is_set():
            self._something.set()

    def own_disks(self, launch: Launch) -> Sequence[str]:
        """The folders of its node, below the root and on its disk, that an attempt writes to.

        Why others are not even looked at: a share of a file server may hang.
        """
        found: list[str] = []
        for mount in launch.mounts if self._root is not None else ():
            if not mount.writable or not mount.source.startswith(f"{self._root}/"):
                continue
            source, root = os.path.realpath(mount.source), os.path.realpath(str(self._root))
            with suppress(OSError):
                is_here = os.stat(source).st_dev == os.stat(root).st_dev
                if source.startswith(f"{root}/") and os.path.isdir(source) and is_here:
                    found.append(source)
        return found

    def end(self, launch: Launch, *, failed: bool) -> None:
        """Take no more samples of an attempt; what it left still is in the way on a full disk."""
        watched = self._watched.get(launch.attempt_id)
        if watched is not None:
            self._left[launch.attempt_id] = EndedFiles(watched.folder, launch.folder, failed)
            del self._watched[launch.attempt_id]

    def remember(self, ended: Ended, *, folder: str) -> None:
        """What an attempt of an earlier executor left is in the way, too.

        folder: see `EndedFiles.name`. One that was refused has left nothing.
        """
        with suppress(InvalidParameterValue):
            path = attempt_folder(Path(self._root or ""), folder)
            self._left[ended.attempt_id] = EndedFiles(str(path), folder, ended.cause is not None)
            self._something.set()

    def forget(self, attempt_id: str) -> None:
        """Leave an attempt and all that is of it alone."""
        self._watched.pop(attempt_id, None)
        self._left.pop(attempt_id, None)

    def _run(self) -> None:
        never = threading.Event()
        while True:
            self._something.wait()
            # First: whoever begins to watch after it says so again.
            self._something.clear()
            while self._watched or self._left:
                never.wait(ROUND_S)
                for look in (self.take, self.guard_room):
                    try:
                        look()
                    except OSError as error:  # of one round; the next may do
                        log.warning("not_sampled error=%s", error)
                    except Exception:  # a fault of our own: the disk must be guarded all the same
                        log.exception("not_sampled")

    def guard_room(self) -> None:
        """Make room if there is hardly any left on the disk: one step at a look.

        First what ended attempts left is cut down: their ends may be acknowledged only when there
        is room. Else the running one that holds most is named. Why one that holds little is left
        alone: then something else fills the disk. Raises OSError.
        """
        if self._root is None:
            return
        shortage = find_shortage(self._root)
        was_low, self._is_low = self._is_low, shortage is not None
        if shortage is None or self._is_making_room() or self._cut_down(shortage):
            return
        sizes = self._sizes(shortage)
        largest = max(sizes, key=lambda each: sizes[each], default="")
        if largest and sizes[largest] >= shortage.floor:
            self._hog = largest
            self._hogs.put(largest)
        elif not was_low:
            what = "files" if shortage.of_files else "bytes"
            why = "and no attempt holds much of it"
            log.error("disk_nearly_full root=%s of=%s, %s", self._root, what, why)

    def _is_making_room(self) -> bool:
        """Whether what an earlier look found is still on its way out."""
        is_going = os.path.lexists(self._going) and self._monotonic() < self._going_until
        return is_going or self._hog in self._watched

    def _sizes(self, shortage: Shortage) -> Mapping[str, int]:
        """What each attempt takes of what is short, without those that cannot be looked at.

        A disk that several write to counts for the one that began last: its end costs least.
        """
        sizes = {}
        counted: set[str] = set()
        for watched in reversed(list(self._watched.values())):
            disks = set(watched.own_disks) - counted
            counted |= disks
            try:
                sizes[watched.attempt_id] = shortage.share(_held(watched, disks=disks))
            except OSError as error:
                log.warning("not_measured attempt=%s error=%s", watched.attempt_id, error)
        return sizes

    def _cut_down(self, shortage: Shortage) -> bool:
        """Have the ended attempt that can spare most give it up; False if none can spare the floor.

        First its logs are cut short, and at a later look, if there still is no room, its work
        folder goes. Why not if it succeeded: its outputs may not be kept yet. Raises OSError.
        """
        found = self._to_spare(shortage)
        largest = max(found, key=lambda each: sum(found[each]), default="")
        if not largest or sum(found[largest]) < shortage.floor:
            return False
        log_bytes, _ = found[largest]
        left = self._left.get(largest)
        if left is not None and log_bytes:
            log.error("disk_filled attempt=%s ended, its logs are cut", largest)
            cut_logs(left.folder)
        elif left is not None:
            log.error("disk_filled attempt=%s ended, its work folder goes", largest)
            self._going = f"{left.folder}/{WORK}"
            self._going_until = self._monotonic() + GOING_S_MAX
            self._useless.put(left.name)
            self.forget(largest)
        return True

    def _to_spare(self, shortage: Shortage) -> Mapping[str, tuple[int, int]]:
        """What could go of the logs, and of the work folder, of each ended attempt."""
        return {
            each: (
                0 if shortage.of_files else log_excess_bytes(left.folder),
                shortage.share(taken_below(f"{left.folder}/{WORK}")) if left.failed else 0,
            )
            for each, left in list(self._left.items())
        }

    def is_hog(self, attempt_id: str) -> bool:
        """Whether the disk is nearly full now and this attempt, still watched, holds most of it.

        As `guard_room` would find, for one that met the full disk first. Why its own part is looked
        at before all others': of those that have filled nothing this is all it costs. Raises
        OSError.
        """
        shortage = None if self._root is None else find_shortage(self._root)
        watched = self._watched.get(attempt_id)
        if shortage is None or watched is None:
            return False
        if shortage.share(_held(watched, disks=watched.own_disks)) < shortage.floor:
            return False
        sizes = self._sizes(shortage)
        spared = max(map(sum, self._to_spare(shortage).values()), default=0)
        own = sizes.get(attempt_id, 0)
        return own >= shortage.floor and own >= max(spared, *sizes.values())

    def next_useless(self) -> str | None:
        """The folder, as its launch said it, of an ended attempt whose work folder is to go.

        Each is told once; None if there is none.
        """
        return None if self._useless.empty() else self._useless.get()

    def next_hog(self) -> str | None:
        """An attempt that fills the disk, each told once; None if there is none."""
        return None if self._hogs.empty() else self._hogs.get()

    def take(self) -> None:
        """Take a sample of every attempt whose time has come."""
        now = self._monotonic()
        table: list[processes.Process] = []
        for watched in list(self._watched.values()):
            if watched.next_at > now or not _has_begun(watched):
                continue
            watched.next_at = now + watched.every_s
            try:
                if watched.group is None and not table:
                    table = list(processes.all_processes())
                sample = self._sample(watched, table)
            except OSError as error:  # of one attempt; the others have nothing to do with it
                log.warning("not_sampled attempt=%s error=%s", watched.attempt_id, error)
                continue
            # The next attempt may have its group already, and its folder may be removed.
            if watched.attempt_id in self._watched:
                with suppress(OSError):
                    _keep(watched, sample)

    def _sample(self, watched: Watched, table: Sequence[processes.Process]) -> Sample:
        cpu_s = mem_bytes = None
        if watched.group is None:
            pids = processes.descendants(watched.pid, table)
        else:
            usage = watched.group.usage()
            cpu_s, mem_bytes = usage.cpu_s, usage.mem_bytes
            pids = watched.group.pids() if cpu_s is None or mem_bytes is None else set()
        # What ended without being waited for is counted no more; the sum must not fall for it.
        watched.cpu_s = max(watched.cpu_s, _cpu_s(pids) if cpu_s is None else cpu_s)
        return Sample(
            at=round(self._clock().timestamp(), 1),
            cpu_s=round(watched.cpu_s, 2),
            mem_bytes=_mem_bytes(pids) if mem_bytes is None else mem_bytes,
            disks=tuple(disk_used_percent(path) for path in watched.disks.values()),
        )


def _has_begun(watched: Watched) -> bool:
    """Whether there is something to measure: of a container, once it has its first process.

    Only then it has begun: that its image was fetched for an hour is not an hour of its own.
    """
    if watched.pid_file and (text := read(watched.pid_file)):
        with suppress(OSError):
            watched.began = os.stat(watched.pid_file).st_mtime
        watched.pid, watched.pid_file = int(text), ""
    return not watched.pid_file


def _keep(watched: Watched, sample: Sample) -> None:
    """Add a sample to the file of its attempt. Raises OSError."""
    path = f"{watched.folder}/{SAMPLES}"
    if watched.count >= SAMPLES_MAX:
        _thin(path)
        watched.count = (watched.count + 1) // 2
        watched.every_s *= 2
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    data = msgspec.json.encode(sample) + b"\n"
    if watched.count == 0:
        flags |= os.O_CREAT | os.O_TRUNC
        counted = watched.group is not None and watched.group.usage().cpu_s is not None
        header = Header(
            began=round(watched.began, 1),
            cores=watched.cores,
            mem_bytes=watched.mem_bytes,
            counted_by=BY_GROUP if counted else BY_PROCESS,
            disks=tuple(watched.disks),
        )
        data = msgspec.json.encode(header) + b"\n" + data
    file = os.open(path, flags, 0o600)
    try:
        os.write(file, data)
        watched.count += 1
    finally:
        os.close(file)


def _thin(path: str) -> None:
    """Drop every second sample of a file. Raises OSError, and then it is as it was."""
    lines = read_left(path, bytes_max=SAMPLES_BYTES_MAX).splitlines(keepends=True)
    new = f"{path}.new"
    with suppress(FileNotFoundError):
        os.unlink(new)
    with open(new, "xb") as file:
        file.write(b"".join(lines[:1] + lines[2::2]))  # the header stays
    os.replace(new, path)


def disk_used_percent(path: str) -> float | None:
    """How full the file system of a path is, as `df` says it; None if it cannot be told."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    used = found.f_blocks - found.f_bfree
    whole = used + found.f_bavail
    return round(100 * used / whole, 1) if whole else None


def _held(watched: Watched, *, disks: Iterable[str]) -> Taken:
    """What an attempt takes on the disk. disks: of its own, those that count for it."""
    if watched.group is None:
        pids = processes.descendants(watched.pid, list(processes.all_processes()))
    else:
        pids = watched.group.pids()
    container_pid = watched.pid if watched.is_container and _has_begun(watched) else 0
    return held(watched.folder, disks=disks, pids=pids, container_pid=container_pid)


def _cpu_s(pids: Iterable[int]) -> float:
    ticks = 0
    for pid in pids:
        with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
            fields = text[text.rindex(b")") + 2 :].split()
            # its own time and that of its children that it waited for, in user and system mode
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICKS_PER_S


def _mem_bytes(pids: Iterable[int]) -> int:
    pages = 0
    for pid in pids:
        with suppress(OSError, IndexError), open(f"/proc/{pid}/statm", "rb") as file:
            pages += int(file.read().split()[1])
    return pages * _PAGE_BYTES
