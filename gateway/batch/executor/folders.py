"""Where things are in the executor's folder, and which folder no attempt can have. Pure."""

import errno
import re
from pathlib import Path
from typing import Final

from gateway.errors import InvalidParameterValue

SOCKET: Final = "executor.sock"
ATTEMPTS: Final = "attempts"
WORK: Final = "work"
TMP: Final = "tmp"
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})  # how a full disk refuses
SCRATCH: Final = "container"  # what only an attempt's container needs, its variables too
SPARE: Final = "spare"
NODES: Final = "nodes"
STREAMS: Final = ("stdout", "stderr")
LOG_MODE: Final = 0o640
FOLDER_BYTES_MAX: Final = 1_024
_PART: Final = r"(?!(?:work|tmp|container|stdout|stderr)(?:/|$))[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}"
_FOLDER: Final = re.compile(rf"{_PART}(?:/{_PART})*")


def attempt_folder(root: Path, folder: str) -> Path:
    """The folder of one attempt below the executor's root. Raises InvalidParameterValue."""
    check_folder(folder)
    return root / ATTEMPTS / folder


def check_folder(folder: str) -> None:
    """Refuse a folder that could lead out of the root, or to where another attempt writes.

    Raises InvalidParameterValue.
    """
    if len(folder) > FOLDER_BYTES_MAX or _FOLDER.fullmatch(folder) is None:
        raise InvalidParameterValue(f"The folder {folder[:200]!r} is not one an attempt can have.")


def node_folder(root: Path, node_id: str) -> Path:
    """Where a node keeps what outlives its attempts. Raises InvalidParameterValue."""
    if len(node_id) > FOLDER_BYTES_MAX or re.fullmatch(_PART, node_id) is None:
        raise InvalidParameterValue(f"The node {node_id[:200]!r} cannot have a folder.")
    return root / NODES / node_id


def log_file(root: Path, folder: str, *, stream: str) -> Path:
    """Where the bytes of `stream`, "stdout" or "stderr", of an attempt are.

    Raises InvalidParameterValue for another stream or a folder that leads elsewhere.
    """
    if stream not in STREAMS:
        raise InvalidParameterValue(f"There is no stream {stream[:20]!r}: use stdout or stderr.")
    return attempt_folder(root, folder) / stream
