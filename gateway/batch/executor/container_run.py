"""`python -m gateway.batch.executor.container_run`: one attempt in its container, until its end.

The main process of the attempt. It is told what to do in a file that is open when it starts, not in
its argv, which everybody can read. It ends with the exit code of the container; where that does not
say enough it leaves a verdict. Whoever kills it removes the container, see `containers`.
"""

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from gateway.batch.engines import Cause
from gateway.batch.executor.containers import (
    Task,
    Verdict,
    read_task,
    write_verdict,
)
from gateway.batch.executor.folders import SCRATCH
from gateway.batch.executor.mounts import MOUNT_REPLACED, still_same

TASK_FD: Final = 3
WORDS_MAX: Final = 300
COULD_NOT_RUN: Final = 125
NOT_POSSIBLE: Final = 126  # such a working folder, say
NO_SUCH_COMMAND: Final = 127
NEVER: Final = "0001-"
REPLACED: Final = 124
STDERR: Final = "stderr"
STDERR_BYTES_MAX: Final = 65_536
_PATHS: Final = re.compile(r"(?<![\w./:@-])(?:/[\w.+@=-]+){2,}/?")  # and not what is within a URL
DOCKER_HUB: Final = "https://index.docker.io/v1/"


class NotFetched(Exception):
    """The image cannot be had; says why, in words for the job's owner."""


def main() -> int:
    """Fetch, run, judge; return the container's exit code."""
    with open(f"/proc/self/fd/{TASK_FD}", "rb") as file:  # anew, from its beginning
        task = read_task(file.read())
    try:
        image = find_image(task) or fetch_image(task)
    except NotFetched as error:
        write_verdict(task.folder, Verdict(Cause.STORAGE, str(error), None))
        return COULD_NOT_RUN
    code = run(task, image)
    verdict = judge(task, code)
    if verdict is not None:
        write_verdict(task.folder, verdict)
    return code


def find_image(task: Task) -> str | None:
    """The id of the image that is on this machine; None if it is not.

    Why an id and not a name: podman takes a name such as `dir:5000/a` for a folder to read.
    """
    for name in task.names:
        done = _quiet(task, ["image", "inspect", "--format", "{{.Id}}", name])
        found = done.stdout.decode(errors="replace").split()
        if done.returncode == 0 and found:
            return found[0]
    return None


def fetch_image(task: Task) -> str:
    """Fetch the image, as often as allowed; return its id. Raises NotFetched.

    Why one that is here is not fetched again, though it may have been with another's password: the
    machine's images belong to the machine, and a task is not to depend on a registry for nothing.
    """
    name = task.names[-1]
    for number in range(task.retries + 1):
        if number:
            time.sleep(task.retry_s)
        why = _fetch(task, name)
        if why is None and (image := find_image(task)) is not None:
            return image
    raise NotFetched(f"The image `{name}` could not be fetched: {why or 'it is gone again'}")


def _fetch(task: Task, name: str) -> str | None:
    """Try once; return why it failed, without any password."""
    words: list[str] = []
    keys = None
    if task.login is not None:
        keys = _login_file(task.login, is_podman=task.is_podman)
        words = ["--authfile", f"/proc/self/fd/{keys}"]
    try:
        if task.is_podman:
            pull = ["pull", "--quiet", *words, f"docker://{name}"]
            done = _quiet(task, pull, files=[keys] if keys else [])
        else:
            done = _docker_pull(task, name, keys)
    finally:
        if keys is not None:
            os.close(keys)
    if done.returncode == 0:
        return None
    said = done.stderr.decode(errors="replace")
    if task.login is not None and task.login[2]:
        said = said.replace(task.login[2], "***")
    return told(said) or f"exit code {done.returncode}"


def told(stderr: str) -> str:
    """The last line that a program said, fit for the job's owner: no path of this machine."""
    lines = stderr.strip().splitlines()
    said = lines[-1].removeprefix("Error: ") if lines else ""
    return _PATHS.sub("…", said)[-WORDS_MAX:]


