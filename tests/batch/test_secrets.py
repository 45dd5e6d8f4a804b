"""Keys and passwords: masked where they are kept and shown, whole only for what needs them."""

import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from aiohttp import encode_basic_auth, web
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from gateway.batch import datatypes
from gateway.batch.secrets import (
    STARS,
    Secrets,
    Vault,
    encode_masked,
    is_masked,
    mask,
    mask_address,
)
from gateway.batch.staging import StagingFailed
from gateway.batch.tables import secret
from gateway.store import Store, StoreUnavailable, Tx, metadata
from tests.support.batch import SEALER, VAULT, Batch, a_task, eventually
from tests.support.staging import COS, Machine, package, put, web_server

pytestmark = pytest.mark.anyio
OVER = ("SUCCEED", "FAILED")
SECRET_ID = "AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE"
SECRET_KEY = "Gu5t9xGARNpq86cd98joQYCN3EXAMPLEkey"
PASSWORD = "correct-horse-battery"
LOGIN = "Aa12345678-login"
ALL = (SECRET_ID, SECRET_KEY, PASSWORD, LOGIN)
INPUT = {"SourcePath": f"{COS}input/", "DestinationPath": "/data/input/"}
KEYS = [{"Scene": "COS", "SecretId": SECRET_ID, "SecretKey": SECRET_KEY}]
DOCKER = {
    "DeliveryForm": "LOCAL",
    "Command": "true",
    "Docker": {"Image": "user/repo:1", "User": "me", "Password": PASSWORD},
}
ENV_DATA = {"InstanceType": "S1.SMALL1", "LoginSettings": {"Password": LOGIN}}


def secret_task(**members: Any) -> dict[str, Any]:
    return a_task(
        Application=DOCKER, Authentications=KEYS, ComputeEnv={"EnvData": ENV_DATA}, **members
    )


async def everything_stored(store: Store) -> str:
    """All that is in the database, as text."""

    def read(tx: Tx) -> str:
        rows = [row for table in metadata.sorted_tables for row in tx.execute(select(table))]
        assert rows
        return repr(rows)

    return await store.read_list(read)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("cos://b-1.cos.ap-guangzhou.myqcloud.com/a/p.tgz", None),
        ("http://host/p.tgz", None),
        ("", None),
        ("http://me:secret@host:81/p.tgz", f"http://m{STARS}t@host:81/p.tgz"),
        ("https://h/p.tgz?sign=secret&t=&x", f"https://h/p.tgz?sign={STARS}&t={STARS}&{STARS}"),
        ("https://h/p.tgz#secret", f"https://h/p.tgz#{STARS}"),
        ("nowhere?x=secret", f"nowhere?x={STARS}"),
        ("http://[::1/p.tgz?x", f"ht{STARS}?x"),
        ("http://me@[::1/", f"h{STARS}/"),
    ],
)
def test_an_address_is_shown_without_its_user_and_the_values_of_its_query(
    url: str, shown: str | None
) -> None:
    assert mask_address(url) == (shown or url)
    assert is_masked(mask_address(url)) == (shown is not None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("A" * 8 + "b" * 16 + "C" * 8, f"AAAA{STARS}CCCC"),
        ("Aa12345678", f"A{STARS}8"),
        ("1234567", STARS),
        ("", STARS),
    ],
)
def test_a_mask_shows_the_ends_of_a_long_secret_alone(text: str, shown: str) -> None:
    assert mask(text) == shown


@given(text=st.text(max_size=100))
def test_a_mask_tells_at_most_a_quarter_and_never_the_length(text: str) -> None:
    shown = mask(text).replace(STARS, "", 1)
    assert len(shown) <= len(text) / 4
    assert STARS in mask(text)


def test_whatever_has_no_secret_is_encoded_as_it_is() -> None:
    task = msgspec.convert(a_task(EnvVars=[{"Name": "A", "Value": '"Password":'}]), datatypes.Task)
    assert encode_masked(task) == msgspec.json.encode(task)


