"""Who subscribes in a campaign of faults, and who submits the jobs that they hear of."""

import http.client
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pika
import pika.exceptions

from tests.campaigns.load import AGAIN_S, LINE_BROKE, Reader, User
from tests.support.classic import ClassicRefused
from tests.support.running import Refused, wait_until
from tests.support.services import LOOPBACK, Program, free_port
from tests.support.subscribers import SLOW, digest_of

T = TypeVar("T")
CLOCK_WAS_SET = ("AuthFailure.SignatureExpire", "AuthFailure.SignatureFailure")
PASSING = (LINE_BROKE, "ServiceUnavailable", *CLOCK_WAS_SET)
"""Answers that a careful user expects in such times: each says that nothing was done."""
CLASSIC_PASSING = (4000, 4100, 6000)
PREFETCH = 50
SOCKET_S = 5.0


@dataclass(frozen=True)
class Arrival:
    """One message at one subscriber. at: as `time.monotonic` tells."""

    message_id: str
    digest: str
    at: float


Arrivals = list[Arrival]


class PatientUser(User):
    """A user who says a call again, too, if the clock was set meanwhile or the disk was full."""

    def _insist(self, call: Callable[[], T]) -> T:
        while True:
            try:
                return super()._insist(call)
            except Refused as refused:
                if refused.code not in PASSING:
                    raise
            threading.Event().wait(AGAIN_S)


class PatientReader(Reader):
    """A reader of a queue who goes on through all of it; refused: what it was told besides."""

    refused: list[ClassicRefused]

    def run(self, stop: threading.Event) -> None:
        self.refused = []
        while not stop.is_set():
            try:
                self.read()
            except (OSError, http.client.HTTPException):
                stop.wait(AGAIN_S)
            except ClassicRefused as refused:
                self.refused.append(refused)
                stop.wait(AGAIN_S)


class AmqpReader:
    """Reads a queue on the broker with pika, over a line that others cut."""

    def __init__(self, url: str, queue: str) -> None:
        self.seen: Arrivals = []
        self._url = url
        self._queue = queue

    def run(self, stop: threading.Event) -> None:
        """Read until told to stop; a line that breaks is made again."""
        while not stop.is_set():
            with suppress(pika.exceptions.AMQPError, OSError):
                self._read(stop)
            stop.wait(AGAIN_S)

    def _read(self, stop: threading.Event) -> None:
        parameters = pika.URLParameters(self._url)
        parameters.heartbeat = 4
        parameters.socket_timeout = parameters.blocked_connection_timeout = SOCKET_S
        parameters.stack_timeout = 2 * SOCKET_S
        connection = pika.BlockingConnection(parameters)
        try:
            channel = connection.channel()
            channel.basic_qos(prefetch_count=PREFETCH)
            for method, properties, body in channel.consume(self._queue, inactivity_timeout=0.2):
                if stop.is_set():
                    return
                if method is not None:
                    self._note(str(properties.message_id), body)
                    channel.basic_ack(method.delivery_tag)
        finally:
            with suppress(pika.exceptions.AMQPError, OSError):
                connection.close()

    def _note(self, message_id: str, body: bytes) -> None:
        self.seen.append(Arrival(message_id, digest_of(body), time.monotonic()))


@dataclass
class Crowd:
    """The HTTP subscribers, in a process of their own. endpoints: by the subscription's name."""

    folder: Path
    program: Program
    endpoints: Mapping[str, str]
    well: frozenset[str]

    def be_friendly(self) -> None:
        """Have all answer well from now on."""
        os.kill(self.program.pid, signal.SIGUSR1)

    def arrivals(self) -> dict[str, Arrivals]:
        """What came, by subscription, in the order of its arrival."""
        found: dict[str, Arrivals] = {name: [] for name in self.endpoints}
        with (self.folder / "arrivals").open(encoding="utf-8") as lines:
            for line in lines:
                if line.endswith("\n"):
                    path, message_id, digest, at = line.split("\t")
                    found[path.lstrip("/")].append(Arrival(message_id, digest, float(at)))
        return found

    def ways_used(self) -> dict[str, int]:
        """How often each wrong way was gone, until all were told to be friendly."""
        used: dict[str, int] = json.loads((self.folder / "ways").read_text(encoding="utf-8"))
        return used


@contextmanager
def open_crowd(folder: Path, *, well: int, hostile: int, seed: int) -> Iterator[Crowd]:
    """`well` good subscribers, a slow one and some hostile ones."""
    folder.mkdir()
    port, hostile_ports = free_port(), [free_port() for _ in range(hostile)]
    names = [f"well-{number}" for number in range(well)]
    endpoints = {name: f"http://{LOOPBACK}:{port}/{name}" for name in names}
    slow = SLOW.lstrip("/")
    endpoints[slow] = f"http://{LOOPBACK}:{port}/{slow}"
    for number, each in enumerate(hostile_ports):
        endpoints[f"hostile-{number}"] = f"http://{LOOPBACK}:{each}/hostile-{number}"
    command = [sys.executable, "-m", "tests.support.subscribers", "--seed", str(seed)]
    command += ["--log", str(folder / "arrivals"), "--report", str(folder / "ways")]
    command += ["--port", str(port), *(f"--hostile-port={each}" for each in hostile_ports)]
    root = str(Path(__file__).parents[2])
    program = Program(command, log=folder / "log", env={"PYTHONPATH": root})
    try:
        wait_until((folder / "arrivals").exists, what=(folder / "log").read_text)
        yield Crowd(folder, program, endpoints, frozenset(names))
    finally:
        program.end(signal.SIGTERM)
