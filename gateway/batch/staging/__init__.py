"""Staging: what an attempt finds when its command begins, and what is kept of it after."""

from collections.abc import Callable

Tell = Callable[[str], None]
"""Takes, in words, what an attempt waits for before its command, or after it; "" once that is over.
"""


class StagingFailed(OSError):
    """Files could not be brought or kept; the message is a sentence for the caller.

    It names no place of the gateway's machine, and no key.
    """


def in_words(error: OSError) -> str:
    """Say why files could not be brought or kept, without a place of the gateway's machine.

    Storage puts its sentence into `strerror`; what the system says of a local file stands there
    too, its path elsewhere.
    """
    words = error.strerror or (str(error) if isinstance(error, StagingFailed) else "")
    return f"{words.removesuffix('.')}." if words else "The storage refused it."
