"""What is removed when its time is up: files of jobs that are long over or gone, client tokens.

The rows of a job stay until DeleteJob; DescribeTaskLogs then answers with empty logs. What a crash
left behind, the folders of jobs and nodes that no longer exist, is swept at the start and daily.
"""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from subprocess import SubprocessError
from typing import Any, Final

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus
from sqlalchemy import Select, bindparam, delete, select, update

from gateway.batch.engines import Engine
from gateway.batch.executor.removal import remove_trees
from gateway.batch.jobs import CLIENT_TOKEN_LIFE
from gateway.batch.tables import client_token, compute_node, job
from gateway.clock import Clock
from gateway.store import Moment, Store, StoreUnavailable, Tx
from gateway.telemetry import log

EVERY_S: Final = 600.0
SWEEP_EVERY: Final = timedelta(days=1)
PAGE: Final = 500
FILES_PAGE: Final = 50
DROPPED: Final = "dropped-"
"""How the folder of a job is called from when its time is up until it is removed."""
SET_ASIDE: Final = "batch_files_set_aside"
"""The signal that there is such a folder."""

JOBS_LONG_OVER = (
    select(job.c.id)
    .where(~job.c.files_dropped, job.c.ended_at < bindparam("before", type_=Moment))
    .order_by(job.c.ended_at, job.c.id)
    .limit(FILES_PAGE)
    .offset(bindparam("failed"))
)
LOCK_JOB_LONG_OVER = (
    select(job.c.id)
    .where(
        job.c.id == bindparam("job_id"),
        ~job.c.files_dropped,
        job.c.ended_at < bindparam("before", type_=Moment),
    )
    .with_for_update()
)
MARK_DROPPED = update(job).where(job.c.id == bindparam("of_job")).values(files_dropped=True)
LAST_OF_OLD_TOKENS = (
    select(client_token.c.created_at)
    .where(client_token.c.created_at < bindparam("before", type_=Moment))
    .order_by(client_token.c.created_at)
    .limit(1)
    .offset(bindparam("behind"))
)
DROP_TOKENS = delete(client_token).where(
    client_token.c.created_at < bindparam("before", type_=Moment)
)
DROP_TOKENS_UNTIL = delete(client_token).where(
    client_token.c.created_at <= bindparam("until", type_=Moment)
)
JOBS_THERE = select(job.c.id).where(job.c.id.in_(bindparam("ids", expanding=True)))
NODES_THERE = select(compute_node.c.id).where(
    compute_node.c.id.in_(bindparam("ids", expanding=True))
)


