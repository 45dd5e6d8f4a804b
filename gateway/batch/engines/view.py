"""How a command sees its machine: where its own things are, and what is the system's. Pure."""

from collections.abc import Iterable
from typing import Final

WORK: Final = "/work"
TMP: Final = "/tmp"  # noqa: S108  # a mount point of what the command sees
_SYSTEM: Final = frozenset({"bin", "boot", "dev", "etc", "proc", "run", "sbin", "sys", "usr"})
_LIBRARIES: Final = "lib"  # lib, lib32, lib64, libx32


def is_of_the_system(path: str) -> bool:
    """Whether a clean, absolute path is the root, or at or below a folder of the system's own."""
    top = path.split("/")[1]
    is_run = f"{path}/".startswith("/var/run/")  # which is /run
    return not top or top in _SYSTEM or top.startswith(_LIBRARIES) or is_run


def nearest_above(path: str, places: Iterable[str]) -> str:
    """Which of the places holds a path most closely or is the same; "" for none. All are clean."""
    above = (each for each in places if f"{path}/".startswith(f"{each}/"))
    return max(above, key=len, default="")