def _login_file(login: Sequence[str], *, is_podman: bool) -> int:
    """What registries are asked with, in a file that no folder holds; return it opened."""
    server, user, password = login
    if not is_podman and server == "docker.io":
        server = DOCKER_HUB
    secret = base64.b64encode(f"{user}:{password}".encode()).decode()
    file = os.memfd_create("login", os.MFD_CLOEXEC)
    os.write(file, json.dumps({"auths": {server: {"auth": secret}}}).encode())
    return file


def _docker_pull(task: Task, name: str, keys: int | None) -> subprocess.CompletedProcess[bytes]:
    """Docker takes a folder of settings only; the file in it is a link to what no folder holds."""
    if keys is None:
        return _quiet(task, ["pull", "--quiet", name])
    folder = f"{task.folder}/{SCRATCH}/docker"
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with suppress(FileExistsError):
        os.symlink(f"/proc/self/fd/{keys}", f"{folder}/config.json")
    try:
        return _quiet(task, ["--config", folder, "pull", "--quiet", name], files=[keys])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(task: Task, image: str) -> int:
    """Run the container in the foreground; return the exit code, podman's own from 125 to 127.

    In a folder of its own: podman's monitor leaves word of an out-of-memory kill where it began.
    """
    done = subprocess.run(  # noqa: S603  # the executor's argv
        [*_showing(task), *task.program, "run", *task.run, image, *task.command],
        cwd=f"{task.folder}/{SCRATCH}",
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def _showing(task: Task) -> list[str]:
    """The words before podman that show it what is mounted, once that is sure to be the same.

    Why a mount namespace: podman would follow a path anew, and a share's path may have changed.
    """
    if not task.binds:
        return []
    steps = [
        shlex.join(["mount", "--no-canonicalize", "--rbind", source, shown])
        for source, _, shown in task.binds
    ]
    *command, expected = still_same((shown, identity) for _, identity, shown in task.binds)
    steps.append(f'[ "$({shlex.join(command)})" = {shlex.quote(expected)} ]')
    failed = f"{{ echo {shlex.quote(MOUNT_REPLACED)} >&2; exit {REPLACED}; }}"
    script = f'{" && ".join(steps)} || {failed}; exec "$@"'
    namespace = ["unshare", "--mount", "--propagation", "slave", "--"]
    return [*namespace, "/bin/sh", "-c", script, "container-mounts"]


def judge(task: Task, code: int) -> Verdict | None:
    """Say why, if the exit code alone does not. A command that succeeds has succeeded."""
    if code == 0:
        return None
    form = "{{.State.StartedAt}}|{{.State.OOMKilled}}"
    found = _quiet(task, ["inspect", "--type", "container", "--format", form, task.name])
    started, _, out_of_memory = found.stdout.decode(errors="replace").strip().partition("|")
    if found.returncode != 0 or started.startswith(NEVER):
        return _never_began(task, code)
    if out_of_memory == "true" or os.path.exists(f"{task.folder}/{SCRATCH}/oom"):
        return Verdict(Cause.OOM, "It used up its memory, and the kernel killed a process.", code)
    return None


def _never_began(task: Task, code: int) -> Verdict:
    """Why there was no container: what its stderr holds are the words of what should make it."""
    if code == REPLACED and task.binds:
        return Verdict(Cause.STORAGE, MOUNT_REPLACED, None)
    why = "see stderr"
    with suppress(OSError), open(f"{task.folder}/{STDERR}", "rb") as file:
        why = told(file.read(STDERR_BYTES_MAX).decode(errors="replace")) or why
    if code == NO_SUCH_COMMAND:
        return Verdict(Cause.USER_EXIT, f"The image cannot run `/bin/sh`: {why}", code)
    words = f"The container could not be started: {why}"
    if code == NOT_POSSIBLE:
        return Verdict(Cause.USER_EXIT, words, code)
    return Verdict(Cause.INFRA_LOST, words, None)


def _quiet(
    task: Task, words: Sequence[str], *, files: Sequence[int] = ()
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603  # the executor's argv
        [*task.program, *words],
        cwd=f"{task.folder}/{SCRATCH}",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        pass_fds=files,
        check=False,
    )


if __name__ == "__main__":
    sys.exit(main())
