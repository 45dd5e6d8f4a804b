"""The states of everything that moves, as one table: (state, trigger) -> (state, event). Pure.

Source: the state words are the API's; the moves between them are drawn nowhere and follow the
glosses of the documented states.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple

from gateway.events.names import EventName


class State(Enum):
    """The state of a job, a task or a task instance: the three share one set of words."""

    # Each member is one object; Enum's own goes through its name, in Python.
    __hash__ = object.__hash__

    SUBMITTED = "SUBMITTED"
    PENDING = "PENDING"
    RUNNABLE = "RUNNABLE"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    SUCCEED = "SUCCEED"
    FAILED = "FAILED"
    FAILED_INTERRUPTED = "FAILED_INTERRUPTED"


class NodeState(Enum):
    """The state of a compute node."""

    PENDING = "PENDING"
    SUBMITTED = "SUBMITTED"
    CREATING = "CREATING"
    CREATED = "CREATED"
    CREATION_FAILED = "CREATION_FAILED"
    RUNNING = "RUNNING"
    ABNORMAL = "ABNORMAL"
    DELETING = "DELETING"


class Trigger(Enum):
    """What can happen to a job, a task or a task instance."""

    # Each member is one object; Enum's own goes through its name, in Python.
    __hash__ = object.__hash__

    BLOCKED = "has predecessors that are not finished"
    READY = "may run"
    PLACED = "has a node"
    STARTED = "its command runs"
    SUCCEEDED = "ended well"
    RETRIED = "failed and has a try left"
    FAILED = "failed for good"
    KEPT = "failed for good and keeps its node"
    RESET = "is to be run again on request"


class NodeTrigger(Enum):
    """What can happen to a compute node."""

    ORDERED = "the engine was asked for it"
    BEGUN = "the engine makes it"
    MADE = "the engine made it"
    NOT_MADE = "the engine could not make it"
    JOINED = "it takes work"
    LOST = "it went away"
    DROPPED = "it is no longer wanted, or its machine is not"
    REPEATED = "it is to be made again"


class ActivityState(Enum):
    """The state of one thing done to a node."""

    SUBMITTED = "SUBMITTED"
    PROCESSING = "PROCESSING"
    SUCCEED = "SUCCEED"
    FAILED = "FAILED"


class ActivityTrigger(Enum):
    """What can happen to an activity."""

    BEGUN = "it is under way"
    DONE = "it is done"
    NOT_DONE = "it could not be done"


FINAL = frozenset({State.SUCCEED, State.FAILED})
"""States in which nothing is held any more. FAILED_INTERRUPTED still keeps its node."""

OVER = FINAL | {State.FAILED_INTERRUPTED}
"""States in which nothing runs any more."""

WAITING = frozenset({State.SUBMITTED, State.PENDING, State.RUNNABLE})
"""States in which nothing has been started yet."""

LAUNCHED = frozenset(State) - WAITING - OVER
"""States in which an engine has it."""

HOLDING = LAUNCHED | {State.FAILED_INTERRUPTED}
"""States in which it has a node."""

S, T = State, Trigger

MOVES: Mapping[tuple[State, Trigger], State] = {
    (S.SUBMITTED, T.BLOCKED): S.PENDING,
    (S.SUBMITTED, T.READY): S.RUNNABLE,
    (S.PENDING, T.READY): S.RUNNABLE,
    (S.RUNNABLE, T.PLACED): S.STARTING,
    (S.STARTING, T.STARTED): S.RUNNING,
    (S.RUNNING, T.SUCCEEDED): S.SUCCEED,
    (S.STARTING, T.RETRIED): S.RUNNABLE,
    (S.RUNNING, T.RETRIED): S.RUNNABLE,
    (S.RUNNING, T.KEPT): S.FAILED_INTERRUPTED,
    (S.SUBMITTED, T.FAILED): S.FAILED,
    (S.PENDING, T.FAILED): S.FAILED,
    (S.RUNNABLE, T.FAILED): S.FAILED,
    (S.STARTING, T.FAILED): S.FAILED,
    (S.RUNNING, T.FAILED): S.FAILED,
    (S.FAILED_INTERRUPTED, T.FAILED): S.FAILED,
    (S.FAILED, T.RESET): S.SUBMITTED,
}
"""The moves of jobs, tasks and task instances. RETRIED happens to instances alone; RESET, to a job
with all in it that FAILED, and is the only way out of a final state."""


class Kind(Enum):
    """What moves by `MOVES`; the value begins the names of its events."""

    # Each member is one object; Enum's own goes through its name, in Python.
    __hash__ = object.__hash__

    JOB = "JOB"
    TASK = "TASK"
    INSTANCE = "TASK_INSTANCE"


EVENTS: Mapping[tuple[Kind, State], EventName] = {
    (kind, state): EventName(f"{kind.value}_{state.value}")
    for kind in Kind
    for state in (S.RUNNING, S.SUCCEED, S.FAILED, S.FAILED_INTERRUPTED)
}
"""The event that tells of a new state; the other states are entered in silence."""


def advance(kind: Kind, state: State, trigger: Trigger) -> tuple[State, EventName | None]:
    """The next state, and the event to tell it with. Raises KeyError if there is no such move."""
    after = MOVES[state, trigger]
    return after, EVENTS.get((kind, after))


def can(state: State, trigger: Trigger) -> bool:
    """Whether the table has this move."""
    return (state, trigger) in MOVES


N, M, E = NodeState, NodeTrigger, EventName

NODE: Mapping[tuple[NodeState, NodeTrigger], tuple[NodeState, EventName | None]] = {
    (N.PENDING, M.ORDERED): (N.SUBMITTED, None),
    (N.SUBMITTED, M.BEGUN): (N.CREATING, None),
    (N.CREATING, M.MADE): (N.CREATED, E.COMPUTE_NODE_CREATED),
    (N.CREATING, M.NOT_MADE): (N.CREATION_FAILED, E.COMPUTE_NODE_CREATION_FAILED),
    (N.CREATED, M.JOINED): (N.RUNNING, E.COMPUTE_NODE_RUNNING),
    (N.CREATED, M.LOST): (N.ABNORMAL, E.COMPUTE_NODE_ABNORMAL),
    (N.RUNNING, M.LOST): (N.ABNORMAL, E.COMPUTE_NODE_ABNORMAL),
    (N.CREATED, M.DROPPED): (N.DELETING, E.COMPUTE_NODE_DELETING),
    (N.CREATION_FAILED, M.DROPPED): (N.DELETING, E.COMPUTE_NODE_DELETING),
    (N.RUNNING, M.DROPPED): (N.DELETING, E.COMPUTE_NODE_DELETING),
    (N.ABNORMAL, M.DROPPED): (N.DELETING, E.COMPUTE_NODE_DELETING),
    (N.CREATION_FAILED, M.REPEATED): (N.PENDING, None),
    (N.DELETING, M.REPEATED): (N.PENDING, None),
}
"""The moves of the nodes of environments; without another one a DELETING node is gone.

