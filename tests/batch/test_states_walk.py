"""Jobs walked at random beside a model of their own, on every kind of database."""

import json
from collections import defaultdict
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from sqlalchemy import select, update

from gateway.batch.auditing.auditor import audit_named
from gateway.batch.engines import Cause, Ended, Started
from gateway.batch.states import MOVES, State, Trigger
from gateway.batch.tables import compute_node, job, task, task_instance
from gateway.cmq import completeness
from gateway.errors import UnsupportedOperation
from gateway.events import tables as ledger
from gateway.store import Store, Tx
from tests.support.batch import Batch, Turns, a_task, check_rows
from tests.support.job_model import ModelInstance, ModelJob, ModelTask

pytestmark = pytest.mark.anyio
MODES = ["PRE_TASK_SUCCEED", "PRE_TASK_AT_LEAST_PARTLY_SUCCEED", "PRE_TASK_FINISHED"]
ENDS = [None, None, None, Cause.USER_EXIT, Cause.USER_EXIT, Cause.INFRA_LOST, Cause.STORAGE]
STEPS = 80
Shown = tuple[str, list[str], list[list[str]]]


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_is_asked_and_happens_a_job_is_as_the_model_says(
    store: Store, batch: Batch, seed: int
) -> None:
    walk = Walk(store, batch, Random(seed))  # noqa: S311  # nothing secret
    await walk.submit()
    for _ in range(STEPS):
        await walk.step()
        await walk.compare()
    while walk.model.state != "SUCCEED" and walk.rounds < 60:
        await walk.come_to_an_end()
        await walk.compare()
    assert walk.model.state == "SUCCEED", "what is retried and ends well succeeds at last"
    assert (await audit_named(store, walk.job_id, deliveries=completeness)).found.first == ()


