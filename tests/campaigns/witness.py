"""A witness of what really runs: every command holds a line to it for as long as it lives.

A command says who it is on a TCP connection, and keeps it open. The connection ends only when the
last process that has it is gone: so an open one is a living process, whatever the gateway believes,
and two open ones of the same instance are the same work done twice at once.
"""

import select
import shlex
import socket
import socketserver
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from tests.support.services import LOOPBACK

GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR
FAILURE = 7


class Subject(NamedTuple):
    """One task instance."""

    job_id: str
    task_name: str
    number: int


@dataclass
class Run:
    """One process that said it runs an instance.

    line: what it holds; None once that has ended. finished: it came to the end of its work.
    overlapped: another process of the same instance lived when it began.
    """

    line: socket.socket | None
    finished: bool = False
    overlapped: bool = False

    @property
    def alive(self) -> bool:
        """Whether the other end is open now; whoever asks keeps the line from being closed here.

        Why the kernel is asked: that the end was read is known later than that it came.
        """
        if self.line is None:
            return False
        look = select.poll()
        look.register(self.line, GONE)
        return not look.poll(0)


class Witness:
    """What was seen, by instance, in the order of the beginnings."""

    def __init__(self) -> None:
        self.runs: dict[Subject, list[Run]] = defaultdict(list)
        self.port = 0
        self._lock = threading.Lock()

    def command(self, *, seconds: float, failures: int = 0, leaves_child: bool = False) -> str:
        """A shell command that is witnessed.

        failures: how many runs of an instance fail before one succeeds. leaves_child: it goes
        without waiting for a process that it started.
        """
        child = "setsid sleep 1000 & " if leaves_child else ""
        script = (
            f"exec 5<>/dev/tcp/{LOOPBACK}/{self.port} || exit 90; "
            'echo "$BATCH_JOB_ID $BATCH_TASK_NAME $BATCH_TASK_INSTANCE_INDEX" >&5; '
            f"read -r run <&5 || exit 91; {child}sleep {seconds:.3f}; "
            f"echo end >&5; read -r _ <&5 || exit 92; ((run > {failures})) || exit {FAILURE}"
        )
        return shlex.join(["exec", "bash", "-c", script])

    def living(self) -> list[Subject]:
        """The instances of which a process lives."""
        with self._lock:
            return [who for who, runs in self.runs.items() if any(run.alive for run in runs)]

    def begin(self, subject: Subject, line: socket.socket) -> tuple[int, Run]:
        """Take a beginning in; returns its number, from 1, and the run."""
        with self._lock:
            earlier = self.runs[subject]
            run = Run(line, overlapped=any(other.alive for other in earlier))
            earlier.append(run)
            return len(earlier), run

    def end(self, run: Run) -> None:
        """Note that the line of a run has ended."""
        with self._lock:
            run.line = None


class Server(socketserver.ThreadingTCPServer):
    """Listens for the commands of one witness."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, witness: Witness) -> None:
        self.witness = witness
        super().__init__((LOOPBACK, 0), Line)


class Line(socketserver.StreamRequestHandler):
    """The connection of one process."""

    server: Server

    def handle(self) -> None:
        words = self.rfile.readline().decode().split()
        if not words:
            return  # it was killed before it said who it is
        job_id, task_name, number = words
        count, run = self.server.witness.begin(
            Subject(job_id, task_name, int(number)), self.connection
        )
        try:
            self.wfile.write(b"%d\n" % count)
            if self.rfile.readline() == b"end\n":
                run.finished = True
                self.wfile.write(b"ok\n")
                self.rfile.readline()
        except ConnectionError:
            return  # it was killed; that is an end, too
        finally:
            self.server.witness.end(run)


@contextmanager
def listening() -> Iterator[Witness]:
    """A witness that commands can reach."""
    witness = Witness()
    with Server(witness) as server:
        witness.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield witness
        finally:
            server.shutdown()
            thread.join()
