"""Keeping what an attempt leaves: its logs where the task asks for them, its output folders.

Why also of an attempt that failed: what there is of its output tells why, and a job that was
stopped after days has results worth having. A retry writes over it.

A storage that is away or full is asked again, for a day: until then the attempt has not ended, and
nothing that it left is removed. Whoever terminates the job ends the waiting, and the copying. An
account has only a share of what is kept at once: its long outputs hold up nobody else's.
"""

import errno
import math
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import anyio.lowlevel
import anyio.to_thread
from msgspec.structs import replace

from gateway.batch import datatypes
from gateway.batch.attempts import Attempt
from gateway.batch.engines import Cause, Ended, Engine, Mount
from gateway.batch.executor.folders import WORK
from gateway.batch.redirection import Redirection, local_redirections, remote_redirections
from gateway.batch.staging import Tell, in_words
from gateway.batch.staging.places import UNFINISHED, Order, Spot, find_spot
from gateway.batch.staging.preparing import read_staged
from gateway.batch.staging.shares import Shares, own_thread
from gateway.batch.storage import (
    PART_MB,
    PASSING,
    WORKERS,
    Keys,
    Storage,
    parse_cos_folder,
    trees,
)
from gateway.telemetry import log

AT_ONCE: Final = 8
AT_ONCE_OF_ONE: Final = 6
PAUSE_S_MIN: Final = 1.0
PAUSE_S_MAX: Final = 60.0
GIVE_UP_S: Final = 86_400.0
TERMINATED_S_MAX: Final = 600.0
"""How long what a terminated attempt left may take to be kept, its waiting included."""

NAMES_TOLD: Final = 5
TO_WAIT: Final = "Its command has ended; it waits for its turn to have its files kept."


def leaves_files(task: datatypes.Task) -> bool:
    """Whether a task asks for anything to be kept."""
    return bool(task.redirect_info or task.redirect_local_info or task.output_mappings)


def not_kept(ended: Ended, words: str) -> Ended:
    """An end whose files could not be kept. A failure stays what it is: it is the first cause."""
    return replace(ended, cause=Cause.STORAGE, detail=words) if ended.cause is None else ended


class Left(NamedTuple):
    """What an attempt left. folder: its own. node: its node's, if it has one. mounts: what its
    command saw besides.
    """

    attempt: Attempt
    task: datatypes.Task
    folder: Path
    node: Path | None
    mounts: tuple[Mount, ...]
    keys: Keys | None

    def find(self, path: str) -> Spot | None:
        """Where a path that the command could write to is, if that is in a folder of ours."""
        within = [self.folder, *([self.node] if self.node else [])]
        return find_spot(path, work=self.folder / WORK, mounts=self.mounts, within=within)


class Halt:
    """Ends one keeping, its threads as well as its waiting.

    deadline: when it ends without being asked, on the event loop's clock.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._flag = threading.Event()
        self._waiting = anyio.CancelScope()

    def ask(self) -> None:
        """End it; on the event loop."""
        self._flag.set()
        self._waiting.cancel()

    def is_asked(self) -> bool:
        """Whether it is to end; in any thread."""
        return self._flag.is_set()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A block that is left as soon as it is to end; for one task at a time."""
        with anyio.CancelScope(deadline=self.deadline) as self._waiting:
            if self.is_asked():
                self._waiting.cancel()
            yield

    async def pause(self, pause_s: float) -> None:
        """Wait so long, or until it is to end."""
        with self.waiting():
            await anyio.sleep(pause_s)


class Failure(NamedTuple):
    """Something that could not be kept. number: of the error."""

    what: str
    words: str
    number: int


Step = tuple[str, Callable[[], Sequence[str]]]
"""What is kept, and how; returns the names of what was left out."""


@dataclass(slots=True)
class Keeping:
    """How far the keeping of one attempt is. steps: what is left to do. failures: what cannot be
    done. left_out: the names of what no storage takes.
    """

    steps: list[Step]
    failures: list[Failure] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def go_on(self) -> list[Failure]:
        """Try all that is left, also after a failure: the logs may tell what was wrong with the
        outputs. Returns what failed for now; its steps are left.
        """
        steps, self.steps, passing = self.steps, [], []
        for step in steps:
            what, do = step
            try:
                self.left_out += do()
            except OSError as error:
                failure = Failure(what, _printable(in_words(error)), error.errno or errno.EIO)
                if failure.number in PASSING:
                    passing.append(failure)
                    self.steps.append(step)
                else:
                    self.failures.append(failure)
        return passing

    def stop(self) -> list[Failure]:
        """Try nothing more; returns what is left, as stopped."""
        return [Failure(what, "It was stopped.", errno.ECANCELED) for what, _ in self.steps]


