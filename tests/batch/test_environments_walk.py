"""Environments at random against a model of their nodes, written apart from the code it judges."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.batch.auditing.auditor import audit_everything
from gateway.batch.catalogue import Catalogue, Image
from gateway.cmq import completeness
from gateway.errors import ApiError
from gateway.store import Store
from tests.support.batch import Batch
from tests.support.environments import (
    MACHINES,
    UNKNOWN,
    WITH_MACHINES,
    SetClock,
    check_activities,
    nodes_of,
    occupy,
    set_fate,
)
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio
STEPS = 120
RETRIES_MAX = 3
GOOD = Catalogue(images={UNKNOWN: Image(UNKNOWN, "ours", "linux", has_cloud_init=True)})
BAD = Catalogue()
THERE = {"RUNNING", "CREATION_FAILED", "ABNORMAL"}
UNSUPPORTED = "UnsupportedOperation"


@dataclass
class Node:
    """What the model knows of one node. tries: how often in a row it was not made."""

    state: str
    is_attached: bool = False
    is_busy: bool = False
    fate: str = ""
    tries: int = 0
    due: datetime | None = None


@dataclass
class Model:
    """What an environment must be. made_well: whether its image can be used now."""

    wanted: int = 0
    made_well: bool = True
    nodes: dict[str, Node] = field(default_factory=dict)

    def idle(self, *, attached: bool) -> list[str]:
        return [
            node_id
            for node_id, node in self.nodes.items()
            if node.state in THERE and node.is_attached == attached and not node.is_busy
        ]

    def there(self) -> list[str]:
        found = self.nodes.items()
        return [key for key, node in found if node.state in THERE and not node.is_attached]

    def tend(self, now: datetime) -> None:
        """What one look at everything must come to."""
        for node_id, node in list(self.nodes.items()):
            if node.fate and not node.is_busy:
                if node.fate == "LOST":
                    node.tries, node.state, node.due = 0, "ABNORMAL", now
                node.fate = ""
            if node.state == "DELETING":
                del self.nodes[node_id]
            elif node.state == "SUBMITTED" or self._is_due(node, now):
                self._make(node, now)

    def _is_due(self, node: Node, now: datetime) -> bool:
        waits = node.state in {"ABNORMAL", "CREATION_FAILED"}
        return waits and node.due is not None and node.due <= now

    def _make(self, node: Node, now: datetime) -> None:
        if node.is_attached or self.made_well:
            node.state, node.due = "RUNNING", None
            return
        node.tries += 1
        node.state = "CREATION_FAILED"
        node.due = now + timedelta(seconds=600) if node.tries <= RETRIES_MAX else None


class Walk:
    """An environment and its model, moved together."""

    def __init__(self, store: Store, batch: Batch, env_id: str, random: Random) -> None:
        self.store = store
        self.batch = batch
        self.env_id = env_id
        self.random = random
        self.time = SetClock()
        self.model = Model()
        self.machines: dict[str, str] = {}

    async def step(self) -> None:
        moves = [self.modify, self.terminate, self.attach, self.detach, self.work, self.free]
        await self.random.choice([*moves, self.lose, self.restart, self.break_image, self.tend])()
        await self.compare()

    async def compare(self) -> None:
        answer = await self.batch.call("DescribeComputeEnv", EnvId=self.env_id)
        found = {node["ComputeNodeId"]: node for node in answer["ComputeNodeSet"]}
        states = {node_id: node["ComputeNodeState"] for node_id, node in found.items()}
        assert states == {node_id: node.state for node_id, node in self.model.nodes.items()}
        assert answer["DesiredComputeNodeCount"] == self.model.wanted
        stays = [node for node in self.model.nodes.values() if node.state != "DELETING"]
        assert answer["AttachedComputeNodeCount"] == sum(node.is_attached for node in stays)
        assert self.model.wanted == sum(not node.is_attached for node in stays)
        assert sum(answer["ComputeNodeMetrics"].values()) == len(found)
        for node_id, node in self.model.nodes.items():
            free = node.state == "RUNNING" and not node.is_busy and not node.fate
            assert found[node_id]["TaskInstanceNumAvailable"] == int(free)
        await check_activities(self.store, self.env_id)

    async def ask(self, action: str, **params: Any) -> str:
        """Call an action; returns the code it is refused with, or ""."""
        try:
            await self.batch.call(action, EnvId=self.env_id, **params)
        except ApiError as error:
            return error.code
        return ""

    async def arrivals(self) -> list[dict[str, Any]]:
        found = await nodes_of(self.batch, self.env_id)
        return [node for node in found if node["ComputeNodeId"] not in self.model.nodes]

    async def modify(self) -> None:
        wanted = self.random.randrange(7)
        fewer = self.model.wanted - wanted
        idle = self.model.idle(attached=False)
        expected = ""
        if fewer > len(self.model.there()):
            expected = f"{UNSUPPORTED}.NotEnoughComputeNodesToTerminate"
        elif fewer > len(idle):
            expected = f"{UNSUPPORTED}.ComputeNodeForbidTerminate"
        assert await self.ask("ModifyComputeEnv", DesiredComputeNodeCount=wanted) == expected
        if expected:
            return
        self.model.wanted = wanted
        for node in await self.arrivals():
            self.model.nodes[node["ComputeNodeId"]] = Node("SUBMITTED")
        if fewer > 0:
            await self._note_gone(idle, fewer)

    async def _note_gone(self, idle: list[str], count: int) -> None:
        """Which ones go is the code's to choose, but none that runs before one that does not."""
        found = await nodes_of(self.batch, self.env_id)
        going = {n["ComputeNodeId"] for n in found if n["ComputeNodeState"] == "DELETING"}
        gone = [node_id for node_id in idle if node_id in going]
        assert len(gone) == count
        stopped = [key for key in idle if self.model.nodes[key].state != "RUNNING"]
        assert set(gone) <= set(stopped) or set(stopped) <= set(gone)
        self._drop(gone)

    def _drop(self, node_ids: list[str]) -> None:
        for node_id in node_ids:
            node = self.model.nodes[node_id]
            node.state, node.fate, node.due = "DELETING", "", None

    async def terminate(self) -> None:
        if not self.model.nodes:
            return
        known = list(self.model.nodes)
        chosen = self.random.sample(known, self.random.randint(1, min(2, len(known))))
        expected = next(filter(None, map(self._why_not_terminated, chosen)), "")
        assert await self.ask("TerminateComputeNodes", ComputeNodeIds=chosen) == expected
        if not expected:
            self._drop(chosen)
            self.model.wanted -= len(chosen)

    def _why_not_terminated(self, node_id: str) -> str:
        node = self.model.nodes[node_id]
        if node.state == "DELETING":
            return f"{UNSUPPORTED}.ComputeNodeIsTerminating"
        fine = node.state in THERE and not node.is_busy and not node.is_attached
        return "" if fine else f"{UNSUPPORTED}.ComputeNodeForbidTerminate"

    async def attach(self) -> None:
        machine = self.random.choice(sorted(MACHINES))
        taken = machine in self.machines and self.machines[machine] in self.model.nodes
        expected = f"{UNSUPPORTED}.InstancesNotAllowToAttach" if taken else ""
        wanted = [{"InstanceId": machine}]
        assert await self.ask("AttachInstances", Instances=wanted) == expected
        for node in await self.arrivals():
            self.model.nodes[node["ComputeNodeId"]] = Node("SUBMITTED", is_attached=True)
            self.machines[machine] = node["ComputeNodeId"]

    async def detach(self) -> None:
        machine = self.random.choice(sorted(MACHINES))
        node_id = self.machines.get(machine, "")
        can = node_id in self.model.idle(attached=True)
        expected = "" if can else UNSUPPORTED
        assert await self.ask("DetachInstances", InstanceIds=[machine]) == expected
        if can:
            self._drop([node_id])

    async def work(self) -> None:
        nodes = self.model.nodes.items()
        free = [k for k, n in nodes if n.state == "RUNNING" and not n.is_busy and not n.fate]
        if free:
            node_id = self.random.choice(free)
            await occupy(self.store, node_id, "job-00000000.0.0.1")
            self.model.nodes[node_id].is_busy = True

    async def free(self) -> None:
        busy = [node_id for node_id, node in self.model.nodes.items() if node.is_busy]
        if busy:
            node_id = self.random.choice(busy)
            await occupy(self.store, node_id, "")
            self.model.nodes[node_id].is_busy = False

    async def lose(self) -> None:
        await self._fate("LOST")

    async def restart(self) -> None:
        await self._fate("RESTART")

    async def _fate(self, fate: str) -> None:
        running = [k for k, n in self.model.nodes.items() if n.state == "RUNNING" and not n.fate]
        if running:
            node_id = self.random.choice(running)
            await set_fate(self.store, node_id, fate)
            self.model.nodes[node_id].fate = fate

    async def break_image(self) -> None:
        self.model.made_well = not self.model.made_well

    async def tend(self) -> None:
        self.time.move(minutes=self.random.choice([1, 10, 70]))
        catalogue = GOOD if self.model.made_well else BAD
        await self.batch.tend(catalogue=catalogue, time=self.time)
        self.model.tend(self.time())


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_the_nodes_are_those_of_the_model(
    store: Store, engine: FakeEngine, tmp_path: Path, seed: int
) -> None:
    random = Random(seed)  # noqa: S311  # no secret
    batch = Batch(store, engine, folder=tmp_path, rules=WITH_MACHINES)
    env_id = await batch.create_env(
        0, EnvData={"ImageId": UNKNOWN}, ResourceMaxRetryCount=RETRIES_MAX
    )
    walk = Walk(store, batch, env_id, random)
    for _ in range(STEPS):
        await walk.step()
        if random.random() < 0.1:
            account = await audit_everything(store, deliveries=completeness)
            assert account.found.first == ()
