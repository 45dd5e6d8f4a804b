"""Jobs moved on transaction by transaction, on every kind of database."""

from collections.abc import Callable
from random import Random

import anyio
import pytest
from msgspec.structs import replace
from sqlalchemy import update

from gateway import ids
from gateway.batch.changes import open_job
from gateway.batch.engines import Cause, Ended, Started
from gateway.batch.jobs import JOBS
from gateway.batch.outcomes import LOSSES_MAX
from gateway.batch.progress import FAILED_AT_ONCE_MAX, Progress
from gateway.batch.tables import compute_node, task_instance
from gateway.store import Conflict, Store, Tx
from tests.support.batch import KEEPS, Batch, Turns, a_task, check_rows, events_of, only

pytestmark = pytest.mark.anyio
FINAL = {"SUCCEED", "FAILED"}


async def test_one_instance_tells_its_story_in_order(store: Store, batch: Batch) -> None:
    job = Turns(store, await batch.submit())
    await job.run()
    assert await events_of(store, job.job_id) == [
        "COMPUTE_NODE_CREATED",
        "COMPUTE_NODE_RUNNING",
        "JOB_RUNNING",
        "TASK_RUNNING",
        "TASK_INSTANCE_RUNNING",
        "TASK_INSTANCE_SUCCEED",
        "COMPUTE_NODE_DELETING",
        "TASK_SUCCEED",
        "JOB_SUCCEED",
    ]


async def test_the_states_before_running_are_entered_in_silence(store: Store, batch: Batch) -> None:
    job = Turns(store, await batch.submit(a_task("a"), a_task("b"), after=["a b"]))
    assert await batch.task_states(job.job_id) == {"a": "SUBMITTED", "b": "SUBMITTED"}
    await job.turn()
    assert await batch.task_states(job.job_id) == {"a": "RUNNABLE", "b": "PENDING"}
    assert await batch.state(job.job_id) == "RUNNABLE"
    await job.turn(slots=1)
    assert await batch.task_states(job.job_id) == {"a": "STARTING", "b": "PENDING"}
    assert await batch.state(job.job_id) == "STARTING"
    assert only(await events_of(store, job.job_id), "JOB", "TASK") == []


@pytest.mark.parametrize(
    ("depend_on", "codes", "expected"),
    [
        ("PRE_TASK_SUCCEED", [0, 0, 0], {"a": "SUCCEED", "b": "SUCCEED"}),
        ("PRE_TASK_SUCCEED", [0, 0, 1], {"a": "FAILED", "b": "FAILED"}),
        ("PRE_TASK_AT_LEAST_PARTLY_SUCCEED", [1, 0, 1], {"a": "FAILED", "b": "SUCCEED"}),
        ("PRE_TASK_AT_LEAST_PARTLY_SUCCEED", [1, 1, 1], {"a": "FAILED", "b": "FAILED"}),
        ("PRE_TASK_FINISHED", [1, 1, 1], {"a": "FAILED", "b": "SUCCEED"}),
    ],
)
async def test_a_follower_runs_as_task_execution_depend_on_says(
    store: Store, batch: Batch, depend_on: str, codes: list[int], expected: dict[str, str]
) -> None:
    tasks = a_task("a", 3), a_task("b")
    job = Turns(store, await batch.submit(*tasks, after=["a b"], TaskExecutionDependOn=depend_on))
    placed = await job.turn(slots=9)
    assert len(placed) == 3
    assert await job.turn(*map(job.ended, placed[:2], codes[:2]), slots=9) == []
    assert (await batch.task_states(job.job_id))["b"] == "PENDING"
    placed = await job.turn(job.ended(placed[2], codes[2]), slots=9)
    await job.turn(*map(job.ended, placed))
    assert await batch.task_states(job.job_id) == expected
    assert await batch.state(job.job_id) == min(expected.values())
    await check_rows(store, job.job_id)


async def test_a_follower_waits_for_all_its_predecessors(store: Store, batch: Batch) -> None:
    tasks = [a_task(name) for name in "abc"]
    job = Turns(store, await batch.submit(*tasks, after=["a c", "b c"]))
    first, second = await job.turn(slots=9)
    assert await job.turn(job.ended(first), slots=9) == []
    [third] = await job.turn(job.ended(second), slots=9)
    await job.turn(job.ended(third))
    assert await batch.state(job.job_id) == "SUCCEED"


