"""The runner: spawns commands, watches them, and kills whole trees of processes.

An attempt is over only when nothing of it is left: its control group is empty, where there are
control groups. The executor is the subreaper of all it spawns, too: a process whose parent dies
becomes its child, however many sessions lie between. When the main process of an attempt ends, the
adopted ones that belong to it are killed until there are none.
"""

import heapq
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.batch.engines import Cause, Ended, Launch, Started
from gateway.batch.executor import processes
from gateway.batch.executor.command import (
    SCRIPT_FD,
    Command,
    command_of,
    make_folder,
    open_logs,
    open_script,
)
from gateway.batch.executor.containers import Containers, read_verdict
from gateway.batch.executor.control_groups import ControlGroups, Group
from gateway.batch.executor.folders import WORK, attempt_folder
from gateway.batch.executor.isolation import PATH, Isolation
from gateway.batch.executor.ledger import lost
from gateway.batch.executor.mounts import CannotLaunch
from gateway.batch.executor.samples import Sampler
from gateway.clock import Clock
from gateway.errors import InvalidParameterValue

SIGNAL_MAX: Final = 64
EXIT_OF_SIGNAL: Final = 128
IDENTIFY_AFTER_S: Final = 0.1
LOOK_AGAIN_S: Final = 0.002
DEADLINES_KEPT: Final = 1_000
# Python ignores these; a command expects them as the system has them.
RESET_SIGNALS: Final = (signal.SIGPIPE, signal.SIGXFSZ)


@dataclass(slots=True)
class Running:
    """An attempt with processes.

    pid: of the main one, which leads the attempt's session. spawned_at: monotonic seconds. group:
    what all of them are in; None where there are no control groups.
    killed_for: why we killed it, if we did. status: how the main process ended, as `waitpid` says
    it; None while it lives. remover: what is still to run when nothing of it lives, to be rid of
    its container. remover_pid: while that runs.
    """

    attempt_id: str
    folder: str
    pid: int
    spawned_at: float
    started: Started
    group: Group | None = None
    killed_for: Cause | None = None
    status: int | None = None
    in_container: bool = False
    remover: tuple[str, ...] = ()
    remover_pid: int | None = None


@dataclass(slots=True)
class Spawned:
    """What one round of spawning came to."""

    running: list[Running] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)


