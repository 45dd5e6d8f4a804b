"""The secrets of subscribers: made once, sealed, rotated; and what receivers verify with them."""

from base64 import b64decode
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import anyio
import pytest
from cryptography.fernet import Fernet
from standardwebhooks import Webhook
from structlog.testing import capture_logs

from gateway.clock import now
from gateway.cmq.push.schedules import Strategy
from gateway.cmq.push.secrets import Secret, Secrets, SecretUnreadable
from gateway.cmq.push.webhooks import ContentFormat
from gateway.errors import ResourceNotFound
from gateway.store import Store
from tests.support.events import eventually
from tests.support.pushing import Pushing
from tests.support.receiver import open_receiver

pytestmark = pytest.mark.anyio
NOWHERE = "http://203.0.113.1/"


@pytest.fixture
async def pushing(store: Store) -> Pushing:
    made = await Pushing.open(store)
    made.now = now()  # what verifies a signature goes by its own clock
    return made


async def describe(pushing: Pushing, subscription_id: str = "subsc-s1") -> Secret:
    return await pushing.store.write(
        lambda tx: pushing.secrets.describe(tx, subscription_id, now=pushing.now)
    )


async def rotate(pushing: Pushing) -> Secret:
    return await pushing.store.write(
        lambda tx: pushing.secrets.rotate(tx, "subsc-s1", now=pushing.now)
    )


async def signing(pushing: Pushing) -> tuple[bytes, ...]:
    return await pushing.store.write(
        lambda tx: pushing.secrets.signing(tx, "subsc-s1", now=pushing.now)
    )


def key_of(secret: Secret) -> bytes:
    return b64decode(secret.text.removeprefix("whsec_"))


async def test_a_secret_is_made_once_and_has_thirty_two_bytes(pushing: Pushing) -> None:
    await pushing.subscribe(NOWHERE)
    shown = await describe(pushing)
    assert shown.text.startswith("whsec_")
    assert (len(key_of(shown)), shown.old_until) == (32, None)
    assert await describe(pushing) == shown
    assert await signing(pushing) == (key_of(shown),)


async def test_makers_at_the_same_time_agree(pushing: Pushing) -> None:
    await pushing.subscribe(NOWHERE)
    found: list[Secret] = []

    async def ask() -> None:
        found.append(await describe(pushing))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(ask)
    assert len({secret.text for secret in found}) == 1


async def test_two_subscriptions_have_two_secrets(pushing: Pushing) -> None:
    await pushing.subscribe(NOWHERE, "s1")
    await pushing.subscribe(NOWHERE, "s2")
    assert (await describe(pushing)).text != (await describe(pushing, "subsc-s2")).text


async def test_a_secret_is_sealed_in_the_database(pushing: Pushing) -> None:
    await pushing.subscribe(NOWHERE)
    shown = await describe(pushing)
    row = await pushing.subscription()
    assert key_of(shown) not in row.sealed_secret
    assert shown.text.encode() not in row.sealed_secret


async def test_the_old_secret_signs_for_a_day_besides(pushing: Pushing) -> None:
    await pushing.subscribe(NOWHERE)
    old = await describe(pushing)
    new = await rotate(pushing)
    assert new.old_until == pushing.now + timedelta(hours=24)
    assert await signing(pushing) == (key_of(new), key_of(old))
    pushing.pass_time(hours=24)
    assert await signing(pushing) == (key_of(new),)
    assert (await describe(pushing)).old_until is None


async def test_the_first_of_three_secrets_is_gone_at_the_second_rotation(pushing: Pushing) -> None:
    await pushing.subscribe(NOWHERE)
    await describe(pushing)
    second = await rotate(pushing)
    third = await rotate(pushing)
    assert await signing(pushing) == (key_of(third), key_of(second))


async def test_a_rotation_before_the_first_use_leaves_no_old_secret(pushing: Pushing) -> None:
    await pushing.subscribe(NOWHERE)
    made = await rotate(pushing)
    assert made.old_until is None
    assert await signing(pushing) == (key_of(made),)


async def test_a_subscription_that_is_not_there_has_no_secret(pushing: Pushing) -> None:
    for ask in (describe, rotate, signing):
        with pytest.raises(ResourceNotFound):
            await ask(pushing)


async def test_a_receiver_verifies_a_push_with_the_secret_it_was_shown(pushing: Pushing) -> None:
    async with open_receiver() as receiver, pushing.running():
        await pushing.subscribe(receiver.url, notify_content_format=ContentFormat.JSON)
        await pushing.publish(b"made by the pusher")
        await pushing.until_delivered(1)
        shown = await describe(pushing)
        rotated = await rotate(pushing)
        await pushing.publish(b"during a rotation")
        await pushing.until_delivered(2)
    first, second = receiver.requests
    Webhook(shown.text).verify(first.body, first.headers)
    Webhook(shown.text).verify(second.body, second.headers)
    Webhook(rotated.text).verify(second.body, second.headers)
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(rotated.text).verify(first.body, first.headers)


async def test_a_secret_that_cannot_be_unsealed_is_not_held_against_the_subscriber(
    pushing: Pushing,
) -> None:
    looks: list[bytes] = []

    def has_looked(before: int) -> bool:
        return len(looks) > before

    async with open_receiver() as receiver:
        await pushing.subscribe(receiver.url, notify_strategy=Strategy.BACKOFF_RETRY)
        await describe(pushing)
        whole = pushing.secrets
        other = Fernet(Fernet.generate_key())
        pushing.secrets = OtherSecrets(other.encrypt, other.decrypt, looks=looks)
        await pushing.publish(b"one")
        with capture_logs() as logs:
            async with pushing.running():
                for look in range(4):
                    pushing.pass_time(hours=1)
                    await eventually(partial(has_looked, look))
        said = [line for line in logs if line["event"] == "secret_unreadable"]
        assert [line["log_level"] for line in said] == ["error"]
        (waiting,) = await pushing.deliveries()
        assert (waiting.state, waiting.attempts, waiting.why) == ("waiting", 0, None)
        assert await pushing.dead_letters() == []
        assert (await pushing.subscription()).failing_since is None
        assert receiver.requests == []
        pushing.secrets = whole
        async with pushing.running():
            await pushing.until_delivered(1)


async def test_a_new_secret_mends_one_that_cannot_be_unsealed(pushing: Pushing) -> None:
    await pushing.subscribe(NOWHERE)
    await describe(pushing)
    other = Fernet(Fernet.generate_key())
    pushing.secrets = Secrets(other.encrypt, other.decrypt)
    with pytest.raises(SecretUnreadable):
        await describe(pushing)
    new = await rotate(pushing)
    assert await signing(pushing) == (key_of(new),)


class OtherSecrets(Secrets):
    """Secrets that note when they are asked for the keys in a row."""

    def __init__(self, *sealing: Any, looks: list[bytes]) -> None:
        super().__init__(*sealing)
        self._looks = looks

    def keys_of(self, row: Any, *, now: datetime) -> tuple[bytes, ...]:
        self._looks.append(row.sealed_secret)
        return super().keys_of(row, now=now)
