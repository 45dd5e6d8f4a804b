"""A real RabbitMQ that speaks TLS only with those whose certificate it trusts."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.config import SettingsError
from gateway.events.bus import Binding, LoginRefused, Outcome, Route
from gateway.events.rabbitmq import open_rabbitmq
from tests.support.certificates import Authority
from tests.support.events import message
from tests.support.services import LOOPBACK, RabbitMQ, free_port, private_folder

CONFIRM_S = 10.0
ROUTE = Route("cmq.tls", (Binding("cmq.tls-reader", "#"),))
CONFIGURATION = """
listeners.ssl.1 = {address}:{port}
ssl_options.cacertfile = {authority}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {key}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
"""


@dataclass(frozen=True)
class TlsBroker:
    """A broker whose certificate names 127.0.0.1. files: what its client needs."""

    port: int
    authority: Authority
    files: dict[str, str] = field(default_factory=dict)

    def url(self, *, host: str = LOOPBACK, login: str = "guest:guest", query: str = "") -> str:
        return f"amqps://{login}@{host}:{self.port}/{query}"


@pytest.fixture(scope="module")
def broker() -> Iterator[TlsBroker]:
    with private_folder("tls") as folder, closing(RabbitMQ(folder)) as server:
        authority = Authority(folder)
        own = authority.issue("broker", host=LOOPBACK)
        port = free_port()
        (folder / "rabbitmq.conf").write_text(
            CONFIGURATION.format(
                address=LOOPBACK,
                port=port,
                authority=authority.certificate,
                certificate=own.certificate,
                key=own.key,
            )
        )
        server.start()
        client = authority.issue("gateway")
        files = {
            "ca_file": str(authority.certificate),
            "cert_file": str(client.certificate),
            "key_file": str(client.key),
        }
        yield TlsBroker(port, authority, files)


@pytest.mark.anyio
async def test_messages_are_published_over_tls_with_a_certificate_of_our_own(
    broker: TlsBroker,
) -> None:
    async with open_rabbitmq(broker.url(), confirm_s=CONFIRM_S, **broker.files) as bus:
        await bus.declare(ROUTE)
        assert await bus.publish(ROUTE, [message(1)]) == [Outcome.CONFIRMED]


async def refused(url: str, **files: str) -> str:
    async with open_rabbitmq(url, confirm_s=CONFIRM_S, **files) as bus:
        with pytest.raises(LoginRefused) as caught:
            await bus.connect()
        assert await bus.publish(ROUTE, [message(1)]) == [Outcome.LOST]
    return str(caught.value)


@pytest.mark.anyio
async def test_a_broker_of_another_authority_is_not_spoken_to(
    broker: TlsBroker, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    why = await refused(broker.url(), **{**broker.files, "ca_file": str(other.certificate)})
    assert "certificate verify failed" in why


@pytest.mark.anyio
async def test_a_broker_that_the_system_does_not_know_is_not_spoken_to_whatever_the_url_says(
    broker: TlsBroker,
) -> None:
    files = {**broker.files, "ca_file": ""}
    assert "certificate verify failed" in await refused(
        broker.url(query="?no_verify_ssl=1"), **files
    )


@pytest.mark.anyio
async def test_a_certificate_for_another_host_is_refused(broker: TlsBroker) -> None:
    assert "Hostname mismatch" in await refused(broker.url(host="localhost"), **broker.files)


@pytest.mark.anyio
async def test_a_gateway_without_a_certificate_is_told_that_one_is_asked_for(
    broker: TlsBroker,
) -> None:
    why = await refused(broker.url(), ca_file=str(broker.authority.certificate))
    assert "certificate required" in why


@pytest.mark.anyio
async def test_a_wrong_password_is_refused_and_not_repeated(
    broker: TlsBroker, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    why = await refused(broker.url(login="guest:s3cret-s3cret"), **broker.files)
    assert "ACCESS_REFUSED" in why
    out, err = capfd.readouterr()
    assert "s3cret" not in why + out + err + caplog.text


async def settings_error(url: str, **files: str) -> str:
    with pytest.raises(SettingsError) as caught:
        async with open_rabbitmq(url, confirm_s=CONFIRM_S, **files):
            pass
    return str(caught.value)


URL = "amqps://guest:guest@127.0.0.1/"


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["ca_file", "cert_file", "key_file"])
async def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    pair = Authority(tmp_path).issue("gateway")
    there = {"cert_file": str(pair.certificate), "key_file": str(pair.key)}
    found = await settings_error(URL, **{**there, name: "/nowhere.pem"})
    assert found == f"`amqp_{name}`: there is no file /nowhere.pem"


@pytest.mark.anyio
async def test_a_file_that_is_no_certificate_is_refused_at_the_start(tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    assert "`amqp_ca_file` cannot be used" in await settings_error(URL, ca_file=str(rubbish))
    assert "`amqp_cert_file` cannot be used" in await settings_error(URL, cert_file=str(rubbish))


@pytest.mark.anyio
async def test_a_key_that_wants_a_password_is_refused_rather_than_asked_for(
    tmp_path: Path,
) -> None:
    pair = Authority(tmp_path).issue("gateway", password="unknown")
    files = {"cert_file": str(pair.certificate), "key_file": str(pair.key)}
    assert "`amqp_cert_file` cannot be used" in await settings_error(URL, **files)


@pytest.mark.anyio
async def test_certificates_without_tls_are_a_mistake(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    plain = URL.replace("amqps", "amqp")
    found = await settings_error(plain, ca_file=str(authority.certificate))
    assert "amqps://" in found
