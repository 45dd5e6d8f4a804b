"""What the engine offers: images, instance types, machines. Pure.

Source: the user guide names three public images; the families are DescribeInstanceCategories' own
example.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


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


IMAGES = (
    Image("img-31tjrtph", "CentOS 7.2 64bit", "linux", has_cloud_init=True),
    Image(
        "img-er9shcln", "Windows Server 2012 R2 Standard English", "windows", has_cloud_init=True
    ),
    Image("img-pyqx34y1", "Ubuntu Server 16.04.1 LTS 64bit", "linux", has_cloud_init=True),
)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything on offer, by id."""

    images: Mapping[str, Image] = field(
        default_factory=lambda: MappingProxyType({image.id: image for image in IMAGES})
    )
    machines: Mapping[str, Machine] = field(default_factory=lambda: MappingProxyType({}))

    def why_not_made(self, image_id: str | None) -> str:
        """Why no node can be made from an image, in words; "" if one can. None: the default image.

        Batch sets a node up through cloud-init; commands run on the Linux of this machine.
        """
        if not image_id:
            return ""
        image = self.images.get(image_id)
        if image is None:
            return f"There is no image {image_id}; images of your own are added in the catalogue."
        if not image.has_cloud_init:
            return f"The image {image_id} ({image.name}) has no cloud-init."
        if image.system != "linux":
            return f"The image {image_id} ({image.name}) is Windows; this engine runs Linux."
        return ""
