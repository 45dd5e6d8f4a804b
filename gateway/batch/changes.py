"""The rows of one job inside one transaction: read once, moved by the table, written together.

The job's row is locked first, so nothing else moves any part of the job meanwhile. States change
by the table in `states.py` only, and every event is written with the change it tells of.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, Protocol

from msgspec.structs import replace
from sqlalchemy import Row

from gateway.batch import statements as sql
from gateway.batch import tidings
from gateway.batch.environments import ENVIRONMENTS
from gateway.batch.environments.records import Fate
from gateway.batch.jobs import JOBS, TERMINATIONS
from gateway.batch.notices import load_notifications
from gateway.batch.records import Instance, Node, Task, read_instance, read_task
from gateway.batch.states import FINAL, OVER, Counts, Kind, State, Trigger, advance
from gateway.events import outbox
from gateway.events.messages import Event, Notification
from gateway.ids import NewId
from gateway.store import Conflict, Tx

TASK_FAILED = "At least one task did not succeed."
TERMINATED = "It was terminated on request."


class Append(Protocol):
    """Records what happened, and what is to be told of it: see `outbox.append`."""

    def __call__(
        self,
        tx: Tx,
        stream: outbox.Stream,
        events: Sequence[Event],
        *,
        notifications: Sequence[Notification],
        now: datetime,
    ) -> None:
        """Record events in their order."""
        ...


class JobChanges:
    """A locked job and what changes of it. End it with `close`.

    tasks: those read so far, by position. task_ended: whether one came to its end here.
    """

    def __init__(
        self,
        tx: Tx,
        job: Row[Any],
        *,
        now: datetime,
        new_id: NewId,
        append: Append = outbox.append,
    ) -> None:
        self.job = job
        self.state = State(job.state)
        self.terminating: bool = job.terminating
        self.tasks: dict[int, Task] = {}
        self.task_ended = False
        self.now = now
        self.new_id = new_id
        self._reason: str = job.state_reason
        self._ended_at: datetime | None = job.ended_at
        self._tx = tx
        self._append = append
        self._touched: set[int] = set()
        self._events: list[Event] = []
        self._moves: dict[tuple[int, int], tuple[State, Instance]] = {}
        self._freed: list[dict[str, str]] = []
        self._occupied: list[dict[str, str]] = []
        self._free_again: set[str] = set()  # nodes that were given back and not taken again

    # Moving ----------------------------------------------------------------------------------

    def move(self, instance: Instance, trigger: Trigger, **values: Any) -> Instance:
        """Move one instance on, with other columns of its row; returns it as it is now."""
        state, event = advance(Kind.INSTANCE, instance.state, trigger)
        after = replace(instance, state=state, **values)
        task = self.tasks[instance.position]
        task.changes[instance.state] -= 1
        task.changes[state] += 1
        self._touched.add(task.position)
        key = instance.position, instance.number
        before = self._moves[key][0] if key in self._moves else instance.state
        self._moves[key] = before, after
        if event is not None:
            self.tell(tidings.instance_event(event, self.job, task, after))
        return after

    def move_whole_task(self, task: Task, trigger: Trigger) -> None:
        """Move a task and all its instances, which are in the same state, in one statement."""
        before = task.state
        self.move_task(task, trigger)
        values = {
            "of_job": self.job.id,
            "at_position": task.position,
            "old": before.value,
            "new": task.state.value,
        }
        moved = self._tx.execute(sql.MOVE_ALL_INSTANCES, values).rowcount
        task.changes[before] -= moved
        task.changes[task.state] += moved

    def move_task(self, task: Task, trigger: Trigger) -> None:
        """Move a task on, without its instances."""
        task.state, event = advance(Kind.TASK, task.state, trigger)
        task.ended_at = self._last_end(task) if task.state in FINAL else None
        self.task_ended |= task.state in OVER
        self._touched.add(task.position)
        if event is not None:
            self.tell(tidings.task_event(event, self.job, task))

    def _last_end(self, task: Task) -> datetime:
        """When the last instance of a task ended, whichever was told of last."""
        self._write_moves()
        keys = {"job_id": self.job.id, "position": task.position}
        ended_at: datetime | None = self._tx.execute(sql.LAST_INSTANCE_END, keys).scalar_one()
        return ended_at or self.now

    def move_job(self, trigger: Trigger) -> None:
        """Move the job on, without its tasks."""
        self.state, event = advance(Kind.JOB, self.state, trigger)
        if trigger in {Trigger.FAILED, Trigger.KEPT}:
            self._reason = TERMINATED if self.terminating else self._why_failed()
        if self.state in FINAL:
            self._save_tasks()
            ended_at = self._tx.execute(sql.LAST_TASK_END, {"job_id": self.job.id}).scalar_one()
            self._ended_at = ended_at or self.now
            self.terminating = False
        if event is not None:
            self.tell(
                tidings.job_event(
                    event,
                    self.job,
                    state=self.state,
                    reason=self._reason,
                    ended_at=self._ended_at,
                )
            )

    def _why_failed(self) -> str:
        """The first failure that is not the consequence of another."""
        self._write_moves()
        self._save_tasks()
        task = self._tx.execute(sql.FIRST_FAILED_TASK, {"job_id": self.job.id}).first()
        if task is None:
            return TASK_FAILED
        failed = [state.value for state in OVER if state is not State.SUCCEED]
        keys = {"job_id": self.job.id, "position": task.position, "states": failed, "most": 1}
        row = self._tx.execute(sql.INSTANCES_IN, keys).one()
        words = f"{row.cause}. {row.reason}".strip()
        return f"{TASK_FAILED} The first is `{task.name}`: its instance {row.number}: {words}"

    def tell(self, event: Event) -> None:
        """Record an event; they are written in this order."""
        self._events.append(event)

    def touch(self, task: Task) -> None:
        """Have a task's row written: something besides its state has changed."""
        self._touched.add(task.position)

    def occupy(self, node: Node, instance: Instance) -> None:
        """Give a node of an environment to an instance's newest attempt."""
        self._occupied.append({"at_node": node.id, "attempt_id": instance.latest.id})

    def free(self, instance: Instance, *, fate: Fate = Fate.NONE) -> None:
        """Give back the node of an environment that an instance's newest attempt has.

        fate: what is to be done to it before it runs anything else.
        """
        self._freed.append(
            {"at_node": instance.node_id, "attempt_id": instance.latest.id, "next_fate": fate.value}
        )

    def ask_to_end(self, instance: Instance) -> None:
        """Note that an instance which the engine has is to be stopped."""
        self._write_moves()
        self._tx.execute(sql.INSTANCE_WISH, _place_of(instance))
        self._tx.wake(TERMINATIONS)

    def count_failed_run(self, task: Task) -> None:
        """A node that could not be made counts as a failed run of all that wait for one.

        What has no try left is failed later: until then the task has no time for its next try.
        """
        self._write_moves()
        keys = {"of_job": self.job.id, "at_position": task.position}
        self._tx.execute(sql.COUNT_FAILED_RUN, keys)
        self._tx.wake(JOBS)
        task.node_retry_at = None

    # Reading ---------------------------------------------------------------------------------

    def load_tasks(self, positions: Iterable[int]) -> None:
        """Read the tasks at these positions, unless they are here already."""
        missing = [position for position in positions if position not in self.tasks]
        if missing:
            self._read_tasks(sql.TASKS_AT, {"job_id": self.job.id, "positions": missing})

    def load_all_tasks(self) -> Sequence[Task]:
        """Every task of the job, in order."""
        self._read_tasks(sql.TASKS, {"job_id": self.job.id})
        return [self.tasks[position] for position in sorted(self.tasks)]

    def _read_tasks(self, statement: Any, keys: Mapping[str, Any]) -> None:
        for row in self._tx.execute(statement, keys):
            self.tasks.setdefault(row.position, read_task(row))

    def positions(self, statement: Any, **keys: Any) -> list[int]:
        """Positions of tasks of this job that a statement finds in the rows written so far."""
        return list(self._tx.execute(statement, {"job_id": self.job.id, **keys}).scalars())

    def instances_at(self, position: int, numbers: Iterable[int]) -> list[Instance]:
        """Instances of one task by their numbers."""
        keys = {"job_id": self.job.id, "position": position, "numbers": list(numbers)}
        return [read_instance(row) for row in self._tx.execute(sql.INSTANCES_AT, keys)]

    def instances_in(self, task: Task, states: Iterable[State], *, most: int) -> list[Instance]:
        """The first `most` instances of a task that are in one of these states now."""
        self._write_moves()
        keys = {
            "job_id": self.job.id,
            "position": task.position,
            "states": [state.value for state in states],
            "most": most,
        }
        return [read_instance(row) for row in self._tx.execute(sql.INSTANCES_IN, keys)]

    def without_a_try(self, task: Task, *, failures_max: int, most: int) -> list[Instance]:
        """The first `most` runnable instances of a task that failed more often than it allows."""
        self._write_moves()
        keys = {
            "job_id": self.job.id,
            "position": task.position,
            "failures_max": failures_max,
            "most": most,
        }
        return [read_instance(row) for row in self._tx.execute(sql.WITHOUT_A_TRY, keys)]

    def launched(self) -> list[Instance]:
        """The instances of this job that an engine has."""
        self._write_moves()
        rows = self._tx.execute(sql.LAUNCHED_IN_JOB, {"job_id": self.job.id})
        return [read_instance(row) for row in rows]

    def free_nodes(self, env_id: str, *, most: int) -> list[Node]:
        """Nodes of an environment that run nothing, those given back here included."""
        self._write_nodes()
        rows = self._tx.execute(sql.FREE_NODES, {"env_id": env_id, "most": most})
        return [Node._make(row) for row in rows]

    @property
    def waits_for_room(self) -> bool:
        """Whether a task read so far has instances that could run on nodes of their own."""
        return any(task.env_id is None and task.parts().runnable for task in self.tasks.values())

    def count_task_states(self) -> Counts:
        """How many tasks of the job are in each state now."""
        self._save_tasks()
        rows = self._tx.execute(sql.TASK_STATES, {"job_id": self.job.id})
        return Counts(**{row.state.lower(): row.n for row in rows})

    # Writing ---------------------------------------------------------------------------------

    def save(self) -> None:
        """Write tasks and nodes now, for statements that look at them."""
        self._write_nodes()
        self._save_tasks()

    def close(self) -> None:
        """Write what is not written yet, the events last."""
        self._write_moves()
        self._write_nodes()
        if self._free_again:
            self._tx.wake(JOBS)  # another job may wait for them
        self._save_tasks()
        if self.state is not State(self.job.state) or self.terminating != self.job.terminating:
            self._save_job()
        if self._events:
            stream = outbox.Stream(self.job.id, self.job.owner_uin, self.job.region)
            notifications = load_notifications(self.job.notifications)
            self._append(self._tx, stream, self._events, notifications=notifications, now=self.now)

    def _save_job(self) -> None:
        values = {
            "job_id": self.job.id,
            "old": self.job.state,
            "new": self.state.value,
            "reason": self._reason,
            "still_terminating": self.terminating,
            "over_at": self._ended_at,
        }
        if self._tx.execute(sql.MOVE_JOB, values).rowcount != 1:
            raise Conflict(f"{self.job.id} is no longer {self.job.state}")

    def _save_tasks(self) -> None:
        """Write the tasks that changed, their counters included."""
        rows = []
        for position in sorted(self._touched):
            task = self.tasks[position]
            task.counts = task.parts()
            task.changes.clear()
            rows.append(
                {
                    "of_job": self.job.id,
                    "at_position": position,
                    "new": task.state.value,
                    "blockers_left": task.blockers,
                    "doomed_by": task.doom,
                    "nodes_failed": task.node_failures,
                    "try_at": task.node_retry_at,
                    "no_node_because": task.node_reason,
                    "over_at": task.ended_at,
                    **dict(zip(sql.COUNTER_KEYS, task.counts, strict=True)),
                }
            )
        self._touched.clear()
        if rows:
            self._tx.execute(sql.SAVE_TASK, rows)

    def _write_moves(self) -> None:
        moves = [_move_row(before, after) for before, after in self._moves.values()]
        self._moves.clear()
        if moves and self._tx.execute(sql.MOVE_INSTANCE, moves).rowcount != len(moves):
            raise Conflict(f"an instance of {self.job.id} was moved by someone else")

    def _write_nodes(self) -> None:
        """Give nodes back, then take nodes: one attempt at a time has a node."""
        freed, self._freed = self._freed, []
        occupied, self._occupied = self._occupied, []
        if freed:
            freed.sort(key=itemgetter("at_node"))  # the order in which the keeper locks them
            self._tx.execute(sql.FREE_NODE, freed)
            if any(each["next_fate"] for each in freed):
                self._tx.wake(ENVIRONMENTS)
        if occupied and self._tx.execute(sql.OCCUPY_NODE, occupied).rowcount != len(occupied):
            raise Conflict(f"a node that {self.job.id} was to have is taken")
        self._free_again.update(each["at_node"] for each in freed)
        self._free_again.difference_update(each["at_node"] for each in occupied)


def _move_row(before: State, after: Instance) -> dict[str, Any]:
    return {
        "of_job": after.job_id,
        "at_position": after.position,
        "at_number": after.number,
        "old": before.value,
        "new": after.state.value,
        "now_attempt": after.attempt,
        "still_terminating": after.terminating,
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


def _place_of(instance: Instance) -> dict[str, Any]:
    return {
        "of_job": instance.job_id,
        "at_position": instance.position,
        "at_number": instance.number,
    }


def open_job(
    tx: Tx, job_id: str, *, now: datetime, new_id: NewId, append: Append = outbox.append
) -> JobChanges | None:
    """Lock a job to move it on; None if it is gone. append: records its events."""
    row = tx.execute(sql.LOCK_JOB, {"job_id": job_id}).first()
    return None if row is None else JobChanges(tx, row, now=now, new_id=new_id, append=append)