async def test_a_doomed_follower_says_why_and_never_starts(store: Store, batch: Batch) -> None:
    tasks = [a_task(name) for name in "abc"]
    job = Turns(store, await batch.submit(*tasks, after=["a b", "b c"]))
    await job.run(code=3)
    [instance] = await batch.instances(job.job_id, "c")
    assert instance["TaskInstanceState"] == "FAILED"
    assert instance["StateReason"] == "PREDECESSOR_FAILED"
    assert instance["LaunchTime"] is None
    events = await events_of(store, job.job_id)
    assert events.count("TASK_INSTANCE_RUNNING") == 1
    assert events.count("TASK_INSTANCE_FAILED") == events.count("TASK_FAILED") == 3
    assert events[-1] == "JOB_FAILED"


async def test_the_commands_failures_and_lost_nodes_are_counted_apart(
    store: Store, batch: Batch
) -> None:
    job = Turns(store, await batch.submit(a_task(MaxRetryCount=1)))
    ends: list[Callable[[str], Ended]] = [
        *[lambda each: job.ended(each, cause=Cause.INFRA_LOST)] * LOSSES_MAX,
        lambda each: job.ended(each, 7),
        lambda each: job.ended(each, 7),
    ]
    [placed] = await job.turn(slots=1)
    for number, end in enumerate(ends, start=1):
        assert placed.endswith(f".{number}")
        now_placed = await job.turn(end(placed), slots=1)
        placed = now_placed[0] if now_placed else ""
    assert placed == ""
    [instance] = await batch.instances(job.job_id)
    assert (instance["TaskInstanceState"], instance["ExitCode"]) == ("FAILED", 7)
    events = await events_of(store, job.job_id)
    assert events.count("COMPUTE_NODE_ABNORMAL") == LOSSES_MAX
    assert events.count("TASK_INSTANCE_RUNNING") == len(ends)
    assert events.count("TASK_RUNNING") == events.count("JOB_RUNNING") == 1


async def test_what_never_ran_is_announced_as_failed_and_never_as_running(
    store: Store, batch: Batch
) -> None:
    job = Turns(store, await batch.submit(a_task(MaxRetryCount=1, **KEEPS)))
    for _ in range(2):
        [placed] = await job.turn(slots=1)
        assert await batch.state(job.job_id) == "STARTING"
        failed = replace(job.ended(placed, cause=Cause.STORAGE), started=False)
        await job.turn(failed, slots=0)
        await job.turn(failed, slots=0)
    [instance] = await batch.instances(job.job_id)
    assert (instance["TaskInstanceState"], instance["StateReason"]) == ("FAILED", "STORAGE")
    assert instance["RunningTime"] is None
    events = await events_of(store, job.job_id)
    assert [name for name in events if name.endswith("_RUNNING")] == []
    assert only(events, "JOB", "TASK") == ["TASK_INSTANCE_FAILED", "TASK_FAILED", "JOB_FAILED"]
    await check_rows(store, job.job_id)


async def test_an_instance_that_loses_too_many_nodes_fails(store: Store, batch: Batch) -> None:
    job = Turns(store, await batch.submit(a_task(MaxRetryCount=50, **KEEPS)))
    placed = await job.turn(slots=1)
    for _ in range(LOSSES_MAX + 1):
        [attempt] = placed
        placed = await job.turn(job.ended(attempt, cause=Cause.INFRA_LOST), slots=1)
    assert placed == []
    assert await batch.state(job.job_id) == "FAILED"


@pytest.mark.parametrize("cause", [Cause.TIMEOUT, Cause.OOM, Cause.SIGNAL])
async def test_what_kills_a_command_counts_as_its_failure(
    store: Store, batch: Batch, cause: Cause
) -> None:
    job = Turns(store, await batch.submit(a_task(MaxRetryCount=1)))
    [first] = await job.turn(slots=1)
    [second] = await job.turn(job.ended(first, cause=cause), slots=1)
    assert await job.turn(job.ended(second, cause=cause), slots=1) == []
    [instance] = await batch.instances(job.job_id)
    assert (instance["TaskInstanceState"], instance["StateReason"]) == ("FAILED", cause.value)
    assert instance["ExitCode"] is None


