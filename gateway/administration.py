"""What the command's administrative verbs do, beside a running server and on the same settings."""

import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
from sqlalchemy.exc import ArgumentError, OperationalError

from gateway.batch.executor.folders import ATTEMPTS
from gateway.batch.executor.held import taken_below
from gateway.call import Principal
from gateway.cam import keys
from gateway.cam.decisions import log, proofs, queries
from gateway.cam.decisions.chain import Report
from gateway.cam.decisions.proofs import Kept
from gateway.cam.decisions.queries import Chain, Filter
from gateway.cam.identities import PolicyFolder
from gateway.clock import now
from gateway.config import Settings, SettingsError
from gateway.errors import ApiError
from gateway.policy.refusal import PolicySetRefused
from gateway.policy.snapshot import find_user
from gateway.store import Store, Tx, open_store
from gateway.store.migrations import HEAD, find_revision, migrate

T = TypeVar("T")
ShowNew = Callable[[Store], Coroutine[Any, Any, None]]
FOLLOW_S = 0.2
"""How often new decisions are looked for."""
DATA_MODE = 0o711
ENGINE = "engine"
LEFT_AS_THEY_ARE = frozenset({ENGINE, "sealing.key", "root.env"})
ROOM_BYTES_MIN = 1_048_576
LARGEST_SHOWN = 3

OPERATOR_ERRORS = (
    ApiError,
    ArgumentError,
    OSError,
    OperationalError,
    PolicySetRefused,
    SettingsError,
    keys.KeyFileError,
)
"""What an operator can mend: shown as a sentence, not as a traceback."""


class NoSuchUser(SettingsError):
    """The account declares no user of that name."""


class DiskFull(SettingsError):
    """There is no room for anything that has to be remembered."""


class DatabaseNotReady(SettingsError):
    """There is no database to read yet, or one that this version does not read."""


def create_key(settings: Settings, *, user: str, owner_uin: str) -> dict[str, str]:
    """Make an access key for a declared user. Raises NoSuchUser, or OperationDenied for a third."""
    principal = _find_user(settings, user=user, owner_uin=owner_uin)
    migrate_database(settings)
    sealer = keys.open_sealer(settings.data / "sealing.key")
    key = keys.new_key(principal)
    _write(settings, lambda tx: keys.add_key(tx, key, sealer=sealer, now=now()))
    return {
        "User": user,
        "Uin": principal.uin,
        "SecretId": key.secret_id,
        "SecretKey": key.secret_key,
    }


def list_keys(settings: Settings, *, user: str, owner_uin: str) -> list[dict[str, str]]:
    """The access keys of a declared user, without their secrets. Raises NoSuchUser."""
    principal = _find_user(settings, user=user, owner_uin=owner_uin)
    return _read(settings, lambda tx: keys.list_keys(tx, principal))


def delete_key(settings: Settings, secret_id: str) -> bool:
    """Remove an access key, in force within a second; False if there is none of this id."""
    migrate_database(settings)
    return _write(settings, lambda tx: keys.delete_key(tx, secret_id))


def _find_user(settings: Settings, *, user: str, owner_uin: str) -> Principal:
    snapshot = PolicyFolder.of(settings).read_snapshot(generation=1)
    principal = find_user(snapshot, user, owner_uin=owner_uin)
    if principal is None:
        raise NoSuchUser(f"accounts.toml declares no user `{user}` in account {owner_uin}")
    return principal


def find_decision(settings: Settings, request_id: str) -> dict[str, Any] | None:
    """A recorded decision in its public form; None if there is none."""
    return _read(settings, lambda tx: log.find_decision(tx, request_id))


def list_decisions(settings: Settings, wanted: Filter, *, limit: int) -> list[bytes]:
    """The last decisions that fit, as JSON, the newest first."""
    return _read(settings, lambda tx: queries.list_decisions(tx, wanted, limit=limit))


def walk_decisions(settings: Settings, wanted: Filter, *, show: Callable[[bytes], None]) -> None:
    """Show every decision that fits, as JSON, the oldest first."""

    def run(tx: Tx) -> None:
        for record in queries.walk_decisions(tx, wanted):
            show(record)

    _read(settings, run)


def follow_decisions(
    settings: Settings, wanted: Filter, *, last: int, show: Callable[[bytes], None]
) -> None:
    """Show the last decisions that fit, the oldest first, then each new one until SIGINT."""
    follow(settings, partial(_show_new, wanted=wanted, last=last, show=show))


def export_decisions(settings: Settings, *, show: Callable[[bytes], None]) -> list[Chain]:
    """Show the whole log line by line, as JSON; returns its chains with the heads to keep."""

    def run(tx: Tx) -> list[Chain]:
        for line in proofs.export(tx):
            show(line)
        return queries.list_chains(tx)

    return _read(settings, run)


