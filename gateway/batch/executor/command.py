"""How a launch becomes the argv, environment and files of a process."""

import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.batch.engines import Launch
from gateway.batch.executor import mounts
from gateway.batch.executor.containers import Containers, container_command
from gateway.batch.executor.folders import STREAMS, WORK
from gateway.batch.executor.isolation import PATH, SHELL, Isolation
from gateway.batch.executor.mounts import CannotLaunch, Placed

LANGUAGE: Final = "C.UTF-8"
SCRIPT_FD: Final = 3
_FOLDER_MODE: Final = 0o711


@dataclass(frozen=True, slots=True)
class Command:
    """What to spawn. script: what the process reads on SCRIPT_FD; None for nothing.

    user: whose work folder and logs are; None for our own. remover: what to run after the process
    and all it started are gone, again until it succeeds; () for nothing.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    script: bytes | None = None
    user: int | None = None
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
    if not isolation.prefix:
        return Command((*SHELL, launch.command), environment, user=isolation.user)
    pairs = [f"{name}={value}" for name, value in environment.items()]
    words = ["/usr/bin/env", "-i", "--", *pairs, *SHELL, launch.command]
    script = f"exec {SCRIPT_FD}<&- {shlex.join(words)}\n"
    if placed:
        script = _unless_changed(placed) + script
    prefix = isolation.prefix_with(mounts.binds(placed))
    argv = (*prefix, SHELL[0], f"/proc/self/fd/{SCRIPT_FD}")
    return Command(argv, {"PATH": PATH}, os.fsencode(script), user=isolation.user)


def _check(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"the environment variable {name[:100]!r} cannot be set")


def _place(launch: Launch, isolation: Isolation, *, root: Path, work: str) -> list[Placed]:
    """What the launch mounts, made ready. Raises CannotLaunch or OSError."""
    if not launch.mounts:
        return []
    if isolation.mounts_at is None:
        raise CannotLaunch(f"Nothing can be mounted under the isolation `{isolation.name}`.")
    make_folder(os.path.dirname(work), user=isolation.user)
    return mounts.place(launch.mounts, root=root, work=work, user=isolation.user)


def _unless_changed(placed: Sequence[Placed]) -> str:
    """A script that ends here if something else was mounted than what was found."""
    *command, expected = mounts.still_same((each.target, each.identity) for each in placed)
    return (
        f'[ "$({shlex.join(command)} {SCRIPT_FD}<&-)" = {shlex.quote(expected)} ] ||'
        " { echo 'what should be mounted was replaced meanwhile' >&2; exit 126; }\n"
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
    placed = mounts.place(launch.mounts, root=root, work=work, user=containers.user)
    made = container_command(launch, containers, root=root, folder=folder, placed=placed)
    return Command(
        made.argv, made.environment, made.script, user=containers.user, remover=made.remover
    )


def make_folder(folder: str, *, user: int | None) -> str:
    """Make the folder of an attempt and in it the working folder, for `user`; return the latter.

    The working folder may be there already with the attempt's inputs; they become the user's too.
    Raises OSError.
    """
    with suppress(FileExistsError):
        _make_passable(folder)
    work = f"{folder}/{WORK}"
    try:
        os.mkdir(work, mode=0o700)
    except FileExistsError:
        if user is not None:
            _give_inputs(work, user=user)
    if user is not None:
        os.chown(work, user, user, follow_symlinks=False)
    return work


def _make_passable(folder: str) -> None:
    """Make a folder, and those above it, that others can pass through and not list."""
    try:
        os.mkdir(folder, mode=_FOLDER_MODE)
    except FileNotFoundError:
        with suppress(FileExistsError):
            _make_passable(os.path.dirname(folder))
        os.mkdir(folder, mode=_FOLDER_MODE)


def _give_inputs(work: str, *, user: int) -> None:
    for parent, folders, files in os.walk(work):
        for name in (*folders, *files):
            os.chown(os.path.join(parent, name), user, user, follow_symlinks=False)


def open_logs(folder: str, *, user: int | None) -> list[int]:
    """Open `stdout` and `stderr` of an attempt, in this order, for `user` to write to.

    Raises OSError, and then none is open.
    """
    opened: list[int] = []
    try:
        for stream in STREAMS:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            opened.append(os.open(f"{folder}/{stream}", flags, 0o640))
            if user is not None:
                os.fchown(opened[-1], user, user)
    except OSError:
        for file in opened:
            os.close(file)
        raise
    return opened


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
