"""The scheduler: takes the engine's reports in, moves jobs on, hands new attempts to the engine.

One transaction per job and round. What it keeps in memory can be read again from the rows, and
is, whenever the engine was lost or this process is new.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

import anyio
from anyio.abc import TaskGroup, TaskStatus

from gateway.batch import statements as sql
from gateway.batch.attempts import parse_attempt
from gateway.batch.catalogue import Catalogue
from gateway.batch.changes import Append, open_job
from gateway.batch.engines import Ended, Engine, NodesLost, Reconnected, Report, Started
from gateway.batch.environments.upkeep import lose_nodes
from gateway.batch.jobs import JOBS, TERMINATIONS
from gateway.batch.launching import Launcher
from gateway.batch.live import Live
from gateway.batch.looking import LOOK_S, NOTHING_NEW, Lookout, Outlook
from gateway.batch.placing import Placed, place
from gateway.batch.progress import Progress
from gateway.batch.records import read_instance
from gateway.batch.slots import FreeNodes, Load, QueuedTask, Room, Slots, reserve
from gateway.batch.states import State
from gateway.batch.waiting_statements import DUE_JOBS, JOBS_TO_FAIL, WAITING_TASKS
from gateway.clock import Clock
from gateway.events import outbox
from gateway.ids import NewId
from gateway.store import Conflict, Store, StoreUnavailable, Tx
from gateway.telemetry import INSTANCES_RUNNING, log

IDLE_S = 5.0
RETRY_S = 1.0
TELL_EVERY = timedelta(seconds=60)
JOBS_AT_ONCE = 64
SICK_S_MAX = 16.0
"""The longest that a job which cannot be moved is left alone before the next try."""
_TWO_OPEN_TASKS = sql.OPEN_TASKS.limit(2)


@dataclass(slots=True)
class Moved:
    """What one job's transaction came to.

    told_to_end: it is terminating, and nothing is left to be done before an attempt has ended.
    waits: instances of it wait for room, and not for a node of an environment. task_ended: a task
    of it is over. released: what follows one may have got no room, for other accounts wait for
    some, or another transaction had it at that moment.
    """

    placed: list[Placed] = field(default_factory=list)
    stopping: list[str] = field(default_factory=list)
    unfinished: bool = False
    admitted: bool = False
    told_to_end: bool = False
    waits: bool = False
    task_ended: bool = False
    released: bool = False


@dataclass(frozen=True, slots=True)
class Sick:
    """A job that could not be moved: the next try is not before `retry_at`, `pause_s` later."""

    retry_at: datetime
    pause_s: float


class Scheduler:
    """Runs the jobs of a store on an engine.

    catalogue: says which elastic nodes can be made. load: told how full the engine is. append:
    records the events of jobs.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        launcher: Launcher,
        *,
        clock: Clock,
        new_id: NewId,
        catalogue: Catalogue,
        load: Load,
        append: Append = outbox.append,
    ) -> None:
        self._store = store
        self._append = append
        self._engine = engine
        self._launcher = launcher
        self._clock = clock
        self._new_id = new_id
        self._inbox: list[Report] = []
        self._live = Live()
        self._catalogue = catalogue
        self._load = load
        self._sick: dict[str, Sick] = {}
        self._lookout = Lookout()
        self._own_wakes = 0
        self._terminations_seen = -1
        self._stopped: set[str] = set()
        self._told_to_end: set[str] = set()  # jobs; they come again with their attempts' ends
        self._copying: set[str] = set()
        self._estranged = True  # another one may have told the engine something before it failed
        self._told_at = clock()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Schedule until cancelled. What fails is logged and tried again: the rows say what is
        left to do, and the engine is told again, for nobody knows what it was told.
        """
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._launcher.run, self._hear, self._load.note)
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
                    rest_s = LOOK_S if self._lookout.skipped else IDLE_S
                    await self._store.signals.wait(JOBS, seen=seen, at_most_s=rest_s)

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
            self._wake()

    async def _keep_files(self, ended: Ended) -> None:
        tell = partial(self._load.note, ended.attempt_id)
        ended = await self._launcher.keep_files(ended, tell=tell)
        self._copying.discard(ended.attempt_id)
        self._hear(ended)

    def _hear(self, ended: Ended) -> None:
        self._inbox.append(ended)
        self._wake()

    def _wake(self) -> None:
        """Have a round begin for what was reported."""
        self._own_wakes += 1
        self._store.signals.wake([JOBS])

    async def _round(self, reports: list[Report]) -> bool:
        """Do what can be done now; True if more may follow at once."""
        reconnected = any(isinstance(report, Reconnected) for report in reports)
        if self._estranged or reconnected or self._clock() - self._told_at >= TELL_EVERY:
            await self._tell_again()
        ended = {report.attempt_id: report for report in reports if isinstance(report, Ended)}
        self._live.end(ended)
        self._stopped.difference_update(ended)
        await self._lose_nodes(reports)
        by_job = _by_job(reports)
        outlook = await self._look_ahead(by_job.keys())
        slots = self._live.slots(
            capacity=self._engine.capacity,
            mem_gib=self._engine.mem_gib,
            newcomers=outlook.newcomers,
        )
        moved = await self._move_jobs(by_job, outlook, slots)
        self._told_to_end.difference_update(moved)
        self._told_to_end |= {job_id for job_id, each in moved.items() if each.told_to_end}
        await self._hand_over(moved, terminating=outlook.terminating)
        INSTANCES_RUNNING.set(len(self._live))
        self._load.attempts = len(self._live)
        self._load.mem_gib = self._live.mem_gib
        self._load.used = self._live.used()
        unstored = [fact for job_id in by_job.keys() - moved.keys() for fact in by_job[job_id]]
        self._inbox = [*unstored, *self._inbox]
        for fact in unstored:
            ended.pop(fact.attempt_id, None)
        if ended:
            self._launcher.finish(ended.values())
        busy = _may_go_on(
            moved,
            outlook,
            has_room=slots.free.places > 0,
            ended=bool(ended),
            alone=self._lookout.skipped and len(moved) == 1,
        )
        if busy or any(each.task_ended for each in moved.values()):
            self._lookout.forget()
        self._lookout.note_waiting(job_id for job_id, each in moved.items() if each.waits)
        return busy

    async def _lose_nodes(self, reports: list[Report]) -> None:
        """Note that all nodes are lost, if that is told.

        Why it is taken out of the reports: should the round fail after it, they are looked at
        again, and the nodes that were made meanwhile are others.
        """
        losses = [report for report in reports if isinstance(report, NodesLost)]
        if losses:
            await self._store.write(lose_nodes)
            reports[:] = [report for report in reports if not isinstance(report, NodesLost)]
            await self._engine.acknowledge_loss(losses[-1])

    async def _look_ahead(self, reported: Set[str]) -> Outlook:
        """Read what there is to do besides what was reported of some jobs, if there may be more.

        Why instances that are to end are looked for only when somebody asked for it, or the engine
        is told everything again: there may be a hundred thousand. And why else it is read where
        changes are written: that connection has the rows at hand, and who reads beside it reads
        the pages anew after each commit.
        """
        calls, now = self._store.signals.count(JOBS) - self._own_wakes, self._clock()
        if self._lookout.may_skip(reported, calls=calls, now=now):
            return NOTHING_NEW
        asked = self._store.signals.count(TERMINATIONS)
        terminations = asked != self._terminations_seen
        run = self._store.read_list if terminations else self._store.write
        outlook = await run(partial(self._look, terminations=terminations))
        self._terminations_seen = asked
        self._lookout.note_look(outlook, calls=calls, now=now)
        return outlook

    def _look(self, tx: Tx, *, terminations: bool) -> Outlook:
        now = self._clock()
        sick = sorted(job_id for job_id in self._sick if self._is_sick(job_id, now=now))
        keys = {"sick": sick, "most": JOBS_AT_ONCE}
        due = tx.execute(DUE_JOBS, {**keys, "told_to_end": sorted(self._told_to_end)}).all()
        to_fail = tx.execute(JOBS_TO_FAIL, keys).scalars().all()
        free = self._engine.capacity - len(self._live)
        keys = {"sick": sick, "most": free + 1, "moment": now}  # one more: to know of others
        rows = tx.execute(WAITING_TASKS, keys).all() if free > 0 else []
        waiting = [QueuedTask._make(row) for row in rows]
        env_ids = {task.env_id for task in waiting if task.env_id is not None}
        counted = tx.execute(sql.COUNT_FREE_NODES, {"env_ids": sorted(env_ids)}) if env_ids else ()
        rows = tx.execute(sql.TERMINATING).all() if terminations else []
        return Outlook(
            due=[*(row.id for row in due), *to_fail],
            newcomers={row.owner_uin for row in due},
            waiting=waiting,
            free_nodes={row.env_id: FreeNodes(row.n, row.mem_gib) for row in counted},
            terminating=[read_instance(row[:-2]).latest.id for row in rows],
            sick=sick,
            saw_all=free > 0 and len(waiting) <= free,
            only_task=len(waiting) == 1 and _is_only_task(tx, waiting[0].job_id),
        )

    def _is_sick(self, job_id: str, *, now: datetime) -> bool:
        sick = self._sick.get(job_id)
        return sick is not None and now < sick.retry_at

    def _note_sick(self, job_id: str) -> None:
        before = self._sick.get(job_id)
        pause_s = min(SICK_S_MAX, before.pause_s * 2 if before else RETRY_S)
        self._sick[job_id] = Sick(self._clock() + timedelta(seconds=pause_s), pause_s)
        self._store.signals.wake([JOBS])  # others may have what was kept for it

    async def _move_jobs(
        self, by_job: Mapping[str, Sequence[Started | Ended]], outlook: Outlook, slots: Slots
    ) -> Mapping[str, Moved]:
        """One transaction per job; they share the store's group commit. A job that cannot be
        moved now is not in the result, and stops no other.
        """
        moved: dict[str, Moved] = {}
        reserved = reserve(slots, outlook.waiting, free_nodes=outlook.free_nodes)
        others = [*outlook.due, *reserved]

        async def move(job_id: str) -> None:
            function = partial(
                self._move_job,
                job_id=job_id,
                reports=by_job.get(job_id, ()),
                reserved=reserved.get(job_id),
                slots=slots,
                sick=outlook.sick,
                is_only_task=self._lookout.is_only_task,
            )
            try:
                moved[job_id] = await self._store.write(function)
                self._sick.pop(job_id, None)
            except StoreUnavailable:  # it may be committed all the same
                log.exception("job_not_moved", job_id=job_id)
                self._estranged = True
            except Exception:  # a fault of our own included: one job may not stop the others
                log.exception("job_not_moved", job_id=job_id)
                self._note_sick(job_id)

        now = self._clock()
        job_ids = dict.fromkeys([*others, *by_job])
        to_move = [job_id for job_id in job_ids if not self._is_sick(job_id, now=now)]
        if len(to_move) == 1:  # most rounds under load, and a group costs as much as a statement
            await move(to_move[0])
            return moved
        async with anyio.create_task_group() as tasks:
            for job_id in to_move:
                tasks.start_soon(move, job_id)
        return moved

    def _move_job(
        self,
        tx: Tx,
        *,
        job_id: str,
        reports: Sequence[Started | Ended],
        reserved: Room | None,
        slots: Slots,
        sick: Sequence[str],
        is_only_task: bool,
    ) -> Moved:
        changes = open_job(tx, job_id, now=self._clock(), new_id=self._new_id, append=self._append)
        if changes is None:
            return Moved()
        progress = Progress(changes)
        admitted = progress.admit()
        progress.learn(reports)
        stopping = progress.terminate()
        progress.settle()
        owner_uin = changes.job.owner_uin
        rest = slots.take_rest(owner_uin)
        room = replace(rest)
        if reserved is not None:
            room.add(reserved)
        try:
            placed = place(
                changes, room, catalogue=self._catalogue, sick=sick, is_only_task=is_only_task
            )
            changes.close()
        except BaseException:  # the store may run this again, with what is reserved
            slots.give_back(owner_uin, rest)
            raise
        is_short = not room.fits(1)
        slots.give_back(owner_uin, room)
        if placed and reserved is None:  # for what is reserved it had its turn
            slots.note_turn(owner_uin)
        told_to_end = changes.terminating and not progress.unfinished
        return Moved(
            placed,
            stopping,
            progress.unfinished,
            admitted,
            told_to_end,
            waits=changes.waits_for_room,
            task_ended=changes.task_ended,
            released=changes.task_ended and (is_short or slots.has_rivals(owner_uin)),
        )

    async def _hand_over(self, moved: Mapping[str, Moved], *, terminating: Sequence[str]) -> None:
        """Give the engine what was placed and what must stop, after the commit."""
        placed = [each for job in moved.values() for each in job.placed]
        for each in placed:
            self._live.add(each.attempt.id, owner_uin=each.owner_uin, mem_gib=each.mem_gib)
        if placed:
            await self._launcher.start({each.attempt: each.node for each in placed})
        stopping = {id_ for each in moved.values() for id_ in each.stopping}
        stopping = stopping.union(terminating) - self._stopped
        if stopping:
            self._stopped |= stopping
            await self._launcher.stop(sorted(stopping))

    async def _tell_again(self) -> None:
        """Say again what the engine should be doing: it is new, was lost, or a while has passed.

        Why now and then without a cause: a commit that a dead gateway left hanging in the database
        may come true after this one has read, and nobody else would ever speak of its attempts.
        """
        rows = await self._store.read_list(lambda tx: tx.execute(sql.LAUNCHED_INSTANCES).all())
        instances = [read_instance(row[:-2]) for row in rows]
        self._live.clear()
        for instance, row in zip(instances, rows, strict=True):
            mem_gib = min(row.mem_gib, self._engine.mem_gib)
            self._live.add(instance.latest.id, owner_uin=row.owner_uin, mem_gib=mem_gib)
        self._stopped.clear()
        self._told_to_end.clear()
        self._terminations_seen = -1
        self._lookout.forget()
        starting = {i.latest: None for i in instances if i.state is State.STARTING}
        await self._launcher.start(starting)
        running = [i.latest.id for i in instances if i.state is State.RUNNING]
        await self._engine.reconcile(running)
        self._estranged = False
        self._told_at = self._clock()


def _is_only_task(tx: Tx, job_id: str) -> bool:
    """Whether one task of a job is open, and no more."""
    return len(tx.execute(_TWO_OPEN_TASKS, {"job_id": job_id}).all()) == 1


def _may_go_on(
    moved: Mapping[str, Moved], outlook: Outlook, *, has_room: bool, ended: bool, alone: bool
) -> bool:
    """Whether the next round may have something to do though nothing new is heard.

    has_room: something is left of what this round could give. alone: to one job, which could have
    had all of it. Nodes of environments that were freed and not taken again wake the next round by
    themselves.
    """
    if any(each.unfinished or each.admitted or each.told_to_end for each in moved.values()):
        return True
    if not has_room:
        return False
    if any(each.released for each in moved.values()):
        return True
    if alone or not (ended or any(each.placed for each in moved.values())):
        return False
    return any(each.waits for each in moved.values()) or any(
        task.env_id is None and task.job_id not in moved for task in outlook.waiting
    )


def _by_job(reports: Sequence[Report]) -> Mapping[str, list[Started | Ended]]:
    by_job: dict[str, list[Started | Ended]] = defaultdict(list)
    for report in reports:
        if not isinstance(report, Reconnected | NodesLost):
            by_job[parse_attempt(report.attempt_id).job_id].append(report)
    return by_job
