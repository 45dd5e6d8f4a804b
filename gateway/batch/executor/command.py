"""How a launch becomes the argv, environment and files of a process."""

import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from gateway.batch.engines import Launch
from gateway.batch.executor.folders import STREAMS, WORK
from gateway.batch.executor.isolation import PATH, SHELL, Isolation

LANGUAGE: Final = "C.UTF-8"
SCRIPT_FD: Final = 3
_FOLDER_MODE: Final = 0o711


@dataclass(frozen=True, slots=True)
class Command:
    """What to spawn. script: what the process reads on SCRIPT_FD; None for nothing."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    script: bytes | None = None


def command_of(launch: Launch, isolation: Isolation, *, work: str) -> Command:
    """Say what to spawn for a launch. Raises ValueError for an environment no process can have.

    Why a script: what isolates (bubblewrap, setpriv) begins with our rights, so the caller's
    variables, LD_PRELOAD among them, must not reach it. They are set behind it, and do not stand
    in its argv either, which every user of the machine can read.
    """
    environment = {
        "PATH": PATH,
        "LANG": LANGUAGE,
        "HOME": isolation.home or work,
        **launch.environment,
    }
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"the environment variable {name[:100]!r} cannot be set")
    if not isolation.prefix:
        return Command((*SHELL, launch.command), environment)
    pairs = [f"{name}={value}" for name, value in environment.items()]
    words = ["/usr/bin/env", "-i", "--", *pairs, *SHELL, launch.command]
    script = f"exec {SCRIPT_FD}<&- {shlex.join(words)}\n"
    argv = (*isolation.prefix, SHELL[0], f"/proc/self/fd/{SCRIPT_FD}")
    return Command(argv, {"PATH": PATH}, os.fsencode(script))


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
