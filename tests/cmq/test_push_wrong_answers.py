"""Whatever a subscriber does wrong: it is a failure, it is repeated, and nobody else notices."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.cmq.push.posting import ANSWER_S
from gateway.store import Store, open_store
from tests.support.pushing import Pushing
from tests.support.receiver import open_receiver, repeats, says, status

pytestmark = pytest.mark.anyio

HTTP_ANSWERS = {
    name: status(line)
    for name, line in {
        "switches protocols": "101 Switching Protocols",
        "offers a choice": "300 Multiple Choices",
        "is not modified": "304 Not Modified",
        "finds the request bad": "400 Bad Request",
        "wants a login": "401 Unauthorized",
        "forbids it": "403 Forbidden",
        "is not there": "404 Not Found",
        "was slow to read": "408 Request Timeout",
        "is gone": "410 Gone",
        "has enough": "429 Too Many Requests",
        "is broken": "500 Internal Server Error",
        "cannot reach its own server": "502 Bad Gateway",
        "is overloaded": "503 Service Unavailable",
        "has a status of its own": "999 -",
    }.items()
}
NOT_HTTP = {
    "says nothing": says(b""),
    "resets the line": says(b"", then="reset"),
    "speaks nonsense": says(b"\x00\xff\x17 nonsense \r\n\r\n"),
    "answers with a TLS alert": says(b"\x15\x03\x01\x00\x02\x02\x46"),
    "sends a bare page": says(b"<html>200 OK</html>"),
    "breaks off in the status": says(b"HTTP/1.1 20"),
    "breaks off in the headers": says(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "resets in the headers": says(b"HTTP/1.1 200 OK\r\nContent-Le", then="reset"),
    "has a status of letters": says(b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n"),
    "has a status of two digits": says(b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
    "has a status of four digits": says(b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"),
    "has a negative length": says(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
    "has a length of letters": says(b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n"),
    "has two lengths": says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n"),
    "has a line without a colon": says(b"HTTP/1.1 200 OK\r\nno header\r\n\r\n"),
    "has a NUL in a header": says(b"HTTP/1.1 200 OK\r\nA: \x00\r\nContent-Length: 0\r\n\r\n"),
    "has a huge header": says(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000 + b"\r\n\r\n"),
    "says go on a thousand times and then yes": says(
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000 + b"HTTP/1.1 200 OK\r\n\r\n"
    ),
    "speaks HTTP of long ago": says(b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "speaks HTTP of a later day": says(b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "says go on and no more": says(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "speaks SMTP": says(b"220 mail.example ESMTP\r\n", then="hang"),
    "has headers without end": repeats(b"A: x\r\n" * 100, first=b"HTTP/1.1 200 OK\r\n"),
    "says go on for ever": repeats(b"HTTP/1.1 100 Continue\r\n\r\n" * 10, every_s=0.01),
    "says go on without a rest": repeats(b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000),
}
HANGING = {
    "hangs": says(b"", then="hang"),
    "hangs in the headers": says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", then="hang"),
    "trickles": repeats(b"x", first=b"HTTP/1.1 200 O", every_s=0.02),
}
"""Only of these the time runs out; a wrong answer of any other is known as soon as it is there."""

WRONG = HTTP_ANSWERS | NOT_HTTP | HANGING


@pytest.fixture
async def store(migrated_file: Path, tmp_path: Path) -> AsyncIterator[Store]:
    """On the embedded database alone: what is asked here is not about databases."""
    path = shutil.copy(migrated_file, tmp_path / "gateway.db")
    async with open_store(f"sqlite:///{path}") as opened:
        yield opened


@pytest.fixture
async def pushing(store: Store) -> Pushing:
    return await Pushing.open(store)


@pytest.mark.parametrize("name", WRONG, ids=[name.replace(" ", "-") for name in WRONG])
async def test_a_wrong_answer_is_repeated_until_it_is_right(pushing: Pushing, name: str) -> None:
    pushes = pushing.running(answer_s=1.0 if name in HANGING else ANSWER_S)
    async with open_receiver() as bad, open_receiver() as good, pushes:
        bad.wrong.append(WRONG[name])
        await pushing.subscribe(bad.url, "bad")
        await pushing.subscribe(good.url, "good")
        await pushing.publish(b"one", b"two", b"three")
        failed = await pushing.until_failed(1, subscription_id="subsc-bad")
        assert 0 < len(failed.why) <= 200
        assert failed.why.startswith("there was no answer within") is (name in HANGING)
        await pushing.until_delivered(3, subscription_id="subsc-good")
        assert await pushing.states("subsc-bad") == ["waiting"] * 3
        pushing.pass_time(seconds=1)
        await pushing.until_delivered(3, subscription_id="subsc-bad")
    assert bad.bodies == [b"one", b"one", b"two", b"three"]
    assert bad.requests[0].headers["webhook-id"] == bad.requests[1].headers["webhook-id"]
    assert good.bodies == [b"one", b"two", b"three"]


def test_there_are_wrong_answers_enough() -> None:
    assert len(WRONG) >= 25


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure_and_is_never_followed(pushing: Pushing, code: int) -> None:
    async with open_receiver() as bad, open_receiver() as elsewhere, pushing.running():
        bad.wrong.append(status(f"{code} Elsewhere", f"Location: {elsewhere.url}"))
        await pushing.subscribe(bad.url)
        await pushing.publish(b"one")
        failed = await pushing.until_failed(1)
        assert failed.why == f"the answer was {code}"
        pushing.pass_time(seconds=1)
        await pushing.until_delivered(1)
    assert elsewhere.connections == 0


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:1/", "there was no connection: Connection refused"),
        ("http://nobody.invalid/", "the name of the host cannot be resolved: "),
        ("http://127.1/", "the endpoint is no URL that can be asked"),
        ("http://[::1/", "the endpoint is no URL that can be asked"),
        ("http://a..b/", "the "),
        ("unix:///run/some.sock", "the endpoint is no URL that can be asked"),
        ("ftp://127.0.0.1/", "the endpoint is no URL that can be asked"),
        ("no URL", "the endpoint is no URL that can be asked"),
    ],
)
async def test_an_endpoint_that_cannot_be_asked_is_a_failure(
    pushing: Pushing, url: str, why: str
) -> None:
    async with pushing.running():
        await pushing.subscribe(url)
        await pushing.publish(b"one")
        failed = await pushing.until_failed(1)
    assert failed.why.startswith(why)


async def test_what_an_endpoint_says_is_not_stored(pushing: Pushing) -> None:
    async with open_receiver() as bad, pushing.running():
        bad.wrong.append(says(b"HTTP/1.1 abc the secret of the inside\r\n\r\n"))
        await pushing.subscribe(bad.url)
        await pushing.publish(b"one")
        failed = await pushing.until_failed(1)
    assert failed.why == "the answer was not HTTP"


async def test_a_cookie_is_not_given_back(pushing: Pushing) -> None:
    async with open_receiver() as receiver, pushing.running():
        receiver.wrong.append(status("200 OK", "Set-Cookie: a=b; Path=/"))
        await pushing.subscribe(receiver.url)
        await pushing.publish(b"one", b"two")
        await pushing.until_delivered(2)
    assert "cookie" not in receiver.requests[1].headers


async def test_a_proxy_in_the_environment_is_not_asked(
    pushing: Pushing, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_receiver() as receiver, open_receiver() as proxy, pushing.running():
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        await pushing.subscribe(receiver.url)
        await pushing.publish(b"one")
        await pushing.until_delivered(1)
    assert proxy.connections == 0
