"""Two small tables and what is done with them: what the tests of a `Store` write and read."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    create_engine,
    func,
    select,
    update,
)
from sqlalchemy.schema import CreateTable

from gateway.store import Moment, Tx, matches_any
from gateway.store.postgresql import driver_url

metadata = MetaData()
note = Table(
    "conformance_note",
    metadata,
    Column("id", String, primary_key=True),
    Column("body", String),
    Column("at", Moment),
)
counter = Table(
    "conformance_counter",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("value", Integer, nullable=False),
)
COUNT_NOTES = select(func.count()).select_from(note)
LOCK_COUNTER = select(counter.c.value).where(counter.c.id == 1).with_for_update()
MOVE_COUNTER = (
    update(counter)
    .where(counter.c.id == 1, counter.c.value == bindparam("old"))
    .values(value=bindparam("new"))
)


def add_note(note_id: str, *, at: datetime | None = None, body: str = "") -> Callable[[Tx], None]:
    """A transaction that writes one note and wakes those who wait for notes."""

    def add(tx: Tx) -> None:
        tx.execute(note.insert(), {"id": note_id, "body": body, "at": at})
        tx.wake("notes")

    return add


def create_tables(tx: Tx) -> None:
    for table in metadata.sorted_tables:
        tx.execute(CreateTable(table))
    tx.execute(counter.insert(), {"id": 1, "value": 0})


def count_notes(tx: Tx) -> int:
    return int(tx.execute(COUNT_NOTES).scalar_one())


def count_from_outside(url: str) -> int:
    """Count the notes as another program would, on a connection of its own."""
    engine = create_engine(url if url.startswith("sqlite") else driver_url(url))
    try:
        with engine.connect() as connection:
            return int(connection.execute(COUNT_NOTES).scalar_one())
    finally:
        engine.dispose()


def ids_matching(tx: Tx, patterns: list[str]) -> set[str]:
    """The ids of the notes that match one of `patterns`."""
    wanted = select(note.c.id).where(matches_any(note.c.id, patterns, dialect=tx.dialect))
    return set(tx.execute(wanted).scalars())
