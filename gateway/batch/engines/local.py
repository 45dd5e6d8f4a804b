"""The local engine: the gateway's side of the executor, a process that outlives it."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from math import inf
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

import gateway
from gateway.batch.engines import Ability, Launch, NodesLost, Reconnected, Report
from gateway.batch.engines.line import Line, dial
from gateway.batch.executor import frames
from gateway.batch.executor.folders import attempt_folder, log_file, node_folder
from gateway.batch.executor.isolation import PATH
from gateway.batch.executor.removal import remove_trees
from gateway.clock import Clock, now
from gateway.errors import ServiceUnavailable
from gateway.telemetry import EXECUTOR_SILENT, log

ANSWER_S_MAX: Final = 10.0
SEND_S_MAX: Final = 10.0
LAUNCH_S_MAX: Final = 20.0
OPEN_S_MAX: Final = 30.0
SILENT_S: Final = 30.0
"""An executor that says nothing for so long after it was told to start something is in trouble: it
was stopped, say, or waits for a disk or a file server for ever.
"""
BACKOFF_S_MIN: Final = 0.02
BACKOFF_S_MAX: Final = 5.0
IDS_PER_FRAME: Final = 10_000
MEM_GIB_MAX: Final = 65_536  # more than any machine has: no bound


def machine_memory_gib() -> float:
    """How much memory this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


class NoExecutor(Exception):
    """No executor serves now, though one may before long; says why."""


class ExecutorRefused(NoExecutor):
    """The executor cannot serve as asked; says why."""


