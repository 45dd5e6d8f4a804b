"""The secrets that pushes over HTTP are signed with, one per subscription, sealed at rest.

Source: Standard Webhooks, "Signature scheme": `whsec_` and the key in standard base64.
"""

import contextlib
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.fernet import InvalidToken
from sqlalchemy import Row, bindparam, select, update

from gateway import ids
from gateway.cmq.tables import subscription
from gateway.errors import FailedOperation, ResourceNotFound
from gateway.store import Tx
from gateway.telemetry import log

PREFIX = "whsec_"
KEY_BYTES = 32
OLD_SIGNS_FOR = timedelta(hours=24)
OPENED_MAX = 10_000

SECRETS = select(
    subscription.c.id,
    subscription.c.sealed_secret,
    subscription.c.sealed_old_secret,
    subscription.c.old_secret_until,
).where(subscription.c.id == bindparam("id_"))
LOCK_SECRETS = SECRETS.with_for_update()
MAKE_SECRET = (
    update(subscription)
    .where(subscription.c.id == bindparam("id_"), subscription.c.sealed_secret.is_(None))
    .values(sealed_secret=bindparam("sealed"))
)
SET_SECRETS = (
    update(subscription)
    .where(subscription.c.id == bindparam("id_"))
    .values(
        sealed_secret=bindparam("sealed"),
        sealed_old_secret=bindparam("sealed_old"),
        old_secret_until=bindparam("old_until"),
    )
)


class SecretUnreadable(FailedOperation):
    """A secret was sealed with a key that the key file has no more: our fault, nobody else's."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A subscriber's secret, as it is shown.

    old_until: until when pushes are signed with the one before, too; None: with this one alone.
    """

    text: str
    old_until: datetime | None


class Secrets:
    """Makes, shows and changes secrets. Each is made when it is first needed.

    seal, open_: how a key is kept in the database, and had back.
    """

    def __init__(self, seal: Callable[[bytes], bytes], open_: Callable[[bytes], bytes]) -> None:
        self._seal = seal
        self._open = open_
        self._opened: dict[bytes, bytes | None] = {}

    def describe(self, tx: Tx, subscription_id: str, *, now: datetime) -> Secret:
        """The secret of a subscription. Raises ResourceNotFound."""
        return self._secret(self._made(tx, subscription_id), now=now)

    def rotate(self, tx: Tx, subscription_id: str, *, now: datetime) -> Secret:
        """Give a subscription a new secret; the one before signs besides, for a day.

        Why only one before: whoever rotates twice in a day wants the first of the three gone.
        Raises ResourceNotFound.
        """
        row = tx.execute(LOCK_SECRETS, {"id_": subscription_id}).one_or_none()
        if row is None:
            raise _not_found(subscription_id)
        old_until = None if row.sealed_secret is None else now + OLD_SIGNS_FOR
        changed = {
            "id_": subscription_id,
            "sealed": self._seal(ids.random_bytes(KEY_BYTES)),
            "sealed_old": row.sealed_secret,
            "old_until": old_until,
        }
        tx.execute(SET_SECRETS, changed)
        return self._secret(self._made(tx, subscription_id), now=now)

    def signing(self, tx: Tx, subscription_id: str, *, now: datetime) -> tuple[bytes, ...]:
        """The keys that a push is signed with, the newest first. Raises ResourceNotFound."""
        return self.keys_of(self._made(tx, subscription_id), now=now)

    def keys_of(self, row: Row[Any], *, now: datetime) -> tuple[bytes, ...]:
        """The keys in a subscription's row, the newest first; none if none is made yet.

        Raises SecretUnreadable if the newest cannot be had. Why not for an old one: only a new
        secret mends what cannot be read, and it would have to wait for a day.
        """
        if row.sealed_secret is None:
            return ()
        keys = [self._unsealed(row.sealed_secret, subscription_id=row.id)]
        if row.sealed_old_secret is not None and _is_ahead(row.old_secret_until, now=now):
            with contextlib.suppress(SecretUnreadable):
                keys.append(self._unsealed(row.sealed_old_secret, subscription_id=row.id))
        return tuple(keys)

    def _made(self, tx: Tx, subscription_id: str) -> Row[Any]:
        """A subscription's row, after its secret is made: the first of two makers wins."""
        row = tx.execute(SECRETS, {"id_": subscription_id}).one_or_none()
        if row is not None and row.sealed_secret is None:
            made = self._seal(ids.random_bytes(KEY_BYTES))
            tx.execute(MAKE_SECRET, {"id_": subscription_id, "sealed": made})
            row = tx.execute(SECRETS, {"id_": subscription_id}).one_or_none()
        if row is None:
            raise _not_found(subscription_id)
        return row

    def _secret(self, row: Row[Any], *, now: datetime) -> Secret:
        key = self._unsealed(row.sealed_secret, subscription_id=row.id)
        until = row.old_secret_until
        return Secret(
            PREFIX + b64encode(key).decode(), until if _is_ahead(until, now=now) else None
        )

    def _unsealed(self, sealed: bytes, *, subscription_id: str) -> bytes:
        """A key that is remembered, or opened: it is needed for every page of every subscriber.

        Raises SecretUnreadable, which is logged the first time.
        """
        if sealed not in self._opened:
            if len(self._opened) >= OPENED_MAX:
                self._opened.clear()
            try:
                self._opened[sealed] = self._open(sealed)
            except InvalidToken:
                self._opened[sealed] = None
                log.error(  # its traceback says nothing besides
                    "secret_unreadable",
                    subscription=subscription_id,
                    why="the key that it was sealed with is not in the key file",
                )
        key = self._opened[sealed]
        if key is None:
            raise SecretUnreadable(
                "The secret of this subscription cannot be read, because the key that it was sealed"
                " with is lost. Rotate it."
            )
        return key


def _is_ahead(moment: datetime | None, *, now: datetime) -> bool:
    return moment is not None and now < moment


def _not_found(subscription_id: str) -> ResourceNotFound:
    return ResourceNotFound(f"Subscription `{subscription_id}` does not exist.")
