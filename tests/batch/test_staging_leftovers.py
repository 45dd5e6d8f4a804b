"""What goes when its time is up: logs of old jobs, folders of what is gone, client tokens."""

import errno
import shutil
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import anyio
import pytest
from sqlalchemy import func, select, update

from gateway import clock
from gateway.batch.retention import (
    DROPPED,
    JOBS_LONG_OVER,
    PAGE,
    drop_files,
    drop_tokens,
    remove_set_aside,
    run,
    sweep,
)
from gateway.batch.tables import client_token, job
from gateway.store import Store
from tests.support.batch import OWNER, REGION, START, Batch, a_task, eventually
from tests.support.staging import Machine

pytestmark = pytest.mark.anyio
OVER = ("SUCCEED", "FAILED")
EMPTY_LOG = "data:text/plain;charset=utf-8;base64,"
DAY = timedelta(days=1)


async def ended_job(batch: Batch, *, at: datetime) -> str:
    """A job that ended at a time of one's choice."""
    async with batch.scheduling():
        job_id = await batch.submit()
        await batch.until_state(job_id, *OVER)
    values = update(job).where(job.c.id == job_id).values(ended_at=at)
    await batch.store.write(lambda tx: tx.execute(values))
    return job_id


async def stdout(batch: Batch, job_id: str) -> str:
    answer = await batch.call("DescribeTaskLogs", JobId=job_id, TaskName="a")
    return str(answer["TaskInstanceLogSet"][0]["StdoutLog"])


async def test_logs_go_some_days_after_the_end_and_read_empty_from_then_on(
    store: Store, tmp_path: Path
) -> None:
    engine = Machine(tmp_path, lambda *_: 0)
    batch = Batch(store, engine, folder=tmp_path)
    old = await ended_job(batch, at=START)
    young = await ended_job(batch, at=START + 2 * DAY)
    assert await drop_files(store, engine, before=START + DAY) == 1
    assert await drop_files(store, engine, before=START + DAY) == 0
    assert await stdout(batch, old) == EMPTY_LOG
    assert await stdout(batch, young) != EMPTY_LOG
    assert await batch.state(old) == "SUCCEED", "its rows stay"
    assert [each.name for each in (tmp_path / "attempts").iterdir()] == [young]


async def test_a_job_that_is_retried_is_not_old_any_more(store: Store, tmp_path: Path) -> None:
    engine = Machine(tmp_path, lambda *_: 1)
    batch = Batch(store, engine, folder=tmp_path)
    job_id = await ended_job(batch, at=START)
    assert await drop_files(store, engine, before=START + DAY) == 1
    await batch.call("RetryJobs", JobIds=[job_id])
    assert await drop_files(store, engine, before=START + DAY) == 0
    async with batch.scheduling():
        await batch.until_state(job_id, *OVER)
    assert await stdout(batch, job_id) != EMPTY_LOG
    assert await drop_files(store, engine, before=clock.now() + DAY) == 1, "its second life, too"
    assert await stdout(batch, job_id) == EMPTY_LOG


