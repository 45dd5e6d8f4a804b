"""What a command finds: packages, mapped folders, disks, limits; and what happens if it cannot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from aiohttp import web

from gateway.batch import datatypes
from gateway.batch.engines import Cause, Launch, Limits, Mount
from gateway.batch.staging import StagingFailed, fetching
from gateway.batch.staging.fetching import Patience, fetch_http
from gateway.batch.staging.places import Order
from gateway.batch.staging.preparing import AT_ONCE_OF_ONE, Preparer
from gateway.batch.storage import trees
from gateway.batch.storage.local import LocalStorage
from gateway.batch.storage.nfs import NfsRoot
from gateway.store import Store
from tests.support.batch import PROCESSES_MAX, Batch, a_task, eventually
from tests.support.fake_engine import FakeEngine
from tests.support.staging import BUCKET, COS, FarStorage, Machine, package, put, web_server

pytestmark = pytest.mark.anyio
OVER = ("SUCCEED", "FAILED")
INPUT = {"SourcePath": f"{COS}input/", "DestinationPath": "/data/input/"}
ELASTIC = {"EnvData": {"InstanceType": "S1.SMALL1"}}
EAGER = Patience(pause_s=0)
Command = Callable[[Machine, Launch], int | None]


async def run(
    store: Store, root: Path, command: Command, **members: Any
) -> tuple[Machine, dict[str, Any]]:
    """Run one task to its end; returns the engine and the first instance."""
    machine = Machine(root, command)
    batch = Batch(store, machine, folder=root)
    async with batch.scheduling():
        job_id = await batch.submit(a_task(**members))
        await batch.until_state(job_id, *OVER)
    [instance] = await batch.instances(job_id)
    return machine, instance


async def test_a_command_finds_the_bucket_at_its_mapping(store: Store, tmp_path: Path) -> None:
    put(tmp_path, "input/a/b.txt", b"hello")

    def command(machine: Machine, launch: Launch) -> int:
        assert (machine.seen_at(launch, "/data/input") / "a/b.txt").read_bytes() == b"hello"
        return 0

    machine, instance = await run(store, tmp_path, command, InputMappings=[INPUT])
    assert instance["TaskInstanceState"] == "SUCCEED"
    [launch] = machine.started
    assert not launch.mounts[0].writable


async def test_a_bucket_that_cannot_be_mounted_is_fetched_for_the_command(
    store: Store, tmp_path: Path
) -> None:
    put(tmp_path, "input/a/b.txt", b"hello").chmod(0o600)
    seen: dict[str, int] = {}

    def command(machine: Machine, launch: Launch) -> int:
        folder = machine.seen_at(launch, "/data/input")
        assert folder.is_relative_to(machine.attempt_path(launch.folder))
        for path in (folder / "a", folder / "a/b.txt"):
            seen[path.name] = path.stat().st_mode & 0o777
        return 0

    machine = Machine(tmp_path, command)
    batch = Batch(store, machine, folder=tmp_path)
    batch.storage = FarStorage(tmp_path / "cos")
    batch.storage.open_.set()
    async with batch.scheduling():
        job_id = await batch.submit(a_task(InputMappings=[INPUT]))
        assert await batch.until_state(job_id, *OVER) == "SUCCEED"
    assert seen == {"a": 0o755, "b.txt": 0o644}, "another user reads it"


async def test_a_file_server_is_mounted_as_it_is(store: Store, tmp_path: Path) -> None:
    share = tmp_path / "nfs" / "10.0.0.1" / "project"
    share.mkdir(parents=True)
    mapping = {"SourcePath": "cfs://10.0.0.1/project/", "DestinationPath": "/shared"}

    def command(machine: Machine, launch: Launch) -> int:
        (machine.seen_at(launch, "/shared") / "left").write_text("here")
        return 0

    machine, instance = await run(store, tmp_path, command, InputMappings=[mapping])
    assert instance["TaskInstanceState"] == "SUCCEED"
    assert machine.started[0].mounts[0].writable
    assert (share / "left").read_text() == "here"


@pytest.mark.parametrize(
    ("source", "words"), [(f"{COS}absent/", "absent/"), ("nfs://10.9.9.9/", "10.9.9.9")]
)
async def test_an_input_that_is_not_there_fails_the_instance_in_words(
    store: Store, tmp_path: Path, source: str, words: str
) -> None:
    put(tmp_path, "input/x")
    mapping = {"SourcePath": source, "DestinationPath": "/data"}
    machine, instance = await run(store, tmp_path, lambda *_: 0, InputMappings=[mapping])
    assert instance["TaskInstanceState"] == "FAILED"
    assert instance["StateReason"] == Cause.STORAGE.value
    assert words in instance["StateDetailedReason"]
    assert str(tmp_path) not in instance["StateDetailedReason"]
    assert machine.commands == []


async def test_an_environment_brings_its_mappings_and_disks_to_every_task(
    store: Store, tmp_path: Path
) -> None:
    put(tmp_path, "input/of-env", b"env")
    put(tmp_path, "mine/of-task", b"task")
    found: list[list[str]] = []

    def command(machine: Machine, launch: Launch) -> int:
        found.append(
            [each.name for mount in launch.mounts for each in sorted(Path(mount.source).iterdir())]
        )
        (machine.seen_at(launch, "/disk") / f"of-{len(found)}").write_text("stays")
        return 0

    machine = Machine(tmp_path, command)
    batch = Batch(store, machine, folder=tmp_path)
    async with batch.scheduling():
        env_id = await batch.create_env(
            InputMappings=[INPUT], MountDataDisks=[{"LocalPath": "/disk/"}]
        )
        first = await batch.submit(a_task(EnvId=env_id))
        assert await batch.until_state(first, *OVER) == "SUCCEED"
        nearer = {"SourcePath": f"{COS}mine/", "DestinationPath": "/data/input"}
        second = await batch.submit(a_task(EnvId=env_id, InputMappings=[nearer]))
        assert await batch.until_state(second, *OVER) == "SUCCEED"
    assert found == [["of-env"], ["of-task", "of-1"]]


async def test_an_elastic_disk_goes_with_its_attempt(store: Store, tmp_path: Path) -> None:
    tries: list[Path] = []

    def command(machine: Machine, launch: Launch) -> int:
        disk = machine.seen_at(launch, "/disk")
        assert list(disk.iterdir()) == []
        (disk / "x").write_text("x")
        tries.append(disk)
        return 1 if len(tries) == 1 else 0

    env = {**ELASTIC, "MountDataDisks": [{"LocalPath": "/disk"}]}
    _, instance = await run(store, tmp_path, command, ComputeEnv=env, MaxRetryCount=1)
    assert instance["TaskInstanceState"] == "SUCCEED"
    assert len(set(tries)) == 2


async def test_a_package_is_unpacked_where_the_command_runs(store: Store, tmp_path: Path) -> None:
    packed = package(**{"fib.py": b"print(1)"})
    put(tmp_path, "pkg/codepkg.tgz", packed)
    seen: list[bytes] = []

    def command(machine: Machine, launch: Launch) -> int:
        seen.append((machine.work(launch) / "codepkg/fib.py").read_bytes())
        assert not (machine.attempt_path(launch.folder) / "package").exists()
        return 0

    async def serve(request: web.Request) -> web.StreamResponse:
        if request.path == "/moved.tgz":
            raise web.HTTPFound("/codepkg.tgz?sign=abc")
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async with web_server(serve) as address:
        for path in (f"{COS}pkg/codepkg.tgz", f"{address}/moved.tgz"):
            application = {
                "DeliveryForm": "PACKAGE",
                "PackagePath": path,
                "Command": "python ./codepkg/fib.py",
            }
            _, instance = await run(store, tmp_path, command, Application=application)
            assert instance["TaskInstanceState"] == "SUCCEED", instance
    assert seen == [b"print(1)"] * 2


async def test_a_package_that_cannot_be_had_says_why_and_not_the_key_in_its_address(
    store: Store, tmp_path: Path
) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.Response(status=404)

    async with web_server(refuse) as address:
        application = {
            "DeliveryForm": "PACKAGE",
            "PackagePath": f"{address.replace('//', '//user:SECRET@')}/a/p.tgz?sign=SECRET",
            "Command": "true",
        }
        machine, instance = await run(store, tmp_path, lambda *_: 0, Application=application)
    assert instance["StateReason"] == Cause.STORAGE.value
    assert f"`{address}/a/p.tgz` was answered with status 404" in instance["StateDetailedReason"]
    assert "SECRET" not in str(instance)
    assert machine.commands == []


async def test_a_server_that_stumbles_is_asked_again(tmp_path: Path) -> None:
    asked: list[str] = []

    async def stumble(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(status=200 if len(asked) == fetching.TRIES else 503, body=b"package")

    async with web_server(stumble) as address:
        await fetch_http(f"{address}/p.tgz", tmp_path / "p", patience=EAGER)
    assert (tmp_path / "p").read_bytes() == b"package"
    assert len(asked) == fetching.TRIES


@pytest.mark.parametrize("status", [408, 429, 500])
async def test_a_server_that_cannot_now_is_asked_again(tmp_path: Path, status: int) -> None:
    asked: list[str] = []

    async def later(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(status=200 if len(asked) > 1 else status, body=b"package")

    async with web_server(later) as address:
        await fetch_http(f"{address}/p.tgz", tmp_path / "p", patience=EAGER)
    assert (tmp_path / "p").read_bytes() == b"package"


async def test_a_server_that_compresses_gives_the_archive_as_it_is(tmp_path: Path) -> None:
    archive = b"PK" + b"x" * 10_000

    async def compress(_: web.Request) -> web.StreamResponse:
        answer = web.Response(body=archive)
        answer.enable_compression()  # if the client says that it may
        return answer

    async with web_server(compress) as address:
        await fetch_http(f"{address}/p.zip", tmp_path / "p")
    assert (tmp_path / "p").read_bytes() == archive


async def test_a_package_that_is_fetched_does_not_take_the_last_room_of_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"package")

    monkeypatch.setattr(trees, "FLOOR_BYTES", 2**62)
    monkeypatch.setattr(trees, "FLOOR_PERCENT", 100)
    async with web_server(serve) as address:
        with pytest.raises(OSError, match="No space left on device"):
            await fetch_http(f"{address}/p.tgz", tmp_path / "p", patience=EAGER)
    assert (tmp_path / "p").read_bytes() == b""


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_package_over_the_bound_is_not_taken(tmp_path: Path, chunked: bool) -> None:
    async def serve(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        if chunked:
            answer.enable_chunked_encoding()
        else:
            answer.content_length = 1_000
        await answer.prepare(request)
        await answer.write(b"x" * 1_000)
        return answer

    async with web_server(serve) as address:
        with pytest.raises(StagingFailed, match="larger than 999 bytes"):
            await fetch_http(f"{address}/p.tgz", tmp_path / "p", bytes_max=999)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "/elsewhere"])
async def test_a_redirection_leads_to_no_other_kind_of_address(tmp_path: Path, target: str) -> None:
    async def redirect(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": target})

    async with web_server(redirect) as address:
        with pytest.raises(StagingFailed, match="cannot be fetched"):
            await fetch_http(f"{address}/p.tgz", tmp_path / "p", patience=EAGER)
    assert not (tmp_path / "p").exists()


async def test_limits_are_those_of_the_node(store: Store, tmp_path: Path) -> None:
    machine = Machine(tmp_path, lambda *_: 0)
    batch = Batch(store, machine, folder=tmp_path)
    gib = 2**30
    async with batch.scheduling():
        env_id = await batch.create_env(EnvData={"InstanceType": "S1.MEDIUM4"})
        on_env = await batch.submit(a_task(EnvId=env_id))
        options = {"EnvData": {"InstanceTypeOptions": {"CPU": 3, "Memory": 5}}}
        elastic = await batch.submit(a_task(ComputeEnv=options))
        for job_id in (on_env, elastic):
            assert await batch.until_state(job_id, *OVER) == "SUCCEED"
    limits = {launch.attempt_id.split(".")[0]: launch.limits for launch in machine.started}
    assert limits[elastic] == Limits(3, 5 * gib, PROCESSES_MAX)
    assert limits[on_env] == Limits(2, 4 * gib, PROCESSES_MAX)


async def test_each_instance_runs_its_own_of_several_commands(batch: Batch) -> None:
    lines = [{"Command": f"echo {number}"} for number in range(3)]
    task = a_task(instances=3, Application={"DeliveryForm": "LOCAL", "Commands": lines})
    async with batch.scheduling():
        await batch.submit(task)
        await eventually(lambda: _has_started(batch.engine, 3))
    found = {launch.attempt_id.split(".")[2]: launch.command for launch in batch.engine.started}
    assert found == {"0": "echo 0", "1": "echo 1", "2": "echo 2"}


async def _has_started(engine: FakeEngine, count: int) -> bool:
    return len(engine.started) == count


async def test_what_is_being_prepared_ends_on_request_and_never_starts(
    store: Store, tmp_path: Path
) -> None:
    put(tmp_path, "input/x")
    machine = Machine(tmp_path, lambda *_: 0)
    batch = Batch(store, machine, folder=tmp_path)
    batch.storage = far = FarStorage(tmp_path / "cos")
    async with batch.scheduling():
        job_id = await batch.submit(a_task(InputMappings=[INPUT]))
        await anyio.to_thread.run_sync(far.fetching.acquire)
        await batch.call("TerminateJob", JobId=job_id)
        assert await batch.until_state(job_id, *OVER) == "FAILED"
        attempt = machine.attempt_path(f"{job_id}/0/0.1")
        assert (attempt / "inputs").exists(), "what still writes there is not removed under it"
        far.open_.set()

        async def forgotten() -> bool:
            return f"{job_id}.0.0.1" in machine.acknowledged

        await eventually(forgotten)
        assert [each.name for each in attempt.iterdir()] == []
    [instance] = await batch.instances(job_id)
    assert instance["StateReason"] == Cause.TERMINATED.value
    assert machine.commands == []


async def test_a_preparation_that_a_crash_cut_short_begins_anew(
    store: Store, tmp_path: Path
) -> None:
    put(tmp_path, "input/x")

    def command(machine: Machine, launch: Launch) -> int:
        inputs = machine.seen_at(launch, "/data/input")
        assert [each.name for each in inputs.iterdir()] == ["x"]
        assert list(machine.work(launch).iterdir()) == []
        return 0

    machine = Machine(tmp_path, command)
    batch = Batch(store, machine, folder=tmp_path)
    batch.storage = far = FarStorage(tmp_path / "cos")

    async def open_at_the_crash() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            far.open_.set()

    async with anyio.create_task_group() as crash:
        crash.start_soon(open_at_the_crash)
        async with batch.scheduling():
            job_id = await batch.submit(a_task(InputMappings=[INPUT]))
            await anyio.to_thread.run_sync(far.fetching.acquire)
            attempt = machine.attempt_path(f"{job_id}/0/0.1")
            (attempt / "work" / "half").write_text("half a package")
            crash.cancel_scope.cancel()
            await anyio.sleep_forever()
    assert machine.commands == []
    batch.storage = FarStorage(tmp_path / "cos")
    batch.storage.open_.set()
    async with batch.scheduling():
        assert await batch.until_state(job_id, *OVER) == "SUCCEED"
    assert len(machine.commands) == 1


async def test_what_was_prepared_is_not_touched_by_a_second_start(tmp_path: Path) -> None:
    put(tmp_path, "input/x")
    task = {"Application": {"DeliveryForm": "LOCAL"}, "InputMappings": [INPUT]}
    order = Order(msgspec.convert(task, datatypes.Task), tmp_path / "attempts" / "a")
    preparer = Preparer(LocalStorage(tmp_path / "cos"), NfsRoot(tmp_path / "nfs"))
    first = await preparer.prepare(order)
    (order.attempt / "work" / "result").write_text("the command has run already")
    assert await preparer.prepare(order) == first
    assert first == (Mount(str(tmp_path / "cos" / BUCKET / "input"), "/data/input"),)
    assert (order.attempt / "work" / "result").exists()


async def test_only_so_many_are_prepared_at_once(store: Store, tmp_path: Path) -> None:
    put(tmp_path, "input/x")
    machine = Machine(tmp_path, lambda *_: 0)
    batch = Batch(store, machine, folder=tmp_path)
    batch.storage = far = FarStorage(tmp_path / "cos")
    async with batch.scheduling():
        held = await batch.submit(a_task(instances=AT_ONCE_OF_ONE + 4, InputMappings=[INPUT]))
        for _ in range(AT_ONCE_OF_ONE):
            await anyio.to_thread.run_sync(far.fetching.acquire)
        other = await batch.submit(a_task())
        assert await batch.until_state(other, *OVER) == "SUCCEED", "nobody else waits for them"
        far.open_.set()
        assert await batch.until_state(held, *OVER) == "SUCCEED"
    assert far.most_at_once == AT_ONCE_OF_ONE


async def test_a_failed_preparation_stays_failed_while_it_is_not_stored(
    store: Store, tmp_path: Path
) -> None:
    """Whoever says it again must not make a command run whose end is on its way."""
    machine = Machine(tmp_path, lambda *_: 0)
    batch = Batch(store, machine, folder=tmp_path)
    async with batch.scheduling():
        job_id = await batch.submit(a_task(instances=3, InputMappings=[INPUT]))
        machine.reconnect()
        put(tmp_path, "input/x")
        machine.reconnect()
        assert await batch.until_state(job_id, *OVER) in OVER
    for instance in await batch.instances(job_id):
        was_run = f"{job_id}.0.{instance['TaskInstanceIndex']}.1" in {
            launch.attempt_id for launch in machine.started
        }
        assert was_run == (instance["TaskInstanceState"] == "SUCCEED")


async def test_what_an_attempt_left_goes_once_it_is_stored_and_its_logs_stay(
    store: Store, tmp_path: Path
) -> None:
    put(tmp_path, "input/x")

    def command(machine: Machine, launch: Launch) -> int:
        deep = machine.work(launch) / "/".join(["d"] * 200)
        deep.mkdir(parents=True)
        return 0

    machine = Machine(tmp_path, command)
    batch = Batch(store, machine, folder=tmp_path)
    async with batch.scheduling():
        plain = await batch.submit(a_task())
        staged = await batch.submit(a_task(InputMappings=[INPUT]))

        async def forgotten() -> bool:
            return machine.acknowledged == {f"{plain}.0.0.1", f"{staged}.0.0.1"}

        await eventually(forgotten)
    for job_id in (plain, staged):
        folder = machine.attempt_path(f"{job_id}/0/0.1")
        assert sorted(each.name for each in folder.iterdir()) == ["stderr", "stdout"]
    assert (tmp_path / "cos" / BUCKET / "input" / "x").exists(), "the bucket is nobody's leftover"
