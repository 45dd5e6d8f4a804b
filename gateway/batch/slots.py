"""Who gets the engine's free places: how many attempts each job may start in a round."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple


class Waiting(NamedTuple):
    """A task of which instances could be started. busy: how many of it run already."""

    job_id: str
    env_id: str | None
    runnable: int
    concurrent_max: int
    busy: int


@dataclass(slots=True)
class Slots:
    """How many more attempts may be started; shared by the transactions of one round."""

    free: int
    _lock: Lock = field(default_factory=Lock)

    def take(self, wanted: int) -> int:
        """Take up to `wanted`; returns how many."""
        with self._lock:
            taken = max(0, min(wanted, self.free))
            self.free -= taken
            return taken

    def give_back(self, unused: int) -> None:
        """Return what was taken and not used."""
        with self._lock:
            self.free += unused


def reserve(
    slots: Slots, waiting: Iterable[Waiting], *, free_nodes: Mapping[str, int]
) -> Counter[str]:
    """Take places for waiting tasks, the most urgent first; returns how many each job has.

    free_nodes: by environment. Why places are reserved: the transactions of a round may run at
    once, and the one that happens to be first is not the most urgent.
    """
    reserved: Counter[str] = Counter()
    nodes = dict(free_nodes)
    for task in waiting:
        wanted = task.runnable
        if task.concurrent_max:
            wanted = min(wanted, task.concurrent_max - task.busy)
        if task.env_id is not None:
            wanted = min(wanted, nodes.get(task.env_id, 0))
        taken = slots.take(wanted)
        if task.env_id is not None:
            nodes[task.env_id] = nodes.get(task.env_id, 0) - taken
        reserved[task.job_id] += taken
    return reserved
