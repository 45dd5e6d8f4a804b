"""Words for tests of environments: a clock to be set, what an environment looks like."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from gateway import clock
from gateway.batch.catalogue import Catalogue, Machine
from gateway.batch.environments import ENVIRONMENTS
from gateway.batch.rules import Rules
from gateway.batch.tables import compute_env_activity, compute_node
from gateway.errors import ApiError
from gateway.store import Store, Tx
from tests.support.batch import Batch

WINDOWS, LINUX, UNKNOWN = "img-er9shcln", "img-pyqx34y1", "img-bd78fy2t"
MACHINES = {
    f"ins-rack000{n}": Machine(f"ins-rack000{n}", cpu=8, mem_gib=32, address=f"10.0.0.{n}")
    for n in range(1, 6)
}
WITH_MACHINES = Rules(catalogue=Catalogue(machines=MACHINES))


class SetClock:
    """A clock that stands until it is moved. It begins after what the API has done so far."""

    def __init__(self) -> None:
        self.time = clock.now() + timedelta(minutes=1)

    def __call__(self) -> datetime:
        return self.time

    def move(self, **by: float) -> None:
        self.time += timedelta(**by)


async def code_of(batch: Batch, action: str, **params: Any) -> str:
    """The code an action is refused with."""
    with pytest.raises(ApiError) as caught:
        await batch.call(action, **params)
    return caught.value.code


async def nodes_of(batch: Batch, env_id: str) -> list[dict[str, Any]]:
    """The nodes as DescribeComputeEnv shows them."""
    answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
    return list(answer["ComputeNodeSet"])


async def ids_of(batch: Batch, env_id: str) -> list[str]:
    """The ids of the nodes."""
    return [node["ComputeNodeId"] for node in await nodes_of(batch, env_id)]


async def states_of(batch: Batch, env_id: str) -> list[str]:
    """The states of the nodes, in the order of the alphabet."""
    return sorted(node["ComputeNodeState"] for node in await nodes_of(batch, env_id))


async def activities_of(batch: Batch, env_id: str, **params: Any) -> list[dict[str, Any]]:
    """What was done to the nodes, the newest first."""
    answer = await batch.call("DescribeComputeEnvActivities", EnvId=env_id, Limit=100, **params)
    return list(answer["ActivitySet"])


async def set_fate(store: Store, node_id: str, fate: str) -> None:
    """What whoever moves a job does when it frees a node."""

    def write(tx: Tx) -> None:
        tx.execute(update(compute_node).where(compute_node.c.id == node_id).values(fate=fate))
        tx.wake(ENVIRONMENTS)

    await store.write(write)


async def occupy(store: Store, node_id: str, attempt_id: str) -> None:
    """Have a node be busy with an attempt, or with nothing."""

    def write(tx: Tx) -> None:
        values = {"busy_with": attempt_id}
        tx.execute(update(compute_node).where(compute_node.c.id == node_id).values(values))

    await store.write(write)


async def check_activities(store: Store, env_id: str) -> None:
    """What must always hold: one open activity at most for a node, and an end for all others."""

    def read(tx: Tx) -> None:
        table = compute_env_activity
        rows = tx.execute(select(table).where(table.c.env_id == env_id)).all()
        open_ones = [row.node_id for row in rows if row.ended_at is None]
        assert len(open_ones) == len(set(open_ones))
        for row in rows:
            assert (row.ended_at is None) == (row.state in {"SUBMITTED", "PROCESSING"})
        under_way = ["SUBMITTED", "DELETING"]
        busy = tx.execute(
            select(compute_node.c.id).where(
                compute_node.c.env_id == env_id, compute_node.c.state.in_(under_way)
            )
        )
        assert set(open_ones) == set(busy.scalars())

    await store.read_list(read)
