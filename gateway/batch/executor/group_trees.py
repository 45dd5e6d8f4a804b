"""The trees of control groups that this machine has, and which of them we may use.

| layout | limits | killing |
|---|---|---|
| v2 with controllers | memory.max, pids.max, cpu.max and cpu.weight | cgroup.kill |
| v1, with or without a bare v2 beside it | their v1 names, one tree each | pids.max 0, SIGKILL |
| a v2 without controllers, no v1 | none | cgroup.kill |
| none, or none that we may write to | none | by process group and descent, see `runner` |

Why no cgroup.kill in the second row even where it is there: one more tree to enter and leave costs
0.1 ms a command, and a group that cannot grow is killed as surely one process at a time.

Ours are below `qcs-gateway/<key>` in the group that the executor was started in, so whatever
bounds a service or a container bounds its jobs, too.
"""

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.batch.engines import Ability, Limits
from gateway.batch.executor.mountinfo import mount_lines

FAMILY: Final = "qcs-gateway"
HOME: Final = "executor"
PERIOD_US: Final = 100_000
SHARES_PER_CORE: Final = 1_024
WEIGHT_PER_CORE: Final = 100
WEIGHT_MAX: Final = 10_000
PROBE_LIMITS: Final = Limits(cores=1, mem_bytes=67_108_864, processes=64)
READ_BYTES_MAX: Final = 1_048_576
SHORT_BYTES_MAX: Final = 4_096
NO_FILE: Final = -1
NOT_MOUNTED: Final = "no control groups of this machine offer it"

CONTROLLERS: Final[Mapping[Ability, str]] = {
    Ability.PROCESSES: "pids",
    Ability.MEMORY: "memory",
    Ability.CPU: "cpu",
}
# Kernels without accounting of swap have no such files; memory is limited all the same.
OPTIONAL_FILES: Final = frozenset({"memory.memsw.limit_in_bytes", "memory.swap.max"})