async def run(
    store: Store,
    engine: Engine,
    *,
    keep_days: int,
    clock: Clock,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Remove what is old for ever. keep_days: of logs, after the end of their job; 0: no end."""
    task_status.started()
    swept_at: datetime | None = None
    due_s = anyio.current_time()
    while True:
        seen = store.signals.count(SET_ASIDE)
        now = clock()
        await _is_done(remove_set_aside(engine))
        if anyio.current_time() >= due_s:
            due_s = anyio.current_time() + EVERY_S
            if keep_days:
                await _is_done(drop_files(store, engine, before=now - timedelta(days=keep_days)))
            await _is_done(drop_tokens(store, before=now - CLIENT_TOKEN_LIFE))
            if swept_at is None or now - swept_at >= SWEEP_EVERY:
                swept_at = now if await _is_done(sweep(store, engine)) else None
        rest_s = max(0.0, due_s - anyio.current_time())
        await store.signals.wait(SET_ASIDE, seen=seen, at_most_s=rest_s)


async def _is_done(duty: Awaitable[object]) -> bool:
    """Do one duty; False if it failed, which keeps no other from being done."""
    try:
        await duty
    except (StoreUnavailable, OSError, SubprocessError) as error:
        log.warning("retention_failed", error=str(error), retry_s=EVERY_S)
        return False
    return True


def set_aside(engine: Engine, job_id: str) -> None:
    """Take the folder of a job that is gone out of the way, to be removed later; blocks.

    Why no error: the job is gone whatever becomes of its files, and the sweep finds them.
    """
    try:
        engine.attempt_path(job_id).rename(engine.attempt_path(f"{DROPPED}{job_id}"))
    except FileNotFoundError:
        pass  # nothing of it ever ran
    except OSError as error:
        log.warning("files_not_set_aside", job_id=job_id, error=str(error))


async def remove_set_aside(engine: Engine) -> None:
    """Remove every folder that was set aside. One that cannot be removed holds nobody up."""
    names = await anyio.to_thread.run_sync(_names_in, engine.attempt_path("job").parent, DROPPED)
    for name in names:
        await _discard(engine, name)


async def _discard(engine: Engine, folder: str) -> None:
    try:
        await engine.discard(folder)
    except (OSError, SubprocessError) as error:
        log.warning("files_not_removed", folder=folder, error=str(error))


async def drop_files(store: Store, engine: Engine, *, before: datetime) -> int:
    """Remove the logs and folders of jobs that were over before a time; returns of how many.

    One whose folder cannot be moved out of the way is passed over, and tried again the next time.
    """
    count = failed = 0
    while True:
        keys = {"before": before, "failed": failed}
        rows = await store.read_list(partial(_long_over, keys=keys))
        for job_id in rows:
            await _discard(engine, f"{DROPPED}{job_id}")  # of an earlier life, if there is one
            try:
                dropped = await store.write(_drop_one(engine, job_id, before=before))
            except OSError as error:
                failed += 1
                log.warning("files_not_dropped", job_id=job_id, error=str(error))
                continue
            if dropped:
                await _discard(engine, f"{DROPPED}{job_id}")
                count += 1
        if len(rows) < FILES_PAGE:
            break
    if count:
        log.info("files_dropped", jobs=count)
    return count


def _long_over(tx: Tx, *, keys: Mapping[str, object]) -> Sequence[str]:
    return tx.execute(JOBS_LONG_OVER, keys).scalars().all()


def _drop_one(engine: Engine, job_id: str, *, before: datetime) -> Callable[[Tx], bool]:
    """The transaction that takes one job's folder away.

    Why by another name, inside of it: whoever retries the job needs its row, and so never finds a
    folder that is about to be removed.
    """

    def drop(tx: Tx) -> bool:
        keys = {"job_id": job_id, "before": before}
        if tx.execute(LOCK_JOB_LONG_OVER, keys).first() is None:
            return False
        folder = engine.attempt_path(job_id)
        if folder.exists():
            folder.rename(engine.attempt_path(f"{DROPPED}{job_id}"))
        tx.execute(MARK_DROPPED, {"of_job": job_id})
        return True

    return drop


async def drop_tokens(store: Store, *, before: datetime) -> None:
    """Forget the client tokens that were given before a time, a page a transaction."""

    def drop(tx: Tx) -> bool:
        keys = {"before": before, "behind": PAGE - 1}
        until = tx.execute(LAST_OF_OLD_TOKENS, keys).scalar_one_or_none()
        if until is None:
            tx.execute(DROP_TOKENS, {"before": before})
            return False
        tx.execute(DROP_TOKENS_UNTIL, {"until": until})
        return True

    while await store.write(drop):
        pass


async def sweep(store: Store, engine: Engine) -> int:
    """Remove the folders of jobs and nodes that are not there any more; returns how many.

    Listed first and looked up after: a row is always there before its folder. That they are this
    database's folders is made sure of before anything starts, see `gateway/installation.py`.
    """
    jobs = engine.attempt_path("job").parent
    nodes = engine.node_path("node").parent
    gone = [
        *await _without_row(store, jobs, statement=JOBS_THERE),
        *await _without_row(store, nodes, statement=NODES_THERE),
    ]
    await anyio.to_thread.run_sync(remove_trees, gone)
    if gone:
        log.info("leftovers_removed", folders=len(gone))
    return len(gone)


async def _without_row(store: Store, folder: Path, *, statement: Select[Any]) -> list[Path]:
    """The folders in a folder that have no row, by their names."""
    names = await anyio.to_thread.run_sync(_names_in, folder)
    gone = []
    for begin in range(0, len(names), PAGE):
        page = names[begin : begin + PAGE]
        there = await store.read_list(partial(_present, statement=statement, ids=page))
        gone += [folder / name for name in page if name not in there]
    return gone


def _present(tx: Tx, *, statement: Select[Any], ids: Sequence[str]) -> set[str]:
    return set(tx.execute(statement, {"ids": ids}).scalars())


def _names_in(folder: Path, prefix: str = "") -> Sequence[str]:
    try:
        with os.scandir(folder) as found:
            return sorted(
                each.name for each in found if each.name.startswith(prefix) and each.is_dir()
            )
    except FileNotFoundError:
        return []
