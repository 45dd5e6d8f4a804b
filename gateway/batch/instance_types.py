"""Instance types: the built-in table, and what a type's name says of its size. Pure.

Source: CVM's naming rule, `<family>.<size><memory in GiB>`: S1.SMALL1, S2.MEDIUM4, S5.2XLARGE16;
the families and their categories are those of DescribeInstanceCategories' own example, and the
types that other examples name.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DEFAULT = "S1.SMALL1"
CHARGE_TYPES = ("POSTPAID_BY_HOUR", "SPOTPAID")
CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "COMPUTE_3": ("C3", "CN3"),
    "COMPUTE_2": ("C2",),
    "GENERAL_2": ("S2", "S2ne", "I2", "D1", "M2"),
    "GENERAL_3": ("S3", "SN3ne", "S4", "I3", "M3", "M4"),
}
CATEGORY_WORDS = ("ALL", "GENERAL", "GENERAL_2", "GENERAL_3", "COMPUTE", "COMPUTE_2", "COMPUTE_3")
"""What InstanceTypeOptions may name."""

_NAME = re.compile(
    r"(?P<family>[A-Z0-9]{1,12}[a-z0-9]{0,6})\.(?P<size>SMALL|MEDIUM|LARGE|(?P<n>[1-9][0-9]?)?XLARGE)(?P<mem>[1-9][0-9]{0,4})"
)
_CORES = {"SMALL": 1, "MEDIUM": 2, "LARGE": 4, "XLARGE": 4}
_GENERAL = """
    SMALL1 SMALL2 SMALL4 MEDIUM2 MEDIUM4 MEDIUM8 LARGE4 LARGE8 LARGE16 2XLARGE8 2XLARGE16 2XLARGE32
    4XLARGE16 4XLARGE32 4XLARGE64
"""
_COMPUTE = "LARGE8 LARGE16 2XLARGE16 2XLARGE32 4XLARGE32 4XLARGE60 8XLARGE64 8XLARGE120"
_MEMORY = "SMALL8 MEDIUM16 LARGE32 2XLARGE64 4XLARGE128 8XLARGE256"
_DISK = "MEDIUM16 LARGE32 2XLARGE64 4XLARGE128"
_FAMILIES: Mapping[str, tuple[str, str]] = {
    "S1": ("Standard S1", _GENERAL),
    "S2": ("Standard S2", _GENERAL),
    "S2ne": ("Standard Network-optimized S2ne", _GENERAL),
    "S3": ("Standard S3", _GENERAL),
    "SN3ne": ("Standard Network-optimized SN3ne", _GENERAL),
    "S4": ("Standard S4", _GENERAL),
    "S5": ("Standard S5", _GENERAL),
    "SA5": ("Standard SA5", _GENERAL),
    "C2": ("Compute C2", _COMPUTE),
    "C3": ("Compute C3", _COMPUTE),
    "CN3": ("Compute Network-optimized CN3", _COMPUTE),
    "M2": ("MEM-optimized M2", _MEMORY),
    "M3": ("MEM-optimized M3", _MEMORY),
    "M4": ("MEM-optimized M4", _MEMORY),
    "I2": ("High IO I2", _DISK),
    "I3": ("High IO I3", _DISK),
    "D1": ("Big Data D1", "2XLARGE32 4XLARGE64 8XLARGE128"),
    "GN2": ("GPU GN2", "7XLARGE56 14XLARGE112"),
}


@dataclass(frozen=True, slots=True)
class Size:
    """How large a node is: cores and GiB of memory."""

    cpu: int
    mem_gib: int


@dataclass(frozen=True, slots=True)
class InstanceType:
    """A kind of node that can be asked for.

    kind: what people call it. zones: where it is offered; () means everywhere. category: one of
    CATEGORIES, or "".
    """

    name: str
    family: str
    size: Size
    kind: str
    zones: tuple[str, ...] = ()
    charge_types: tuple[str, ...] = CHARGE_TYPES
    category: str = ""


def find_size(instance_type: str) -> Size | None:
    """The size that the name tells; None if it is no instance type's name."""
    match = _NAME.fullmatch(instance_type)
    if match is None:
        return None
    cpu = 4 * int(match["n"]) if match["n"] else _CORES[match["size"]]
    return Size(cpu=cpu, mem_gib=int(match["mem"]))


def find_category(family: str) -> str:
    """The category of a family; "" for one that no category names."""
    return next((name for name, families in CATEGORIES.items() if family in families), "")


def is_meant(category: str, words: Sequence[str]) -> bool:
    """Whether types of a category are meant by what InstanceTypeOptions names; nothing is `ALL`.

    words: of CATEGORY_WORDS. `GENERAL` and `COMPUTE` mean every generation.
    """
    meant = {category, category.rpartition("_")[0] or "ALL", "ALL"}
    return not words or not meant.isdisjoint(words)


def _built_in() -> tuple[InstanceType, ...]:
    made = []
    for family, (kind, sizes) in _FAMILIES.items():
        for written in sizes.split():
            name = f"{family}.{written}"
            size = find_size(name)
            if size is None:
                raise ValueError(f"{name} breaks the naming rule")
            made.append(InstanceType(name, family, size, kind, category=find_category(family)))
    return tuple(made)


BUILT_IN = _built_in()