async def test_output_that_cannot_be_stored_is_not_run_again(store: Store, batch: Batch) -> None:
    job = Turns(store, await batch.submit(a_task(MaxRetryCount=5)))
    [first] = await job.turn(slots=1)
    assert await job.turn(job.ended(first, cause=Cause.STORAGE), slots=1) == []
    assert await batch.state(job.job_id) == "FAILED"


@pytest.mark.parametrize("action", ["INTERRUPT", "FAST_INTERRUPT"])
async def test_an_interrupted_instance_keeps_its_elastic_node_until_terminated(
    store: Store, batch: Batch, action: str
) -> None:
    job = Turns(store, await batch.submit(a_task(FailedAction=action)))
    [placed] = await job.turn(slots=1)
    await job.turn(job.ended(placed, 1))
    assert await batch.state(job.job_id) == "FAILED_INTERRUPTED"
    [instance] = await batch.instances(job.job_id)
    assert instance["ComputeNodeInstanceId"].startswith("ins-")
    assert "COMPUTE_NODE_DELETING" not in await events_of(store, job.job_id)
    await batch.call("TerminateJob", JobId=job.job_id)
    await job.turn()
    assert await batch.state(job.job_id) == "FAILED"
    assert (await events_of(store, job.job_id))[-7:] == [
        "TASK_INSTANCE_FAILED_INTERRUPTED",
        "TASK_FAILED_INTERRUPTED",
        "JOB_FAILED_INTERRUPTED",
        "TASK_INSTANCE_FAILED",
        "COMPUTE_NODE_DELETING",
        "TASK_FAILED",
        "JOB_FAILED",
    ]


@pytest.mark.parametrize("of_the_job", [True, False], ids=["TerminateJob", "TerminateTaskInstance"])
async def test_an_interrupted_instance_that_is_terminated_goes_on_to_say_why_it_failed(
    store: Store, batch: Batch, of_the_job: bool
) -> None:
    job = Turns(store, await batch.submit(a_task(**KEEPS)))
    [placed] = await job.turn(slots=1)
    await job.turn(job.ended(placed, 5))
    if of_the_job:
        await batch.call("TerminateJob", JobId=job.job_id)
    else:
        await batch.call(
            "TerminateTaskInstance", JobId=job.job_id, TaskName="a", TaskInstanceIndex=0
        )
    await job.turn()
    answer = await batch.call("DescribeTask", JobId=job.job_id, TaskName="a")
    [instance] = answer["TaskInstanceSet"]
    assert (instance["TaskInstanceState"], instance["ExitCode"]) == ("FAILED", 5)
    assert instance["StateReason"] == "USER_EXIT"
    words = "The command ended with exit code 5. It was terminated on request."
    assert instance["StateDetailedReason"] == words


async def test_what_would_be_interrupted_is_tried_again_first(store: Store, batch: Batch) -> None:
    job = Turns(store, await batch.submit(a_task(MaxRetryCount=1, **KEEPS)))
    [first] = await job.turn(slots=1)
    [second] = await job.turn(job.ended(first, 1), slots=1)
    events = await events_of(store, job.job_id)
    assert events.count("COMPUTE_NODE_DELETING") == 1, "another try has another node"
    await job.turn(job.ended(second, 1))
    assert await batch.state(job.job_id) == "FAILED_INTERRUPTED"


async def test_an_interrupted_instance_runs_no_more_and_lets_the_next_one_run(
    store: Store, batch: Batch
) -> None:
    task = a_task(instances=2, MaxConcurrentNum=1, **KEEPS)
    job = Turns(store, await batch.submit(task))
    [first] = await job.turn(slots=9)
    [second] = await job.turn(job.ended(first, 1), slots=9)
    await job.turn(job.ended(second))
    assert await batch.state(job.job_id) == "FAILED_INTERRUPTED"


