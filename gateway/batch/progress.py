"""One job moved on: what it was told, and what follows from it."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from gateway.batch import statements as sql
from gateway.batch import tidings
from gateway.batch.attempts import parse_attempt
from gateway.batch.changes import JobChanges
from gateway.batch.engines import Cause, Ended, Started
from gateway.batch.environments.records import Fate
from gateway.batch.node_waits import wait_before
from gateway.batch.outcomes import RetryRules, end_in_words, judge, reason_of
from gateway.batch.records import Instance, Task
from gateway.batch.states import LAUNCHED, OVER, WAITING, Counts, State, Trigger, can, outcome
from gateway.events.names import EventName as E

FAILED_AT_ONCE_MAX = 2_000
"""How many instances one transaction fails at most; the rest follow in the next."""
TASK_COSTS = 10
"""For so many instances each task counts besides: it has statements of its own."""


class Progress:
    """The conclusions drawn for one job inside one transaction."""

    def __init__(self, changes: JobChanges) -> None:
        self._changes = changes
        self._room = FAILED_AT_ONCE_MAX

    @property
    def unfinished(self) -> bool:
        """Whether there was more to fail than one transaction does."""
        return self._room <= 0

    # What happened ---------------------------------------------------------------------------

    def admit(self) -> bool:
        """Take a submitted job up: what waits for nobody may run. False if it was before."""
        if not can(self._changes.state, Trigger.READY):
            return False
        for task in self._changes.load_all_tasks():
            trigger = Trigger.BLOCKED if task.blockers else Trigger.READY
            if can(task.state, trigger):  # one that succeeded before RetryJobs stays so
                self._changes.move_whole_task(task, trigger)
        self._changes.move_job(Trigger.READY)
        return True

    def learn(self, reports: Sequence[Started | Ended]) -> None:
        """Take in what the engine reported of this job's attempts."""
        wanted: dict[int, set[int]] = {}
        attempts = [(parse_attempt(report.attempt_id), report) for report in reports]
        for attempt, _ in attempts:
            wanted.setdefault(attempt.position, set()).add(attempt.number)
        self._changes.load_tasks(wanted)
        retry_rules = {
            position: self._changes.tasks[position].retry_rules
            for position in wanted
            if position in self._changes.tasks
        }
        instances = {
            (instance.position, instance.number): instance
            for position, numbers in wanted.items()
            for instance in self._changes.instances_at(position, numbers)
        }
        for attempt, report in attempts:
            key = attempt.position, attempt.number
            instance = instances.get(key)
            if instance is None or instance.attempt != attempt.attempt:
                continue
            if isinstance(report, Started) or report.started:
                instance = self._see_started(instance, at=report.at)
            if isinstance(report, Ended):
                instance = self._see_ended(instance, report, retry_rules[attempt.position])
            instances[key] = instance

    def _see_started(self, instance: Instance, *, at: datetime) -> Instance:
        """An attempt that has ended has started before, even if that report was lost."""
        if not can(instance.state, Trigger.STARTED):
            return instance
        task = self._changes.tasks[instance.position]
        if task.env_id is None:
            running = E.COMPUTE_NODE_RUNNING
            self._changes.tell(tidings.elastic_node_event(running, task, instance))
        if can(self._changes.state, Trigger.STARTED):
            self._changes.move_job(Trigger.STARTED)
        if can(task.state, Trigger.STARTED):
            self._changes.move_task(task, Trigger.STARTED)
        return self._changes.move(instance, Trigger.STARTED, running_at=at)

    def _see_ended(self, instance: Instance, ended: Ended, retry_rules: RetryRules) -> Instance:
        if instance.state not in LAUNCHED:
            return instance
        verdict = judge(
            ended,
            failures=instance.failures,
            losses=instance.losses,
            retry_rules=retry_rules,
            terminating=self._changes.terminating or instance.terminating,
        )
        after = self._changes.move(
            instance,
            verdict.trigger,
            terminating=False,
            failures=verdict.failures,
            losses=verdict.losses,
            exit_code=ended.exit_code,
            cause=ended.cause.value if ended.cause else None,
            reason=end_in_words(ended, verdict=verdict, retry_rules=retry_rules),
            ended_at=None if verdict.trigger is Trigger.RETRIED else ended.at,
        )
        if verdict.trigger is not Trigger.KEPT:
            self._give_node_up(instance, ended.cause, restarts=retry_rules.restarts_node)
        return after

    def _give_node_up(
        self, instance: Instance, cause: Cause | None, *, restarts: bool = False
    ) -> None:
        """Free an environment's node; an elastic one is deleted.

        restarts: RestartComputeNode. What ended on request leaves a node that is restarted, too.
        """
        task = self._changes.tasks[instance.position]
        lost = cause is Cause.INFRA_LOST
        if task.env_id is not None:
            restarts = restarts or cause is Cause.TERMINATED
            fate = Fate.LOST if lost else Fate.RESTART if restarts else Fate.NONE
            self._changes.free(instance, fate=fate)
            return
        for name in [E.COMPUTE_NODE_ABNORMAL] * lost + [E.COMPUTE_NODE_DELETING]:
            self._changes.tell(tidings.elastic_node_event(name, task, instance))

    # What follows ----------------------------------------------------------------------------

    def terminate(self) -> list[str]:
        """Carry a termination on; returns the attempts that must be stopped."""
        if not self._changes.terminating:
            return []
        positions = self._changes.positions(sql.OPEN_TASKS)
        self._changes.load_tasks(positions)
        for position in positions:
            task = self._changes.tasks[position]
            self._doom(task, Cause.TERMINATED)
            self._fail_all(task, {State.FAILED_INTERRUPTED}, Cause.TERMINATED)
        return [instance.latest.id for instance in self._changes.launched()]

    def end_instance(self, position: int, number: int) -> None:
        """End one instance on request; of one that the engine has, the wish is kept."""
        self._changes.load_tasks([position])
        [instance] = self._changes.instances_at(position, [number])
        if instance.state in LAUNCHED:
            self._changes.ask_to_end(instance)
        elif can(instance.state, Trigger.FAILED):
            self._fail(instance, Cause.TERMINATED)

    def settle(self) -> None:
        """Draw every conclusion: doomed instances, finished tasks, their followers, the job."""
        self._changes.load_tasks(self._changes.positions(sql.TASKS_TO_FAIL))
        open_positions = set(self._changes.tasks)
        while open_positions:
            task = self._changes.tasks[open_positions.pop()]
            if task.doom:
                self._fail_all(task, WAITING, Cause(task.doom))
            elif task.node_failures and task.node_retry_at is None:
                self._fail_without_node(task)
            ending = outcome(task.parts())
            if ending is None or not can(task.state, ending):
                continue
            was_over = task.state in OVER
            self._changes.move_task(task, ending)
            if not was_over:
                open_positions |= self._release_followers(task)
        if self._changes.task_ended:
            self._settle_job()

    def _fail_all(self, task: Task, states: Iterable[State], cause: Cause) -> None:
        """Fail the instances of a task that are in these states, as far as there is room."""
        present = task.parts().in_any(states)
        if not present or self._room <= 0:
            return
        most, self._room = self._room, self._room - TASK_COSTS
        for instance in self._changes.instances_in(task, states, most=most):
            self._room -= 1
            self._fail(instance, cause)

    def _fail(self, instance: Instance, cause: Cause, *, detail: str = "") -> None:
        """Fail an instance that the engine does not have.

        One that failed before, and kept its node, goes on to say why.
        """
        name: str | None = cause.value
        words = reason_of(cause, exit_code=None, detail=detail)
        if instance.state in OVER:
            name, words = instance.cause, f"{instance.reason} {words}"
        self._changes.move(
            instance,
            Trigger.FAILED,
            terminating=False,
            cause=name,
            reason=words,
            ended_at=self._changes.now,
        )
        if instance.machine:
            self._give_node_up(instance, cause)

    def _fail_without_node(self, task: Task) -> None:
        """Fail what has no try left after no node could be made; the others wait for the next.

        Why they wait: what could not be made a moment ago cannot be made now.
        """
        found = self._changes.without_a_try(
            task, failures_max=task.retry_rules.retries_max, most=max(0, self._room)
        )
        for instance in found:
            self._room -= 1
            self._fail(instance, Cause.NODE_CREATION, detail=task.node_reason)
        if self._room > 0:
            task.node_retry_at = self._changes.now + wait_before(1)
            self._changes.touch(task)

    def _release_followers(self, task: Task) -> set[int]:
        """Tell the tasks that wait for this one; returns those that must be looked at again.

        Why not only when it is final: an interrupted task keeps its node, but it will never
        succeed, and its followers must not wait for somebody to terminate the job.
        """
        followers = self._changes.positions(sql.FOLLOWERS, position=task.position)
        self._changes.load_tasks(followers)
        satisfied = _satisfies(task.parts(), self._changes.job.depend_on)
        again: set[int] = set()
        for position in followers:
            follower = self._changes.tasks[position]
            if not can(follower.state, Trigger.READY):
                continue  # it did not wait: it is over, or was before RetryJobs ran this one again
            follower.blockers -= 1
            self._changes.touch(follower)
            if not satisfied:
                self._doom(follower, Cause.PREDECESSOR_FAILED)
                again.add(position)
            elif not follower.blockers and not follower.doom:
                self._changes.move_whole_task(follower, Trigger.READY)
        return again

    def _doom(self, task: Task, cause: Cause) -> None:
        """Make every instance that has not been started fail, for this cause."""
        if not task.doom:
            task.doom = cause.value
            self._changes.touch(task)

    def _settle_job(self) -> None:
        ending = outcome(self._changes.count_task_states())
        if ending is not None and can(self._changes.state, ending):
            self._changes.move_job(ending)


def _satisfies(parts: Counts, depend_on: str) -> bool:
    """Whether a finished task lets its followers run, by the job's TaskExecutionDependOn."""
    if depend_on == "PRE_TASK_FINISHED":
        return True
    if depend_on == "PRE_TASK_AT_LEAST_PARTLY_SUCCEED":
        return parts.succeed > 0
    return parts.succeed == parts.total
