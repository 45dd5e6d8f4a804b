"""The CMQ service on an empty database, without and with a broker."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from gateway.store import Store
from tests.conftest import DATABASES
from tests.support.cmq import Cmq
from tests.support.fake_bus import FakeBus
from tests.support.services import Postgresql

KEPT = "kept_for_cmq"
EMPTY = """
DO $$
DECLARE
    name text;
    is_used boolean;
BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        IF name <> 'alembic_version' THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM %I)', name) INTO is_used;
            IF is_used THEN EXECUTE format('DELETE FROM %I', name); END IF;
        END IF;
    END LOOP;
    PERFORM setval(format('%I', sequencename)::regclass, 1, false)
    FROM pg_sequences WHERE last_value IS NOT NULL;
END $$
"""
"""Empty what a test has filled, and count from one again. Foreign keys are not looked at."""


@pytest.fixture(scope="session")
def kept_database(migrated_template: str, postgresql_server: Postgresql) -> str:
    """The name of a database that each test leaves empty: making one takes longer than most."""
    postgresql_server.execute(f"CREATE DATABASE {KEPT} TEMPLATE {migrated_template}")
    return KEPT


@pytest.fixture
def emptied_postgresql_url(kept_database: str, postgresql: Postgresql) -> Iterator[str]:
    """An empty PostgreSQL database with every room's tables."""
    url = postgresql.url_of(kept_database)
    yield url
    postgresql.start()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(EMPTY)


@pytest.fixture(params=DATABASES)
def migrated_url(request: pytest.FixtureRequest, migrated_file: Path, tmp_path: Path) -> str:
    """An empty database of each kind, with every room's tables."""
    if request.param == "sqlite":
        return f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'gateway.db')}"
    url: str = request.getfixturevalue("emptied_postgresql_url")
    return url


@pytest.fixture
def cmq(store: Store) -> Cmq:
    """Without a broker."""
    return Cmq(store, None)


@pytest.fixture
def brokered(store: Store) -> Cmq:
    """With a broker, in memory."""
    return Cmq(store, FakeBus())
