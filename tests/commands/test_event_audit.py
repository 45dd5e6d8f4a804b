"""`qcs-gateway events audit` where retention removed events under another setting."""

from datetime import timedelta
from functools import partial
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import delete, update

from gateway import clock
from gateway.batch.tables import job
from gateway.cli import main
from gateway.cmq import subscribers
from gateway.events import retention
from gateway.events.tables import event
from gateway.store import Store
from tests.support.batch import Batch, Turns, a_task
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio


async def audit(url: str, *, keep_days: int) -> Result:
    """Run the command as in a shell with this setting."""
    env = {"QCS_GATEWAY_DATABASE_URL": url, "QCS_GATEWAY_EVENTS_KEEP_DAYS": str(keep_days)}
    invoke = partial(CliRunner().invoke, main, ["events", "audit"], env=env)
    return await anyio.to_thread.run_sync(invoke)


async def run_job(store: Store, batch: Batch, *, days_ago: int) -> str:
    """A job that ran to its end so long ago."""
    job_id = await batch.submit(a_task("a", 2))
    turns = Turns(store, job_id)
    turns.now = clock.now() - timedelta(days=days_ago)
    born = update(job).where(job.c.id == job_id).values(created_at=turns.now)
    await store.write(lambda tx: tx.execute(born))
    await turns.run()
    return job_id


@pytest.mark.parametrize("keep_days", [0, 1, 30])
async def test_what_was_removed_is_not_missed_whatever_the_setting_is_and_a_gap_is(
    store: Store, migrated_url: str, tmp_path: Path, keep_days: int
) -> None:
    batch = Batch(store, FakeEngine(tmp_path), folder=tmp_path)
    await run_job(store, batch, days_ago=5)
    young_id = await run_job(store, batch, days_ago=0)
    before = clock.now() - timedelta(days=1)
    assert (await retention.prune(store, subscribers=subscribers, before=before)).events > 0
    done = await audit(migrated_url, keep_days=keep_days)
    assert (done.exit_code, done.stdout) == (
        0,
        "2 streams, 14 events, 0 messages compared: 0 discrepancies\n",
    )
    first = delete(event).where(event.c.stream_id == young_id, event.c.seq == 1)
    await store.write(lambda tx: tx.execute(first))
    done = await audit(migrated_url, keep_days=keep_days)
    assert done.exit_code == 1
    assert f"{young_id}  gap  event 1 missing before event 2\n" in done.stdout