async def test_an_interrupted_instance_keeps_the_node_of_its_environment(
    store: Store, batch: Batch
) -> None:
    env_id = await make_env(store, batch, nodes=1)
    kept = Turns(store, await batch.submit(a_task(EnvId=env_id, **KEEPS)))
    other = Turns(store, await batch.submit(a_task(EnvId=env_id)))
    [placed] = await kept.turn(slots=1)
    await kept.turn(kept.ended(placed, 1))
    assert await other.turn(slots=1) == []
    await check_rows(store, kept.job_id)
    await batch.call("TerminateJob", JobId=kept.job_id)
    woken = store.signals.count(JOBS)
    await kept.turn()
    assert store.signals.count(JOBS) > woken, "nobody looks at the job that waits for the node"
    assert await other.turn(slots=1) == [], "the node is restarted first"
    await store.write(lambda tx: tx.execute(update(compute_node).values(fate="")))
    assert len(await other.turn(slots=1)) == 1
    await check_rows(store, kept.job_id)


async def test_followers_of_an_interrupted_task_do_not_wait_for_ever(
    store: Store, batch: Batch
) -> None:
    job = Turns(store, await batch.submit(a_task("a", **KEEPS), a_task("b"), after=["a b"]))
    [placed] = await job.turn(slots=1)
    await job.turn(job.ended(placed, 1))
    assert await batch.task_states(job.job_id) == {"a": "FAILED_INTERRUPTED", "b": "FAILED"}
    assert await batch.state(job.job_id) == "FAILED_INTERRUPTED"
    await batch.call("TerminateJob", JobId=job.job_id)
    await job.turn()
    assert await batch.state(job.job_id) == "FAILED"
    await check_rows(store, job.job_id)


async def test_terminating_fails_what_waits_and_stops_what_runs(store: Store, batch: Batch) -> None:
    tasks = a_task("a", 4), a_task("b")
    job = Turns(
        store, await batch.submit(*tasks, after=["a b"], TaskExecutionDependOn="PRE_TASK_FINISHED")
    )
    first, second = await job.turn(slots=2)
    await job.turn(job.started(first))
    await batch.call("TerminateJob", JobId=job.job_id)
    assert await job.turn(slots=9) == []
    assert sorted(job.stopping) == sorted([first, second])
    assert await batch.state(job.job_id) == "RUNNING"
    await job.turn(*(job.ended(each, cause=Cause.TERMINATED) for each in (first, second)), slots=9)
    assert job.stopping == []
    assert await batch.task_states(job.job_id) == {"a": "FAILED", "b": "FAILED"}
    answer = await batch.call("DescribeJob", JobId=job.job_id)
    assert answer["StateReason"] == "It was terminated on request."
    assert answer["NextAction"] == ""
    assert {each["StateReason"] for each in await batch.instances(job.job_id)} == {"TERMINATED"}
    await check_rows(store, job.job_id)


async def test_a_command_that_succeeds_before_it_is_stopped_has_succeeded(
    store: Store, batch: Batch
) -> None:
    job = Turns(store, await batch.submit())
    [placed] = await job.turn(slots=1)
    await batch.call("TerminateJob", JobId=job.job_id)
    await job.turn(job.ended(placed))
    answer = await batch.call("DescribeJob", JobId=job.job_id)
    assert (answer["JobState"], answer["StateReason"]) == ("SUCCEED", "")
    await batch.call("TerminateJob", JobId=job.job_id)
    await job.turn()
    assert await batch.state(job.job_id) == "SUCCEED"


async def test_a_terminated_job_is_not_retried(store: Store, batch: Batch) -> None:
    job = Turns(store, await batch.submit(a_task(MaxRetryCount=9, **KEEPS)))
    [placed] = await job.turn(slots=1)
    await batch.call("TerminateJob", JobId=job.job_id)
    await job.turn()
    assert await job.turn(job.ended(placed, 1), slots=9) == []
    assert await batch.state(job.job_id) == "FAILED"


async def test_no_more_run_at_once_than_max_concurrent_num(store: Store, batch: Batch) -> None:
    job = Turns(store, await batch.submit(a_task(instances=7, MaxConcurrentNum=3)))
    running = await job.turn(slots=99)
    total = 0
    while running:
        assert len(running) <= 3
        total += 1
        running = [*running[1:], *await job.turn(job.ended(running[0]), slots=99)]
        await check_rows(store, job.job_id)
    assert total == 7
    assert await batch.state(job.job_id) == "SUCCEED"


