"""Crash points: named places at which a process dies, as if its machine had lost its power.

`python -m tests.campaigns.crash_points POINT N gateway serve` is the gateway, except that it kills
itself the N-th time that it comes to the point; with `executor --root …` it is the executor. The
points are put around functions from outside: nothing in the gateway knows of them.
"""

import importlib
import inspect
import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from itertools import count
from typing import Any

MODULES = {"gateway": "gateway", "executor": "gateway.batch.executor"}
"""What each kind of process is run as."""


@dataclass(frozen=True)
class Around:
    """A function that points are around: one before it begins and one after it has ended well.

    program: the key of `MODULES` whose process has it. often: it is reached many times a second.
    only: the first argument that counts, and the thread.
    """

    program: str
    module: str
    function: str
    often: bool = False
    only: tuple[str, str] | None = None


PLACES = {
    "sqlite commit": Around(
        "gateway",
        "gateway.store.prepared",
        "PreparedLine.say",
        often=True,
        only=("COMMIT", "sqlite-writer"),
    ),
    "postgresql commit": Around("gateway", "psycopg", "Connection.commit", often=True),
    "hand-over": Around("gateway", "gateway.batch.engines.local", "LocalEngine.start"),
    "acknowledgement": Around("gateway", "gateway.batch.engines.local", "LocalEngine.acknowledge"),
    "publish": Around("gateway", "gateway.events.lane", "Lane._tell"),
    "confirm": Around("gateway", "gateway.events.marker", "Marker._mark"),
    "journal": Around("executor", "gateway.batch.executor.journal", "Journal.write"),
    "order": Around("executor", "gateway.batch.executor.spawn_pool", "_send"),
    "spawn": Around("executor", "gateway.batch.executor.spawn_server", "_execute"),
    "outcome": Around("executor", "gateway.batch.executor.ledger", "Ledger.end"),
}
POINTS = tuple(f"{moment} {place}" for place in PLACES for moment in ("before", "after"))
"""`publish`: a page goes to the broker, until all of it is confirmed. `confirm`: the marks of what
is confirmed are stored. `hand-over`: the engine is told of attempts that are stored already.
`order`: a spawn server is told what to spawn or to kill; `spawn` is in such a server."""


def points_of(*, postgresql: bool) -> tuple[str, ...]:
    """The points that a gateway on one of the two databases comes to."""
    other = "sqlite commit" if postgresql else "postgresql commit"
    return tuple(point for point in POINTS if not point.endswith(other))


def arm(point: str, *, times: int) -> None:
    """Have this process kill itself when it comes to a point for the `times`-th time."""
    moment, _, name = point.partition(" ")
    place = PLACES[name]
    owner: Any = importlib.import_module(place.module)
    *path, attribute = place.function.split(".")
    for part in path:
        owner = getattr(owner, part)
    passes = count(1)

    def reach(at: str, arguments: tuple[Any, ...]) -> None:
        here = arguments[1:2], threading.current_thread().name
        concerned = place.only is None or here == (place.only[:1], place.only[1])
        if at == moment and concerned and next(passes) == times:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, attribute, _around(getattr(owner, attribute), reach))


def _around(
    function: Callable[..., Any], reach: Callable[[str, tuple[Any, ...]], None]
) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def asynchronous(*args: Any, **named: Any) -> Any:
            reach("before", args)
            result = await function(*args, **named)
            reach("after", args)
            return result

        return asynchronous

    @wraps(function)
    def synchronous(*args: Any, **named: Any) -> Any:
        reach("before", args)
        result = function(*args, **named)
        reach("after", args)
        return result

    return synchronous


def command(point: str, *, times: int, arguments: list[str]) -> list[str]:
    """The command line of a process that dies at a point; arguments: its own."""
    words = ["-m", "tests.campaigns.crash_points", point, str(times), place_of(point).program]
    return [sys.executable, *words, *arguments]


def place_of(point: str) -> Around:
    """The function that a point is around."""
    return PLACES[point.partition(" ")[2]]


def main() -> None:
    point, times, program, *arguments = sys.argv[1:]
    arm(point, times=int(times))
    sys.argv = [program, *arguments]
    runpy.run_module(MODULES[program], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
