"""Which database a data folder belongs to: both hold the name of one installation.

Why: what the database does not know is removed from the folder. Under another database that would
be the logs, disks and work folders of all jobs, of commands that still run among them.
"""

import os
from pathlib import Path
from typing import Final

from sqlalchemy import make_url

from gateway.config import Settings, SettingsError
from gateway.store.migrations import find_installation

FILE: Final = "installation"
SHOWN_MAX: Final = 64


def claim_folder(settings: Settings) -> None:
    """Tie the data folder to the database, on disk; nothing if it is already.

    Called with the folder held and the database at this version's revision. Raises SettingsError
    if the folder belongs to another one, OSError if that cannot be found out.
    """
    name = find_installation(settings.resolved_database_url)
    if not is_claimed(settings, name=name):
        _write_durably(settings.data / FILE, f"{name}\n")


def is_claimed(settings: Settings, *, name: str | None) -> bool:
    """Whether the data folder belongs to the database that has this name; False: to none yet.

    Raises SettingsError if it belongs to another one or there is no name, OSError if the file
    cannot be read.
    """
    if name is None:
        raise SettingsError("the table `installation` of the database is empty: restore it")
    path = settings.data / FILE
    try:
        found = path.read_bytes().decode("ascii", errors="replace").strip()
    except FileNotFoundError:
        return False
    if found == name:
        return True
    if name.startswith(found):  # empty, or torn: our own, of a disk that lost what was written
        return False
    shown = make_url(settings.resolved_database_url).render_as_string(hide_password=True)
    raise SettingsError(
        f"the folder {settings.data} belongs to installation {found[:SHOWN_MAX]!r}, and the"
        f" database {shown} to {name!r}: set `data` or `database_url` to the one that belongs to"
        f" the other; or remove {path}, and all that the folder has of jobs which this database"
        " does not know is removed for good"
    )


def _write_durably(path: Path, text: str) -> None:
    """Write a file whole, with mode 600, on disk when this returns: a crash never leaves half."""
    draft = path.with_name(f"{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
