"""What every test may ask for: an event loop, a database, a broker.

The servers are started when the first test asks for one, and stopped with the run.
"""

import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import settings

from gateway.store import Store, open_store
from gateway.store.migrations import migrate

pytest_plugins = ["tests.support.running", "tests.support.services"]

# Why: a landing must not fail by the luck of its draw, so CI always judges the same examples;
# developers draw new ones at every run, and hypothesis remembers what failed.
settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")

pytest.register_assert_rewrite("tests.conformance", "tests.support")

SERVERS = {
    "rabbitmq": "rabbitmq",
    "postgresql": "postgresql",
    "postgresql_url": "postgresql",
    "migrated_postgresql_url": "postgresql",
}
DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgresql"))]
LONGEST = (
    "test_model_agreement.py",
    "test_differential.py",
    "test_app.py",
    "test_crash.py",
    "test_attributes.py",
    "test_decision_verbs.py",
    "test_readme.py",
)
"""Files that run first, the longest at the head: else one worker ends long after the others."""


def pytest_configure() -> None:
    """Let a run that is told to end stop its servers, and print our logs plainly."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, plain])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; mark what needs a server: `-m "not needs"` runs the rest."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in SERVERS:
                item.add_marker(pytest.mark.needs(SERVERS[fixture]))


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The loop the gateway runs on. It outlives a test, so that fixtures may, too."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'gateway.db'}"
    url: str = request.getfixturevalue("postgresql_url")
    return url


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database with every room's tables, to be copied: migrating takes longer."""
    path = tmp_path_factory.mktemp("migrated") / "gateway.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(params=DATABASES)
def migrated_url(request: pytest.FixtureRequest, migrated_file: Path, tmp_path: Path) -> str:
    """A new database of each kind, with every room's tables."""
    if request.param == "sqlite":
        return f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'gateway.db')}"
    url: str = request.getfixturevalue("migrated_postgresql_url")
    return url


@pytest.fixture
async def store(migrated_url: str) -> AsyncIterator[Store]:
    """A store on a new database with every room's tables, of each kind."""
    async with open_store(migrated_url) as opened:
        yield opened
