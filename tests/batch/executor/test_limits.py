"""What an attempt may use, and how using more is told apart from every other end."""

import os
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.batch.engines import Ability, Cause, Launch, Limits
from gateway.batch.engines.local import LocalEngine
from gateway.batch.executor import group_trees
from gateway.batch.executor.control_groups import (
    KEPT_MAX,
    ControlGroups,
    Group,
    Visitor,
    open_control_groups,
)
from gateway.batch.executor.group_trees import Mounted, mounted_trees, settings
from tests.batch.executor.executors import (
    inside,
    kill_process,
    processes_that_say,
    sleeper,
    until,
)
from tests.support.attempts import Watch, launch

LIMITS = Limits(cores=1, mem_bytes=100_000_000, processes=50)
# `tail` keeps all of it in memory
HOG = "head -c 300000000 /dev/zero | tail -c 300000000 >/dev/null"
SHELL_HOG = "x=0123456789; while :; do x=$x$x; done"

HYBRID_MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
HYBRID_OWN = "5:memory:/a/b\n4:cpu,cpuacct:/\n1:name=systemd:/user\n0::/user/1\n"
CONTAINER_MOUNTS = """\
99 98 0:32 /docker/abc /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory
97 98 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
"""
UNIFIED_MOUNTS = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def limited(command: str, limits: Limits = LIMITS) -> Launch:
    return replace(launch(command), limits=limits)


def group_name_of(pid: int) -> str | None:
    """The attempt's group that a process is in, whatever the data folder."""
    groups = re.findall(r"/qcs-gateway/\w+/(attempt-\d+)", Path(f"/proc/{pid}/cgroup").read_text())
    return groups[0] if groups else None


def stdout_of(engine: LocalEngine, attempt: Launch) -> str:
    return engine.log_path(attempt.folder, "stdout").read_text()


@pytest.mark.anyio
@pytest.mark.parametrize("command", [SHELL_HOG, f"sh -c '{SHELL_HOG}'", f"{HOG}; exit 137"])
async def test_a_command_that_uses_up_its_memory_ends_as_out_of_memory(
    engine: LocalEngine, command: str
) -> None:
    attempt = limited(command)
    await engine.start([attempt])
    [ended] = await Watch(engine).ended([attempt])
    assert (ended.cause, ended.exit_code) == (Cause.OOM, 137)
    assert "100000000 bytes" in ended.detail


@pytest.mark.anyio
async def test_the_same_command_without_limits_or_another_death_is_not_out_of_memory(
    engine: LocalEngine,
) -> None:
    roomy, killed = launch(HOG), limited("kill -9 $$")
    failing, shrugging = limited("exit 137"), limited(f"{HOG}; exit 0")
    attempts = [roomy, killed, failing, shrugging]
    await engine.start(attempts)
    ended = await Watch(engine).ended(attempts)
    assert [each.cause for each in ended] == [None, Cause.SIGNAL, Cause.SIGNAL, None]


@pytest.mark.anyio
async def test_a_bomb_of_processes_is_held_and_ends_with_its_attempt(engine: LocalEngine) -> None:
    command = sleeper()
    bomb = limited(f"(for i in $(seq 200); do {command} & done); exec sleep 1000")
    watch = Watch(engine)
    await engine.start([bomb])
    await until(lambda: len(processes_that_say(command)) >= 20)
    assert len(processes_that_say(command)) <= LIMITS.processes
    await engine.stop([bomb.attempt_id])
    await watch.ended([bomb])
    assert processes_that_say(command) == []
    after = limited("for i in $(seq 30); do sleep 0 & done; wait; echo well")
    await engine.start([after])
    await watch.ended([after])
    assert stdout_of(engine, after) == "well\n"


@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["none"])
async def test_a_command_is_in_its_group_from_the_start_and_every_limit_is_set(
    engine: LocalEngine,
) -> None:
    attempt = limited("cat /proc/self/cgroup")
    await engine.start([attempt])
    await Watch(engine).ended([attempt])
    groups = {
        name: path
        for line in stdout_of(engine, attempt).splitlines()
        for _, names, path in [line.split(":", 2)]
        for name in names.split(",")
    }
    for name in ("memory", "pids", "cpu"):
        assert "qcs-gateway" in groups.get(name, groups.get("", ""))
    assert group_name_of(engine.executor_pid) is None


