"""Form-encoded text: `a=1&b=x+y`, as in a query string or a form's body.

Shared, so that who verifies a form's signature and who acts on it read the very same pairs.
"""

import re
from binascii import a2b_qp

FIELDS_MAX = 10_000
Pairs = tuple[tuple[str, str], ...]

_NO_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def read_pairs(text: str | bytes) -> Pairs:
    """Decode the pairs, in the order they were sent; `+` is a space, a name alone has value "".

    Raises ValueError for text that is not ASCII with UTF-8 behind its `%`, for a `%` without two
    digits, for more than FIELDS_MAX pairs, for a name given twice, and for a NUL, which no store
    can keep.
    """
    if not text.isascii():
        raise ValueError("only ASCII is form-encoded")
    form = text.encode("ascii") if isinstance(text, str) else text
    if _NO_ESCAPE.search(form):
        raise ValueError("a `%` is not followed by two hexadecimal digits")
    if form.count(b"&") >= FIELDS_MAX:
        raise ValueError(f"there are more than {FIELDS_MAX} parameters")
    parted = (part.partition(b"=") for part in form.split(b"&") if part)
    pairs = tuple((_decode(name), _decode(value)) for name, _, value in parted)
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name is given twice")
    if any("\0" in name or "\0" in value for name, value in pairs):
        raise ValueError("a NUL is not a character of any value")
    return pairs


def _decode(text: bytes) -> str:
    """The characters that a name or a value stands for. Raises UnicodeDecodeError.

    Why by the reader of quoted-printable, which has `=` for `%` and is written in C: the one of
    the standard library takes two seconds for 3 MiB of `%41`, before anybody has proved who it is.
    """
    spaced = text.replace(b"+", b" ")
    if b"%" in spaced:
        spaced = a2b_qp(spaced.replace(b"=", b"%3D").replace(b"%", b"="))
    return spaced.decode()
