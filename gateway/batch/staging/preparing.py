"""Preparing an attempt: its package unpacked, its inputs brought, its folders made.

All of it can be done again from the start: until the note that it is done is there, nobody runs in
the folder, and what an interrupted preparation left is removed first. After that nothing is touched
any more, because the engine may have the attempt already.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec

from gateway.batch.engines import Mount
from gateway.batch.executor.folders import WORK
from gateway.batch.staging import StagingFailed, fetching, in_words
from gateway.batch.staging.folders import make_passable, make_readable, remove_trees
from gateway.batch.staging.packages import unpack
from gateway.batch.staging.places import (
    OF_THE_ATTEMPT,
    PACKAGE,
    STAGED,
    Input,
    Order,
    inputs,
    is_package,
    writable_mounts,
)
from gateway.batch.storage import (
    NfsPath,
    Storage,
    parse_cos_file,
    parse_input_source,
)

AT_ONCE: Final = 8
T = TypeVar("T")


class FileServers(Protocol):
    """Where `cfs://` and `nfs://` lead."""

    def find_folder(self, folder: NfsPath) -> Path:
        """The local folder that is the remote one. Raises OSError with a sentence."""
        ...


class Preparer:
    """Prepares attempts, a few at once."""

    def __init__(self, storage: Storage, servers: FileServers) -> None:
        self._storage = storage
        self._servers = servers
        self._places = anyio.CapacityLimiter(AT_ONCE)
        self._threads = anyio.CapacityLimiter(AT_ONCE)

    async def prepare(self, order: Order) -> tuple[Mount, ...]:
        """Have everything there that an attempt needs; returns what is mounted for it.

        Raises OSError, see `in_words`, if something cannot be had. It can be cancelled between its
        steps.
        """
        async with self._places:
            mounts = await self._in_thread(lambda: read_staged(order.attempt))
            if mounts is None:
                await self._in_thread(lambda: _begin(order.attempt))
                if is_package(order.task):
                    await self._bring_package(order)
                mounts = await self._in_thread(lambda: self._make_mounts(order))
                await self._in_thread(lambda: _write_staged(order.attempt, mounts))
            return mounts

    async def _bring_package(self, order: Order) -> None:
        url = order.task.application.package_path or ""
        archive = order.attempt / PACKAGE
        if url.startswith("cos://"):
            path = parse_cos_file(url)
            keys = order.keys or order.env_keys
            most = fetching.BYTES_MAX
            await self._in_thread(
                lambda: self._storage.fetch_file(path, archive, keys=keys, bytes_max=most)
            )
        else:
            await fetching.fetch_http(url, archive)
        await self._in_thread(lambda: unpack(archive, order.attempt / WORK))
        await self._in_thread(archive.unlink)

    def _make_mounts(self, order: Order) -> tuple[Mount, ...]:
        wanted, own = inputs(order), tuple(writable_mounts(order))
        targets = [*(each.target for each in wanted), *(each.target for each in own)]
        brought = [self._bring_input(each, others=targets) for each in wanted]
        for mount in own:
            make_passable(Path(mount.source))
        return (*brought, *own)

    def _bring_input(self, wanted: Input, *, others: Sequence[str]) -> Mount:
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
                make_passable(folder)
                self._storage.fetch_tree(source, folder, keys=wanted.keys)
                make_readable(folder)
        except OSError as error:
            raise StagingFailed(
                f"The input `{wanted.source}` cannot be had: {in_words(error)}"
            ) from error
        return Mount(str(folder), wanted.target)

    async def _in_thread(self, do: Callable[[], T]) -> T:
        done = await anyio.to_thread.run_sync(do, limiter=self._threads)
        await anyio.lowlevel.checkpoint_if_cancelled()
        return done


def _begin(attempt: Path) -> None:
    remove_trees([attempt / name for name in OF_THE_ATTEMPT])
    make_passable(attempt)
    (attempt / WORK).mkdir(mode=0o700)


def read_staged(attempt: Path) -> tuple[Mount, ...] | None:
    """What is mounted for an attempt that was prepared; None for one that was not."""
    try:
        return msgspec.json.decode((attempt / STAGED).read_bytes(), type=tuple[Mount, ...])
    except FileNotFoundError:
        return None


def _write_staged(attempt: Path, mounts: Sequence[Mount]) -> None:
    unfinished = attempt / f"{STAGED}.part"
    with unfinished.open("wb") as file:
        file.write(msgspec.json.encode(mounts))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(attempt / STAGED)
