"""Isolation: what it adds to one `true`, and how soon a tree of processes is dead after a stop.

The executor's own runner spawns, beside a bare posix_spawn, one command after another. The trees
have a child in a session of its own, a daemon that forked twice and one that gave up all it had.
The attempts' folders are in memory, so that it is not the disk which is measured.
"""

import argparse
import os
import resource
import select
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from gateway.batch.engines import Launch, Limits
from gateway.batch.executor import processes
from gateway.batch.executor.control_groups import open_control_groups
from gateway.batch.executor.isolation import isolation_named
from gateway.batch.executor.runner import Runner
from gateway.batch.executor.spawn_pool import SpawnPool
from gateway.clock import now
from tests.batch.executor.executors import processes_that_say, sleeper
from tests.bench.measure import cpu_seconds
from tests.support.attempts import launch

LIMITS = Limits(cores=1, mem_bytes=1 << 30, processes=512)
LOOK_EVERY_S = 0.0002  # for children, of which nothing is told here
BARE = "bare posix_spawn"
ADDED_MS_MAX = 5.0
KILL_MS_MAX = 50.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=300)
    parser.add_argument("--trees", type=int, default=30)
    options = parser.parse_args()
    processes.become_subreaper()
    with open_runners() as (pool, runners):
        alone = partial(bare, servers=pool.pids)
        contenders: dict[str, Callable[[], float]] = {
            BARE: partial(alone, ["/bin/true"]),
            "bare bubblewrap": partial(alone, [*sandbox_words(runners), "/bin/true"]),
            **{
                name: partial(one_command, runner, limits)
                for name, (runner, limits) in runners.items()
            },
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        cpu_s = dict.fromkeys(contenders, 0.0)
        for _ in range(options.commands):
            for name, run in contenders.items():
                before = cpu_used_s(pool.pids)
                times[name].append(run())
                cpu_s[name] += cpu_used_s(pool.pids) - before
        show_commands(times, cpu_s)
        kills = {
            name: [one_kill(runner, limits) for _ in range(options.trees)]
            for name, (runner, limits) in runners.items()
            if limits is not None
        }
        show_kills(kills)


@contextmanager
def open_runners() -> Iterator[tuple[SpawnPool, dict[str, tuple[Runner, Limits | None]]]]:
    """A runner for every isolation that works here, with limits and without."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    folder = Path(tempfile.mkdtemp(prefix="isolation-", dir=memory))
    folder.chmod(0o711)
    groups = open_control_groups(folder)
    groups.claim()
    pool = SpawnPool(1)
    print("limits:", ", ".join(sorted(each.value for each in groups.abilities)) or "none")
    try:
        found: dict[str, tuple[Runner, Limits | None]] = {}
        for name in ("none", "uid", "sandbox"):
            isolation = isolation_named(name, root=folder)
            runner = Runner(folder, isolation=isolation, pool=pool, groups=groups, clock=now)
            found[name] = (runner, None)
            found[f"{name}, limited"] = (runner, LIMITS)
        yield pool, found
    finally:
        pool.close()
        groups.close()
        shutil.rmtree(folder, ignore_errors=True)


def sandbox_words(runners: Mapping[str, tuple[Runner, Limits | None]]) -> list[str]:
    """What stands before a command in the sandbox, in a folder where it may work."""
    return list(runners["sandbox"][0].isolation.prefix)


def bare(argv: list[str], *, servers: Collection[int]) -> float:
    """Milliseconds of a command without an executor, until all that it started is gone.

    servers: our children that stay.
    """
    os.chdir("/tmp")
    began = time.perf_counter()
    os.posix_spawn(argv[0], argv, {"PATH": os.environ["PATH"]})
    while any(pid not in servers for pid in processes.children()):
        os.wait()
    return (time.perf_counter() - began) * 1e3


def one_command(runner: Runner, limits: Limits | None) -> float:
    """Milliseconds from a launch to the proof that nothing of it is left."""
    attempt = replace(launch("true"), limits=limits)
    began = time.perf_counter()
    start(runner, attempt)
    finish(runner)
    return (time.perf_counter() - began) * 1e3


def one_kill(runner: Runner, limits: Limits | None) -> float:
    """Milliseconds from a stop until nothing of a tree of processes is left."""
    command = sleeper()
    hidden = f"(cd / && env -i setsid sh -c '{command} &' </dev/null >/dev/null 2>&1 &)"
    tree = f"{command} & setsid {command} & (setsid sh -c '{command} &' &); {hidden}; {command}"
    attempt = replace(launch(tree), limits=limits)
    start(runner, attempt)
    while len(processes_that_say(command)) < 5:
        pass
    began = time.perf_counter()
    runner.stop(attempt.attempt_id)
    finish(runner)
    took_ms = (time.perf_counter() - began) * 1e3
    assert processes_that_say(command) == []
    return took_ms


def cpu_used_s(servers: Collection[int]) -> float:
    """What we, those who spawn for us and all that was waited for have used.

    A busy machine changes it little.
    """
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used) + cpu_seconds([*servers])


def start(runner: Runner, attempt: Launch) -> None:
    runner.enqueue([attempt])
    ended = runner.spawn(count_max=1)
    assert not ended, ended
    runner.flush()


def finish(runner: Runner) -> None:
    """Wait for what is told, and for children, until all is over."""
    while not runner.is_idle:
        runner.flush()
        select.select(runner.lines, [], [], LOOK_EVERY_S)
        heard = runner.hear()
        assert not heard.ended, heard.ended
        runner.reap()


def show_commands(times: dict[str, list[float]], cpu_s: dict[str, float]) -> None:
    plain = statistics.median(times[BARE])
    print(f"{'one `true`':20} {'p50 ms':>8} {'p99 ms':>8} {'added ms':>9} {'cpu ms':>8}")
    for name, found in times.items():
        p50, p99 = statistics.median(found), statistics.quantiles(found, n=100)[98]
        cpu_ms = 1e3 * cpu_s[name] / len(found)
        print(f"{name:20} {p50:8.2f} {p99:8.2f} {p50 - plain:9.2f} {cpu_ms:8.2f}")
    print(f"target: sandbox, limited, adds {ADDED_MS_MAX} ms at most")


def show_kills(kills: dict[str, list[float]]) -> None:
    print(f"{'stop of a tree':20} {'p50 ms':>8} {'max ms':>8}")
    for name, found in kills.items():
        print(f"{name:20} {statistics.median(found):8.2f} {max(found):8.2f}")
    print(f"target: {KILL_MS_MAX} ms")


if __name__ == "__main__":
    main()
