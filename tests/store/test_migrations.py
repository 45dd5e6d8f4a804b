"""The revisions end exactly at the tables, and may be run by several at once."""

import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine

import gateway
from gateway.store import metadata
from gateway.store.migrations import HEAD, current_revision, migrate
from gateway.store.postgresql import driver_url

MIGRATE_WHEN_TOLD = """
import sys
from gateway.store.migrations import migrate

print("ready", flush=True)
sys.stdin.readline()
migrate(sys.argv[1])
"""


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    engine = create_engine(url if url.startswith("sqlite") else driver_url(url))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


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
