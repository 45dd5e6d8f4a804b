"""Spawning: folders, logs and group are made ready here; a spawn server does the rest."""

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from gateway.batch.engines import Launch
from gateway.batch.executor.command import (
    SCRIPT_FD,
    VERDICT_FD,
    Command,
    command_of,
    open_logs,
    open_script,
    open_verdict,
)
from gateway.batch.executor.containers import Containers
from gateway.batch.executor.control_groups import ControlGroups, Group
from gateway.batch.executor.folders import ATTEMPTS, WORK, check_folder
from gateway.batch.executor.isolation import PATH, Isolation
from gateway.batch.executor.mounts import CannotLaunch
from gateway.batch.executor.removal import remove_empty
from gateway.batch.executor.spawn_pool import SpawnPool
from gateway.batch.executor.spawn_server import (
    RESET_SIGNALS,
    WORDS_BYTES_MAX,
    Order,
    Report,
    joined,
)
from gateway.batch.executor.wanted_folders import make_wanted, remove_wanted
from gateway.batch.executor.work_folders import WorkFolders, make_tmp, remove_scratch
from gateway.call import Value

TREES_PER_REMOVAL: Final = 200
FILES: Final = (1, 2, SCRIPT_FD, VERDICT_FD)  # where a process has them


class Ready(Value, frozen=True):
    """An attempt that only has to be spawned. folder: its own, absolute. files: open, in the order
    of FILES.
    """

    launch: Launch
    folder: str
    command: Command
    files: tuple[int, ...]
    group: Group | None


class Spawner:
    """Makes attempts ready and has them spawned."""

    def __init__(
        self,
        root: Path,
        *,
        pool: SpawnPool,
        groups: ControlGroups,
        containers: Containers | None,
    ) -> None:
        self._pool = pool
        self._ordered: list[int] = []  # files that are to be open until it is sent
        self._root = root
        self._attempts = f"{root}/{ATTEMPTS}"
        self._groups = groups
        self._containers = containers
        self._folders = WorkFolders(root)
        self._folders.open()
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def make_ready(self, launch: Launch, isolation: Isolation) -> Ready:
        """Make folders, logs and group of an attempt.

        Raises OSError; ValueError, InvalidParameterValue or CannotLaunch for what can never run.
        """
        check_folder(launch.folder)
        folder = f"{self._attempts}/{launch.folder}"
        work = f"{folder}/{WORK}"
        try:
            command = command_of(
                launch, isolation, root=self._root, work=work, containers=self._containers
            )
        except (CannotLaunch, OSError, ValueError):
            remove_empty(work)
            self._folders.end_tmp(folder)
            remove_scratch(folder)
            raise
        files: list[int] = []
        try:
            self._folders.make(folder, user=command.user, is_shut=command.is_shut)
            make_wanted(launch, root=self._root, work=work, user=command.user)
            if command.has_tmp:
                make_tmp(folder, user=command.user)
            files += open_logs(folder, user=command.user)
            if command.script is not None:
                files.append(open_script(command.script))
            if command.can_tell:
                files.append(open_verdict(folder))
            # A container is limited by what runs it, which needs room of its own.
            group = self._groups.make(None if launch.container else launch.limits)
        except OSError:
            for file in files:
                os.close(file)
            self.end(launch, folder, command, None)
            raise
        return Ready(launch, folder, command, tuple(files), group)

    def order(self, number: int, ready: Ready) -> None:
        """Have an attempt spawned inside its group, under a number; `flush` must follow.

        Raises ValueError or OSError for words that no process can be given. Nothing is left of the
        attempt then but, at most, its logs.
        """
        command, group = ready.command, ready.group
        try:
            pairs = [f"{name}={value}" for name, value in command.environment.items()]
            order = Order(
                number,
                work=os.fsencode(f"{ready.folder}/{WORK}"),
                argv=joined(command.argv),
                environment=joined(pairs) if pairs else b"",
                program=joined(command.program) if command.program else b"",
                doors=() if group is None else group.doors,
                homes=() if group is None else self._groups.homes_of(group),
                files=FILES[: len(ready.files)],
            )
            if order.size > WORDS_BYTES_MAX:
                raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        except (OSError, ValueError):
            for file in ready.files:
                os.close(file)
            self.take_back(ready)
            raise
        self._pool.order(order, ready.files)
        self._ordered += ready.files

    def flush(self) -> None:
        """Send what was ordered, and what is to be killed. Raises RuntimeError, which must end
        this process: a spawn server is gone.
        """
        self._pool.flush()
        while self._ordered:
            os.close(self._ordered.pop())

    def kill(self, number: int) -> None:
        """Have the process of a number killed, and its process group; `flush` must follow."""
        self._pool.kill(number)

    def hear(self) -> Iterator[Report]:
        """What has become of what was ordered. Raises RuntimeError, which must end this process."""
        return self._pool.hear()

    def take_back(self, ready: Ready) -> None:
        """Have nothing left of an attempt that cannot be spawned but, at most, its logs."""
        self.end(ready.launch, ready.folder, ready.command, ready.group)

    def spawn_helper(self, argv: tuple[str, ...]) -> int:
        """Spawn what is no attempt; return its pid. Raises OSError."""
        return os.posix_spawn(
            argv[0],
            argv,
            {"PATH": PATH},
            file_actions=[(os.POSIX_SPAWN_DUP2, self._null, stream) for stream in (0, 1)],
            setsid=True,
            setsigdef=RESET_SIGNALS,
        )

    def end(self, launch: Launch, folder: str, command: Command, group: Group | None) -> bool:
        """Take back what an attempt of which nothing is left had: its group, its empty folder.

        And what its container had, if that never came to be. Returns whether nothing of it is left
        for anybody to remove.
        """
        if group is not None:
            self._groups.discard(group)
        remove_wanted(launch, work=f"{folder}/{WORK}")
        is_gone = self._folders.end(
            folder,
            user=command.user,
            is_shut=command.is_shut,
            has_files=launch.has_files,
        )
        if command.has_tmp:
            self._folders.end_tmp(folder)
        if command.remover:
            remove_scratch(folder)
        return is_gone and not (launch.has_files or command.has_tmp or command.remover)

    def remove_work(self, folders: Iterable[str]) -> None:
        """Have the work folders of attempts removed with all that is in them.

        folders: relative, of attempts of which nothing is left.
        """
        self._folders.trees += [f"{self._attempts}/{folder}/{WORK}" for folder in folders]

    def spawn_removal(self) -> int | None:
        """Spawn what removes the trees that are to go; return its pid, None if there is none.

        Why by `rm`: a command may nest folders deeper than Python can recurse. Raises OSError.
        """
        trees = self._folders.trees
        if not trees:
            return None
        pid = self.spawn_helper(("/bin/rm", "-rf", "--", *trees[:TREES_PER_REMOVAL]))
        del trees[:TREES_PER_REMOVAL]
        return pid
