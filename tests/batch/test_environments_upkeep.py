"""What the keeper does: nodes made, not made, made again, lost, restarted and gone."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import func, select, text, update

from gateway.batch.catalogue import Catalogue, Image
from gateway.batch.engines import NodesLost
from gateway.batch.environments import changes
from gateway.batch.environments import statements as sql
from gateway.batch.environments.upkeep import NODES_AT_ONCE, lose_nodes
from gateway.batch.tables import compute_env_activity, compute_node
from gateway.clock import now, wire_time
from gateway.store import Store, Tx
from tests.support.batch import Batch, Turns, a_task, events_of, eventually
from tests.support.disks import small_disk
from tests.support.environments import (
    UNKNOWN,
    WINDOWS,
    SetClock,
    activities_of,
    check_activities,
    code_of,
    ids_of,
    nodes_of,
    occupy,
    set_fate,
    states_of,
)
from tests.support.fake_engine import FakeEngine
from tests.support.plans import plan_of

pytestmark = pytest.mark.anyio
UP = ["COMPUTE_NODE_CREATED", "COMPUTE_NODE_RUNNING"]
FAILED = "COMPUTE_NODE_CREATION_FAILED"
LOST = ["COMPUTE_NODE_ABNORMAL", "COMPUTE_NODE_DELETING"]


def from_image(image_id: str) -> dict[str, Any]:
    return {"EnvData": {"InstanceType": "S1.SMALL1", "ImageId": image_id}}


async def test_a_node_of_an_image_that_cannot_be_used_fails_with_the_reason(
    store: Store, batch: Batch
) -> None:
    for image_id, words in [(WINDOWS, "this engine runs Linux"), (UNKNOWN, "There is no image")]:
        env_id = await batch.create_env(2, **from_image(image_id))
        await batch.tend()
        assert await states_of(batch, env_id) == ["CREATION_FAILED"] * 2
        assert await events_of(store, env_id) == ["COMPUTE_ENV_CREATED", FAILED, FAILED]
        for activity in await activities_of(batch, env_id):
            assert activity["ActivityState"] == "FAILED"
            assert words in activity["StateReason"]
        answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
        assert answer["ComputeNodeMetrics"]["CreationFailedCount"] == 2
        assert answer["ComputeNodeSet"][0]["ResourceCreatedTime"] is None
        await check_activities(store, env_id)


async def test_a_node_that_could_not_be_made_is_tried_again_by_the_documented_waits(
    store: Store, batch: Batch
) -> None:
    time = SetClock()
    env_id = await batch.create_env(1, ResourceMaxRetryCount=4, **from_image(UNKNOWN))
    await batch.tend(time=time)
    machines = {node["ComputeNodeInstanceId"] for node in await nodes_of(batch, env_id)}
    for tries, wait_s in enumerate((600, 600, 600, 900), start=1):
        time.move(seconds=wait_s - 1)
        await batch.tend(time=time)
        assert (await events_of(store, env_id)).count(FAILED) == tries
        time.move(seconds=1)
        await batch.tend(time=time)
        assert (await events_of(store, env_id)).count(FAILED) == tries + 1
        [node] = await nodes_of(batch, env_id)
        machines.add(node["ComputeNodeInstanceId"])
    time.move(days=1)
    await batch.tend(time=time)
    assert (await events_of(store, env_id)).count(FAILED) == 5
    assert len(machines) == 5
    causes = [each["Cause"] for each in await activities_of(batch, env_id)]
    assert causes[-1] == "CreateComputeEnv: the capacity is 1"
    assert [cause.partition(",")[0] for cause in reversed(causes[:-1])] == [
        f"RECREATE: try {number} of 4" for number in range(1, 5)
    ]
    await check_activities(store, env_id)


async def test_who_waits_for_a_node_that_is_not_made_hears_what_comes_next(
    store: Store, batch: Batch
) -> None:
    time = SetClock()
    env_id = await batch.create_env(1, ResourceMaxRetryCount=1, **from_image(UNKNOWN))
    job_id = await batch.submit(a_task(EnvId=env_id))
    await Turns(store, job_id).turn()

    async def why() -> str:
        return str((await batch.call("DescribeJob", JobId=job_id))["StateReason"])

    await batch.tend(time=time)
    time.move(seconds=600)
    assert (await why()).endswith(f" The next try is at {wire_time(time.time)}.")
    await batch.tend(time=time)
    no_more = await why()
    assert "The next try" not in no_more
    assert "No further try follows (ResourceMaxRetryCount is 1)." in no_more
    assert "ModifyComputeEnv" in no_more
    found = await activities_of(batch, env_id)
    told = [text for each in found for text in (each["Cause"], each["StateReason"])]
    assert not [text for text in told if " try follows" in text or "next try" in text]


async def test_a_node_is_made_once_the_catalogue_has_its_image(store: Store, batch: Batch) -> None:
    time = SetClock()
    env_id = await batch.create_env(1, **from_image(UNKNOWN))
    await batch.tend(time=time)
    image = Image(UNKNOWN, "ours", "linux", has_cloud_init=True)
    mended = Catalogue(images={UNKNOWN: image})
    time.move(seconds=600)
    await batch.tend(time=time, catalogue=mended)
    assert await states_of(batch, env_id) == ["RUNNING"]
    assert await events_of(store, env_id) == ["COMPUTE_ENV_CREATED", FAILED, *UP]
    newest, oldest = await activities_of(batch, env_id)
    assert (newest["ActivityState"], oldest["ActivityState"]) == ("SUCCEED", "FAILED")
    assert newest["InstanceId"] != oldest["InstanceId"]


async def test_a_lost_node_gets_another_machine_at_once_however_often(
    store: Store, batch: Batch
) -> None:
    time = SetClock()
    env_id = await batch.create_env(1, ResourceMaxRetryCount=2)
    await batch.tend(time=time)
    [before] = await nodes_of(batch, env_id)
    node_id = before["ComputeNodeId"]
    await set_fate(store, node_id, "LOST")
    await batch.tend(time=time)
    [after] = await nodes_of(batch, env_id)
    assert (after["ComputeNodeId"], after["ComputeNodeState"]) == (node_id, "RUNNING")
    assert after["ComputeNodeInstanceId"] != before["ComputeNodeInstanceId"]
    assert await events_of(store, env_id) == ["COMPUTE_ENV_CREATED", *UP, *LOST, *UP]
    for _ in range(3):
        await set_fate(store, node_id, "LOST")
        await batch.tend(time=time)
        assert await states_of(batch, env_id) == ["RUNNING"]
    await check_activities(store, env_id)


@pytest.mark.parametrize("fate", ["RESTART", "LOST"])
async def test_a_node_that_goes_on_keeps_its_disks(store: Store, batch: Batch, fate: str) -> None:
    env_id = await batch.create_env(1)
    await batch.tend()
    [node_id] = await ids_of(batch, env_id)
    kept = _disk_of(batch, node_id) / "file"
    kept.write_text("of an earlier job")
    await set_fate(store, node_id, fate)
    assert not any(map(_is_free, await nodes_of(batch, env_id)))
    await batch.tend()
    assert all(map(_is_free, await nodes_of(batch, env_id)))
    assert kept.read_text() == "of an earlier job"


async def test_a_restart_is_told_as_an_activity_and_not_as_an_event(
    store: Store, batch: Batch
) -> None:
    env_id = await batch.create_env(1)
    await batch.tend()
    before = await nodes_of(batch, env_id)
    told = await events_of(store, env_id)
    await set_fate(store, before[0]["ComputeNodeId"], "RESTART")
    await batch.tend()
    assert await nodes_of(batch, env_id) == before
    assert await events_of(store, env_id) == told
    newest, _ = await activities_of(batch, env_id)
    kind, state = newest["ComputeNodeActivityType"], newest["ActivityState"]
    assert (kind, state) == ("RESTART_COMPUTE_NODE", "SUCCEED")


async def test_a_lost_node_that_can_be_made_only_later_still_has_its_disks(
    store: Store, batch: Batch
) -> None:
    time = SetClock()
    image = Image(UNKNOWN, "ours", "linux", has_cloud_init=True)
    catalogue = Catalogue(images={UNKNOWN: image})
    env_id = await batch.create_env(1, **from_image(UNKNOWN))
    await batch.tend(time=time, catalogue=catalogue)
    [node_id] = await ids_of(batch, env_id)
    disk = _disk_of(batch, node_id)
    await set_fate(store, node_id, "LOST")
    await batch.tend(time=time)
    assert await states_of(batch, env_id) == ["CREATION_FAILED"]
    time.move(seconds=600)
    await batch.tend(time=time, catalogue=catalogue)
    assert await states_of(batch, env_id) == ["RUNNING"]
    assert disk.exists()


async def test_a_node_whose_folder_stays_is_not_forgotten(store: Store, batch: Batch) -> None:
    """What cannot be removed here is where something is mounted."""
    env_id = await batch.create_env(2)
    await batch.tend()
    first, second = await ids_of(batch, env_id)
    folders = [batch.engine.node_path(each) for each in (first, second)]
    in_the_way = _disk_of(batch, first)
    assert _disk_of(batch, second).exists()
    with small_disk(in_the_way, kib=64):
        named = [first, second]
        await batch.call("TerminateComputeNodes", EnvId=env_id, ComputeNodeIds=named)
        await batch.tend()
        assert await ids_of(batch, env_id) == [first]
        assert [folder.exists() for folder in folders] == [True, False]
    await batch.tend()
    assert not await ids_of(batch, env_id)
    assert not folders[0].exists()


async def test_a_folder_deeper_than_python_can_recurse_is_cleared(
    store: Store, batch: Batch
) -> None:
    env_id = await batch.create_env(1)
    await batch.tend()
    [node_id] = await ids_of(batch, env_id)
    dig = ["sh", "-c", "for n in $(seq 1500); do mkdir d && cd -P d; done"]
    await anyio.run_process(dig, cwd=_disk_of(batch, node_id))
    await batch.call("TerminateComputeNode", EnvId=env_id, ComputeNodeId=node_id)
    await batch.tend()
    assert not await ids_of(batch, env_id)
    assert not batch.engine.node_path(node_id).exists()


def _disk_of(batch: Batch, node_id: str) -> Path:
    """A new disk of a node."""
    disk = batch.engine.node_path(node_id) / "disk"
    disk.mkdir(parents=True)
    return disk


def _is_free(node: dict[str, Any]) -> bool:
    return bool(node["TaskInstanceNumAvailable"])


async def test_when_every_node_is_lost_busy_ones_go_on_until_their_attempts_are_over(
    store: Store, batch: Batch
) -> None:
    env_id = await batch.create_env(3)
    await batch.tend()
    busy, *_ = await ids_of(batch, env_id)
    await occupy(store, busy, "job-00000000.0.0.1")
    before = {n["ComputeNodeId"]: n["ComputeNodeInstanceId"] for n in await nodes_of(batch, env_id)}
    await store.write(lose_nodes)
    await batch.tend()
    after = {n["ComputeNodeId"]: n["ComputeNodeInstanceId"] for n in await nodes_of(batch, env_id)}
    assert {node_id for node_id in before if after[node_id] == before[node_id]} == {busy}
    await occupy(store, busy, "")
    await batch.tend()
    assert (await nodes_of(batch, env_id))[0]["ComputeNodeInstanceId"] != before[busy]
    assert (await events_of(store, env_id)).count("COMPUTE_NODE_ABNORMAL") == 3


async def test_when_the_engine_is_lost_a_job_goes_on_with_other_machines(
    store: Store, batch: Batch
) -> None:
    async with batch.scheduling():
        env_id = await batch.create_env(2)
        job_id = await batch.submit(a_task(EnvId=env_id))
        await batch.until_state(job_id, "RUNNING")
        before = {node["ComputeNodeInstanceId"] for node in await nodes_of(batch, env_id)}
        batch.engine.lose_nodes()

        async def all_goes_on() -> bool:
            after = {node["ComputeNodeInstanceId"] for node in await nodes_of(batch, env_id)}
            return not before & after and len(batch.engine.started) > 1

        await eventually(all_goes_on)
        batch.engine.exit(batch.engine.started[-1].attempt_id, 0)
        assert await batch.until_state(job_id, "SUCCEED", "FAILED") == "SUCCEED"
    told = await events_of(store, env_id)
    assert [told.count(name) for name in LOST] == [2, 2]
    assert batch.engine.loss is None, "it need not be told again"


class BadTempered(FakeEngine):
    """One that fails once, when it is told that a loss is stored."""

    failures = 1

    async def acknowledge_loss(self, lost: NodesLost) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("it fails once")
        await super().acknowledge_loss(lost)


async def test_a_round_that_fails_after_nodes_are_lost_does_not_lose_those_made_since(
    store: Store, tmp_path: Path
) -> None:
    engine = BadTempered(tmp_path, answer=lambda _: 0)
    batch = Batch(store, engine, folder=tmp_path)
    async with batch.scheduling():
        env_id = await batch.create_env(2)
        await batch.until_state(await batch.submit(a_task(EnvId=env_id)), "SUCCEED")
        before = {node["ComputeNodeInstanceId"] for node in await nodes_of(batch, env_id)}
        engine.lose_nodes()

        async def all_are_new() -> bool:
            after = {node["ComputeNodeInstanceId"] for node in await nodes_of(batch, env_id)}
            return not before & after

        await eventually(all_are_new)
        assert engine.failures == 0
        await batch.until_state(await batch.submit(a_task(EnvId=env_id)), "SUCCEED")
        told = await events_of(store, env_id)
    assert told.count("COMPUTE_NODE_ABNORMAL") == 2


async def test_two_thousand_nodes_come_up_take_work_and_go(store: Store, batch: Batch) -> None:
    env_id = await batch.create_env(2_000)
    rounds = 1
    keeper = batch.keeper()
    while await batch.tend_once(keeper):
        rounds += 1
    assert rounds <= 2_000 // NODES_AT_ONCE + 1
    answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
    assert answer["ComputeNodeMetrics"]["RunningCount"] == 2_000
    assert (await events_of(store, env_id)).count("COMPUTE_NODE_RUNNING") == 2_000
    job = Turns(store, await batch.submit(a_task(instances=2, EnvId=env_id)))
    assert len(await job.turn(slots=5)) == 2
    code = await code_of(batch, "ModifyComputeEnv", EnvId=env_id, DesiredComputeNodeCount=1)
    assert code == "UnsupportedOperation.ComputeNodeForbidTerminate"
    await batch.call("ModifyComputeEnv", EnvId=env_id, DesiredComputeNodeCount=2)
    await batch.tend()
    nodes = await nodes_of(batch, env_id)
    assert [node["TaskInstanceNumAvailable"] for node in nodes] == [0, 0]


async def test_an_idle_round_reads_once_and_writes_nothing(
    store: Store, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch.create_env(5)
    await batch.tend()
    reads: list[object] = []
    read_list = store.read_list

    async def count(function: Any) -> Any:
        reads.append(function)
        return await read_list(function)

    async def refuse(function: Any) -> Any:
        raise AssertionError("an idle keeper wrote")

    monkeypatch.setattr(store, "read_list", count)
    monkeypatch.setattr(store, "write", refuse)
    assert not await batch.tend_once(batch.keeper())
    assert len(reads) == 1


async def test_looking_for_what_is_due_costs_nothing_for_nodes_that_idle(
    store: Store, batch: Batch
) -> None:
    await batch.create_env(2_000)
    await batch.tend()

    def explain(tx: Tx) -> str:
        if tx.dialect == "postgresql":
            tx.execute(text("ANALYZE batch_compute_node"))
        return plan_of(tx, sql.DUE_NODES, {"now": now()})

    plan = await store.write(explain)
    for index in ("ix_batch_compute_node_state", "ix_batch_compute_node_fate"):
        assert index in plan
    read_in_full = "Seq Scan" if "Scan" in plan else "SCAN batch_compute_node\n"
    assert read_in_full not in f"{plan}\n"


async def test_old_activities_are_forgotten_but_none_that_is_under_way(
    store: Store, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "ACTIVITIES_MAX", 5)
    env_id = await batch.create_env(1)
    await batch.tend()
    for wanted in [*range(2, 12), 11]:
        await batch.call("ModifyComputeEnv", EnvId=env_id, DesiredComputeNodeCount=wanted)
    waiting = await batch.call("DescribeComputeEnvActivities", EnvId=env_id)
    assert waiting["TotalCount"] == 10  # none of them is over
    await batch.tend()
    await batch.call("ModifyComputeEnv", EnvId=env_id, DesiredComputeNodeCount=12)
    kept = await batch.call("DescribeComputeEnvActivities", EnvId=env_id)
    assert kept["TotalCount"] == 6
    assert kept["ActivitySet"][0]["Cause"].endswith("from 11 to 12")


async def test_a_keeper_that_runs_hears_of_orders_and_fates_at_once(
    store: Store, batch: Batch
) -> None:
    async with anyio.create_task_group() as tasks:
        await tasks.start(batch.keeper().run)
        env_id = await batch.create_env(1)

        async def has(kind: str, state: str) -> bool:
            found = await activities_of(batch, env_id)
            return any(
                (each["ComputeNodeActivityType"], each["ActivityState"]) == (kind, state)
                for each in found
            )

        await eventually(lambda: has("CREATE_COMPUTE_NODE", "SUCCEED"))
        [node_id] = await ids_of(batch, env_id)
        await set_fate(store, node_id, "RESTART")
        await eventually(lambda: has("RESTART_COMPUTE_NODE", "SUCCEED"))
        await batch.call("TerminateComputeNode", EnvId=env_id, ComputeNodeId=node_id)
        await eventually(lambda: has("TERMINATE_COMPUTE_NODE", "SUCCEED"))
        tasks.cancel_scope.cancel()


async def test_an_environment_that_cannot_be_read_stops_no_other(
    store: Store, batch: Batch
) -> None:
    broken, sound = await batch.create_env(1), await batch.create_env(1)
    spoil = update(compute_node).where(compute_node.c.env_id == broken).values(origin="NONSENSE")
    await store.write(lambda tx: tx.execute(spoil).rowcount)
    await batch.tend()
    assert await states_of(batch, sound) == ["RUNNING"]
    assert await states_of(batch, broken) == ["SUBMITTED"]


async def test_a_node_from_before_there_were_activities_goes_without_one(
    store: Store, batch: Batch
) -> None:
    env_id = await batch.create_env(1)
    await store.write(lambda tx: tx.execute(compute_env_activity.delete()).rowcount)
    await batch.tend()
    assert await states_of(batch, env_id) == ["RUNNING"]
    count = select(func.count()).select_from(compute_env_activity)
    assert await store.read_list(lambda tx: tx.execute(count).scalar_one()) == 0
