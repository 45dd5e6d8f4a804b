"""Where pushes may go: public addresses, and what the settings allow."""

import socket
import threading
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network

import anyio
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.cmq.push.addresses import AddressRefused, Reach
from gateway.cmq.push.posting import RESOLVERS, Resolver
from gateway.config import Settings, SettingsError
from gateway.store import Store
from tests.support.events import eventually
from tests.support.pushing import Pushing
from tests.support.receiver import open_receiver, status

ANY = "0.0.0.0"  # noqa: S104  # connecting to it is connecting to this machine
PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "172.32.0.1",
    "192.167.255.255",
    "2001:4860:4860::8888",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]
NOT_PUBLIC = [
    *(ANY, "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254"),
    *("168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1"),
    *("192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::127.0.0.1", "fe80::1", "fe80::1%lo", "fc00::1", "fd12:3456::1", "fec0::1"),
    *("ff02::1", "2001::1", "2001:0:a00:1::", "2001:db8::1", "3fff::1", "100::1", "64:ff9b:1::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::1"),
    *("2130706433", "127.1", "0x7f.1", "localhost", "", "/run/some.sock", "2001:4860::1%eth0"),
]
EVERYWHERE = Reach((ip_network("0.0.0.0/0"), ip_network("::/0")))
SIX_TO_FOUR = ip_network("2002::/16")  # judged by the address inside


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_pushed_to(address: str) -> None:
    assert Reach().allows(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_nothing_else_may(address: str) -> None:
    assert not Reach().allows(address)


@given(address=st.one_of(st.ip_addresses(v=4), st.ip_addresses(network="2000::/3")))
def test_what_python_calls_private_is_never_public(address: IPv4Address | IPv6Address) -> None:
    assume(address not in SIX_TO_FOUR)
    if address.is_private or address.is_multicast or address.is_reserved:
        assert not Reach().allows(str(address))


@pytest.mark.parametrize(
    ("networks", "address", "allowed"),
    [
        ("127.0.0.0/8", "127.0.0.1", True),
        ("127.0.0.0/8", "::ffff:127.0.0.1", True),
        ("127.0.0.0/8", "::1", False),
        ("127.0.0.0/8", "10.0.0.1", False),
        ("127.0.0.0/8 ::1", "::1", True),
        ("10.0.0.0/8,192.168.7.1", "10.255.0.1", True),
        ("10.0.0.0/8,192.168.7.1", "192.168.7.1", True),
        ("10.0.0.0/8,192.168.7.1", "192.168.7.2", False),
        ("10.0.0.0/8", "169.254.169.254", False),
        ("fd00::/8", "fd12::1", True),
        ("fd00::/8", "fc00::1", False),
        ("::/0", "127.0.0.1", False),
        ("::/0", "::ffff:127.0.0.1", False),
    ],
)
def test_the_settings_allow_more(networks: str, address: str, allowed: bool) -> None:
    reach = Reach.of(replace(Settings(), push_networks=networks))
    assert reach.allows(address) is allowed


@pytest.mark.parametrize("networks", ["loopback", "10.0.0.0/33", "10.0.0.1/8", "127.0.0.1;"])
def test_what_is_no_network_is_a_mistake_in_the_settings(networks: str) -> None:
    with pytest.raises(SettingsError, match="push_networks"):
        Reach.of(replace(Settings(), push_networks=networks))


def test_no_socket_of_another_kind_is_made() -> None:
    with pytest.raises(AddressRefused):
        EVERYWHERE.open_socket((socket.AF_UNIX, socket.SOCK_STREAM, 0, "", ("/run/some.sock",)))


@pytest.mark.anyio
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::1]", ANY]
)
async def test_an_endpoint_inside_is_never_connected_to(store: Store, host: str) -> None:
    pushing = await Pushing.open(store)
    async with open_receiver() as inside, pushing.running(reach=Reach()):
        await pushing.subscribe(f"http://{host}:{inside.port}/")
        await pushing.publish(b"one")
        failed = await pushing.until_failed(1)
    assert "is not public, and not allowed here" in failed.why
    assert inside.connections == 0


@pytest.mark.anyio
async def test_a_redirect_inside_leads_nowhere(store: Store) -> None:
    pushing = await Pushing.open(store)
    metadata = "http://169.254.169.254/latest/meta-data/"
    async with open_receiver() as receiver, pushing.running():
        receiver.wrong.append(status("302 Found", f"Location: {metadata}"))
        await pushing.subscribe(receiver.url)
        await pushing.publish(b"one")
        failed = await pushing.until_failed(1)
        assert failed.why == "the answer was 302"
        pushing.pass_time(seconds=1)
        await eventually(lambda: len(receiver.requests) == 2)


@pytest.mark.anyio
async def test_a_name_that_was_found_quickly_never_waits_behind_those_that_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = threading.Event()

    def ask(host: str, *_: object, **__: object) -> list[object]:
        if host.startswith("slow"):
            release.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    resolver = Resolver()
    try:
        await resolver.resolve("quick.example", 80)
        async with anyio.create_task_group() as tasks:
            for number in range(2 * RESOLVERS):
                tasks.start_soon(resolver.resolve, f"slow-{number}.example")
            with anyio.fail_after(5):
                (found,) = await resolver.resolve("quick.example", 80)
            assert found["host"] == "127.0.0.1"
            release.set()
    finally:
        release.set()
        await resolver.close()


@pytest.mark.anyio
async def test_a_name_is_pushed_to_where_it_leads(store: Store) -> None:
    pushing = await Pushing.open(store)
    async with open_receiver() as receiver, pushing.running():
        await pushing.subscribe(f"http://localhost:{receiver.port}/cgi")
        await pushing.publish(b"one")
        await pushing.until_delivered(1)
