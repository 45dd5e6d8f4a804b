"""One job moved on, in one transaction: what it was told, what follows, what may start.

The job's row is locked first, so nothing else moves any part of the job meanwhile. States change
by the table in `states.py` only, and every event is written with the change it tells of.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from gateway.batch import statements as sql
from gateway.batch import tidings
from gateway.batch.attempts import Attempt, parse_attempt
from gateway.batch.engines import Cause, Ended, Started
from gateway.batch.notices import load_notifications
from gateway.batch.outcomes import Policy, judge, reason_of
from gateway.batch.records import Instance, Node, Task, read_instance, read_task
from gateway.batch.states import (
    FINAL,
    OVER,
    WAITING,
    Counts,
    Kind,
    State,
    Trigger,
    advance,
    can,
    outcome,
)
from gateway.events import outbox
from gateway.events.messages import Event
from gateway.events.names import EventName as E
from gateway.ids import NewId
from gateway.store import Conflict, Tx

FAILED_AT_ONCE_MAX = 2_000
"""How many waiting instances one transaction fails; the rest follow in the next."""


class Progress:
    """The work on one job inside one transaction. Make it with `open_job`, end it with `close`."""

    def __init__(self, tx: Tx, job: Row[Any], *, now: datetime, new_id: NewId) -> None:
        self.job = job
        self.job_state = State(job.state)
        self.ended_at: datetime | None = job.ended_at
        self._terminating: bool = job.terminating
        self._reason: str = job.state_reason
        self._tx = tx
        self._now = now
        self._new_id = new_id
        self._tasks: dict[int, Task] = {}
        self._touched: set[int] = set()
        self._events: list[Event] = []
        self._moves: dict[tuple[int, int], dict[str, Any]] = {}
        self._freed: list[dict[str, str]] = []
        self._failed_waiting = 0

    # What happened ---------------------------------------------------------------------------

    def admit(self) -> None:
        """Take a submitted job up: what waits for nobody may run."""
        if self.job_state is not State.SUBMITTED:
            return
        for row in self._tx.execute(sql.TASKS, {"job_id": self.job.id}):
            task = self._keep(row)
            self._move_whole_task(task, Trigger.BLOCKED if task.blockers else Trigger.READY)
        self._move_job(Trigger.READY)

    def learn(self, reports: Sequence[Started | Ended], policies: Mapping[int, Policy]) -> None:
        """Take in what the engine reported of this job's attempts.

        policies: what each task, by position, says of failures.
        """
        wanted: dict[int, set[int]] = {}
        attempts = [(parse_attempt(report.attempt_id), report) for report in reports]
        for attempt, _ in attempts:
            wanted.setdefault(attempt.position, set()).add(attempt.number)
        self._load(wanted)
        instances = {
            (instance.position, instance.number): instance
            for position, numbers in wanted.items()
            for instance in self._instances_at(position, numbers)
        }
        for attempt, report in attempts:
            key = attempt.position, attempt.number
            instance = instances.get(key)
            if instance is None or instance.attempt != attempt.attempt:
                continue
            instance = self._see_started(instance, at=report.at)
            if isinstance(report, Ended):
                instance = self._see_ended(instance, report, policies[attempt.position])
            instances[key] = instance

    def _see_started(self, instance: Instance, *, at: datetime) -> Instance:
        """An attempt that has ended has started before, even if that report was lost."""
        if not can(instance.state, Trigger.STARTED):
            return instance
        task = self._tasks[instance.position]
        if task.env_id is None:
            self._tell(tidings.elastic_node_event(E.COMPUTE_NODE_RUNNING, task, instance))
        if can(self.job_state, Trigger.STARTED):
            self._move_job(Trigger.STARTED)
        if can(task.state, Trigger.STARTED):
            self._move_task(task, Trigger.STARTED)
        return self._move(instance, Trigger.STARTED, running_at=at)

    def _see_ended(self, instance: Instance, ended: Ended, policy: Policy) -> Instance:
        if instance.state not in {State.STARTING, State.RUNNING}:
            return instance
        verdict = judge(
            ended,
            failures=instance.failures,
            losses=instance.losses,
            policy=policy,
            terminating=self._terminating,
        )
        retried = verdict.trigger is Trigger.RETRIED
        task = self._tasks[instance.position]
        if task.env_id is not None:
            self._freed.append({"in_env": task.env_id, "attempt_id": instance.latest.id})
        after = self._move(
            instance,
            verdict.trigger,
            failures=verdict.failures,
            losses=verdict.losses,
            exit_code=ended.exit_code,
            cause=ended.cause.value if ended.cause else None,
            reason=reason_of(ended.cause, exit_code=ended.exit_code, detail=ended.detail),
            ended_at=None if retried else ended.at,
        )
        if task.env_id is None and verdict.trigger is not Trigger.KEPT:
            self._tell(tidings.elastic_node_event(E.COMPUTE_NODE_DELETING, task, instance))
        return after

    # What follows ----------------------------------------------------------------------------

    def terminate(self) -> list[str]:
        """Carry a termination on; returns the attempts that must be stopped."""
        if not self._terminating:
            return []
        positions = self._positions(sql.TASKS_NOT_OVER)
        self._load(positions)
        for position in positions:
            task = self._tasks[position]
            self._doom(task, Cause.TERMINATED)
            for instance in self._instances_in(task, {State.FAILED_INTERRUPTED}):
                self._fail(instance, Cause.TERMINATED)
        self._write_moves()
        rows = self._tx.execute(sql.LAUNCHED_IN_JOB, {"job_id": self.job.id})
        return [read_instance(row).latest.id for row in rows]

    def settle(self) -> None:
        """Draw every conclusion: doomed instances, finished tasks, their followers, the job."""
        self._load(self._positions(sql.TASKS_TO_FAIL))
        open_positions = set(self._tasks)
        while open_positions:
            task = self._tasks[open_positions.pop()]
            self._fail_waiting(task)
            ending = outcome(task.parts())
            if ending is None or not can(task.state, ending):
                continue
            self._move_task(task, ending)
            if task.state in FINAL:
                open_positions |= self._release_followers(task)
        self._settle_job()

    def _fail_waiting(self, task: Task) -> None:
        room = FAILED_AT_ONCE_MAX - self._failed_waiting
        if not task.doom or not room or not _count(task.parts(), WAITING):
            return
        for instance in self._instances_in(task, WAITING, most=room):
            self._fail(instance, Cause(task.doom))
            self._failed_waiting += 1

    def _fail(self, instance: Instance, cause: Cause) -> None:
        self._move(
            instance,
            Trigger.FAILED,
            cause=cause.value,
            reason=reason_of(cause, exit_code=None),
            ended_at=self._now,
        )

    def _release_followers(self, task: Task) -> set[int]:
        """Tell the tasks that wait for this one; returns those that must be looked at again."""
        key = {"job_id": self.job.id, "position": task.position}
        followers = list(self._tx.execute(sql.FOLLOWERS, key).scalars())
        self._load(followers)
        satisfied = _satisfies(task.parts(), self.job.depend_on)
        again: set[int] = set()
        for position in followers:
            follower = self._tasks[position]
            follower.blockers -= 1
            self._touched.add(position)
            if not satisfied:
                self._doom(follower, Cause.PREDECESSOR_FAILED)
                again.add(position)
            elif not follower.blockers and not follower.doom:
                self._move_whole_task(follower, Trigger.READY)
        return again

    def _settle_job(self) -> None:
        self._save_tasks()
        rows = self._tx.execute(sql.TASK_STATES, {"job_id": self.job.id})
        ending = outcome(Counts(**{row.state.lower(): row.n for row in rows}))
        if ending is not None and can(self.job_state, ending):
            self._move_job(ending)

    # What may start --------------------------------------------------------------------------

    def place(self, slots: int) -> list[Attempt]:
        """Put runnable instances on nodes, at most `slots` of them; returns their attempts."""
        if self._terminating or self.job_state in OVER or slots <= 0:
            return []
        self._save_tasks()
        placed: list[Attempt] = []
        for position in self._positions(sql.TASKS_TO_PLACE):
            if len(placed) >= slots:
                break
            self._load([position])
            placed += self._place_task(self._tasks[position], slots - len(placed))
        return placed

    def _place_task(self, task: Task, slots: int) -> list[Attempt]:
        parts = task.parts()
        if task.concurrent_max:
            slots = min(slots, task.concurrent_max - parts.starting - parts.running)
        slots = min(slots, parts.runnable)
        nodes = self._nodes_for(task, slots) if slots > 0 else []
        if not nodes:
            return []
        if can(self.job_state, Trigger.PLACED):
            self._move_job(Trigger.PLACED)
        if can(task.state, Trigger.PLACED):
            self._move_task(task, Trigger.PLACED)
        waiting = self._instances_in(task, {State.RUNNABLE}, most=len(nodes))
        return [
            self._place_instance(task, instance, node)
            for instance, node in zip(waiting, nodes, strict=False)
        ]

    def _place_instance(self, task: Task, instance: Instance, node: Node) -> Attempt:
        after = self._move(
            instance,
            Trigger.PLACED,
            attempt=instance.attempt + 1,
            node_id=node.id,
            node_instance_id=node.instance_id,
            launched_at=self._now,
            running_at=None,
            exit_code=None,
            cause=None,
            reason="",
        )
        if task.env_id is None:
            self._tell(tidings.elastic_node_event(E.COMPUTE_NODE_CREATED, task, after))
        else:
            occupy = {"node_id": node.id, "attempt_id": after.latest.id}
            if self._tx.execute(sql.OCCUPY_NODE, occupy).rowcount != 1:
                raise Conflict(f"node {node.id} is taken")
        return after.latest

    def _nodes_for(self, task: Task, wanted: int) -> list[Node]:
        """Free nodes of the task's environment, or new elastic ones."""
        if task.env_id is None:
            return [Node(self._new_id("node"), self._new_id("ins")) for _ in range(wanted)]
        rows = self._tx.execute(sql.FREE_NODES, {"env_id": task.env_id, "most": wanted})
        return [Node(row.id, row.instance_id) for row in rows]

    # Writing ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Write what is not written yet, the events last."""
        self._write_moves()
        self._save_tasks()
        if self._freed:
            self._tx.execute(sql.FREE_NODE, self._freed)
        if self.job_state is not State(self.job.state) or self._terminating != self.job.terminating:
            self._save_job()
        if self._events:
            stream = outbox.Stream(self.job.id, self.job.owner_uin, self.job.region)
            notifications = load_notifications(self.job.notifications)
            outbox.append(self._tx, stream, self._events, notifications, now=self._now)

    def _save_job(self) -> None:
        values = {
            "job_id": self.job.id,
            "old": self.job.state,
            "new": self.job_state.value,
            "reason": self._reason,
            "still_terminating": self._terminating,
            "over_at": self.ended_at,
        }
        if self._tx.execute(sql.MOVE_JOB, values).rowcount != 1:
            raise Conflict(f"{self.job.id} is no longer {self.job.state}")

    def _save_tasks(self) -> None:
        """Write the tasks that changed, their counters included."""
        rows = []
        for position in sorted(self._touched):
            task = self._tasks[position]
            task.counts = task.parts()
            task.changes.clear()
            counters = {f"n_{name}": getattr(task.counts, name) for name in sql.COUNTERS}
            rows.append(
                {
                    "of_job": self.job.id,
                    "at_position": position,
                    "new": task.state.value,
                    "blockers_left": task.blockers,
                    "doomed_by": task.doom,
                    "over_at": task.ended_at,
                    **counters,
                }
            )
        self._touched.clear()
        if rows:
            self._tx.execute(sql.SAVE_TASK, rows)

    def _write_moves(self) -> None:
        if not self._moves:
            return
        moves = list(self._moves.values())
        if self._tx.execute(sql.MOVE_INSTANCE, moves).rowcount != len(moves):
            raise Conflict(f"an instance of {self.job.id} was moved by someone else")
        self._moves.clear()

    # Moving ----------------------------------------------------------------------------------

    def _move(self, instance: Instance, trigger: Trigger, **values: Any) -> Instance:
        """Move one instance on; the row is written by `_write_moves`."""
        state, event = advance(Kind.INSTANCE, instance.state, trigger)
        after = replace(instance, state=state, **values)
        task = self._tasks[instance.position]
        task.changes[instance.state] -= 1
        task.changes[state] += 1
        self._touched.add(task.position)
        key = instance.position, instance.number
        old = self._moves[key]["old"] if key in self._moves else instance.state.value
        self._moves[key] = {
            "of_job": instance.job_id,
            "at_position": instance.position,
            "at_number": instance.number,
            "old": old,
            "new": state.value,
            "now_attempt": after.attempt,
            "now_failures": after.failures,
            "now_losses": after.losses,
            "on_node": after.node_id,
            "on_instance": after.node_instance_id,
            "exited": after.exit_code,
            "because": after.cause,
            "in_words": after.reason,
            "launch": after.launched_at,
            "run": after.running_at,
            "over_at": after.ended_at,
        }
        if event is not None:
            self._tell(tidings.instance_event(event, self.job, task, after))
        return after

    def _move_whole_task(self, task: Task, trigger: Trigger) -> None:
        """Move a task and all its instances, which are in the same state, in one statement."""
        before = task.state
        self._move_task(task, trigger)
        moved = self._tx.execute(
            sql.MOVE_ALL_INSTANCES,
            {
                "of_job": self.job.id,
                "at_position": task.position,
                "old": before.value,
                "new": task.state.value,
            },
        ).rowcount
        task.changes[before] -= moved
        task.changes[task.state] += moved

    def _move_task(self, task: Task, trigger: Trigger) -> None:
        task.state, event = advance(Kind.TASK, task.state, trigger)
        task.ended_at = self._now if task.state in FINAL else None
        self._touched.add(task.position)
        if event is not None:
            self._tell(tidings.task_event(event, self.job, task))

    def _move_job(self, trigger: Trigger) -> None:
        self.job_state, event = advance(Kind.JOB, self.job_state, trigger)
        if self.job_state in FINAL:
            self.ended_at = self._now
            self._terminating = False
        if trigger in {Trigger.FAILED, Trigger.KEPT}:
            self._reason = self._reason or "At least one task did not succeed."
        if event is not None:
            self._tell(
                tidings.job_event(
                    event,
                    self.job,
                    state=self.job_state,
                    reason=self._reason,
                    ended_at=self.ended_at,
                )
            )

    def _doom(self, task: Task, cause: Cause) -> None:
        """Make every instance that has not been started fail, for this cause."""
        if not task.doom:
            task.doom = cause.value
            self._touched.add(task.position)

    def _tell(self, event: Event) -> None:
        self._events.append(event)

    # Reading ---------------------------------------------------------------------------------

    def _load(self, positions: Iterable[int]) -> None:
        missing = [position for position in positions if position not in self._tasks]
        if missing:
            keys = {"job_id": self.job.id, "positions": missing}
            for row in self._tx.execute(sql.TASKS_AT, keys):
                self._keep(row)

    def _keep(self, row: Row[Any]) -> Task:
        return self._tasks.setdefault(row.position, read_task(row))

    def _positions(self, statement: Any) -> list[int]:
        return list(self._tx.execute(statement, {"job_id": self.job.id}).scalars())

    def _instances_at(self, position: int, numbers: Iterable[int]) -> list[Instance]:
        keys = {"job_id": self.job.id, "position": position, "numbers": list(numbers)}
        return [read_instance(row) for row in self._tx.execute(sql.INSTANCES_AT, keys)]

    def _instances_in(
        self, task: Task, states: Iterable[State], *, most: int = FAILED_AT_ONCE_MAX
    ) -> list[Instance]:
        """Instances by state, as the rows stand after everything moved so far."""
        self._write_moves()
        keys = {
            "job_id": self.job.id,
            "position": task.position,
            "states": [state.value for state in states],
            "most": most,
        }
        return [read_instance(row) for row in self._tx.execute(sql.INSTANCES_IN, keys)]


def open_job(tx: Tx, job_id: str, *, now: datetime, new_id: NewId) -> Progress | None:
    """Lock a job to move it on; None if it is gone."""
    row = tx.execute(sql.LOCK_JOB, {"job_id": job_id}).first()
    return None if row is None else Progress(tx, row, now=now, new_id=new_id)


def _count(parts: Counts, states: Iterable[State]) -> int:
    return sum(getattr(parts, state.value.lower()) for state in states)


def _satisfies(parts: Counts, depend_on: str) -> bool:
    """Whether a finished task lets its followers run, by the job's TaskExecutionDependOn."""
    if depend_on == "PRE_TASK_FINISHED":
        return True
    if depend_on == "PRE_TASK_AT_LEAST_PARTLY_SUCCEED":
        return parts.succeed > 0
    return parts.succeed == parts.total
