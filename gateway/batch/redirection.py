"""Where a task wants its logs copied to, and by which names. Pure."""

from typing import NamedTuple

from gateway.batch import datatypes
from gateway.batch.attempts import Attempt


class Redirection(NamedTuple):
    """One log that is copied. stream: "stdout" or "stderr". folder: as the task names it."""

    stream: str
    folder: str
    name: str


def remote_redirections(task: datatypes.Task, attempt: Attempt) -> list[Redirection]:
    """The logs that go to remote storage."""
    info = task.redirect_info or datatypes.RedirectInfo()
    return _wanted(
        task,
        attempt,
        stdout=(info.stdout_redirect_path, info.stdout_redirect_file_name),
        stderr=(info.stderr_redirect_path, info.stderr_redirect_file_name),
    )


def local_redirections(task: datatypes.Task, attempt: Attempt) -> list[Redirection]:
    """The logs that go to folders of the node."""
    info = task.redirect_local_info or datatypes.RedirectLocalInfo()
    return _wanted(
        task,
        attempt,
        stdout=(info.stdout_local_path, info.stdout_local_file_name),
        stderr=(info.stderr_local_path, info.stderr_local_file_name),
    )


def shown_redirection(
    info: datatypes.RedirectInfo | None, *, attempt: Attempt, task_name: str
) -> datatypes.RedirectInfo:
    """What one instance is told of its logs: each file by the name it has, "" where nothing is set.

    Why also of a name without a path: it is what was asked for, although nothing is copied.
    """
    given = info or datatypes.RedirectInfo()
    stdout = given.stdout_redirect_path, given.stdout_redirect_file_name
    stderr = given.stderr_redirect_path, given.stderr_redirect_file_name
    names = {
        stream: file_name(name, stream=stream, attempt=attempt, task_name=task_name)
        for stream, (path, name) in (("stdout", stdout), ("stderr", stderr))
        if path or name
    }
    return datatypes.RedirectInfo(
        stdout_redirect_path=stdout[0] or "",
        stderr_redirect_path=stderr[0] or "",
        stdout_redirect_file_name=names.get("stdout", ""),
        stderr_redirect_file_name=names.get("stderr", ""),
    )


def _wanted(
    task: datatypes.Task,
    attempt: Attempt,
    *,
    stdout: tuple[str | None, str | None],
    stderr: tuple[str | None, str | None],
) -> list[Redirection]:
    task_name = task.task_name or ""
    return [
        Redirection(
            stream, folder, file_name(name, stream=stream, attempt=attempt, task_name=task_name)
        )
        for stream, (folder, name) in (("stdout", stdout), ("stderr", stderr))
        if folder
    ]


def file_name(template: str | None, *, stream: str, attempt: Attempt, task_name: str) -> str:
    """The name of a redirected log; the three placeholders of the API are filled in."""
    if not template:
        return f"{stream}.{attempt.job_id}.{task_name}.{attempt.number}.log"
    return (
        template.replace("${BATCH_JOB_ID}", attempt.job_id)
        .replace("${BATCH_TASK_NAME}", task_name)
        .replace("${BATCH_TASK_INSTANCE_INDEX}", str(attempt.number))
    )
