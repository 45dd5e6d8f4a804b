"""What the gateway's side makes of executors that leave, refuse or do not listen.

The test itself stands in for the executor: it holds the socket.
"""

import fcntl
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest

from gateway import telemetry
from gateway.batch.engines import local
from gateway.batch.engines.local import LocalEngine, open_local_engine
from gateway.batch.executor import frames
from gateway.batch.executor.folders import SOCKET
from gateway.clock import now
from gateway.errors import ServiceUnavailable
from tests.batch.executor.executors import WAIT_S_MAX, until
from tests.support.attempts import Watch, launch

HALF_A_LINE_BYTES = 8_000_000  # more than sockets hold


class StandIn:
    """The executor's end of one line."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self.stream = stream
        self._unframer = frames.Unframer()
        self._heard: list[frames.FromGateway] = []

    async def hear(self) -> frames.FromGateway:
        """The next frame; raises EndOfStream at the end of the line."""
        while not self._heard:
            data = await self.stream.receive()
            self._heard += [frames.decode_from_gateway(body) for body in self._unframer.feed(data)]
        return self._heard.pop(0)


@pytest.fixture
def root(root: Path) -> Path:
    root.mkdir()
    return root


@asynccontextmanager
async def listening(root: Path) -> AsyncIterator[anyio.abc.SocketListener]:
    async with await anyio.create_unix_listener(root / SOCKET) as listener:
        yield listener
    (root / SOCKET).unlink()


@pytest.mark.anyio
async def test_a_gateway_starts_although_an_older_executor_is_just_leaving(root: Path) -> None:
    async with anyio.create_task_group() as tasks:
        engine = LocalEngine(root, isolation="none", capacity=4, linger_s=0, clock=now)
        async with listening(root) as listener:
            tasks.start_soon(engine.run)
            async with await listener.accept():
                pass
        attempt = launch("exit 3")
        watch = Watch(engine)
        await watch.reconnected()
        await engine.start([attempt])
        [ended] = await watch.ended([attempt])
        assert ended.exit_code == 3
        assert "before it answered" in engine.trouble
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_gateway_starts_although_another_executor_still_holds_the_folder(
    root: Path,
) -> None:
    lock = os.open(root / "executor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    async with anyio.create_task_group() as tasks:
        engine = LocalEngine(root, isolation="none", capacity=4, linger_s=0, clock=now)
        tasks.start_soon(engine.run)
        await until(lambda: "holds this folder" in engine.trouble)
        os.close(lock)
        await Watch(engine).reconnected()
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_gateway_starts_although_the_first_executor_takes_too_long(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.batch.engines.local.LAUNCH_S_MAX", 0.01)
    async with anyio.create_task_group() as tasks:
        engine = LocalEngine(root, isolation="none", capacity=4, linger_s=0, clock=now)
        tasks.start_soon(engine.run)
        await until(lambda: "does not serve after" in engine.trouble)
        monkeypatch.undo()
        await Watch(engine).reconnected()
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_one_that_nobody_answers_in_time_is_told_why(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.batch.engines.local.OPEN_S_MAX", 0.5)

    async def hang_up() -> None:
        while True:
            async with await listener.accept():
                pass

    async with listening(root) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(hang_up)
        with pytest.raises(ServiceUnavailable, match="before it answered"):
            async with open_local_engine(root, isolation="none", capacity=4):
                pass
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_an_executor_that_refuses_is_not_asked_again(root: Path) -> None:
    asked: list[frames.FromGateway] = []

    async def refuse() -> None:
        while True:
            async with await listener.accept() as stream:
                asked.append(await StandIn(stream).hear())
                await stream.send(frames.encode(frames.Refused(reason="not for you")))

    async with listening(root) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(refuse)
        with pytest.raises(ServiceUnavailable, match="not for you"):
            async with open_local_engine(root, isolation="none", capacity=4):
                pass
        tasks.cancel_scope.cancel()
    assert len(asked) == 1


@pytest.mark.anyio
async def test_a_caller_that_is_cancelled_does_not_cut_the_line_of_the_others(root: Path) -> None:
    large = launch("true", environment={"A": "x" * HALF_A_LINE_BYTES})
    async with listening(root) as listener, anyio.create_task_group() as tasks:
        engine = LocalEngine(root, isolation="none", capacity=4, clock=now)
        tasks.start_soon(engine.run)
        async with await listener.accept() as stream:
            executor = StandIn(stream)
            assert isinstance(await executor.hear(), frames.Hello)
            await stream.send(frames.encode(frames.Welcome(pid=1, isolation="none")))
            await Watch(engine).reconnected()
            caller = anyio.CancelScope()
            ended = anyio.Event()

            async def call() -> None:
                with caller:
                    await engine.start([large])
                ended.set()

            tasks.start_soon(call)
            with anyio.fail_after(WAIT_S_MAX):
                await anyio.wait_readable(
                    stream.extra_attributes[anyio.abc.SocketAttribute.raw_socket]()
                )
                caller.cancel()
                assert await executor.hear() == frames.Start(launches=[large])
                await ended.wait()
                await engine.stop(["job-1.0.0.1"])
                assert await executor.hear() == frames.Stop(attempt_ids=["job-1.0.0.1"])
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_an_executor_that_says_nothing_of_what_it_was_to_start_is_noticed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From when it was told, however long nothing was said to it before."""
    async with open_local_engine(root, isolation="none", capacity=4) as engine:
        assert not is_silent()
        monkeypatch.setattr(local, "SILENT_S", 0.05)
        attempt = launch("exit 3")
        os.kill(engine.executor_pid, signal.SIGSTOP)
        try:
            await engine.start([attempt])
            await until(is_silent)
        finally:
            os.kill(engine.executor_pid, signal.SIGCONT)
        [ended] = await Watch(engine).ended([attempt])
        assert ended.exit_code == 3
        assert not is_silent()


def is_silent() -> bool:
    [metric] = telemetry.EXECUTOR_SILENT.collect()
    return metric.samples[0].value == 1