class Runner:
    """All attempts that wait for their process or have one.

    helpers: pids of children that are no attempts.
    """

    def __init__(
        self,
        root: Path,
        *,
        isolation: Isolation,
        groups: ControlGroups,
        containers: Containers | None = None,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.isolation = isolation
        self.groups = groups
        self.containers = containers
        self._sampler = Sampler(clock=clock)
        self._sampler.start()
        self.helpers: set[int] = set()
        self.running: dict[str, Running] = {}
        self._root = root
        self._clock = clock
        self._monotonic = monotonic
        self._waiting: dict[str, Launch] = {}
        self._by_pid: dict[int, Running] = {}
        self._new: dict[int, Running] = {}
        self._ending: dict[str, Running] = {}
        self._deadlines: list[tuple[float, str]] = []
        self._look_again_at: float | None = None
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    @property
    def is_idle(self) -> bool:
        """Whether there is no attempt at all."""
        return not self.running and not self._waiting

    @property
    def has_waiting(self) -> bool:
        """Whether `spawn` has something to do."""
        return bool(self._waiting)

    @property
    def next_deadline(self) -> float | None:
        """The monotonic time at which `expire` or `reap` has something to do."""
        if self._look_again_at is not None:
            return self._look_again_at
        return self._deadlines[0][0] if self._deadlines else None

    def enqueue(self, launches: Iterable[Launch]) -> None:
        """Take in attempts that are journalled."""
        self._waiting.update((launch.attempt_id, launch) for launch in launches)

    def spawn(self, *, count_max: int) -> Spawned:
        """Spawn some of what waits; one that cannot be spawned ends as INFRA_LOST.

        One that asks for what cannot be had here ends with the cause that says so: no other node
        of this machine would have it either.
        """
        result = Spawned()
        while self._waiting and len(result.running) + len(result.ended) < count_max:
            launch = self._waiting.pop(next(iter(self._waiting)))
            try:
                result.running.append(self._spawn(launch))
            except CannotLaunch as error:
                ended = Ended(launch.attempt_id, self._clock(), None, error.cause, str(error))
                result.ended.append(ended)
            except (OSError, ValueError, InvalidParameterValue) as error:
                why = f"The command could not be started: {error}"
                result.ended.append(lost(launch.attempt_id, why, clock=self._clock))
        if result.running:
            os.chdir("/")
        return result

    def _spawn(self, launch: Launch) -> Running:
        folder = str(attempt_folder(self._root, launch.folder))
        command = command_of(
            launch,
            self.isolation,
            root=self._root,
            work=f"{folder}/{WORK}",
            containers=self.containers,
        )
        user = command.user
        os.chdir(make_folder(folder, user=user))
        files = open_logs(folder, user=user)
        group: Group | None = None
        try:
            if command.script is not None:
                files.append(open_script(command.script))
            # A container is limited by what runs it, which needs room of its own.
            group = self.groups.make(None if launch.container else launch.limits)
            pid = self._spawn_in(group, command, files)
        except OSError:
            if group is not None:
                self.groups.discard(group)
            raise
        finally:
            for file in files:
                os.close(file)
        started = Started(launch.attempt_id, self._clock())
        running = Running(launch.attempt_id, folder, pid, self._monotonic(), started, group)
        running.remover, running.in_container = command.remover, launch.container is not None
        self.running[launch.attempt_id] = self._by_pid[pid] = self._new[pid] = running
        self._sampler.watch(launch, folder=folder, pid=pid, group=group)
        self._remember_deadline(launch)
        return running

    def _spawn_in(self, group: Group | None, command: Command, files: Sequence[int]) -> int:
        """Spawn a command inside a group; return its pid. files: stdout, stderr, the script."""
        wanted = [(self._null, 0), *zip(files, (1, 2, SCRIPT_FD), strict=False)]
        try:
            if group is not None:
                self.groups.enter(group)
            return os.posix_spawn(
                command.argv[0],
                command.argv,
                command.environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, ours, theirs) for ours, theirs in wanted],
                setsid=True,
                setsigmask=(),
                setsigdef=RESET_SIGNALS,
            )
        finally:
            self.groups.leave()

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
            if process is not None and running.status is None:
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
        """Kill an attempt. The outcome comes from `reap`, or at once if it never ran."""
        if attempt_id in self.running:
            self._kill(self.running[attempt_id], Cause.TERMINATED)
            return None
        if self._waiting.pop(attempt_id, None) is None:
            return None
        return Ended(attempt_id, self._clock(), exit_code=None, cause=Cause.TERMINATED)

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

    def _kill(self, running: Running, cause: Cause) -> None:
        """Kill all that is known to be of it; if there is more, it follows when it is reaped."""
        if running.status is None and running.killed_for is None:
            running.killed_for = cause
            if running.group is not None:
                running.group.kill()
            processes.kill(running.pid)
            processes.kill_group(running.pid)

    def reap(self) -> list[Ended]:
        """Collect every child that ended; return the attempts of which nothing is left."""
        while (pid := _ended_child()) is not None:
            running = self._by_pid.pop(pid, None)
            self._new.pop(pid, None)
            if running is not None:
                # Before it is reaped, while its number can be nobody else's.
                processes.kill_group(pid)
                self._ending[running.attempt_id] = running
            _, status = os.waitpid(pid, 0)
            self.helpers.discard(pid)
            self._note_remover(pid, status)
            if running is not None:
                running.status = status
        return self._sweep() if self._ending else []

    def _sweep(self) -> list[Ended]:
        """Kill what the ending attempts left behind; return those that left nothing more."""
        still_there: set[str] = set()
        for running in self._ending.values():
            if running.group is not None and not running.group.is_empty:
                running.group.kill()
                still_there.add(running.attempt_id)
        for pid in processes.children():
            if pid in self._by_pid or pid in self.helpers:
                continue
            owners = self._owners(pid)
            if owners:
                processes.kill(pid)
                still_there.update(owners)
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
            self._sampler.forget(each.attempt_id)
            ended.append(outcome(each, clock=self._clock))
            if each.group is not None:
                self.groups.discard(each.group)
        return ended

    def _is_removed(self, running: Running) -> bool:
        """Whether its container, if it had one, is gone for sure; if not, that is being done."""
        if running.remover and running.remover_pid is None:
            streams = [(os.POSIX_SPAWN_DUP2, self._null, stream) for stream in (0, 1)]
            with suppress(OSError):  # it is tried again at the next turn
                running.remover_pid = os.posix_spawn(
                    running.remover[0],
                    running.remover,
                    {"PATH": PATH},
                    file_actions=streams,
                    setsid=True,
                    setsigdef=RESET_SIGNALS,
                )
                self.helpers.add(running.remover_pid)
        return not running.remover

    def _note_remover(self, pid: int, status: int) -> None:
        """Take in the end of a remover; one that failed is run again."""
        for running in self._ending.values():
            if running.remover_pid == pid:
                running.remover_pid = None
                if status == 0:
                    running.remover = ()

    def _owners(self, pid: int) -> list[str]:
        """The ending attempts that an adopted process may belong to.

        Why more than one: a process that left its session, its home, its folder and its streams
        shows nothing. Rather than let it outlive its attempt, it ends with the next one that ends.
        Only one that can leave its control group, too, comes to that.
        """
        process = processes.find_process(pid)
        if process is None:
            return []
        name = self.groups.name_of(pid)
        for running in self.running.values() if name is not None else ():
            if running.group is not None and running.group.name == name:
                return self._if_ending(running)
        for running in (*self._ending.values(), *self._by_pid.values()):
            if running.pid == process.session:
                return self._if_ending(running)
        for running in self.running.values():
            if processes.works_in(pid, running.folder):
                return self._if_ending(running)
        return list(self._ending)

    def _if_ending(self, running: Running) -> list[str]:
        return [running.attempt_id] if running.attempt_id in self._ending else []


