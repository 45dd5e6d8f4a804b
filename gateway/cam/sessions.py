"""Temporary keys: made for a session, kept without their token, gone some time after they expire.

What a session may do is not kept with it: its role or user is looked up in the policies at every
call. A session of a role that is no longer declared is still that role's, and has no rights.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from cryptography.fernet import MultiFernet
from sqlalchemy import Row

from gateway import ids
from gateway.call import Key, Principal
from gateway.cam import tables
from gateway.store import Tx

PREFIX = "AKID"
ID_CHARACTERS = 64
"""After the prefix: more than a lasting key has, so that an id tells which of the two it is."""
TOKEN_CHARACTERS = 128
KEPT_FOR = timedelta(days=1)
"""How long an expired key is still told that it has expired; then it is not found."""
PRUNED_MAX = 64
"""How many rows one new session removes at most."""


@dataclass(frozen=True, slots=True)
class Session:
    """A temporary key, as it is handed out once. token: the text its hash was made from."""

    key: Key
    token: str = field(repr=False)


def new_session(principal: Principal, *, expires_at: datetime) -> Session:
    """Make a session that is not stored yet."""
    token = ids.new_secret(TOKEN_CHARACTERS)
    key = Key(
        secret_id=PREFIX + ids.new_secret(ID_CHARACTERS),
        secret_key=ids.new_secret(32),
        principal=principal,
        token_sha256=sha256(token.encode()).digest(),
        expires_at=expires_at,
    )
    return Session(key, token)


def add_session(tx: Tx, session: Session, *, sealer: MultiFernet, now: datetime) -> None:
    """Store a session, and remove some that have long expired.

    Why here: the table then never holds many more than were asked for in a day, without a loop
    of its own.
    """
    key, principal = session.key, session.key.principal
    tx.execute(tables.DROP_SESSIONS, {"before": now - KEPT_FOR, "limit": PRUNED_MAX})
    tx.execute(
        tables.ADD_SESSION,
        {
            "secret_id": key.secret_id,
            "owner_uin": principal.owner_uin,
            "uin": principal.uin,
            "name": principal.name,
            "role": principal.role,
            "session": principal.session,
            "session_policy": principal.session_policy,
            "sealed_secret_key": sealer.encrypt(key.secret_key.encode()),
            "token_sha256": key.token_sha256,
            "expires_at": key.expires_at,
        },
    )


def is_temporary(secret_id: str) -> bool:
    """Tell by its length whether an id is that of a temporary key."""
    return len(secret_id) == len(PREFIX) + ID_CHARACTERS


def key_of(row: Row[Any], *, secret_key: str) -> Key:
    """Read a row of `cam_session`, whose secret was unsealed before."""
    principal = Principal(
        owner_uin=row.owner_uin,
        uin=row.uin,
        name=row.name,
        role=row.role,
        session=row.session,
        session_policy=row.session_policy,
    )
    return Key(
        row.secret_id,
        secret_key,
        principal,
        token_sha256=row.token_sha256,
        expires_at=row.expires_at,
    )
