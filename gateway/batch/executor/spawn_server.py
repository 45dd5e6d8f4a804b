"""A spawn server: a process beside the executor's loop that spawns commands and waits for them.

Why beside the loop: whoever spawns waits until the new process executes its program, and then often
until that is over, for it runs first where it was made. Meanwhile the loop could do nothing, and
another processor nothing either.

Why it enters the control group of an attempt rather than the executor: it has one thread to move
and nothing to lose but what runs. Were all memory of the group used up before it has left, in
less than a millisecond or, on a machine that is overloaded, some, the kernel could choose to kill
it; then the executor ends, too, as if it were killed.

It knows nothing of attempts: only numbers, words and files. What it spawns is its child, so that
the pid is nobody else's until it has waited for it. That is why it is asked to kill, and nobody
else does so by pid. What the spawned processes leave behind is adopted by the executor.
"""

import errno
import logging
import os
import selectors
import signal
import socket
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from gateway.batch.executor import processes
from gateway.batch.executor.control_groups import Visitor
from gateway.batch.executor.frames import LENGTH_BYTES, Unframer
from gateway.batch.executor.isolation import PATH

log = logging.getLogger("executor")

TOLD_S_MAX: Final = 0.01
"""For so long it spawns before it tells of that: until then it may be in a group of theirs."""
FILES_PER_MESSAGE: Final = 128
RECEIVE_BYTES: Final = 262_144
FILES_BYTES_MAX: Final = socket.CMSG_SPACE(2 * FILES_PER_MESSAGE * array("i").itemsize)
WORDS_BYTES_MAX: Final = 8_388_608
"""The most that the words of a command may have: more than Linux gives to any process."""
FILE_MAX: Final = 9
"""The highest number that a file of a command has."""
# Python ignores some, and whoever started us may ignore others; a command expects none ignored.
RESET_SIGNALS: Final = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
# What a signal to all processes of the executor's session is to leave to the executor.
LEFT_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Order(msgspec.Struct, array_like=True):
    """A command to spawn. The files go with it, in the order of the numbers they are to have.

    work: the folder to begin in. argv, environment: words with a NUL between them. program: what to
    execute rather than `argv`, if that can be done: its name, to be found in PATH, and its
    arguments; b"" for none.
    doors, homes: those of its control groups and the way out of them, see `Visitor`.
    """

    number: int
    work: bytes
    argv: bytes
    environment: bytes
    program: bytes
    doors: tuple[str, ...]
    homes: tuple[str, ...]
    files: tuple[int, ...]

    @property
    def size(self) -> int:
        """About how many bytes it has."""
        return len(self.argv) + len(self.environment) + len(self.program)


class Asked(msgspec.Struct, array_like=True):
    """What the executor asks for. kill: numbers of commands; with all of their process groups."""

    orders: list[Order] = []
    kill: list[int] = []


class NotSpawned(msgspec.Struct, array_like=True):
    """A command that could not be spawned, and why. code: of the OSError; 0 if it was none."""

    number: int
    code: int
    why: str


class Report(msgspec.Struct, array_like=True):
    """What a server tells.

    spawned: numbers and pids; the server has left their control groups. ended: numbers, and what
    `waitpid` said of the processes; what was in their process groups is killed.
    """

    spawned: list[tuple[int, int]] = []
    not_spawned: list[NotSpawned] = []
    ended: list[tuple[int, int]] = []


_encode = msgspec.msgpack.Encoder().encode
_asked = msgspec.msgpack.Decoder(Asked)
_report = msgspec.msgpack.Decoder(Report)


def framed(message: Asked | Report) -> bytes:
    """A message as it goes over the line."""
    body = _encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def read_report(body: bytes) -> Report:
    """What a server told. Raises msgspec.DecodeError."""
    return _report.decode(body)


def joined(words: Sequence[str]) -> bytes:
    """Words as an order has them. Raises ValueError for one that no process can be given."""
    text = "\0".join(words)
    if text.count("\0") != len(words) - 1:
        raise ValueError("embedded null byte")
    return os.fsencode(text)


