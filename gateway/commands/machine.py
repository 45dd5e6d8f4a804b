"""What the machine itself allows: isolation, limits, containers, capacity. For `doctor`."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gateway.batch.engines.local import machine_memory_gib
from gateway.batch.executor.abilities import LIMITS, why_no_limits, why_no_mounts
from gateway.batch.executor.containers import (
    ContainersUnavailable,
    find_containers,
    prove_containers,
)
from gateway.batch.executor.control_groups import open_control_groups
from gateway.batch.executor.isolation import (
    ISOLATIONS,
    Isolation,
    IsolationUnavailable,
    isolation_named,
    with_folders,
)
from gateway.batch.executor.mountinfo import mount_lines
from gateway.commands.findings import Finding, Verdict
from gateway.config import Settings

ISOLATION_WORKS: Final = {"none": "works; only for who asks for it"}
ISOLATION_ADVICE: Final = {
    "sandbox": "Install bubblewrap, and allow user namespaces if the gateway is not root.",
    "uid": "Run as root, with `data` where other users may pass through to it; or use `sandbox`.",
    "none": "A shell must be able to work in `data`.",
}
_OPTION: Final = "favordynmods"
_OPTION_SINCE: Final = (6, 0)


def look_at_isolation(folder: Path, *, asked: str, shown: Sequence[str] = ()) -> list[Finding]:
    """Try each isolation; the one that would be used decides whether that is good enough.

    asked: the setting; "" is the best there is. shown: more folders that a sandbox is to show.
    """
    found = [_look_at_one_isolation(name, folder) for name in ISOLATIONS]
    try:
        used = isolation_named(asked, root=folder)
    except IsolationUnavailable:
        words = f"`{asked}` is asked for and does not work"
        return [
            *found,
            Finding(
                "isolation",
                Verdict.WRONG,
                words if asked else "neither sandbox nor uid works",
                "Install bubblewrap, run the gateway as root, or set `isolation` to what works.",
            ),
        ]
    return [
        *found,
        _used_isolation(used),
        _look_at_mounts(used),
        _look_at_shown(used, shown, root=folder),
    ]


def _look_at_one_isolation(name: str, folder: Path) -> Finding:
    try:
        isolation_named(name, root=folder)
    except IsolationUnavailable as error:
        advice = ISOLATION_ADVICE[name]
        return Finding(f"isolation.{name}", Verdict.DEGRADED, str(error), advice)
    return Finding(f"isolation.{name}", Verdict.OK, ISOLATION_WORKS.get(name, "works"))


def _used_isolation(used: Isolation) -> Finding:
    if used.name == "none":
        return Finding(
            "isolation",
            Verdict.DEGRADED,
            "`none` is used: commands have the gateway's rights, and see its keys",
            'Leave `isolation` out to have the best there is, or set it to "sandbox".',
        )
    return Finding("isolation", Verdict.OK, f"`{used.name}` is used")


def _look_at_mounts(used: Isolation) -> Finding:
    """Whether a command outside a container sees the folders that its task maps."""
    if why := why_no_mounts(used):
        advice = "Use `sandbox`: until then jobs that map folders are refused."
        return Finding("isolation.mounts", Verdict.DEGRADED, why, advice)
    return Finding("isolation.mounts", Verdict.OK, "commands see the folders that are mapped")


def _look_at_shown(used: Isolation, shown: Sequence[str], *, root: Path) -> Finding:
    """Have a sandbox show what it is to show besides the system."""
    name = "isolation.folders"
    try:
        with_folders(used, shown, root=root)
    except IsolationUnavailable as error:
        advice = "Make the folder, or take it out of `sandbox_folders`: no server starts with it."
        return Finding(name, Verdict.WRONG, str(error), advice)
    if not shown:
        return Finding(name, Verdict.OK, "none is set: a sandbox shows the system alone")
    return Finding(name, Verdict.OK, f"{', '.join(shown)} can be seen")


def look_at_limits(folder: Path) -> list[Finding]:
    """Claim control groups as the executor does, and give them back."""
    groups = open_control_groups(folder)
    try:
        groups.claim()
        missing = why_no_limits(groups)
        versions = sorted({tree.version for tree in groups.trees})
        advice = "Run the gateway as root, or have its service delegate control groups to it."
        layout = " and ".join(f"v{version}" for version in versions)
        return [
            Finding("limits.layout", Verdict.OK, f"control groups {layout}")
            if layout
            else Finding("limits.layout", Verdict.DEGRADED, "no control groups", advice),
            *(
                Finding(
                    f"limits.{each.value}",
                    Verdict.DEGRADED,
                    f"not enforced: {missing[each]}",
                    advice,
                )
                if each in missing
                else Finding(f"limits.{each.value}", Verdict.OK, "enforced")
                for each in LIMITS
            ),
        ]
    finally:
        groups.close()


def look_at_group_moves(mounts: str, *, release: str) -> Finding:
    """Whether a command can enter its control group at once.

    mounts: the text of `/proc/self/mountinfo`. release: of the kernel, "6.1.0-18-amd64".

    Why only advice: it costs no more than milliseconds, each time after a pause. Why a mount of v2
    is named even where v1 keeps the limits: the lock is one for all trees, and v1 takes no new
    options when it is mounted again. Kernels before 6.0 knew nothing else, and had no such option.
    Source: Linux, commits 6a010a49b63a and 9b81d3a5be05.
    """
    name = "limits.latency"
    trees = [each for each in mount_lines(mounts) if each.kind in {"cgroup", "cgroup2"}]
    if not trees:
        return Finding(name, Verdict.OK, "there are no control groups to enter")
    version = tuple(int(digits) for digits in re.findall(r"[0-9]+", release)[:2])
    is_set = any(_OPTION in each.options.replace(" ", ",").split(",") for each in trees)
    if is_set or version < _OPTION_SINCE:
        why = f"{_OPTION} is set" if is_set else f"kernel {release} needs no {_OPTION}"
        return Finding(name, Verdict.OK, f"{why}: a command enters its group at once")
    advice = "Start the kernel with `cgroup_favordynmods=true`, which 6.7 and later know."
    point = next((each.point for each in trees if each.kind == "cgroup2"), "")
    if point:
        advice = f"`mount -o remount,{_OPTION} {point}`, at every start of the machine, if that"
        advice += " matters more than that processes then begin and end at a higher price."
    words = f"{_OPTION} is not set: after a pause a command enters its group milliseconds late"
    return Finding(name, Verdict.OK, words, advice)


def look_at_containers(root: Path) -> Finding:
    """Find what runs Docker applications, and have it look at its own storage."""
    try:
        words = prove_containers(find_containers(root))
    except ContainersUnavailable as error:
        advice = "Install podman and runc, and run as root; until then Docker jobs are refused."
        return Finding("containers", Verdict.DEGRADED, str(error), advice)
    return Finding("containers", Verdict.OK, words)


def look_at_capacity(settings: Settings) -> Finding:
    """What may run at once, as the settings and the machine say."""
    cores = os.cpu_count() or 1
    here = machine_memory_gib()
    memory = settings.memory_gib or here
    words = f"{settings.instances_per_core * cores} instances on {cores} cores, {memory:.1f} GiB"
    if settings.memory_gib > here:
        advice = f"The machine has {here:.1f} GiB: lower `memory_gib`, or leave it out."
        return Finding("capacity", Verdict.DEGRADED, words, advice)
    return Finding("capacity", Verdict.OK, words)
