"""The auditor at work: it sees what is wrong, whatever changes, and that it is mended."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest
from sqlalchemy import delete, insert, select, update

from gateway.batch.auditing.auditor import Auditor, Pace
from gateway.batch.tables import job
from gateway.cmq import completeness
from gateway.cmq.tables import delivery
from gateway.events import ledger
from gateway.events.tables import event
from gateway.store import Store
from gateway.telemetry import LEDGER_DISCREPANCIES
from tests.support.batch import Batch, Turns, a_task, eventually
from tests.support.cmq import Cmq

pytestmark = pytest.mark.anyio


@pytest.fixture
async def cmq(store: Store) -> Cmq:
    """A queue that is subscribed to the topic since long ago."""
    cmq = Cmq(store, None)
    await cmq.subscribe_queue()
    cmq.pass_time(hours=1)
    return cmq


def discrepancies() -> float:
    """What the metric says now."""
    [metric] = LEDGER_DISCREPANCIES.collect()
    return metric.samples[0].value


QUICK = Pace(look_every_s=0.01, settle_s=0.01, share=1.0)


@asynccontextmanager
async def auditing(store: Store, *, pace: Pace = QUICK) -> AsyncIterator[None]:
    """An auditor that runs meanwhile, and does not rest."""
    LEDGER_DISCREPANCIES.set(0)
    watching = Auditor(store, deliveries=completeness, pace=pace)
    async with anyio.create_task_group() as tasks:
        await tasks.start(watching.run)
        yield
        tasks.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    async def holds() -> bool:
        return condition()

    await eventually(holds)


async def test_the_auditor_finds_what_was_there_before_it_and_sees_it_mended(
    store: Store, batch: Batch
) -> None:
    job_id = await batch.submit(a_task("a", 2))
    await Turns(store, job_id).run()
    go_back = update(job).where(job.c.id == job_id).values(state="RUNNING")
    await store.write(lambda tx: tx.execute(go_back))
    async with auditing(store):
        await until(lambda: discrepancies() == 1)
        mend = update(job).where(job.c.id == job_id).values(state="SUCCEED")
        await store.write(lambda tx: tx.execute(mend))
        await until(lambda: discrepancies() == 0)


async def test_the_auditor_looks_at_what_changes_without_waiting_for_its_turn(
    store: Store, batch: Batch
) -> None:
    job_id = await batch.submit(a_task("a"))
    turns = Turns(store, job_id)
    placed = await turns.turn(slots=1)
    first = delete(event).where(event.c.stream_id == job_id, event.c.seq == 1)
    await store.write(lambda tx: tx.execute(first))
    settled = await store.read_list(ledger.find_settled)
    async with auditing(store, pace=replace(QUICK, swept_at_once=0)):
        watched = await batch.submit(a_task("a"))
        await Turns(store, watched).run()
        await turns.turn(*map(turns.ended, placed))
        await until(lambda: discrepancies() > 0)
    assert await store.read_list(ledger.find_settled) > settled


async def test_what_users_published_and_nobody_got_counts_until_it_is_mended(
    store: Store, cmq: Cmq
) -> None:
    for number in range(3):
        await cmq.call("PublishCmqMsg", TopicName="job-message", MsgContent=str(number))
    await cmq.expand()
    rows = await store.read_list(lambda tx: tx.execute(select(delivery)).mappings().all())
    await store.write(lambda tx: tx.execute(delete(delivery)))
    async with auditing(store):
        await until(lambda: discrepancies() == 3)
        await store.write(lambda tx: tx.execute(insert(delivery), [dict(row) for row in rows]))
        await until(lambda: discrepancies() == 0)