class Keeper:
    """Copies what ended attempts left to where their tasks ask, several at once.

    pause_s: before the second try; each pause is twice as long as the one before, up to a minute.
    give_up_s: how long after the first try the last one may begin. Both count anew in a gateway
    that was started again.
    """

    def __init__(
        self,
        engine: Engine,
        storage: Storage,
        *,
        pause_s: float = PAUSE_S_MIN,
        give_up_s: float = GIVE_UP_S,
    ) -> None:
        self._engine = engine
        self._storage = storage
        self._pause_s = pause_s
        self._give_up_s = give_up_s
        self._shares = Shares(AT_ONCE, of_one=AT_ONCE_OF_ONE)
        self._halts: dict[str, Halt] = {}

    def stop(self, attempt_ids: Sequence[str]) -> None:
        """Have the keeping of these end soon. What ended by a termination is kept all the same."""
        for attempt_id in attempt_ids:
            if attempt_id in self._halts:
                self._halts[attempt_id].ask()

    async def keep(
        self, ended: Ended, attempt: Attempt, *, order: Order, tell: Tell = lambda words: None
    ) -> Ended:
        """Keep what the task asks for; a success of which something cannot be kept is STORAGE.

        tell: is told why it takes long. A success whose keeping was stopped is TERMINATED.
        """
        is_terminated = ended.cause is Cause.TERMINATED
        halt = Halt(anyio.current_time() + TERMINATED_S_MAX if is_terminated else math.inf)
        if not is_terminated:
            self._halts[ended.attempt_id] = halt
        try:
            keeping = await self._keep(ended, attempt, order=order, halt=halt, tell=tell)
        finally:
            self._halts.pop(ended.attempt_id, None)
            tell("")
        for failure in keeping.failures:
            log.warning(
                "not_kept", attempt_id=ended.attempt_id, what=failure.what, error=failure.words
            )
        return _judged(ended, keeping)

    async def _keep(
        self, ended: Ended, attempt: Attempt, *, order: Order, halt: Halt, tell: Tell
    ) -> Keeping:
        mounts = await anyio.to_thread.run_sync(_find_mounts, order.attempt)
        keys = order.keys or order.env_keys
        left = Left(attempt, order.task, order.attempt, order.node, mounts, keys)
        keeping = Keeping(list(self._steps(left, halt)))
        is_terminated = ended.cause is Cause.TERMINATED
        pause_s, tried_at = self._pause_s, None
        while True:
            async with self._turn(order.owner_uin, halt=halt, tell=tell) as is_mine:
                if is_mine:
                    passing = await self._go_on(keeping, halt)
                else:
                    passing = keeping.stop()
            tried_at = anyio.current_time() if tried_at is None else tried_at
            is_late = anyio.current_time() - tried_at >= self._give_up_s
            if halt.is_asked():
                passing = [each._replace(number=errno.ECANCELED) for each in passing]
            if not passing or halt.is_asked() or is_late or is_terminated:
                keeping.failures += passing
                return keeping
            words = _told(passing[0])
            log.warning("not_kept_yet", attempt_id=ended.attempt_id, error=words, retry_s=pause_s)
            tell(f"Its command has ended; its files cannot be kept yet: {words}")
            await halt.pause(pause_s)
            pause_s = min(pause_s * 2, PAUSE_S_MAX)

    @asynccontextmanager
    async def _turn(self, owner_uin: str, *, halt: Halt, tell: Tell) -> AsyncIterator[bool]:
        """Have a place as long as the block runs; False, and none, if it is to end before that."""
        has_place = False
        with halt.waiting():
            await self._shares.take(owner_uin, waits=lambda is_so: tell(TO_WAIT if is_so else ""))
            has_place = True
        try:
            yield has_place
        finally:
            if has_place:
                self._shares.give_back(owner_uin)

    async def _go_on(self, keeping: Keeping, halt: Halt) -> list[Failure]:
        """Try what is left, in a thread; who is cancelled meanwhile waits for no long copy."""
        is_over = False

        async def watch() -> None:
            try:
                with anyio.CancelScope(deadline=halt.deadline):
                    await anyio.sleep_forever()
            finally:
                if not is_over:
                    halt.ask()

        async with anyio.create_task_group() as watching:
            watching.start_soon(watch)
            passing = await anyio.to_thread.run_sync(keeping.go_on, limiter=own_thread())
            is_over = True
            watching.cancel_scope.cancel()
        await anyio.lowlevel.checkpoint_if_cancelled()
        return passing

    def _steps(self, left: Left, halt: Halt) -> Iterator[Step]:
        """What there is to do; local logs come first, because they may lie in an output folder."""
        for wanted in local_redirections(left.task, left.attempt):
            yield wanted.folder, partial(self._copy_log, left, wanted, halt)
        for mapping in left.task.output_mappings:
            yield mapping.source_path, partial(self._put_output, left, mapping, halt)
        for wanted in remote_redirections(left.task, left.attempt):
            yield wanted.folder, partial(self._put_log, left, wanted, halt)

    def _copy_log(self, left: Left, wanted: Redirection, halt: Halt) -> Sequence[str]:
        """Copy a log into a folder that the command could write to.

        One that it could not write to went with the attempt, and a copy would with it.
        """
        spot = left.find(wanted.folder)
        log_path = self._engine.log_path(left.attempt.folder, wanted.stream)
        if spot is None or not os.path.lexists(log_path):
            return ()
        try:
            with trees.folder_below(spot.root, spot.parts[: spot.given]):
                pass
        except FileNotFoundError:
            return ()
        aside = left.folder / UNFINISHED
        aside.mkdir(mode=0o700, exist_ok=True)
        with (
            trees.open_file(log_path.parent, [log_path.name]) as content,
            trees.new_file(
                spot.root, [*spot.parts, wanted.name], durable=True, aside=aside
            ) as file,
        ):
            trees.copy(content, file, halted=halt.is_asked)
        with suppress(OSError):
            aside.rmdir()
        return ()

    def _put_output(
        self, left: Left, mapping: datatypes.OutputMapping, halt: Halt
    ) -> Sequence[str]:
        """Store an output folder.

        Why one that is not there is no failure: no source says it is, and a command that had
        nothing to leave need not make a folder for it.
        """
        spot = left.find(mapping.source_path)
        if spot is None:
            return ()
        config = next(iter(left.task.output_mapping_configs), None)
        with suppress(FileNotFoundError), trees.folder_below(spot.root, spot.parts) as folder:
            try:
                return self._storage.put_tree(
                    Path(f"/proc/self/fd/{folder}"),  # the one opened, whatever its name leads to
                    folder=parse_cos_folder(mapping.destination_path),
                    keys=left.keys,
                    workers=config.worker_num if config else WORKERS,
                    part_mb=config.worker_part_size if config else PART_MB,
                    halted=halt.is_asked,
                )
            except FileNotFoundError as error:  # not the folder's own absence
                raise trees.problem(errno.ENXIO, in_words(error)) from error
        return ()

    def _put_log(self, left: Left, wanted: Redirection, halt: Halt) -> Sequence[str]:
        log_path = self._engine.log_path(left.attempt.folder, wanted.stream)
        if os.path.lexists(log_path):
            self._storage.put_file(
                log_path,
                folder=parse_cos_folder(wanted.folder),
                name=wanted.name,
                keys=left.keys,
                halted=halt.is_asked,
            )
        return ()


