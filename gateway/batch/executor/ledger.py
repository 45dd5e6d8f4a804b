"""The ledger: every attempt the executor knows and where it stands, in memory and in the journal.

unknown -> begun (must be durable before its process exists) -> over (must be durable before it is
told) -> forgotten (acknowledged; only its id is kept, so that it never runs again).
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from gateway.batch.engines import Cause, Ended, Launch
from gateway.batch.executor.folders import NO_ROOM
from gateway.batch.executor.journal import (
    AnyLine,
    Began,
    Boot,
    Forgotten,
    Journal,
    Over,
    Spawned,
)
from gateway.clock import Clock

FORGOTTEN_MAX: Final = 50_000
EXECUTOR_ENDED: Final = "The executor ended while the command was running or about to."


@dataclass(frozen=True, slots=True)
class Committed:
    """What has become durable: launches may be spawned now, outcomes told."""

    launches: list[Launch] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)


@dataclass(slots=True)
class Begun:
    """An attempt that began and is not over; spawned is None until its process exists."""

    began: Began
    spawned: Spawned | None = None


class Ledger:
    """All attempts. Changes are gathered and become durable together in `commit`.

    boot_id: this boot of the machine. previous_boot_id: the one on which what was found began.
    """

    def __init__(self, journal: Journal, *, boot_id: str, clock: Clock) -> None:
        """Read the journal's lines and note this boot. Raises OSError."""
        self._journal = journal
        self._clock = clock
        self._boot = Boot(boot_id=boot_id)
        self.previous_boot_id = boot_id
        self.begun: dict[str, Begun] = {}
        self.outcomes: dict[str, Ended] = {}
        self._folders: dict[str, str] = {}  # of those that have an outcome
        self._forgotten: dict[str, None] = {}
        self._launches: list[Launch] = []
        self._ended: dict[str, Ended] = {}
        self._with_executor: set[str] = set()
        self._lazy: list[AnyLine] = []
        for line in journal.found:
            self._replay(line)
        journal.write([self._boot])

    def _replay(self, line: AnyLine) -> None:
        match line:
            case Boot():
                self.previous_boot_id = line.boot_id
            case Began():
                self.begun[line.attempt_id] = Begun(line)
            case Spawned():
                if line.attempt_id in self.begun:
                    self.begun[line.attempt_id].spawned = line
            case Over():
                if line.with_executor:
                    self._with_executor.add(line.ended.attempt_id)
                self._settle(line.ended, folder=line.folder)
            case Forgotten():
                self._forget(line.attempt_ids)
                if line.loss:
                    self._with_executor.clear()

    def knows(self, attempt_id: str) -> bool:
        """Whether an attempt is past unknown: then it must never be started again."""
        return attempt_id in self.begun or self.is_over(attempt_id)

    def is_over(self, attempt_id: str) -> bool:
        """Whether an attempt has its outcome, durable yet, not yet or no longer."""
        return (
            attempt_id in self.outcomes
            or attempt_id in self._ended
            or attempt_id in self._forgotten
        )

    def begin(self, launches: Iterable[Launch]) -> None:
        """Take in new attempts; `commit` gives back those that may be spawned."""
        for launch in launches:
            if not self.knows(launch.attempt_id):
                began = Began(attempt_id=launch.attempt_id, folder=launch.folder, at=self._clock())
                self.begun[launch.attempt_id] = Begun(began)
                self._launches.append(launch)

    def note_process(self, attempt_id: str, *, pid: int, start_ticks: int) -> None:
        """Remember the process of an attempt.

        Why not durable at once: it matters only to find a process that outlived the executor, and
        nothing outlives the machine's power.
        """
        spawned = Spawned(attempt_id=attempt_id, pid=pid, start_ticks=start_ticks)
        self.begun[attempt_id].spawned = spawned
        self._lazy.append(spawned)

    def end(self, ended: Ended, *, with_executor: bool = False) -> None:
        """Take in an outcome, the first of an attempt; `commit` gives it back to be told.

        with_executor: whether the executor that had it died, and so all its nodes with it.
        """
        self._launches = [each for each in self._launches if each.attempt_id != ended.attempt_id]
        if with_executor and ended.attempt_id not in self._ended:
            self._with_executor.add(ended.attempt_id)
        self._ended.setdefault(ended.attempt_id, ended)

    def failed_unwritten(self) -> list[str]:
        """The folders of attempts that ran, failed and whose outcome is not durable yet."""
        return [
            self.begun[attempt_id].began.folder
            for attempt_id, ended in self._ended.items()
            if ended.cause is not None and attempt_id in self.begun
        ]

    def left(self) -> Iterator[tuple[Ended, str]]:
        """The outcomes of attempts that ran, each with the folder that its launch said."""
        for attempt_id, folder in self._folders.items():
            if self.outcomes[attempt_id].started:
                yield self.outcomes[attempt_id], folder

    def acknowledge(self, attempt_ids: Iterable[str]) -> None:
        """Forget outcomes. An acknowledgement that is lost is given again, so it can wait."""
        ids = [attempt_id for attempt_id in attempt_ids if attempt_id in self.outcomes]
        if ids:
            self._forget(ids)
            self._lazy.append(Forgotten(attempt_ids=ids))

    def acknowledge_loss(self) -> None:
        """Forget that an executor died with its nodes; the outcomes that said so are kept."""
        if self._with_executor:
            self._with_executor.clear()
            self._lazy.append(Forgotten(attempt_ids=[], loss=True))

    @property
    def lost_with_an_executor(self) -> int:
        """How many outcomes say that an executor died with its nodes.

        Neither they nor that loss are acknowledged yet.
        """
        return sum(attempt_id in self._with_executor for attempt_id in self.outcomes)

    @property
    def is_dirty(self) -> bool:
        """Whether `commit` has something to make durable."""
        return bool(self._launches or self._ended)

    def commit(self) -> Committed:
        """Make all changes durable with one write.

        If that fails nothing of it happened, and the outcomes are kept for the next commit. So are
        the launches if there was no room on the disk: that passes, and each of their tries would
        end as this one. Else they become outcomes, so they never run. Raises OSError then.
        """
        launches, ended = self._launches, list(self._ended.values())
        lines = [
            *self._lazy,
            *(self.begun[launch.attempt_id].began for launch in launches),
            *(self._over(each) for each in ended),
        ]
        if not lines:
            return Committed()
        try:
            self._journal.write(lines, durable=self.is_dirty)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            self._launches = []
            for launch in launches:
                why = f"not journalled: {error}"
                self.end(lost(launch.attempt_id, why, clock=self._clock, started=False))
            raise
        self._launches, self._ended, self._lazy = [], {}, []
        for each in ended:
            self._settle(each)
        if self._journal.wants_compacting:
            with suppress(OSError):  # the old file stays in use, and is as good
                self._journal.compact(list(self._everything()))
        return Committed(launches, ended)

    def close(self) -> None:
        """Write what could wait, and close the journal. Raises OSError."""
        try:
            self.commit()
        finally:
            self._journal.close()

    def _settle(self, ended: Ended, *, folder: str = "") -> None:
        folder = folder or self._folder_of(ended.attempt_id)
        if folder:
            self._folders[ended.attempt_id] = folder
        self.begun.pop(ended.attempt_id, None)
        self._forgotten.pop(ended.attempt_id, None)
        self.outcomes[ended.attempt_id] = ended

    def _forget(self, attempt_ids: Iterable[str]) -> None:
        for attempt_id in attempt_ids:
            self.outcomes.pop(attempt_id, None)
            self._folders.pop(attempt_id, None)
            self._with_executor.discard(attempt_id)
            self._forgotten[attempt_id] = None
        while len(self._forgotten) > FORGOTTEN_MAX:
            del self._forgotten[next(iter(self._forgotten))]

    def _everything(self) -> Iterator[AnyLine]:
        """The lines that say all that is known, and nothing twice."""
        yield self._boot
        yield Forgotten(attempt_ids=list(self._forgotten))
        for begun in self.begun.values():
            yield begun.began
            if begun.spawned is not None:
                yield begun.spawned
        for ended in self.outcomes.values():
            yield self._over(ended)

    def _over(self, ended: Ended) -> Over:
        attempt_id = ended.attempt_id
        is_loss, folder = attempt_id in self._with_executor, self._folder_of(attempt_id)
        return Over(ended=ended, with_executor=is_loss, folder=folder)

    def _folder_of(self, attempt_id: str) -> str:
        begun = self.begun.get(attempt_id)
        return self._folders.get(attempt_id, "") if begun is None else begun.began.folder


def lost(attempt_id: str, why: str, *, clock: Clock, started: bool) -> Ended:
    """The outcome of an attempt that the machine, not the command, brought to its end.

    started: False if its command certainly never ran.
    """
    return Ended(attempt_id, clock(), None, Cause.INFRA_LOST, why, started=started)
