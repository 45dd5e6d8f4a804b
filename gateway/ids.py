"""Identifiers and randomness: the only door to the operating system's random source."""

import re
import secrets
import string
import uuid
from collections.abc import Callable

ALPHABET = string.ascii_lowercase + string.digits
NewId = Callable[[str], str]


def new_id(prefix: str) -> str:
    """Make an id such as `job-97zcl3wt`: prefix, dash, 8 of [a-z0-9]."""
    number = secrets.randbelow(36**8)  # one draw: eight of them cost six times as much
    letters = []
    for _ in range(8):
        number, digit = divmod(number, 36)
        letters.append(ALPHABET[digit])
    return f"{prefix}-{''.join(letters)}"


def new_request_id() -> str:
    """Make the id of one call: a random UUID in its text form."""
    return str(uuid.uuid4())


def new_secret(length: int) -> str:
    """Make a secret of `length` characters of [A-Za-z0-9]."""
    alphabet = string.ascii_letters + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(length))


def random_bytes(length: int) -> bytes:
    """Make a key of `length` bytes."""
    return secrets.token_bytes(length)


def random_fraction() -> float:
    """Draw a number from 0 to just below 1."""
    return secrets.randbelow(2**53) / 2**53


def is_id(text: str, prefix: str) -> bool:
    """Tell whether `text` has the shape that `new_id(prefix)` makes."""
    return re.fullmatch(rf"{re.escape(prefix)}-[a-z0-9]{{8}}", text) is not None
