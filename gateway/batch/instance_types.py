"""What an instance type's name says of its size. Pure.

Source: CVM's naming rule, `<family>.<size><memory in GiB>`: S1.SMALL1, S2.MEDIUM4, S5.2XLARGE16.
"""

import re
from dataclasses import dataclass

DEFAULT = "S1.SMALL1"
_NAME = re.compile(
    r"(?P<family>[A-Z0-9]{1,12}[a-z0-9]{0,6})\.(?P<size>SMALL|MEDIUM|LARGE|(?P<n>[1-9][0-9]?)?XLARGE)(?P<mem>[1-9][0-9]{0,4})"
)
_CORES = {"SMALL": 1, "MEDIUM": 2, "LARGE": 4, "XLARGE": 4}


@dataclass(frozen=True, slots=True)
class Size:
    """How large a node is: cores and GiB of memory."""

    cpu: int
    mem_gib: int


def find_size(instance_type: str) -> Size | None:
    """The size that the name tells; None if it is no instance type's name."""
    match = _NAME.fullmatch(instance_type)
    if match is None:
        return None
    cpu = 4 * int(match["n"]) if match["n"] else _CORES[match["size"]]
    return Size(cpu=cpu, mem_gib=int(match["mem"]))
