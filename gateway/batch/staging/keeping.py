"""Keeping what an attempt leaves: its logs where the task asks for them, its output folders.

Why also of an attempt that failed: what there is of its output tells why, and a job that was
stopped after days has results worth having. A retry writes over it.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import anyio.to_thread

from gateway.batch import datatypes
from gateway.batch.attempts import Attempt
from gateway.batch.engines import Cause, Ended, Engine, Mount
from gateway.batch.executor.folders import WORK
from gateway.batch.redirection import Redirection, local_redirections, remote_redirections
from gateway.batch.staging import in_words
from gateway.batch.staging.places import Order, find_spot
from gateway.batch.staging.preparing import read_staged
from gateway.batch.storage import PART_MB, WORKERS, Keys, Storage, parse_cos_folder, trees
from gateway.telemetry import log

AT_ONCE: Final = 8


def leaves_files(task: datatypes.Task) -> bool:
    """Whether a task asks for anything to be kept."""
    return bool(task.redirect_info or task.redirect_local_info or task.output_mappings)


def not_kept(ended: Ended, words: str) -> Ended:
    """An end whose files could not be kept. A failure stays what it is: it is the first cause."""
    return replace(ended, cause=Cause.STORAGE, detail=words) if ended.cause is None else ended


class Left(NamedTuple):
    """What an attempt left. folder: its own. mounts: what its command saw besides."""

    attempt: Attempt
    task: datatypes.Task
    folder: Path
    mounts: tuple[Mount, ...]
    keys: Keys | None


class Keeper:
    """Copies what ended attempts left to where their tasks ask, several at once."""

    def __init__(self, engine: Engine, storage: Storage) -> None:
        self._engine = engine
        self._storage = storage
        self._threads = anyio.CapacityLimiter(AT_ONCE)

    async def keep(self, ended: Ended, attempt: Attempt, *, order: Order) -> Ended:
        """Keep what the task asks for; a success of which something cannot be kept is STORAGE.

        All is tried, also after a failure: the logs may tell what was wrong with the outputs.
        """
        failures = await anyio.to_thread.run_sync(self._keep, attempt, order, limiter=self._threads)
        for words in failures:
            log.warning("not_kept", attempt_id=ended.attempt_id, error=words)
        return not_kept(ended, failures[0]) if failures else ended

    def _keep(self, attempt: Attempt, order: Order) -> list[str]:
        """Do all of it; returns what failed, in words."""
        keys = order.keys or order.env_keys
        mounts = read_staged(order.attempt) or ()
        left = Left(attempt, order.task, order.attempt, mounts, keys)
        failures = []
        for what, step in self._steps(left):
            try:
                step()
            except OSError as error:
                failures.append(f"`{what}`: {in_words(error)}")
        return failures

    def _steps(self, left: Left) -> Iterator[tuple[str, Callable[[], None]]]:
        """What there is to do; local logs come first, because they may lie in an output folder."""
        for wanted in local_redirections(left.task, left.attempt):
            yield wanted.folder, partial(self._copy_log, left, wanted)
        for mapping in left.task.output_mappings:
            yield mapping.source_path, partial(self._put_output, left, mapping)
        for wanted in remote_redirections(left.task, left.attempt):
            yield wanted.folder, partial(self._put_log, left, wanted)

    def _copy_log(self, left: Left, wanted: Redirection) -> None:
        """Copy a log into a folder that the command could write to.

        One that it could not write to went with the attempt, and a copy would with it.
        """
        spot = find_spot(wanted.folder, work=left.folder / WORK, mounts=left.mounts)
        log_path = self._engine.log_path(left.attempt.folder, wanted.stream)
        if spot is None or not spot.root.exists() or not log_path.exists():
            return
        with (
            log_path.open("rb") as content,
            trees.new_file(spot.root, [*spot.parts, wanted.name], durable=True) as file,
        ):
            shutil.copyfileobj(content, file, trees.CHUNK_BYTES)

    def _put_output(self, left: Left, mapping: datatypes.OutputMapping) -> None:
        """Store an output folder.

        Why one that is not there is no failure: no source says it is, and a command that had
        nothing to leave need not make a folder for it.
        """
        spot = find_spot(mapping.source_path, work=left.folder / WORK, mounts=left.mounts)
        if spot is None:
            return
        config = next(iter(left.task.output_mapping_configs), None)
        try:
            with trees.folder_below(spot.root, spot.parts) as folder:
                self._storage.put_tree(
                    Path(f"/proc/self/fd/{folder}"),  # the one opened, whatever its name leads to
                    folder=parse_cos_folder(mapping.destination_path),
                    keys=left.keys,
                    workers=config.worker_num if config else WORKERS,
                    part_mb=config.worker_part_size if config else PART_MB,
                )
        except FileNotFoundError:
            if os.path.lexists(spot.root.joinpath(*spot.parts)):
                raise

    def _put_log(self, left: Left, wanted: Redirection) -> None:
        log_path = self._engine.log_path(left.attempt.folder, wanted.stream)
        if log_path.exists():
            self._storage.put_file(
                log_path, folder=parse_cos_folder(wanted.folder), name=wanted.name, keys=left.keys
            )
