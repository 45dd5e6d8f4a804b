"""What is mounted where a process is, as the kernel tells it in `/proc/<pid>/mountinfo`. Pure.

Source: proc_pid_mountinfo(5).
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountLine:
    """A mount. root: the folder of its file system that is seen. options: of the file system."""

    root: str
    point: str
    kind: str
    options: str


def mount_lines(text: str) -> Iterator[MountLine]:
    """The mounts in the order of the text, which was read with `surrogateescape`."""
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        root, point = left.split(" ")[3:5]
        yield MountLine(unescaped(root), unescaped(point), kind, options)


def unescaped(path: str) -> str:
    """A path without the kernel's escapes: three octal digits for blanks, backslashes and such."""
    plain = _ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), os.fsencode(path))
    return os.fsdecode(plain)
