"""A witness of what really runs: every command holds a line to it for as long as it lives.

A command says who it is on a TCP connection, and keeps it open. The connection ends only when the
last process that has it is gone: so an open one is a living process, whatever the gateway believes,
and two open ones of the same instance are the same work done twice at once.
"""

import shlex
import socketserver
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from tests.support.services import LOOPBACK

PATIENCE_S = 5.0
FAILURE = 7


class Subject(NamedTuple):
    """One task instance."""

    job_id: str
    task_name: str
    number: int


@dataclass
class Run:
    """One process that said it runs an instance. finished: it came to the end of its work."""

    finished: bool = False
    alive: bool = True
    overlapped: bool = False


class Witness:
    """What was seen, by instance, in the order of the beginnings."""

    def __init__(self) -> None:
        self.runs: dict[Subject, list[Run]] = defaultdict(list)
        self.port = 0
        self._changed = threading.Condition()

    def command(self, *, seconds: float, failures: int = 0, leaves_child: bool = False) -> str:
        """A shell command that is witnessed.

        failures: how many runs of an instance fail before one succeeds. leaves_child: it goes
        without waiting for a process that it started.
        """
        child = "sleep 1000 & disown; " if leaves_child else ""
        script = (
            f"exec 5<>/dev/tcp/{LOOPBACK}/{self.port} || exit 90; "
            'echo "$BATCH_JOB_ID $BATCH_TASK_NAME $BATCH_TASK_INSTANCE_INDEX" >&5; '
            f"read -r run <&5 || exit 91; {child}sleep {seconds:.3f}; "
            f"echo end >&5; read -r _ <&5 || exit 92; ((run > {failures})) || exit {FAILURE}"
        )
        return shlex.join(["exec", "bash", "-c", script])

    def living(self) -> list[Subject]:
        """The instances of which a process lives."""
        with self._changed:
            return [who for who, runs in self.runs.items() if any(run.alive for run in runs)]

    def begin(self, subject: Subject) -> tuple[int, Run]:
        """Take a beginning in; returns its number, from 1, and the run.

        Why it waits: the end of an earlier line may be on its way to another thread of ours.
        """
        with self._changed:
            earlier = self.runs[subject]
            alone = self._changed.wait_for(
                lambda: not any(run.alive for run in earlier), timeout=PATIENCE_S
            )
            run = Run(overlapped=not alone)
            earlier.append(run)
            return len(earlier), run

    def end(self, run: Run) -> None:
        """Note that the line of a run has ended."""
        with self._changed:
            run.alive = False
            self._changed.notify_all()


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
        job_id, task_name, number = self.rfile.readline().decode().split()
        count, run = self.server.witness.begin(Subject(job_id, task_name, int(number)))
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
