"""What runs for ever goes on after a failure."""

from collections.abc import Callable
from functools import partial

import anyio
import pytest
from anyio.abc import TaskStatus
from sqlalchemy import update
from structlog.testing import capture_logs

from gateway.cmq import subscribers
from gateway.cmq.tables import subscription
from gateway.events import outbox, relay
from gateway.loops import Loop, keep_running
from gateway.store import Store
from gateway.telemetry import LOOP_FAILURES
from tests.support.batch import eventually
from tests.support.cmq import Cmq

pytestmark = pytest.mark.anyio


def failures_of(name: str) -> float:
    [metric] = LOOP_FAILURES.collect()
    return sum(
        sample.value
        for sample in metric.samples
        if sample.labels == {"loop": name} and sample.name.endswith("_total")
    )


def failing(times: int, *, begun: list[int]) -> Loop:
    """A loop that fails so many times, each time after it has begun, and then runs."""

    async def run(*, task_status: TaskStatus[None]) -> None:
        task_status.started()
        begun.append(len(begun))
        await anyio.lowlevel.checkpoint()
        if len(begun) <= times:
            raise ValueError("one bad message")
        await anyio.sleep_forever()

    return run


async def until(condition: Callable[[], bool]) -> None:
    async def holds() -> bool:
        return condition()

    await eventually(holds)


async def test_a_loop_that_fails_is_begun_anew_and_the_failure_is_told() -> None:
    begun: list[int] = []
    before = failures_of("mending")
    with capture_logs() as logs:
        async with anyio.create_task_group() as tasks:
            loop = failing(2, begun=begun)

            async def run(*, task_status: TaskStatus[None]) -> None:
                await keep_running(loop, name="mending", rest_s_min=0, task_status=task_status)

            await tasks.start(run)
            await until(lambda: len(begun) == 3)
            tasks.cancel_scope.cancel()
    assert failures_of("mending") - before == 2
    assert [(line["log_level"], line["event"], line["loop"]) for line in logs] == [
        ("error", "loop_failed", "mending")
    ] * 2
    assert str(logs[0]["exc_info"]) == "one bad message"


async def test_its_neighbours_do_not_notice() -> None:
    begun: list[int] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: keep_running(failing(1, begun=begun), name="a", rest_s_min=0))
        await until(lambda: len(begun) == 2)
        assert not tasks.cancel_scope.cancel_called
        tasks.cancel_scope.cancel()


async def test_the_failure_of_a_part_of_a_loop_is_one_of_the_loop() -> None:
    begun: list[int] = []

    async def run(*, task_status: TaskStatus[None]) -> None:
        async with anyio.create_task_group() as parts:
            parts.start_soon(anyio.sleep_forever)
            parts.start_soon(lambda: failing(1, begun=begun)(task_status=task_status))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: keep_running(run, name="b", rest_s_min=0))
        await until(lambda: len(begun) == 2)
        tasks.cancel_scope.cancel()


async def test_a_loop_that_cannot_begin_keeps_the_service_from_starting() -> None:
    async def run(*, task_status: TaskStatus[None]) -> None:
        raise ValueError("a setting that is wrong")

    before = failures_of("c")
    with pytest.raises(ValueError, match="a setting"):
        await keep_running(run, name="c", rest_s_min=0)
    assert failures_of("c") == before


async def test_a_loop_with_nothing_to_do_is_left_in_peace() -> None:
    begun: list[int] = []

    async def run(*, task_status: TaskStatus[None]) -> None:
        task_status.started()
        begun.append(1)

    await keep_running(run, name="d", rest_s_min=0)
    assert begun == [1]


async def test_being_cancelled_is_no_failure() -> None:
    begun: list[int] = []
    before = failures_of("e")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: keep_running(failing(0, begun=begun), name="e"))
        await until(lambda: bool(begun))
        tasks.cancel_scope.cancel()
    assert failures_of("e") == before
    assert begun == [0]


async def test_it_rests_longer_after_each_failure_and_not_for_ever() -> None:
    begun: list[int] = []
    with capture_logs() as logs:
        async with anyio.create_task_group() as tasks:
            rest_s = 0.001
            tasks.start_soon(
                lambda: keep_running(failing(4, begun=begun), name="f", rest_s_min=rest_s)
            )
            await until(lambda: len(begun) == 5)
            tasks.cancel_scope.cancel()
    assert [line["retry_s"] for line in logs] == [0.001, 0.002, 0.004, 0.008]


async def test_a_row_that_nobody_can_read_holds_messages_up_and_ends_nothing(store: Store) -> None:
    cmq = Cmq(store, None)
    await cmq.subscribe_queue()
    await cmq.call("PublishCmqMsg", TopicName="job-message", MsgContent="hello")
    before = failures_of("expansion")
    async with anyio.create_task_group() as tasks:
        await store.write(lambda tx: tx.execute(update(subscription).values(filter_tags="{")))
        run = partial(relay.run, store, None, subscribers=subscribers, clock=cmq.clock)
        await tasks.start(run)
        await until(lambda: failures_of("expansion") > before)
        await store.write(lambda tx: tx.execute(update(subscription).values(filter_tags="[]")))

        async def is_told() -> bool:
            return await store.read_list(outbox.count_unsent) == 0

        await eventually(is_told)
        tasks.cancel_scope.cancel()
    assert (await cmq.receive())["msgBody"] == "hello"
