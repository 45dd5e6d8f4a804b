"""Both stores pass the conformance suite; what only one of them promises stands below."""

from pathlib import Path

import anyio
import pytest
from sqlalchemy import select, text

from gateway.store import Store, StoreUnavailable, open_store
from gateway.store.postgresql import driver_url
from tests.conformance.store import StoreConformance, full_disk
from tests.support.notes import add_note, count_notes, create_tables, note
from tests.support.services import Postgresql


class TestStore(StoreConformance):
    """SQLite and PostgreSQL."""


@pytest.mark.anyio
async def test_what_was_queued_is_committed_before_the_store_closes(database_url: str) -> None:
    async with open_store(database_url) as store:
        await store.write(lambda tx: tx.execute(text("CREATE TABLE seen (n INTEGER)")))
        insert = text("INSERT INTO seen VALUES (:n)")
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(store.write, lambda tx, n=number: tx.execute(insert, {"n": n}))
    async with open_store(database_url) as store:
        count = await store.read_point(
            lambda tx: tx.execute(text("SELECT count(*) FROM seen")).scalar_one()
        )
    assert count == 50


@pytest.mark.anyio
async def test_a_closed_sqlite_store_refuses_instead_of_waiting(tmp_path: object) -> None:
    async with open_store(f"sqlite:///{tmp_path}/gateway.db") as store:
        kept: Store = store
    with anyio.fail_after(10), pytest.raises(StoreUnavailable):
        await kept.write(lambda tx: tx.execute(text("SELECT 1")))


@pytest.mark.anyio
async def test_reads_and_ping_tell_an_outage_of_postgresql(
    postgresql: Postgresql, postgresql_url: str
) -> None:
    async with open_store(postgresql_url) as store:
        await store.ping()
        postgresql.kill()
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.ping()
        postgresql.start()
        await store.ping()


@pytest.mark.anyio
@pytest.mark.parametrize("door", ["write", "read_point", "read_list"])
async def test_a_broken_file_is_an_outage_through_every_door(tmp_path: Path, door: str) -> None:
    path = tmp_path / "gateway.db"
    async with open_store(f"sqlite:///{path}") as store:
        await store.write(create_tables)
        await store.write(add_note("note-1", body="x" * 200_000))
    break_file(path)
    async with open_store(f"sqlite:///{path}") as store:
        with pytest.raises(StoreUnavailable):
            await getattr(store, door)(lambda tx: tx.execute(select(note)).all())


@pytest.mark.anyio
async def test_a_list_that_has_no_room_to_be_sorted_is_an_outage(tmp_path: Path) -> None:
    """SQLite sorts in a file what is large, and undoes the transaction if it cannot be written."""
    async with open_store(f"sqlite:///{tmp_path / 'gateway.db'}") as store:
        await store.write(create_tables)
        with full_disk(), pytest.raises(StoreUnavailable):
            await store.read_list(lambda tx: tx.execute(text(MUCH_TO_SORT)).all())
        assert await store.read_list(count_notes) == 0


MUCH_TO_SORT = """
WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 20000)
SELECT n FROM number LEFT JOIN conformance_note ON body = n ORDER BY randomblob(1000)
"""


def break_file(path: Path) -> None:
    """Overwrite all pages of a database but the first few."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 4)
        file.write(b"\xff" * (size - size // 4))


def test_the_driver_is_named_whatever_form_the_url_has() -> None:
    expected = "postgresql+psycopg://u@h/d"
    assert driver_url("postgresql://u@h/d") == expected
    assert driver_url("postgres://u@h/d") == expected
    assert driver_url(expected) == expected
