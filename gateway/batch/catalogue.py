"""What the engine offers: images, instance types, zones, machines. Pure but for `read_catalogue`.

An operator's own, as a TOML file:

[[image]]                      # added to the three public ones of the user guide
id = "img-0custom1"
name = "Ubuntu 24.04"
system = "linux"               # or "windows"
cloud_init = true              # optional

[[instance_type]]              # if there is any, these are offered and no others
name = "S5.SMALL2"
family = "S5"
cpu = 1
mem_gib = 2
zones = ["ap-guangzhou-3"]     # optional; everywhere
charge_types = ["SPOTPAID"]    # optional; both
category = "GENERAL_3"         # optional

[[zone]]                       # if there is any, no other zone exists
id = "ap-guangzhou-3"
open = false                   # optional; nothing can be put into a closed zone

[[machine]]                    # what AttachInstances may bring into an environment
id = "ins-rack0001"
cpu = 32
mem_gib = 128
address = "10.0.0.7"           # IPv4
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from gateway import ids
from gateway.batch.instance_types import (
    BUILT_IN,
    CATEGORIES,
    CHARGE_TYPES,
    InstanceType,
    Size,
    find_category,
    find_size,
)
from gateway.config import SettingsError
from gateway.strict_toml import Table, TomlRefused

CORES_MAX = 1_024  # our limit
MEM_MAX_GIB = 65_536  # our limit
ENTRIES_MAX = 1_000  # our limit, of each kind
OFFERS_MAX = 4_000
"""Our limit of types times zones in one region: one answer tells them all."""
IMAGES_NAMED_MAX = 5
"""How many images are named to who asks for one that is not there."""
SYSTEMS = ("linux", "windows")
ZONES_PER_REGION = 4
"""How many zones a region shows when none are declared: `<region>-1` and on."""
_ZONE = re.compile(r"(?P<region>[a-z]{2,}(?:-[a-z0-9]+)+)-[1-9][0-9]?")
_TYPE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")


@dataclass(frozen=True, slots=True)
class Image:
    """An image that nodes are made from. system: "linux" or "windows"."""

    id: str
    name: str
    system: str
    has_cloud_init: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that AttachInstances may bring into an environment. id: `ins-` and eight more."""

    id: str
    cpu: int
    mem_gib: int
    address: str


@dataclass(frozen=True, slots=True)
class Zone:
    """A place nodes can be put into, unless it is closed."""

    id: str
    is_open: bool = True


