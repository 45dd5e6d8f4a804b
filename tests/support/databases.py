"""Databases as an older version of the gateway left them."""

from collections.abc import Iterator
from contextlib import contextmanager

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine

from gateway.store.migrations import HERE
from gateway.store.postgresql import driver_url


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    engine = create_engine(url if url.startswith("sqlite") else driver_url(url))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def upgrade_to(revision: str, url: str) -> None:
    """Bring a database to a revision that is not the newest."""
    config = Config()
    config.set_main_option("script_location", str(HERE))
    with connected(url) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
