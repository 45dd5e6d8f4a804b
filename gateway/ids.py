"""Identifiers and randomness: the only door to the operating system's random source."""

import re
import secrets
import string
from collections.abc import Callable
from functools import lru_cache

ALPHABET = string.ascii_lowercase + string.digits
NewId = Callable[[str], str]
_UUID_SET = 4 << 76 | 2 << 62
_UUID_KEEP = ~(0xF << 76 | 3 << 62)
"""Version 4 and the variant of RFC 4122, and the bits around them."""


def new_id(prefix: str) -> str:
    """Make an id such as `job-97zcl3wt`: prefix, dash, 8 of [a-z0-9]."""
    number = secrets.randbelow(36**8)  # one draw: eight of them cost six times as much
    letters = []
    for _ in range(8):
        number, digit = divmod(number, 36)
        letters.append(ALPHABET[digit])
    return f"{prefix}-{''.join(letters)}"


def new_request_id() -> str:
    """Make the id of one call: a random UUID in its text form.

    Why by hand: the library takes twice as long, at every call.
    """
    digits = f"{int.from_bytes(secrets.token_bytes(16)) & _UUID_KEEP | _UUID_SET:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


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
    return _form_of(prefix).fullmatch(text) is not None


@lru_cache
def _form_of(prefix: str) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(prefix)}-[a-z0-9]{{8}}")
