"""Reading files in an attempt's folder, where a command without a sandbox may put anything.

A link is not followed, and a pipe makes nobody wait.
"""

import errno
import os
import stat
from typing import Final

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def read_left(path: str, *, bytes_max: int) -> bytes:
    """The bytes of a file, `bytes_max` at most. Raises OSError, also for what is no file."""
    descriptor = os.open(path, _READ)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(bytes_max)
    finally:
        os.close(descriptor)
