"""What is known of a call, by the condition keys that policies use."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from gateway.call import Call, HttpRequest, Principal
from gateway.clock import wire_time
from gateway.config import Settings, SettingsError

FORWARDED = "x-forwarded-for"
TAG_LISTS = (("Tags",), ("Job", "Tags"), ("ComputeEnv", "Tags"))
"""Where calls that make something write its tags."""


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
        hops = request.headers.get(FORWARDED, "").split(",")
        address = request.source_ip
        while hops and self._is_proxy(address):
            before = hops.pop().strip()
            if not _is_address(before):
                break
            address = before
        return address

    def vpc(self, request: HttpRequest) -> tuple[str, ...]:
        """The caller's private network, if a proxy names one."""
        value = request.headers.get(self.vpc_header, "") if self.vpc_header else ""
        return (value,) if value and self._is_proxy(request.source_ip) else ()

    def _is_proxy(self, address: str) -> bool:
        if not self.proxies or not _is_address(address):
            return False
        return any(ip_address(address) in network for network in self.proxies)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def context_of(
    call: Call, principal: Principal, *, vpc: tuple[str, ...], app_id: str = ""
) -> dict[str, tuple[str, ...]]:
    """The keys of one call; a key that is not known is left out.

    app_id: the account's, which only fills the policy variable.

    Why `mfa` beside `qcs:mfa`: the vendor's general policies compare `mfa` with "0", newer pages
    write `qcs:mfa` and a boolean.
    """
    known = {
        "qcs:ip": (call.source_ip,),
        "qcs:current_time": (wire_time(call.received_at) or "",),
        "qcs:uin": (principal.uin,),
        "qcs:owner_uin": (principal.owner_uin,),
        "qcs:mfa": ("true" if principal.mfa else "false",),
        "mfa": ("1" if principal.mfa else "0",),
        "qcs:request_tag": tuple(_request_tags(call.params)),
        "qcs:vpc": vpc,
        "qcs:app_id": (app_id,) if app_id else (),
    }
    return {key: values for key, values in known.items() if values}


def _request_tags(params: Mapping[str, object]) -> Iterator[str]:
    """Every tag the call wants to give, as `key&value`. What is no tag is refused later."""
    for place in TAG_LISTS:
        found: object = params
        for name in place:
            found = found.get(name) if isinstance(found, Mapping) else None
        for tag in found if isinstance(found, list) else [found]:
            if isinstance(tag, Mapping):
                key = tag.get("Key", tag.get("TagKey"))
                value = tag.get("Value", tag.get("TagValue"))
                yield f"{key}&{'' if value is None else value}"
