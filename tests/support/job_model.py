"""A job as the documents describe it, worked out anew after each step: no counters, no rows.

It is told what is asked, what the engine reports and what was placed, and says in which state
everything then is, and which events have told of it. It shares no code with the service.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.batch.engines import Cause, Ended, Started

OVER = {"SUCCEED", "FAILED", "FAILED_INTERRUPTED"}
WAITS = {"SUBMITTED", "PENDING", "RUNNABLE"}
LAUNCHED = {"STARTING", "RUNNING"}
TOLD = {"RUNNING", *OVER}
LOSSES_MAX = 3


@dataclass
class ModelInstance:
    state: str = "SUBMITTED"
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    is_to_end: bool = False
    told: list[str] = field(default_factory=list)


@dataclass
class ModelTask:
    instances: list[ModelInstance]
    after: set[int]
    retries_max: int = 0
    keeps_node: bool = False
    concurrent_max: int = 0
    state: str = "SUBMITTED"
    was_placed: bool = False
    was_started: bool = False
    told: list[str] = field(default_factory=list)

    def count(self, *states: str) -> int:
        return sum(each.state in states for each in self.instances)

    @property
    def is_over(self) -> bool:
        return self.count(*OVER) == len(self.instances)

    @property
    def may_start(self) -> int:
        """How many could be placed now, as far as the task itself goes."""
        limit = self.concurrent_max or len(self.instances)
        return max(0, min(self.count("RUNNABLE"), limit - self.count(*LAUNCHED)))


class ModelJob:
    """tasks: by position. depend_on: TaskExecutionDependOn."""

    def __init__(self, tasks: Sequence[ModelTask], *, depend_on: str) -> None:
        self.tasks = list(tasks)
        self.state = "SUBMITTED"
        self.is_terminating = False
        self.was_placed = False
        self.was_started = False
        self.told: list[str] = []
        self._depend_on = depend_on

    # What is asked ---------------------------------------------------------------------------

    def terminate(self) -> bool:
        """TerminateJob; False if it is refused."""
        if self.state == "SUBMITTED":
            return False
        self.is_terminating |= self.state not in {"SUCCEED", "FAILED"}
        return True

    def terminate_instance(self, position: int, number: int) -> None:
        self._admit()
        instance = self.tasks[position].instances[number]
        if instance.state in LAUNCHED:
            instance.is_to_end = True
        elif instance.state in {*WAITS, "FAILED_INTERRUPTED"}:
            self._set(instance, "FAILED")
        self._conclude()

    def retry(self) -> bool:
        """RetryJobs; False if it is refused."""
        if self.state != "FAILED":
            return False
        self.state, self.was_placed, self.was_started = "SUBMITTED", False, False
        for task in self.tasks:
            if task.state != "FAILED":
                continue
            task.state, task.was_placed, task.was_started = "SUBMITTED", False, False
            for instance in task.instances:
                if instance.state == "FAILED":
                    instance.state = "SUBMITTED"
                    instance.failures = instance.losses = 0
        return True

    # What happens ----------------------------------------------------------------------------

    def turn(self, reports: Sequence[Started | Ended]) -> None:
        """One transaction, without what it places."""
        self._admit()
        for report in reports:
            self._learn(report)
        if self.is_terminating:
            for task in self.tasks:
                for instance in task.instances:
                    if instance.state in {*WAITS, "FAILED_INTERRUPTED"}:
                        self._set(instance, "FAILED")
        self._conclude()

    def place(self, attempts: Collection[str]) -> None:
        """Take note of what was placed; it must have been allowed."""
        assert not attempts or not (self.is_terminating or self.state in OVER)
        for attempt_id in attempts:
            position, number, attempt = _parse(attempt_id)
            task = self.tasks[position]
            instance = task.instances[number]
            assert task.may_start > 0, attempt_id
            assert (instance.state, instance.attempt) == ("RUNNABLE", attempt - 1), attempt_id
            instance.state, instance.attempt = "STARTING", attempt
            task.was_placed = self.was_placed = True
        self._derive()

    def running(self) -> Iterator[tuple[int, int]]:
        for position, task in enumerate(self.tasks):
            for number, instance in enumerate(task.instances):
                if instance.state in LAUNCHED:
                    yield position, number

    def _admit(self) -> None:
        if self.state != "SUBMITTED":
            return
        self.state = "RUNNABLE"
        for task in self.tasks:
            for instance in task.instances:
                if instance.state == "SUBMITTED":
                    instance.state = "PENDING"
        self._conclude()

    def _learn(self, report: Started | Ended) -> None:
        position, number, attempt = _parse(report.attempt_id)
        task = self.tasks[position]
        instance = task.instances[number]
        if instance.attempt != attempt or instance.state not in LAUNCHED:
            return
        if instance.state == "STARTING":
            self._set(instance, "RUNNING")
            task.was_started = self.was_started = True
            self._derive()
        if isinstance(report, Started):
            return
        self._set(instance, self._after(task, instance, report.cause))
        instance.is_to_end = False

    def _after(self, task: ModelTask, instance: ModelInstance, cause: Cause | None) -> str:
        if cause is None:
            return "SUCCEED"
        lost = cause is Cause.INFRA_LOST
        if lost:
            instance.losses += 1
        else:
            instance.failures += 1
        if self.is_terminating or instance.is_to_end or cause in {Cause.TERMINATED, Cause.STORAGE}:
            return "FAILED"
        if lost:
            return "RUNNABLE" if instance.losses <= LOSSES_MAX else "FAILED"
        if instance.failures <= task.retries_max:
            return "RUNNABLE"
        return "FAILED_INTERRUPTED" if task.keeps_node else "FAILED"

    def _conclude(self) -> None:
        """What follows for tasks that wait for others, until nothing more does."""
        again = True
        while again:
            again = False
            self._derive()
            for task in self.tasks:
                waits = [each for each in task.instances if each.state == "PENDING"]
                before = [self.tasks[position] for position in task.after]
                if any(one.is_over and not self._is_enough(one) for one in before):
                    after = "FAILED"
                    waits = [each for each in task.instances if each.state in WAITS]
                elif all(one.is_over for one in before):
                    after = "RUNNABLE"
                else:
                    continue
                for instance in waits:
                    self._set(instance, after)
                    again = True

    def _is_enough(self, task: ModelTask) -> bool:
        succeeded = task.count("SUCCEED")
        return {
            "PRE_TASK_FINISHED": True,
            "PRE_TASK_AT_LEAST_PARTLY_SUCCEED": succeeded > 0,
            "PRE_TASK_SUCCEED": succeeded == len(task.instances),
        }[self._depend_on]

    def _set(self, instance: ModelInstance, state: str) -> None:
        instance.state = state
        if state in TOLD:
            instance.told.append(state)

    def _derive(self) -> None:
        """The states of tasks and job follow from their parts and from how far they were."""
        for task in self.tasks:
            self._enter(task, _state_of(task, self.tasks))
        states = {task.state for task in self.tasks}
        if states <= OVER:
            self._enter(self, _worst(states))
        elif self.was_started:
            self._enter(self, "RUNNING")
        elif self.was_placed:
            self._enter(self, "STARTING")
        if self.state in {"SUCCEED", "FAILED"}:
            self.is_terminating = False

    def _enter(self, whole: "ModelTask | ModelJob", state: str) -> None:
        if whole.state == state:
            return
        whole.state = state
        if state in TOLD:
            whole.told.append(state)

    # What is compared ------------------------------------------------------------------------

    def states(self) -> tuple[str, list[str], list[list[str]]]:
        instances = [[each.state for each in task.instances] for task in self.tasks]
        return self.state, [task.state for task in self.tasks], instances

    def events(self) -> Mapping[str, list[str]]:
        """What was told of each: of "job", of a task as "1", of an instance as "1.0"."""
        told = {"job": self.told}
        for position, task in enumerate(self.tasks):
            told[str(position)] = task.told
            for number, instance in enumerate(task.instances):
                told[f"{position}.{number}"] = instance.told
        return {whose: names for whose, names in told.items() if names}

    def counts(self) -> Counter[str]:
        return Counter(each.state for task in self.tasks for each in task.instances)


def _state_of(task: ModelTask, tasks: Sequence[ModelTask]) -> str:
    if task.is_over:
        return _worst({each.state for each in task.instances})
    if task.was_started:
        return "RUNNING"
    if task.was_placed:
        return "STARTING"
    open_before = any(not tasks[position].is_over for position in task.after)
    return "PENDING" if open_before else "RUNNABLE"


def _worst(states: Collection[str]) -> str:
    return next(s for s in ("FAILED_INTERRUPTED", "FAILED", "SUCCEED") if s in states)


def _parse(attempt_id: str) -> tuple[int, int, int]:
    _, position, number, attempt = attempt_id.split(".")
    return int(position), int(number), int(attempt)
