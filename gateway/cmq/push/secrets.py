"""The secrets that pushes over HTTP are signed with, one per subscription, sealed at rest.

Source: Standard Webhooks, "Signature scheme": `whsec_` and the key in standard base64.
"""

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.fernet import InvalidToken
from sqlalchemy import Row

from gateway import ids
from gateway.cmq.push import statements
from gateway.errors import ResourceNotFound
from gateway.store import Tx

PREFIX = "whsec_"
KEY_BYTES = 32
OLD_SIGNS_FOR = timedelta(hours=24)
OPENED_MAX = 10_000


class SecretUnreadable(Exception):
    """A secret was sealed with a key that the key file has no more."""


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
        self._opened: dict[bytes, bytes] = {}

    def describe(self, tx: Tx, subscription_id: str, *, now: datetime) -> Secret:
        """The secret of a subscription. Raises ResourceNotFound."""
        return self._secret(self._made(tx, subscription_id), now=now)

    def rotate(self, tx: Tx, subscription_id: str, *, now: datetime) -> Secret:
        """Give a subscription a new secret; the one before signs besides, for a day.

        Why only one before: whoever rotates twice in a day wants the first of the three gone.
        Raises ResourceNotFound.
        """
        row = tx.execute(statements.LOCK_SECRETS, {"id_": subscription_id}).one_or_none()
        if row is None:
            raise _not_found(subscription_id)
        old_until = None if row.sealed_secret is None else now + OLD_SIGNS_FOR
        changed = {
            "id_": subscription_id,
            "sealed": self._seal(ids.random_bytes(KEY_BYTES)),
            "sealed_old": row.sealed_secret,
            "old_until": old_until,
        }
        tx.execute(statements.SET_SECRETS, changed)
        return self._secret(self._made(tx, subscription_id), now=now)

    def signing(self, tx: Tx, subscription_id: str, *, now: datetime) -> tuple[bytes, ...]:
        """The keys that a push is signed with, the newest first. Raises ResourceNotFound."""
        return self.keys_of(self._made(tx, subscription_id), now=now)

    def keys_of(self, row: Row[Any], *, now: datetime) -> tuple[bytes, ...]:
        """The keys in a subscription's row, the newest first; none if none is made yet.

        Raises SecretUnreadable.
        """
        sealed = [row.sealed_secret] if row.sealed_secret is not None else []
        if row.sealed_old_secret is not None and _is_ahead(row.old_secret_until, now=now):
            sealed.append(row.sealed_old_secret)
        return tuple(self._unsealed(each) for each in sealed)

    def _made(self, tx: Tx, subscription_id: str) -> Row[Any]:
        """A subscription's row, after its secret is made: the first of two makers wins."""
        row = tx.execute(statements.SECRETS, {"id_": subscription_id}).one_or_none()
        if row is not None and row.sealed_secret is None:
            made = self._seal(ids.random_bytes(KEY_BYTES))
            tx.execute(statements.MAKE_SECRET, {"id_": subscription_id, "sealed": made})
            row = tx.execute(statements.SECRETS, {"id_": subscription_id}).one_or_none()
        if row is None:
            raise _not_found(subscription_id)
        return row

    def _secret(self, row: Row[Any], *, now: datetime) -> Secret:
        text = PREFIX + b64encode(self._unsealed(row.sealed_secret)).decode()
        until = row.old_secret_until
        return Secret(text, until if _is_ahead(until, now=now) else None)

    def _unsealed(self, sealed: bytes) -> bytes:
        """Open a sealed key, or remember it: it is needed for every page of every subscriber.

        Raises SecretUnreadable.
        """
        key = self._opened.get(sealed)
        if key is None:
            if len(self._opened) >= OPENED_MAX:
                self._opened.clear()
            try:
                key = self._opened[sealed] = self._open(sealed)
            except InvalidToken as error:
                raise SecretUnreadable("its sealing key is not in the key file") from error
        return key


def _is_ahead(moment: datetime | None, *, now: datetime) -> bool:
    return moment is not None and now < moment


def _not_found(subscription_id: str) -> ResourceNotFound:
    return ResourceNotFound(f"Subscription `{subscription_id}` does not exist.")
