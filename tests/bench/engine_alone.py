"""The engine alone: no-op commands with four durable state changes each, beside bare spawning.

A command is placed, runs, ends and is acknowledged; each change is a row in an SQLite file with
`synchronous=FULL`, and those of one moment are committed together. It does so twice: with and
without the limits that every command of the gateway has. Its peers keep nothing: `xargs -P`, and a
loop of posix_spawn, a process group for each.
"""

import argparse
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import uvloop

from gateway.batch.attempts import Attempt
from gateway.batch.engines import Ended, Launch, Limits, Started
from gateway.batch.engines.local import LocalEngine, open_local_engine
from tests.bench.jobs import peer
from tests.bench.measure import Result, in_turn, peak_mb, show, used_seconds

JOB_ID = "job-bench000"
TIMEOUT_S = 600
LIMITS = Limits(cores=1, mem_bytes=2**30, processes=500)
BARE = """
import os, sys, time

left, at_once, running = int(sys.argv[1]), int(sys.argv[2]), 0
began = time.monotonic()
while left or running:
    while left and running < at_once:
        os.posix_spawn("/bin/true", ["true"], {}, setpgroup=0)
        left, running = left - 1, running + 1
    os.wait()
    running -= 1
print(time.monotonic() - began)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    count, at_once = options.commands, options.at_once
    contenders: dict[str, Callable[[], Result]] = {
        "xargs -P": lambda: peer(["xargs", "-P", str(at_once), "-n", "1", "true"], count),
        "posix_spawn": lambda: bare(count, at_once),
        "engine": lambda: uvloop.run(engine_alone(count, at_once, limits=None)),
        "engine, limits": lambda: uvloop.run(engine_alone(count, at_once, limits=LIMITS)),
    }
    results = in_turn(contenders, rounds=options.rounds)
    print(f"{count} commands `true`, {at_once} at once")
    show(results, unit="commands", against=["xargs -P", "posix_spawn"])


def bare(count: int, at_once: int) -> Result:
    """A loop that only spawns and waits, in a small process."""
    command = [sys.executable, "-c", BARE, str(count), str(at_once)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Result(count / float(done.stdout), {})


async def engine_alone(count: int, at_once: int, *, limits: Limits | None) -> Result:
    """Run the commands on an executor of its own, without isolation."""
    with tempfile.TemporaryDirectory() as folder:
        states = open_states(Path(folder) / "states.db")
        root = Path(folder) / "engine"
        async with open_local_engine(
            root, isolation="none", capacity=at_once, linger_s=0.0
        ) as engine:
            used = used_seconds(engine.executor_pid)
            began = time.monotonic()
            await run_all(engine, states, count=count, at_once=at_once, limits=limits)
            took = time.monotonic() - began
            used = used_seconds(engine.executor_pid) - used
            peak = peak_mb(engine.executor_pid)
        stored = states.execute("SELECT count(*) FROM changes").fetchone()[0]
        if stored != 4 * count:
            raise SystemExit(f"{stored} state changes are stored, not {4 * count}")
        states.close()
    return Result(count / took, {"executor us/cmd": used / count * 1e6, "peak MB": peak})


def open_states(path: Path) -> sqlite3.Connection:
    states = sqlite3.connect(path, isolation_level=None)
    states.execute("PRAGMA journal_mode=WAL")
    states.execute("PRAGMA synchronous=FULL")
    states.execute("CREATE TABLE changes (attempt_id TEXT, state TEXT)")
    return states


async def run_all(
    engine: LocalEngine,
    states: sqlite3.Connection,
    *,
    count: int,
    at_once: int,
    limits: Limits | None,
) -> None:
    """Keep `at_once` commands running until all have ended; nothing is done before it is stored."""
    attempts = (Attempt(JOB_ID, 0, number, 1) for number in range(count))
    started: list[str] = []
    ended: list[str] = []
    live, left = 0, count
    while left:
        placed = list(islice(attempts, at_once - live))
        store(states, placed=[each.id for each in placed], started=started, ended=ended)
        await engine.acknowledge(ended)
        await engine.start([launch(attempt, limits) for attempt in placed])
        live += len(placed)
        reports = await engine.reports() if live else []
        store(states, acknowledged=ended)
        started = [each.attempt_id for each in reports if isinstance(each, Started)]
        ended = [each.attempt_id for each in reports if isinstance(each, Ended)]
        live -= len(ended)
        left -= len(ended)
    store(states, started=started, ended=ended, acknowledged=ended)


def store(states: sqlite3.Connection, **changes: Iterable[str]) -> None:
    """Store changes, by the new state, with one commit."""
    rows = [(attempt_id, state) for state, ids in changes.items() for attempt_id in ids]
    if rows:
        states.execute("BEGIN")
        states.executemany("INSERT INTO changes VALUES (?, ?)", rows)
        states.execute("COMMIT")


def launch(attempt: Attempt, limits: Limits | None) -> Launch:
    return Launch(attempt.id, "true", {}, attempt.folder, TIMEOUT_S, limits, has_files=False)


if __name__ == "__main__":
    main()
