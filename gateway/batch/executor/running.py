"""An attempt that has processes, and what its end means."""

import os
import signal
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from gateway.batch.engines import Cause, Ended, Started
from gateway.batch.executor.control_groups import Group
from gateway.batch.executor.notes import read_verdict
from gateway.batch.executor.spawning import Ready
from gateway.clock import Clock

SIGNAL_MAX: Final = 64
EXIT_OF_SIGNAL: Final = 128
FILLED_THE_DISK: Final = "It filled the disk."
NEVER_BEGAN: Final = "What should run its container ended before the container began."


@dataclass(slots=True)
class Running:
    """An attempt with processes, or that is to have them in a moment.

    number: by which who spawns it knows it. ordered_at, spawned_at: monotonic seconds; the latter
    when it was told. pid: of the main process, which leads the attempt's session; 0 until it is
    told. started: None before that, and while its container has not begun, because its image is
    fetched, say. killed_for: why we killed it, if we did. status: how the main process ended, as
    `waitpid` says it; None while it lives. remover: what is still to run when nothing of it lives,
    to be rid of its container. remover_pid: while that runs.
    """

    ready: Ready
    number: int
    ordered_at: float
    pid: int = 0
    spawned_at: float = 0.0
    started: Started | None = None
    killed_for: Cause | None = None
    status: int | None = None
    remover: tuple[str, ...] = ()
    remover_pid: int | None = None

    @property
    def attempt_id(self) -> str:
        """Its id."""
        return self.ready.launch.attempt_id

    @property
    def folder(self) -> str:
        """Its own folder, absolute."""
        return self.ready.folder

    @property
    def group(self) -> Group | None:
        """What all its processes are in; None where there are no control groups."""
        return self.ready.group


def outcome(running: Running, *, clock: Clock) -> Ended:
    """Say how an attempt ended, once its main process was reaped."""
    if running.started is None:
        return _never_began(running, clock=clock)
    if running.killed_for is Cause.STORAGE:
        code = _exit_code(running.status or signal.SIGKILL)  # without one it would run again
        return Ended(running.attempt_id, clock(), code, Cause.STORAGE, FILLED_THE_DISK)
    if running.killed_for is not None or running.status is None:
        return Ended(running.attempt_id, clock(), exit_code=None, cause=running.killed_for)
    return _exited(running, running.status, clock=clock)


def _never_began(running: Running, *, clock: Clock) -> Ended:
    """The outcome of an attempt whose container has not begun."""
    cause, why = running.killed_for, ""
    if cause is Cause.STORAGE:
        why = FILLED_THE_DISK
    elif cause is None:
        verdict = read_verdict(running.folder)
        cause, why = (verdict.cause, verdict.detail) if verdict else (Cause.INFRA_LOST, NEVER_BEGAN)
    return Ended(running.attempt_id, clock(), None, cause, why, started=False)


def _exited(running: Running, status: int, *, clock: Clock) -> Ended:
    """The outcome of an attempt that nobody killed. status: as `waitpid` says it.

    Why 128+n is a death by signal n: shells and bubblewrap report one so, and nothing tells it from
    a command that exits with the number itself. The same under every isolation. A command that
    succeeds although a process of it was killed for its memory has succeeded.
    """
    code = _exit_code(status)
    number = code - EXIT_OF_SIGNAL
    verdict = read_verdict(running.folder) if running.ready.command.can_tell else None
    if verdict is not None:
        ended = Ended(running.attempt_id, clock(), verdict.exit_code, verdict.cause, verdict.detail)
        never_ran = verdict.cause is Cause.STORAGE and verdict.exit_code is None
        return replace(ended, started=False) if never_ran else ended
    if code == 0:
        return Ended(running.attempt_id, clock(), exit_code=0, cause=None)
    if running.group is not None and running.group.was_out_of_memory:
        return Ended(running.attempt_id, clock(), code, Cause.OOM, _memory_words(running.group))
    if 0 < number <= SIGNAL_MAX:
        return Ended(running.attempt_id, clock(), code, Cause.SIGNAL, f"It was signal {number}.")
    return Ended(running.attempt_id, clock(), code, Cause.USER_EXIT)


def _exit_code(status: int) -> int:
    """As a shell says it. status: as `waitpid` says it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else EXIT_OF_SIGNAL - code


def _memory_words(group: Group) -> str:
    allowed = "its memory" if group.limits is None else f"{group.limits.mem_bytes} bytes of memory"
    return f"It used up {allowed}, and the kernel killed a process of it."
