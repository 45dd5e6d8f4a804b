"""What is known of a call, by the condition keys that policies use."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import islice

from gateway.call import Call, HttpRequest, Principal
from gateway.clock import wire_time
from gateway.config import Settings, SettingsError
from gateway.errors import InvalidParameterValue
from gateway.policy.condition import Address, caller_context, read_ip
from gateway.policy.trust import EXTERNAL_ID

FORWARDED = "x-forwarded-for"
TAGS_MAX = 50
TAG_LISTS = (("Tags",), ("Job", "Tags"), ("ComputeEnv", "Tags"))
"""Where calls that make something write its tags."""
_TAGGED = frozenset(place[0] for place in TAG_LISTS)


@dataclass(frozen=True, slots=True)
class Edge:
    """The proxies in front of the gateway, whose word about a caller is taken.

    vpc_header: the header in which they name the caller's private network; empty for none.
    """

    proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    vpc_header: str = ""

    @classmethod
    def of(cls, settings: Settings) -> "Edge":
        """Read the settings. Raises SettingsError for what is no network."""
        written = settings.trusted_proxies.replace(",", " ").split()
        try:
            networks = tuple(ip_network(one) for one in written)
        except ValueError as error:
            raise SettingsError(f"`trusted_proxies`: {error}") from error
        return cls(networks, settings.vpc_header.lower())

    def source_ip(self, request: HttpRequest) -> str:
        """The address of the caller: of the last hop that is none of the proxies."""
        if not self.proxies:
            return _in_its_own_form(request.source_ip)
        hops = request.headers.get(FORWARDED, "").split(",")
        address = _find_address(request.source_ip)
        if address is None:
            return request.source_ip
        while hops and self._is_proxy(address):
            before = _find_address(hops.pop().strip())
            if before is None:
                break
            address = before
        return str(address)

    def vpc(self, request: HttpRequest) -> tuple[str, ...]:
        """The caller's private network, if a proxy names one."""
        value = request.headers.get(self.vpc_header, "") if self.vpc_header else ""
        if not value:
            return ()
        address = _find_address(request.source_ip)
        return (value,) if address is not None and self._is_proxy(address) else ()

    def _is_proxy(self, address: Address) -> bool:
        return any(address in network for network in self.proxies)


def _find_address(text: str) -> Address | None:
    try:
        return read_ip(text)
    except ValueError:
        return None


@lru_cache(maxsize=4_096)
def _in_its_own_form(text: str) -> str:
    address = _find_address(text)
    return text if address is None else str(address)


def context_of(
    call: Call, principal: Principal, *, vpc: tuple[str, ...], app_id: str = ""
) -> dict[str, tuple[str, ...]]:
    """The keys of one call; a key that is not known is left out.

    app_id: the account's, which only fills the policy variable. Raises InvalidParameterValue for
    more tags than anything can have: what is known of a call is kept in its record.
    """
    known = {
        "qcs:ip": (call.source_ip,),
        "qcs:current_time": (wire_time(call.received_at),),
        **caller_context(principal),
    }
    if not _TAGGED.isdisjoint(call.params) and (tags := _request_tags(call.params)):
        known["qcs:request_tag"] = tags
    if vpc:
        known["qcs:vpc"] = vpc
    if app_id:
        known["qcs:app_id"] = (app_id,)
    external_id = call.params.get("ExternalId") if call.action == "AssumeRole" else None
    if isinstance(external_id, str) and external_id:
        known[EXTERNAL_ID] = (external_id,)
    return known


def _request_tags(params: Mapping[str, object]) -> tuple[str, ...]:
    """Every tag the call wants to give, as `key&value`."""
    tags = tuple(islice(_tags(params), TAGS_MAX + 1))
    if len(tags) > TAGS_MAX:
        raise InvalidParameterValue(f"There are more than {TAGS_MAX} tags.", detail="LimitExceeded")
    return tags


def _tags(params: Mapping[str, object]) -> Iterator[str]:
    """What is no tag is refused later, by the service. Raises InvalidParameterValue.

    Why a key has no `&`: its tag would read like another one's.
    """
    for place in TAG_LISTS:
        found: object = params
        for name in place:
            found = found.get(name) if isinstance(found, Mapping) else None
        for tag in found if isinstance(found, list) else [found]:
            if isinstance(tag, Mapping):
                key = tag.get("Key", tag.get("TagKey"))
                value = tag.get("Value", tag.get("TagValue"))
                if "&" in str(key):
                    raise InvalidParameterValue(f"The key of a tag has an `&`: `{key}`.")
                yield f"{key}&{'' if value is None else value}"
