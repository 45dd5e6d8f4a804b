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
from gateway.batch.executor.containers import Task, read_task
from gateway.batch.executor.folders import SCRATCH
from gateway.batch.executor.images import full_name, guard, is_guarded
from gateway.batch.executor.mounts import MOUNT_REPLACED, still_same
from gateway.batch.executor.notes import Verdict, note_begun, write_verdict

TASK_FD: Final = 3
WORDS_MAX: Final = 300
COULD_NOT_RUN: Final = 125  # podman itself says so: of an option or an image, say
NOT_POSSIBLE: Final = 126  # such a working folder, say
NO_SUCH_COMMAND: Final = 127
REFUSALS: Final = frozenset({COULD_NOT_RUN, NOT_POSSIBLE})
IMAGE_WORDS: Final = 3
NEVER: Final = "0001-"
REPLACED: Final = 124
STDERR: Final = "stderr"
STDERR_BYTES_MAX: Final = 65_536
_PATHS: Final = re.compile(r"(?<![\w./:@-])(?:/[\w.+@=-]+){2,}/?")  # and not what is within a URL
FETCH_S_MAX: Final = 3_600.0
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
    note_begun(task.folder)
    code = run(task, image)
    verdict = judge(task, code)
    if verdict is not None:
        write_verdict(task.folder, verdict)
    return code


def find_image(task: Task) -> str | None:
    """The id of the image that is on this machine, if it may serve as it is; None if there is none.

    Why an id and not a name: podman takes a name such as `dir:5000/a` for a folder to read.
    """
    for name in task.names:
        found = look_up(task, name)
        # In this order: the note on an image is there before the image is.
        if found is not None and not is_guarded(task.fetched, name):
            return found
    return None


def look_up(task: Task, name: str) -> str | None:
    """The id of the image that bears exactly this name, in full; None if none here does.

    Why the names are looked at again: podman and docker take the beginning of an id for a name,
    too, and podman the end of a name, though both may be of an image that is another's secret.
    """
    form = "{{.Id}} {{json .RepoTags}} {{json .RepoDigests}}"
    done = _quiet(task, ["image", "inspect", "--format", form, name])
    words = done.stdout.decode(errors="replace").split()
    if done.returncode != 0 or len(words) != IMAGE_WORDS:
        return None
    id_, *lists = words
    names = {full_name(each) for text in lists for each in json.loads(text) or ()}
    return id_ if name in names else None


def fetch_image(task: Task) -> str:
    """Fetch the image, as often as allowed; return its id. Raises NotFetched.

    Each try may take FETCH_S_MAX: it counts for nothing else of the task, its Timeout neither.

    Why one that is here may be fetched again, and is of no use if the registry cannot be asked: it
    was fetched with a password, and nobody else can say whether this task's is good enough. Of an
    image that is here already the registry is asked for no more than its list of layers.
    """
    name = task.names[-1]
    noted = None
    try:
        if task.login is not None:
            noted = guard(task.fetched, name, attempt=task.name)
        image, why = _fetch_again_and_again(task, name)
        if noted is not None:
            # One that failed may have left the image there: it was killed in the last moment, say.
            (noted.keep if image or look_up(task, name) else noted.drop)()
    except OSError as error:
        raise NotFetched(f"The image `{name}` could not be fetched: {error.strerror}") from error
    if image is None:
        raise NotFetched(f"The image `{name}` could not be fetched: {why or 'it is gone again'}")
    return image


def _fetch_again_and_again(task: Task, name: str) -> tuple[str | None, str | None]:
    """Try as often as allowed; return the image's id, and why there is none."""
    why = None
    for number in range(task.retries + 1):
        if number:
            time.sleep(task.retry_s)
        why = _fetch(task, name)
        if why is None and (image := look_up(task, name)) is not None:
            return image, None
    return None, why


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
            done = _quiet(task, pull, files=[keys] if keys else [], s_max=FETCH_S_MAX)
        else:
            done = _docker_pull(task, name, keys)
    except subprocess.TimeoutExpired:
        return f"it is not there after {FETCH_S_MAX:g} s"
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
        return _quiet(task, ["pull", "--quiet", name], s_max=FETCH_S_MAX)
    folder = f"{task.folder}/{SCRATCH}/docker"
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with suppress(FileExistsError):
        os.symlink(f"/proc/self/fd/{keys}", f"{folder}/config.json")
    try:
        words = ["--config", folder, "pull", "--quiet", name]
        return _quiet(task, words, files=[keys], s_max=FETCH_S_MAX)
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
        return Verdict(Cause.OOM, _memory_words(task), code)
    return None


def _memory_words(task: Task) -> str:
    """How much memory it had: its own options may allow less than its node has."""
    words = dict(zip(task.run, task.run[1:], strict=False))
    allowed = f"{words['--memory']} bytes of memory" if "--memory" in words else "its memory"
    return f"It used up {allowed}, and the kernel killed a process of it."


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
    if code in REFUSALS:
        return Verdict(Cause.USER_EXIT, words, code)
    return Verdict(Cause.INFRA_LOST, words, None)


def _quiet(
    task: Task, words: Sequence[str], *, files: Sequence[int] = (), s_max: float | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Raises TimeoutExpired after `s_max`, if there is one."""
    return subprocess.run(  # noqa: S603  # the executor's argv
        [*task.program, *words],
        cwd=f"{task.folder}/{SCRATCH}",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        pass_fds=files,
        timeout=s_max,
        check=False,
    )


if __name__ == "__main__":
    sys.exit(main())
