"""The machine that a campaign of faults breaks: broker, lines, disk, clock, and the gateway."""

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Protocol

import anyio
from anyio.abc import SocketStream, TaskStatus
from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.batch.executor.executors import is_gone
from tests.campaigns import faults_clock
from tests.campaigns.faults_clock import Clock
from tests.campaigns.faults_schedule import STEPS_S, Fault
from tests.support.running import Gateway
from tests.support.services import RabbitMQ
from tests.support.tcp import Line

DISK_MB = 400
DISK_FULL_S = (0.5, 2.0)
BROKER_AWAY_S = (0.0, 2.0)
CLOCK_SET_S = (1.0, 3.0)
KILLED_MEANWHILE = 0.4


class SteadyLine(Line):
    """A line that outlives the server behind it."""

    async def _pass_on(self, client: SocketStream) -> None:
        with suppress(OSError):
            await super()._pass_on(client)


class Note(Protocol):
    """Is told of something that nobody expected."""

    def __call__(self, sentence: str, /) -> None: ...


@dataclass
class World:
    """All that can be broken.

    away: the spans, in moments of `time.monotonic`, in which the gateway was down, or could not
    write for want of disk. peak_mb: the most memory that any of its processes had.
    """

    broker: RabbitMQ
    gateway: Gateway
    clock: Clock
    portal: BlockingPortal
    gateway_line: Line
    reader_line: Line
    disk: Path | None
    random: Random
    surprise: Note
    done: Counter[Fault] = field(default_factory=Counter)
    away: list[tuple[float, float]] = field(default_factory=list)
    peak_mb: float = 0.0

    def commit(self, fault: Fault) -> None:
        """Have one thing go wrong, and, where it does not by itself, come right again."""
        self.done[fault] += 1
        match fault:
            case Fault.GATEWAY_KILLED:
                self.kill_gateway()
            case Fault.BROKER_KILLED | Fault.BROKER_RESTARTED:
                self._restart_broker(orderly=fault is Fault.BROKER_RESTARTED)
            case Fault.LINE_CUT:
                self.portal.call(self.gateway_line.drop)
            case Fault.LINE_SILENT:
                self.portal.call(self.gateway_line.fall_silent)
            case Fault.READER_CUT:
                self.portal.call(self.reader_line.drop)
            case Fault.DISK_FULL:
                self._fill_disk()
            case _:
                self._set_clock(STEPS_S[fault])

    def pause(self, at_least_s: float, at_most_s: float) -> None:
        threading.Event().wait(self.random.uniform(at_least_s, at_most_s))

    def note_memory(self) -> None:
        """Take in how much memory the gateway has had at most."""
        with suppress(OSError):
            status = Path(f"/proc/{self.gateway.pid}/status").read_text(encoding="utf-8")
            peaks = [line for line in status.splitlines() if line.startswith("VmHWM")]
            self.peak_mb = max(self.peak_mb, *(int(peak.split()[1]) / 1e3 for peak in peaks))

    def kill_gateway(self) -> None:
        """Kill it, which must have lived until then, and start it again."""
        pid = self.gateway.pid
        if is_gone(pid):
            self.surprise("the gateway ended by itself")
        self.note_memory()
        began = time.monotonic()
        self.gateway.kill()
        faults_clock.remove_traces(pid)
        self.gateway.start()
        self.away.append((began, time.monotonic()))

    def _restart_broker(self, *, orderly: bool) -> None:
        if orderly:
            self.broker.stop()
        else:
            self.broker.kill()
        self.pause(*BROKER_AWAY_S)
        self.broker.start()

    def _set_clock(self, offset_s: float) -> None:
        self.clock.set_to(offset_s)
        self.pause(*CLOCK_SET_S)
        if self.random.random() < KILLED_MEANWHILE:
            self.kill_gateway()
            self.pause(*CLOCK_SET_S)
        self.clock.set_to(0)

    def _fill_disk(self) -> None:
        assert self.disk is not None
        began = time.monotonic()
        filler = self.disk / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(64 * 1024)):
                pass
        self.pause(*DISK_FULL_S)
        filler.unlink()
        self.away.append((began, time.monotonic()))


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A disk of its own at a folder; None, and the folder as it was, if none may be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@dataclass(frozen=True)
class Lines:
    """The loop that the lines run on, and the lines: of the gateway and of the AMQP reader."""

    portal: BlockingPortal
    gateway: Line
    reader: Line

    def url(self, line: Line) -> str:
        return f"amqp://guest:guest@127.0.0.1:{line.port}/"


@contextmanager
def open_lines(broker: RabbitMQ) -> Iterator[Lines]:
    """Lines to a broker that may go away and come back."""
    with start_blocking_portal() as portal:
        running = [portal.start_task(_run_line, broker.port) for _ in range(2)]
        lines = [line for _, line in running]
        try:
            yield Lines(portal, *lines)
        finally:
            for future, _ in running:
                future.cancel()


async def _run_line(port: int, *, task_status: TaskStatus[Line]) -> None:
    async with SteadyLine.open(port) as line:
        task_status.started(line)
        await anyio.sleep_forever()
