"""Lines to PostgreSQL, which are cut from this side while the server is silent.

Why: a server that is frozen (a stopped process, a disk that hangs) keeps its lines open, and the
kernel below it acknowledges whatever is sent. libpq then waits for ever, and with it a thread that
nothing can cancel. A statement may take as long as it likes while the server answers another.
"""

import math
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import psycopg
from psycopg.pq import ExecStatus

from gateway.telemetry import log

Line = psycopg.Connection[Any]
ASK = b"SHOW transaction_read_only"
ASK_EVERY_S = 2.0
SILENT_S = 6.0
CONNECT_S = 5


class Lines:
    """The lines that are open; they are added in any thread."""

    def __init__(self) -> None:
        self._open: WeakSet[Line] = WeakSet()
        self._lock = threading.Lock()

    def add(self, line: Line) -> None:
        """Take a line in that was just opened. It leaves by itself."""
        with self._lock:
            self._open.add(line)

    def cut(self) -> int:
        """End all lines; who waits for an answer is told at once. Returns how many they were."""
        with self._lock:
            lines = [line for line in self._open if not line.closed]
        for line in lines:
            with suppress(OSError, psycopg.Error):  # closed meanwhile by whoever uses it
                _shut_down(line)
        return len(lines)


def _shut_down(line: Line) -> None:
    with socket.socket(fileno=os.dup(line.fileno())) as copy:
        copy.shutdown(socket.SHUT_RDWR)


class Prober:
    """Asks the server, on a line of its own, whether it takes changes. Used in any thread.

    connect: opens a line that commits by itself, within so many seconds.
    """

    def __init__(self, connect: Callable[[int], Line]) -> None:
        self._connect = connect
        self._line: Line | None = None
        self._lock = threading.Lock()
        self._closed = False

    def ask(self, *, at_most_s: float) -> None:
        """Return if the server takes changes.

        Raises TimeoutError if it is silent, up to two seconds late; psycopg.OperationalError if it
        cannot be reached or takes none.
        """
        until = time.monotonic() + at_most_s
        if not self._lock.acquire(timeout=at_most_s):
            raise TimeoutError("others are waiting for its answer")
        try:
            is_old = self._line is not None
            try:
                self._ask(until)
            except psycopg.OperationalError:
                if not is_old:
                    raise
                self._ask(until)  # the server has been started anew since
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the line for good."""
        with self._lock:
            self._closed = True
            self._drop()

    def _ask(self, until: float) -> None:
        try:
            self._line = self._line or self._open(until)
            if _answer(self._line, until=until) == b"on":
                raise psycopg.OperationalError("the database takes no changes")
        except BaseException:  # the next one to ask begins with a line that is well
            self._drop()
            raise

    def _open(self, until: float) -> Line:
        left_s = until - time.monotonic()
        if self._closed:
            raise psycopg.OperationalError("the store is closed")
        if left_s <= 0:
            raise TimeoutError("it took too long to answer others")
        try:
            return self._connect(min(CONNECT_S, math.ceil(left_s)))
        except psycopg.errors.ConnectionTimeout as error:
            raise TimeoutError("the server did not take a connection") from error

    def _drop(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()


def _answer(line: Line, *, until: float) -> bytes | None:
    """The one value that the server answers. Raises TimeoutError, psycopg.OperationalError."""
    connection = line.pgconn
    connection.send_query(ASK)
    answers = select.poll()
    answers.register(connection.socket, select.POLLIN)
    value: bytes | None = None
    while True:
        while not connection.is_busy():
            result = connection.get_result()
            if result is None:
                return value
            if result.status != ExecStatus.TUPLES_OK:
                raise psycopg.OperationalError(result.get_error_message())
            value = result.get_value(0, 0)
        if not answers.poll(max(0.0, until - time.monotonic()) * 1_000):
            raise TimeoutError("the server did not answer")
        connection.consume_input()


class Watch:
    """A thread that cuts all lines while the server is silent.

    silent_s: how long it may take to answer. every_s: how often it is asked.
    """

    def __init__(
        self,
        lines: Lines,
        prober: Prober,
        *,
        silent_s: float = SILENT_S,
        every_s: float = ASK_EVERY_S,
    ) -> None:
        self._lines = lines
        self._prober = prober
        self._silent_s = silent_s
        self._every_s = every_s
        self._silent = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="postgresql-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; may take as long as a connection."""
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Refuse a new line to a server that is silent. Raises psycopg.OperationalError.

        Why: each call would else wait for it as long as a connection may take.
        """
        if self._silent:
            raise psycopg.OperationalError("the server is silent")

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            was_silent, self._silent = self._silent, self._is_silent()
            if self._silent:
                cut = self._lines.cut()
                if cut or not was_silent:
                    log.error("database_silent", for_s=self._silent_s, lines_cut=cut)
            elif was_silent:
                log.info("database_no_longer_silent")

    def _is_silent(self) -> bool:
        try:
            self._prober.ask(at_most_s=self._silent_s)
        except TimeoutError:
            return True
        except psycopg.Error:  # whoever needs it is told so, too
            return False
        return False
