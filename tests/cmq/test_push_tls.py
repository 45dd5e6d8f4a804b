"""HTTPS: the receiver's certificate is checked, by the system's authorities or by given ones."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.store import Store
from tests.support.pushing import Pushing
from tests.support.receiver import open_receiver

pytestmark = pytest.mark.anyio
DAY = timedelta(days=1)


class Authority:
    """A certificate authority of a test's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        own = self._builder(self._name, self._key, until=DAY)
        self._certificate = own.add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        ).sign(self._key, hashes.SHA256())

    @property
    def trusted(self) -> ssl.SSLContext:
        """What a client checks with that trusts this authority alone."""
        pem = self._certificate.public_bytes(serialization.Encoding.PEM).decode()
        return ssl.create_default_context(cadata=pem)

    def issue(self, address: str = "127.0.0.1", *, until: timedelta = DAY) -> ssl.SSLContext:
        """What a server for an address shows."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver")])
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
        builder = self._builder(subject, key, until=until).add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        path = self._folder / "receiver.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(path)
        return context

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, until: timedelta
    ) -> x509.CertificateBuilder:
        today = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(today - 2 * DAY)
            .not_valid_after(today + until)
        )


@pytest.fixture
async def pushing(store: Store) -> Pushing:
    return await Pushing.open(store)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def push_in_vain(
    pushing: Pushing, shown: ssl.SSLContext, trusted: ssl.SSLContext | None
) -> str:
    """Why a push to a server that shows this was a failure; nothing may have reached it."""
    async with open_receiver(tls=shown) as receiver, pushing.running(tls=trusted):
        await pushing.subscribe(receiver.url)
        await pushing.publish(b"one")
        failed = await pushing.until_failed(1)
    assert receiver.requests == []
    return str(failed.why)


async def test_a_certificate_that_holds_is_pushed_to(
    pushing: Pushing, authority: Authority
) -> None:
    async with (
        open_receiver(tls=authority.issue()) as receiver,
        pushing.running(tls=authority.trusted),
    ):
        assert receiver.url.startswith("https://")
        await pushing.subscribe(receiver.url)
        await pushing.publish(b"one", b"two")
        await pushing.until_delivered(2)
    assert (receiver.bodies, receiver.connections) == ([b"one", b"two"], 1)


async def test_the_system_does_not_trust_just_anybody(
    pushing: Pushing, authority: Authority
) -> None:
    why = await push_in_vain(pushing, authority.issue(), None)
    assert why == "the certificate is not valid: unable to get local issuer certificate"


async def test_a_certificate_of_another_host_is_refused(
    pushing: Pushing, authority: Authority
) -> None:
    why = await push_in_vain(pushing, authority.issue("127.0.0.2"), authority.trusted)
    assert why.startswith("the certificate is not valid: IP address mismatch")


async def test_an_old_certificate_is_refused(pushing: Pushing, authority: Authority) -> None:
    why = await push_in_vain(pushing, authority.issue(until=-DAY), authority.trusted)
    assert why == "the certificate is not valid: certificate has expired"


async def test_nothing_is_said_to_a_server_without_tls(
    pushing: Pushing, authority: Authority
) -> None:
    async with open_receiver() as receiver, pushing.running(tls=authority.trusted, answer_s=0.5):
        await pushing.subscribe(receiver.url.replace("http:", "https:"))
        await pushing.publish(b"one")
        await pushing.until_failed(1)
    assert (receiver.connections, receiver.requests) == (1, [])
