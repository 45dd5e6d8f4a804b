"""What an attempt needs before its command can run, and what is left to do with its files after.

An attempt that needs no files goes to the engine at once, with all others of its round. One that
does is prepared in the background first. Nothing of that is written down: whoever dies meanwhile
leaves an instance STARTING, which is started again, and prepared from the beginning.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from subprocess import SubprocessError
from typing import Final

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup, TaskStatus

from gateway.batch.assignments import Assignment, Assignments
from gateway.batch.attempts import Attempt, parse_attempt
from gateway.batch.engines import Cause, Ended, Engine
from gateway.batch.executor.folders import WORK
from gateway.batch.executor.removal import remove_empty, remove_trees
from gateway.batch.records import Node
from gateway.batch.secrets import Vault
from gateway.batch.staging import StagingFailed, Tell, in_words
from gateway.batch.staging.keeping import Keeper, leaves_files, not_kept
from gateway.batch.staging.places import OF_THE_ATTEMPT
from gateway.batch.staging.preparing import FileServers, Preparer
from gateway.batch.storage import Storage
from gateway.clock import Clock
from gateway.errors import InvalidParameterValue
from gateway.store import Conflict, Store, StoreUnavailable
from gateway.telemetry import log

RETRY_S: Final = 1.0
GATHER_S: Final = 0.1
TakeEnd = Callable[[Ended], None]
Note = Callable[[str, str], None]


@dataclass(slots=True)
class Preparation:
    """One attempt that is being prepared. scope: cancels it. over: set when nothing of it runs."""

    scope: anyio.CancelScope
    over: anyio.Event


class Launcher:
    """Turns attempts into launches, and keeps what they leave behind where the task asks.

    `run` must run while the others are used.
    """

    def __init__(
        self,
        engine: Engine,
        assignments: Assignments,
        *,
        preparer: Preparer,
        keeper: Keeper,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._assignments = assignments
        self._preparer = preparer
        self._keeper = keeper
        self._clock = clock
        self._group: TaskGroup | None = None
        self._report: TakeEnd = lambda ended: None
        self._note: Note = lambda attempt_id, words: None
        self._preparing: dict[str, Preparation] = {}
        self._failed: dict[str, Ended] = {}
        self._removals = anyio.CapacityLimiter(1)
        self._ended: set[str] = set()
        self._bare: set[str] = set()  # of these, those that left nothing
        self._some_ended = anyio.Event()

    async def run(
        self,
        report: TakeEnd,
        note: Note = lambda attempt_id, words: None,
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Prepare and clean up until cancelled. report: takes the end of what was never started.

        note: takes an attempt that waits to be prepared, and why; "" once it waits no longer.
        """
        try:
            async with anyio.create_task_group() as self._group:
                self._report, self._note = report, note
                task_status.started()
                await self._finish_forever()
        finally:
            self._group = None  # who is in the middle of something leaves it to the next one

    # Before ------------------------------------------------------------------------------------

    async def start(self, attempts: Mapping[Attempt, Node | None]) -> None:
        """Have the engine run attempts, each given with its node, or None if that is not at hand.

        One that is known already is left alone. One that can never be launched, because its secrets
        cannot be read, say, ends, and stops no other. Raises Conflict if a task is gone, and
        StoreUnavailable; what was not launched because of that is to be started again.
        """
        launches = []
        for assignment in await self._assignments.read(attempts):
            attempt = assignment.attempt
            if attempt.id in self._failed:
                self._report(self._failed[attempt.id])
            elif assignment.facts.needs_staging:
                self._begin(assignment)
            elif assignment.task.application.docker is None:
                launches.append(self._assignments.launch_plainly(assignment))
            else:
                try:
                    launches.append(await self._assignments.launch(assignment))
                except (StagingFailed, InvalidParameterValue) as error:
                    self._fail(attempt.id, str(error))
        await self._engine.start(launches)

    def _begin(self, assignment: Assignment) -> None:
        if self._group is not None and assignment.attempt.id not in self._preparing:
            preparation = Preparation(anyio.CancelScope(), anyio.Event())
            self._preparing[assignment.attempt.id] = preparation
            self._group.start_soon(self._prepare, assignment, preparation)

    async def _prepare(self, assignment: Assignment, preparation: Preparation) -> None:
        """Prepare one attempt and start it, unless it is stopped before that."""
        attempt_id = assignment.attempt.id
        try:
            with preparation.scope:
                order = await self._assignments.order(assignment)
                tell = partial(self._note, attempt_id)
                mounts = await self._preparer.prepare(order, tell=tell)
                launch = await self._assignments.launch(assignment, mounts=mounts)
                if not preparation.scope.cancel_called:
                    await self._engine.start([launch])
        except StoreUnavailable:
            log.warning("not_prepared", attempt_id=attempt_id)  # it is started again before long
        except OSError as error:
            await self._fail_prepared(attempt_id, in_words(error))
        except Exception:  # a fault of our own: one attempt may not stop the others
            log.exception("not_prepared", attempt_id=attempt_id)
            await self._fail_prepared(attempt_id, "The gateway could not prepare it.")
        finally:
            del self._preparing[attempt_id]
            preparation.over.set()

    async def _fail_prepared(self, attempt_id: str, words: str) -> None:
        """End an attempt that cannot be prepared, and remove what was prepared of it.

        Why before it is told: what it brought may have filled the disk that the end is to be
        written to.
        """
        await self._remove([attempt_id])
        self._fail(attempt_id, words)

    def _fail(self, attempt_id: str, words: str) -> None:
        """End an attempt that cannot be prepared; said again until `finish`, never tried again."""
        log.info("preparation_failed", attempt_id=attempt_id, error=words)
        ended = Ended(attempt_id, self._clock(), None, Cause.STORAGE, words, started=False)
        self._failed[attempt_id] = ended
        self._report(ended)

    async def stop(self, attempt_ids: Sequence[str]) -> None:
        """Have attempts end, those too that are only being prepared: they will never start."""
        self._cancel(attempt_ids)
        self._keeper.stop(attempt_ids)
        await self._engine.stop(attempt_ids)

    def _cancel(self, attempt_ids: Collection[str]) -> None:
        for attempt_id in self._preparing.keys() & set(attempt_ids):
            self._preparing[attempt_id].scope.cancel()

    # After -------------------------------------------------------------------------------------

    def leaves_files(self, ended: Ended) -> bool:
        """Whether its command ran, and its task asks for files to be kept, or is not known yet."""
        if not ended.started:
            return False
        facts = self._assignments.find_facts(parse_attempt(ended.attempt_id))
        return facts is None or leaves_files(facts.task)

    async def keep_files(self, ended: Ended, *, tell: Tell) -> Ended:
        """Keep what an ended attempt leaves where its task asks; it may become a failure.

        tell: is told why it takes long.
        """
        attempt = parse_attempt(ended.attempt_id)
        while True:
            try:
                [assignment] = await self._assignments.read({attempt: None})
                if not leaves_files(assignment.task):
                    return ended
                order = await self._assignments.order(assignment)
                return await self._keeper.keep(ended, attempt, order=order, tell=tell)
            except Conflict:
                return ended  # its job is gone
            except StagingFailed as error:
                return not_kept(ended, in_words(error))
            except StoreUnavailable:
                log.warning("task_not_read", attempt_id=ended.attempt_id, retry_s=RETRY_S)
                await anyio.sleep(RETRY_S)
            except Exception:  # a fault of our own: one attempt may not stop the others
                log.exception("not_kept", attempt_id=ended.attempt_id)
                return not_kept(ended, "The gateway could not keep its files.")

    def finish(self, ended: Collection[Ended]) -> None:
        """Have what ended attempts left removed, their logs apart, and the engine forget them.

        Call it once their ends are stored. Why the engine forgets last: it tells of them again
        until then, and so nothing stays behind after a crash.
        """
        attempt_ids = [each.attempt_id for each in ended]
        self._cancel(attempt_ids)
        for attempt_id in attempt_ids:
            self._failed.pop(attempt_id, None)
        self._ended.update(attempt_ids)
        self._bare.update(each.attempt_id for each in ended if each.left_nothing)
        self._some_ended.set()

    async def _finish_forever(self) -> None:
        """Finish what has ended, with what else ends in a moment: nobody waits for it."""
        while True:
            await self._some_ended.wait()
            await anyio.sleep(GATHER_S)
            self._some_ended = anyio.Event()
            ended = sorted(self._ended)
            await self._finish(ended)
            self._ended.difference_update(ended)
            self._bare.difference_update(ended)

    async def _finish(self, attempt_ids: Sequence[str]) -> None:
        later = [attempt_id for attempt_id in attempt_ids if attempt_id not in self._bare]
        if later:
            later = await anyio.to_thread.run_sync(self._remove_empty, later)
        if later and self._group is not None:
            self._group.start_soon(self._finish_slowly, later)
        done = set(attempt_ids).difference(later)
        if done:
            await self._engine.acknowledge(sorted(done))

    def _remove_empty(self, attempt_ids: Sequence[str]) -> list[str]:
        """Remove the folders of attempts that left nothing; returns the attempts that did."""
        later = []
        for attempt_id in attempt_ids:
            attempt = parse_attempt(attempt_id)
            facts = self._assignments.find_facts(attempt)
            folder = f"{self._engine.attempt_path(attempt.folder)}/{WORK}"
            if facts is None or facts.needs_staging or not remove_empty(folder):
                later.append(attempt_id)
        return later

    async def _finish_slowly(self, attempt_ids: Sequence[str]) -> None:
        cancelled = [self._preparing[id_] for id_ in attempt_ids if id_ in self._preparing]
        for preparation in cancelled:
            await preparation.over.wait()
        await self._remove(attempt_ids)
        await self._engine.acknowledge(sorted(attempt_ids))

    async def _remove(self, attempt_ids: Sequence[str]) -> None:
        """Remove what attempts left, their logs apart; what cannot be removed is logged."""
        folders = [
            self._engine.attempt_path(parse_attempt(attempt_id).folder) / name
            for attempt_id in attempt_ids
            for name in OF_THE_ATTEMPT
        ]
        try:
            await anyio.to_thread.run_sync(remove_trees, folders, limiter=self._removals)
        except (OSError, SubprocessError) as error:
            log.warning("not_removed", attempts=len(attempt_ids), error=str(error))


def build_launcher(
    store: Store,
    engine: Engine,
    *,
    storage: Storage,
    servers: FileServers,
    vault: Vault,
    processes_max: int,
    clock: Clock,
) -> Launcher:
    """A launcher with all its parts. storage, servers: where `cos://`, and `cfs://` with `nfs://`,
    lead. vault: has the callers' keys. processes_max: how many processes one command may have.
    """
    return Launcher(
        engine,
        Assignments(store, engine, vault, processes_max=processes_max),
        preparer=Preparer(storage, servers),
        keeper=Keeper(engine, storage),
        clock=clock,
    )