class SpawnServer:
    """One spawn server."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._unframer = Unframer()
        self._out = bytearray()
        self._files: deque[int] = deque()
        self._orders: deque[Order] = deque()
        self._cancelled: set[int] = set()  # of these
        self._numbers: dict[int, int] = {}  # by pid
        self._pids: dict[int, int] = {}  # by number
        self._visitor = Visitor()
        # What arrives may not have a number that a command is to have something else by.
        while (null := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= FILE_MAX:
            pass
        self._null = null

    def run(self) -> None:
        """Serve until the executor ends the line. Raises RuntimeError, OSError."""
        wake, sender = socket.socketpair()
        for end in (wake, sender):
            end.setblocking(False)
        os.putenv("PATH", PATH)  # where `posix_spawnp` looks
        signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, *LEFT_SIGNALS):
            signal.signal(number, lambda *_: None)
        with selectors.DefaultSelector() as selector:
            line = selector.register(self._line, selectors.EVENT_READ)
            selector.register(wake, selectors.EVENT_READ)
            while True:
                for key, mask in selector.select(0 if self._orders else None):
                    if key.fileobj is wake:
                        with suppress(BlockingIOError):
                            wake.recv(4_096)
                    elif mask & selectors.EVENT_READ and not self._hear():
                        return
                self._tell(self._spawn_some(), self._reap())
                # Never waiting: the executor may wait itself until it is heard.
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
                if events != line.events:
                    line = selector.modify(self._line, events)

    def _hear(self) -> bool:
        """Take in what is asked for; False at the end of the line."""
        # Why not `socket.recv_fds`: it passes the flag over, and commands would have the files.
        data, sent, flags, _ = self._line.recvmsg(
            RECEIVE_BYTES, FILES_BYTES_MAX, socket.MSG_CMSG_CLOEXEC
        )
        if flags & socket.MSG_CTRUNC:  # whose files came could not be told any more
            raise RuntimeError("no file of a command can be opened here")
        for _, _, files in sent:
            self._files += array("i", files)
        for body in self._unframer.feed(data):
            asked = _asked.decode(body)
            self._orders += asked.orders
            for number in asked.kill:
                if number in self._pids:
                    processes.kill(self._pids[number])
                    processes.kill_group(self._pids[number])
                elif any(order.number == number for order in self._orders):
                    self._cancelled.add(number)
        return bool(data)

    def _spawn_some(self) -> Report:
        report = Report()
        if not self._orders:
            return report
        tell_at = time.monotonic() + TOLD_S_MAX
        while self._orders and time.monotonic() < tell_at:
            order = self._orders.popleft()
            files = [self._files.popleft() for _ in order.files]
            try:
                if order.number in self._cancelled:
                    self._cancelled.remove(order.number)
                    raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
                pid = self._spawn(order, files)
            except (OSError, ValueError) as error:
                code = error.errno or 0 if isinstance(error, OSError) else 0
                why = (isinstance(error, OSError) and error.strerror) or str(error)
                report.not_spawned.append(NotSpawned(order.number, code, why))
            else:
                self._numbers[pid], self._pids[order.number] = order.number, pid
                report.spawned.append((order.number, pid))
            finally:
                for file in files:
                    os.close(file)
        self._visitor.leave()
        os.chdir("/")
        return report

    def _spawn(self, order: Order, files: Sequence[int]) -> int:
        os.chdir(order.work)
        self._visitor.enter(order.doors, homes=order.homes)
        wanted = [(self._null, 0), *zip(files, order.files, strict=True)]
        actions = [(os.POSIX_SPAWN_DUP2, ours, theirs) for ours, theirs in wanted]
        pairs = (pair.split(b"=", 1) for pair in order.environment.split(b"\0") if pair)
        environment = {name: value for name, value in pairs}  # noqa: C416  # of two words each
        if order.program:
            with suppress(OSError):  # there is none, say: the shell tells of that
                return _execute(os.posix_spawnp, order.program, environment, actions)
        return _execute(os.posix_spawn, order.argv, environment, actions)

    def _reap(self) -> list[tuple[int, int]]:
        """The commands whose main process has ended; their process groups are killed."""
        ended = []
        while (pid := processes.ended_child()) is not None:
            # Before it is waited for, while its number can be nobody else's.
            processes.kill_group(pid)
            _, status = os.waitpid(pid, 0)
            number = self._numbers.pop(pid)
            del self._pids[number]
            ended.append((number, status))
        return ended

    def _tell(self, report: Report, ended: list[tuple[int, int]]) -> None:
        report.ended = ended
        if report.spawned or report.not_spawned or ended:
            self._out += framed(report)
        with suppress(BlockingIOError):
            while self._out:
                sent = self._line.send(self._out, socket.MSG_DONTWAIT)
                del self._out[:sent]


def _execute(
    spawn: Callable[..., int],
    words: bytes,
    environment: Mapping[bytes, bytes],
    actions: Sequence[tuple[int, int, int]],
) -> int:
    argv = words.split(b"\0")
    return spawn(
        argv[0],
        argv,
        environment,
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=RESET_SIGNALS,
    )