def _judged(ended: Ended, keeping: Keeping) -> Ended:
    """What the end is, seeing what was kept. A failure stays what it is."""
    if ended.cause is not None:
        return ended
    for failure in keeping.failures:
        if failure.number == errno.ECANCELED:
            words = "It had ended, but its files were not all kept."
            return replace(ended, cause=Cause.TERMINATED, detail=words)
    if keeping.failures:
        return not_kept(ended, _told(keeping.failures[0]))
    names = [f"`{_printable(name)}`" for name in keeping.left_out[:NAMES_TOLD]]
    if not names:
        return ended
    more = ["and more"] if len(keeping.left_out) > NAMES_TOLD else []
    why = "neither files nor links to files of its folder"
    return replace(ended, detail=f"not kept: {', '.join([*names, *more])} ({why})")


def _told(failure: Failure) -> str:
    return f"`{failure.what}`: {failure.words}"


def _printable(text: str) -> str:
    """A text with names that a command made up, fit for a database and a screen."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _find_mounts(attempt: Path) -> tuple[Mount, ...]:
    """What was mounted for an attempt. Its work folder is there again afterwards: an empty one goes
    with its command, and a local log may belong into it.
    """
    with suppress(FileExistsError, FileNotFoundError):
        (attempt / WORK).mkdir(mode=0o700)
    staged = read_staged(attempt)
    return () if staged is None else staged.mounts
