"""How a launch becomes the argv, environment and files of a process."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from gateway.batch.engines import Cause, Launch
from gateway.batch.executor import mounts
from gateway.batch.executor.containers import Containers, container_command
from gateway.batch.executor.folders import LOG_MODE, STREAMS
from gateway.batch.executor.isolation import PATH, SHELL, Isolation
from gateway.batch.executor.mounts import MOUNT_REPLACED, CannotLaunch, CheckedMount
from gateway.batch.executor.notes import VERDICT, Verdict
from gateway.batch.executor.programs import program_of
from gateway.batch.executor.work_folders import make_folder, make_tmp
from gateway.call import Value

LANGUAGE: Final = "C.UTF-8"
SCRIPT_FD: Final = 3
# Names that every shell can set: not those that some keep to themselves, as bash does UID.
_SETTABLE: Final = re.compile(
    r"(?!(?:E?UID|PPID|OPTIND|SHELLOPTS|BASH\w*|_)\Z)[A-Za-z_][A-Za-z0-9_]*"
)
VERDICT_FD: Final = 4


class Command(Value, frozen=True):
    """What to spawn. program: what to execute rather than `argv`, if that can be done: the name of
    a program of the system, and its arguments; () for nothing. script: what the process reads on
    SCRIPT_FD; None for nothing.

    user: whose work folder and logs are; None for our own. is_shut: whether what runs beside it
    cannot reach its work folder. has_tmp: whether it has a folder `tmp` beside that. can_tell:
    whether it has a file on VERDICT_FD to leave a verdict in. remover: what to run after the
    process and all it started are gone, again until it succeeds; () for nothing.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    program: tuple[str, ...] = ()
    script: bytes | None = None
    user: int | None = None
    is_shut: bool = True
    has_tmp: bool = False
    can_tell: bool = False
    remover: tuple[str, ...] = ()


def command_of(
    launch: Launch,
    isolation: Isolation,
    *,
    root: Path,
    work: str,
    containers: Containers | None = None,
) -> Command:
    """Say what to spawn for a launch, and make ready what it mounts.

    root: the executor's folder. work: the attempt's work folder. Raises ValueError for an
    environment no process can have, CannotLaunch for what cannot be had here, OSError.

    Why a script: what isolates (bubblewrap, setpriv) begins with our rights, so the caller's
    variables, LD_PRELOAD among them, must not reach it. They are set behind it, and do not stand
    in its argv either, which every user of the machine can read.
    """
    if launch.container is not None:
        return _in_container(launch, containers, root=root, work=work)
    placed = _place(launch, isolation, root=root, work=work)
    environment = {
        "PATH": PATH,
        "LANG": LANGUAGE,
        "HOME": isolation.home or work,
        **launch.environment,
    }
    _check(environment)
    is_shut = isolation.home is not None
    if not isolation.prefix:
        environment["PWD"] = work  # as a shell would see to
        program = program_of(launch.command, environment)
        words = (*SHELL, launch.command)
        return Command(words, environment, program, user=isolation.user, is_shut=is_shut)
    script = _script(environment, launch.command)
    if placed:
        script = _unless_changed(placed) + script
    prefix = isolation.prefix_with(mounts.binds(placed))
    return Command(
        (*prefix, SHELL[0], f"/proc/self/fd/{SCRIPT_FD}"),
        {"PATH": PATH},
        script=os.fsencode(script),
        user=isolation.user,
        is_shut=is_shut,
        has_tmp=isolation.has_tmp,
        can_tell=bool(placed),
    )


def _script(environment: Mapping[str, str], command: str) -> str:
    """What a shell reads to become the command with these variables and no others.

    Why not always by `env`: one more program to begin takes a tenth of an isolated `true`.
    """
    words = [*SHELL, command]
    if all(_SETTABLE.fullmatch(name) for name in environment):
        pairs = (f"{name}={shlex.quote(value)}" for name, value in environment.items())
        exports = "".join(f"export {pair}\n" for pair in pairs)
        return f"unset PWD\n{exports}exec {SCRIPT_FD}<&- {shlex.join(words)}\n"
    pairs = (f"{name}={value}" for name, value in environment.items())
    return f"exec {SCRIPT_FD}<&- {shlex.join(['/usr/bin/env', '-i', '--', *pairs, *words])}\n"


def _check(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"the environment variable {name[:100]!r} cannot be set")


def _place(launch: Launch, isolation: Isolation, *, root: Path, work: str) -> list[CheckedMount]:
    """What the launch mounts, made ready. Raises CannotLaunch or OSError."""
    if not launch.mounts:
        return []
    if isolation.mounts_at is None:
        raise CannotLaunch(f"Nothing can be mounted under the isolation `{isolation.name}`.")
    folder = os.path.dirname(work)
    make_folder(folder, user=isolation.user)
    tmp = make_tmp(folder, user=isolation.user) if isolation.has_tmp else None
    return mounts.place(launch.mounts, root=root, work=work, user=isolation.user, tmp=tmp)


def _unless_changed(placed: Sequence[CheckedMount]) -> str:
    """A script that ends here if something else was mounted than what was found."""
    *command, expected = mounts.still_same((each.target, each.identity) for each in placed)
    verdict = Verdict(Cause.STORAGE, MOUNT_REPLACED, None).encoded()
    found = f"{shlex.join(command)} {SCRIPT_FD}<&- {VERDICT_FD}>&-"
    return (
        f'[ "$({found})" = {shlex.quote(expected)} ] ||'
        f" {{ echo {shlex.quote(MOUNT_REPLACED)} >&2;"
        f" printf %s {shlex.quote(verdict)} >&{VERDICT_FD}; exit 126; }}\n"
        f"exec {VERDICT_FD}>&-\n"
    )


def _in_container(
    launch: Launch, containers: Containers | None, *, root: Path, work: str
) -> Command:
    """How a launch runs in its container. Raises ValueError, CannotLaunch or OSError."""
    if containers is None:
        raise CannotLaunch("This machine can run no containers; `qcs-gateway doctor` says why.")
    _check(launch.environment)
    folder = os.path.dirname(work)
    make_folder(folder, user=containers.user)
    tmp = make_tmp(folder, user=containers.user)
    placed = mounts.place(launch.mounts, root=root, work=work, user=containers.user, tmp=tmp)
    made = container_command(launch, containers, root=root, folder=folder, placed=placed)
    return Command(
        made.argv,
        made.environment,
        script=made.script,
        user=containers.user,
        has_tmp=True,
        can_tell=True,
        remover=made.remover,
    )


def open_logs(folder: str, *, user: int | None) -> list[int]:
    """Open `stdout` and `stderr` of an attempt, in this order, for `user` to write to.

    Raises OSError, and then none is open.
    """
    opened: list[int] = []
    try:
        for stream in STREAMS:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            opened.append(os.open(f"{folder}/{stream}", flags, LOG_MODE))
            if user is not None:
                os.fchown(opened[-1], user, user)
    except OSError:
        for file in opened:
            os.close(file)
        raise
    return opened


def open_verdict(folder: str) -> int:
    """Open the file that an attempt's verdict is left in, new and empty. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(f"{folder}/{VERDICT}", flags, 0o600)


def open_script(script: bytes) -> int:
    """Put a script where the process can read it from its beginning. Raises OSError."""
    file = os.memfd_create("command", os.MFD_CLOEXEC)
    try:
        view = memoryview(script)
        while view:
            view = view[os.write(file, view) :]
    except OSError:
        os.close(file)
        raise
    return file
