"""What follows an executor that died: its attempts are killed, on proof, and end as INFRA_LOST.

Most of them died with it: bubblewrap and setpriv see to that. Its keeper, a waiting shell, comes
here at once for the others; if the keeper died too, the next executor does before it serves.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import SubprocessError
from typing import Final

from gateway.batch.executor import processes
from gateway.batch.executor.container_groups import remove_groups
from gateway.batch.executor.containers import remove_all
from gateway.batch.executor.control_groups import ControlGroups
from gateway.batch.executor.folders import SCRATCH, WORK, attempt_folder
from gateway.batch.executor.ledger import EXECUTOR_ENDED, Begun, Ledger, lost
from gateway.batch.executor.notes import find_begun
from gateway.batch.executor.removal import remove_empty
from gateway.batch.executor.work_folders import put_tmp_aside, remove_scratch
from gateway.clock import Clock
from gateway.errors import InvalidParameterValue

PAUSE_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class Leftover:
    """Where to look for an attempt's processes. pid, start_ticks: of its main one, if known."""

    work: Path
    pid: int | None
    start_ticks: int | None


def recover(
    ledger: Ledger,
    root: Path,
    *,
    groups: ControlGroups,
    clock: Clock,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """End every attempt that a dead executor had begun; return how many.

    What is in a control group of an attempt is found however well it hides; where there are no
    groups, or a process could leave them, `kill_leftovers` looks at what processes show.

    Does not return while anything of them lives: only then may they be tried again. Raises OSError
    if that cannot be journalled.
    """
    begun = list(ledger.begun.values())
    by_id = _leftovers(begun, root)
    leftovers = list(by_id.values())
    same_boot = ledger.previous_boot_id == processes.boot_id()
    while groups.sweep() or (same_boot and leftovers and kill_leftovers(leftovers)):
        sleep(PAUSE_S)
    remove_all(root)
    never_ran = {id_ for id_, leftover in by_id.items() if _only_fetched(leftover.work.parent)}
    for leftover in leftovers:
        remove_empty(str(leftover.work))
        put_tmp_aside(root, str(leftover.work.parent))
        _remove_scratch(leftover.work.parent)
    for each in begun:
        attempt_id = each.began.attempt_id
        has_run = attempt_id not in never_ran
        ended = lost(attempt_id, EXECUTOR_ENDED, clock=clock, started=has_run)
        ledger.end(ended, with_executor=True)
    ledger.commit()
    return len(begun)


def _only_fetched(folder: Path) -> bool:
    """Whether an attempt of this folder had a container to be, and it had not begun."""
    return (folder / SCRATCH).is_dir() and find_begun(str(folder)) is None


def _remove_scratch(folder: Path) -> None:
    """Remove what the container of an attempt needed, its control groups first."""
    with suppress(OSError, SubprocessError):
        remove_groups(f"{folder}/{SCRATCH}")
    remove_scratch(str(folder))


def _leftovers(begun: Iterable[Begun], root: Path) -> Mapping[str, Leftover]:
    """Where to look, by the id of the attempt."""
    found = {}
    for each in begun:
        try:
            work = attempt_folder(root, each.began.folder) / WORK
        except InvalidParameterValue:
            continue  # a folder that is refused was never started in
        spawned = each.spawned
        pid, ticks = (spawned.pid, spawned.start_ticks) if spawned else (None, None)
        found[each.began.attempt_id] = Leftover(work, pid, ticks)
    return found


def kill_leftovers(leftovers: Iterable[Leftover]) -> bool:
    """Kill what lives of these attempts; True if there was anything.

    A process is killed on proof only: it is the main one by pid and start time, shares that one's
    living session, has its home, working folder or a standard stream in the attempt's folder, or
    descends from such a process. Why the streams: bubblewrap shows nothing else, and before it
    has asked to die with its parent, the parent's death passes it by.
    """
    leftovers = list(leftovers)
    by_pid = {process.pid: process for process in processes.all_processes()}
    folders = tuple(os.fsencode(each.work.parent) + b"/" for each in leftovers)
    leaders = {
        each.pid
        for each in leftovers
        if each.pid in by_pid and by_pid[each.pid].start_ticks == each.start_ticks
    }
    victims = {
        process.pid
        for process in by_pid.values()
        if process.session in leaders
        or any(place.startswith(folders) for place in processes.places_of(process.pid))
    }
    found = -1
    while found != len(victims):
        found = len(victims)
        victims |= {each.pid for each in by_pid.values() if each.parent in victims}
    living = [pid for pid in victims if not by_pid[pid].is_zombie]
    for pid in living:
        processes.kill(pid)
    return bool(living)
