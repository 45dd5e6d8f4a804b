"""Who gets the engine's room: how many attempts of which size each job may start in a round.

The rule: accounts take turns. An account's share is its part of the places or of the memory, the
larger of the two. Room goes, one attempt at a time, to the account with the smallest share that has
something to start; of equal ones to the one whose turn was longest ago, then to the one whose first
task is the oldest. Within an account tasks are served by priority, then by the age of their job,
then in the job's own order. Nothing that runs is stopped: shares even out as attempts end.

An attempt needs a place and its node's memory. The first of an account that finds too little memory
is waited for: nothing of that account behind it starts, so that what its small attempts give back
adds up until the large one fits. Other accounts go on, nobody can stop them by asking for much; but
while the large one lies within an equal part of the memory, they do so only within their own part.
A task that waits for a node of an environment, or for its own MaxConcurrentNum, holds nobody up.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from threading import Lock
from typing import NamedTuple

from gateway.batch.attempts import Attempt, parse_attempt


class QueuedTask(NamedTuple):
    """A task of which instances could be started. busy: how many of it run already.

    mem_gib: of an elastic node of it; a node of an environment has a size of its own.
    """

    job_id: str
    owner_uin: str
    env_id: str | None
    runnable: int
    concurrent_max: int
    busy: int
    mem_gib: int


class FreeNodes(NamedTuple):
    """How many nodes of an environment run nothing, and the memory of the largest."""

    number: int
    mem_gib: int


@dataclass(slots=True)
class Room:
    """Places, and the memory for the nodes in them. whole_gib: all the memory that the engine has.

    A node larger than the whole counts as the whole: it runs, alone.
    """

    places: int
    mem_gib: int
    whole_gib: int

    def size(self, mem_gib: int) -> int:
        """What a node counts for."""
        return min(mem_gib, self.whole_gib)

    def fits(self, mem_gib: int) -> int:
        """How many nodes of this memory there is room for."""
        size = self.size(mem_gib)
        return min(self.places, self.mem_gib // size) if size > 0 else self.places

    def take(self, count: int, *, mem_gib: int) -> "Room":
        """Take room for `count` nodes of this memory out; there must be so much."""
        taken = Room(count, count * self.size(mem_gib), self.whole_gib)
        self.places -= taken.places
        self.mem_gib -= taken.mem_gib
        return taken

    def add(self, other: "Room") -> None:
        """Put room in."""
        self.places += other.places
        self.mem_gib += other.mem_gib

    def remove(self, other: "Room") -> None:
        """Take room out that is in it."""
        self.places -= other.places
        self.mem_gib -= other.mem_gib


@dataclass(slots=True)
class Load:
    """How much of the engine is in use, as the scheduler last knew; for telling why others wait.

    used: places and memory by account. notes: in words, what holds up an attempt, its start or its
    end.
    """

    attempts: int = 0
    mem_gib: int = 0
    used: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def note(self, attempt_id: str, words: str) -> None:
        """Note what holds up an attempt; "" if nothing does any more."""
        if words:
            self.notes[attempt_id] = words
        else:
            self.notes.pop(attempt_id, None)

    def notes_of(self, job_id: str) -> dict[Attempt, str]:
        """What holds up attempts of a job."""
        noted = list(self.notes.items())  # others may note something meanwhile
        return {parse_attempt(id_): words for id_, words in noted if id_.startswith(f"{job_id}.")}


class Turns:
    """When each account last had a turn, as a number that grows; 0: never."""

    def __init__(self) -> None:
        self._latest = 0
        self._numbers: dict[str, int] = {}

    def last(self, owner_uin: str) -> int:
        """The number of an account's last turn."""
        return self._numbers.get(owner_uin, 0)

    def note(self, owner_uin: str) -> None:
        """Note that an account has its turn."""
        self._latest += 1
        self._numbers[owner_uin] = self._latest


