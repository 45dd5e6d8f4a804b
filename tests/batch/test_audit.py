"""The audit finds nothing where the code did its work, and whatever is changed behind its back."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

from gateway.batch.auditing.auditor import AuditResult, audit_everything, audit_one
from gateway.batch.auditing.fold import COURSES, KEPT_MAX, NOTHING, Flaw
from gateway.batch.auditing.streams import PAGE, StreamAudit
from gateway.batch.engines import Cause, Ended, Started
from gateway.batch.states import EVENTS, Kind, NodeState, State
from gateway.batch.tables import compute_env, compute_node, job, task, task_instance
from gateway.cmq import completeness, subscribers
from gateway.cmq.tables import dead_letter, delivery, subscription
from gateway.events import inspection, retention
from gateway.events.names import BATCH_EVENTS, EventName, Subject
from gateway.events.tables import event, event_stream, message
from gateway.store import Store, Tx
from tests.support.batch import KEEPS, START, Batch, Turns, a_task
from tests.support.cmq import Cmq

pytestmark = pytest.mark.anyio
CONFIGS = [{"EventName": name.value} for name in BATCH_EVENTS]
ASKED = [
    {"TopicName": "job-message", "EventConfigs": CONFIGS},
    {
        "TopicName": "other",
        "EventConfigs": [
            {"EventName": "JOB_RUNNING", "EventVars": [{"Name": "a", "Value": "b"}]},
            {"EventName": "JOB_SUCCEED"},
        ],
    },
]


@pytest.fixture
async def cmq(store: Store) -> Cmq:
    """A queue that is subscribed to the topic since long ago."""
    cmq = Cmq(store, None)
    await cmq.subscribe_queue()
    cmq.pass_time(hours=1)
    return cmq


async def audited(store: Store) -> AuditResult:
    return await audit_everything(store, deliveries=completeness)


async def flaws(store: Store) -> set[Flaw]:
    return {each.flaw for each in (await audited(store)).found.first}


async def make_env(store: Store, batch: Batch, *, nodes: int) -> str:
    env_id = await batch.create_env(nodes, Notifications=ASKED)
    await batch.tend()
    return env_id


async def a_finished_job(store: Store, batch: Batch, cmq: Cmq, **members: Any) -> str:
    job_id = await batch.submit(a_task("a", 2), Notifications=ASKED, **members)
    await Turns(store, job_id).run()
    await cmq.expand()
    return job_id


# What the table says -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Kind)
def test_a_state_with_an_event_has_it_as_its_last_and_no_other(kind: Kind) -> None:
    ends = COURSES[Subject[kind.name]].ends
    for state in State:
        if name := EVENTS.get((kind, state)):
            assert {last for end, last in ends if end is state} == {name}


def test_only_an_instance_can_wait_again_after_it_ran() -> None:
    def can_wait_after_running(subject: Subject, name: EventName) -> bool:
        return (State.RUNNABLE, name) in COURSES[subject].ends

    assert can_wait_after_running(Subject.INSTANCE, EventName.TASK_INSTANCE_RUNNING)
    assert not can_wait_after_running(Subject.TASK, EventName.TASK_RUNNING)
    assert not can_wait_after_running(Subject.JOB, EventName.JOB_RUNNING)


# What the code did ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_the_ledger_agrees_with_the_states_after_every_transaction(
    store: Store, batch: Batch, cmq: Cmq, seed: int
) -> None:
    random = Random(seed)  # noqa: S311  # nothing secret
    env_id = await make_env(store, batch, nodes=2)
    names = ["a", "b", "c", "d"]
    tasks = [
        a_task(
            name,
            random.randint(1, 4),
            MaxRetryCount=random.randint(0, 2),
            FailedAction=random.choice(["TERMINATE", "INTERRUPT"]),
            **random.choice([{}, {"EnvId": env_id}]),
        )
        for name in names
    ]
    edges = [f"{a} {b}" for a, b in pairwise(names) if random.random() < 0.6]
    job_id = await batch.submit(*tasks, after=edges, Notifications=ASKED)
    turns = Turns(store, job_id)
    known: list[str] = []
    for step in range(60):
        if step == 45:
            await batch.call("TerminateJob", JobId=job_id)
        known += await turns.turn(*reports(turns, known, random), slots=random.randint(0, 3))
        if random.random() < 0.5:
            await cmq.expand()
        for stream_id in (job_id, env_id):
            assert (await audit_one(store, stream_id, deliveries=completeness)).found == NOTHING
    done = await audited(store)
    assert (done.found, done.streams) == (NOTHING, 2)
    assert done.events > 10
    assert done.messages > done.events


def reports(turns: Turns, known: list[str], random: Random) -> list[Started | Ended]:
    """What an engine may say: of some attempts, again, too late, in any order."""
    said: list[Started | Ended] = [
        turns.ended(each, cause=Cause.TERMINATED) for each in turns.stopping
    ]
    for each in random.sample(known, min(len(known), random.randint(0, 3))):
        cause = random.choice([None, None, Cause.USER_EXIT, Cause.INFRA_LOST])
        ended = turns.ended(each, 1 if cause is Cause.USER_EXIT else 0, cause=cause)
        said.append(ended if random.random() < 0.6 else turns.started(each))
    return said


async def test_a_deleted_job_and_a_deleted_environment_leave_nothing_to_complain_of(
    store: Store, batch: Batch, cmq: Cmq
) -> None:
    job_id = await a_finished_job(store, batch, cmq)
    env_id = await make_env(store, batch, nodes=1)
    answer = await batch.call("DescribeComputeEnv", EnvId=env_id)
    node_ids = [each["ComputeNodeId"] for each in answer["ComputeNodeSet"]]
    await batch.call("TerminateComputeNodes", EnvId=env_id, ComputeNodeIds=node_ids)
    assert await flaws(store) == set()
    await batch.call("DeleteComputeEnv", EnvId=env_id)
    await batch.call("DeleteJob", JobId=job_id)
    done = await audited(store)
    assert (done.streams, done.found) == (2, NOTHING)


async def test_a_job_that_is_deleted_with_a_part_that_is_not_over_is_found(
    store: Store, batch: Batch
) -> None:
    job_id = await batch.submit(a_task("a", 2))
    await Turns(store, job_id).turn(slots=2)
    await store.write(lambda tx: tx.execute(delete(job).where(job.c.id == job_id)))
    assert await flaws(store) == {Flaw.STATE}


async def test_a_large_job_is_audited_in_pages_that_see_the_ledger_of_their_moment(
    store: Store, batch: Batch
) -> None:
    job_id = await batch.submit(a_task("a", PAGE + 50), a_task("b", PAGE), after=["a b"])
    turns = Turns(store, job_id)
    placed = await turns.turn(slots=10)
    audit = StreamAudit(job_id, deliveries=completeness)
    steps = 0
    while not audit.done:
        await store.read_list(audit.step)
        steps += 1
        if placed:  # the job goes on between one page and the next
            placed = await turns.turn(*map(turns.ended, placed), slots=200)
    assert audit.found == NOTHING
    assert steps > 5
    assert audit.events > 2 * PAGE


async def test_a_subscription_that_is_paused_and_deleted_is_no_matter(
    store: Store, cmq: Cmq
) -> None:
    def tell(tx: Tx) -> None:
        tx.execute(insert(event_stream).values(id="subsc-1", owner_uin="1", region="r", seq=1))
        tx.execute(
            insert(event).values(
                stream_id="subsc-1",
                seq=1,
                name="SUBSCRIPTION_PAUSED",
                subject_id="subsc-1",
                batch=b'{"TopicName":"t"}',
                happened_at=START,
            )
        )

    await store.write(tell)
    assert await flaws(store) == set()


# What somebody else did ----------------------------------------------------------------------


def _drop(number: int) -> Callable[[Tx, str], Any]:
    return lambda tx, job_id: tx.execute(
        delete(event).where(event.c.stream_id == job_id, event.c.seq == number)
    )


def _swap(one: int, two: int) -> Callable[[Tx, str], Any]:
    def swap(tx: Tx, job_id: str) -> None:
        for old, new in ((one, -1), (two, one), (-1, two)):
            tx.execute(
                update(event).where(event.c.stream_id == job_id, event.c.seq == old).values(seq=new)
            )

    return swap


def _set(table: Any, **values: Any) -> Callable[[Tx, str], Any]:
    column = table.c.job_id if "job_id" in table.c else table.c.id
    return lambda tx, job_id: tx.execute(update(table).where(column == job_id).values(**values))


def _in_messages(**values: Any) -> Callable[[Tx, str], Any]:
    return lambda tx, job_id: tx.execute(
        update(message)
        .where(message.c.stream_id == job_id, message.c.seq == 3, message.c.id.endswith("-0"))
        .values(**values)
    )


def _drop_message(tx: Tx, job_id: str) -> None:
    tx.execute(delete(message).where(message.c.id == f"{job_id}-4-0"))


def _drop_delivery(tx: Tx, job_id: str) -> None:
    position = select(message.c.position).where(message.c.id == f"{job_id}-4-0").scalar_subquery()
    tx.execute(delete(delivery).where(delivery.c.position == position))


def _add_message(tx: Tx, job_id: str) -> None:
    row = dict(tx.execute(select(message).where(message.c.id == f"{job_id}-4-0")).mappings().one())
    del row["position"]
    tx.execute(insert(message).values({**row, "id": f"{job_id}-4-7"}))


MUTATIONS: dict[str, tuple[Callable[[Tx, str], Any], set[Flaw]]] = {
    "the first event goes": (_drop(1), {Flaw.GAP, Flaw.ORDER, Flaw.MESSAGE_UNASKED}),
    "an event in the middle goes": (_drop(5), {Flaw.GAP}),
    "the last event goes": (_drop(14), {Flaw.GAP, Flaw.STATE}),
    "an event and the next change places": (_swap(5, 6), {Flaw.MESSAGE_ALTERED}),
    "the first and the last change places": (_swap(1, 14), {Flaw.ORDER, Flaw.STATE}),
    "a job is set back": (_set(job, state="RUNNING"), {Flaw.STATE}),
    "a job is set to what it never was": (_set(job, state="PENDING"), {Flaw.STATE}),
    "a task is set back": (_set(task, state="RUNNABLE"), {Flaw.STATE}),
    "an instance fails in silence": (_set(task_instance, state="FAILED"), {Flaw.STATE}),
    "an instance starts in silence": (_set(task_instance, state="STARTING"), {Flaw.STATE}),
    "the instances go": (
        lambda tx, job_id: tx.execute(delete(task).where(task.c.job_id == job_id)),
        {Flaw.STRANGER},
    ),
    "the count of events is wrong": (_set(event_stream, seq=99), {Flaw.GAP}),
    "an event says another state": (
        lambda tx, job_id: tx.execute(
            update(event)
            .where(event.c.stream_id == job_id, event.c.name == "JOB_SUCCEED")
            .values(batch=b'{"JobId":"' + job_id.encode() + b'","JobState":"FAILED"}')
        ),
        {Flaw.GARBLED, Flaw.STATE, Flaw.MESSAGE_ALTERED},
    ),
    "an event is no JSON": (
        lambda tx, job_id: tx.execute(
            update(event)
            .where(event.c.stream_id == job_id, event.c.name == "JOB_SUCCEED")
            .values(batch=b"{")
        ),
        {Flaw.GARBLED, Flaw.STATE, Flaw.MESSAGE_ALTERED},
    ),
    "a message goes": (_drop_message, {Flaw.MESSAGE_MISSING}),
    "a message nobody asked for": (_add_message, {Flaw.MESSAGE_UNASKED, Flaw.DELIVERY_MISSING}),
    "a message has other bytes": (_in_messages(body=b"e30="), {Flaw.MESSAGE_ALTERED}),
    "a message is to another topic": (
        _in_messages(topic_key="1/r/elsewhere"),
        {Flaw.MESSAGE_ALTERED},
    ),
    "a message has another key": (_in_messages(routing_key="a.b"), {Flaw.MESSAGE_ALTERED}),
    "a delivery goes": (_drop_delivery, {Flaw.DELIVERY_MISSING}),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_what_is_changed_behind_its_back_is_found(
    store: Store, batch: Batch, cmq: Cmq, mutation: str
) -> None:
    job_id = await a_finished_job(store, batch, cmq)
    assert await flaws(store) == set()
    mutate, expected = MUTATIONS[mutation]
    await store.write(lambda tx: mutate(tx, job_id))
    done = await audited(store)
    assert {each.flaw for each in done.found.first} >= expected
    assert {each.stream_id for each in done.found.first} == {job_id}


async def test_a_node_that_is_there_in_silence_or_gone_in_silence_is_found(
    store: Store, batch: Batch
) -> None:
    env_id = await make_env(store, batch, nodes=2)
    assert await flaws(store) == set()
    for change in (
        update(compute_node).values(state=NodeState.ABNORMAL.value),
        update(compute_node).values(state=NodeState.RUNNING.value),
        delete(compute_node),
    ):
        await store.write(partial(Tx.execute, statement=change))
        found = await audit_one(store, env_id, deliveries=completeness)
        wrong = "RUNNING" not in str(change.compile().params)
        assert {each.flaw for each in found.found.first} == ({Flaw.STATE} if wrong else set())
    await store.write(lambda tx: tx.execute(delete(compute_env)))
    assert await flaws(store) == {Flaw.STATE}


async def test_an_elastic_node_that_nobody_holds_is_found(store: Store, batch: Batch) -> None:
    job_id = await batch.submit(a_task("a", **KEEPS))
    turns = Turns(store, job_id)
    [placed] = await turns.turn(slots=1)
    await turns.turn(turns.ended(placed, 1))
    assert await flaws(store) == set()
    await store.write(lambda tx: tx.execute(update(task_instance).values(node_id="node-elsewhere")))
    found = (await audited(store)).found
    assert found.count == 2, found
    assert {each.flaw for each in found.first} == {Flaw.STATE}


async def test_a_job_that_went_on_without_any_event_is_found(store: Store, batch: Batch) -> None:
    job_id = await batch.submit(a_task("a"))
    assert await flaws(store) == set()
    await store.write(_set_state_of(job_id))
    assert await flaws(store) == {Flaw.STATE}


def _set_state_of(job_id: str) -> Callable[[Tx], Any]:
    return lambda tx: tx.execute(update(job).where(job.c.id == job_id).values(state="RUNNING"))


# Retention, dead letters, replays --------------------------------------------------------------


async def take_old(store: Store, stream_id: str, *, upto: int) -> None:
    """Have a job or environment be old, and retention take its events up to a number."""
    old = START - timedelta(days=40)

    def age(tx: Tx) -> None:
        for table in (job, compute_env):
            tx.execute(update(table).where(table.c.id == stream_id).values(created_at=old))
        for table, at in ((event, "happened_at"), (message, "created_at")):
            begun = (table.c.stream_id == stream_id, table.c.seq <= upto)
            tx.execute(update(table).where(*begun).values({at: old}))

    await store.write(age)
    before = START - timedelta(days=30)
    done = await retention.prune(store, subscribers=subscribers, before=before)
    assert done.events == upto


async def test_what_retention_took_is_not_missed_and_what_went_behind_it_is(
    store: Store, batch: Batch, cmq: Cmq
) -> None:
    job_id = await a_finished_job(store, batch, cmq)
    await take_old(store, job_id, upto=6)
    assert await flaws(store) == set()
    of_event_10 = delete(message).where(message.c.stream_id == job_id, message.c.seq == 10)
    await store.write(lambda tx: tx.execute(of_event_10))
    assert await flaws(store) == {Flaw.MESSAGE_MISSING}
    await store.write(lambda tx: _drop(9)(tx, job_id))
    assert await flaws(store) >= {Flaw.GAP, Flaw.MESSAGE_MISSING}


async def test_what_retention_took_whole_is_not_missed_and_what_is_younger_is(
    store: Store, batch: Batch, cmq: Cmq
) -> None:
    env_id = await make_env(store, batch, nodes=1)
    job_id = await a_finished_job(store, batch, cmq)
    young_id = await a_finished_job(store, batch, cmq)
    for stream_id in (env_id, job_id):
        counted = await store.read_point(partial(inspection.find_stream, stream_id=stream_id))
        assert counted is not None
        await take_old(store, stream_id, upto=counted.seq)
    assert await flaws(store) == set()
    await store.write(lambda tx: tx.execute(delete(event).where(event.c.stream_id == young_id)))
    found = (await audited(store)).found
    assert {each.flaw for each in found.first} >= {Flaw.GAP, Flaw.STATE}
    assert {each.stream_id for each in found.first} == {young_id}


async def test_where_retention_took_nothing_the_oldest_is_missed(
    store: Store, batch: Batch, cmq: Cmq
) -> None:
    job_id = await a_finished_job(store, batch, cmq)
    old = START - timedelta(days=4_000)
    await store.write(lambda tx: tx.execute(update(job).values(created_at=old)))
    assert await flaws(store) == set()
    await store.write(lambda tx: _drop(1)(tx, job_id))
    assert await flaws(store) >= {Flaw.GAP}


async def test_what_retention_takes_during_an_audit_is_not_missed(
    store: Store, batch: Batch, cmq: Cmq
) -> None:
    job_id = await batch.submit(a_task("a", PAGE))
    await Turns(store, job_id).run()
    await a_finished_job(store, batch, cmq)
    audit = StreamAudit(job_id, deliveries=completeness)
    await store.read_list(audit.step)
    assert audit.events == PAGE
    await take_old(store, job_id, upto=PAGE + 100)
    while not audit.done:
        await store.read_list(audit.step)
    assert audit.found == NOTHING
    left = await store.read_list(
        lambda tx: inspection.list_events(tx, job_id, after=0, limit=10 * PAGE)
    )
    assert audit.events == len(left) > PAGE


async def test_a_dead_letter_is_no_missing_delivery(store: Store, batch: Batch, cmq: Cmq) -> None:
    job_id = await a_finished_job(store, batch, cmq)
    await store.write(lambda tx: _drop_delivery(tx, job_id))
    assert await flaws(store) == {Flaw.DELIVERY_MISSING}

    def bury(tx: Tx) -> None:
        row: dict[str, Any] = {"message_id": f"{job_id}-4-0", "topic_key": "t", "attempts": 1}
        row["subscription_id"] = tx.execute(select(subscription.c.id)).scalar_one()
        row |= {"subscription_name": "s1", "endpoint": "e", "routing_key": "k", "tags": "[]"}
        row |= {"body": b"", "created_at": START, "why": "", "died_at": START}
        tx.execute(insert(dead_letter).values(row))

    await store.write(bury)
    assert await flaws(store) == set()


async def test_a_subscription_made_or_changed_later_is_owed_nothing_from_before(
    store: Store, batch: Batch, cmq: Cmq
) -> None:
    job_id = await a_finished_job(store, batch, cmq)
    await store.write(lambda tx: _drop_delivery(tx, job_id))
    later = cmq.now + timedelta(seconds=1)
    await store.write(lambda tx: tx.execute(update(subscription).values(modified_at=later)))
    assert await flaws(store) == set()


async def test_a_message_that_a_user_published_must_be_delivered_too(
    store: Store, cmq: Cmq
) -> None:
    await cmq.call("PublishCmqMsg", TopicName="job-message", MsgContent="hello")
    await cmq.expand()
    assert await flaws(store) == set()
    await store.write(lambda tx: tx.execute(delete(delivery)))
    done = await audited(store)
    assert [(each.stream_id, each.flaw) for each in done.found.first] == [
        ("", Flaw.DELIVERY_MISSING)
    ]


async def test_what_retention_has_deleted_of_what_was_published_costs_no_look(
    store: Store, cmq: Cmq
) -> None:
    await cmq.call("PublishCmqMsg", TopicName="job-message", MsgContent="hello")
    await cmq.expand()
    far = 50_000_000
    await store.write(lambda tx: tx.execute(update(message).values(position=far)))
    found, reached = await store.read_list(
        lambda tx: inspection.list_published(tx, after=0, limit=1)
    )
    assert ([each.position for each in found], reached) == ([far], far)
    assert (await audited(store)).messages == 1


async def test_of_more_flaws_than_anybody_reads_the_first_are_kept_and_all_are_counted(
    store: Store, cmq: Cmq
) -> None:
    for number in range(KEPT_MAX + 5):
        await cmq.call("PublishCmqMsg", TopicName="job-message", MsgContent=str(number))
    await cmq.expand()
    await store.write(lambda tx: tx.execute(delete(delivery)))
    found = (await audited(store)).found
    assert (len(found.first), found.count) == (KEPT_MAX, KEPT_MAX + 5)