async def test_no_secret_is_stored_shown_or_logged(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    machine = Machine(tmp_path, lambda *_: 1)
    batch = Batch(store, machine, folder=tmp_path)
    absent = {"SourcePath": f"{COS}absent/", "DestinationPath": "/in"}
    shown: list[Any] = []
    with caplog.at_level(logging.DEBUG), structlog.testing.capture_logs() as logged:
        async with batch.scheduling():
            job_id = await batch.submit(
                secret_task(), secret_task(name="b", InputMappings=[absent])
            )
            env_id = await batch.create_env(EnvData=ENV_DATA, Authentications=KEYS)
            answer = await batch.call(
                "CreateTaskTemplate", TaskTemplateName="t", TaskTemplateInfo=secret_task()
            )
            await batch.until_state(job_id, *OVER)
        shown.append(await batch.call("DescribeJobSubmitInfo", JobId=job_id))
        shown.append(await batch.call("DescribeJob", JobId=job_id))
        shown += await batch.instances(job_id)
        template_id = answer["TaskTemplateId"]
        shown.append(await batch.call("DescribeTaskTemplates", TaskTemplateIds=[template_id]))
        shown.append(await batch.call("DescribeComputeEnvCreateInfo", EnvId=env_id))
    text = await everything_stored(store) + repr(shown) + repr(logged) + caplog.text
    text += "".join(capsys.readouterr())
    assert [each for each in ALL if each in text] == []
    authentication = shown[0]["Tasks"][0]["Authentications"][0]
    assert authentication == {
        "Scene": "COS",
        "SecretId": f"AKID{STARS}MPLE",
        "SecretKey": f"Gu5t{STARS}Ekey",
    }
    [launch] = machine.started
    assert launch.container is not None
    assert launch.container.password == PASSWORD, "the engine has the real one"
    assert PASSWORD not in repr(launch)


async def test_the_keys_in_an_address_of_a_package_are_for_its_server_alone(
    store: Store, tmp_path: Path
) -> None:
    asked: list[tuple[str, str]] = []

    async def serve(request: web.Request) -> web.StreamResponse:
        asked.append((request.query["sign"], request.headers["Authorization"]))
        return web.Response(body=package(x=b"x"))

    batch = Batch(store, Machine(tmp_path, lambda *_: 0), folder=tmp_path)
    with structlog.testing.capture_logs() as logged:
        async with web_server(serve) as address, batch.scheduling():
            host = address.removeprefix("http://")
            url = f"http://me:{PASSWORD}@{host}/p.tgz?sign={SECRET_KEY}"
            application = {"DeliveryForm": "PACKAGE", "PackagePath": url, "Command": "true"}
            task = a_task(Application=application)
            job_id = await batch.submit(task)
            assert await batch.until_state(job_id, *OVER) == "SUCCEED"
            await batch.call("CreateTaskTemplate", TaskTemplateName="t", TaskTemplateInfo=task)
    assert asked == [(SECRET_KEY, encode_basic_auth("me", PASSWORD))]
    shown = await batch.call("DescribeJobSubmitInfo", JobId=job_id)
    text = await everything_stored(store) + repr(shown) + repr(logged)
    assert [each for each in ALL if each in text] == []
    path = shown["Tasks"][0]["Application"]["PackagePath"]
    assert path == mask_address(url)
    assert f"{host}/p.tgz?sign=" in path


class Stumbling(Vault):
    """Its database does not answer the first time that something is read."""

    stumbled = False

    def read(self, tx: Tx, owner_id: str, *, position: int = 0) -> Secrets:
        if not self.stumbled:
            self.stumbled = True
            raise StoreUnavailable("The database does not answer. Try again.")
        return super().read(tx, owner_id, position=position)


@pytest.mark.parametrize(
    "members",
    [
        {"Application": DOCKER},
        {"Authentications": KEYS, "InputMappings": [INPUT]},
    ],
    ids=["at once", "prepared"],
)
async def test_a_database_that_stumbles_over_a_secret_fails_no_job(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: dict[str, Any]
) -> None:
    put(tmp_path, "input/x")
    vault = Stumbling(SEALER.encrypt, SEALER.decrypt)
    monkeypatch.setattr("tests.support.batch.VAULT", vault)
    machine = Machine(tmp_path, lambda *_: 0)
    batch = Batch(store, machine, folder=tmp_path)
    async with batch.scheduling():
        job_id = await batch.submit(a_task(**members))

        async def has_stumbled() -> bool:
            return vault.stumbled

        await eventually(has_stumbled)
        machine.reconnect()  # it is asked again then, or before long
        assert await batch.until_state(job_id, *OVER) == "SUCCEED"


async def test_secrets_go_with_the_job_and_the_environment(store: Store, tmp_path: Path) -> None:
    batch = Batch(store, Machine(tmp_path, lambda *_: 0), folder=tmp_path)
    async with batch.scheduling():
        job_id = await batch.submit(secret_task())
        env_id = await batch.create_env(0, Authentications=KEYS)
        await batch.until_state(job_id, *OVER)
    owners = select(secret.c.owner_id).order_by(secret.c.owner_id)

    async def kept() -> set[str]:
        return await store.read_list(lambda tx: set(tx.execute(owners).scalars()))

    assert await kept() == {job_id, env_id}
    await batch.call("DeleteJob", JobId=job_id)
    assert await kept() == {env_id}
    await batch.call("DeleteComputeEnv", EnvId=env_id)
    assert await kept() == set()


async def test_the_same_call_again_is_known_without_its_secrets(batch: Batch) -> None:
    job = {"JobName": "x", "Tasks": [secret_task()], "Dependences": []}
    first = await batch.submit_job(job, ClientToken="token")
    assert await batch.submit_job(job, ClientToken="token") == first


async def test_a_job_whose_secrets_cannot_be_read_fails_and_stops_no_other(
    store: Store, tmp_path: Path
) -> None:
    batch = Batch(store, Machine(tmp_path, lambda *_: 0), folder=tmp_path)
    job_id = await batch.submit(secret_task())
    spoiled = update(secret).where(secret.c.owner_id == job_id).values(sealed=b"spoiled")
    await store.write(lambda tx: tx.execute(spoiled))
    async with batch.scheduling():
        assert await batch.until_state(job_id, *OVER) == "FAILED"
        other = await batch.submit(a_task())
        assert await batch.until_state(other, *OVER) == "SUCCEED"
    [instance] = await batch.instances(job_id)
    assert instance["StateReason"] == "STORAGE"
    assert "key file" in instance["StateDetailedReason"]


async def test_a_secret_whose_key_is_lost_says_so(store: Store) -> None:
    secrets = Secrets(docker_password=PASSWORD)
    await store.write(lambda tx: VAULT.store(tx, "job-00000001", {0: secrets, 1: None}))
    read = await store.read_point(lambda tx: VAULT.read(tx, "job-00000001", position=0))
    assert read == secrets
    assert await store.read_point(lambda tx: VAULT.read(tx, "job-00000001", position=1)) == (
        Secrets()
    )
    other = Fernet(Fernet.generate_key())
    stranger = Vault(other.encrypt, other.decrypt)
    with pytest.raises(StagingFailed, match="key file"):
        await store.read_point(lambda tx: stranger.read(tx, "job-00000001", position=0))
