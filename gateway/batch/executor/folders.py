"""The folder of an attempt: where it is, and which names it can never have. Pure."""

import re
from pathlib import Path
from typing import Final

from gateway.errors import InvalidParameterValue

ATTEMPTS: Final = "attempts"
WORK: Final = "work"
STREAMS: Final = ("stdout", "stderr")
FOLDER_BYTES_MAX: Final = 1_024
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


def attempt_folder(root: Path, folder: str) -> Path:
    """The folder of one attempt below the executor's root.

    Raises InvalidParameterValue for a name that could lead out of the root, or into the folder
    that another attempt writes to.
    """
    parts = folder.split("/")
    good = (
        all(_PART.fullmatch(part) for part in parts)
        and len(folder) <= FOLDER_BYTES_MAX
        and not {WORK, *STREAMS} & set(parts)
    )
    if not good:
        raise InvalidParameterValue(f"The folder {folder[:200]!r} is not one an attempt can have.")
    return root / ATTEMPTS / folder


def log_file(root: Path, folder: str, *, stream: str) -> Path:
    """Where the bytes of `stream`, "stdout" or "stderr", of an attempt are.

    Raises InvalidParameterValue for another stream or a folder that leads elsewhere.
    """
    if stream not in STREAMS:
        raise InvalidParameterValue(f"There is no stream {stream[:20]!r}: use stdout or stderr.")
    return attempt_folder(root, folder) / stream