def verify_decisions(settings: Settings, *, kept: Kept) -> list[Report]:
    """What is known of each chain of the log. kept: heads that must be in it."""
    return _read(settings, lambda tx: list(proofs.verify(tx, kept=kept)))


def verify_exported(file: Path, *, kept: Kept) -> list[Report]:
    """What is known of each chain in a file that an export wrote."""
    with file.open("rb") as lines:
        return proofs.verify_export(lines, kept=kept)


def follow(settings: Settings, show_new: ShowNew) -> None:
    """Run what shows new things as they come, until SIGINT or SIGTERM."""
    _check_database(settings)
    anyio.run(_follow, settings, show_new)


async def _follow(settings: Settings, show_new: ShowNew) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with (
            open_store(settings.resolved_database_url) as store,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(show_new, store)
            async for _ in signals:
                tasks.cancel_scope.cancel()
                break


async def _show_new(
    store: Store, *, wanted: Filter, last: int, show: Callable[[bytes], None]
) -> None:
    def begin(tx: Tx) -> tuple[list[bytes], dict[str, int]]:
        seen = {chain.id: chain.head.seq for chain in queries.list_chains(tx)}
        return queries.list_decisions(tx, wanted, limit=last), seen

    newest_first, seen = await store.read_list(begin)
    found = newest_first[::-1]
    while True:
        for record in found:
            show(record)
        await anyio.sleep(FOLLOW_S)
        found = await store.read_list(lambda tx: queries.list_following(tx, wanted, seen=seen))


def migrate_database(settings: Settings) -> None:
    """Bring the database to the newest revision, made if there is none."""
    settings.data.mkdir(parents=True, exist_ok=True)
    _check_room(settings.data)
    shut_data(settings)
    migrate(settings.resolved_database_url)


def shut_data(settings: Settings) -> None:
    """Shut all that is in the data folder to other users, except the way to the work folders.

    What others must not see is there from now on, with the rights it is to have: what SQLite puts
    beside its file has the rights of that file. Raises OSError.

    Key files are left as they are: one that others could read is no start, see `cam/keys.py`.

    Why the folder itself may be passed through: under the isolation `uid`, or in a container, a
    command is another user, and its work folder is below.
    """
    data = settings.data
    data.chmod(DATA_MODE)
    folders = ["cos"] * (not settings.cos_endpoint) + ["nfs"] * (not settings.mount_root)
    for name in folders:
        (data / name).mkdir(mode=0o700, exist_ok=True)
    files = ["lock"] + ["gateway.db"] * (not settings.database_url)
    for name in files:
        os.close(os.open(data / name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for entry in os.scandir(data):
        is_ours = entry.name in folders or entry.name in files or not entry.is_symlink()
        # What is mounted there may be a file server's, whose folders are not ours to change.
        if entry.name not in LEFT_AS_THEY_ARE and is_ours and not os.path.ismount(entry.path):
            os.chmod(entry.path, 0o700 if entry.is_dir() else 0o600)


def _check_room(data: Path) -> None:
    """Raise DiskFull where nothing could be journalled; say what takes the room."""
    found = os.statvfs(data)
    blocks = found.f_bfree if os.geteuid() == 0 else found.f_bavail
    if blocks * found.f_frsize >= ROOM_BYTES_MIN:
        return
    sizes = {path: taken_below(str(path)).bytes for path in (data / ENGINE / ATTEMPTS).glob("*")}
    largest = sorted(sizes, key=lambda path: sizes[path], reverse=True)[:LARGEST_SHOWN]
    shown = ", ".join(f"{path} ({sizes[path] / 2**20:.0f} MiB)" for path in largest)
    advice = f"the largest folders of jobs are {shown}; remove one" if shown else "make room"
    raise DiskFull(f"the disk of {data} is full: {advice}, then start again")


def with_store(settings: Settings, work: Callable[[Store], Awaitable[T]]) -> T:
    """Do some work on the database, beside a running server or not. Raises DatabaseNotReady."""

    async def run() -> T:
        async with open_store(settings.resolved_database_url) as store:
            return await work(store)

    _check_database(settings)
    return anyio.run(run)


def _read(settings: Settings, function: Callable[[Tx], T]) -> T:
    return with_store(settings, lambda store: store.read_list(function))


def _check_database(settings: Settings) -> None:
    """Raise DatabaseNotReady rather than let a reading verb make or migrate a database."""
    found = find_revision(settings.resolved_database_url)
    if found is None:
        place = "at the database's URL" if settings.database_url else f"in {settings.data}"
        raise DatabaseNotReady(f"there is no database {place}; `qcs-gateway migrate` makes one")
    if found != HEAD:
        raise DatabaseNotReady(
            f"the database is at revision {found} and this version reads {HEAD};"
            " `qcs-gateway migrate` brings an older one up to date"
        )


def _write(settings: Settings, function: Callable[[Tx], T]) -> T:
    async def run() -> T:
        async with open_store(settings.resolved_database_url) as store:
            return await store.write(function)

    return anyio.run(run)
