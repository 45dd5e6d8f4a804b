"""Docker applications, by a real podman on images of the tests' own."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.batch.engines import Ability, Cause, Container, Ended, Launch, Limits, Mount
from gateway.batch.engines.local import LocalEngine
from gateway.batch.executor.command import command_of
from gateway.batch.executor.container_run import told
from gateway.batch.executor.containers import MARK, REMOVE_S_MAX, Containers, remove_all
from gateway.batch.executor.folders import SCRATCH
from gateway.batch.executor.isolation import Isolation
from gateway.batch.executor.mounts import CannotLaunch
from gateway.batch.executor.samples import BY_PROCESS, read_samples
from tests.batch.executor.executors import (
    kill_process,
    local_engine,
    processes_that_say,
    sleeper,
    spawn,
    until,
)
from tests.support.attempts import Watch, launch
from tests.support.images import IMAGE, WITHOUT_SHELL, ImageStore, registry

MEBIBYTE = 1_048_576
USER, PASSWORD = "puller", "p4ss-w0rd-of-the-registry"


@pytest.fixture
def isolation() -> str:
    return "sandbox"


@pytest.fixture
async def engine(root: Path, store: ImageStore, isolation: str) -> AsyncIterator[LocalEngine]:
    store.write_settings(root)
    async with local_engine(root, isolation=isolation) as opened:
        yield opened
    assert store.containers() == []


def contained(
    command: str,
    *,
    image: str = IMAGE,
    environment: Mapping[str, str] | None = None,
    options: tuple[str, ...] = (),
    **more: Any,
) -> Launch:
    made = launch(command, environment=environment)
    return replace(made, container=Container(image, options=options), **more)


async def run(engine: LocalEngine, attempt: Launch) -> tuple[Ended, str, str]:
    """How an attempt ends and what it wrote to stdout and stderr."""
    await engine.start([attempt])
    [ended] = await Watch(engine).ended([attempt])
    out, err = (engine.log_path(attempt.folder, each).read_text() for each in ("stdout", "stderr"))
    return ended, out, err


def files_with(secret: str, *folders: Path) -> list[str]:
    """The files below these folders in which a text stands."""
    return [
        str(path)
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes()
    ]


@pytest.mark.anyio
async def test_a_command_runs_in_its_image_with_its_variables_in_its_work_folder(
    engine: LocalEngine,
) -> None:
    assert Ability.CONTAINERS not in engine.missing
    environment = {"BATCH_JOB_ID": "7", "KEY": "line 'one'\nline $two", "HOME": "/a=b #c"}
    attempt = contained(
        'test -x /usr/bin/apt && echo outside; echo "$BATCH_JOB_ID|$KEY|$HOME"; pwd;'
        " echo made > made; echo wrong >&2; exit 3",
        environment=environment,
    )
    ended, out, err = await run(engine, attempt)
    assert (ended.exit_code, ended.cause) == (3, Cause.USER_EXIT)
    assert out == "7|line 'one'\nline $two|/a=b #c\n/work\n"
    assert err == "wrong\n"
    made = engine.attempt_path(attempt.folder) / "work" / "made"
    assert made.read_text() == "made\n"


@pytest.mark.parametrize("isolation", ["sandbox", "uid", "none"])
@pytest.mark.anyio
async def test_a_container_is_nobody_without_any_right(engine: LocalEngine) -> None:
    command = "id -u; id -g; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status"
    options = ("--user=0", "--env=MORE=1")
    ended, out, _ = await run(engine, contained(f"{command}; echo $MORE", options=options))
    assert ended.cause is None
    assert out.split() == [
        "65534", "65534", "CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1", "1",
    ]  # fmt: skip


@pytest.mark.anyio
async def test_no_variable_or_password_of_a_container_is_in_an_argv_or_left_in_a_file(
    engine: LocalEngine, store: ImageStore, root: Path
) -> None:
    command = sleeper()
    attempt = contained(
        f"touch begun; {command}", environment={"A": "s3cret-one", "B": "s3cret-two\n."}
    )
    watch = Watch(engine)
    await engine.start([attempt])
    begun = engine.attempt_path(attempt.folder) / "work" / "begun"
    await until(begun.exists)
    assert processes_that_say(command) != []
    assert processes_that_say("s3cret") == []
    await engine.stop([attempt.attempt_id])
    await watch.ended([attempt])
    assert files_with("s3cret-", store.folder, root) == []


@pytest.mark.anyio
async def test_no_variable_of_a_container_is_left_when_the_executor_is_killed(
    engine: LocalEngine, root: Path
) -> None:
    attempt = contained(f"touch begun; {sleeper()}", environment={"A": "s3cret-three"})
    watch = Watch(engine)
    await engine.start([attempt])
    folder = engine.attempt_path(attempt.folder)
    await until((folder / "work" / "begun").exists)
    kill_process(engine.executor_pid)
    await watch.ended([attempt])
    assert files_with("s3cret-", root) == []
    assert not (folder / SCRATCH).exists()


@pytest.mark.anyio
async def test_mounts_reach_a_container(engine: LocalEngine, root: Path) -> None:
    share = root.parent / "share"
    share.mkdir(mode=0o777)
    (share / "given").write_text("from outside\n")
    disk = engine.node_path("node-1") / "disk"
    disk.mkdir(parents=True)
    attempt = contained(
        "cat /data/in/given /one; touch /data/in/no; echo kept > /data/file",
        mounts=(
            Mount(str(share), "/data/in"),
            Mount(str(disk), "/data", writable=True),
            Mount(str(share / "given"), "/one"),
        ),
    )
    ended, out, err = await run(engine, attempt)
    assert (ended.cause, out) == (None, "from outside\n" * 2)
    assert "Read-only" in err
    assert (disk / "file").read_text() == "kept\n"
    assert os.listdir(share) == ["given"]


@pytest.mark.anyio
async def test_a_container_that_uses_up_its_memory_ends_as_out_of_memory(
    engine: LocalEngine,
) -> None:
    if Ability.MEMORY in engine.missing:
        pytest.fail("these tests need a machine on which memory can be limited")
    limits = Limits(cores=1, mem_bytes=32 * MEBIBYTE, processes=50)
    greedy = "x=$(head -c 200000000 /dev/zero | tr '\\0' a)"
    ended, _, _ = await run(engine, contained(greedy, limits=limits))
    assert (ended.cause, ended.exit_code) == (Cause.OOM, 137)
    ended, _, _ = await run(engine, contained("sh -c 'kill -9 $$'; exit $?", limits=limits))
    assert (ended.cause, ended.exit_code) == (Cause.SIGNAL, 137)
    forks = "i=0; while [ $i -lt 80 ]; do sleep 9 & i=$((i + 1)); done"
    ended, _, err = await run(engine, contained(forks, limits=limits))
    assert "fork" in err


@pytest.mark.anyio
async def test_a_stopped_container_is_gone_with_all_it_started_before_its_end_is_told(
    engine: LocalEngine, store: ImageStore
) -> None:
    command = sleeper()
    attempt = contained(f"(setsid {command} &); touch begun; {command}")
    watch = Watch(engine)
    await engine.start([attempt])
    begun = engine.attempt_path(attempt.folder) / "work" / "begun"
    await until(begun.exists)
    assert len(store.containers()) == 1
    groups = store.groups()
    assert groups != []
    await engine.stop([attempt.attempt_id])
    [ended] = await watch.ended([attempt])
    assert processes_that_say(command) == []
    assert store.containers() == []
    assert [each for each in groups if each.exists()] == []
    assert (ended.cause, ended.exit_code) == (Cause.TERMINATED, None)


@pytest.mark.anyio
async def test_a_container_that_takes_too_long_is_killed(engine: LocalEngine) -> None:
    attempt = contained("sleep 1000", timeout_s=1)
    ended, _, _ = await run(engine, attempt)
    assert (ended.cause, ended.exit_code) == (Cause.TIMEOUT, None)


@pytest.mark.anyio
async def test_what_a_container_itself_uses_is_measured(engine: LocalEngine) -> None:
    attempt = contained("while :; do :; done")
    watch = Watch(engine)
    await engine.start([attempt])
    folder = engine.attempt_path(attempt.folder)
    await until(lambda: read_samples(folder) is not None)
    await engine.stop([attempt.attempt_id])
    await watch.ended([attempt])
    found = read_samples(folder)
    assert found is not None
    assert found.header.counted_by == BY_PROCESS
    # One busybox: what runs the container has ten times as much.
    assert 0 < found.samples[0].mem_bytes < 4 * MEBIBYTE


@pytest.mark.anyio
async def test_nothing_in_the_work_folder_is_run_before_the_container(
    engine: LocalEngine, root: Path
) -> None:
    attempt = contained("echo ran")
    work = engine.attempt_path(attempt.folder) / "work"
    (work / "gateway").mkdir(parents=True)
    mark = root.parent / "escaped"
    for name in ("gateway/__init__.py", "json.py", "subprocess.py"):
        (work / name).write_text(f"open({str(mark)!r}, 'w')\nraise SystemExit(9)\n")
    ended, out, _ = await run(engine, attempt)
    assert (ended.cause, out) == (None, "ran\n")
    assert not mark.exists()


@pytest.mark.anyio
async def test_one_containers_end_leaves_another_alone(engine: LocalEngine) -> None:
    attempt = contained("touch begun; while ! test -e go; do sleep 0.05; done; echo well")
    watch = Watch(engine)
    await engine.start([attempt])
    work = engine.attempt_path(attempt.folder) / "work"
    await until((work / "begun").exists)
    others = [contained("sleep 1000 &"), launch("setsid sleep 1000 &"), contained("true")]
    await engine.start(others)
    assert [each.cause for each in await watch.ended(others)] == [None] * 3
    (work / "go").touch()
    [ended] = await watch.ended([attempt])
    assert ended.cause is None
    assert engine.log_path(attempt.folder, "stdout").read_text() == "well\n"


@pytest.mark.anyio
async def test_no_container_outlives_an_executor_that_is_killed(
    engine: LocalEngine, store: ImageStore
) -> None:
    command = sleeper()
    attempt = contained(f"touch begun; {command}")
    watch = Watch(engine)
    await engine.start([attempt])
    begun = engine.attempt_path(attempt.folder) / "work" / "begun"
    await until(begun.exists)
    groups = store.groups()
    kill_process(engine.executor_pid)
    [ended] = await watch.ended([attempt])
    assert (ended.cause, ended.started) == (Cause.INFRA_LOST, True)
    assert processes_that_say(command) == []
    assert store.containers() == []
    assert [each for each in groups if each.exists()] == []


@pytest.mark.anyio
async def test_an_image_that_has_no_shell_says_so(engine: LocalEngine) -> None:
    ended, _, _ = await run(engine, contained("echo ran", image=WITHOUT_SHELL))
    assert (ended.cause, ended.exit_code) == (Cause.USER_EXIT, 127)
    assert "/bin/sh" in ended.detail


@pytest.mark.anyio
async def test_an_image_is_fetched_with_its_password_as_often_as_allowed(
    engine: LocalEngine, store: ImageStore, root: Path
) -> None:
    with registry(user=USER, password=PASSWORD) as served:
        served.failures = 2
        container = Container(served.image, user=USER, password=PASSWORD, retries=1)
        ended, out, _ = await run(engine, replace(launch("echo ran"), container=container))
        assert (ended.cause, ended.exit_code, out) == (Cause.STORAGE, None, "")
        again = replace(launch("echo ran"), container=container)
        ended, out, _ = await run(engine, again)
        assert (ended.cause, out) == (None, "ran\n")
        by_server = Container(
            "private/busybox:1", f"http://127.0.0.1:{served.port}/", USER, PASSWORD
        )
        ended, out, _ = await run(engine, replace(launch("echo ran"), container=by_server))
        assert (ended.cause, out) == (None, "ran\n")
        store.podman("rmi", served.image)
    assert files_with(PASSWORD, root, store.folder) == []


@pytest.mark.anyio
async def test_an_image_that_cannot_be_had_is_a_failure_of_storage_without_the_password(
    engine: LocalEngine,
) -> None:
    with registry(user=USER, password="another") as served:
        container = Container(served.image, user=USER, password=PASSWORD)
        ended, out, _ = await run(engine, replace(launch("echo ran"), container=container))
    assert (ended.cause, ended.exit_code, out) == (Cause.STORAGE, None, "")
    assert served.image in ended.detail
    assert PASSWORD not in ended.detail


def test_without_a_runtime_a_launch_with_a_container_ends_at_once(tmp_path: Path) -> None:
    with pytest.raises(CannotLaunch, match="no containers") as refused:
        command_of(contained("true"), Isolation("none"), root=tmp_path, work=str(tmp_path / "work"))
    assert refused.value.cause is Cause.STORAGE


DOCKER = """#!/bin/sh
export CONTAINERS_CONF={0}/containers.conf CONTAINERS_STORAGE_CONF={0}/storage.conf
exec podman --cgroup-manager cgroupfs --events-backend none --runtime runc "$@"
"""


def test_docker_is_asked_in_words_that_it_knows(root: Path, store: ImageStore) -> None:
    """A docker that is podman behind the scenes: it must be spoken to in docker's way."""
    root.mkdir(mode=0o711)
    docker = root.parent / "docker"
    docker.write_text(DOCKER.format(store.folder))
    docker.chmod(0o755)
    containers = Containers((str(docker),), "24", {}, is_podman=False)
    share = root.parent / "share"
    share.mkdir(mode=0o755)
    (share / "given").write_text("from outside\n")
    attempt = contained(
        "cat /data/given; echo $A; id -u; exit 4",
        environment={"A": "1"},
        mounts=(Mount(str(share), "/data"),),
    )
    work = root / "attempts" / attempt.folder / "work"
    command = command_of(
        attempt, Isolation("none"), root=root, work=str(work), containers=containers
    )
    done = spawn(command, work)
    assert (done.returncode, done.stdout) == (4, "from outside\n1\n65534\n")
    assert len(store.containers()) == 1
    removed = subprocess.run(command.remover, env=command.environment, check=False)
    assert removed.returncode == 0
    assert store.containers() == []


