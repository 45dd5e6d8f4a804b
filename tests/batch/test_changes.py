"""What a job's row says once the job is over, on every kind of database."""

from datetime import timedelta

import pytest

from gateway.batch.engines import Ended
from gateway.store import Store
from tests.support.batch import START, Batch, Turns, a_task

pytestmark = pytest.mark.anyio


async def test_a_job_ends_with_the_last_of_its_tasks_whichever_is_told_last(
    store: Store, batch: Batch
) -> None:
    job_id = await batch.submit(a_task("a"), a_task("b"))
    turns = Turns(store, job_id)
    first, second = await turns.turn(slots=2)
    await turns.turn(Ended(first, START + timedelta(seconds=90), 0, None))
    await turns.turn(Ended(second, START + timedelta(seconds=30), 0, None))
    job = await batch.call("DescribeJob", JobId=job_id)
    assert job["JobState"] == "SUCCEED"
    ends = {task["TaskName"]: task["EndTime"] for task in job["TaskSet"]}
    assert job["EndTime"] == ends["a"] > ends["b"]
