"""What one installation accepts, beside what the API itself says. Pure."""

from dataclasses import dataclass, field

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


DEFAULT_RULES = Rules()