class Stuck(Machine):
    """An engine that can remove nothing that was set aside."""

    async def discard(self, folder: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("page", [1, 50])
async def test_a_folder_that_cannot_be_moved_holds_up_no_other(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr("gateway.batch.retention.FILES_PAGE", page)
    monkeypatch.setattr("gateway.batch.retention.JOBS_LONG_OVER", JOBS_LONG_OVER.limit(page))
    engine = Stuck(tmp_path, lambda *_: 0)
    batch = Batch(store, engine, folder=tmp_path)
    ends = [START + timedelta(seconds=number) for number in range(4)]
    bad, good, worse, better = [await ended_job(batch, at=at) for at in ends]
    for job_id in (bad, worse):
        (tmp_path / "attempts" / f"{DROPPED}{job_id}" / "0").mkdir(parents=True)
    assert await drop_files(store, engine, before=START + DAY) == 2
    there = {each.name for each in (tmp_path / "attempts").iterdir()}
    assert there.isdisjoint({good, better})
    assert {bad, worse} <= there
    able = Machine(tmp_path, lambda *_: 0)
    assert await drop_files(store, able, before=START + DAY) == 2, "tried again the next time"


async def test_a_duty_that_fails_keeps_no_other_from_being_done(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Machine(tmp_path, lambda *_: 0)
    attempts = tmp_path / "attempts"
    (attempts / "job-deleted0").mkdir(parents=True)

    async def fail(*_: object, **__: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    for duty in ("remove_set_aside", "drop_files", "drop_tokens"):
        monkeypatch.setattr(f"gateway.batch.retention.{duty}", fail)

    async def is_swept() -> bool:
        return list(attempts.iterdir()) == []

    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(run, store, engine, keep_days=1, clock=clock.now))
        await eventually(is_swept)
        tasks.cancel_scope.cancel()


async def test_what_crashes_left_is_swept_and_what_is_there_stays(
    store: Store, tmp_path: Path
) -> None:
    engine = Machine(tmp_path, lambda *_: 0)
    batch = Batch(store, engine, folder=tmp_path)
    job_id = await ended_job(batch, at=START)
    async with batch.scheduling():
        env_id = await batch.create_env(MountDataDisks=[{"LocalPath": "/disk"}])
        on_env = await batch.submit(a_task(EnvId=env_id))
        await batch.until_state(on_env, *OVER)
    attempts, nodes = tmp_path / "attempts", tmp_path / "nodes"
    [node] = nodes.iterdir()
    for leftover in ("job-deleted0", f"{DROPPED}{job_id}"):
        (attempts / leftover / "0/0/1/work").mkdir(parents=True)
    (nodes / "node-deleted" / "disks" / "x").mkdir(parents=True)
    assert await sweep(store, engine) == 3
    assert {each.name for each in attempts.iterdir()} == {job_id, on_env}
    assert list(nodes.iterdir()) == [node]
    assert await sweep(store, engine) == 0


async def test_a_deleted_jobs_files_go_in_the_background(store: Store, tmp_path: Path) -> None:
    engine = Machine(tmp_path, lambda *_: 0)
    batch = Batch(store, engine, folder=tmp_path)
    deleted, kept = [await ended_job(batch, at=clock.now()) for _ in range(2)]
    attempts = tmp_path / "attempts"
    await batch.call("DeleteJob", JobId=deleted)
    aside = [f"{DROPPED}{deleted}", kept]
    assert sorted(each.name for each in attempts.iterdir()) == aside, "nothing was removed yet"

    async def only_one_is_left() -> bool:
        return [each.name for each in attempts.iterdir()] == [kept]

    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(run, store, engine, keep_days=0, clock=clock.now))
        await eventually(only_one_is_left)
        again = await ended_job(batch, at=clock.now())
        await batch.call("DeleteJob", JobId=again)  # it is told, and does not wait for its hour
        await eventually(only_one_is_left)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("obstacle", ["not-empty", "no-file"])
async def test_a_job_is_deleted_whatever_becomes_of_its_files(
    store: Store, tmp_path: Path, obstacle: str
) -> None:
    engine = Machine(tmp_path, lambda *_: 0)
    batch = Batch(store, engine, folder=tmp_path)
    job_id = await ended_job(batch, at=clock.now())
    attempts = tmp_path / "attempts"
    if obstacle == "not-empty":
        (attempts / f"{DROPPED}{job_id}" / "0").mkdir(parents=True)
    else:
        shutil.rmtree(attempts / job_id)
    assert await batch.call("DeleteJob", JobId=job_id) == {}
    await remove_set_aside(engine)
    await sweep(store, engine)
    assert list(attempts.iterdir()) == []


async def test_a_sweep_of_an_engine_that_never_ran_anything_finds_nothing(
    store: Store, tmp_path: Path
) -> None:
    assert await sweep(store, Machine(tmp_path / "new", lambda *_: 0)) == 0


async def test_client_tokens_are_forgotten_when_they_are_old(store: Store) -> None:
    def row(number: int, *, at: datetime) -> dict[str, object]:
        names = {"owner_uin": OWNER, "uin": OWNER, "region": REGION, "action": "SubmitJob"}
        made = {"request_sha256": "", "made_id": "job-00000001", "created_at": at}
        return {**names, **made, "token": str(number)}

    old = [row(number, at=START + timedelta(seconds=number)) for number in range(2 * PAGE + 3)]
    young = row(-1, at=START + 2 * DAY)
    await store.write(lambda tx: tx.execute(client_token.insert(), [*old, young]))
    await drop_tokens(store, before=START + DAY)
    count = select(func.count()).select_from(client_token)
    assert await store.read_list(lambda tx: tx.execute(count).scalar_one()) == 1
