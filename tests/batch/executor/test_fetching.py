"""While the image of a container is fetched its command does not run, and is not said to."""

import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

from gateway.batch.engines import Cause, Container, Launch, Started
from gateway.batch.engines.line import Line, dial
from gateway.batch.engines.local import LocalEngine
from gateway.batch.executor import container_run, frames
from gateway.batch.executor.container_run import NotFetched, fetch_image
from gateway.batch.executor.containers import Task
from gateway.batch.executor.folders import SCRATCH
from gateway.clock import now
from tests.batch.executor.executors import (
    WAIT_S_MAX,
    kill_process,
    local_engine,
    processes_that_say,
    until,
)
from tests.support.attempts import Watch, launch
from tests.support.images import ImageStore, registry

USER, PASSWORD = "puller", "p4ss-w0rd-of-the-registry"
# Nothing answers there, and it is asked again only after an hour.
ABSENT = Container("127.0.0.1:1/absent:1", retries=100, retry_s=3_600)


@pytest.fixture
async def engine(root: Path, store: ImageStore) -> AsyncIterator[LocalEngine]:
    store.write_settings(root)
    async with local_engine(root, isolation="sandbox") as opened:
        yield opened
    assert store.containers() == []


def fetching(command: str = "echo ran") -> Launch:
    """A launch whose image does not come."""
    return replace(launch(command), container=ABSENT)


async def heard_on(line: Line) -> frames.FromExecutor:
    """The only frame that comes next."""
    with anyio.fail_after(WAIT_S_MAX):
        [frame] = await line.receive()
    return frame


@pytest.mark.anyio
async def test_what_fetches_its_image_is_not_told_to_run(engine: LocalEngine, root: Path) -> None:
    """Yet that it is known is told: who hears nothing after a start would raise an alarm."""
    attempt = fetching()
    line = await dial(root)
    await line.send(frames.encode(frames.Hello(isolation="sandbox")))
    assert isinstance(await heard_on(line), frames.Welcome)
    for _ in range(2):
        await line.send(frames.encode(frames.Start(launches=[attempt])))
        assert await heard_on(line) == frames.Facts()
    await line.send(frames.encode(frames.Stop(attempt_ids=[attempt.attempt_id])))
    facts = await heard_on(line)
    line.cut()
    assert isinstance(facts, frames.Facts)
    assert facts.started == []
    [ended] = facts.ended
    assert (ended.cause, ended.started) == (Cause.TERMINATED, False)


def fetchers(engine: LocalEngine, attempt: Launch) -> list[int]:
    """The process that fetches the image of an attempt, if it is there."""
    work = str(engine.attempt_path(attempt.folder) / "work")
    found = processes_that_say("gateway.batch.executor.container_run")
    return [pid for pid in found if os.readlink(f"/proc/{pid}/cwd") == work]


@pytest.mark.anyio
@pytest.mark.parametrize("victim", ["executor", "fetcher"])
async def test_what_dies_while_its_image_is_fetched_is_lost_and_never_ran(
    engine: LocalEngine, victim: str
) -> None:
    attempt = fetching()
    watch = Watch(engine)
    await engine.start([attempt])
    await until(lambda: fetchers(engine, attempt) != [])
    [fetcher] = fetchers(engine, attempt)
    kill_process(fetcher if victim == "fetcher" else engine.executor_pid)
    [ended] = await watch.ended([attempt])
    assert (ended.cause, ended.exit_code, ended.started) == (Cause.INFRA_LOST, None, False)
    assert not any(isinstance(each, Started) for each in watch.heard)


@pytest.mark.anyio
async def test_the_time_that_an_image_takes_to_come_is_not_the_commands(
    engine: LocalEngine, store: ImageStore
) -> None:
    with registry(user=USER, password=PASSWORD) as served:
        served.failures = 1
        container = Container(served.image, user=USER, password=PASSWORD, retries=1, retry_s=1)
        attempt = replace(launch("echo ran", timeout_s=1), container=container)
        watch = Watch(engine)
        begin = now()
        await engine.start([attempt])
        [ended] = await watch.ended([attempt])
        store.podman("rmi", served.image)
    assert ended.cause is None
    [started] = [each for each in watch.heard if isinstance(each, Started)]
    assert started.at - begin > timedelta(seconds=1)
    assert begin < started.at < ended.at


def test_an_image_that_does_not_come_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_run, "FETCH_S_MAX", 0.05)
    (tmp_path / SCRATCH).mkdir()
    endless = ("/bin/sh", "-c", "exec sleep 1000", "podman")
    task = Task(endless, True, "a", ("b.c/d:1",), (), (), str(tmp_path), str(tmp_path / "notes"))
    with pytest.raises(NotFetched, match=r"not there after 0\.05 s"):
        fetch_image(task)
