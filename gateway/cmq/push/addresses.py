"""Which addresses may be pushed to: public ones, and what the settings allow besides.

Asked for the very address that is connected to, after the name is resolved, so that no name and no
answer of a name server can lead inside. An address that is written in an endpoint is asked for when
it is subscribed, too: what could never be pushed is better refused than buried later.
"""

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohappyeyeballs import AddrInfoType

from gateway.config import Settings, SettingsError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NOT_PUBLIC: tuple[Network, ...] = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",
            "100.64.0.0/10",  # shared by a provider's customers
            "127.0.0.0/8",
            "168.63.129.16/32",  # a cloud's own service, on a public address
            "169.254.0.0/16",  # link-local, with the metadata services of clouds
            "172.16.0.0/12",
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation, as the two below
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",  # multicast, and what is reserved
            "2001::/23",  # protocol assignments, Teredo among them
            "2001:db8::/32",  # documentation, as the last one
            "2002::/16",  # 6to4: judged by the address inside
            "3fff::/20",
        ),
    )
)
_IPV6_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
"""Source: the special-purpose address registries of IANA. Why not `is_global`: what it says changed
between releases of Python, and multicast is global to it."""


class AddressRefused(OSError):
    """The address is not one to push to."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Where pushes may go. networks: what is allowed besides public addresses."""

    networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> "Reach":
        """Read the settings. Raises SettingsError for what is no network."""
        written = settings.push_networks.replace(",", " ").split()
        try:
            return cls(tuple(ip_network(one) for one in written))
        except ValueError as error:
            raise SettingsError(f"`push_networks`: {error}") from error

    def allows(self, text: str) -> bool:
        """Whether an address may be pushed to; what is no address may not."""
        try:
            address = _inner(ip_address(text))
        except ValueError:
            return False
        return _is_in(address, self.networks) or _is_public(address)

    def may_allow(self, host: str) -> bool:
        """Whether a host could be pushed to: a name could, an address must be allowed."""
        try:
            ip_address(host)
        except ValueError:
            return True
        return self.allows(host)

    def open_socket(self, info: AddrInfoType) -> socket.socket:
        """Make the socket of a connection. Raises AddressRefused if it must not be made."""
        family, kind, protocol, _, address = info
        if family not in (socket.AF_INET, socket.AF_INET6) or not self.allows(str(address[0])):
            raise AddressRefused(f"the address {address[0]} is not public, and not allowed here")
        return socket.socket(family=family, type=kind, proto=protocol)


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, if it does: mapped, 6to4, or NAT64."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and (address not in _IPV6_UNICAST or address.scope_id):
        return False
    return not _is_in(address, _NOT_PUBLIC)


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)