class LocalEngine:
    """An `Engine` that speaks to one executor, and starts another when it is gone.

    Why a message may be dropped while the line is down: when it is back, Reconnected makes the
    scheduler say everything again, and the executor tells all that runs and every outcome.

    trouble: why there was no executor when it was last looked for in vain.
    """

    def __init__(
        self,
        root: Path,
        *,
        isolation: str | None,
        capacity: int,
        mem_gib: int = MEM_GIB_MAX,
        sandbox_folders: Sequence[str] = (),
        linger_s: float = 60.0,
        clock: Clock,
    ) -> None:
        """isolation: "sandbox", "uid" or "none"; None for the best. linger_s: see the executor.

        sandbox_folders: of the machine that a sandbox shows besides the system, read-only.
        """
        self.trouble = ""
        self.capacity = capacity
        self.mem_gib = mem_gib
        self.missing: Mapping[Ability, str] = dict.fromkeys(Ability, "no executor has answered yet")
        self._clock = clock
        self._hello = frames.Hello(isolation=isolation or "", folders=tuple(sandbox_folders))
        self.executor_pid = 0
        self._root = root.absolute()
        self._linger_s = linger_s
        self._line: Line | None = None
        self._lost: NodesLost | None = None
        self._is_open = False
        self._replaced = False
        self._sending = anyio.Lock()
        self._reports: list[Report] = []
        self._reported = anyio.Event()
        self._silent_at = inf  # when a start will have waited too long for any word
        self._patience = anyio.CancelScope()  # that of who listens; it ends then

    async def start(self, launches: Sequence[Launch]) -> None:
        """See `Engine.start`. Raises FrameError for a launch of more than 16 MB."""
        if launches:
            await self._send(frames.start_frames(launches))
            if self._silent_at == inf:
                self._silent_at = anyio.current_time() + SILENT_S
                self._patience.deadline = self._silent_at

    async def stop(self, attempt_ids: Sequence[str]) -> None:
        """See `Engine.stop`."""
        await self._send(
            frames.encode(frames.Stop(attempt_ids=ids)) for ids in _portions(attempt_ids)
        )

    async def acknowledge(self, attempt_ids: Sequence[str]) -> None:
        """See `Engine.acknowledge`."""
        await self._send(
            frames.encode(frames.Acknowledge(attempt_ids=ids)) for ids in _portions(attempt_ids)
        )

    async def acknowledge_loss(self, lost: NodesLost) -> None:
        """See `Engine.acknowledge_loss`."""

        def when_it_is_sent() -> Iterable[bytes]:
            # The line may be another by then, with a loss of its own.
            if lost == self._lost:
                yield frames.encode(frames.Acknowledge(attempt_ids=[], loss=True))

        await self._send(when_it_is_sent())

    async def reconcile(self, attempt_ids: Sequence[str]) -> None:
        """See `Engine.reconcile`."""
        await self._send(
            frames.encode(frames.Reconcile(attempt_ids=ids)) for ids in _portions(attempt_ids)
        )

    async def reports(self) -> Sequence[Report]:
        """See `Engine.reports`."""
        while not self._reports:
            self._reported = anyio.Event()
            await self._reported.wait()
        reports, self._reports = self._reports, []
        return reports

    async def discard(self, folder: str) -> None:
        """See `Engine.discard`."""
        path = attempt_folder(self._root, folder)
        await anyio.to_thread.run_sync(remove_trees, [path])

    def log_path(self, folder: str, stream: str) -> Path:
        """See `Engine.log_path`. Raises InvalidParameterValue for what is no attempt's log."""
        return log_file(self._root, folder, stream=stream)

    def attempt_path(self, folder: str) -> Path:
        """See `Engine.attempt_path`. Raises InvalidParameterValue for what is no attempt's."""
        return attempt_folder(self._root, folder)

    def node_path(self, node_id: str) -> Path:
        """See `Engine.node_path`. Raises InvalidParameterValue for what is no node's id."""
        return node_folder(self._root, node_id)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep a line to an executor until cancelled; started once the first one answered.

        Raises ExecutorRefused if the first that answers cannot serve as asked; a later one, and
        one that does not answer, an older one that is leaving say, is retried. `trouble` says why.
        When another gateway takes the executor over, this one comes back only after a while.
        """
        self._is_open = False
        try:
            await self._serve_again_and_again(task_status)
        finally:
            EXECUTOR_SILENT.set(0)  # nobody waits for it any more

    async def _serve_again_and_again(self, task_status: TaskStatus[None]) -> None:
        delay_s = BACKOFF_S_MIN
        while True:
            begin = anyio.current_time()
            try:
                await self._serve_once(task_status)
            except (OSError, TimeoutError, NoExecutor, frames.FrameError) as error:
                if isinstance(error, ExecutorRefused) and not self._is_open:
                    raise
                EXECUTOR_SILENT.set(1)
                self.trouble = str(error) or "it does not answer"
                log.error("executor_unavailable", error=self.trouble, retry_s=delay_s)
            if anyio.current_time() - begin > BACKOFF_S_MAX:
                delay_s = BACKOFF_S_MIN
            if self._replaced:
                delay_s = BACKOFF_S_MAX
            await anyio.sleep(delay_s)
            delay_s = min(2 * delay_s, BACKOFF_S_MAX)

    async def _serve_once(self, task_status: TaskStatus[None]) -> None:
        """Connect, greet, and pass reports on until the line ends."""
        line = await self._connect()
        try:
            with anyio.fail_after(ANSWER_S_MAX), suppress(OSError):
                await line.send(frames.encode(self._hello))
            with anyio.fail_after(ANSWER_S_MAX):
                heard = await line.receive()
            lost = self._welcome(heard)
            self._replaced = False
            self._line, self._lost = line, next(iter(lost), None)
            if not self._is_open:
                self._is_open = True
                task_status.started()
            self._report(heard[1:], first=[*lost, Reconnected()])
            await self._listen(line)
            EXECUTOR_SILENT.set(1)
            log.warning("executor_lost", pid=self.executor_pid, replaced=self._replaced)
        finally:
            self._line = None
            line.cut()

    async def _listen(self, line: Line) -> None:
        """Pass reports on until the line ends, and say so when there should be some and are not.

        Why no more is done about it: what it runs may be well, and would be lost with it.
        """
        while True:
            heard = None
            with anyio.CancelScope(deadline=self._silent_at) as self._patience:
                heard = await line.receive()
            if heard:
                self._report(heard)
            elif heard is not None:
                return
            else:
                self._silent_at = anyio.current_time() + SILENT_S
                EXECUTOR_SILENT.set(1)
                log.error("executor_silent", pid=self.executor_pid)

    def _welcome(self, heard: Sequence[frames.FromExecutor]) -> list[NodesLost]:
        """Check the answer to Hello; return whether its nodes are others than before."""
        match heard:
            case [frames.Welcome() as welcome, *_]:
                lost = self._lost_by(welcome)
                self.executor_pid = welcome.pid
                self.missing = _missing(welcome)
                log.info(
                    "executor_connected",
                    pid=welcome.pid,
                    isolation=welcome.isolation,
                    abilities=sorted(welcome.abilities),
                    missing=welcome.missing,
                )
                return [NodesLost(self._clock())] if lost else []
            case [frames.Refused() as refused, *_]:
                raise ExecutorRefused(refused.reason)
            case _:
                raise NoExecutor("it ended the line before it answered")

    def _lost_by(self, welcome: frames.Welcome) -> bool:
        """Whether an executor died that had our nodes.

        It did if outcomes wait that say so; else if the one that we spoke to is not this one, for
        none leaves while somebody speaks to it. If another gateway had taken it over, it may have
        left afterwards.
        """
        is_other = self.executor_pid not in {0, welcome.pid} and not self._replaced
        return is_other or welcome.attempts_lost > 0

    def _report(
        self, heard: Iterable[frames.FromExecutor], *, first: Sequence[Report] = ()
    ) -> None:
        self._silent_at = inf
        EXECUTOR_SILENT.set(0)
        self._reports += first
        for frame in heard:
            if isinstance(frame, frames.Facts):
                self._reports += frame.started
                self._reports += frame.ended
            elif isinstance(frame, frames.Refused):
                self._replaced = True
        self._reported.set()

    async def _send(self, encoded: Iterable[bytes]) -> None:
        """Send frames, or none while the line is down. A line that takes nothing is given up."""
        async with self._sending:
            for frame in encoded:
                line = self._line
                if line is None:
                    return
                sent = False
                try:
                    # A caller that is cancelled must not cut the line of all others.
                    with anyio.move_on_after(SEND_S_MAX, shield=True), suppress(OSError):
                        await line.send(frame)
                        sent = True
                finally:
                    if not sent:  # perhaps half of it was: nothing can follow on this line
                        self._line = None
                        line.cut()

    async def _connect(self) -> Line:
        """Reach the executor, starting one if none answers. Raises NoExecutor or OSError."""
        with suppress(OSError), anyio.fail_after(ANSWER_S_MAX):
            return await dial(self._root)
        await anyio.to_thread.run_sync(self._launch_executor)
        with anyio.fail_after(ANSWER_S_MAX):
            return await dial(self._root)

    def _launch_executor(self) -> None:
        """Start an executor and wait until it serves; blocks. Raises NoExecutor or OSError.

        ExecutorRefused if it says itself that it cannot serve as asked. Whatever else keeps it
        from serving may pass.

        It gets none of our variables: they may hold keys. Its own parent ends at once, so it
        belongs to nobody here.
        """
        argv = [sys.executable, "-m", "gateway.batch.executor", "--detach"]
        argv += ["--root", str(self._root), "--isolation", self._hello.isolation]
        argv += ["--linger-s", str(self._linger_s)]
        environment = {"PATH": PATH, "PYTHONPATH": str(Path(gateway.__path__[0]).parent)}
        try:
            done = subprocess.run(  # noqa: S603  # our own argv
                argv,
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=LAUNCH_S_MAX,
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise NoExecutor(f"it does not serve after {LAUNCH_S_MAX} s") from error
        if done.returncode != 0:
            why = done.stderr.decode(errors="replace").strip()
            raise (ExecutorRefused if done.returncode == frames.EXIT_REFUSED else NoExecutor)(why)


def _missing(welcome: frames.Welcome) -> Mapping[Ability, str]:
    """What an executor cannot do; an older one may not know all there is to be done."""
    return {
        each: welcome.missing.get(each.value, "its executor does not know of it")
        for each in Ability
        if each.value not in welcome.abilities
    }


def _portions(attempt_ids: Sequence[str]) -> Iterable[list[str]]:
    """Ids in lists that fit a frame."""
    for begin in range(0, len(attempt_ids), IDS_PER_FRAME):
        yield list(attempt_ids[begin : begin + IDS_PER_FRAME])


@asynccontextmanager
async def open_local_engine(
    root: Path,
    *,
    isolation: str | None,
    capacity: int,
    mem_gib: int = MEM_GIB_MAX,
    sandbox_folders: Sequence[str] = (),
    linger_s: float = 60.0,
) -> AsyncIterator[LocalEngine]:
    """Have a local engine whose executor answers; leaving it leaves the executor and its jobs be.

    root: a folder for the executor alone. Raises ServiceUnavailable with the executor's reason.
    """
    engine = LocalEngine(
        root,
        isolation=isolation,
        capacity=capacity,
        mem_gib=mem_gib,
        sandbox_folders=sandbox_folders,
        linger_s=linger_s,
        clock=now,
    )
    refusal: Exception | None = None
    async with anyio.create_task_group() as tasks:
        try:
            with anyio.fail_after(OPEN_S_MAX):
                await tasks.start(engine.run)
        except ExecutorRefused as error:
            refusal = error
        except TimeoutError as error:
            refusal = NoExecutor(engine.trouble or "it does not answer")
            refusal.__cause__ = error
        else:
            yield engine
        tasks.cancel_scope.cancel()
    if refusal is not None:  # raised out here, where no group wraps it
        raise ServiceUnavailable(f"No executor serves {root}: {refusal}") from refusal