def outcome(running: Running, *, clock: Clock) -> Ended:
    """Say how an attempt ended, once its main process was reaped.

    Why 128+n is a death by signal n: shells and bubblewrap report one so, and nothing tells it from
    a command that exits with the number itself. The same under every isolation. A command that
    succeeds although a process of it was killed for its memory has succeeded.
    """
    if running.killed_for is not None or running.status is None:
        return Ended(running.attempt_id, clock(), exit_code=None, cause=running.killed_for)
    code = os.waitstatus_to_exitcode(running.status)
    if code < 0:
        code = EXIT_OF_SIGNAL - code
    number = code - EXIT_OF_SIGNAL
    verdict = read_verdict(running.folder) if running.in_container else None
    if verdict is not None:
        return Ended(running.attempt_id, clock(), verdict.exit_code, verdict.cause, verdict.detail)
    if code == 0:
        return Ended(running.attempt_id, clock(), exit_code=0, cause=None)
    if running.group is not None and running.group.was_out_of_memory:
        return Ended(running.attempt_id, clock(), code, Cause.OOM, _memory_words(running.group))
    if 0 < number <= SIGNAL_MAX:
        return Ended(running.attempt_id, clock(), code, Cause.SIGNAL, f"It was signal {number}.")
    return Ended(running.attempt_id, clock(), code, Cause.USER_EXIT)


def _memory_words(group: Group) -> str:
    allowed = "its memory" if group.limits is None else f"{group.limits.mem_bytes} bytes of memory"
    return f"It used up {allowed}, and the kernel killed a process of it."


def _ended_child() -> int | None:
    """The pid of a child that ended and is not reaped; None if there is none."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid
