"""What a container may use: the size of its node, or less where its options ask for less."""

import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gateway.batch.engines import Limits

ULIMIT_MAX: Final = 32_768
_CONTROLLERS: Final = "/sys/fs/cgroup/cgroup.controllers"
_MEMORY: Final = "/sys/fs/cgroup/memory"
_ALWAYS: Final = ("nofile", "nproc")
_ASKED: Final = ("--memory", "--cpus", "--pids-limit", "--ulimit")


def without_limits(options: Sequence[str]) -> list[str]:
    """Those of the options that are no limits."""
    return [each for each in options if each.partition("=")[0] not in _ASKED]


def limit_words(limits: Limits | None, options: Sequence[str]) -> list[str]:
    """The words that limit a container. limits: of its node. options: all, checked before.

    Of the same limit asked for twice the last one counts, as with docker. The kernel's control
    groups are not asked for where there are none.
    """
    words = _ulimits(_asked(options, "--ulimit"))
    if os.path.isdir(_MEMORY) or _v2_has_memory():
        words += _group_words(limits, options)
    return words


def _asked(options: Sequence[str], name: str) -> list[str]:
    pairs = (each.partition("=") for each in options)
    return [value for each, _, value in pairs if each == name]


def _group_words(limits: Limits | None, options: Sequence[str]) -> list[str]:
    memory = [int(each) for each in _asked(options, "--memory")[-1:]]
    cpus = [float(each) for each in _asked(options, "--cpus")[-1:]]
    processes = [int(each) for each in _asked(options, "--pids-limit")[-1:]]
    if limits is not None:
        memory.append(limits.mem_bytes)
        cpus.append(limits.cores)
        processes.append(limits.processes)
    words = []
    if cpus:
        words += ["--cpus", f"{min(*cpus, os.cpu_count() or cpus[0]):g}"]
    if processes:
        words += ["--pids-limit", str(min(processes))]
    if memory:
        words += ["--memory", str(min(memory)), "--memory-swap", str(min(memory))]
    return words


def _ulimits(asked: Sequence[str]) -> list[str]:
    """Limits of the kind that go with a process: as asked for, but never above what is set here.

    Why files and processes always: podman's own limits are higher than what a machine without
    CAP_SYS_RESOURCE may set. Why not our own limit of processes: what runc may set can be half of
    it. It counts all processes of nobody, so it must be high; what one container may have is
    limited by its control group.
    """
    limits = dict.fromkeys(_ALWAYS, (ULIMIT_MAX, ULIMIT_MAX))
    for kind, _, pair in (each.partition("=") for each in asked):
        first, _, last = pair.partition(":")
        limits[kind] = (int(first), int(last or first))
    words = []
    for kind, (soft, hard) in limits.items():
        most = _most(kind)
        words += ["--ulimit", f"{kind}={min(soft, most)}:{min(hard, most)}"]
    return words


def _most(kind: str) -> int:
    _, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{kind.upper()}"))
    most = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    return min(most, ULIMIT_MAX) if kind in _ALWAYS else most


def _v2_has_memory() -> bool:
    try:
        return "memory" in Path(_CONTROLLERS).read_text(encoding="ascii").split()
    except OSError:
        return False
