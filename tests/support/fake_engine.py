"""An engine in memory: commands never run, a test says how they end."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import anyio

from gateway.batch.engines import (
    Ability,
    Cause,
    Ended,
    Launch,
    NodesLost,
    Reconnected,
    Report,
    Started,
)
from gateway.batch.executor.folders import attempt_folder, node_folder
from gateway.clock import now


class FakeEngine:
    """Keeps attempts until they are told to end. `root`: where logs would be.

    answer: says how a command ends as soon as it starts, by exit code; None lets it run on.
    """

    def __init__(
        self,
        root: Path,
        *,
        capacity: int = 16,
        mem_gib: int = 65_536,
        clock: Callable[[], datetime] = now,
        answer: Callable[[Launch], int | None] = lambda _: None,
    ) -> None:
        self.capacity = capacity
        self.mem_gib = mem_gib
        self.missing: Mapping[Ability, str] = {}
        self.running: dict[str, Launch] = {}
        self.started: list[Launch] = []
        self.outcomes: dict[str, Ended] = {}
        self.acknowledged: set[str] = set()
        self.loss: NodesLost | None = None
        self._begun: dict[str, Started] = {}
        self._root = root
        self._clock = clock
        self._answer = answer
        self._reports: list[Report] = [Reconnected()]
        self._reported = anyio.Event()

    async def start(self, launches: Sequence[Launch]) -> None:
        for launch in launches:
            if self._knows(launch.attempt_id):
                self._tell_standing(launch.attempt_id)
                continue
            self.running[launch.attempt_id] = launch
            self.started.append(launch)
            self._begun[launch.attempt_id] = Started(launch.attempt_id, self._clock())
            self._tell_standing(launch.attempt_id)
            code = self._answer(launch)
            if code is not None:
                self.exit(launch.attempt_id, code)

    async def stop(self, attempt_ids: Sequence[str]) -> None:
        for attempt_id in attempt_ids:
            if attempt_id in self.outcomes:
                self._tell(self.outcomes[attempt_id])
            elif attempt_id not in self.acknowledged:
                self.end(
                    attempt_id,
                    exit_code=None,
                    cause=Cause.TERMINATED,
                    started=attempt_id in self.running,
                )

    async def acknowledge(self, attempt_ids: Sequence[str]) -> None:
        for attempt_id in attempt_ids:
            if self.outcomes.pop(attempt_id, None) is not None:
                self.acknowledged.add(attempt_id)

    async def acknowledge_loss(self, lost: NodesLost) -> None:
        if lost == self.loss:
            self.loss = None

    async def reconcile(self, attempt_ids: Sequence[str]) -> None:
        for attempt_id in attempt_ids:
            if attempt_id in self.running or attempt_id in self.outcomes:
                self._tell_standing(attempt_id)
            else:
                self.end(attempt_id, exit_code=None, cause=Cause.INFRA_LOST)

    async def reports(self) -> Sequence[Report]:
        while not self._reports:
            self._reported = anyio.Event()
            await self._reported.wait()
        reports, self._reports = self._reports, []
        return reports

    async def discard(self, folder: str) -> None:
        shutil.rmtree(self._root / "attempts" / folder, ignore_errors=True)

    def log_path(self, folder: str, stream: str) -> Path:
        return self._root / "attempts" / folder / stream

    def attempt_path(self, folder: str) -> Path:
        return attempt_folder(self._root, folder)

    def node_path(self, node_id: str) -> Path:
        return node_folder(self._root, node_id)

    def exit(self, attempt_id: str, code: int) -> None:
        """Let a command end by itself."""
        self.end(attempt_id, exit_code=code, cause=Cause.USER_EXIT if code else None)

    def end(
        self,
        attempt_id: str,
        *,
        exit_code: int | None,
        cause: Cause | None,
        started: bool = True,
    ) -> None:
        """Let an attempt end for any cause. started: whether its command ever ran."""
        self.running.pop(attempt_id, None)
        at = self._clock()
        self.outcomes[attempt_id] = Ended(attempt_id, at, exit_code, cause, started=started)
        self._tell(self.outcomes[attempt_id])

    def reconnect(self) -> None:
        """Be lost and come back: everything is told again."""
        if self.loss is not None:
            self._tell(self.loss)
        self._tell(Reconnected())
        for attempt_id in (*self.running, *self.outcomes):
            self._tell_standing(attempt_id)

    def lose_nodes(self) -> None:
        """Be killed with all that runs, and replaced by another."""
        self.loss = NodesLost(self._clock())
        self._tell(self.loss)
        self._tell(Reconnected())
        for attempt_id in list(self.running):
            self.end(attempt_id, exit_code=None, cause=Cause.INFRA_LOST)

    def _knows(self, attempt_id: str) -> bool:
        return (
            attempt_id in self.running
            or attempt_id in self.outcomes
            or attempt_id in self.acknowledged
        )

    def _tell_standing(self, attempt_id: str) -> None:
        if attempt_id in self.running:
            self._tell(self._begun[attempt_id])
        elif attempt_id in self.outcomes:
            self._tell(self.outcomes[attempt_id])

    def _tell(self, report: Report) -> None:
        self._reports.append(report)
        self._reported.set()
