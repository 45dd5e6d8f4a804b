"""The pool of spawn servers, as the executor sees it."""

import logging
import os
import socket
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from struct import pack
from typing import Final

from gateway.batch.executor import processes
from gateway.batch.executor.frames import Unframer
from gateway.batch.executor.spawn_server import (
    FILES_PER_MESSAGE,
    RECEIVE_BYTES,
    Asked,
    Order,
    Report,
    SpawnServer,
    framed,
    read_report,
)

log = logging.getLogger("executor")

SERVERS: Final = 2
ANSWER_S_MAX: Final = 30.0
"""A server that says nothing for so long, or takes nothing, is stopped or stuck."""
MESSAGE_BYTES_MAX: Final = 1_048_576  # unless one order alone has more


@dataclass(slots=True)
class _Line:
    """The executor's end of the line to one server.

    busy: how many orders are not answered. heard_at: when it said something last, or was asked for
    something after it had answered all; monotonic seconds.
    """

    pid: int
    socket: socket.socket
    unframer: Unframer = field(default_factory=Unframer)
    orders: list[tuple[Order, Sequence[int]]] = field(default_factory=list)
    kill: list[int] = field(default_factory=list)
    numbers: set[int] = field(default_factory=set)
    busy: int = 0
    heard_at: float = 0.0


class SpawnPool:
    """Some spawn servers. If one ends, the executor has to.

    pids: theirs. lines: readable when there is something to hear.
    """

    def __init__(self, count: int = SERVERS, *, keep: Collection[int] = ()) -> None:
        """Fork them: from a process that has no threads yet.

        keep: files that they hold open, besides the standard streams. Raises OSError.
        """
        self._lines = [_fork(keep=keep) for _ in range(count)]
        self._by_number: dict[int, _Line] = {}
        self.pids: Final = frozenset(line.pid for line in self._lines)
        self.lines: Final = tuple(line.socket for line in self._lines)

    def order(self, order: Order, files: Sequence[int]) -> None:
        """Have a command spawned once `flush` is called; its files are to be open until then."""
        line = min(self._lines, key=lambda each: (each.busy, len(each.numbers)))
        if not line.busy:
            line.heard_at = time.monotonic()
        line.busy += 1
        line.numbers.add(order.number)
        line.orders.append((order, files))
        self._by_number[order.number] = line

    def kill(self, number: int) -> None:
        """Have a command and its process group killed, once `flush` is called.

        If it is not spawned yet, it is not to be.
        """
        line = self._by_number.get(number)
        if line is not None:
            line.kill.append(number)

    def flush(self) -> None:
        """Send what was asked for. Raises RuntimeError if a server has ended."""
        for line in self._lines:
            while line.orders or line.kill:
                orders = _portion(line.orders)
                files = [file for _, files in orders for file in files]
                asked = Asked([order for order, _ in orders], line.kill)
                line.kill = []
                try:
                    _send(line.socket, framed(asked), files)
                except OSError as error:
                    raise RuntimeError("a spawn server takes nothing") from error

    def hear(self) -> Iterator[Report]:
        """What they have told since. Raises RuntimeError if one has ended."""
        now = time.monotonic()
        for line in self._lines:
            if line.busy and now - line.heard_at > ANSWER_S_MAX:
                raise RuntimeError("a spawn server does not answer")
            with suppress(BlockingIOError):
                data = line.socket.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
                if not data:
                    raise RuntimeError("a spawn server has ended")
                line.heard_at = now
                for body in line.unframer.feed(data):
                    report = read_report(body)
                    self._note(line, report)
                    yield report

    def _note(self, line: _Line, report: Report) -> None:
        line.busy -= len(report.spawned) + len(report.not_spawned)
        over = [number for number, _ in report.ended]
        for number in (*over, *(each.number for each in report.not_spawned)):
            line.numbers.discard(number)
            self._by_number.pop(number, None)

    def close(self) -> None:
        """End them; what they spawned runs on, adopted by this process."""
        while self._lines:
            line = self._lines.pop()
            line.socket.close()
            processes.kill(line.pid)  # it may be stopped, and has nothing to lose
            with suppress(ChildProcessError):
                os.waitpid(line.pid, 0)


def _portion(orders: list[tuple[Order, Sequence[int]]]) -> list[tuple[Order, Sequence[int]]]:
    """Take the first orders out that fit one message, with their files, at least one."""
    size = files_count = count = 0
    for order, files in orders:
        size += order.size
        files_count += len(files)
        if count and (files_count > FILES_PER_MESSAGE or size > MESSAGE_BYTES_MAX):
            break
        count += 1
    found = orders[:count]
    del orders[:count]
    return found


def _send(line: socket.socket, data: bytes, files: Sequence[int]) -> None:
    sent = socket.send_fds(line, [data], list(files)) if files else line.send(data)
    if sent < len(data):
        line.sendall(memoryview(data)[sent:])


def _fork(*, keep: Collection[int]) -> _Line:
    """Fork a server; returns the line to it. Raises OSError."""
    ours, theirs = socket.socketpair()
    executor = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        # Not `settimeout`, which would have every look for a report wait, too.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, pack("@ll", int(ANSWER_S_MAX), 0))
        return _Line(pid, ours)
    code = 1
    try:
        processes.die_with(executor)
        _close_all_but({0, 1, 2, theirs.fileno(), *keep})
        SpawnServer(theirs).run()
        code = 0
    except BaseException:
        log.exception("spawn_server_failed")
    finally:
        os._exit(code)


def _close_all_but(keep: Collection[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            with suppress(OSError):
                os.close(int(name))
