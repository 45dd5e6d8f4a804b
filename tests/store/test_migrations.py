"""The revisions end at the tables, keep what was there, and may be run by several at once."""

import hashlib
import importlib
import json
import pkgutil
import subprocess
import sys
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

import gateway
from gateway.cam import tables
from gateway.cam.decisions.log import find_decision
from gateway.cam.decisions.proofs import verify
from gateway.cam.decisions.queries import Filter, list_chains, list_decisions
from gateway.clock import wire_time
from gateway.commands.decisions import decision_line, decision_text
from gateway.policy.record import Outcome
from gateway.store import Store, metadata, open_store
from gateway.store.migrations import HEAD, HERE, current_revision, find_revision, migrate
from tests.support.databases import connected, upgrade_to
from tests.support.decisions import NOON, decision_log, make

MIGRATED = "chain-migrated"
RELEASED = {
    "0001_cam.py": "87b08901f40b4be73d28e4e2cff74ca0bd57ae7d5feaf00a5f5bf1d49f3ba56c",
    "0002_events.py": "d3e282e22d8a0a8952c746deede5b05fa7333b5cf2db9a2fbfc95fb609e67f37",
    "0003_cmq.py": "0fbe9aff4e49775b9bf6ecfd2b837afd09bcc8c31908afb92b3ddd608f21047c",
    "0004_batch.py": "1b2d104d9387efec31e625eea0fab98aa2ef2ac4b6687a849fb1a2be1ce8a51c",
    "0005_task_templates.py": "45c2742ec7a1fa80536fcfa3e1f5dc0c4c42ce2d5461cb81a611e22d31fba2ca",
    "0006_decision_chains_and_sessions.py": (
        "e97436fbaefb383d44dab51d91f7e50ef38d53730a82211a699c0a782dda458f"
    ),
    "0007_telling.py": "966224014ab37b608412f3c0b1dd6d3a7273f10e93b4e29eb1cc52038e3e8756",
    "0008_running.py": "64fc4ac80c55361a24ac679b9771669bc32d54bf2e2824493a8978459d9eea7f",
    "0009_rebinding.py": "a53cd1254edce9f05d18249964fbf2b2ce0b191041f6d1bcf03ea8073c5aeb4a",
    "0010_event_floor.py": "f0246fb0c9090bb15f3723da2a8c68101484aafba2922786eaa588e553d97653",
}
"""What was released is never edited again: a database may stand at any of them."""

MIGRATE_WHEN_TOLD = """
import sys
from gateway.store.migrations import migrate

print("ready", flush=True)
sys.stdin.readline()
migrate(sys.argv[1])
"""


def import_every_table() -> None:
    """Import the `tables` module of every room, wherever it stands."""
    for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
        if module.name.endswith(".tables"):
            importlib.import_module(module.name)


def test_the_migrations_end_exactly_at_the_tables_of_the_rooms(database_url: str) -> None:
    import_every_table()
    migrate(database_url)
    with connected(database_url) as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []


def test_a_migrated_database_stands_at_the_newest_revision(database_url: str) -> None:
    with connected(database_url) as connection:
        assert current_revision(connection) is None
    migrate(database_url)
    migrate(database_url)
    with connected(database_url) as connection:
        assert current_revision(connection) == HEAD


def test_migrating_from_several_processes_at_once_is_safe(database_url: str) -> None:
    command = [sys.executable, "-c", MIGRATE_WHEN_TOLD, database_url]
    processes = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    with connected(database_url) as connection:
        assert current_revision(connection) == HEAD


def test_a_released_revision_stays_as_it_was_released() -> None:
    files = {path.name: path.read_bytes() for path in (HERE / "versions").glob("[0-9]*.py")}
    assert {name: hashlib.sha256(files[name]).hexdigest() for name in RELEASED} == RELEASED


def test_asking_for_the_revision_makes_no_database(database_url: str) -> None:
    assert find_revision(database_url) is None
    with connected(database_url) as connection:
        assert current_revision(connection) is None
    upgrade_to("0004", database_url)
    assert find_revision(database_url) == "0004"


def old_record(number: int) -> dict[str, Any]:
    """A record as it was before there were chains: every third call was allowed."""
    policy: dict[str, Any] = {"Policy": "readers", "Version": 2, "Statement": 1}
    is_allowed = number % 3 == 0
    miss = {"Element": "region", "Wanted": "ap-beijing", "Found": "ap-guangzhou"}
    return {
        "RequestId": f"r-{number}",
        "Time": wire_time(NOON + timedelta(seconds=number)),
        "Principal": {"OwnerUin": "1", "Uin": "2", "Name": "álice"},
        "Action": "batch:DescribeJob",
        "Region": "ap-guangzhou",
        "SourceIp": "192.0.2.7",
        "Resources": ["qcs::batch:ap-guangzhou:uin/1:job/job-00000000"],
        "Effect": "allow" if is_allowed else "deny",
        "Reason": "explicit-allow" if is_allowed else "implicit-deny",
        "Determining": [{**policy, "Pattern": "*"}] if is_allowed else [],
        "NearestMiss": None if is_allowed else {**policy, **miss},
        "Shadow": None,
        "Generation": 1,
    }


