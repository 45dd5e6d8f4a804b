"""The tables' history: append-only Alembic revisions, and `migrate`, which runs them."""

from pathlib import Path

from sqlalchemy import Connection, create_engine, inspect, text

from gateway.store.postgresql import driver_url
from gateway.store.sqlite import create_sqlite_engine

HERE = Path(__file__).parent
HEAD = max(
    (path.stem.split("_")[0] for path in (HERE / "versions").glob("[0-9]*.py")), default=None
)
LOCK = 7_236_413  # an arbitrary number that stands for "migrating" in pg_advisory_xact_lock


def migrate(url: str) -> None:
    """Bring the database at `url` to the newest revision; safe to run twice at once."""
    sqlite = url.startswith("sqlite")
    engine = create_sqlite_engine(url) if sqlite else create_engine(driver_url(url))
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


def current_revision(connection: Connection) -> str | None:
    """The revision a database stands at; None for a new one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(
        text("SELECT version_num FROM alembic_version")
    ).scalar()
    return revision


def _upgrade(connection: Connection) -> None:
    # slow to import, and seldom needed
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(HERE).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
