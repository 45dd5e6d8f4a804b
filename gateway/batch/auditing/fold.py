"""What the ledger must say, worked out from the table of states: the fold of a stream. Pure.

Each event is checked against what came before it about the same job, task, instance, environment
or node, and the last about each against the state in its table. What may follow what, and which
event a state may have as its last, is walked from `states`, and stands nowhere else.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

import msgspec

from gateway.batch.states import (
    EVENTS,
    FINAL,
    MOVES,
    NODE,
    Kind,
    NodeState,
    State,
    Trigger,
)
from gateway.batch.validation import INSTANCES_MAX
from gateway.events.inspection import Recorded
from gateway.events.names import EventName, Subject

KEPT_MAX = 100
Last = EventName | None
Move = tuple[Hashable, Hashable, Last]


class Flaw(Enum):
    """How ledger, states, messages and deliveries can disagree."""

    GAP = "gap"
    GARBLED = "garbled"
    ORDER = "order"
    STATE = "state"
    STRANGER = "stranger"
    MESSAGE_MISSING = "message-missing"
    MESSAGE_ALTERED = "message-altered"
    MESSAGE_UNASKED = "message-unasked"
    DELIVERY_MISSING = "delivery-missing"


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One thing that is not as it must be. stream_id: "" for what users published."""

    stream_id: str
    flaw: Flaw
    what: str


@dataclass(frozen=True, slots=True)
class Findings:
    """How much is wrong, and the first of it: all of it may be millions."""

    count: int = 0
    first: tuple[Discrepancy, ...] = ()

    @classmethod
    def of(cls, found: Iterable[Discrepancy]) -> "Findings":
        """Count them all, and keep the first."""
        total = cls()
        for each in found:
            total += cls(1, (each,))
        return total

    def __add__(self, other: "Findings") -> "Findings":
        kept = self.first
        if len(kept) < KEPT_MAX:
            kept = (kept + other.first)[:KEPT_MAX]
        return Findings(self.count + other.count, kept)


NOTHING = Findings()


@dataclass(frozen=True, slots=True)
class Course:
    """What can happen to one kind of thing.

    ends: each state with each event that may be the last about it. steps: which event may follow
    which; None stands before the first.
    """

    ends: frozenset[tuple[Hashable, Last]]
    steps: frozenset[tuple[Last, EventName]]


def walk(moves: Iterable[Move], *, starts: Iterable[Hashable]) -> Course:
    """Go every way that a table of moves allows, and note what the events say on the way."""
    moves = list(moves)
    ends: set[tuple[Hashable, Last]] = {(start, None) for start in starts}
    steps: set[tuple[Last, EventName]] = set()
    ahead = list(ends)
    while ahead:
        state, last = ahead.pop()
        for before, after, event in moves:
            if before != state:
                continue
            if event is not None:
                steps.add((last, event))
            end = after, event or last
            if end not in ends:
                ends.add(end)
                ahead.append(end)
    return Course(frozenset(ends), frozenset(steps))


def _moves_of(kind: Kind) -> Iterator[Move]:
    for (before, trigger), after in MOVES.items():
        if kind is Kind.INSTANCE or trigger is not Trigger.RETRIED:
            yield before, after, EVENTS.get((kind, after))


THERE, NOT_THERE = True, False
"""The states of an environment, which has no others."""

COURSES: Mapping[Subject, Course] = {
    Subject.JOB: walk(_moves_of(Kind.JOB), starts=[State.SUBMITTED]),
    Subject.TASK: walk(_moves_of(Kind.TASK), starts=[State.SUBMITTED]),
    Subject.INSTANCE: walk(_moves_of(Kind.INSTANCE), starts=[State.SUBMITTED]),
    Subject.NODE: walk(
        ((before, after, event) for (before, _), (after, event) in NODE.items()),
        starts=[NodeState.PENDING, NodeState.SUBMITTED],
    ),
    Subject.ENV: walk(
        [
            (NOT_THERE, THERE, EventName.COMPUTE_ENV_CREATED),
            (THERE, NOT_THERE, EventName.COMPUTE_ENV_DELETED),
        ],
        starts=[NOT_THERE],
    ),
}
FINAL_EVENTS = frozenset(EVENTS[kind, state] for kind in Kind for state in FINAL)
_DROPPED = EventName.COMPUTE_NODE_DELETING
_CODES: Mapping[EventName, int] = {name: code for code, name in enumerate(EventName, start=1)}
_NAMES: Mapping[int, Last] = {0: None, **{code: name for name, code in _CODES.items()}}


