"""The runner: has commands spawned, watches them, and kills whole trees of processes.

An attempt is over only when nothing of it is left: its control group is empty, where there are
control groups. The executor is the subreaper of all it spawns, too: a process whose parent dies
becomes its child, however many sessions lie between. When the main process of an attempt ends, the
adopted ones that belong to it are killed until there are none.
"""

import heapq
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from socket import socket
from typing import Final

from msgspec.structs import replace

from gateway.batch.engines import Cause, Ended, Launch, Started
from gateway.batch.executor import processes
from gateway.batch.executor.containers import Containers
from gateway.batch.executor.control_groups import ControlGroups
from gateway.batch.executor.folders import NO_ROOM
from gateway.batch.executor.held import HOG_LOG_BYTES_MAX
from gateway.batch.executor.isolation import Isolation
from gateway.batch.executor.mounts import CannotLaunch
from gateway.batch.executor.notes import find_begun
from gateway.batch.executor.running import Running, outcome
from gateway.batch.executor.samples import Sampler
from gateway.batch.executor.spawn_pool import SpawnPool
from gateway.batch.executor.spawn_server import NotSpawned
from gateway.batch.executor.spawning import Ready, Spawner
from gateway.clock import Clock
from gateway.errors import InvalidParameterValue

IDENTIFY_AFTER_S: Final = 0.1
LOOK_AGAIN_S: Final = 0.002
ORDERED_MAX: Final = 64  # whoever spawns has their files open
DEADLINES_KEPT: Final = 1_000
RUNS_IN_MEAN: Final = 16
ROOM_S: Final = 1.0  # between two looks for room on the disk
GIVE_UP_S: Final = 5.0
GIVE_UP_LOOK_S: Final = 0.001
BEGUN_S: Final = 0.1  # between two looks for containers that have begun

log = logging.getLogger("executor")


@dataclass(slots=True)
class Heard:
    """What became of attempts that were to be spawned."""

    running: list[Running] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)