@dataclass(frozen=True, slots=True)
class Mounted:
    """A tree of groups as this process sees it.

    top: its mount point. own: the folder of this process's group, or `top` if that is not in
    sight. controllers: of a v1 tree; those of a v2 tree are read from its folders.
    """

    version: int
    top: str
    own: str
    controllers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree that is used. folder: ours in it. home: where the executor is when it is nowhere else.

    controllers: those that work there.
    """

    version: int
    folder: str
    home: str
    controllers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Found:
    """The trees that are used, and why each limit that cannot be set cannot be."""

    trees: tuple[Tree, ...]
    missing: Mapping[Ability, str]


def mounted_trees(mountinfo: str, membership: str) -> list[Mounted]:
    """The trees of groups that are mounted, v1 first. Pure.

    mountinfo, membership: the texts of /proc/self/mountinfo and /proc/self/cgroup.
    """
    own_by_name: dict[str, str] = {}
    for line in membership.splitlines():
        _, names, path = line.split(":", 2)
        own_by_name.update(dict.fromkeys(names.split(","), path))
    found = []
    for mount in mount_lines(mountinfo):
        top, root = mount.point, mount.root
        if mount.kind == "cgroup2":
            found.append(Mounted(2, top, _own_folder(top, root, own_by_name.get("", "/"))))
        elif mount.kind == "cgroup":
            offered = frozenset(mount.options.split(" ")[-1].split(","))
            controllers = offered & frozenset(own_by_name)
            if controllers:
                own = _own_folder(top, root, own_by_name[min(controllers)])
                found.append(Mounted(1, top, own, controllers))
    return sorted(found, key=lambda each: each.version)


def _own_folder(top: str, root: str, path: str) -> str:
    """Where the group `path` is below a mount that shows the tree from `root` on."""
    if root == "/":
        return top + path.rstrip("/")
    inside = path == root or path.startswith(root + "/")
    return top + path.removeprefix(root).rstrip("/") if inside else top


def settings(limits: Limits, *, cores_here: int) -> Mapping[tuple[int, str], list[tuple[str, str]]]:
    """The files that hold limits, by version and controller, and what to write into them. Pure.

    Why both a quota and a weight for the processor: a command may use its node's cores and no
    more, even when others are idle, since that is the node it asked for; and when the nodes have
    more cores than the machine, each gets its part by its size. A node as large as the machine
    needs no quota.
    """
    shares = SHARES_PER_CORE * limits.cores
    weight = min(WEIGHT_MAX, WEIGHT_PER_CORE * limits.cores)
    quota = limits.cores * PERIOD_US
    memory = str(limits.mem_bytes)
    found = {
        (1, "memory"): [("memory.limit_in_bytes", memory), ("memory.memsw.limit_in_bytes", memory)],
        (2, "memory"): [("memory.max", memory), ("memory.swap.max", "0")],
        (1, "pids"): [("pids.max", str(limits.processes))],
        (2, "pids"): [("pids.max", str(limits.processes))],
        (1, "cpu"): [("cpu.shares", str(shares))],
        (2, "cpu"): [("cpu.weight", str(weight))],
    }
    if limits.cores < cores_here:
        found[1, "cpu"].append(("cpu.cfs_quota_us", str(quota)))
        found[2, "cpu"].append(("cpu.max", f"{quota} {PERIOD_US}"))
    return found


def find_trees(mounted: list[Mounted], *, key: str) -> Found:
    """Make our folders where we may, and prove by setting it what can be limited.

    Why this process may have to move: in v2 a group that hands its controllers down may hold no
    process itself, and the one that is delegated to us may hold just us. Nobody else is moved.
    """
    trees: list[Tree] = []
    missing = dict.fromkeys(CONTROLLERS, NOT_MOUNTED)
    for each in mounted:
        wanted = {ability: CONTROLLERS[ability] for ability in missing}
        if each.version == 1:
            if not each.controllers & set(wanted.values()):
                continue
            tree, reasons = _claim_v1(each, key, wanted)
        elif wanted or not trees:
            tree, reasons = _claim_v2(each, key, wanted, is_needed=not trees)
        else:
            continue
        missing |= reasons
        if tree is not None:
            trees.append(tree)
            missing = {a: why for a, why in missing.items() if wanted[a] not in tree.controllers}
    trees.sort(key=lambda tree: "pids" not in tree.controllers)
    return Found(tuple(trees), missing)


def _claim_v1(
    tree: Mounted, key: str, wanted: Mapping[Ability, str]
) -> tuple[Tree | None, Mapping[Ability, str]]:
    folder = f"{tree.own}/{FAMILY}/{key}"
    names = {ability: name for ability, name in wanted.items() if name in tree.controllers}
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        why = f"no group can be made in {tree.own}: {error.strerror}"
        return None, dict.fromkeys(names, why)
    tried = {ability: _try_limit(1, name, folder=folder) for ability, name in names.items()}
    works = frozenset(names[ability] for ability, why in tried.items() if not why)
    reasons = {ability: why for ability, why in tried.items() if why}
    return (Tree(1, folder, tree.own, works) if works else None), reasons


def _claim_v2(
    tree: Mounted, key: str, wanted: Mapping[Ability, str], *, is_needed: bool
) -> tuple[Tree | None, Mapping[Ability, str]]:
    """Claim the first place where some of `wanted` works, or if it is needed any place at all."""
    reasons: dict[Ability, str] = {}
    spare = None
    inside = tree.own != tree.top
    above = [os.path.dirname(tree.own), tree.top] if inside else []
    for base in dict.fromkeys([tree.own, *above]):
        folder = f"{base}/{FAMILY}/{key}"
        home = f"{folder}/{HOME}" if base == tree.own else tree.own
        offered = read(f"{base}/cgroup.controllers").split()
        names = {ability: name for ability, name in wanted.items() if name in offered}
        if not names and not (is_needed and spare is None):
            continue
        try:
            os.makedirs(f"{folder}/{HOME}", exist_ok=True)
            write(f"{home}/cgroup.procs", "0")
        except OSError as error:
            why = f"no group can be made in {base}: {error.strerror}"
            reasons |= dict.fromkeys(names, why)
            continue
        tried = {a: _hand_down(name, base, folder=folder) for a, name in names.items()}
        reasons |= {ability: why for ability, why in tried.items() if why}
        works = frozenset(names[ability] for ability, why in tried.items() if not why)
        if works:
            return Tree(2, folder, home, works), reasons
        spare = spare or Tree(2, folder, home)
    return (spare if is_needed else None), reasons


def _hand_down(name: str, base: str, *, folder: str) -> str:
    """Have a v2 controller work in the groups of `folder`; "" if it does, else why not."""
    for parent in (base, os.path.dirname(folder), folder):
        if name in read(f"{parent}/cgroup.subtree_control").split():
            continue
        try:
            write(f"{parent}/cgroup.subtree_control", f"+{name}")
        except OSError as error:
            if error.errno == errno.EBUSY:
                return f"{parent} holds processes of others, so it cannot hand it down"
            return f"{parent} does not hand it down: {error.strerror}"
    return _try_limit(2, name, folder=folder)


def _try_limit(version: int, name: str, *, folder: str) -> str:
    """Set a limit of a controller in a group of `folder`; "" if that works, else why not."""
    probe = f"{folder}/probe"
    try:
        with suppress(FileExistsError):
            os.mkdir(probe)
        for file, value in settings(PROBE_LIMITS, cores_here=2)[version, name]:
            if file not in OPTIONAL_FILES:
                write(f"{probe}/{file}", value)
    except OSError as error:
        return f"a limit cannot be set in {folder}: {error.strerror}"
    finally:
        with suppress(OSError):
            os.rmdir(probe)
    return ""


def folders_of(mounted: list[Mounted], *, key: str) -> Iterator[tuple[Mounted, str]]:
    """Every folder of ours on this machine, wherever the executor that made it was started."""
    for tree in mounted:
        for folder, names, _ in os.walk(tree.top):
            if os.path.basename(folder) == FAMILY:
                if key in names:
                    yield tree, f"{folder}/{key}"
                names.clear()


def key_of(root: Path) -> str:
    """What tells a data folder from every other, also from one of the same path elsewhere."""
    found = os.stat(root)
    text = f"{found.st_dev} {found.st_ino} {os.path.realpath(root)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read(path: str) -> str:
    """The text of a kernel's file; "" if it is gone or not for us."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        parts = []
        while part := os.read(file, READ_BYTES_MAX):
            parts.append(part)
        return b"".join(parts).decode(errors="surrogateescape")
    except OSError:
        return ""
    finally:
        os.close(file)


class KeptFiles:
    """Files of groups, each opened when it is first used and then kept open.

    Not to read `cgroup.procs` by: v1 shows the same list to one opening for up to a second.
    """

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def read(self, path: str) -> str:
        """The text of a short file; "" if it is gone or not for us."""
        file = self._open.get(path)
        if file is None:
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                file = NO_FILE
            self._open[path] = file
        if file == NO_FILE:
            return ""
        try:
            return os.pread(file, SHORT_BYTES_MAX, 0).decode(errors="surrogateescape")
        except OSError:
            return ""

    def write(self, path: str, text: str) -> None:
        """Write into a file, which must be there. Raises OSError."""
        file = self._open.get(path)
        if file is None:
            file = self._open[path] = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        os.write(file, text.encode())

    def close(self) -> None:
        """Close all of them."""
        while self._open:
            _, file = self._open.popitem()
            if file != NO_FILE:
                os.close(file)


def write(path: str, text: str) -> None:
    """Write into a kernel's file, which must be there. Raises OSError."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)
