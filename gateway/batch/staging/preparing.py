"""Preparing an attempt: its package unpacked, its inputs brought, its folders made.

All of it can be done again from the start: until the note that it is done is there, nobody runs in
the folder, and what an interrupted preparation left is removed first. After that nothing is touched
any more, because the engine may have the attempt already. Why a note of another boot is as good as
none: it outlives a power cut, and the files that it speaks of need not; and nothing runs any more.

It counts towards neither the task's Timeout, which begins with its command, nor any other limit of
the task. What a stranger's server or archive could draw out has bounds of its own: so long for a
package to come, so long to be unpacked. A bucket's folders take as long as they take: the bucket is
the operator's, and whoever does not want to wait terminates the job.
"""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec

from gateway.batch.engines import Mount
from gateway.batch.executor.folders import WORK
from gateway.batch.executor.processes import boot_id
from gateway.batch.executor.removal import remove_trees
from gateway.batch.executor.work_folders import make_passable
from gateway.batch.staging import StagingFailed, Tell, fetching, in_words
from gateway.batch.staging.archives import Archives
from gateway.batch.staging.packages import unpack
from gateway.batch.staging.places import (
    OF_THE_ATTEMPT,
    STAGED,
    Input,
    Order,
    inputs,
    is_package,
    writable_mounts,
)
from gateway.batch.staging.shares import Shares, Waits, own_thread
from gateway.batch.storage import (
    Halted,
    NfsPath,
    Storage,
    parse_cos_file,
    parse_input_source,
    trees,
)

AT_ONCE: Final = 8
AT_ONCE_OF_ONE: Final = 6
UNPACK_S_MAX: Final = 600.0
TO_WAIT: Final = "It waits for its turn to have its package and files made ready."
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Staged:
    """The note that an attempt was prepared. boot_id: of the machine, when it was. mounts: for the
    command.
    """

    boot_id: str
    mounts: tuple[Mount, ...]


class FileServers(Protocol):
    """Where `cfs://` and `nfs://` lead."""

    def find_folder(self, folder: NfsPath) -> Path:
        """The local folder that is the remote one. Raises OSError with a sentence."""
        ...


