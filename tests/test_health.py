"""What /readyz says: why no calls are taken, and what else is not well."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from prometheus_client import Gauge
from sqlalchemy import update

from gateway import health, telemetry
from gateway.clock import now
from gateway.cmq.push import backlog
from gateway.cmq.tables import delivery
from gateway.events import outbox
from gateway.events.tables import message
from gateway.health import Health, measure_disk
from gateway.store import Store, Tx, open_store
from tests.support.batch import eventually
from tests.support.cmq import Cmq
from tests.support.events import OWNER, REGION
from tests.support.fake_bus import FakeBus

pytestmark = pytest.mark.anyio
GAUGES = (
    telemetry.BROKER_BLOCKED,
    telemetry.BROKER_CONNECTED,
    telemetry.DISK_FREE_BYTES,
    telemetry.LEDGER_DISCREPANCIES,
    telemetry.OLDEST_MESSAGE_SECONDS,
    telemetry.OLDEST_PUSH_SECONDS,
    telemetry.POLICY_BROKEN,
)


@pytest.fixture(autouse=True)
def well() -> Iterator[None]:
    """Metrics as they are when all is well, and were before, afterwards."""
    before = {gauge: value_of(gauge) for gauge in GAUGES}
    for gauge in GAUGES:
        gauge.set(0)
    telemetry.BROKER_CONNECTED.set(1)
    telemetry.DISK_FREE_BYTES.set(1e12)
    yield
    for gauge, value in before.items():
        gauge.set(value)


def value_of(gauge: Gauge) -> float:
    [metric] = gauge.collect()
    return metric.samples[0].value


def a_health(
    store: Store, folder: Path, *, with_broker: bool = False, embedded: bool = True
) -> Health:
    made = Health(store, data=folder, embedded=embedded, with_broker=with_broker, clock=now)
    made.ready()
    return made


async def test_it_is_not_ready_before_it_has_started_and_says_so(
    store: Store, tmp_path: Path
) -> None:
    made = Health(store, data=tmp_path, embedded=True, with_broker=False, clock=now)
    assert (await made.readiness()).problems == ["starting"]


async def test_nothing_is_wrong_when_all_is_well(store: Store, tmp_path: Path) -> None:
    found = await a_health(store, tmp_path).readiness()
    assert (found.problems, found.degraded) == ([], [])


async def test_a_database_that_is_away_is_a_reason_to_take_no_calls(
    migrated_url: str, tmp_path: Path
) -> None:
    if migrated_url.startswith("postgresql"):
        migrated_url = "postgresql://nobody@127.0.0.1:1/none"
    async with open_store(migrated_url) as store:
        away = a_health(store, tmp_path)
    found = await away.readiness()
    assert [problem.split(":")[0] for problem in found.problems] == ["the database does not answer"]


@pytest.mark.parametrize(
    ("gauge", "value", "words"),
    [
        (telemetry.BROKER_CONNECTED, 0, "no line to the broker"),
        (telemetry.BROKER_BLOCKED, 1, "short of memory or disk"),
        (telemetry.LEDGER_DISCREPANCIES, 3, "3 discrepancies"),
        (telemetry.OLDEST_MESSAGE_SECONDS, 61, "waits to be sent for 61 s"),
        (telemetry.OLDEST_PUSH_SECONDS, 61, "waits to be pushed for 61 s"),
        (telemetry.POLICY_BROKEN, 1, "the policies on disk are refused"),
        (telemetry.DISK_FREE_BYTES, 1_000, "only 1000 bytes left"),
    ],
)
async def test_what_is_only_worse_is_said_and_calls_are_taken(
    store: Store, tmp_path: Path, gauge: Gauge, value: float, words: str
) -> None:
    gauge.set(value)
    found = await a_health(store, tmp_path, with_broker=True).readiness()
    assert found.problems == []
    [line] = found.degraded
    assert words in line


async def test_nobody_misses_a_broker_that_was_never_configured(
    store: Store, tmp_path: Path
) -> None:
    telemetry.BROKER_CONNECTED.set(0)
    assert (await a_health(store, tmp_path).readiness()).degraded == []


@pytest.mark.parametrize("embedded", [True, False])
async def test_a_folder_that_takes_nothing_refuses_calls_if_the_database_is_in_it(
    store: Store, tmp_path: Path, embedded: bool
) -> None:
    folder = tmp_path / "gone"
    watched = a_health(store, folder, embedded=embedded)
    async with anyio.create_task_group() as tasks:
        await tasks.start(watched.run)
        found = await watched.readiness()
        tasks.cancel_scope.cancel()
    said, silent = (
        (found.problems, found.degraded) if embedded else (found.degraded, found.problems)
    )
    assert said[0].startswith("nothing can be stored in ")
    assert not any("stored" in line for line in silent)
    assert value_of(telemetry.DISK_FREE_BYTES) == 0


def test_trying_the_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    full, free = measure_disk(tmp_path)
    assert full == ""
    assert free > 0
    assert list(tmp_path.iterdir()) == []


async def test_the_metrics_say_how_long_the_oldest_messages_have_waited(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LOOK_EVERY_S", 0.01)
    cmq = Cmq(store, FakeBus())
    cmq.now = now() - timedelta(seconds=500)
    await cmq.subscribe_queue()
    await cmq.call("PublishCmqMsg", TopicName="job-message", MsgContent="old")
    await cmq.expand()
    cmq.now = now() - timedelta(seconds=100)
    await cmq.call("PublishCmqMsg", TopicName="job-message", MsgContent="newer")
    await cmq.expand()
    watched = a_health(store, tmp_path, with_broker=True)

    async def until(gauge: Gauge, least: int, most: int) -> None:
        async def arrived() -> bool:
            return least <= value_of(gauge) <= most

        await eventually(arrived)

    async with anyio.create_task_group() as tasks:
        await tasks.start(watched.run)
        await until(telemetry.OLDEST_MESSAGE_SECONDS, 500, 600)
        assert await lines_of(watched) == [f"to be sent for N s: {OWNER}/{REGION}/job-message"]
        await store.write(lambda tx: tx.execute(update(delivery).values(state="waiting")))
        await until(telemetry.OLDEST_PUSH_SECONDS, 500, 600)
        line = f"to be pushed for N s: {OWNER}/{REGION}/job-message/s1"
        assert line in await lines_of(watched)
        await store.write(_send_the_first)
        await until(telemetry.OLDEST_MESSAGE_SECONDS, 100, 200)
        await store.write(lambda tx: tx.execute(update(message).values(sent_at=now())))
        await until(telemetry.OLDEST_MESSAGE_SECONDS, 0, 0)
        tasks.cancel_scope.cancel()


async def lines_of(watched: Health) -> list[str]:
    """What is said of messages that wait, without numbers."""
    found = await watched.readiness()
    lines = [re.sub(r"\d+ s\b", "N s", line) for line in found.degraded]
    return [line.partition("a message waits ")[2] for line in lines]


async def test_those_who_wait_the_longest_are_named_and_no_more_than_three(store: Store) -> None:
    cmq = Cmq(store, FakeBus())
    for number in (5, 3, 4, 1, 2):
        await cmq.call("CreateCmqTopic", TopicName=f"t{number}")
        name = {"TopicName": f"t{number}", "SubscriptionName": "s"}
        to = {"Protocol": "http", "Endpoint": "http://example.com/"}
        await cmq.call("CreateCmqSubscribe", **name, **to)
    for number in (2, 3, 1, 4, 5, 2, 2):
        await cmq.call("PublishCmqMsg", TopicName=f"t{number}", MsgContent="m")
        await cmq.expand()
    place = f"{OWNER}/{REGION}"
    topics = await store.read_list(lambda tx: outbox.list_longest_unsent(tx, limit=3))
    assert topics == [f"{place}/t2", f"{place}/t3", f"{place}/t1"]
    waiting = await store.read_list(lambda tx: backlog.list_longest_waiting(tx, limit=3))
    assert waiting == [f"{place}/t2/s", f"{place}/t3/s", f"{place}/t1/s"]


def _send_the_first(tx: Tx) -> None:
    tx.execute(update(message).where(message.c.position == 1).values(sent_at=now()))
