"""Who gets the engine's room: how many attempts of which size each job may start in a round.

The rule: tasks are served by priority, then by the age of their job, then in the job's own order.
An attempt needs a place and its node's memory. The first of an account that finds too little memory
is waited for: nothing of that account behind it starts, so that what its small attempts give back
adds up until the large one fits. Other accounts go on: nobody can stop them by asking for much. A
task that waits for a node of an environment, or for its own MaxConcurrentNum, holds nobody up.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple


class Waiting(NamedTuple):
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


@dataclass(slots=True)
class Load:
    """How much of the engine is in use, as the scheduler last knew; for telling why others wait.

    notes: in words, what holds up an attempt, its start or its end.
    """

    attempts: int = 0
    mem_gib: int = 0
    notes: dict[str, str] = field(default_factory=dict)

    def note(self, attempt_id: str, words: str) -> None:
        """Note what holds up an attempt; "" if nothing does any more."""
        if words:
            self.notes[attempt_id] = words
        else:
            self.notes.pop(attempt_id, None)


@dataclass(slots=True)
class Slots:
    """The engine's free room, shared by the transactions of one round.

    held: the accounts in which something waits for more memory than is free.
    """

    free: Room
    held: set[str] = field(default_factory=set)
    _lock: Lock = field(default_factory=Lock)

    def take_rest(self, owner_uin: str) -> Room:
        """Take all that is left for a job of an account, unless it must wait for another."""
        with self._lock:
            rest = self.free
            if owner_uin in self.held:
                return Room(0, 0, rest.whole_gib)
            self.free = Room(0, 0, rest.whole_gib)
            return rest

    def give_back(self, unused: Room) -> None:
        """Return what was taken or reserved and not used."""
        with self._lock:
            self.free.add(unused)


def reserve(
    slots: Slots, waiting: Iterable[Waiting], *, free_nodes: Mapping[str, FreeNodes]
) -> dict[str, Room]:
    """Take room for waiting tasks, the most urgent first; returns what each job has.

    A job that is not among them waits as its account does. free_nodes: by environment. Why room is
    reserved: the transactions of a round may run at once, and the one that happens to be first is
    not the most urgent.
    """
    reserved: dict[str, Room] = {}
    nodes = {env_id: free.number for env_id, free in free_nodes.items()}
    free = slots.free
    for task in waiting:
        if task.owner_uin in slots.held:
            continue
        wanted, mem_gib = task.runnable, task.mem_gib
        if task.concurrent_max:
            wanted = min(wanted, task.concurrent_max - task.busy)
        if task.env_id is not None:
            wanted = min(wanted, nodes.get(task.env_id, 0))
            mem_gib = free_nodes[task.env_id].mem_gib if wanted else 0
        taken = min(wanted, free.fits(mem_gib))
        if taken < wanted:
            slots.held.add(task.owner_uin)
            if not taken:
                continue
        mine = reserved.setdefault(task.job_id, Room(0, 0, free.whole_gib))
        mine.add(free.take(taken, mem_gib=mem_gib))
        if task.env_id is not None:
            nodes[task.env_id] = nodes.get(task.env_id, 0) - taken
    return reserved