class Runner:
    """All attempts that wait for their process or have one.

    helpers: pids of children that are no spawn servers and belong to no attempt.
    """

    def __init__(
        self,
        root: Path,
        *,
        isolation: Isolation,
        pool: SpawnPool,
        groups: ControlGroups,
        containers: Containers | None = None,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.isolation = isolation
        self.groups = groups
        self._sampler = Sampler(clock=clock, root=str(root))
        self._sampler.start()
        self.helpers: set[int] = set()
        self.running: dict[str, Running] = {}
        self._pool = pool
        self._spawner = Spawner(root, pool=pool, groups=groups, containers=containers)
        self._clock = clock
        self._monotonic = monotonic
        self._waiting: dict[str, Launch] = {}
        self._numbers = count(1)
        self._by_number: dict[int, Running] = {}  # ordered, and not over
        self._ordered = 0  # of these, those that have no process yet
        self._dying: set[int] = set()  # of these, those that were killed
        self._by_pid: dict[int, Running] = {}
        self._new: dict[int, Running] = {}
        self._ending: dict[str, Running] = {}
        self._fetching: dict[str, Running] = {}  # their containers have not begun
        self._begun: list[Running] = []  # of these, those that have, until they are taken
        self._look_for_begun_at = 0.0
        self._deadlines: list[tuple[float, str]] = []
        self._look_again_at: float | None = None
        self._spawn_at = 0.0  # nothing that waits is spawned before
        self.mean_run_s = 0.0
        """How long attempts take until it is heard of their end, the latest ones above all."""

    @property
    def is_idle(self) -> bool:
        """Whether there is no attempt at all."""
        return not self.running and not self._waiting

    @property
    def has_waiting(self) -> bool:
        """Whether `spawn` has something to do now."""
        has_room = self._ordered < ORDERED_MAX
        return has_room and bool(self._waiting) and self._monotonic() >= self._spawn_at

    @property
    def is_pressed(self) -> bool:
        """Whether any attempt is to be ordered yet, or to die."""
        return bool(self._waiting or self._dying)

    @property
    def lines(self) -> Sequence[socket]:
        """Readable when `hear` has something to take in."""
        return self._pool.lines

    @property
    def next_deadline(self) -> float | None:
        """The monotonic time at which one of the others has something to do."""
        if self._look_again_at is not None:
            return self._look_again_at
        moments = [self._deadlines[0][0]] if self._deadlines else []
        if self._waiting and self._ordered < ORDERED_MAX:
            moments.append(self._spawn_at)
        if self._fetching:
            moments.append(self._look_for_begun_at)
        return min(moments, default=None)

    def enqueue(self, launches: Iterable[Launch]) -> None:
        """Take in attempts that are journalled."""
        self._waiting.update((launch.attempt_id, launch) for launch in launches)

    def spawn(self, *, count_max: int) -> list[Ended]:
        """Have some of what waits spawned; returns what cannot be and so ends as INFRA_LOST.

        One that asks for what cannot be had here ends with the cause that says so: no other node
        of this machine would have it either. While there is no room on the disk they wait: that
        passes, and each of their tries would end as this one. `flush` must follow.
        """
        ended: list[Ended] = []
        for _ in range(count_max):
            if not self.has_waiting:
                break
            launch = self._waiting.pop(next(iter(self._waiting)))
            try:
                self._order(self._spawner.make_ready(launch, self.isolation))
            except (CannotLaunch, OSError, ValueError, InvalidParameterValue) as error:
                if isinstance(error, OSError) and error.errno in NO_ROOM:
                    self._hold(launch)
                else:
                    ended.append(self._not_started(launch, error))
        return ended

    def _order(self, ready: Ready) -> None:
        """Raises ValueError or OSError for words that no process can be given."""
        number = next(self._numbers)
        self._spawner.order(number, ready)
        self._ordered += 1
        running = Running(ready, number, self._monotonic(), remover=ready.command.remover)
        self.running[running.attempt_id] = self._by_number[number] = running

    def flush(self) -> None:
        """Send what is to be spawned and killed to who does it. Raises RuntimeError, as `hear`."""
        self._spawner.flush()

    def hear(self) -> Heard:
        """Take in what has become of what was to be spawned, and whose main process has ended.

        Raises RuntimeError, which must end this process: who spawns and waits is gone.
        """
        result = Heard()
        for report in self._spawner.hear():
            self._ordered -= len(report.spawned) + len(report.not_spawned)
            for number, pid in report.spawned:
                result.running.append(self._note(self._by_number[number], pid))
            for failed in report.not_spawned:
                result.ended.append(self._note_failed(self._by_number.pop(failed.number), failed))
            for number, status in report.ended:
                self._note_end(self._by_number.pop(number), status)
        return result

    def _hold(self, launch: Launch) -> None:
        """Have an attempt wait for room on the disk, before all others."""
        log.error("no_room_to_start attempt=%s", launch.attempt_id)
        self._waiting = {launch.attempt_id: launch, **self._waiting}
        self._spawn_at = self._monotonic() + ROOM_S

    def _note(self, running: Running, pid: int) -> Running:
        launch = running.ready.launch
        running.pid, running.spawned_at = pid, self._monotonic()
        self._by_pid[pid] = self._new[pid] = running
        self._sampler.watch(launch, folder=running.folder, pid=pid, group=running.group)
        if launch.container is None:
            self._start_time(running, at=self._clock())
        else:
            self._fetching[launch.attempt_id] = running
        if running.killed_for is not None:  # meanwhile
            self._kill_processes(running)
        return running

    def _note_failed(self, running: Running, failed: NotSpawned) -> Ended:
        del self.running[running.attempt_id]
        self._dying.discard(running.number)
        self._spawner.take_back(running.ready)
        if running.killed_for is not None:
            cause, attempt_id = running.killed_for, running.attempt_id
            return Ended(attempt_id, self._clock(), None, cause, started=False)
        error = OSError(failed.code, failed.why) if failed.code else ValueError(failed.why)
        return self._not_started(running.ready.launch, error)

    def _note_end(self, running: Running, status: int) -> None:
        """Note that the main process of an attempt has ended."""
        for known in (self._by_pid, self._new):
            if known.get(running.pid) is running:  # the number may be a newer one's already
                del known[running.pid]
        self._ending[running.attempt_id] = running
        self._dying.discard(running.number)
        running.status = status
        run_s = self._monotonic() - running.ordered_at
        self.mean_run_s += (run_s - self.mean_run_s) / RUNS_IN_MEAN
        if running.started is None:
            self._look_whether_begun(running)  # before the note is removed
            self._fetching.pop(running.attempt_id, None)
        self._look_whether_it_filled_the_disk(running)

    def _start_time(self, running: Running, *, at: datetime) -> None:
        """Note that its command runs: from now on its time counts."""
        running.started = Started(running.attempt_id, at)
        self._remember_deadline(running.ready.launch)

    def take_begun(self) -> list[Running]:
        """The attempts whose containers have begun since this was called last."""
        if self._fetching and self._monotonic() >= self._look_for_begun_at:
            self._look_for_begun_at = self._monotonic() + BEGUN_S
            for running in list(self._fetching.values()):
                self._look_whether_begun(running)
        begun, self._begun = self._begun, []
        return begun

    def _look_whether_begun(self, running: Running) -> None:
        at = find_begun(running.folder)
        if at is not None:
            del self._fetching[running.attempt_id]
            self._start_time(running, at=at)
            self._begun.append(running)

    def _not_started(self, launch: Launch, error: Exception) -> Ended:
        # Not the error itself: it may name a path of this machine.
        words = (isinstance(error, OSError) and error.strerror) or str(error)
        cause, why = Cause.INFRA_LOST, f"The command could not be started: {words}"
        if isinstance(error, CannotLaunch):
            cause, why = error.cause, str(error)
        return Ended(launch.attempt_id, self._clock(), None, cause, why, started=False)

    def identify(self) -> list[tuple[str, processes.Process]]:
        """The main processes of attempts that have run for a while, each given once.

        Why not at once: a look into /proc costs as much as half a command, and most commands that
        end soon would be looked up for nothing.
        """
        latest = self._monotonic() - IDENTIFY_AFTER_S
        found = []
        while self._new:
            running = next(iter(self._new.values()))
            if running.spawned_at > latest:
                break
            del self._new[running.pid]
            process = processes.find_process(running.pid)
            is_ours = process is not None and process.parent in self._pool.pids
            if process is not None and is_ours and running.status is None:
                found.append((running.attempt_id, process))
        return found

    def _remember_deadline(self, launch: Launch) -> None:
        """Note when the time is up. Those of attempts that ended early are swept out in bulk."""
        deadline = self._monotonic() + launch.timeout_s
        heapq.heappush(self._deadlines, (deadline, launch.attempt_id))
        if len(self._deadlines) > DEADLINES_KEPT + 2 * len(self.running):
            self._deadlines = [each for each in self._deadlines if each[1] in self.running]
            heapq.heapify(self._deadlines)

    def stop(self, attempt_id: str) -> Ended | None:
        """Kill an attempt. The outcome comes from `hear` or `reap`, or at once if it waits."""
        if attempt_id in self.running:
            self._kill(self.running[attempt_id], Cause.TERMINATED)
            return None
        if self._waiting.pop(attempt_id, None) is None:
            return None
        return Ended(attempt_id, self._clock(), None, Cause.TERMINATED, started=False)

    def stop_all(self) -> None:
        """Kill everything, and start nothing that still waits."""
        self._waiting.clear()
        for running in self.running.values():
            self._kill(running, Cause.TERMINATED)

    def expire(self) -> None:
        """Kill the attempts whose time is up."""
        now = self._monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, attempt_id = heapq.heappop(self._deadlines)
            if attempt_id in self.running:
                self._kill(self.running[attempt_id], Cause.TIMEOUT)

    def make_room(self) -> None:
        """Kill what fills the disk. Its end is told when its files are gone: only then can it be.

        And have removed what nobody needs any more.
        """
        while (attempt_id := self._sampler.next_hog()) is not None:
            running = self.running.get(attempt_id)
            if running is not None and running.status is None and running.killed_for is None:
                self._note_hog(running)
                self._kill(running, Cause.STORAGE)
        while (folder := self._sampler.next_useless()) is not None:
            self.remove_work([folder])
        with suppress(OSError):  # it is tried again at the next turn
            if (pid := self._spawner.spawn_removal()) is not None:
                self.helpers.add(pid)

    def _note_hog(self, running: Running) -> None:
        """Have what it filled the disk with removed before its end is told."""
        log.error("disk_filled attempt=%s", running.attempt_id)
        disks = self._sampler.own_disks(running.ready.launch)
        running.remover = hog_remover(running.folder, first=running.remover, disks=disks)

    def _look_whether_it_filled_the_disk(self, running: Running) -> None:
        """Whether one that failed did so because it had filled the disk before we looked."""
        if running.status == 0 or running.killed_for is not None or running.started is None:
            return
        with suppress(OSError, ValueError):  # it cannot be told, then
            if self._sampler.is_hog(running.attempt_id):
                running.killed_for = Cause.STORAGE
                self._note_hog(running)

    def give_up(self) -> None:
        """Kill whatever attempts have, as far as it can be seen, for this process cannot go on.

        What spawn servers spawned becomes our children; what is left is for who sweeps up after us.
        Raises OSError.
        """
        self._pool.close()
        give_up_at = self._monotonic() + GIVE_UP_S
        while self._monotonic() < give_up_at:
            left = [pid for pid in processes.children() if pid not in self.helpers]
            if not left:
                return
            for pid in left:
                processes.kill(pid)
            while (ended := processes.ended_child()) is not None:
                os.waitpid(ended, 0)
            time.sleep(GIVE_UP_LOOK_S)

    def remove_work(self, folders: Iterable[str]) -> None:
        """Remove the work folders of attempts of which nothing is left, whatever is in them."""
        self._spawner.remove_work(folders)

    def remember(self, ended: Ended, *, folder: str) -> None:
        """Have the files of an attempt that ended under an earlier executor in sight, too.

        folder: as its launch said it.
        """
        self._sampler.remember(ended, folder=folder)

    def acknowledge(self, attempt_ids: Iterable[str]) -> None:
        """Leave alone what attempts that ended have left: whoever was told looks after it."""
        for attempt_id in attempt_ids:
            self._sampler.forget(attempt_id)

    def _kill(self, running: Running, cause: Cause) -> None:
        """Kill all that is known to be of it; if there is more, it follows when it is reaped."""
        if running.status is None and running.killed_for is None:
            running.killed_for = cause
            self._dying.add(running.number)
            self._kill_processes(running)

    def _kill_processes(self, running: Running) -> None:
        """Why not its group before its process is told: until then who spawns it may be in it."""
        if running.group is not None and running.pid:
            running.group.kill()
        self._spawner.kill(running.number)

    def reap(self) -> list[Ended]:
        """Collect helpers and adopted children; return the attempts of which nothing is left.

        Raises RuntimeError, as `hear` does.
        """
        while (pid := processes.ended_child()) is not None:
            if pid in self._pool.pids:
                raise RuntimeError("a spawn server has ended")
            _, status = os.waitpid(pid, 0)
            self.helpers.discard(pid)
            self._note_remover(pid, status)
        return self._sweep() if self._ending else []

    def _sweep(self) -> list[Ended]:
        """Kill what the ending attempts left behind; return those that left nothing more."""
        still_there: set[str] = set()
        for running in self._ending.values():
            if running.group is not None and not running.group.is_empty:
                running.group.kill()
                still_there.add(running.attempt_id)
        for pid in processes.children():
            if pid in self._pool.pids or pid in self.helpers:
                continue
            process = processes.find_process(pid)
            if process is None:
                continue
            owner = self._owner(process)
            owners = list(self._ending) if owner is None else self._if_ending(owner)
            still_there.update(owners)
            # Who leads a session that nobody has may not be told yet.
            if owners and not (owner is None and self._ordered):
                processes.kill(pid)
        over = [
            each
            for each in self._ending.values()
            if each.attempt_id not in still_there and self._is_removed(each)
        ]
        # What is not our child, in another pid namespace say, ends without our being told.
        self._look_again_at = self._monotonic() + LOOK_AGAIN_S if still_there else None
        ended = []
        for each in over:
            del self._ending[each.attempt_id]
            del self.running[each.attempt_id]
            ended.append(outcome(each, clock=self._clock))
            self._sampler.end(each.ready.launch, failed=ended[-1].cause is not None)
            ready = each.ready
            if self._spawner.end(ready.launch, ready.folder, ready.command, ready.group):
                ended[-1] = replace(ended[-1], left_nothing=True)
        return ended

    def _is_removed(self, running: Running) -> bool:
        """Whether its container, if it had one, is gone for sure; if not, that is being done."""
        if running.remover and running.remover_pid is None:
            with suppress(OSError):  # it is tried again at the next turn
                running.remover_pid = self._spawner.spawn_helper(running.remover)
                self.helpers.add(running.remover_pid)
        return not running.remover

    def _note_remover(self, pid: int, status: int) -> None:
        """Take in the end of a remover; one that failed is run again."""
        for running in self._ending.values():
            if running.remover_pid == pid:
                running.remover_pid = None
                if status == 0:
                    running.remover = ()

    def _owner(self, process: processes.Process) -> Running | None:
        """The attempt that an adopted process belongs to; None if it may be of any that ends.

        Why so: a process that left its session, its home, its folder and its streams shows nothing.
        Rather than let it outlive its attempt, it ends with the next one that ends. Only one that
        can leave its control group, too, comes to that.
        """
        name = self.groups.name_of(process.pid)
        for running in self.running.values() if name is not None else ():
            if running.group is not None and running.group.name == name:
                return running
        for running in (*self._ending.values(), *self._by_pid.values()):
            if running.pid == process.session:
                return running
        for running in self.running.values():
            if processes.works_in(process.pid, running.folder):
                return running
        return None

    def _if_ending(self, running: Running) -> list[str]:
        return [running.attempt_id] if running.attempt_id in self._ending else []


def hog_remover(
    folder: str, *, first: tuple[str, ...], disks: Sequence[str] = ()
) -> tuple[str, ...]:
    """The argv that removes what an attempt filled the disk with; its logs are only cut short.

    first: what is to succeed before. disks: folders that are to be empty; one may be gone.
    """
    empty = (
        '"$@" && { ! test -d "$0" || '
        'find "$0" -mindepth 1 -maxdepth 1 -exec rm -rf --one-file-system -- {} +; }'
    )
    for disk in disks:
        first = ("/bin/sh", "-c", empty, disk, *(first or ("/bin/true",)))
    script = (
        '"$@" && cd -- "$0" && rm -rf -- work tmp'
        f' && truncate --no-create --size "<{HOG_LOG_BYTES_MAX}" -- stdout stderr'
    )
    return ("/bin/sh", "-c", script, folder, *(first or ("/bin/true",)))
