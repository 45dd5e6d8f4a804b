"""What an attempt needs before its command can run, and what is left to do with its files after."""

from collections.abc import Sequence

import anyio
import msgspec

from gateway.batch import datatypes
from gateway.batch import statements as sql
from gateway.batch.attempts import Attempt, parse_attempt
from gateway.batch.engines import Ended, Engine, Launch
from gateway.batch.redirection import Redirector
from gateway.batch.validation import TIMEOUT_DEFAULT_S
from gateway.store import Conflict, Store, StoreUnavailable
from gateway.telemetry import log

TASKS_MAX = 10_000
RETRY_S = 1.0


class Launcher:
    """Turns attempts into launches, and copies to where the task asks what they leave behind."""

    def __init__(self, store: Store, engine: Engine, redirector: Redirector) -> None:
        self._store = store
        self._engine = engine
        self._redirector = redirector
        self._tasks: dict[tuple[str, int], datatypes.Task] = {}

    async def start(self, attempts: Sequence[Attempt]) -> None:
        """Have the engine run attempts. One that is known already is left alone.

        Raises Conflict if a task is gone.
        """
        await self._engine.start([await self._launch(attempt) for attempt in attempts])

    async def _launch(self, attempt: Attempt) -> Launch:
        task = await self.task_of(attempt.job_id, attempt.position)
        if task is None:
            raise Conflict(f"{attempt.id} was placed, but its task is gone")
        variables = {variable.name: variable.value for variable in task.env_vars or ()}
        return Launch(
            attempt_id=attempt.id,
            command=task.application.command or "",
            environment={
                **variables,
                "BATCH_JOB_ID": attempt.job_id,
                "BATCH_TASK_NAME": task.task_name or "",
                "BATCH_TASK_INSTANCE_NUM": str(task.task_instance_num or 1),
                "BATCH_TASK_INSTANCE_INDEX": str(attempt.number),
            },
            folder=attempt.folder,
            timeout_s=TIMEOUT_DEFAULT_S if task.timeout is None else task.timeout,
        )

    async def task_of(self, job_id: str, position: int) -> datatypes.Task | None:
        """A task as it was submitted; None if the job is gone. It never changes, so it is kept."""
        key = job_id, position
        if key not in self._tasks:
            keys = {"job_id": job_id, "position": position}
            row = await self._store.read_point(lambda tx: tx.execute(sql.TASK_SPEC, keys).first())
            if row is None:
                return None
            while len(self._tasks) >= TASKS_MAX:
                del self._tasks[next(iter(self._tasks))]
            self._tasks[key] = msgspec.json.decode(row.spec, type=datatypes.Task)
        return self._tasks[key]

    def known_task(self, job_id: str, position: int) -> datatypes.Task | None:
        """A task that `task_of` has read, unless it was too long ago."""
        return self._tasks.get((job_id, position))

    def leaves_files(self, ended: Ended) -> bool:
        """Whether the task asks for files to be copied, or is not known yet."""
        attempt = parse_attempt(ended.attempt_id)
        task = self.known_task(attempt.job_id, attempt.position)
        return task is None or task.redirect_info is not None

    async def keep_files(self, ended: Ended) -> Ended:
        """Copy what an ended attempt leaves to where its task asks; it may become a failure."""
        attempt = parse_attempt(ended.attempt_id)
        while True:
            try:
                task = await self.task_of(attempt.job_id, attempt.position)
                break
            except StoreUnavailable:
                log.warning("task_not_read", attempt_id=ended.attempt_id, retry_s=RETRY_S)
                await anyio.sleep(RETRY_S)
        if task is not None and task.redirect_info is not None:
            ended = await self._redirector.redirect(ended, task)
        return ended
