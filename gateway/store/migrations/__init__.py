"""The tables' history: append-only Alembic revisions, and `migrate`, which runs them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, inspect, make_url, select, text

from gateway.store.postgresql import driver_url
from gateway.store.sqlite import create_sqlite_engine
from gateway.store.tables import installation

HERE = Path(__file__).parent
HEAD = max(
    (path.stem.split("_")[0] for path in (HERE / "versions").glob("[0-9]*.py")), default=None
)
LOCK = 7_236_413  # an arbitrary number that stands for "migrating" in pg_advisory_xact_lock


def migrate(url: str) -> None:
    """Bring the database at `url` to the newest revision; safe to run twice at once."""
    sqlite, engine = _is_sqlite(url), _create_engine(url)
    try:
        with engine.connect() as connection:
            if current_revision(connection) == HEAD:
                return
            connection.rollback()
            if sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            _upgrade(connection)
            connection.exec_driver_sql("COMMIT") if sqlite else connection.commit()
    finally:
        engine.dispose()


def find_revision(url: str) -> str | None:
    """The revision of the database at `url`, which is not made; None if there is none."""
    with _reading(url) as connection:
        return None if connection is None else current_revision(connection)


def find_installation(url: str) -> str | None:
    """The name of the installation whose database this is; None if it is older, or not there."""
    with _reading(url) as connection:
        if connection is None or not inspect(connection).has_table(installation.name):
            return None
        name: str | None = connection.execute(select(installation.c.name)).scalar()
        return name


@contextmanager
def _reading(url: str) -> Iterator[Connection | None]:
    """A connection to the database at `url`, which is not made; None if it is not there."""
    if _is_sqlite(url) and not Path(make_url(url).database or "").is_file():
        yield None
        return
    engine = _create_engine(url)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def current_revision(connection: Connection) -> str | None:
    """The revision a database stands at; None for a new one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(
        text("SELECT version_num FROM alembic_version")
    ).scalar()
    return revision


def _is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


def _create_engine(url: str) -> Engine:
    return create_sqlite_engine(url) if _is_sqlite(url) else create_engine(driver_url(url))


def _upgrade(connection: Connection) -> None:
    # slow to import, and seldom needed
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(HERE).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