class Members(msgspec.Struct, rename="pascal"):
    """What of an event's `Batch` says whom it is about, and its new state."""

    job_id: str = ""
    job_state: str = ""
    task_name: str = ""
    task_state: str = ""
    task_instance_index: int = -1
    task_instance_state: str = ""
    env_id: str = ""
    compute_node_id: str = ""
    compute_node_state: str = ""


_decode = msgspec.json.Decoder(Members).decode


@dataclass(slots=True)
class TaskFold:
    """What the events of one task come to. instances: the code of the last event about each."""

    last: Last = None
    instances: bytearray = field(default_factory=bytearray)

    def last_of(self, number: int) -> Last:
        """The last event about an instance."""
        return _NAMES[self.instances[number]] if number < len(self.instances) else None


class Fold:
    """What the events of one stream come to, as far as they were taken in, in their order.

    reached: the number of the last one. beheaded: its beginning is not kept any more, so that what
    was never named may have been told of before. Nodes that are gone are forgotten, and of an
    instance a byte is kept: a job may have a hundred thousand.
    """

    def __init__(self, stream_id: str, *, may_be_beheaded: bool) -> None:
        self.stream_id = stream_id
        self.reached = 0
        self.beheaded = False
        self.whole: Last = None
        self.tasks: dict[str, TaskFold] = {}
        self.nodes: dict[str, EventName] = {}
        self.found = NOTHING
        self._may_be_beheaded = may_be_beheaded

    def complain(self, flaw: Flaw, what: str) -> None:
        """Note that something is not as it must be."""
        self.found += Findings(1, (Discrepancy(self.stream_id, flaw, what),))

    def take(self, event: Recorded) -> None:
        """Take the next event in."""
        self._count(event.seq)
        try:
            name, members = EventName(event.name), _decode(event.batch_json)
        except ValueError:  # msgspec's is one, too
            self.complain(Flaw.GARBLED, f"event {event.seq} cannot be read")
            return
        if name.subject is Subject.SUBSCRIPTION:
            return
        if not _says_what_it_is(name, members, event=event, stream_id=self.stream_id):
            self.complain(Flaw.GARBLED, f"event {event.seq} is {name.value} and says another thing")
            return
        last = self._swap(name, members)
        known = last is not None or not self.beheaded
        if known and (last, name) not in COURSES[name.subject].steps:
            before = last.value if last else "nothing"
            what = f"event {event.seq}, {name.value} of {_whose(name, members)}, follows {before}"
            self.complain(Flaw.ORDER, what)

    def _count(self, seq: int) -> None:
        expected = self.reached + 1
        if not self.reached and seq > 1 and self._may_be_beheaded:
            self.beheaded = True
        elif seq != expected:
            missing = f"event {expected}" if seq == expected + 1 else f"events {expected}-{seq - 1}"
            self.complain(Flaw.GAP, f"{missing} missing before event {seq}")
        self.reached = seq

    def _swap(self, name: EventName, members: Members) -> Last:
        """Note an event as the last about its subject; returns the one before."""
        if name.subject in {Subject.JOB, Subject.ENV}:
            before, self.whole = self.whole, name
            return before
        if name.subject is Subject.NODE:
            before = self.nodes.pop(members.compute_node_id, None)
            if name is not _DROPPED:
                self.nodes[members.compute_node_id] = name
            return before
        task = self.tasks.setdefault(members.task_name, TaskFold())
        if name.subject is Subject.TASK:
            before, task.last = task.last, name
            return before
        number = members.task_instance_index
        if number >= len(task.instances):
            task.instances.extend(bytes(number + 1 - len(task.instances)))
        before = _NAMES[task.instances[number]]
        task.instances[number] = _CODES[name]
        return before

    # What the rows say -----------------------------------------------------------------------

    def judge_count(self, counted: int) -> None:
        """Hold the stream's own count against the events that are kept."""
        if self.reached == counted or (not self.reached and self._may_be_beheaded):
            return
        self.complain(Flaw.GAP, f"{counted} events are counted, and the last one is {self.reached}")

    def judge_whole(self, subject: Subject, state: Hashable) -> None:
        """Hold the state of the job, or whether the environment is there, against its events."""
        self._judge(subject, state, self.whole, whose=self.stream_id)

    def judge_task(self, name: str, state: State) -> None:
        """Hold a task's state against its events."""
        task = self.tasks.get(name, TaskFold())
        self._judge(Subject.TASK, state, task.last, whose=f"task {name}")

    def judge_instance(self, task_name: str, number: int, *, state: State) -> None:
        """Hold an instance's state against its events."""
        last = self.tasks.get(task_name, TaskFold()).last_of(number)
        self._judge(Subject.INSTANCE, state, last, whose=f"instance {number} of {task_name}")

    def judge_node(self, node_id: str, state: NodeState) -> None:
        """Hold the state of an environment's node against its events.

        One that is going was forgotten with its last event, see `_swap`.
        """
        forgotten = _DROPPED if state is NodeState.DELETING else None
        self._judge(Subject.NODE, state, self.nodes.get(node_id, forgotten), whose=node_id)

    def judge_strangers(self, parts: Mapping[str, int], *, nodes: set[str]) -> None:
        """Nothing was told of a task, an instance or a node that is not there.

        parts: how many instances each task has. nodes: those that there are.
        """
        for name, task in self.tasks.items():
            if name not in parts:
                self.complain(Flaw.STRANGER, f"events of a task {name!a} that is not there")
            elif len(task.instances) > parts[name]:
                last = len(task.instances) - 1
                self.complain(Flaw.STRANGER, f"events of instance {last} of {name}, not there")
        for node_id in sorted(self.nodes.keys() - nodes):
            what = f"{node_id} is not there, and its last event is {self.nodes[node_id].value}"
            self.complain(Flaw.STATE, what)

    def judge_gone(self, subject: Subject) -> None:
        """Of what was deleted everything must have come to its end before."""
        if subject is Subject.ENV:
            self.judge_whole(subject, NOT_THERE)
        else:
            self._judge_over(self.whole, self.stream_id)
        for name, task in self.tasks.items():
            self._judge_over(task.last, f"task {name}")
            for number in range(len(task.instances)):
                self._judge_over(task.last_of(number), f"instance {number} of {name}")
        self.judge_strangers(dict.fromkeys(self.tasks, INSTANCES_MAX), nodes=set())

    def _judge(self, subject: Subject, state: Hashable, last: Last, *, whose: str) -> None:
        if (state, last) in COURSES[subject].ends or (last is None and self._may_have_forgotten):
            return
        word = state.value if isinstance(state, Enum) else "there" if state else "not there"
        told = last.value if last else "nothing"
        self.complain(Flaw.STATE, f"{whose} is {word}, and the last told of it is {told}")

    def _judge_over(self, last: Last, whose: str) -> None:
        if last in FINAL_EVENTS or (last is None and self._may_have_forgotten):
            return
        told = last.value if last else "nothing"
        self.complain(Flaw.STATE, f"{whose} is not there any more, and the last told is {told}")

    @property
    def _may_have_forgotten(self) -> bool:
        return self.beheaded or (not self.reached and self._may_be_beheaded)


def _says_what_it_is(name: EventName, members: Members, *, event: Recorded, stream_id: str) -> bool:
    """Whether an event's members and subject are those that an event of this name has."""
    subject = name.subject
    if subject is Subject.NODE:
        state = members.compute_node_state
        in_place = members.env_id in ("", stream_id)
        named = event.subject_id == members.compute_node_id != ""
        return in_place and named and name.value == f"COMPUTE_NODE_{state}"
    if event.subject_id != stream_id:
        return False
    if subject is Subject.ENV:
        return members.env_id == stream_id
    state, kind = {
        Subject.JOB: (members.job_state, Kind.JOB),
        Subject.TASK: (members.task_state, Kind.TASK),
        Subject.INSTANCE: (members.task_instance_state, Kind.INSTANCE),
    }[subject]
    known = subject is not Subject.INSTANCE or 0 <= members.task_instance_index < INSTANCES_MAX
    return known and members.job_id == stream_id and name.value == f"{kind.value}_{state}"


def _whose(name: EventName, members: Members) -> str:
    if name.subject is Subject.INSTANCE:
        return f"instance {members.task_instance_index} of {members.task_name}"
    return members.compute_node_id or members.task_name or members.env_id or members.job_id