@dataclass(slots=True)
class Slots:
    """The engine's free room, shared by the transactions of one round.

    capacity: all its places. used: what accounts have of it, with what they get in this round.
    accounts: those with something that runs, waits or is new. newcomers: those with jobs that are
    due. held: those in which something waits that found no room. turns: those of earlier rounds;
    they go on in this one.
    """

    free: Room
    capacity: int
    used: dict[str, Room] = field(default_factory=dict)
    accounts: set[str] = field(default_factory=set)
    newcomers: Set[str] = frozenset()
    held: set[str] = field(default_factory=set)
    turns: Turns = field(default_factory=Turns)
    _lock: Lock = field(default_factory=Lock)

    def used_by(self, owner_uin: str) -> Room:
        """What an account has of the engine; it may be changed."""
        return self.used.setdefault(owner_uin, Room(0, 0, self.free.whole_gib))

    def share(self, room: Room) -> float:
        """A room's part of the places or of the memory, the larger of the two."""
        return max(room.places / self.capacity, room.mem_gib / room.whole_gib)

    def has_rivals(self, owner_uin: str) -> bool:
        """Whether other accounts want room besides what they have by now."""
        return any(each != owner_uin for each in self.held | self.newcomers)

    def take_rest(self, owner_uin: str) -> Room:
        """Take what is left for a job of an account, unless something of the account is held.

        An account with rivals gets no more here than makes an equal part: the next round, which
        knows whose turn it is, divides what is left.
        """
        with self._lock:
            self.accounts.add(owner_uin)
            mine, free = self.used_by(owner_uin), self.free
            rest = Room(free.places, free.mem_gib, free.whole_gib)
            if owner_uin in self.held:
                rest = Room(0, 0, free.whole_gib)
            elif self.has_rivals(owner_uin):
                number = len(self.accounts)
                rest.places = min(free.places, max(0, self.capacity // number - mine.places))
                rest.mem_gib = min(free.mem_gib, max(0, free.whole_gib // number - mine.mem_gib))
            free.remove(rest)
            mine.add(rest)
            return rest

    def note_turn(self, owner_uin: str) -> None:
        """Note that an account got something of the rest."""
        with self._lock:
            self.turns.note(owner_uin)

    def give_back(self, owner_uin: str, unused: Room) -> None:
        """Return what an account's job took, or had reserved, and did not use."""
        with self._lock:
            self.free.add(unused)
            self.used_by(owner_uin).remove(unused)


class _Wish(NamedTuple):
    """Nodes that a job could use at once, and the memory of each."""

    job_id: str
    number: int
    mem_gib: int


_NO_WISH = _Wish("", 0, 0)
Rank = tuple[bool, float, int, int]


@dataclass(slots=True)
class _Line:
    """What waits in one account.

    age: the place of its first task among those of all accounts. wishes: those to come. wish: the
    present one, as far as it is not fulfilled.
    """

    owner_uin: str
    age: int
    wishes: Iterator[_Wish]
    wish: _Wish = _NO_WISH

    def goes_on(self) -> bool:
        """Come to the next wish if the present one is fulfilled; False if there is none."""
        if not self.wish.number:
            self.wish = next(self.wishes, self.wish)
        return self.wish.number > 0

    def rank(self, slots: Slots) -> Rank:
        """The smallest is next: who would stay within an equal part, then by what the account has.

        Why those first: what is kept for one of them is not to be taken by who was just before it.
        """
        used = slots.used_by(self.owner_uin)
        after = Room(used.places + 1, self._mem_gib_after(slots), used.whole_gib)
        goes_beyond = slots.share(after) > 1 / len(slots.accounts)
        return goes_beyond, slots.share(used), slots.turns.last(self.owner_uin), self.age

    def needs_others_memory(self, slots: Slots) -> bool:
        """Whether its account would have more than an equal part of the memory."""
        return self._mem_gib_after(slots) * len(slots.accounts) > slots.free.whole_gib

    def take(self, slots: Slots, *, most: int) -> Room:
        """Take room for nodes of the present wish, `most` at most."""
        _, wanted, mem_gib = self.wish
        taken = slots.free.take(min(wanted, most, slots.free.fits(mem_gib)), mem_gib=mem_gib)
        slots.used_by(self.owner_uin).add(taken)
        self.wish = self.wish._replace(number=wanted - taken.places)
        return taken

    def _mem_gib_after(self, slots: Slots) -> int:
        return slots.used_by(self.owner_uin).mem_gib + slots.free.size(self.wish.mem_gib)


def reserve(
    slots: Slots, waiting: Iterable[QueuedTask], *, free_nodes: Mapping[str, FreeNodes]
) -> dict[str, Room]:
    """Take room for waiting tasks, the accounts in turn; returns what each job has.

    waiting: in each account the most urgent first; accounts in the order of their first tasks' age.
    free_nodes: by environment. A job that has no room waits as its account does. Why room is
    reserved: the transactions of a round may run at once, and the one that happens to be first is
    not the one whose turn it is.
    """
    reserved: dict[str, Room] = {}
    heap = _lines(slots, waiting, free_nodes=free_nodes)
    is_kept = False  # what is left of the memory, for an account that stays within an equal part
    while heap and slots.free.places > 0:
        (goes_beyond, *_), line = heap[0]
        job_id, wanted, _ = line.wish
        taken = Room(0, 0, slots.free.whole_gib)
        if not (is_kept and line.needs_others_memory(slots)):
            is_alone = len(heap) == 1 and not is_kept
            taken = line.take(slots, most=wanted if is_alone else 1)
            is_kept |= not (taken.places or goes_beyond)
        if taken.places:
            reserved.setdefault(job_id, Room(0, 0, taken.whole_gib)).add(taken)
            slots.turns.note(line.owner_uin)
        else:
            slots.held.add(line.owner_uin)
        if taken.places and line.goes_on():
            heapreplace(heap, (line.rank(slots), line))
        else:
            heappop(heap)
    slots.held.update(line.owner_uin for _, line in heap)
    return reserved


def _lines(
    slots: Slots, waiting: Iterable[QueuedTask], *, free_nodes: Mapping[str, FreeNodes]
) -> list[tuple[Rank, _Line]]:
    """A heap of the accounts in which something could start; they are counted."""
    by_owner: dict[str, list[QueuedTask]] = defaultdict(list)
    for task in waiting:
        by_owner[task.owner_uin].append(task)
    slots.accounts.update(by_owner)
    lines = [
        _Line(owner_uin, age, _wishes(tasks, free_nodes))
        for age, (owner_uin, tasks) in enumerate(by_owner.items())
    ]
    heap = [(line.rank(slots), line) for line in lines if line.goes_on()]
    heapify(heap)
    return heap


def _wishes(tasks: Iterable[QueuedTask], free_nodes: Mapping[str, FreeNodes]) -> Iterator[_Wish]:
    """What tasks of one account could start, each if those before it get all they want."""
    nodes_used: Counter[str] = Counter()
    for task in tasks:
        wanted, mem_gib = task.runnable, task.mem_gib
        if task.concurrent_max:
            wanted = min(wanted, task.concurrent_max - task.busy)
        if task.env_id is not None:
            free = free_nodes.get(task.env_id, FreeNodes(0, 0))
            wanted, mem_gib = min(wanted, free.number - nodes_used[task.env_id]), free.mem_gib
            nodes_used[task.env_id] += max(0, wanted)
        if wanted > 0:
            yield _Wish(task.job_id, wanted, mem_gib)
