"""Slow servers, large archives and busy accounts: how long they can hold up whom."""

import gzip
import tarfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from aiohttp import web
from anyio.abc import SocketStream

from gateway.batch import datatypes
from gateway.batch.reasons import STARTING
from gateway.batch.staging import StagingFailed, fetching
from gateway.batch.staging.archives import FETCHES_MAX, FETCHES_OF_ONE
from gateway.batch.staging.fetching import Patience, fetch_http
from gateway.batch.staging.places import Order
from gateway.batch.staging.preparing import AT_ONCE, AT_ONCE_OF_ONE, TO_WAIT, Preparer
from gateway.batch.staging.shares import Shares
from gateway.batch.storage.local import LocalStorage
from gateway.batch.storage.nfs import NfsRoot
from gateway.call import Principal
from gateway.store import Store
from tests.support.batch import ZONE, Batch, a_job, a_task, eventually
from tests.support.staging import COS, FarStorage, Machine, package, put, web_server

pytestmark = pytest.mark.anyio
OTHER = Principal("200000000009", "200000000009", "root")
OVER = ("SUCCEED", "FAILED")
INPUT = {"SourcePath": f"{COS}input/", "DestinationPath": "/data/input/"}


def of_package(url: str) -> dict[str, Any]:
    application = {"DeliveryForm": "PACKAGE", "PackagePath": url, "Command": "true"}
    return {"Application": application}


def order(root: Path, url: str, *, task: int = 0, number: int = 0, owner: str = "1") -> Order:
    """What an instance of a task asks for."""
    spec = msgspec.convert(of_package(url), datatypes.Task)
    attempt = root / "attempts" / str(task) / f"{number}.1"
    attempt.parent.mkdir(parents=True, exist_ok=True)
    return Order(spec, attempt, owner_uin=owner)


def preparer(root: Path, **options: Any) -> Preparer:
    return Preparer(LocalStorage(root / "cos"), NfsRoot(root / "nfs"), **options)


async def run_for_another(batch: Batch, job: dict[str, Any]) -> None:
    """Submit a job for another account, and wait until it has succeeded."""
    answer = await batch.call("SubmitJob", who=OTHER, Placement={"Zone": ZONE}, Job=job)

    async def succeeded() -> bool:
        shown = await batch.call("DescribeJob", who=OTHER, JobId=answer["JobId"])
        return bool(shown["JobState"] == "SUCCEED")

    await eventually(succeeded)


@pytest.mark.parametrize(
    ("tasks", "instances"), [(FETCHES_MAX + 1, 1), (1, FETCHES_MAX + 1)], ids=["tasks", "instances"]
)
async def test_packages_that_never_come_hold_up_nobody_elses(
    store: Store, tmp_path: Path, tasks: int, instances: int
) -> None:
    never = anyio.Event()
    asked: list[str] = []

    async def serve(request: web.Request) -> web.StreamResponse:
        if request.path != "/good.tgz":
            asked.append(request.path)
            await never.wait()
        return web.Response(body=package(x=b"x"))

    machine = Machine(tmp_path, lambda *_: 0)
    machine.capacity = 2 * FETCHES_MAX
    batch = Batch(store, machine, folder=tmp_path)
    async with web_server(serve) as address, batch.scheduling():
        slow = [
            a_task(f"t{number}", instances, **of_package(f"{address}/{number}.tgz"))
            for number in range(tasks)
        ]
        held = await batch.submit(*slow)

        async def are_held() -> bool:
            return len(asked) >= min(tasks, FETCHES_OF_ONE)

        await eventually(are_held)
        job = a_job(a_task(**of_package(f"{address}/good.tgz")))
        await run_for_another(batch, job)
        assert len(asked) == min(tasks, FETCHES_OF_ONE), "the account has no more than its share"
        never.set()
        assert await batch.until_state(held, *OVER) == "SUCCEED"


async def reasons_of(batch: Batch, job_id: str, task: str = "a") -> list[str]:
    return [each["StateReason"] for each in await batch.instances(job_id, task)]


async def until_said(batch: Batch, job_id: str, reasons: dict[str, int]) -> None:
    """Wait until so many instances of the only task give each of these reasons."""

    async def are_said() -> bool:
        return Counter(await reasons_of(batch, job_id)) == reasons

    await eventually(are_said)


