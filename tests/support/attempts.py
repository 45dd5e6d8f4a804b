"""Launches to try an engine with, and a way to wait for what becomes of them."""

import itertools
from collections.abc import Collection, Mapping

import anyio

from gateway.batch.engines import Ended, Engine, Launch, Reconnected, Report, Started

WAIT_S_MAX = 20
numbers = itertools.count(1)


def launch(
    command: str, *, timeout_s: int = 100, environment: Mapping[str, str] | None = None
) -> Launch:
    """A launch of its own id and folder."""
    number = next(numbers)
    return Launch(
        attempt_id=f"job-00000001.0.{number}.1",
        command=command,
        environment=environment or {},
        folder=f"job-00000001/0/{number}/1",
        timeout_s=timeout_s,
    )


class Watch:
    """Everything that an engine reported, in order."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.heard: list[Report] = []

    async def ended(self, launches: Collection[Launch]) -> list[Ended]:
        """The outcomes of these attempts, waited for, in their order."""
        with anyio.fail_after(WAIT_S_MAX):
            while missing(launches, self.heard, kind=Ended):
                self.heard += await self._engine.reports()
        found = {each.attempt_id: each for each in self.heard if isinstance(each, Ended)}
        return [found[each.attempt_id] for each in launches]

    async def started(self, launches: Collection[Launch]) -> None:
        """Wait until these attempts are reported to run."""
        with anyio.fail_after(WAIT_S_MAX):
            while missing(launches, self.heard, kind=Started):
                self.heard += await self._engine.reports()

    async def reconnected(self) -> None:
        """Wait until the engine is lost and back; what was heard before is forgotten."""
        self.heard.clear()
        with anyio.fail_after(WAIT_S_MAX):
            while not any(isinstance(each, Reconnected) for each in self.heard):
                self.heard += await self._engine.reports()


def missing(
    launches: Collection[Launch], heard: list[Report], *, kind: type[Started] | type[Ended]
) -> set[str]:
    there = {each.attempt_id for each in heard if isinstance(each, kind)}
    return {each.attempt_id for each in launches} - there