def test_docker_mounts_nothing_that_others_can_put_elsewhere(root: Path) -> None:
    containers = Containers(("/usr/bin/docker",), "24", {}, is_podman=False)
    shared = root.parent / "shared"
    (shared / "deep").mkdir(parents=True)
    shared.chmod(0o777)
    attempt = contained("true", mounts=(Mount(str(shared / "deep"), "/data"),))
    work = str(root / "attempts" / attempt.folder / "work")
    with pytest.raises(CannotLaunch, match="others can change"):
        command_of(attempt, Isolation("none"), root=root, work=work, containers=containers)


@pytest.mark.anyio
async def test_the_tmp_of_a_container_is_the_attempts(engine: LocalEngine) -> None:
    attempt = contained("echo > /tmp/x; touch begun; until test -e go; do sleep 0.05; done")
    watch = Watch(engine)
    await engine.start([attempt])
    folder = engine.attempt_path(attempt.folder)
    await until((folder / "work" / "begun").exists)
    assert (folder / "tmp" / "x").exists()
    (folder / "work" / "go").touch()
    [ended] = await watch.ended([attempt])
    assert ended.cause is None
    assert not (folder / "tmp").exists()


@pytest.mark.anyio
async def test_the_name_of_an_image_is_never_read_as_a_folder(engine: LocalEngine) -> None:
    ended, _, _ = await run(engine, contained("echo ran", image="dir:5000/foo"))
    assert (ended.cause, ended.exit_code) == (Cause.STORAGE, None)
    assert "registry" in ended.detail
    assert "manifest.json" not in ended.detail


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("option", "code", "words"),
    [("--workdir=/nowhere", 126, "/nowhere"), ("--shm-size=1x", 125, "invalid size: '1x'")],
)
async def test_why_a_container_could_not_be_started_is_told(
    engine: LocalEngine, option: str, code: int, words: str
) -> None:
    """No machine is to blame for it: another would say the same."""
    ended, _, err = await run(engine, contained("echo ran", options=(option,)))
    assert (ended.cause, ended.exit_code) == (Cause.USER_EXIT, code)
    assert "could not be started: " in ended.detail
    assert words in ended.detail
    assert words in err


