"""What the command's administrative verbs do, beside a running server and on the same settings."""

from collections.abc import Callable
from typing import Any, TypeVar

import anyio
from sqlalchemy.exc import ArgumentError, OperationalError

from gateway.call import Principal
from gateway.cam import decisions, identities, keys
from gateway.clock import now
from gateway.config import Settings, SettingsError
from gateway.errors import ApiError
from gateway.policy.strict_toml import PolicySetRefused
from gateway.store import Tx, open_store
from gateway.store.migrations import migrate

T = TypeVar("T")

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
    migrate_database(settings)
    return _write(settings, lambda tx: keys.list_keys(tx, principal))


def delete_key(settings: Settings, secret_id: str) -> bool:
    """Remove an access key, in force within a second; False if there is none of this id."""
    migrate_database(settings)
    return _write(settings, lambda tx: keys.delete_key(tx, secret_id))


def _find_user(settings: Settings, *, user: str, owner_uin: str) -> Principal:
    folder = identities.PolicyFolder(settings.policies)
    snapshot = folder.read_snapshot(generation=1)
    principal = identities.find_user(snapshot, user, owner_uin=owner_uin)
    if principal is None:
        raise NoSuchUser(f"accounts.toml declares no user `{user}` in account {owner_uin}")
    return principal


def find_decision(settings: Settings, request_id: str) -> dict[str, Any] | None:
    """A recorded decision in its public form; None if there is none."""
    migrate_database(settings)
    return _write(settings, lambda tx: decisions.find_decision(tx, request_id))


def migrate_database(settings: Settings) -> None:
    """Bring the database to the newest revision, made if there is none."""
    settings.data.mkdir(parents=True, exist_ok=True)
    settings.data.chmod(0o700)
    migrate(settings.resolved_database_url)


def _write(settings: Settings, function: Callable[[Tx], T]) -> T:
    async def run() -> T:
        async with open_store(settings.resolved_database_url) as store:
            return await store.write(function)

    return anyio.run(run)