@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["none"])
async def test_a_group_that_served_serves_again_with_its_own_limits(engine: LocalEngine) -> None:
    watch = Watch(engine)
    for mem_bytes in (100_000_000, 600_000_000, 100_000_000):
        attempt = limited(HOG, replace(LIMITS, mem_bytes=mem_bytes))
        await engine.start([attempt])
        [ended] = await watch.ended([attempt])
        assert (ended.cause is Cause.OOM) is (mem_bytes < 300_000_000)


@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["none", "uid"])
async def test_what_hides_from_its_executor_does_not_outlive_it(engine: LocalEngine) -> None:
    command = sleeper()
    attempt = launch(
        f"(cd / && env -i setsid sh -c '{command} &' </dev/null >/dev/null 2>&1 &); sleep 1000"
    )
    watch = Watch(engine)
    await engine.start([attempt])
    await until(lambda: bool(processes_that_say(command)))
    kill_process(engine.executor_pid)
    await watch.reconnected()
    [ended] = await watch.ended([attempt])
    assert ended.cause is Cause.INFRA_LOST
    assert processes_that_say(command) == []


@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["none"])
async def test_a_daemon_that_hides_is_not_mistaken_for_anothers(engine: LocalEngine) -> None:
    command = sleeper()
    daemon = launch(
        f"(cd / && env -i setsid sh -c '{command} &' </dev/null >/dev/null 2>&1 &); exec sleep 1000"
    )
    watch = Watch(engine)
    await engine.start([daemon])
    await until(lambda: bool(processes_that_say(command)))
    others = [launch("sleep 100 &") for _ in range(5)]
    await engine.start(others)
    await watch.ended(others)
    assert processes_that_say(command) != []
    await engine.stop([daemon.attempt_id])
    await watch.ended([daemon])
    assert processes_that_say(command) == []


def test_groups_of_a_folder_are_swept_and_those_of_another_are_not(tmp_path: Path) -> None:
    kept, swept = tmp_path / "kept", tmp_path / "swept"
    pids, opened = [], []
    for root in (kept, swept):
        root.mkdir()
        groups = open_control_groups(root)
        groups.claim()
        group = groups.make(LIMITS)
        assert group is not None
        pids.append(spawn_in(groups, group))
        opened.append((groups, group))
    try:
        again = open_control_groups(swept)
        assert again.sweep()
        assert os.waitpid(pids[1], 0)[1] == 9
        while again.sweep():
            pass
        assert os.waitpid(pids[0], os.WNOHANG) == (0, 0)
        assert not any(Path(folder).exists() for folder in opened[1][1].folders)
    finally:
        opened[0][1].kill()
        os.waitpid(pids[0], 0)
        opened[0][0].close()
    assert not any(Path(folder).exists() for folder in opened[0][1].folders)


@pytest.fixture
def groups(tmp_path: Path) -> Iterator[ControlGroups]:
    """Groups of this process's own."""
    opened = open_control_groups(tmp_path)
    opened.claim()
    yield opened
    opened.close()


def spawn_in(groups: ControlGroups, group: Group) -> int:
    with inside(groups, group):
        return os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}, setsid=True)


@pytest.mark.parametrize("limits", [None, LIMITS])
def test_whether_a_group_is_empty_is_known_at_every_moment(
    groups: ControlGroups, limits: Limits | None
) -> None:
    group = groups.make(limits)
    assert group is not None
    for _ in range(20):
        assert group.is_empty
        pid = spawn_in(groups, group)
        assert not group.is_empty
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert group.is_empty  # what is dead and not yet waited for does not count
        os.waitpid(pid, 0)
    groups.discard(group)
    assert groups.make(limits) is group


def test_from_group_to_group_each_process_is_in_its_own(groups: ControlGroups) -> None:
    several = [groups.make(limits) for limits in (LIMITS, LIMITS, None, LIMITS)]
    pids, visitor = [], Visitor()
    for group in several:
        assert group is not None
        visitor.enter(group.doors, homes=groups.homes_of(group))
        pids.append(os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}, setsid=True))
    visitor.leave()
    try:
        for group, pid in zip(several, pids, strict=True):
            assert group is not None
            assert group.pids() == {pid}
    finally:
        for group, pid in zip(several, pids, strict=True):
            assert group is not None
            group.kill()
            os.waitpid(pid, 0)
            groups.discard(group)
    names = Path("/proc/self/cgroup").read_text()
    assert "attempt-" not in names


