"""The Batch service on a real store with an engine in memory, and the words its tests use."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
from cryptography.fernet import Fernet
from sqlalchemy import func, select

from gateway import clock, ids
from gateway.batch.api import BatchApi
from gateway.batch.attempts import Attempt
from gateway.batch.catalogue import Catalogue
from gateway.batch.changes import Append, open_job
from gateway.batch.engines import Cause, Ended, Started
from gateway.batch.environments import ENVIRONMENTS
from gateway.batch.environments.keeper import Keeper
from gateway.batch.launching import build_launcher
from gateway.batch.placing import place
from gateway.batch.progress import Progress
from gateway.batch.records import read_counts
from gateway.batch.rules import Rules
from gateway.batch.scheduler import Scheduler
from gateway.batch.secrets import Vault
from gateway.batch.slots import Load, Room
from gateway.batch.states import Counts, State
from gateway.batch.storage import Storage
from gateway.batch.storage.local import LocalStorage
from gateway.batch.storage.nfs import NfsRoot
from gateway.batch.tables import compute_node, task, task_instance
from gateway.call import Call, Decision, Effect, Grant, Principal, Reason, Scope
from gateway.clock import Clock
from gateway.events import outbox
from gateway.events import tables as ledger
from gateway.service import Service
from gateway.store import Store, Tx
from tests.support.fake_engine import FakeEngine

OWNER, REGION, ZONE = "100000000001", "ap-guangzhou", "ap-guangzhou-2"
ROOT = Principal(OWNER, OWNER, "root")
EVERYTHING = Decision(Effect.ALLOW, Reason.ROOT, None, 1)
START = datetime(2018, 6, 15, 14, 43, 17, tzinfo=UTC)
WAIT_S = 30.0
NO_TOPIC = "absent"
PROCESSES_MAX = 512
SEALER = Fernet(Fernet.generate_key())
VAULT = Vault(SEALER.encrypt, SEALER.decrypt)
DEFAULT_RULES = Rules()
ELASTIC = {"EnvData": {"InstanceType": "S1.SMALL1"}}
KEEPS: dict[str, Any] = {"FailedAction": "INTERRUPT"}


def a_task(name: str = "a", instances: int = 1, **members: Any) -> dict[str, Any]:
    """A task as a caller writes it; elastic unless it names an environment."""
    application = {"DeliveryForm": "LOCAL", "Command": f"echo {name}"}
    place = {} if "EnvId" in members else {"ComputeEnv": ELASTIC}
    shape = {"TaskName": name, "TaskInstanceNum": instances, "Application": application}
    return {**shape, **place, **members}


def a_job(*tasks: Mapping[str, Any], after: Sequence[str] = (), **members: Any) -> dict[str, Any]:
    """A job as a caller writes it. after: dependences, such as "a b" for b after a."""
    pairs = (text.split() for text in after)
    edges = [{"StartTask": start, "EndTask": end} for start, end in pairs]
    return {"JobName": "x", "Tasks": list(tasks) or [a_task()], "Dependences": edges, **members}


def an_env(nodes: int = 1, **members: Any) -> dict[str, Any]:
    """An environment as a caller writes it."""
    data = {"InstanceType": "S1.SMALL1"}
    return {"EnvName": "e", "DesiredComputeNodeCount": nodes, "EnvData": data, **members}


def topic_exists(tx: Tx, *, owner_uin: str, region: str, name: str) -> bool:
    return name != NO_TOPIC


class Batch:
    """The service, called as the corridor calls it."""

    def __init__(
        self, store: Store, engine: FakeEngine, *, folder: Path, rules: Rules = DEFAULT_RULES
    ) -> None:
        self.store = store
        self.engine = engine
        self._folder = folder
        self.storage: Storage = LocalStorage(folder / "cos")
        self._load = Load()
        api = BatchApi(store, engine, topic_exists, clock.now, ids.new_id, VAULT, rules, self._load)
        self._service = Service(api.operations)

    async def call(
        self,
        action: str,
        *,
        who: Principal = ROOT,
        region: str = REGION,
        scope: Scope | None = None,
        **params: Any,
    ) -> dict[str, Any]:
        call = Call(
            ids.new_request_id(), "batch", "2017-03-12", action, region, params, "127.0.0.1", START
        )
        reply = await self._service(call, Grant(who, EVERYTHING, scope))
        members: dict[str, Any] = msgspec.json.decode(reply.members)
        return members

    async def submit(self, *tasks: Mapping[str, Any], **members: Any) -> str:
        return await self.submit_job(a_job(*tasks, **members))

    async def submit_job(self, job: Mapping[str, Any], **params: Any) -> str:
        placement = {"Zone": ZONE}
        answer = await self.call("SubmitJob", Placement=placement, Job=job, **params)
        return str(answer["JobId"])

    async def create_env(self, nodes: int = 1, **members: Any) -> str:
        answer = await self.call(
            "CreateComputeEnv", Placement={"Zone": ZONE}, ComputeEnv=an_env(nodes, **members)
        )
        return str(answer["EnvId"])

    def keeper(
        self, *, catalogue: Catalogue = DEFAULT_RULES.catalogue, time: Clock = clock.now
    ) -> Keeper:
        """A keeper of the environments, new to everything, as after a restart."""
        return Keeper(
            self.store,
            catalogue,
            node_path=self.engine.node_path,
            clock=time,
            new_id=ids.new_id,
        )

    async def tend(
        self, *, catalogue: Catalogue = DEFAULT_RULES.catalogue, time: Clock = clock.now
    ) -> None:
        """Have everything done that is due in the environments: nodes made, made again, gone."""
        keeper = self.keeper(catalogue=catalogue, time=time)
        while await self.tend_once(keeper):
            pass

    async def tend_once(self, keeper: Keeper) -> bool:
        """Have everything done that one look finds due; True if the keeper would look again."""
        seen = self.store.signals.count(ENVIRONMENTS)
        async with anyio.create_task_group() as tasks:
            await keeper.tend_due(tasks)
        return self.store.signals.count(ENVIRONMENTS) > seen

    async def state(self, job_id: str, *, who: Principal = ROOT) -> str:
        return str((await self.call("DescribeJob", who=who, JobId=job_id))["JobState"])

    async def task_states(self, job_id: str) -> dict[str, str]:
        answer = await self.call("DescribeJob", JobId=job_id)
        return {each["TaskName"]: each["TaskState"] for each in answer["TaskSet"]}

    async def instances(self, job_id: str, task_name: str = "a") -> list[dict[str, Any]]:
        answer = await self.call("DescribeTask", JobId=job_id, TaskName=task_name)
        return list(answer["TaskInstanceSet"])

    async def until_state(self, job_id: str, *states: str, who: Principal = ROOT) -> str:
        """Wait until the job is in one of these states; returns it."""

        async def arrived() -> bool:
            return await self.state(job_id, who=who) in states

        await eventually(arrived)
        return await self.state(job_id, who=who)

    @asynccontextmanager
    async def scheduling(self, *, append: Append = outbox.append) -> AsyncIterator[None]:
        """A scheduler that runs meanwhile, new to everything, as after a restart."""
        launcher = build_launcher(
            self.store,
            self.engine,
            storage=self.storage,
            servers=NfsRoot(self._folder / "nfs"),
            vault=VAULT,
            processes_max=PROCESSES_MAX,
            clock=clock.now,
        )
        scheduler = Scheduler(
            self.store,
            self.engine,
            launcher,
            clock=clock.now,
            new_id=ids.new_id,
            load=self._load,
            catalogue=DEFAULT_RULES.catalogue,
            append=append,
        )
        async with anyio.create_task_group() as tasks:
            await tasks.start(scheduler.run)
            await tasks.start(self.keeper().run)
            yield
            tasks.cancel_scope.cancel()


class Turns:
    """One job moved on by hand, transaction by transaction."""

    def __init__(
        self,
        store: Store,
        job_id: str,
        *,
        catalogue: Catalogue = DEFAULT_RULES.catalogue,
        mem_gib: int = 65_536,
    ) -> None:
        self.job_id = job_id
        self.stopping: list[str] = []
        self.unfinished = False
        self.now = START
        self._store = store
        self.catalogue = catalogue
        self._mem_gib = mem_gib

    async def turn(self, *reports: Started | Ended, slots: int = 0) -> list[str]:
        """Tell what happened, draw the conclusions, place; returns the attempts placed."""
        self.now += timedelta(seconds=1)
        return await self._store.write(lambda tx: self.move(tx, reports, slots))

    def move(self, tx: Tx, reports: Sequence[Started | Ended], slots: int) -> list[str]:
        changes = open_job(tx, self.job_id, now=self.now, new_id=ids.new_id)
        assert changes is not None
        progress = Progress(changes)
        progress.admit()
        progress.learn(reports)
        self.stopping = progress.terminate()
        progress.settle()
        room = Room(slots, self._mem_gib, self._mem_gib)
        placed = place(changes, room, catalogue=self.catalogue, sick=())
        changes.close()
        self.unfinished = progress.unfinished
        return [each.attempt.id for each in placed]

    def started(self, attempt_id: str) -> Started:
        return Started(attempt_id, self.now)

    def ended(self, attempt_id: str, code: int | None = 0, *, cause: Cause | None = None) -> Ended:
        """An end; a code other than 0 is the command's own failure."""
        cause = cause or (Cause.USER_EXIT if code else None)
        return Ended(
            attempt_id, self.now, code if cause in {None, Cause.USER_EXIT} else None, cause
        )

    async def run(self, code: int = 0, *, slots: int = 10_000) -> None:
        """Let the job run until nothing more can be placed, every command ending so."""
        placed = await self.turn(slots=slots)
        while placed or self.unfinished:
            placed = await self.turn(*(self.ended(each, code) for each in placed), slots=slots)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition holds."""
    with anyio.fail_after(WAIT_S):
        while not await condition():  # noqa: ASYNC110  # the condition is in a database
            await anyio.sleep(0.005)


async def events_of(store: Store, stream_id: str) -> list[str]:
    """The names of a job's or environment's events; their numbers have no gap."""

    def read(tx: Tx) -> list[str]:
        found = tx.execute(
            select(ledger.event.c.seq, ledger.event.c.name)
            .where(ledger.event.c.stream_id == stream_id)
            .order_by(ledger.event.c.seq)
        ).all()
        assert [row.seq for row in found] == list(range(1, len(found) + 1))
        return [row.name for row in found]

    return await store.read_list(read)


def only(events: Sequence[str], *prefixes: str) -> list[str]:
    """The events whose names begin so; those of elastic nodes are often beside the point."""
    return [name for name in events if name.startswith(prefixes)]


async def check_rows(store: Store, job_id: str) -> None:
    """What must hold after every transaction: counters are true, a node has one attempt."""

    def check(tx: Tx) -> None:
        rows = tx.execute(select(task).where(task.c.job_id == job_id)).all()
        found = tx.execute(
            select(task_instance.c.position, task_instance.c.state, func.count().label("n"))
            .where(task_instance.c.job_id == job_id)
            .group_by(task_instance.c.position, task_instance.c.state)
        ).all()
        real: dict[int, dict[str, int]] = {row.position: {} for row in rows}
        for each in found:
            real[each.position][each.state.lower()] = each.n
        assert {row.position: read_counts(row) for row in rows} == {
            position: Counts(**counts) for position, counts in real.items()
        }
        for row in rows:
            busy = row.starting + row.running
            assert not row.concurrent_max or busy <= row.concurrent_max
        _check_nodes(tx, job_id)

    await store.read_list(check)


def _check_nodes(tx: Tx, job_id: str) -> None:
    on_nodes = [State.STARTING.value, State.RUNNING.value, State.FAILED_INTERRUPTED.value]
    holding = tx.execute(
        select(task_instance)
        .join(
            task,
            (task.c.job_id == task_instance.c.job_id)
            & (task.c.position == task_instance.c.position),
        )
        .where(
            task_instance.c.job_id == job_id,
            task_instance.c.state.in_(on_nodes),
            task.c.env_id.is_not(None),
        )
    ).all()
    busy = tx.execute(
        select(compute_node.c.id, compute_node.c.busy_with).where(
            compute_node.c.busy_with.startswith(job_id)
        )
    ).all()
    expected = {
        row.node_id: Attempt(job_id, row.position, row.number, row.attempt).id for row in holding
    }
    assert {row.id: row.busy_with for row in busy} == expected
    assert len(holding) == len(expected)
    assert max(Counter(row.node_id for row in holding).values(), default=1) == 1