IMAGES = (
    Image("img-31tjrtph", "CentOS 7.2 64bit", "linux", has_cloud_init=True),
    Image(
        "img-er9shcln", "Windows Server 2012 R2 Standard English", "windows", has_cloud_init=True
    ),
    Image("img-pyqx34y1", "Ubuntu Server 16.04.1 LTS 64bit", "linux", has_cloud_init=True),
)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything on offer, by id or name. zones: those declared; none means all that have a name.

    listed: the types of an operator's list that are offered near, smallest first; None without a
    list. near: the zones that are looked in; none means all. Nothing here costs anything, and
    nothing is ever sold out.
    """

    images: Mapping[str, Image] = field(
        default_factory=lambda: MappingProxyType({image.id: image for image in IMAGES})
    )
    machines: Mapping[str, Machine] = field(default_factory=lambda: MappingProxyType({}))
    instance_types: Mapping[str, InstanceType] = field(
        default_factory=lambda: MappingProxyType({each.name: each for each in BUILT_IN})
    )
    zones: Mapping[str, Zone] = field(default_factory=lambda: MappingProxyType({}))
    listed: tuple[InstanceType, ...] | None = None
    near: frozenset[str] = frozenset()

    def why_not_made(self, image_id: str | None) -> str:
        """Why no node can be made from an image, in words; "" if one can. None: the default image.

        Batch sets a node up through cloud-init; commands run on the Linux of this machine.
        """
        if not image_id:
            return ""
        image = self.images.get(image_id)
        if image is None:
            return (
                f"There is no image {image_id}. Nodes can be made from {self._usable_images()};"
                " images of your own are added in the catalogue."
            )
        if not image.has_cloud_init:
            return f"The image {image_id} ({image.name}) has no cloud-init."
        if image.system != "linux":
            return f"The image {image_id} ({image.name}) is Windows; this engine runs Linux."
        return ""

    def _usable_images(self) -> str:
        usable = [i.id for i in self.images.values() if not self.why_not_made(i.id)]
        more = len(usable) - IMAGES_NAMED_MAX
        named = ", ".join(usable[:IMAGES_NAMED_MAX]) or "none"
        return f"{named} and {more} more" if more > 0 else named

    def at(self, zones: Sequence[str]) -> "Catalogue":
        """The same, where nodes go into one of these zones."""
        near = frozenset(zones)
        if self.listed is None:
            return replace(self, near=near)
        listed = tuple(each for each in self.listed if _is_in(each, near))
        return replace(self, near=near, listed=listed)

    def why_unknown(self, instance_type: str) -> str:
        """Why there is no such type, in words; "" if there is.

        Why one that no table has may be known, if its name follows CVM's rule and no operator has
        listed others: jobs written for the cloud must run, and it has more types than any table.
        """
        if self.listed is not None and instance_type not in self.instance_types:
            return (
                f"The instance type `{instance_type}` is not offered;"
                " DescribeAvailableCvmInstanceTypes tells those that are."
            )
        if self.find_size(instance_type) is None:
            return f"The instance type `{instance_type}` does not exist."
        return ""

    def why_not_offered(self, instance_type: str, *, charge_type: str) -> str:
        """Why no node of a type can be had so, in words; "" if one can."""
        why = self.why_unknown(instance_type)
        if why or self.listed is None:
            return why
        known = self.instance_types[instance_type]
        if charge_type not in known.charge_types:
            ways = " and ".join(known.charge_types)
            return (
                f"The instance type `{instance_type}` is offered as {ways} only,"
                f" not as {charge_type}."
            )
        if not _is_in(known, self.near):
            where = ", ".join(sorted(self.near))
            return f"The instance type `{instance_type}` is not offered in {where}."
        return ""

    def offered(self, *, charge_type: str) -> Iterator[InstanceType]:
        """The listed types that can be had so, smallest first."""
        return (each for each in self.listed or () if charge_type in each.charge_types)

    def find_size(self, instance_type: str) -> Size | None:
        """How large nodes of a type are, offered or not; None if its name does not tell it."""
        known = self.instance_types.get(instance_type)
        return known.size if known is not None else find_size(instance_type)

    def zones_of(self, region: str) -> tuple[str, ...]:
        """The open zones of a region, in order."""
        if not self.zones:
            return tuple(f"{region}-{number}" for number in range(1, ZONES_PER_REGION + 1))
        return tuple(
            zone.id for zone in self.zones.values() if zone.is_open and region_of(zone.id) == region
        )

    @property
    def categories(self) -> Mapping[str, tuple[str, ...]]:
        """The families on offer by category; a category without any is left out."""
        types = self.instance_types.values()
        known: dict[str, tuple[str, ...]] = {}
        for name, families in CATEGORIES.items():
            order = {family: number for number, family in enumerate(families)}
            found = {each.family for each in types if each.category == name}
            if found:
                known[name] = tuple(sorted(found, key=lambda f: (order.get(f, len(order)), f)))
        return known


def _is_in(each: InstanceType, zones: frozenset[str]) -> bool:
    """Whether a type is offered in one of the zones; none means anywhere."""
    return not (zones and each.zones) or not zones.isdisjoint(each.zones)


def region_of(zone: str) -> str:
    """The region that a zone's name tells; "" if it is no zone's name."""
    match = _ZONE.fullmatch(zone)
    return match["region"] if match else ""


def read_catalogue(path: str) -> Catalogue:
    """Read the operator's file; "" means the built-in one. Raises SettingsError."""
    if not path:
        return Catalogue()
    try:
        return parse_catalogue(Path(path).read_text(encoding="utf-8"), where=Path(path).name)
    except (OSError, UnicodeDecodeError, TomlRefused) as error:
        raise SettingsError(f"catalogue: {error}") from error


