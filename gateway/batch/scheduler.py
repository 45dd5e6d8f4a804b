"""The scheduler: takes the engine's reports in, moves jobs on, hands new attempts to the engine.

One transaction per job and round. What it keeps in memory can be read again from the rows, and
is, whenever the engine was lost or this process is new.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import anyio
from anyio.abc import TaskGroup, TaskStatus

from gateway.batch import datatypes
from gateway.batch import statements as sql
from gateway.batch.attempts import Attempt, parse_attempt
from gateway.batch.changes import open_job
from gateway.batch.engines import Ended, Engine, NodesLost, Reconnected, Report, Started
from gateway.batch.environments import bring_nodes_up, nodes_are_waiting
from gateway.batch.jobs import JOBS
from gateway.batch.launching import Launcher
from gateway.batch.outcomes import Policy
from gateway.batch.placing import place
from gateway.batch.progress import Progress
from gateway.batch.records import read_instance
from gateway.batch.slots import Slots, Waiting, reserve
from gateway.batch.states import State
from gateway.clock import Clock
from gateway.ids import NewId
from gateway.store import Conflict, Store, StoreUnavailable, Tx
from gateway.telemetry import INSTANCES_RUNNING, log

IDLE_S = 5.0
RETRY_S = 1.0
TELL_EVERY = timedelta(seconds=60)
JOBS_AT_ONCE = 64


@dataclass(slots=True)
class Moved:
    """What one job's transaction came to."""

    placed: list[Attempt] = field(default_factory=list)
    stopping: list[str] = field(default_factory=list)
    unfinished: bool = False


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the rows ask for: jobs to look at, and what waits for a place, most urgent first."""

    due: Sequence[str]
    waiting: Sequence[Waiting]
    free_nodes: Mapping[str, int]
    nodes_ordered: bool


class Scheduler:
    """Runs the jobs of a store on an engine."""

    def __init__(
        self, store: Store, engine: Engine, launcher: Launcher, *, clock: Clock, new_id: NewId
    ) -> None:
        self._store = store
        self._engine = engine
        self._launcher = launcher
        self._clock = clock
        self._new_id = new_id
        self._inbox: list[Report] = []
        self._live: set[str] = set()
        self._stopped: set[str] = set()
        self._copying: set[str] = set()
        self._estranged = True  # another one may have told the engine something before it failed
        self._told_at = clock()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Schedule until cancelled. What fails is logged and tried again: the rows say what is
        left to do, and the engine is told again, for nobody knows what it was told.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen, tasks)
            task_status.started()
            while True:
                seen = self._store.signals.count(JOBS)
                reports, self._inbox = self._inbox, []
                try:
                    busy = await self._round(reports)
                except (StoreUnavailable, Conflict, OSError):
                    log.exception("scheduling_round_failed")
                    self._inbox = [*reports, *self._inbox]
                    self._estranged = True
                if self._estranged:
                    await anyio.sleep(RETRY_S)
                elif not busy:
                    await self._store.signals.wait(JOBS, seen=seen, at_most_s=IDLE_S)

    async def _listen(self, tasks: TaskGroup) -> None:
        """Take reports in. An end that may have output to copy comes in once it is copied, so that
        slow storage holds up nobody else.
        """
        while True:
            for report in await self._engine.reports():
                if isinstance(report, Ended) and self._launcher.leaves_files(report):
                    if report.attempt_id not in self._copying:
                        self._copying.add(report.attempt_id)
                        tasks.start_soon(self._keep_files, report)
                else:
                    self._inbox.append(report)
            self._store.signals.wake([JOBS])

    async def _keep_files(self, ended: Ended) -> None:
        ended = await self._launcher.keep_files(ended)
        self._copying.discard(ended.attempt_id)
        self._inbox.append(ended)
        self._store.signals.wake([JOBS])

    async def _round(self, reports: Sequence[Report]) -> bool:
        """Do what can be done now; True if more may follow at once."""
        reconnected = any(isinstance(report, Reconnected) for report in reports)
        if self._estranged or reconnected or self._clock() - self._told_at >= TELL_EVERY:
            await self._tell_again()
        ended = {report.attempt_id for report in reports if isinstance(report, Ended)}
        self._live -= ended
        self._stopped -= ended
        by_job = await self._take_in(reports)
        outlook = await self._store.read_list(self._look)
        if outlook.nodes_ordered:
            await self._store.write(lambda tx: bring_nodes_up(tx, now=self._clock()))
        moved = await self._move_jobs(by_job, outlook)
        await self._hand_over(moved)
        INSTANCES_RUNNING.set(len(self._live))
        unstored = [fact for job_id in by_job.keys() - moved.keys() for fact in by_job[job_id]]
        self._inbox = [*unstored, *self._inbox]
        ended -= {fact.attempt_id for fact in unstored}
        if ended:
            await self._engine.acknowledge(sorted(ended))
        return bool(ended) or any(each.placed or each.unfinished for each in moved.values())

    async def _take_in(self, reports: Sequence[Report]) -> Mapping[str, list[Started | Ended]]:
        """Reports by job; of each job what its tasks say of failures is known afterwards."""
        by_job: dict[str, list[Started | Ended]] = defaultdict(list)
        for report in reports:
            if not isinstance(report, Reconnected | NodesLost):
                attempt = parse_attempt(report.attempt_id)
                await self._launcher.task_of(attempt.job_id, attempt.position)
                by_job[attempt.job_id].append(report)
        return by_job

    def _look(self, tx: Tx) -> Outlook:
        """Read what there is to do besides what was reported."""
        due = [*tx.execute(sql.DUE_JOBS).scalars(), *tx.execute(sql.JOBS_TO_FAIL).scalars()]
        free = self._engine.capacity - len(self._live)
        rows = tx.execute(sql.WAITING_TASKS, {"most": free}).all() if free > 0 else []
        waiting = [Waiting._make(row) for row in rows]
        env_ids = {task.env_id for task in waiting if task.env_id is not None}
        counted = tx.execute(sql.COUNT_FREE_NODES, {"env_ids": sorted(env_ids)}) if env_ids else ()
        return Outlook(
            due=due,
            waiting=waiting,
            free_nodes={row.env_id: row.n for row in counted},
            nodes_ordered=nodes_are_waiting(tx),
        )

    async def _move_jobs(
        self, by_job: Mapping[str, Sequence[Started | Ended]], outlook: Outlook
    ) -> Mapping[str, Moved]:
        """One transaction per job; they share the store's group commit. A job that cannot be
        moved now is not in the result, and stops no other.
        """
        moved: dict[str, Moved] = {}
        slots = Slots(self._engine.capacity - len(self._live))
        reserved = reserve(slots, outlook.waiting, free_nodes=outlook.free_nodes)
        others = [*outlook.due[:JOBS_AT_ONCE], *reserved]

        async def move(job_id: str) -> None:
            function = partial(
                self._move_job,
                job_id=job_id,
                reports=by_job.get(job_id, ()),
                reserved=reserved[job_id],
                slots=slots,
            )
            try:
                moved[job_id] = await self._store.write(function)
            except Exception:  # a fault of our own included: one job may not stop the others
                log.exception("job_not_moved", job_id=job_id)
                self._estranged = True

        async with anyio.create_task_group() as tasks:
            for job_id in dict.fromkeys([*others, *by_job]):
                tasks.start_soon(move, job_id)
        return moved

    def _move_job(
        self,
        tx: Tx,
        *,
        job_id: str,
        reports: Sequence[Started | Ended],
        reserved: int,
        slots: Slots,
    ) -> Moved:
        changes = open_job(tx, job_id, now=self._clock(), new_id=self._new_id)
        if changes is None:
            return Moved()
        progress = Progress(changes)
        progress.admit()
        progress.learn(reports, self._policies(job_id, reports))
        stopping = progress.terminate()
        progress.settle()
        spare = slots.take(slots.free)
        placed: list[Attempt] = []
        try:
            placed = place(changes, reserved + spare)
            changes.close()
        finally:
            slots.give_back(min(spare, reserved + spare - len(placed)))
        return Moved(placed, stopping, progress.unfinished)

    def _policies(self, job_id: str, reports: Sequence[Started | Ended]) -> Mapping[int, Policy]:
        positions = {parse_attempt(report.attempt_id).position for report in reports}
        return {
            position: _policy(self._launcher.known_task(job_id, position)) for position in positions
        }

    async def _hand_over(self, moved: Mapping[str, Moved]) -> None:
        """Give the engine what was placed and what must stop, after the commit."""
        placed = [attempt for each in moved.values() for attempt in each.placed]
        self._live.update(attempt.id for attempt in placed)
        if placed:
            await self._launcher.start(placed)
        stopping = {id_ for each in moved.values() for id_ in each.stopping} - self._stopped
        if stopping:
            self._stopped |= stopping
            await self._engine.stop(sorted(stopping))

    async def _tell_again(self) -> None:
        """Say again what the engine should be doing: it is new, was lost, or a while has passed.

        Why now and then without a cause: a commit that a dead gateway left hanging in the database
        may come true after this one has read, and nobody else would ever speak of its attempts.
        """
        rows = await self._store.read_list(lambda tx: tx.execute(sql.LAUNCHED).all())
        instances = [read_instance(row) for row in rows]
        self._live = {instance.latest.id for instance in instances}
        self._stopped.clear()
        starting = [i.latest for i in instances if i.state is State.STARTING]
        await self._launcher.start(starting)
        running = [i.latest.id for i in instances if i.state is State.RUNNING]
        await self._engine.reconcile(running)
        self._estranged = False
        self._told_at = self._clock()


def _policy(spec: datatypes.Task | None) -> Policy:
    if spec is None:
        return Policy(retries_max=0, keeps_node=False)
    return Policy(
        retries_max=spec.max_retry_count or 0,
        keeps_node=spec.failed_action in {"INTERRUPT", "FAST_INTERRUPT"},
    )