def test_no_path_of_the_machine_is_told() -> None:
    said = 'Error: open "/var/lib/x/1/manifest.json": no; see https://a.b/v2/c and a.b:5/c/d:1\n'
    assert told(f"first\n{said}") == 'open "…": no; see https://a.b/v2/c and a.b:5/c/d:1'


@pytest.mark.anyio
async def test_the_next_executor_serves_when_nobody_was_left_to_sweep_up(
    engine: LocalEngine, store: ImageStore, root: Path
) -> None:
    attempt = contained(f"touch begun; {sleeper()}")
    watch = Watch(engine)
    await engine.start([attempt])
    begun = engine.attempt_path(attempt.folder) / "work" / "begun"
    await until(begun.exists)
    keeper = f"executor-keeper {sys.executable} -m gateway.batch.executor --root {root} "
    [keeper_pid] = processes_that_say(keeper)
    for pid in (keeper_pid, engine.executor_pid):
        kill_process(pid)
    [ended] = await watch.ended([attempt])
    assert ended.cause is Cause.INFRA_LOST
    assert store.containers() == []


FAILING_PODMAN = """#!/bin/sh
case $1 in
ps) cat {0}/there ;;
rm) echo x >> {0}/tries
    test $(wc -l < {0}/tries) -ge {1} && : > {0}/there || {{ echo 'still mounted' >&2; exit 1; }} ;;
esac
"""


@pytest.mark.parametrize(("tries", "words"), [(3, ""), (1_000, "1 containers .*: still mounted")])
def test_containers_of_a_dead_executor_are_removed_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: int, words: str
) -> None:
    """A program stands in for a podman that cannot remove a container yet."""
    (tmp_path / "there").write_text("abc\n")
    (tmp_path / MARK).mkdir()
    podman = tmp_path / "podman"
    podman.write_text(FAILING_PODMAN.format(tmp_path, tries))
    podman.chmod(0o755)
    found = Containers((str(podman),), "4", {})
    monkeypatch.setattr("gateway.batch.executor.containers.find_containers", lambda root: found)
    paused: list[float] = []

    def monotonic() -> float:
        return sum(paused)

    if words:
        with pytest.raises(OSError, match=words):
            remove_all(tmp_path, sleep=paused.append, monotonic=monotonic)
        assert monotonic() >= REMOVE_S_MAX
    else:
        remove_all(tmp_path, sleep=paused.append, monotonic=monotonic)
        assert len(paused) == tries - 1