class Walk:
    """One job, its model, and what is done to both."""

    def __init__(self, store: Store, batch: Batch, random: Random) -> None:
        self.store = store
        self.batch = batch
        self.random = random
        self.rounds = 0
        self.job_id = ""
        self._known: list[str] = []
        self._before: Shown | None = None

    async def submit(self) -> None:
        random = self.random
        env_id = await self.batch.create_env(2)
        names = "abcd"
        after = [
            {earlier for earlier in range(position) if random.random() < 0.45}
            for position in range(len(names))
        ]
        models = [
            ModelTask(
                [ModelInstance() for _ in range(random.randint(1, 3))],
                after[position],
                retries_max=random.randint(0, 1),
                keeps_node=random.random() < 0.3,
                concurrent_max=random.choice([0, 0, 2]),
            )
            for position in range(len(names))
        ]
        tasks = [
            a_task(
                name,
                len(model.instances),
                MaxRetryCount=model.retries_max,
                MaxConcurrentNum=model.concurrent_max,
                FailedAction="INTERRUPT" if model.keeps_node else "TERMINATE",
                RestartComputeNode=random.random() < 0.5,
                **random.choice([{}, {}, {"EnvId": env_id}]),
            )
            for name, model in zip(names, models, strict=True)
        ]
        edges = [f"{names[a]} {names[b]}" for b, before in enumerate(after) for a in before]
        mode = random.choice(MODES)
        self.job_id = await self.batch.submit(*tasks, after=edges, TaskExecutionDependOn=mode)
        self.model = ModelJob(models, depend_on=mode)
        self.turns = Turns(self.store, self.job_id)

    async def step(self) -> None:
        """Do one thing, the likely ones more often."""
        dice = self.random.random()
        if dice < 0.04:
            await self._ask("TerminateJob", allowed=self.model.terminate(), JobId=self.job_id)
        elif dice < 0.10:
            await self._ask("RetryJobs", allowed=self.model.retry(), JobIds=[self.job_id])
        elif dice < 0.22:
            position = self.random.randrange(len(self.model.tasks))
            number = self.random.randrange(len(self.model.tasks[position].instances))
            self.model.terminate_instance(position, number)
            await self.batch.call(
                "TerminateTaskInstance",
                JobId=self.job_id,
                TaskName="abcd"[position],
                TaskInstanceIndex=number,
            )
        else:
            await self._turn(self._reports(), slots=self.random.randint(0, 3))

    async def come_to_an_end(self) -> None:
        """Let everything end well, and have what failed run again: one of both."""
        self.rounds += 1
        if self.model.state == "FAILED":
            await self._ask("RetryJobs", allowed=self.model.retry(), JobIds=[self.job_id])
            return
        if self.model.state == "FAILED_INTERRUPTED" and not self.model.is_terminating:
            await self._ask("TerminateJob", allowed=self.model.terminate(), JobId=self.job_id)
            return
        ends: list[Started | Ended] = [
            self.turns.ended(self._attempt(position, number))
            for position, number in self.model.running()
        ]
        await self._turn(ends, slots=99)

    async def _ask(self, action: str, *, allowed: bool, **params: Any) -> None:
        if allowed:
            await self.batch.call(action, **params)
            return
        with pytest.raises(UnsupportedOperation):
            await self.batch.call(action, **params)

    async def _turn(self, reports: list[Started | Ended], *, slots: int) -> None:
        await self._keep_nodes()
        self.model.turn(reports)
        room = 0 if self.model.is_terminating else slots
        could = sum(each.may_start for each in self.model.tasks)
        placed = await self.turns.turn(*reports, slots=slots)
        assert len(placed) <= min(room, could)
        self.model.place(placed)
        self._known += placed

    def _reports(self) -> list[Started | Ended]:
        """What engines say: in time, late, twice, of attempts long over."""
        random = self.random
        current = [self._attempt(position, number) for position, number in self.model.running()]
        found: list[Started | Ended] = []
        for attempt in random.sample(current, min(len(current), random.randint(0, 3))):
            cause = Cause.TERMINATED if attempt in self.turns.stopping else random.choice(ENDS)
            ended = self.turns.ended(attempt, 3 if cause is Cause.USER_EXIT else 0, cause=cause)
            found += [ended] if random.random() < 0.6 else [self.turns.started(attempt)]
        if self._known and random.random() < 0.3:
            found.append(self.turns.ended(random.choice(self._known), 1))
        return found

    def _attempt(self, position: int, number: int) -> str:
        attempt = self.model.tasks[position].instances[number].attempt
        return f"{self.job_id}.{position}.{number}.{attempt}"

    async def _keep_nodes(self) -> None:
        """Do what the keeper of environments does to nodes with a fate, and to new ones."""
        kept = update(compute_node).values(state="RUNNING", fate="")
        await self.store.write(lambda tx: tx.execute(kept))

    async def compare(self) -> None:
        """Hold states, counters and events against the model, and the step against the table."""
        shown = await self.store.read_list(self._states)
        assert shown == self.model.states()
        if self._before is not None:
            self._check_moves(self._before, shown)
        self._before = shown
        await check_rows(self.store, self.job_id)
        answer = await self.batch.call("DescribeJob", JobId=self.job_id)
        metrics = answer["TaskInstanceMetrics"]
        counts = self.model.counts()
        assert {name: n for name, n in metrics.items() if n} == {
            f"{state.title().replace('_', '')}Count": n for state, n in counts.items()
        }
        assert await self.store.read_list(self._events) == self.model.events()

    def _states(self, tx: Tx) -> Shown:
        whole = tx.execute(select(job.c.state).where(job.c.id == self.job_id)).scalar_one()
        rows = select(task.c.state).where(task.c.job_id == self.job_id).order_by(task.c.position)
        tasks = list(tx.execute(rows).scalars())
        instances: list[list[str]] = [[] for _ in tasks]
        for row in tx.execute(
            select(task_instance)
            .where(task_instance.c.job_id == self.job_id)
            .order_by(task_instance.c.position, task_instance.c.number)
        ):
            instances[row.position].append(row.state)
        return whole, tasks, instances

    def _check_moves(self, before: Shown, after: Shown) -> None:
        pairs = [(before[0], after[0]), *zip(before[1], after[1], strict=True)]
        for old, new in zip(before[2], after[2], strict=True):
            pairs += zip(old, new, strict=True)
        for a, b in pairs:
            assert State(b) in REACHABLE[State(a)], (a, b)

    def _events(self, tx: Tx) -> Mapping[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        rows = select(ledger.event).where(ledger.event.c.stream_id == self.job_id)
        for row in tx.execute(rows.order_by(ledger.event.c.seq)):
            said = json.loads(row.batch)
            if row.name.startswith("JOB_"):
                found["job"].append(said["JobState"])
            elif row.name.startswith("TASK_INSTANCE_"):
                place = f"{'abcd'.index(said['TaskName'])}.{said['TaskInstanceIndex']}"
                found[place].append(said["TaskInstanceState"])
            elif row.name.startswith("TASK_"):
                found[str("abcd".index(said["TaskName"]))].append(said["TaskState"])
        return found


def _reachable() -> Mapping[State, set[State]]:
    """Where one step here leads: several moves of the table, or a reset alone."""
    found = {state: {state} for state in State}
    for _ in State:
        for (before, trigger), after in MOVES.items():
            for reached in found.values():
                if before in reached and trigger is not Trigger.RESET:
                    reached.add(after)
    for (before, trigger), after in MOVES.items():
        if trigger is Trigger.RESET:
            found[before].add(after)
    return found


REACHABLE = _reachable()
