"""A clock that the campaign can set, for the gateway and for its own clients: by libfaketime.

The monotonic clock is nobody's to set. Why the clients go by it: a signature is good for five
minutes, so their clock has to be the server's.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.running import ROOT

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # where the library keeps things for other processes
SLEEP = """
import os, threading, time

if "faketime" in os.environ.get("LD_PRELOAD", ""):
    time.sleep = lambda seconds: threading.Event().wait(seconds) and None
"""
"""Imported by Python as it starts. Why: under libfaketime 0.9.10 the clock_nanosleep of time.sleep
fails with EINVAL, whatever the time.
"""


class Clock:
    """How the clock was set, and when.

    folder: for its files. steps: moments of `time.monotonic`, and the seconds that the clock has
    been ahead since.
    """

    def __init__(self, folder: Path) -> None:
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        self._library = found[0] if found else None
        self._folder = folder
        self._true_time = time.time
        self._began = time.time() - time.monotonic()
        self.steps = [(time.monotonic(), 0.0)]
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(SLEEP, encoding="ascii")
        self._write(0)

    @property
    def can_be_set(self) -> bool:
        """Whether the library is installed."""
        return self._library is not None

    @property
    def settings(self) -> dict[str, str]:
        """What a process needs in its environment to go by this clock.

        Why no fix of the monotonic clock: with it threads wait for Python's lock in a busy loop.
        """
        if self._library is None:
            return {}
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._folder / "offset"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "NO_FAKE_STAT": "1",
            "PYTHONPATH": f"{self._folder}:{ROOT}",
        }

    @contextmanager
    def shown_here(self) -> Iterator[None]:
        """Have this process go by it, too."""
        time.time = lambda: self._true_time() + self.steps[-1][1]
        try:
            yield
        finally:
            time.time = self._true_time

    def set_to(self, ahead_s: float) -> None:
        """Set the clock so far ahead of the true time."""
        self._write(ahead_s)
        self.steps.append((time.monotonic(), ahead_s))

    def _write(self, ahead_s: float) -> None:
        written = self._folder / "offset.new"
        written.write_text(f"{ahead_s:+.0f}\n", encoding="ascii")
        written.replace(self._folder / "offset")

    def shown_at(self, moment: float) -> float:
        """The true time at a moment, in seconds since 1970."""
        return self._began + moment

    def moment_of(self, seconds: float, *, before: float) -> float | None:
        """The moment, the last before another, at which the clock showed these seconds since 1970.

        None if it never did, as for what happened while it was being set.
        """
        ends = [begin for begin, _ in self.steps[1:]] + [float("inf")]
        found = None
        for (begin, ahead_s), end in zip(self.steps, ends, strict=True):
            moment = seconds - ahead_s - self._began
            if begin <= moment < end and moment <= before:
                found = moment
        return found


def remove_traces(pid: int) -> None:
    """Remove what the library keeps for a process that was killed."""
    for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
        (SHARED_MEMORY / name).unlink(missing_ok=True)