async def test_a_node_has_one_attempt_at_a_time_and_is_freed(store: Store, batch: Batch) -> None:
    env_id = await make_env(store, batch, nodes=2)
    jobs = [Turns(store, await batch.submit(a_task(instances=3, EnvId=env_id))) for _ in "xy"]
    running = {job: await job.turn(slots=99) for job in jobs}
    assert sum(map(len, running.values())) == 2
    while any(running.values()):
        for job in jobs:
            ends = [job.ended(each) for each in running[job]]
            running[job] = await job.turn(*ends, slots=99)
            await check_rows(store, job.job_id)
        assert sum(map(len, running.values())) <= 2
    assert [await batch.state(job.job_id) for job in jobs] == ["SUCCEED", "SUCCEED"]


async def test_a_freed_node_goes_to_the_most_urgent_job_that_waits(
    store: Store, batch: Batch
) -> None:
    env_id = await make_env(store, batch, nodes=1)
    low = Turns(store, await batch.submit(a_task(instances=2, EnvId=env_id), Priority=1))
    high = Turns(store, await batch.submit(a_task(EnvId=env_id), Priority=9))
    [running] = await low.turn(slots=99)
    await high.turn(slots=99)
    assert await low.turn(low.ended(running), slots=99) == []
    assert len(await high.turn(slots=99)) == 1


async def test_a_row_that_someone_else_moved_undoes_the_whole_transaction(
    store: Store, batch: Batch
) -> None:
    job = Turns(store, await batch.submit(a_task(instances=2)))
    first, second = await job.turn(slots=2)
    before = await events_of(store, job.job_id)

    def learn_of_a_row_that_moves(tx: Tx) -> None:
        changes = open_job(tx, job.job_id, now=job.now, new_id=ids.new_id)
        assert changes is not None
        Progress(changes).learn([job.ended(first), job.ended(second)])
        tx.execute(update(task_instance).where(task_instance.c.number == 1).values(state="FAILED"))
        changes.close()

    with pytest.raises(Conflict):
        await store.write(learn_of_a_row_that_moves)
    assert await events_of(store, job.job_id) == before
    await check_rows(store, job.job_id)


async def test_reports_that_come_twice_or_too_late_change_nothing(
    store: Store, batch: Batch
) -> None:
    job = Turns(store, await batch.submit(a_task(MaxRetryCount=1)))
    [first] = await job.turn(slots=1)
    await job.turn(job.started(first), job.started(first))
    [second] = await job.turn(job.ended(first, 1), job.ended(first, 0), slots=1)
    before = await events_of(store, job.job_id)
    await job.turn(job.ended(first, 0), job.started(first))
    await job.turn(job.started(f"{job.job_id}.0.99.1"), job.started(f"{job.job_id}.9.0.1"))
    await job.turn(job.ended(f"{job.job_id}.0.0.3"))
    assert await events_of(store, job.job_id) == before
    await job.turn(job.ended(second))
    after = await events_of(store, job.job_id)
    await job.turn(job.ended(second, 1), job.started(second), job.ended(first, 1), slots=9)
    assert await events_of(store, job.job_id) == after
    assert await batch.state(job.job_id) == "SUCCEED"
    await check_rows(store, job.job_id)


async def test_many_doomed_instances_fail_in_several_transactions(
    store: Store, batch: Batch
) -> None:
    job = Turns(store, await batch.submit(a_task("a"), a_task("b", 5_000), after=["a b"]))
    [placed] = await job.turn(slots=1)
    await job.turn(job.ended(placed, 1))
    left, turns = 5_000 - FAILED_AT_ONCE_MAX, 1
    while job.unfinished:
        answer = await batch.call("DescribeTask", JobId=job.job_id, TaskName="b", Limit=0)
        assert answer["TaskInstanceMetrics"]["PendingCount"] == max(0, left)
        await job.turn()
        left, turns = left - FAILED_AT_ONCE_MAX, turns + 1
    assert turns == 3
    assert await batch.state(job.job_id) == "FAILED"
    events = await events_of(store, job.job_id)
    assert events.count("TASK_INSTANCE_FAILED") == 5_001
    assert events.count("JOB_FAILED") == 1
    await check_rows(store, job.job_id)


