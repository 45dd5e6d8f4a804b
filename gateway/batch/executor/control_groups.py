"""Control groups: what an attempt may use, and the proof that nothing of it is left.

One group for each attempt in every tree that is used, see `group_trees`. A group whose attempt left
no trace serves another attempt of the same limits: making one costs more than entering it.

Why who spawns enters an attempt's group, spawns, and leaves it, rather than a shell that enters and
then executes: the command is inside from its first instruction, whatever its environment makes a
shell do, and it costs a tenth. For the price see `spawn_server`.
"""

import os
import resource
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

from gateway.batch.engines import Ability, Limits
from gateway.batch.executor import processes
from gateway.batch.executor.group_trees import (
    CONTROLLERS,
    FAMILY,
    HOME,
    OPTIONAL_FILES,
    KeptFiles,
    Mounted,
    Tree,
    find_trees,
    folders_of,
    key_of,
    mounted_trees,
    read,
    settings,
    write,
)

PREFIX: Final = "attempt-"
KEPT_MAX: Final = 64
# What a group may still hold, cached files mostly, and yet serve another attempt.
KEPT_BYTES_MAX: Final = 16_777_216
FILES_PER_GROUP: Final = 4
GROUPS_WITH_FILES_MAX: Final = 1_024
VISITED_MAX: Final = 512
V2: Final = 2
DOORS: Final = {1: "tasks", V2: "cgroup.procs"}
NOBODY_COUNTED: Final = "0\n"
Reader = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a group uses. cpu_s: since its attempt began. None: the kernel does not count it."""

    cpu_s: float | None
    mem_bytes: int | None


@dataclass(slots=True)
class Group:
    """The groups of one attempt: `folders[i]` in `trees[i]`, all of the same name.

    was_killed: it may not be used again. cpu_before_s: what earlier attempts used. files: kept open
    while it serves, None if too many others are; for the executor's own thread.
    """

    name: str
    limits: Limits | None
    trees: tuple[Tree, ...]
    folders: tuple[str, ...]
    was_killed: bool = False
    cpu_before_s: float = 0.0
    files: KeptFiles | None = None

    @property
    def _read(self) -> Reader:
        return read if self.files is None else self.files.read

    @property
    def doors(self) -> tuple[str, ...]:
        """The files by which a process of one thread puts itself into it: it writes "0" into each.

        Why `tasks` where there is one: whoever moves but itself does not hold up every fork and end
        on the machine meanwhile, as a move of processes does.
        """
        trees = zip(self.trees, self.folders, strict=True)
        return tuple(f"{folder}/{DOORS[tree.version]}" for tree, folder in trees)

    def kill(self) -> None:
        """Send SIGKILL to every process in it; no other can be started meanwhile.

        Why by their numbers, the oldest first: a shell that sees its child killed says so in the
        command's log.
        """
        self.was_killed = True
        for tree, folder in zip(self.trees, self.folders, strict=True):
            with suppress(FileNotFoundError):
                if tree.version == V2:
                    write(f"{folder}/cgroup.kill", "1")
                    return
                if "pids" in tree.controllers:
                    write(f"{folder}/pids.max", "0")
        for pid in sorted(self.pids()):
            processes.kill(pid)

    def pids(self) -> set[int]:
        """The processes that live in it; zombies do not count."""
        return {int(p) for each in self.folders for p in read(f"{each}/cgroup.procs").split()}

    @property
    def is_empty(self) -> bool:
        """Whether nothing lives in it: the proof that an attempt is dead.

        Why the count is a proof as good as the list: a process is counted before it lives, until it
        is waited for. What waits for that only is in no list, so a count above 0 proves nothing.
        """
        counted = self._folder_with("pids")
        if counted and self._read(f"{counted}/pids.current") == NOBODY_COUNTED:
            return True
        return not any(read(f"{folder}/cgroup.procs") for folder in self.folders)

    @property
    def was_out_of_memory(self) -> bool:
        """Whether the kernel killed a process in it because its memory was used up."""
        folder = self._folder_with("memory")
        if not folder:
            return False
        text = self._read(f"{folder}/memory.oom_control") or self._read(f"{folder}/memory.events")
        return _counters(text).get("oom_kill", 0) > 0

    def usage(self) -> Usage:
        """What it uses, as the kernel counts it. Files that can be dropped are not counted."""
        cpu_s = self._cpu_s(read)
        return Usage(
            cpu_s=None if cpu_s is None else max(0.0, cpu_s - self.cpu_before_s),
            mem_bytes=self._mem_bytes(),
        )

    def _cpu_s(self, look: Reader) -> float | None:
        for tree, folder in zip(self.trees, self.folders, strict=True):
            if tree.version == V2:
                microseconds = _counters(look(f"{folder}/cpu.stat")).get("usage_usec")
                if microseconds is not None:
                    return microseconds / 1e6
            elif "cpu" in tree.controllers and (text := look(f"{folder}/cpuacct.usage")):
                return int(text) / 1e9
        return None

    def _mem_bytes(self) -> int | None:
        folder = self._folder_with("memory")
        text = _mem_used(folder, read)
        if not text:
            return None
        stat = _counters(read(f"{folder}/memory.stat"))
        return max(0, int(text) - stat.get("total_inactive_file", stat.get("inactive_file", 0)))

    def _folder_with(self, controller: str) -> str:
        """Its folder where a controller is; "" if that is nowhere."""
        for tree, folder in zip(self.trees, self.folders, strict=True):
            if controller in tree.controllers:
                return folder
        return ""

    @property
    def is_clean(self) -> bool:
        """Whether its attempt left nothing in it that another could suffer from.

        Why memory: what was written to a memory file system, or cached, stays with the group.
        """
        if self.was_killed or self.was_out_of_memory:
            return False
        used = _mem_used(self._folder_with("memory"), self._read)
        return not used or int(used) <= KEPT_BYTES_MAX

    def remove(self) -> bool:
        """Remove it; False if something is still in it, were it only for an instant."""
        if self.files is not None:
            self.files.close()
            self.files = None
        removed = True
        for folder in self.folders:
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                continue
            except OSError:
                removed = False
        return removed

    def serve_again(self) -> None:
        """Forget what the last attempt used."""
        self.cpu_before_s = self._cpu_s(self._read) or 0.0


def _groups_with_files_max() -> int:
    """How many groups may keep files open: they take half of what this process may open."""
    return _files_kept_max(GROUPS_WITH_FILES_MAX * FILES_PER_GROUP) // FILES_PER_GROUP


def _files_kept_max(most: int) -> int:
    """So many, or half of what this process may open, if that is less."""
    files_max, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if files_max < 0 else min(most, files_max // 2)


@dataclass(slots=True)
class ControlGroups:
    """Our groups on this machine.

    key: of the data folder. trees: those used, perhaps none; the first finds what an attempt left.
    missing: why a limit cannot be set here. mounted: all trees there are, ours or not.
    """

    key: str
    trees: tuple[Tree, ...] = ()
    missing: Mapping[Ability, str] = field(default_factory=dict)
    mounted: list[Mounted] = field(default_factory=list)
    _kept: dict[Limits | None, list[Group]] = field(default_factory=dict)
    _kept_count: int = 0
    _files_count: int = 0
    _files_count_max: int = field(default_factory=_groups_with_files_max)
    _to_remove: list[Group] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _cores_here: int = field(default_factory=lambda: os.cpu_count() or 1)

    @property
    def abilities(self) -> frozenset[Ability]:
        """The limits that are kept here."""
        return frozenset(CONTROLLERS) - frozenset(self.missing) if self.trees else frozenset()

    def claim(self) -> None:
        """Find what this machine allows, prove it, and make our folders.

        Never fails: what cannot be is in `missing`. Whatever is swept is to be swept before.
        """
        found = find_trees(self.mounted, key=self.key)
        self.trees, self.missing = found.trees, found.missing

    def make(self, limits: Limits | None) -> Group | None:
        """A group for an attempt; None where there are none. Raises OSError.

        Without limits it serves to find and to kill the attempt, for which one tree is enough.
        """
        group = self._take_kept(limits)
        if group is not None:
            group.serve_again()
            return group
        trees = self.trees if limits is not None else self.trees[:1]
        if not trees:
            return None
        name = f"{PREFIX}{next(self._numbers)}"
        group = Group(name, limits, trees, tuple(f"{tree.folder}/{name}" for tree in trees))
        if self._files_count < self._files_count_max:
            group.files = KeptFiles()
            self._files_count += 1
        try:
            for folder in group.folders:
                os.mkdir(folder)
            if limits is not None:
                self._limit(group, limits)
        except OSError:
            self._remove(group)
            raise
        return group

    def _take_kept(self, limits: Limits | None) -> Group | None:
        """One of those that served the same limits. The limits used last come last in `_kept`."""
        groups = self._kept.pop(limits, None)
        if not groups:
            return None
        self._kept[limits] = groups
        self._kept_count -= 1
        return groups.pop()

    def _limit(self, group: Group, limits: Limits) -> None:
        wanted = settings(limits, cores_here=self._cores_here)
        for tree, folder in zip(group.trees, group.folders, strict=True):
            for controller in tree.controllers:
                for name, value in wanted[tree.version, controller]:
                    try:
                        write(f"{folder}/{name}", value)
                    except FileNotFoundError:
                        if name not in OPTIONAL_FILES:
                            raise

    def homes_of(self, group: Group) -> tuple[str, ...]:
        """The files by which a process leaves a group for where it lives, see `Group.doors`."""
        return tuple(f"{tree.home}/cgroup.procs" for tree in group.trees)

    def discard(self, group: Group) -> None:
        """Take back the group of an attempt that is over; it is kept for another, or removed."""
        if group.is_clean:
            self._kept.setdefault(group.limits, []).append(group)
            self._kept_count += 1
        else:
            self._remove(group)
        while self._kept_count > KEPT_MAX:
            self._remove_oldest()
        if self._to_remove:
            self._to_remove = [each for each in self._to_remove if not each.remove()]

    def _remove_oldest(self) -> None:
        limits, groups = next(iter(self._kept.items()))
        if groups:
            self._remove(groups.pop())
            self._kept_count -= 1
        else:
            del self._kept[limits]

    def _remove(self, group: Group) -> None:
        self._files_count -= group.files is not None
        if not group.remove():
            self._to_remove.append(group)

    def name_of(self, pid: int) -> str | None:
        """The name of the attempt's group that a process is in; None if it is in none."""
        for line in read(f"/proc/{pid}/cgroup").splitlines():
            parts = line.split(":", 2)[-1].split("/")
            if self.key in parts and parts[-1].startswith(PREFIX):
                return parts[-1]
        return None

    def sweep(self) -> bool:
        """Kill what lives in the groups of attempts; True if there was anything, else all are gone.

        For whoever holds the data folder's lock and runs nothing: all of it was left behind.
        """
        found = False
        for mounted, folder in folders_of(self.mounted, key=self.key):
            tree = Tree(mounted.version, folder, mounted.own, mounted.controllers)
            for name in _entries(folder):
                group = Group(name, None, (tree,), (f"{folder}/{name}",))
                if name.startswith(PREFIX) and not group.is_empty:
                    group.kill()
                    found = True
                else:
                    group.remove()
            for each in (folder, os.path.dirname(folder)):
                with suppress(OSError):
                    os.rmdir(each)
        return found

    def close(self) -> None:
        """Remove all groups of ours that are empty; what runs on is not touched."""
        for tree in self.trees:
            if tree.home.endswith(f"/{HOME}"):
                with suppress(OSError):
                    above = tree.folder.removesuffix(f"/{FAMILY}/{self.key}")
                    write(f"{above}/cgroup.procs", "0")
            for name in _entries(tree.folder):
                with suppress(OSError):
                    os.rmdir(f"{tree.folder}/{name}")
            for folder in (tree.folder, os.path.dirname(tree.folder)):
                with suppress(OSError):
                    os.rmdir(folder)
        self.trees = ()
        for group in (each for groups in self._kept.values() for each in groups):
            if group.files is not None:
                group.files.close()
        self._kept.clear()


