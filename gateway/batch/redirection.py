"""Where the output of a command is copied to once it has ended."""

from dataclasses import replace
from pathlib import Path

import anyio.to_thread

from gateway.batch import datatypes
from gateway.batch.attempts import Attempt, parse_attempt
from gateway.batch.engines import Cause, Ended, Engine
from gateway.batch.storage import RemotePath, Storage, parse_cos_folder
from gateway.telemetry import log

COPIES_AT_ONCE = 8


class Redirector:
    """Copies `stdout` and `stderr` of ended attempts to where their tasks ask for."""

    def __init__(self, engine: Engine, storage: Storage) -> None:
        self._engine = engine
        self._storage = storage
        self._threads = anyio.CapacityLimiter(COPIES_AT_ONCE)

    async def redirect(self, ended: Ended, spec: datatypes.Task) -> Ended:
        """Copy what the task asks for; an end whose copy fails becomes STORAGE."""
        attempt = parse_attempt(ended.attempt_id)
        try:
            for source, folder, name in self._copies(attempt, spec):
                await anyio.to_thread.run_sync(
                    self._put, source, folder, name, limiter=self._threads
                )
        except OSError as error:
            log.warning("redirection_failed", attempt_id=ended.attempt_id, error=str(error))
            if ended.cause is None:
                why = error.strerror or "The storage refused it."
                return replace(ended, cause=Cause.STORAGE, detail=why)
        return ended

    def _copies(self, attempt: Attempt, spec: datatypes.Task) -> list[tuple[Path, RemotePath, str]]:
        redirect = spec.redirect_info or datatypes.RedirectInfo()
        wanted = (
            ("stdout", redirect.stdout_redirect_path, redirect.stdout_redirect_file_name),
            ("stderr", redirect.stderr_redirect_path, redirect.stderr_redirect_file_name),
        )
        return [
            (
                self._engine.log_path(attempt.folder, stream),
                parse_cos_folder(path),
                file_name(name, stream=stream, attempt=attempt, task_name=spec.task_name or ""),
            )
            for stream, path, name in wanted
            if path
        ]

    def _put(self, source: Path, folder: RemotePath, name: str) -> None:
        if source.exists():
            self._storage.put_file(source, folder=folder, name=name)


def file_name(template: str | None, *, stream: str, attempt: Attempt, task_name: str) -> str:
    """The name of a redirected log; the three placeholders of the API are filled in."""
    if not template:
        return f"{stream}.{attempt.job_id}.{task_name}.{attempt.number}.log"
    return (
        template.replace("${BATCH_JOB_ID}", attempt.job_id)
        .replace("${BATCH_TASK_NAME}", task_name)
        .replace("${BATCH_TASK_INSTANCE_INDEX}", str(attempt.number))
    )
