"""What the scheduler asks for at every round costs by what waits, not by its square."""

from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import ClauseElement

from gateway.batch import waiting_statements
from gateway.clock import now
from gateway.store import Store
from tests.support.plans import plan_of

pytestmark = pytest.mark.anyio

LOOKS: Mapping[str, tuple[ClauseElement, dict[str, Any]]] = {
    "what waits": (waiting_statements.WAITING_TASKS, {"sick": [""], "moment": now(), "most": 32}),
    "what a job may place": (
        waiting_statements.TASKS_TO_PLACE,
        {
            "sick": [""],
            "job_id": "job-aaaaaaaa",
            "urgency": 0,
            "since": now(),
            "moment": now(),
            "most": 32,
        },
    ),
}


@pytest.mark.parametrize("look", LOOKS)
async def test_the_first_in_line_is_worked_out_once_and_not_for_each_task(
    store: Store, look: str
) -> None:
    statement, parameters = LOOKS[look]

    def explain(tx: Any) -> tuple[str, str]:
        return tx.dialect, plan_of(tx, statement, parameters)

    dialect, plan = await store.write(explain)
    if dialect == "sqlite":
        materialized, _, joined = plan.partition("USE TEMP B-TREE FOR GROUP BY")
        assert "MATERIALIZE" in materialized
        assert "AUTOMATIC COVERING INDEX (env_id=?) LEFT-JOIN" in joined
        assert "SCAN batch_task" not in plan
    else:
        assert "WindowAgg" in plan
        assert plan.count("SubPlan") <= 3, "those for free nodes, which has an index"