@pytest.mark.parametrize("attempt", range(3))
async def test_of_two_last_instances_that_end_at_once_one_finishes_the_job(
    store: Store, batch: Batch, attempt: int
) -> None:
    job = Turns(store, await batch.submit(a_task(instances=2)))
    placed = await job.turn(slots=2)
    async with anyio.create_task_group() as tasks:
        for each in placed:
            tasks.start_soon(job.turn, job.ended(each))
    assert await batch.state(job.job_id) == "SUCCEED"
    events = await events_of(store, job.job_id)
    for name, count in [("JOB_SUCCEED", 1), ("TASK_SUCCEED", 1), ("TASK_INSTANCE_SUCCEED", 2)]:
        assert events.count(name) == count
    assert events[-1] == "JOB_SUCCEED"


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_the_counters_are_true_and_the_job_ends(
    store: Store, batch: Batch, seed: int
) -> None:
    random = Random(seed)  # noqa: S311  # nothing secret
    env_id = await make_env(store, batch, nodes=3)
    names = [f"t{number}" for number in range(5)]
    tasks = [
        a_task(
            name,
            random.randint(1, 4),
            MaxConcurrentNum=random.choice([0, 0, 2]),
            MaxRetryCount=random.randint(0, 2),
            FailedAction=random.choice(["TERMINATE", "FAST_INTERRUPT", "TERMINATE"]),
            **random.choice([{}, {"EnvId": env_id}]),
        )
        for name in names
    ]
    edges = [
        f"{a} {b}" for i, a in enumerate(names) for b in names[i + 1 :] if random.random() < 0.3
    ]
    modes = ["PRE_TASK_SUCCEED", "PRE_TASK_AT_LEAST_PARTLY_SUCCEED", "PRE_TASK_FINISHED"]
    job_id = await batch.submit(*tasks, after=edges, TaskExecutionDependOn=random.choice(modes))
    await play(store, batch, Turns(store, job_id), random)
    events = await events_of(store, job_id)
    assert events.count("JOB_RUNNING") == 1
    assert sum(events.count(f"JOB_{state}") for state in FINAL) == 1
    for kind in ("TASK", "TASK_INSTANCE"):
        ends = sum(events.count(f"{kind}_{state}") for state in FINAL)
        assert ends == (5 if kind == "TASK" else sum(task["TaskInstanceNum"] for task in tasks))
    assert events.count("COMPUTE_NODE_CREATED") == events.count("COMPUTE_NODE_DELETING")


async def play(store: Store, batch: Batch, job: Turns, random: Random) -> None:
    """Let a job run with reports out of order, repeated, lost, and perhaps a termination."""
    known: list[str] = await job.turn(slots=2)
    terminate_at = random.randint(3, 60)
    causes = [None, None, None, Cause.USER_EXIT, Cause.INFRA_LOST, Cause.OOM]
    for step in range(400):
        if step == terminate_at:
            await batch.call("TerminateJob", JobId=job.job_id)
        reports: list[Started | Ended] = []
        for each in random.sample(known, min(len(known), random.randint(0, 4))):
            cause = random.choice(causes)
            ended = job.ended(each, 1 if cause is Cause.USER_EXIT else 0, cause=cause)
            reports.append(ended if random.random() < 0.5 else job.started(each))
        reports += [job.ended(each, cause=Cause.TERMINATED) for each in job.stopping[:2]]
        known += await job.turn(*reports, slots=random.randint(0, 3))
        await check_rows(store, job.job_id)
        if await batch.state(job.job_id) in FINAL:
            return
    pytest.fail("the job never ended")


async def make_env(store: Store, batch: Batch, *, nodes: int) -> str:
    """An environment whose nodes take work, although no scheduler made them."""
    env_id = await batch.create_env(nodes)
    joined = update(compute_node).where(compute_node.c.env_id == env_id).values(state="RUNNING")
    await store.write(lambda tx: tx.execute(joined))
    return env_id