class Visitor:
    """A process of one thread that steps from group to group, and home after the last."""

    def __init__(self) -> None:
        self._files = KeptFiles()
        self._seen: set[str] = set()
        self._seen_max = _files_kept_max(VISITED_MAX)
        self._homes: tuple[str, ...] = ()  # the way out of the groups that this process is in

    def enter(self, doors: Collection[str], *, homes: tuple[str, ...]) -> None:
        """Put this process into a group, from wherever it is: what it spawns now begins there.

        doors, homes: see `Group.doors` and `ControlGroups.homes_of`; none of either: go home.
        Raises OSError.
        """
        if self._homes and self._homes != homes:
            self.leave()
        if len(self._seen) > self._seen_max:
            self._files.close()
            self._seen.clear()
        self._seen.update(doors)
        self._homes = homes
        for door in doors:
            self._files.write(door, "0")

    def leave(self) -> None:
        """Put this process back where it lives, so that no attempt's limits or end touch it.

        Raises RuntimeError, which must end this process: it would be killed with the attempt.
        """
        if self._homes:
            try:
                for home in self._homes:
                    self._files.write(home, "0")
            except OSError as error:
                raise RuntimeError(f"{self._homes} cannot be entered again") from error
            self._homes = ()


def open_control_groups(root: Path) -> ControlGroups:
    """The groups of a data folder, which must exist: to be swept, then claimed."""
    return control_groups_of(key_of(root))


def control_groups_of(key: str) -> ControlGroups:
    """The groups of a key, whose folder may be gone."""
    mounted = mounted_trees(read("/proc/self/mountinfo"), read("/proc/self/cgroup"))
    return ControlGroups(key, mounted=mounted)


def _entries(folder: str) -> list[str]:
    """The names of the groups in a folder; none if it is gone."""
    try:
        return [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    except FileNotFoundError:
        return []


def _mem_used(folder: str, look: Reader) -> str:
    """The bytes that a group holds, in digits; "" if no folder of it counts them."""
    if not folder:
        return ""
    return look(f"{folder}/memory.usage_in_bytes") or look(f"{folder}/memory.current")


def _counters(text: str) -> Mapping[str, int]:
    """The lines `name number` of a file's text."""
    pairs = (line.split(" ", 1) for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs}
