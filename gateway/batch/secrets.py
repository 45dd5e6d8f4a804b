"""The keys and passwords that callers give: masked wherever they are kept or shown, and the real
ones sealed in a table of their own, for as long as the job or environment is there.

A template keeps masked ones alone. Why: it is shown to all who may describe it, and jobs do not
refer to it; whoever copies a task out of it puts the keys in.

LoginSettings.Password is kept nowhere: nobody logs in to a node here.

A PackagePath may have a user or a signature in it. Why all of its query is masked: which of the
values are keys, only the server knows that they are for.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import msgspec
from cryptography.fernet import InvalidToken
from sqlalchemy import bindparam, delete, insert, select

from gateway.batch import datatypes
from gateway.batch.staging import StagingFailed
from gateway.batch.tables import secret
from gateway.service import Wire
from gateway.store import Tx

SECRET_MEMBERS: Final = frozenset({"SecretId", "SecretKey", "Password"})
EDGE_MAX: Final = 4
STARS: Final = "*" * 12
OF_THE_ENV: Final = 0
PACKAGE_PATH: Final = "PackagePath"
_MARKS: Final = (
    *(f'"{name}":'.encode() for name in sorted(SECRET_MEMBERS)),
    f'"{PACKAGE_PATH}":"'.encode(),
)

ADD_SECRET = insert(secret)
FIND_SECRET = select(secret.c.sealed).where(
    secret.c.owner_id == bindparam("of_owner"), secret.c.position == bindparam("at_position")
)
DROP_SECRETS = delete(secret).where(secret.c.owner_id == bindparam("of_owner"))


def mask(text: str) -> str:
    """A secret as it may be shown: its first letters, stars, its last letters.

    Why fewer letters than the vendor's example shows, 20 of 32: at most a quarter is told, and of
    a short one nothing. The stars do not tell how long it is.
    """
    edge = min(EDGE_MAX, len(text) // 8)
    return text[:edge] + STARS + text[len(text) - edge :]


def mask_address(url: str) -> str:
    """An address as it may be shown: its user, the values of its query and its fragment masked."""
    try:
        parts = urlsplit(url)
    except ValueError:  # no address; nobody fetches it
        return mask(url) if "@" in url or "?" in url else url
    user, at, host = parts.netloc.rpartition("@")
    query = "&".join(_mask_field(each) for each in parts.query.split("&")) if parts.query else ""
    if not at and not query and not parts.fragment:
        return url
    fragment = mask(parts.fragment) if parts.fragment else ""
    netloc = f"{mask(user)}@{host}" if at else host
    return SplitResult(parts.scheme, netloc, parts.path, query, fragment).geturl()


def _mask_field(field: str) -> str:
    name, equals, value = field.partition("=")
    return f"{name}={mask(value)}" if equals else mask(field)


def is_masked(url: str) -> bool:
    """Whether an address may be one that was masked, so that the real one is among the secrets."""
    return STARS in url


def encode_masked(value: msgspec.Struct) -> bytes:
    """JSON of anything a caller sent, every key and password in it masked.

    Why found by their names: whatever has such a member is covered, also what is added later. And
    looked for in the JSON first, because hardly any task has one.
    """
    encoded = msgspec.json.encode(value)
    if not any(mark in encoded for mark in _MARKS):
        return encoded
    return msgspec.json.encode(_masked(msgspec.json.decode(encoded)))


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _masked_member(name, part) if isinstance(part, str) else _masked(part)
            for name, part in value.items()
        }
    return [_masked(part) for part in value] if isinstance(value, list) else value


def _masked_member(name: str, text: str) -> str:
    if name in SECRET_MEMBERS:
        return mask(text)
    return mask_address(text) if name == PACKAGE_PATH else text


class Secrets(Wire):
    """What a task or an environment brings that nobody may see again."""

    authentications: list[datatypes.Authentication] = []  # noqa: RUF012  # msgspec copies it
    docker_password: str = ""
    package_path: str = ""


def secrets_of(task: datatypes.Task) -> Secrets | None:
    """The secrets that running a task needs; None for none."""
    docker = task.application.docker
    password = (docker.password if docker else None) or ""
    path = task.application.package_path or ""
    if mask_address(path) == path:
        path = ""
    if not task.authentications and not password and not path:
        return None
    return Secrets(
        authentications=task.authentications, docker_password=password, package_path=path
    )


def _digest(request: msgspec.Struct) -> bytes:
    return hashlib.sha256(msgspec.json.encode(request)).digest()


class Vault:
    """Keeps secrets in the database, sealed. seal, open_: how, and how they are had back."""

    def __init__(self, seal: Callable[[bytes], bytes], open_: Callable[[bytes], bytes]) -> None:
        self._seal = seal
        self._open = open_

    def store(self, tx: Tx, owner_id: str, secrets: Mapping[int, Secrets | None]) -> None:
        """Keep the secrets of a job's tasks, by their positions, or of an environment."""
        rows = [
            {
                "owner_id": owner_id,
                "position": position,
                "sealed": self._seal(msgspec.json.encode(each)),
            }
            for position, each in secrets.items()
            if each is not None
        ]
        if rows:
            tx.execute(ADD_SECRET, rows)

    def seal_digest(self, request: msgspec.Struct) -> bytes:
        """What `has_digest` knows a call by, its keys and passwords included.

        Why sealed, as they are: whoever reads the database could try passwords on a plain one.
        """
        return self._seal(_digest(request))

    def has_digest(self, sealed: bytes, request: msgspec.Struct) -> bool:
        """Whether this is the digest of that very call; it is not if the key to it is lost."""
        try:
            return hmac.compare_digest(self._open(sealed), _digest(request))
        except InvalidToken:
            return False

    def read(self, tx: Tx, owner_id: str, *, position: int = OF_THE_ENV) -> Secrets:
        """The secrets of a task or an environment; empty ones if it has none.

        Raises StagingFailed if the key that they were sealed with is lost.
        """
        keys = {"of_owner": owner_id, "at_position": position}
        sealed = tx.execute(FIND_SECRET, keys).scalar_one_or_none()
        if sealed is None:
            return Secrets()
        try:
            return msgspec.json.decode(self._open(sealed), type=Secrets)
        except InvalidToken as error:
            raise StagingFailed(
                "Its keys cannot be read: the key file that they were sealed with is lost."
            ) from error


def drop_secrets(tx: Tx, owner_id: str) -> None:
    """Remove the secrets of a job or an environment that goes."""
    tx.execute(DROP_SECRETS, {"of_owner": owner_id})