Why a lost node is deleted before it is made again: its machine is one thing and the next another,
with an id of its own, and who counts machines by the events must see the first one go.
"""

A, B = ActivityState, ActivityTrigger

ACTIVITY: Mapping[tuple[ActivityState, ActivityTrigger], ActivityState] = {
    (A.SUBMITTED, B.BEGUN): A.PROCESSING,
    (A.PROCESSING, B.DONE): A.SUCCEED,
    (A.PROCESSING, B.NOT_DONE): A.FAILED,
}
"""The moves of activities, which nobody is told of."""


class Counts(NamedTuple):
    """How many parts of a whole are in each state: the states' words, in the order of `State`."""

    submitted: int = 0
    pending: int = 0
    runnable: int = 0
    starting: int = 0
    running: int = 0
    succeed: int = 0
    failed: int = 0
    failed_interrupted: int = 0

    @property
    def total(self) -> int:
        """All parts."""
        return sum(self)

    def in_any(self, states: Iterable[State]) -> int:
        """The parts that are in one of these states."""
        return sum(self[_PLACE[state]] for state in states)

    def plus(self, changes: Mapping[State, int]) -> "Counts":
        """The counts after `changes`, which may be negative."""
        if not changes:
            return self
        counts = list(self)
        for state, change in changes.items():
            counts[_PLACE[state]] += change
        return Counts._make(counts)


COUNTERS = Counts._fields
"""What the number of parts in each state is called: in a task's row, too."""
_PLACE: Mapping[State, int] = {state: place for place, state in enumerate(State)}


def outcome(parts: Counts) -> Trigger | None:
    """What a whole has come to once none of its parts can run any more; None before that.

    A part that keeps its node makes the whole keep it; else one failure makes it fail.
    """
    if parts.succeed + parts.failed + parts.failed_interrupted < parts.total:
        return None
    if parts.failed_interrupted:
        return Trigger.KEPT
    return Trigger.FAILED if parts.failed else Trigger.SUCCEEDED