class Preparer:
    """Prepares attempts: many wait for packages at once, and only a few read and write files."""

    def __init__(
        self, storage: Storage, servers: FileServers, *, unpack_s_max: float = UNPACK_S_MAX
    ) -> None:
        self._storage = storage
        self._servers = servers
        self._unpack_s_max = unpack_s_max
        self._archives = Archives(self._fetch)
        self._shares = Shares(AT_ONCE, of_one=AT_ONCE_OF_ONE)

    async def prepare(self, order: Order, *, tell: Tell = lambda words: None) -> tuple[Mount, ...]:
        """Have everything there that an attempt needs; returns what is mounted for it.

        tell: is told while it waits for its turn. Raises OSError, see `in_words`, if something
        cannot be had. It can be cancelled between its steps, and while it fetches files or unpacks
        a package.
        """

        def waits(is_so: bool) -> None:
            tell(TO_WAIT if is_so else "")

        staged = await self._in_thread(order, lambda _: read_staged(order.attempt), waits=waits)
        if staged is not None and staged.boot_id == boot_id():
            return staged.mounts
        await self._in_thread(order, lambda _: _begin(order.attempt), waits=waits)
        if is_package(order.task):
            async with self._archives.archive(order, waits=waits) as archive:
                await self._unpack(order, archive, waits=waits)
        mounts = await self._in_thread(
            order, lambda halted: self._make_mounts(order, halted), waits=waits
        )
        await self._in_thread(order, lambda _: _write_staged(order.attempt, mounts), waits=waits)
        return mounts

    async def _fetch(self, order: Order, archive: Path, waits: Waits) -> None:
        url = order.package_path or order.task.application.package_path or ""
        if url.startswith("cos://"):
            path = parse_cos_file(url)
            keys = order.keys or order.env_keys
            most = fetching.BYTES_MAX
            await self._in_thread(
                order,
                lambda halted: self._storage.fetch_file(
                    path, archive, keys=keys, bytes_max=most, halted=halted
                ),
                waits=waits,
            )
        else:
            await fetching.fetch_http(url, archive)

    async def _unpack(self, order: Order, archive: Path, *, waits: Waits) -> None:
        """Unpack, in UNPACK_S_MAX at most."""
        into = order.attempt / WORK
        async with self._shares.place(order.owner_uin, waits=waits):
            with anyio.move_on_after(self._unpack_s_max) as in_time:
                await _run(lambda halted: unpack(archive, into, is_stopped=halted))
        if in_time.cancelled_caught:
            raise StagingFailed(f"The package takes over {self._unpack_s_max:g} s to unpack.")

    def _make_mounts(self, order: Order, halted: Halted) -> tuple[Mount, ...]:
        wanted, own = inputs(order), tuple(writable_mounts(order))
        targets = [*(each.target for each in wanted), *(each.target for each in own)]
        brought = [self._bring_input(each, others=targets, halted=halted) for each in wanted]
        for mount in own:
            make_passable(mount.source)
        return (*brought, *own)

    def _bring_input(self, wanted: Input, *, others: Sequence[str], halted: Halted) -> Mount:
        """Find or fetch an input. A bucket's is read-only; a file server's is as the server has it.

        others: all that is mounted. A folder with something mounted below it is fetched as well:
        the place for that must be made in it, and not in the bucket.

        Why a bucket's is read-only: what a command wrote there would be in the bucket in one
        set-up and lost in another, and the API has OutputMappings for it.
        """
        holds_others = any(each.startswith(f"{wanted.target}/") for each in others)
        source = parse_input_source(wanted.source)
        try:
            if isinstance(source, NfsPath):
                return Mount(str(self._servers.find_folder(source)), wanted.target, writable=True)
            folder = None if holds_others else self._storage.find_folder(source)
            if folder is None:
                folder = wanted.folder
                make_passable(str(folder))
                self._storage.fetch_tree(source, folder, keys=wanted.keys, halted=halted)
                _make_readable(folder)
        except OSError as error:
            raise StagingFailed(
                f"The input `{wanted.source}` cannot be had: {in_words(error)}"
            ) from error
        return Mount(str(folder), wanted.target)

    async def _in_thread(self, order: Order, do: Callable[[Halted], T], *, waits: Waits) -> T:
        async with self._shares.place(order.owner_uin, waits=waits):
            return await _run(do)


async def _run(do: Callable[[Halted], T]) -> T:
    """Do something in a thread, which is told to halt once this is cancelled."""
    halt, failure = threading.Event(), None

    async def halt_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            halt.set()

    async with anyio.create_task_group() as watching:
        watching.start_soon(halt_when_cancelled)
        try:
            done = await anyio.to_thread.run_sync(do, halt.is_set, limiter=own_thread())
        except Exception as error:  # raised again, and not as one of a group
            failure = error
        watching.cancel_scope.cancel()
    await anyio.lowlevel.checkpoint_if_cancelled()
    if failure is not None:
        raise failure
    return done


def _make_readable(folder: Path) -> None:
    """Let the command's user read a tree that nobody else writes to."""
    for parent, _, files in os.walk(folder):
        os.chmod(parent, 0o755)  # noqa: S103  # to be read is what it is for
        for name in files:
            os.chmod(os.path.join(parent, name), 0o644)


def _begin(attempt: Path) -> None:
    remove_trees([attempt / name for name in OF_THE_ATTEMPT])
    make_passable(str(attempt))
    (attempt / WORK).mkdir(mode=0o700)


def read_staged(attempt: Path) -> Staged | None:
    """What was prepared for an attempt; None for one that was not prepared.

    A note of an older form has the mounts alone. Why it counts as of this boot: the command may be
    running, and who prepares it anew takes its folder away. What is no file is none: without a
    sandbox a command may put a pipe there.
    """
    try:
        with trees.open_file(attempt, [STAGED]) as file:
            note = file.read()
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        return None
    found = msgspec.json.decode(note, type=Staged | tuple[Mount, ...])
    return found if isinstance(found, Staged) else Staged(boot_id(), found)


def _write_staged(attempt: Path, mounts: Sequence[Mount]) -> None:
    unfinished = attempt / f"{STAGED}.part"
    unfinished.unlink(missing_ok=True)
    with unfinished.open("xb") as file:
        file.write(msgspec.json.encode(Staged(boot_id(), tuple(mounts))))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(attempt / STAGED)