async def test_who_waits_for_the_turn_of_its_package_says_so_as_do_all_who_want_it(
    store: Store, tmp_path: Path
) -> None:
    never = anyio.Event()

    async def serve(request: web.Request) -> web.StreamResponse:
        await never.wait()
        return web.Response(body=package(x=b"x"))

    machine = Machine(tmp_path, lambda *_: 0)
    machine.capacity = 2 * FETCHES_MAX
    batch = Batch(store, machine, folder=tmp_path)
    async with web_server(serve) as address, batch.scheduling():
        tasks = [a_task(f"t{n}", 3, **of_package(f"{address}/{n}.tgz")) for n in range(10)]
        job_id = await batch.submit(*tasks)

        async def is_said() -> bool:
            found = [await reasons_of(batch, job_id, f"t{number}") for number in range(10)]
            words = [STARTING] * FETCHES_OF_ONE + [TO_WAIT] * (10 - FETCHES_OF_ONE)
            return sorted(map(sorted, found)) == sorted([each] * 3 for each in words)

        await eventually(is_said)
        never.set()
        assert await batch.until_state(job_id, *OVER) == "SUCCEED"


async def test_inputs_that_take_long_hold_up_nobody_elses(store: Store, tmp_path: Path) -> None:
    put(tmp_path, "input/x")
    put(tmp_path, "p.tgz", package(x=b"x"))
    batch = Batch(store, Machine(tmp_path, lambda *_: 0), folder=tmp_path)
    batch.storage = far = FarStorage(tmp_path / "cos")
    async with batch.scheduling():
        held = await batch.submit(a_task(instances=AT_ONCE, InputMappings=[INPUT]))
        for _ in range(AT_ONCE_OF_ONE):
            await anyio.to_thread.run_sync(far.fetching.acquire)
        job = a_job(a_task(**of_package(f"{COS}p.tgz")))
        await run_for_another(batch, job)
        ready = {STARTING: AT_ONCE_OF_ONE, TO_WAIT: AT_ONCE - AT_ONCE_OF_ONE}
        await until_said(batch, held, ready)
        far.open_.set()
        assert await batch.until_state(held, *OVER) == "SUCCEED"
    await until_said(batch, held, {"": AT_ONCE})


async def test_who_has_to_wait_for_a_place_is_told_whoever_has_it() -> None:
    shares, told, leave = Shares(3, of_one=2), list[tuple[str, bool]](), anyio.Event()

    async def stay(owner: str) -> None:
        async with shares.place(owner, waits=lambda is_so: told.append((owner, is_so))):
            await leave.wait()

    async with anyio.create_task_group() as tasks:
        for owner in ("1", "2", "1", "2", "1"):
            tasks.start_soon(stay, owner)
        await anyio.wait_all_tasks_blocked()
        assert sorted(told) == [("1", True), ("2", True)]
        leave.set()
    assert sorted(told) == [("1", False), ("1", True), ("2", False), ("2", True)]


async def test_who_stops_waiting_for_a_place_leaves_it_to_others() -> None:
    shares = Shares(2, of_one=1)
    async with shares.place("1"), shares.place("2"):
        for owner in ("1", "3"):
            with anyio.move_on_after(0.01) as waited:
                await shares.take(owner)
            assert waited.cancelled_caught
    async with shares.place("1"), shares.place("3"):
        pass


EAGER = Patience(fetch_s_max=6, answer_s_max=0.2, portion_s_max=0.2, pause_s=0)


async def test_a_server_that_dribbles_is_given_up(tmp_path: Path) -> None:
    asked: list[str] = []

    async def dribble(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x")
            await anyio.sleep(0.01)

    async with web_server(dribble) as address:
        with pytest.raises(StagingFailed, match="too slow"):
            await fetch_http(f"{address}/p.tgz", tmp_path / "p", patience=EAGER)
    assert len(asked) == fetching.TRIES


@asynccontextmanager
async def dribbled_headers() -> AsyncIterator[str]:
    """A server that never comes to the end of what it says of its answer."""

    async def dribble(stream: SocketStream) -> None:
        async with stream:
            try:
                await stream.send(b"HTTP/1.1 200 OK\r\nX: ")
                while True:
                    await stream.send(b"x")
                    await anyio.sleep(0.01)
            except anyio.BrokenResourceError:
                return

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = int(listener.extra_attributes[anyio.abc.SocketAttribute.local_port]())
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, dribble)
        yield f"http://127.0.0.1:{port}"
        tasks.cancel_scope.cancel()


async def test_a_server_that_dribbles_its_headers_is_given_up(tmp_path: Path) -> None:
    async with dribbled_headers() as address:
        with pytest.raises(StagingFailed, match="too slow"):
            await fetch_http(f"{address}/p.tgz", tmp_path / "p", patience=EAGER)


