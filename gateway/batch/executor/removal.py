"""Removing what attempts leave: what is empty at once, whatever else by a program of its own."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

REMOVE_S_MAX: Final = 600.0
PATHS_PER_CALL: Final = 200


def remove_empty(folder: str) -> bool:
    """Remove a folder that is empty, or not there; whether it is gone. It costs little."""
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def remove_trees(paths: Sequence[Path]) -> None:
    """Remove files and folders with all that is in them; what cannot be removed is left.

    Why by `rm`: a command may nest folders deeper than Python can recurse.
    """
    for begin in range(0, len(paths), PATHS_PER_CALL):
        subprocess.run(  # noqa: S603  # our own argv
            ["/bin/rm", "-rf", "--", *paths[begin : begin + PATHS_PER_CALL]],
            check=False,
            close_fds=False,
            timeout=REMOVE_S_MAX,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
