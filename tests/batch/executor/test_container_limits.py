"""What a container may use: of its node's size and what its options ask for the smaller."""

import resource
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.batch.applications import docker_options
from gateway.batch.engines import Ability, Cause, Limits
from gateway.batch.engines.local import LocalEngine
from gateway.batch.executor.container_limits import ULIMIT_MAX, limit_words
from tests.batch.executor.executors import local_engine
from tests.batch.executor.test_containers import contained, run
from tests.support.images import ImageStore

MEBIBYTE = 1_048_576
NODE = Limits(cores=1, mem_bytes=64 * MEBIBYTE, processes=50)


@pytest.fixture
async def engine(root: Path, store: ImageStore) -> AsyncIterator[LocalEngine]:
    store.write_settings(root)
    async with local_engine(root, isolation="sandbox") as opened:
        if opened.missing.keys() & {Ability.MEMORY, Ability.CPU, Ability.PROCESSES}:
            pytest.fail("these tests need a machine on which all can be limited")
        yield opened


SEEN = {
    "memory": ("memory/memory.limit_in_bytes", "memory.max"),
    "processes": ("pids/pids.max", "pids.max"),
    "cores": ("cpu/cpu.cfs_quota_us", "cpu.max"),
}


@pytest.mark.anyio
async def test_a_container_has_less_than_its_node_if_it_asks_for_less(engine: LocalEngine) -> None:
    options = docker_options(
        "--memory 20m --cpus 0.5 --pids-limit 9 --ulimit nofile=50:60 --ulimit core=0"
    )
    seen = "; ".join(
        f"cat /sys/fs/cgroup/{v1} 2>&- || head -n 1 /sys/fs/cgroup/{v2}" for v1, v2 in SEEN.values()
    )
    files = "ulimit -Sn; ulimit -Hn; ulimit -c"
    attempt = contained(f"{seen}; {files}", limits=NODE, options=options)
    ended, out, err = await run(engine, attempt)
    assert (ended.cause, err) == (None, "")
    memory, processes, cores, *files_and_core = out.splitlines()
    assert (memory, processes, cores.split()[0]) == (str(20 * MEBIBYTE), "9", "50000")
    assert files_and_core == ["50", "60", "0"]


@pytest.mark.anyio
async def test_one_that_uses_up_the_memory_it_asked_for_is_told_how_much_that_was(
    engine: LocalEngine,
) -> None:
    greedy = "x=$(head -c 200000000 /dev/zero | tr '\\0' a)"
    options = docker_options("--memory 20m")
    ended, _, _ = await run(engine, contained(greedy, limits=NODE, options=options))
    assert (ended.cause, ended.exit_code) == (Cause.OOM, 137)
    assert f"{20 * MEBIBYTE} bytes" in ended.detail


def values(words: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairwise(words):
        if name.startswith("--"):
            found.setdefault(name, []).append(value)
    return found


def test_nothing_that_is_asked_for_is_more_than_the_node_gives() -> None:
    options = docker_options(
        "-m 100g --cpus 99 --pids-limit 5000 --ulimit nofile=99999999 --ulimit stack=99:999999"
    )
    asked, given = values(limit_words(NODE, options)), values(limit_words(NODE, ()))
    stack = [each for each in asked["--ulimit"] if each.startswith("stack=")]
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    assert stack == [f"stack=99:{999_999 if most < 0 else min(999_999, most)}"]
    assert {**asked, "--ulimit": asked["--ulimit"][:2]} == given
    assert given["--memory"] == given["--memory-swap"] == [str(NODE.mem_bytes)]
    assert all(int(each.rpartition(":")[2]) <= ULIMIT_MAX for each in given["--ulimit"])


def test_of_a_limit_that_is_asked_for_twice_the_last_counts() -> None:
    options = docker_options("-m 20m -m 30m --pids-limit 3 --pids-limit=4")
    words = values(limit_words(NODE, options))
    assert (words["--memory"], words["--pids-limit"]) == ([str(30 * MEBIBYTE)], ["4"])
