"""What one installation accepts, beside what the API itself says. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gateway.batch.catalogue import Catalogue


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator has decided on.

    xml_only: whether `cos://` paths must have the XML domain, as the user guide asks. quotas:
    whether the vendor's numbers of jobs, environments and templates hold.
    """

    catalogue: Catalogue = field(default_factory=Catalogue)
    xml_only: bool = False
    quotas: bool = False

    def at(self, zones: Sequence[str]) -> "Rules":
        """The same, where nodes go into one of these zones."""
        return replace(self, catalogue=self.catalogue.at(zones))
