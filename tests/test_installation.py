"""A data folder belongs to one database, and no crash locks anybody out of it."""

import os
import shutil
import stat
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.commands.diagnosis import look_at_database
from gateway.commands.findings import Verdict
from gateway.config import Settings, SettingsError
from gateway.installation import FILE, claim_folder
from gateway.store.migrations import find_installation, migrate
from tests.support.databases import connected, upgrade_to


@pytest.fixture
def settings(tmp_path: Path, migrated_url: str) -> Settings:
    """Of a folder that belongs to no database, and a database of this version's revision."""
    data = tmp_path / "var"
    data.mkdir()
    return Settings(data=data, database_url=migrated_url)


def name_of(settings: Settings) -> str:
    name = find_installation(settings.resolved_database_url)
    assert name
    return name


def kept(settings: Settings) -> str:
    return (settings.data / FILE).read_text(encoding="ascii")


def test_a_folder_gets_the_name_that_the_database_got_when_it_was_migrated(
    settings: Settings,
) -> None:
    claim_folder(settings)
    claim_folder(settings)
    assert kept(settings) == f"{name_of(settings)}\n"
    assert stat.S_IMODE((settings.data / FILE).stat().st_mode) == 0o600
    assert os.listdir(settings.data) == [FILE]


def test_a_database_of_an_older_version_gets_a_name_of_its_own(
    database_url: str, migrated_file: Path
) -> None:
    assert find_installation(database_url) is None
    upgrade_to("0010", database_url)
    assert find_installation(database_url) is None
    migrate(database_url)
    name = find_installation(database_url)
    assert name
    migrate(database_url)
    assert find_installation(database_url) == name
    assert name != find_installation(f"sqlite:///{migrated_file}")


def test_a_folder_of_another_database_is_refused_and_both_are_named(settings: Settings) -> None:
    (settings.data / FILE).write_text("another\n", encoding="ascii")
    with pytest.raises(SettingsError) as refused:
        claim_folder(settings)
    for told in ("another", name_of(settings), str(settings.data / FILE)):
        assert told in str(refused.value)
    assert kept(settings) == "another\n"
    found = look_at_database(settings)
    assert (found.verdict, found.words) == (Verdict.WRONG, str(refused.value))
    (settings.data / FILE).unlink()
    assert look_at_database(settings).verdict is Verdict.OK
    claim_folder(settings)
    assert kept(settings) == f"{name_of(settings)}\n"


@pytest.mark.parametrize("length", [0, 7])
def test_a_name_that_was_torn_is_written_again(settings: Settings, length: int) -> None:
    (settings.data / FILE).write_text(name_of(settings)[:length], encoding="ascii")
    (settings.data / f"{FILE}.new").write_text("left by a crash", encoding="ascii")
    claim_folder(settings)
    assert kept(settings) == f"{name_of(settings)}\n"


def test_a_file_that_cannot_be_read_is_no_leave_to_begin(settings: Settings) -> None:
    (settings.data / FILE).mkdir()
    with pytest.raises(OSError, match=FILE):
        claim_folder(settings)
    assert look_at_database(settings).verdict is Verdict.WRONG


def test_bytes_that_are_no_name_are_another_s(settings: Settings) -> None:
    (settings.data / FILE).write_bytes(b"\xff\x00" * 100)
    with pytest.raises(SettingsError, match="belongs to"):
        claim_folder(settings)


def test_a_database_that_lost_its_name_is_refused(tmp_path: Path, migrated_file: Path) -> None:
    settings = Settings(data=tmp_path)
    shutil.copy(migrated_file, tmp_path / "gateway.db")
    with connected(settings.resolved_database_url) as connection, connection.begin():
        connection.execute(text("DELETE FROM installation"))
    with pytest.raises(SettingsError, match="is empty"):
        claim_folder(settings)
    assert not (tmp_path / FILE).exists()
    assert look_at_database(settings).verdict is Verdict.WRONG