def parse_catalogue(text: str, *, where: str) -> Catalogue:
    """Read a catalogue. Raises TomlRefused, naming the table and what is wrong in it."""
    file = Table.read(text, where=where)
    images = {image.id: image for image in IMAGES}
    images |= _by_key(file, "image", _read_image, key="id")
    zones = _by_key(file, "zone", _read_zone, key="id")
    types = _by_key(file, "instance_type", _read_type, key="name")
    machines = _by_key(file, "machine", _read_machine, key="id")
    file.close()
    for each in types.values():
        missing = [zone for zone in each.zones if zones and zone not in zones]
        if missing:
            raise file.refused(f"{each.name} is offered in {missing[0]}, which is no [[zone]]")
    made = Catalogue(
        images=MappingProxyType(images),
        machines=MappingProxyType(machines),
        instance_types=MappingProxyType(types) if types else Catalogue().instance_types,
        zones=MappingProxyType(zones),
        listed=_smallest_first(types.values()) if types else None,
    )
    for region in sorted({region_of(zone) for zone in zones}):
        if _count_offers(made, region) > OFFERS_MAX:
            raise file.refused(
                f"in {region} there are more than {OFFERS_MAX} [[instance_type]] times [[zone]]"
            )
    return made


def _smallest_first(types: Iterable[InstanceType]) -> tuple[InstanceType, ...]:
    return tuple(sorted(types, key=lambda each: (each.size.cpu, each.size.mem_gib, each.name)))


def _count_offers(catalogue: Catalogue, region: str) -> int:
    """How many types its zones offer together. Undeclared zones are too few to matter."""
    zones = set(catalogue.zones_of(region))
    types = catalogue.instance_types.values()
    return sum(len(zones.intersection(each.zones) if each.zones else zones) for each in types)


K = TypeVar("K", Image, Zone, InstanceType, Machine)


def _by_key(file: Table, name: str, read: Callable[[Table], K], *, key: str) -> dict[str, K]:
    found: dict[str, K] = {}
    tables = file.tables(name)
    if len(tables) > ENTRIES_MAX:
        raise file.refused(f"there are more than {ENTRIES_MAX} [[{name}]]")
    for table in tables:
        one = read(table)
        table.close()
        its_key = str(getattr(one, key))
        if its_key in found:
            raise table.refused(f"`{key}` {its_key} is there twice")
        found[its_key] = one
    return found


def _read_image(table: Table) -> Image:
    image_id = table.text("id")
    if not ids.is_id(image_id, "img"):
        raise table.refused("`id` must be img- and eight letters or digits")
    if any(image.id == image_id for image in IMAGES):
        raise table.refused(f"`id` {image_id} is a public image's")
    name = table.text("name", default=image_id)
    system = table.choice("system", SYSTEMS, default="linux")
    has_cloud_init = table.flag("cloud_init") if table.has("cloud_init") else True
    return Image(image_id, name, system, has_cloud_init=has_cloud_init)


def _read_zone(table: Table) -> Zone:
    return Zone(_zone(table, table.text("id")), table.flag("open") if table.has("open") else True)


def _zone(table: Table, name: str) -> str:
    if not region_of(name):
        raise table.refused(f"{name!r} is no zone's name, such as ap-guangzhou-3")
    return name


def _read_type(table: Table) -> InstanceType:
    name, family = table.text("name"), table.text("family")
    if not _TYPE_NAME.fullmatch(name) or not _TYPE_NAME.fullmatch(family):
        raise table.refused("`name` and `family` must be of letters, digits, `.`, `_` and `-`")
    zones = tuple(_zone(table, zone) for zone in table.texts("zones"))
    charge_types = table.texts("charge_types", default=CHARGE_TYPES)
    for charge_type in charge_types:
        if charge_type not in CHARGE_TYPES:
            raise table.refused(f"`charge_types` may hold {' and '.join(CHARGE_TYPES)}")
    category = table.choice("category", ("", *CATEGORIES), default=find_category(family))
    return InstanceType(
        name,
        family,
        _read_size(table),
        kind=name,
        zones=zones,
        charge_types=charge_types,
        category=category,
    )


def _read_size(table: Table) -> Size:
    return Size(
        cpu=_number(table, "cpu", most=CORES_MAX),
        mem_gib=_number(table, "mem_gib", most=MEM_MAX_GIB),
    )


def _number(table: Table, name: str, *, most: int) -> int:
    if not table.has(name):
        raise table.refused(f"`{name}` is missing")
    return table.integer(name, default=1, least=1, most=most)


def _read_machine(table: Table) -> Machine:
    machine_id, address = table.text("id"), table.text("address")
    if not ids.is_id(machine_id, "ins"):
        raise table.refused("`id` must be ins- and eight letters or digits")
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        raise table.refused("`address` must be an IPv4 address") from None
    size = _read_size(table)
    return Machine(machine_id, size.cpu, size.mem_gib, address)