def test_groups_that_were_killed_are_removed_and_of_the_others_those_used_last_are_kept(
    groups: ControlGroups,
) -> None:
    several = [groups.make(replace(LIMITS, processes=10 + each // 20)) for each in range(100)]
    for number, group in enumerate(several):
        assert group is not None
        group.was_killed = number < 10
        groups.discard(group)
    there = [Path(each.folders[0]).exists() for each in several if each is not None]
    assert there.count(True) == KEPT_MAX
    assert there[:20] == [False] * 20
    assert there[40:] == [True] * 60
    newest = groups.make(replace(LIMITS, processes=14))
    assert any(newest is each for each in several)


@pytest.mark.parametrize(
    ("mounts", "membership", "expected"),
    [
        (
            HYBRID_MOUNTS,
            HYBRID_OWN,
            {
                "/sys/fs/cgroup/cpu,cpuacct": (1, "/sys/fs/cgroup/cpu,cpuacct"),
                "/sys/fs/cgroup/memory": (1, "/sys/fs/cgroup/memory/a/b"),
                "/sys/fs/cgroup/systemd": (1, "/sys/fs/cgroup/systemd/user"),
                "/sys/fs/cgroup/unified": (2, "/sys/fs/cgroup/unified/user/1"),
            },
        ),
        (
            CONTAINER_MOUNTS,
            "5:memory:/docker/abc/x\n0::/\n",
            {
                "/sys/fs/cgroup/memory": (1, "/sys/fs/cgroup/memory/x"),
                "/sys/fs/cgroup/unified": (2, "/sys/fs/cgroup/unified"),
            },
        ),
        (
            UNIFIED_MOUNTS,
            "0::/user.slice/me.service/main\n",
            {"/sys/fs/cgroup": (2, "/sys/fs/cgroup/user.slice/me.service/main")},
        ),
        ("21 1 0:5 / /proc rw - proc proc rw\n", "", {}),
    ],
    ids=["hybrid", "container", "v2", "nothing"],
)
def test_every_layout_is_read_for_what_it_is(
    mounts: str, membership: str, expected: Mapping[str, tuple[int, str]]
) -> None:
    found = mounted_trees(mounts, membership)
    assert {each.top: (each.version, each.own) for each in found} == expected
    assert [each.version for each in found] == sorted(each.version for each in found)


def test_a_machine_without_groups_says_why_nothing_is_limited(tmp_path: Path) -> None:
    shut = tmp_path / "file"
    shut.touch()
    mounted = [
        Mounted(1, str(shut), str(shut), frozenset({"memory"})),
        Mounted(2, str(tmp_path), str(tmp_path)),
    ]
    found = group_trees.find_trees(mounted, key="0123456789abcdef")
    assert found.trees == ()
    assert "no group can be made" in found.missing[Ability.MEMORY]
    assert found.missing[Ability.CPU] == group_trees.NOT_MOUNTED
    assert set(found.missing) == {Ability.MEMORY, Ability.CPU, Ability.PROCESSES}


def test_a_delegated_v2_group_hands_its_controllers_down(tmp_path: Path) -> None:
    """The kernel's files are stood in for by plain ones: the test machines mount v1."""
    own = tmp_path / "me.service" / "main"
    ours = own.parent / "qcs-gateway" / "0123456789abcdef"
    (ours / "probe").mkdir(parents=True)
    own.mkdir()
    (own / "cgroup.procs").touch()
    (own.parent / "cgroup.controllers").write_text("cpu memory pids\n")
    for parent in (own.parent, ours.parent, ours):
        (parent / "cgroup.subtree_control").touch()
    for file in ("memory.max", "pids.max", "cpu.weight", "cpu.max"):
        (ours / "probe" / file).touch()
    found = group_trees.find_trees([Mounted(2, str(tmp_path), str(own))], key="0123456789abcdef")
    [tree] = found.trees
    assert (tree.folder, tree.home) == (str(ours), str(own))
    assert tree.controllers == {"cpu", "memory", "pids"}
    assert not found.missing
    assert (ours / "cgroup.subtree_control").read_text() != ""


def test_a_node_may_use_its_cores_and_no_more_unless_it_has_all_of_them() -> None:
    small = settings(Limits(cores=2, mem_bytes=1, processes=1), cores_here=8)
    large = settings(Limits(cores=8, mem_bytes=1, processes=1), cores_here=8)
    assert ("cpu.cfs_quota_us", "200000") in small[1, "cpu"]
    assert ("cpu.max", "200000 100000") in small[2, "cpu"]
    assert large[1, "cpu"] == [("cpu.shares", "8192")]
    assert large[2, "cpu"] == [("cpu.weight", "800")]
