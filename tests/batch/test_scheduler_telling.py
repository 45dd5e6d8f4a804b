"""What the scheduler tells of jobs is delivered as it happens; a fault of it stops no job."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, select

from gateway.events.bus import Message
from gateway.events.shortcut import Shortcut
from gateway.events.tables import message
from gateway.store import Store, Tx
from tests.support.batch import Batch, a_task, events_of
from tests.support.events import Routed
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio
ASKED = [{"TopicName": "job-message", "EventConfigs": [{"EventName": "TASK_INSTANCE_SUCCEED"}]}]


class Failing(Routed):
    """Delivers nothing, by a fault of ours."""

    def deliver(self, tx: Tx, messages: Sequence[Message], *, now: datetime) -> int:
        raise LookupError("no such subscription")


@pytest.fixture
def batch(store: Store, tmp_path: Path) -> Batch:
    """With an engine on which all commands succeed."""
    return Batch(store, FakeEngine(tmp_path, capacity=8, answer=lambda _: 0), folder=tmp_path)


async def told(store: Store) -> Sequence[Row[Any]]:
    statement = select(message.c.id, message.c.expanded_at).order_by(message.c.position)
    return await store.read_list(lambda tx: tx.execute(statement).all())


async def test_what_happens_to_a_job_is_delivered_without_a_relay(
    store: Store, batch: Batch
) -> None:
    routed = Routed()
    async with batch.scheduling(append=Shortcut(routed, final=True).append):
        job_id = await batch.submit(
            a_task("a", 20), a_task("b"), after=["a b"], Notifications=ASKED
        )
        assert await batch.until_state(job_id, "SUCCEED", "FAILED") == "SUCCEED"
    rows = await told(store)
    assert [row.id for row in rows] == [each.id for each in routed.delivered]
    assert len(rows) == 21
    assert None not in {row.expanded_at for row in rows}


async def test_a_job_goes_on_though_nothing_can_be_delivered(
    store: Store, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.batch.scheduler.IDLE_S", 0.05)
    monkeypatch.setattr("gateway.batch.scheduler.RETRY_S", 0.05)
    async with batch.scheduling(append=Shortcut(Failing(), final=True).append):
        job_id = await batch.submit(a_task("a", 2), a_task("b"), after=["a b"], Notifications=ASKED)
        assert await batch.until_state(job_id, "SUCCEED", "FAILED") == "SUCCEED"
    assert (await events_of(store, job_id))[-1] == "JOB_SUCCEED"
    assert [row.expanded_at for row in await told(store)] == [None] * 3
