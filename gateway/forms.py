"""Form-encoded text: `a=1&b=x+y`, as in a query string or a form's body.

Shared, so that who verifies a form's signature and who acts on it read the very same pairs.
"""

from urllib.parse import parse_qsl

FIELDS_MAX = 10_000
Pairs = tuple[tuple[str, str], ...]


def read_pairs(text: str | bytes) -> Pairs:
    """Decode the pairs, in the order they were sent; `+` is a space, a name alone has value "".

    Raises ValueError for text that is not ASCII with UTF-8 behind its `%`, for more than
    FIELDS_MAX pairs, for a name given twice, and for a NUL, which no store can keep.
    """
    ascii_text = text.decode("ascii") if isinstance(text, bytes) else text
    if not ascii_text.isascii():
        raise ValueError("only ASCII is form-encoded")
    pairs = tuple(
        parse_qsl(ascii_text, keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX)
    )
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name is given twice")
    if any("\0" in name or "\0" in value for name, value in pairs):
        raise ValueError("a NUL is not a character of any value")
    return pairs
