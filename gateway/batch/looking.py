"""What a look ahead finds, and for how long nobody need look again. Pure.

Why not at every round: under load nearly every round only hears that attempts of one job started
or ended, and that job's own transaction finds all that follows from it. A look may be left out if
all of this holds:

- The last one was a moment ago, so that what only time brings is late by no more than that.
- Since then only the engine's reports asked for a round. Whoever else changes something wakes the
  scheduler: calls, the keeper of the environments, a job that gives a node back and leaves it to
  others.
- The last one found no job to be taken up, to be failed or left alone, and saw all that waits: it
  reads no more of an account than there is room for, and nothing if there is none.
- Nothing waits for room, or one job alone does, and no other has reports. If it waits for nodes of
  an environment, it has no other task: that could overtake one whose nodes find too little memory.

A round whose transactions may have brought about more than this is followed by a look.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime

from gateway.batch.slots import FreeNodes, QueuedTask

LOOK_S = 0.1
"""How old a look may be."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the rows ask for: jobs to look at, what waits for room as `reserve` takes it, and the
    attempts that are to end on request. newcomers: the accounts of jobs that are due. sick: the
    jobs that were left out. saw_all: nothing else waits. only_task: what waits is the one open task
    of its job.
    """

    due: Sequence[str]
    newcomers: Set[str]
    waiting: Sequence[QueuedTask]
    free_nodes: Mapping[str, FreeNodes]
    terminating: Sequence[str]
    sick: Sequence[str]
    saw_all: bool
    only_task: bool


NOTHING_NEW = Outlook((), frozenset(), (), {}, (), (), saw_all=True, only_task=False)


@dataclass(frozen=True, slots=True)
class _Known:
    """The last look. waiting: the jobs that may wait for room by now. only_task: see `Outlook`."""

    at: datetime
    calls: int
    waiting: frozenset[str]
    only_task: bool


class Lookout:
    """Remembers the last look as long as it tells everything.

    skipped: whether the last round did without one.
    """

    def __init__(self) -> None:
        self.skipped = False
        self._known: _Known | None = None

    def may_skip(self, job_ids: Set[str], *, calls: int, now: datetime) -> bool:
        """Whether a look would find nothing that the transactions of these jobs do not find.

        job_ids: the jobs that have reports. calls: a number that grows whenever anything but a
        report asks for a round.
        """
        self.skipped = self._tells_all(job_ids, calls=calls, now=now)
        return self.skipped

    def _tells_all(self, job_ids: Set[str], *, calls: int, now: datetime) -> bool:
        known = self._known
        if known is None or not job_ids or calls != known.calls:
            return False
        if not 0 <= (now - known.at).total_seconds() < LOOK_S:  # clocks are set back, too
            return False
        return not known.waiting or (len(job_ids) == 1 and known.waiting == job_ids)

    @property
    def is_only_task(self) -> bool:
        """Whether the last round did without a look, and one task is all that waits."""
        return self.skipped and self._known is not None and self._known.only_task

    def note_look(self, outlook: Outlook, *, calls: int, now: datetime) -> None:
        """Note what a look found. calls, now: as they were before it."""
        self._known = None
        in_order = outlook.only_task or all(task.env_id is None for task in outlook.waiting)
        if outlook.saw_all and in_order and not (outlook.due or outlook.sick):
            waiting = frozenset(task.job_id for task in outlook.waiting)
            self._known = _Known(now, calls, waiting, outlook.only_task)

    def note_waiting(self, job_ids: Iterable[str]) -> None:
        """Note that these jobs, too, may wait for room now."""
        known = self._known
        if known is not None:
            self._known = replace(known, waiting=known.waiting.union(job_ids))

    def forget(self) -> None:
        """Have the next round look, whatever it hears."""
        self._known = None