async def test_all_tries_together_have_their_time(tmp_path: Path) -> None:
    patience = Patience(fetch_s_max=0.2)
    async with dribbled_headers() as address:
        with pytest.raises(StagingFailed, match=r"took over 0\.2 s"):
            await fetch_http(f"{address}/p.tgz", tmp_path / "p", patience=patience)


def bomb() -> bytes:
    """A small archive with 64 GiB in it that are not written, as the package's folder itself."""
    info = tarfile.TarInfo(".")
    info.size = 64 * 2**30
    return gzip.compress(info.tobuf()) + gzip.compress(b"\0" * 2**24, 9) * 400


async def test_unpacking_has_its_time(tmp_path: Path) -> None:
    put(tmp_path, "bomb.tgz", bomb())
    wanted = order(tmp_path, f"{COS}bomb.tgz")
    with pytest.raises(StagingFailed, match=r"takes over 0\.2 s to unpack"):
        await preparer(tmp_path, unpack_s_max=0.2).prepare(wanted)


@asynccontextmanager
async def prepared(
    preparing: Preparer, *wanted: Order, until: Callable[[], bool]
) -> AsyncIterator[list[BaseException | None]]:
    """Prepare several at once; gives how each ended, once all have. until: when to go on."""
    ends: list[BaseException | None] = []

    async def prepare(each: Order) -> None:
        try:
            await preparing.prepare(each)
            ends.append(None)
        except OSError as error:
            ends.append(error)

    async def reached() -> bool:
        return until()

    async with anyio.create_task_group() as tasks:
        for each in wanted:
            tasks.start_soon(prepare, each)
        await eventually(reached)
        yield ends


@pytest.mark.parametrize("status", [200, 404])
async def test_a_package_is_fetched_once_for_the_instances_that_wait_for_it(
    tmp_path: Path, status: int
) -> None:
    go_on = anyio.Event()
    asked: list[str] = []

    async def serve(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        await go_on.wait()
        return web.Response(status=status, body=package(x=b"x"))

    async with web_server(serve) as address:
        wanted = [order(tmp_path, f"{address}/p.tgz", number=number) for number in range(5)]
        works = [each.attempt / "work" for each in wanted]

        def all_wait() -> bool:
            return bool(asked) and all(work.exists() for work in works)

        async with prepared(preparer(tmp_path), *wanted, until=all_wait) as ends:
            go_on.set()
    assert asked == ["/p.tgz"]
    if status == 200:
        assert ends == [None] * 5
        files = [work / "codepkg/x" for work in works]
        assert [file.read_bytes() for file in files] == [b"x"] * 5
        assert len({file.stat().st_ino for file in files}) == 5, "what one changes is its own"
        assert sorted(each.name for each in wanted[0].attempt.iterdir()) == ["staged.json", "work"]
    else:
        assert [str(each) for each in ends] == [str(ends[0])] * 5
        assert "status 404" in str(ends[0])


async def test_a_package_is_fetched_for_the_others_if_the_first_is_cancelled(
    tmp_path: Path,
) -> None:
    asked: list[str] = []

    async def serve(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        if len(asked) == 1:
            await anyio.sleep_forever()
        return web.Response(body=package(x=b"x"))

    preparing, first = preparer(tmp_path), anyio.CancelScope()

    async def prepare_first() -> None:
        with first:
            await preparing.prepare(order(tmp_path, f"{address}/p.tgz", number=0))

    async def is_fetched() -> bool:
        return bool(asked)

    async with web_server(serve) as address, anyio.create_task_group() as tasks:
        tasks.start_soon(prepare_first)
        await eventually(is_fetched)
        second = order(tmp_path, f"{address}/p.tgz", number=1)
        async with prepared(preparing, second, until=(second.attempt / "work").exists) as ends:
            first.cancel()
    assert ends == [None]
    assert (second.attempt / "work/codepkg/x").read_bytes() == b"x"


async def test_what_cannot_be_had_now_is_tried_again_by_whoever_comes_later(
    tmp_path: Path,
) -> None:
    preparing = preparer(tmp_path)
    with pytest.raises(OSError, match=r"p\.tgz"):
        await preparing.prepare(order(tmp_path, f"{COS}p.tgz", number=0))
    put(tmp_path, "p.tgz", package(x=b"x"))
    later = order(tmp_path, f"{COS}p.tgz", number=1)
    await preparing.prepare(later)
    assert (later.attempt / "work/codepkg/x").exists()
