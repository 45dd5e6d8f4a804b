"""Access keys: made, sealed, found. Temporary ones are made in `sessions`, and found here too."""

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import Row

from gateway import ids
from gateway.call import Key, Principal
from gateway.cam import sessions, tables
from gateway.clock import Clock, wire_time
from gateway.errors import OperationDenied
from gateway.store import Store, Tx

KEYS_PER_USER_MAX = 2
CACHED_MAX = 10_000
CACHED_FOR = timedelta(seconds=1)
"""How long a key that was disabled or deleted by another process may still be believed."""


class KeyFileError(Exception):
    """A file that holds secrets cannot be used."""


def open_sealer(path: Path) -> MultiFernet:
    """Open the file that seals secret keys, made with mode 600 if there is none.

    It holds one sealing key a line. The first seals, all open: to rotate, put a new line on top.
    """
    _write_once(path, Fernet.generate_key().decode() + "\n")
    _check_private(path)
    try:
        return MultiFernet([Fernet(line) for line in path.read_bytes().split()])
    except ValueError as error:
        raise KeyFileError(f"{path} holds no usable key: {error}") from error


def _write_once(path: Path, text: str) -> None:
    """Write a file with mode 600, whole and on disk, unless it is there already.

    Why not straight into its place: two programs may start at once, or one be killed here, and
    half a key must not be taken for one.
    """
    if path.exists():
        return
    draft = path.with_name(f"{path.name}.{ids.new_secret(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            path.hardlink_to(draft)
        _sync_folder(path.parent)
    finally:
        draft.unlink()


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_private(path: Path) -> None:
    if path.stat().st_mode & 0o077:
        raise KeyFileError(f"{path} can be read by others: make its mode 600")


def new_key(principal: Principal) -> Key:
    """Make a key that is not stored yet."""
    return Key(
        secret_id=f"AKID{ids.new_secret(32)}", secret_key=ids.new_secret(32), principal=principal
    )


def add_key(tx: Tx, key: Key, *, sealer: MultiFernet, now: datetime) -> None:
    """Store a key. Raises OperationDenied if its user has as many as one may have."""
    owner = {"owner_uin": key.principal.owner_uin, "uin": key.principal.uin}
    if len(tx.execute(tables.KEYS_OF, owner).all()) >= KEYS_PER_USER_MAX:
        raise OperationDenied(
            f"The user has {KEYS_PER_USER_MAX} access keys already; `keys list` shows them,"
            " `keys delete` removes one.",
            detail="AccessKeyOverLimit",
        )
    tx.execute(
        tables.ADD_KEY,
        {
            **owner,
            "secret_id": key.secret_id,
            "name": key.principal.name,
            "sealed_secret_key": sealer.encrypt(key.secret_key.encode()),
            "active": True,
            "created_at": now,
        },
    )


def list_keys(tx: Tx, principal: Principal) -> list[dict[str, str]]:
    """A user's keys, the oldest first, without their secrets."""
    owner = {"owner_uin": principal.owner_uin, "uin": principal.uin}
    return [
        {"SecretId": row.secret_id, "CreateTime": wire_time(row.created_at)}
        for row in tx.execute(tables.KEYS_OF, owner)
    ]


def delete_key(tx: Tx, secret_id: str) -> bool:
    """Remove a key for good; False if there is none of this id."""
    return tx.execute(tables.DROP_KEY, {"secret_id": secret_id}).rowcount == 1


class KeyRing:
    """Finds keys for authentication, lasting and temporary ones, an expired one among them.

    fixed: keys that are not in the store: the root account's.
    """

    def __init__(
        self, store: Store, *, sealer: MultiFernet, fixed: Mapping[str, Key], clock: Clock
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._fixed = fixed
        self._clock = clock
        self._cached: dict[str, tuple[datetime, Key]] = {}

    async def find_key(self, secret_id: str) -> Key | None:
        """The key of this id, a disabled one too; None if there is none."""
        if secret_id in self._fixed:
            return self._fixed[secret_id]
        now = self._clock()
        cached = self._cached.get(secret_id)
        if cached is not None and now - cached[0] < CACHED_FOR:
            return cached[1]
        find = tables.FIND_SESSION if sessions.is_temporary(secret_id) else tables.FIND_KEY
        row = await self._store.read_point(
            lambda tx: tx.execute(find, {"secret_id": secret_id}).first()
        )
        if row is None:
            self._cached.pop(secret_id, None)
            return None
        if cached is None and len(self._cached) >= CACHED_MAX:
            self._cached.clear()
        key = self._open(row, known=cached[1] if cached else None)
        self._cached[secret_id] = (now, key)
        return key

    def _open(self, row: Row[Any], *, known: Key | None) -> Key:
        """Unseal a key; its secret never changes, so a known one need not be unsealed again."""
        if known is not None:
            secret = known.secret_key
        else:
            try:
                secret = self._sealer.decrypt(row.sealed_secret_key).decode()
            except InvalidToken as error:
                raise KeyFileError(
                    f"the key {row.secret_id} was sealed with a key that is not in the key file"
                ) from error
        if sessions.is_temporary(row.secret_id):
            return sessions.key_of(row, secret_key=secret)
        principal = Principal(owner_uin=row.owner_uin, uin=row.uin, name=row.name)
        return Key(row.secret_id, secret, principal, active=row.active)


def open_root_key(path: Path, *, uin: str, region: str) -> Key:
    """The root account's key from `root.env`, made with mode 600 at the first start."""
    principal = Principal(owner_uin=uin, uin=uin, name="root")
    made = new_key(principal)
    _write_once(
        path,
        f"TENCENTCLOUD_SECRET_ID={made.secret_id}\n"
        f"TENCENTCLOUD_SECRET_KEY={made.secret_key}\n"
        f"TENCENTCLOUD_REGION={region}\n",
    )
    _check_private(path)
    return _read_root_key(path, principal)


def _read_root_key(path: Path, principal: Principal) -> Key:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except UnicodeDecodeError as error:
        raise KeyFileError(f"{path} is not ASCII; remove it to get a new key") from error
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    for name in ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY"):
        if not values.get(name):
            raise KeyFileError(f"{path} has no line {name}=…; remove it to get a new key")
    return Key(values["TENCENTCLOUD_SECRET_ID"], values["TENCENTCLOUD_SECRET_KEY"], principal)