def add_old_records(url: str, count: int) -> None:
    """Records under ids that have gaps, stored in another order than that of their ids."""
    statement = text(
        "INSERT INTO cam_decision (id, request_id, owner_uin, uin, action, effect, decided_at,"
        " record) VALUES (:id, :request_id, '1', '2', 'batch:DescribeJob', :effect, 1, :record)"
    )
    records = [(number, old_record(number)) for number in range(count)]
    rows = [
        {
            "id": 3 * number + 1,
            "request_id": record["RequestId"],
            "effect": record["Effect"],
            "record": json.dumps(record, ensure_ascii=False).encode(),
        }
        for number, record in reversed(records)
    ]
    with connected(url) as connection, connection.begin():
        connection.execute(statement, rows)


async def assert_sound(store: Store, records: dict[str, int]) -> None:
    """Every chain is whole. records: how many each has, by its id."""
    reports = await store.read_list(lambda tx: list(verify(tx, kept={})))
    assert [one.findings for one in reports] == [[]] * len(records)
    assert {one.chain: one.records for one in reports} == records


@pytest.mark.anyio
@pytest.mark.parametrize(("revision", "count"), [("0001", 3), ("0004", 1_000), ("0004", 1_001)])
async def test_old_decisions_are_shown_and_proved_after_the_migration(
    database_url: str, revision: str, count: int
) -> None:
    upgrade_to(revision, database_url)
    add_old_records(database_url, count)
    migrate(database_url)
    async with open_store(database_url) as store:
        await assert_sound(store, {MIGRATED: count})
        [chain] = await store.read_list(list_chains)
        assert (chain.started_at, chain.anchor.seq, chain.head.seq) == (NOON, 0, count)
        for number in (0, count - 1):
            find = partial(find_decision, request_id=f"r-{number}")
            found = await store.read_point(find)
            assert found == old_record(number)
            assert "álice (1/2)" in decision_line(found)
            assert "readers/1" in decision_text(found)
        allowed = Filter(user="álice", effect=Outcome.ALLOW, since=NOON + timedelta(seconds=1))
        listed = await store.read_list(lambda tx: list_decisions(tx, allowed, limit=count))
        wanted = [old_record(number) for number in range(3, count, 3)]
        assert [json.loads(record) for record in listed] == wanted[::-1]


@pytest.mark.anyio
async def test_new_decisions_follow_old_ones_in_a_chain_of_their_own(database_url: str) -> None:
    upgrade_to("0004", database_url)
    add_old_records(database_url, 5)
    migrate(database_url)
    async with open_store(database_url) as store:
        log = decision_log(store)
        await log.record(make("r-5"), durably=True)
        await assert_sound(store, {MIGRATED: 5, log.chain: 1})


@pytest.mark.anyio
async def test_an_old_decision_that_is_changed_after_the_migration_is_found(
    database_url: str,
) -> None:
    upgrade_to("0004", database_url)
    add_old_records(database_url, 5)
    migrate(database_url)
    with connected(database_url) as connection, connection.begin():
        connection.execute(
            text("UPDATE cam_decision SET record = :record WHERE request_id = 'r-3'"),
            {"record": json.dumps(old_record(4)).encode()},
        )
    async with open_store(database_url) as store:
        [report] = await store.read_list(lambda tx: list(verify(tx, kept={})))
    assert not report.sound


@pytest.mark.anyio
async def test_a_database_without_decisions_gets_no_chain(database_url: str) -> None:
    upgrade_to("0004", database_url)
    migrate(database_url)
    async with open_store(database_url) as store:
        assert await store.read_list(list_chains) == []


@pytest.mark.anyio
async def test_a_database_that_was_made_between_two_releases_keeps_its_chains(
    database_url: str,
) -> None:
    upgrade_to("0005", database_url)
    with connected(database_url) as connection, connection.begin():
        connection.execute(text("DROP TABLE cam_decision"))
        metadata.create_all(connection, [tables.session, tables.decision, tables.decision_chain])
        if connection.dialect.name == "postgresql":
            connection.execute(
                text("ALTER TABLE cam_decision ALTER COLUMN reason TYPE VARCHAR(32)")
            )
    async with open_store(database_url) as store:
        log = decision_log(store)
        await log.record(make("r-1"), durably=True)
    migrate(database_url)
    async with open_store(database_url) as store:
        await assert_sound(store, {log.chain: 1})
    import_every_table()
    with connected(database_url) as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


@pytest.mark.anyio
async def test_old_events_get_their_places_by_time_and_never_against_their_own_order(
    database_url: str,
) -> None:
    upgrade_to("0006", database_url)
    happened = [("job-a", 1, 900), ("job-a", 2, 100), ("job-a", 3, 950), ("job-b", 1, 500)]
    add = text(
        "INSERT INTO event (stream_id, seq, name, subject_id, batch, happened_at)"
        " VALUES (:stream_id, :seq, 'JOB_RUNNING', :stream_id, :batch, :at)"
    )
    rows = [{"stream_id": s, "seq": seq, "batch": b"{}", "at": at} for s, seq, at in happened]
    with connected(database_url) as connection, connection.begin():
        connection.execute(add, rows)
    migrate(database_url)
    with connected(database_url) as connection:
        found = connection.execute(text("SELECT stream_id, seq FROM event ORDER BY position")).all()
    assert found == [("job-b", 1), ("job-a", 1), ("job-a", 2), ("job-a", 3)]
