"""Why it waits and why it failed, in words: every case there is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from gateway.batch.engines import Cause
from gateway.batch.outcomes import LOSSES_MAX, WORDS
from gateway.batch.reasons import STARTING, Capacity, EnvNodes, Standing, why_task_waits
from gateway.batch.slots import Load
from gateway.batch.states import State
from gateway.batch.tables import compute_node
from gateway.call import Principal
from gateway.store import Store
from tests.support.batch import KEEPS, START, ZONE, Batch, Turns, a_job, a_task, eventually
from tests.support.fake_engine import FakeEngine

ENV = "env-aaaaaaaa"
NODES = EnvNodes(ENV, total=0, running=0, idle=0, reason="")
READY = Standing(
    state=State.RUNNABLE,
    doom="",
    blockers=0,
    busy=0,
    concurrent_max=0,
    node_failures=0,
    node_retry_at=None,
    node_reason="",
    mem_gib=4,
    nodes=None,
)
IDLE = Capacity(16, 8, Load(0, 0), "1")
FULL = Capacity(16, 8, Load(16, 4, {"1": (16, 4)}), "1")
CROWDED = Capacity(16, 8, Load(3, 6, {"1": (3, 6)}), "1")
ITS_TURN = (
    "It waits for its turn: what is more urgent, or older, of this account is started first;"
    " accounts take turns."
)
NO_PLACE = "It waits for capacity: the engine runs 16 task instances at once."
FAILED = {"node_failures": 2, "node_reason": "There is no image img-00000000."}


@pytest.mark.parametrize(
    ("changes", "capacity", "words"),
    [
        (
            {"doom": "PREDECESSOR_FAILED"},
            IDLE,
            "It is about to fail: A task that it depends on did not end as required.",
        ),
        (
            {"state": State.PENDING, "blockers": 2},
            FULL,
            "It waits for 2 task(s) that it depends on.",
        ),
        (
            {"concurrent_max": 3, "busy": 3},
            FULL,
            "As many instances run as MaxConcurrentNum allows: 3.",
        ),
        (
            {"state": State.PENDING, "blockers": 2, "waits_for": ("a", "b")},
            IDLE,
            "It waits for 2 task(s) that it depends on: `a`, `b`.",
        ),
        (
            {"state": State.PENDING, "blockers": 9, "waits_for": ("a", "b", "c")},
            IDLE,
            "It waits for 9 task(s) that it depends on: `a`, `b`, `c`, ….",
        ),
        ({"nodes": NODES}, IDLE, f"The environment {ENV} has no node."),
        (
            {"nodes": replace(NODES, total=2)},
            IDLE,
            f"The environment {ENV} has no running node: 2 are being made.",
        ),
        (
            {"nodes": replace(NODES, total=2, reason="There is no image img-x.")},
            IDLE,
            f"The environment {ENV} has no running node: There is no image img-x.",
        ),
        (
            {"nodes": replace(NODES, total=3, running=2)},
            IDLE,
            f"No node of the environment {ENV} is free: all 2 are in use.",
        ),
        (
            {"nodes": replace(NODES, total=3, running=2, kept=1)},
            IDLE,
            f"No node of the environment {ENV} is free: all 2 are in use, 1 of them by instances"
            " that are FAILED_INTERRUPTED and keep their node until they are terminated.",
        ),
        (
            {"nodes": replace(NODES, total=2, running=2, idle=1, mem_gib=4), "mem_gib": 1},
            CROWDED,
            "It waits for memory: its node has 4 GiB, and 2 of the engine's 8 GiB are free.",
        ),
        (
            {"nodes": replace(NODES, total=2, running=2, idle=1, mem_gib=2)},
            CROWDED,
            ITS_TURN,
        ),
        (
            {"nodes": replace(NODES, total=2, running=2, idle=1)},
            FULL,
            NO_PLACE,
        ),
        (
            {**FAILED, "node_retry_at": START},
            IDLE,
            "Its node could not be made: There is no image img-00000000. The next try is at"
            " 2018-06-15T14:43:17Z.",
        ),
        (FAILED, IDLE, "Its node could not be made: There is no image img-00000000."),
        (
            {},
            FULL,
            NO_PLACE,
        ),
        (
            {},
            CROWDED,
            "It waits for memory: its node has 4 GiB, and 2 of the engine's 8 GiB are free.",
        ),
        (
            {"mem_gib": 64},
            CROWDED,
            "It waits for memory: its node has 64 GiB, and 2 of the engine's 8 GiB are free.",
        ),
        ({}, IDLE, ITS_TURN),
    ],
)
def test_what_waits_is_told_why(changes: dict[str, Any], capacity: Capacity, words: str) -> None:
    assert why_task_waits(replace(READY, **changes), capacity=capacity) == words


@pytest.mark.parametrize(
    ("used", "words"),
    [
        ({"1": (2, 6)}, ""),
        ({"1": (1, 2), "2": (1, 4)}, "; other accounts have some of what is in use"),
        ({"2": (2, 6)}, "; other accounts have all that is in use"),
    ],
)
def test_what_waits_for_others_is_told_so_and_not_for_whom(
    used: dict[str, tuple[int, int]], words: str
) -> None:
    load = Load(2, 6, used)
    by_places = why_task_waits(READY, capacity=Capacity(2, 8, load, "1"))
    assert by_places == f"It waits for capacity: the engine runs 2 task instances at once{words}."
    by_memory = why_task_waits(READY, capacity=Capacity(16, 8, load, "1"))
    assert by_memory.endswith(f"and 2 of the engine's 8 GiB are free{words}.")


@pytest.mark.parametrize("state", [State.SUCCEED, State.FAILED])
def test_what_is_over_waits_for_nothing(state: State) -> None:
    assert why_task_waits(replace(READY, state=state), capacity=FULL) == ""


@pytest.mark.anyio
async def test_every_reason_to_wait_is_shown_where_it_belongs(store: Store, batch: Batch) -> None:
    env_id = await batch.create_env(0)
    job_id = await batch.submit(
        a_task("limited", 2, MaxConcurrentNum=1),
        a_task("follower"),
        a_task("nodeless", EnvId=env_id),
        a_task("next"),
        after=["limited follower"],
    )
    new = await batch.call("DescribeJob", JobId=job_id)
    assert new["StateReason"] == "It was submitted a moment ago and is taken up next."
    assert (await batch.instances(job_id, "next"))[0]["StateReason"] == new["StateReason"]
    await Turns(store, job_id).turn(slots=1)
    for name, why in [
        ("limited", "As many instances run as MaxConcurrentNum allows: 1."),
        ("follower", "It waits for 1 task(s) that it depends on: `limited`."),
        ("nodeless", f"The environment {env_id} has no node."),
        ("next", ITS_TURN),
    ]:
        shown = (await batch.instances(job_id, name))[-1]
        assert shown["StateReason"] == shown["StateDetailedReason"] == why
    waiting = await batch.submit(a_task(EnvId=env_id))
    await Turns(store, waiting).turn(slots=1)
    answer = await batch.call("DescribeJob", JobId=waiting)
    assert (answer["JobState"], answer["StateReason"]) == (
        "RUNNABLE",
        f"The environment {env_id} has no node.",
    )


@pytest.mark.anyio
async def test_a_node_that_is_not_running_says_what_the_task_waits_for(
    store: Store, batch: Batch
) -> None:
    env_id = await batch.create_env(2)
    job_id = await batch.submit(a_task(EnvId=env_id))
    await Turns(store, job_id).turn()

    async def why() -> str:
        return str((await batch.call("DescribeJob", JobId=job_id))["StateReason"])

    assert await why() == f"The environment {env_id} has no running node: 2 are being made."
    broken = update(compute_node).values(state="CREATION_FAILED", reason="No such image.")
    await store.write(lambda tx: tx.execute(broken))
    assert await why() == f"The environment {env_id} has no running node: No such image."
    restarting = update(compute_node).values(state="RUNNING", fate="RESTART")
    await store.write(lambda tx: tx.execute(restarting))
    assert await why() == f"No node of the environment {env_id} is free: all 2 are in use."


@pytest.mark.anyio
async def test_a_running_scheduler_tells_memory_from_places(store: Store, tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path, capacity=3, mem_gib=5)
    batch = Batch(store, engine, folder=tmp_path)
    large: dict[str, Any] = {
        "ComputeEnv": {"EnvData": {"InstanceTypeOptions": {"CPU": 1, "Memory": 2}}}
    }
    async with batch.scheduling():
        await batch.submit(a_task(instances=2, **large))

        async def both_run() -> bool:
            return len(engine.running) == 2

        await eventually(both_run)
        waiting = await batch.submit(a_task(**large))

        async def says(words: str) -> None:
            async def said() -> bool:
                answer = await batch.call("DescribeJob", JobId=waiting)
                return str(answer["StateReason"]).startswith(words)

            await eventually(said)

        await says("It waits for memory: its node has 2 GiB, and 1 of the engine's 5 GiB are free.")
        await batch.submit(a_task(), Priority=9)
        await says("It waits for capacity: the engine runs 3 task instances at once.")
        other = Principal("200000000002", "200000000002", "root")
        placement = {"Zone": ZONE}
        made = await batch.call("SubmitJob", who=other, Placement=placement, Job=a_job())
        words = "other accounts have all that is in use."

        async def others_are_told_of() -> bool:
            answer = await batch.call("DescribeJob", who=other, JobId=made["JobId"])
            return str(answer["StateReason"]).endswith(words)

        await eventually(others_are_told_of)


ENDS = [cause for cause in Cause if cause not in {Cause.NODE_CREATION, Cause.PREDECESSOR_FAILED}]


@pytest.mark.anyio
@pytest.mark.parametrize("cause", ENDS)
async def test_what_failed_says_the_cause_and_what_it_means(
    store: Store, batch: Batch, cause: Cause
) -> None:
    first = a_task("first", Timeout=600)
    job_id = await batch.submit(first, a_task("second"), after=["first second"])
    turns = Turns(store, job_id)
    placed = await turns.turn(slots=1)
    for _ in range(LOSSES_MAX + 1 if cause is Cause.INFRA_LOST else 1):
        placed = await turns.turn(turns.ended(placed[0], 7, cause=cause), slots=1)
    [instance] = await batch.instances(job_id, "first")
    words = WORDS[cause].format(exit_code=7, timeout_s=600)
    if cause is Cause.INFRA_LOST:
        words += f" It was tried {LOSSES_MAX + 1} times."
    assert (instance["StateReason"], instance["StateDetailedReason"]) == (cause.value, words)
    [follower] = await batch.instances(job_id, "second")
    assert follower["StateReason"] == "PREDECESSOR_FAILED"
    assert follower["StateDetailedReason"] == WORDS[Cause.PREDECESSOR_FAILED]
    answer = await batch.call("DescribeJob", JobId=job_id)
    assert answer["StateReason"] == (
        "At least one task did not succeed. The first is `first`: its instance 0:"
        f" {cause.value}. {words}"
    )


@pytest.mark.anyio
async def test_an_interrupted_instance_says_why_it_stopped(store: Store, batch: Batch) -> None:
    turns = Turns(store, await batch.submit(a_task(**KEEPS)))
    [placed] = await turns.turn(slots=1)
    await turns.turn(turns.ended(placed, 9))
    [instance] = await batch.instances(turns.job_id)
    assert (instance["TaskInstanceState"], instance["StateReason"]) == (
        "FAILED_INTERRUPTED",
        "USER_EXIT",
    )
    assert instance["StateDetailedReason"] == "The command ended with exit code 9."


@pytest.mark.anyio
async def test_what_is_tried_again_says_what_was_wrong_the_last_time(
    store: Store, batch: Batch
) -> None:
    turns = Turns(store, await batch.submit(a_task(MaxRetryCount=1)))
    [placed] = await turns.turn(slots=1)
    await turns.turn(turns.ended(placed, 9))
    [instance] = await batch.instances(turns.job_id)
    assert instance["TaskInstanceState"] == "RUNNABLE"
    assert instance["StateDetailedReason"] == (
        f"{instance['StateReason']} The last attempt: The command ended with exit code 9."
    )


@pytest.mark.anyio
async def test_what_has_no_try_left_says_how_many_there_were(store: Store, batch: Batch) -> None:
    turns = Turns(store, await batch.submit(a_task(MaxRetryCount=2)))
    placed = await turns.turn(slots=1)
    [instance] = await batch.instances(turns.job_id)
    assert instance["TaskInstanceState"] == "STARTING"
    assert instance["StateReason"] == instance["StateDetailedReason"] == STARTING
    for _ in range(3):
        placed = await turns.turn(turns.ended(placed[0], 9), slots=1)
    [instance] = await batch.instances(turns.job_id)
    assert instance["TaskInstanceState"] == "FAILED"
    words = "The command ended with exit code 9. It was tried 3 times."
    assert instance["StateDetailedReason"] == words


@pytest.mark.anyio
async def test_a_node_that_a_failed_instance_keeps_is_told_of(store: Store, batch: Batch) -> None:
    env_id = await batch.create_env(1)
    await batch.tend()
    keeper = Turns(store, await batch.submit(a_task(EnvId=env_id, **KEEPS)))
    [placed] = await keeper.turn(slots=1)
    waiting = await batch.submit(a_task(EnvId=env_id))
    await Turns(store, waiting).turn(slots=1)

    async def why() -> str:
        return str((await batch.call("DescribeJob", JobId=waiting))["StateReason"])

    assert await why() == f"No node of the environment {env_id} is free: all 1 are in use."
    await keeper.turn(keeper.ended(placed, 9))
    assert "1 of them by instances that are FAILED_INTERRUPTED" in await why()


@pytest.mark.anyio
async def test_a_task_on_an_environment_waits_for_its_nodes_memory(
    store: Store, tmp_path: Path
) -> None:
    engine = FakeEngine(tmp_path, capacity=3, mem_gib=3)
    batch = Batch(store, engine, folder=tmp_path)
    env_id = await batch.create_env(2, EnvData={"InstanceType": "S1.SMALL2"})
    async with batch.scheduling():
        await batch.tend()
        await batch.submit(a_task(EnvId=env_id))

        async def one_runs() -> bool:
            return len(engine.running) == 1

        await eventually(one_runs)
        waiting = await batch.submit(a_task(EnvId=env_id))
        words = "It waits for memory: its node has 2 GiB, and 1 of the engine's 3 GiB are free."

        async def said() -> bool:
            answer = await batch.call("DescribeJob", JobId=waiting)
            return str(answer["StateReason"]).startswith(words)

        await eventually(said)


@pytest.mark.anyio
async def test_a_job_that_is_being_terminated_says_so(store: Store, batch: Batch) -> None:
    turns = Turns(store, await batch.submit())
    [placed] = await turns.turn(slots=1)
    await turns.turn(turns.started(placed))
    await batch.call("TerminateJob", JobId=turns.job_id)
    answer = await batch.call("DescribeJob", JobId=turns.job_id)
    assert (answer["JobState"], answer["NextAction"]) == ("RUNNING", "TERMINATING")
    assert answer["StateReason"] == "It is being terminated on request."
    await turns.turn(turns.ended(placed, cause=Cause.TERMINATED))
    answer = await batch.call("DescribeJob", JobId=turns.job_id)
    assert (answer["JobState"], answer["NextAction"]) == ("FAILED", "")
    assert answer["StateReason"] == "It was terminated on request."


@pytest.mark.anyio
async def test_what_succeeded_gives_no_reason(store: Store, batch: Batch) -> None:
    turns = Turns(store, await batch.submit())
    await turns.run()
    assert (await batch.call("DescribeJob", JobId=turns.job_id))["StateReason"] == ""
    [instance] = await batch.instances(turns.job_id)
    assert (instance["StateReason"], instance["StateDetailedReason"]) == ("", "successful")
