"""The hostile subscriber really does each wrong thing, and a push knows which it may take."""

import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_network
from random import Random

import anyio
import pytest

from gateway.cmq.push.addresses import Reach
from gateway.cmq.push.posting import ANSWER_S as ANSWER_S_MAX
from gateway.cmq.push.posting import open_poster
from tests.support.events import eventually
from tests.support.hostile import (
    AFTER_THE_REQUEST,
    BEFORE_THE_REQUEST,
    LATE_S,
    REFUSES,
    TAKEN_AS_GOOD,
    WAYS,
    Hostile,
)
from tests.support.receiver import GOOD
from tests.support.services import LOOPBACK, free_port

REQUEST = b"POST /x HTTP/1.1\r\nHost: h\r\nx-cmq-message-id: %b\r\nContent-Length: 2\r\n\r\nhi"
ENOUGH = 60_000
AT_ONCE = 16
LOOK_S = 0.8
ANSWER_S = 2.0
TLS = ssl.create_default_context()


pytestmark = pytest.mark.anyio


class End(Enum):
    """What became of the connection."""

    CLOSED = "closed"
    RESET = "reset"
    OPEN = "open"


OK = rb"HTTP/1\.1 200 OK\r\n"
SIGNS: dict[str, tuple[bytes, End]] = {
    "resets at once": (rb"", End.RESET),
    "closes at once": (rb"", End.CLOSED),
    "speaks first": (rb"220 mail", End.OPEN),
    "hangs up unasked": (rb"HTTP/1\.1 408 ", End.CLOSED),
    "goes elsewhere for ever": (rb"HTTP/1\.1 301 .*Location: http", End.OPEN),
    "goes elsewhere": (rb"HTTP/1\.1 302 .*Location: http", End.OPEN),
    "goes to see another": (rb"HTTP/1\.1 303 .*Location: http", End.OPEN),
    "goes elsewhere with the body": (rb"HTTP/1\.1 307 .*Location: http", End.OPEN),
    "goes elsewhere for good": (rb"HTTP/1\.1 308 .*Location: http://169", End.OPEN),
    "goes to itself": (rb"HTTP/1\.1 302 .*Location: \r\n", End.OPEN),
    "is not modified": (rb"HTTP/1\.1 304 ", End.OPEN),
    "finds it bad": (rb"HTTP/1\.1 400 ", End.OPEN),
    "wants a login": (rb"HTTP/1\.1 401 .*WWW-Authenticate: Basic", End.OPEN),
    "forbids it": (rb"HTTP/1\.1 403 ", End.OPEN),
    "is not there": (rb"HTTP/1\.1 404 ", End.OPEN),
    "is gone": (rb"HTTP/1\.1 410 ", End.OPEN),
    "has enough": (rb"HTTP/1\.1 429 .*Retry-After: 86400", End.OPEN),
    "is broken": (rb"HTTP/1\.1 500 ", End.OPEN),
    "has a broken server": (rb"HTTP/1\.1 502 ", End.OPEN),
    "is overloaded": (rb"HTTP/1\.1 503 ", End.OPEN),
    "switches protocols": (rb"HTTP/1\.1 101 ", End.OPEN),
    "has a status of its own": (rb"HTTP/1\.1 999 ", End.OPEN),
    "says 199": (rb"HTTP/1\.1 199 ", End.OPEN),
    "says go on for ever": (rb"(HTTP/1\.1 100 Continue\r\n\r\n){2}", End.OPEN),
    "says nothing": (rb"$", End.CLOSED),
    "resets before the head": (rb"$", End.RESET),
    "resets in the head": (OK + rb"Content-Le$", End.RESET),
    "breaks off in the status": (rb"HTTP/1\.1 20$", End.CLOSED),
    "breaks off in the headers": (OK + rb"Content-Le$", End.CLOSED),
    "hangs": (rb"$", End.OPEN),
    "hangs in the head": (OK + rb"$", End.OPEN),
    "is late": (rb"$", End.OPEN),
    "trickles": (rb"HTTP/1\.1 200 Ox", End.OPEN),
    "speaks nonsense": (rb"\x00\xff\x17 nonsense", End.CLOSED),
    "speaks HTTP/0.9": (rb"<html>", End.CLOSED),
    "speaks TLS": (rb"\x16\x03\x03", End.CLOSED),
    "has a status of letters": (rb"HTTP/1\.1 abc ", End.CLOSED),
    "has a status of four digits": (rb"HTTP/1\.1 2000 ", End.CLOSED),
    "has an endless reason": (rb"HTTP/1\.1 200 [very ]{50000}", End.OPEN),
    "has headers without end": (OK + rb"(A: x\r\n){5000}", End.OPEN),
    "has a huge header": (OK + rb"A: x{50000}", End.OPEN),
    "has a line without a colon": (OK + rb"no header\r\n", End.CLOSED),
    "slips a header in": (OK + rb"A: b\rContent-Length: 7\r\n", End.CLOSED),
    "has a NUL in a header": (OK + rb"A: \x00", End.CLOSED),
    "has a negative length": (OK + rb"Content-Length: -1\r\n", End.CLOSED),
    "has two lengths": (OK + rb"Content-Length: 0\r\nContent-Length: 5\r\n", End.CLOSED),
    "closes one way": (rb"$", End.CLOSED),
    "has no content": (rb"HTTP/1\.1 204 No Content\r\n\r\n$", End.OPEN),
    "has content where it said none": (rb"HTTP/1\.1 204 No Content\r\n\r\nhello$", End.CLOSED),
    "says more than its length": (OK + rb"Content-Length: 2\r\n\r\nok and more", End.CLOSED),
    "says less than its length": (OK + rb"Content-Length: 1000\r\n\r\nok$", End.CLOSED),
    "hangs in the body": (OK + rb"Content-Length: 1000\r\n\r\nok$", End.OPEN),
    "resets in the body": (OK + rb"Content-Length: 1000\r\n\r\nok$", End.RESET),
    "has broken chunks": (OK + rb"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", End.CLOSED),
    "has a body without end": (OK + rb"\r\nx{50000}", End.OPEN),
    "packs a bomb": (OK + rb"Content-Encoding: gzip\r\n.*\r\n\r\n\x1f\x8b", End.CLOSED),
    "packs badly": (OK + rb"Content-Encoding: gzip\r\n.*\r\n\r\nabc$", End.CLOSED),
    "answers twice": (rb"(" + OK + rb"Content-Length: 2\r\n\r\nok){2}$", End.OPEN),
    "answers, then something else": (OK + rb".*HTTP/1\.1 500 ", End.CLOSED),
    "keeps the line, and closes it": (OK + rb"Content-Length: 2\r\n\r\nok$", End.CLOSED),
    "keeps the line, and resets it": (OK + rb"Content-Length: 2\r\n\r\nok$", End.RESET),
    "says it closes, and does not": (OK + rb"Connection: close\r\n", End.OPEN),
    "answers, and closes one way": (OK + rb"Content-Length: 2\r\n\r\nok$", End.CLOSED),
}


@dataclass(frozen=True)
class Seen:
    """What a way looks like on the wire, and what a push thought of it."""

    data: bytes
    end: End
    used: int
    why: str | None


@asynccontextmanager
async def hostile(*ways: str) -> AsyncIterator[Hostile]:
    """A hostile subscriber that does these."""
    random = Random(1)  # noqa: S311
    made = Hostile(free_port(), ways=ways, random=random, note=lambda _: None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.run)
        if ways[0] != REFUSES:
            await until(lambda: made.is_listening)
        yield made
        tasks.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def ask(port: int, message_id: bytes = b"m") -> tuple[bytes, End]:
    """Send a request; what came back until the end, or within a while."""
    data = b""
    try:
        async with await anyio.connect_tcp(LOOPBACK, port) as line:
            await line.send(REQUEST % message_id)
            with anyio.move_on_after(LOOK_S):
                while len(data) < ENOUGH:
                    data += await line.receive()
    except anyio.EndOfStream:
        return data, End.CLOSED
    except (anyio.BrokenResourceError, ConnectionResetError):
        return data, End.RESET
    return data, End.OPEN


async def push(port: int) -> str | None:
    """Push as the gateway does; what it found wrong."""
    reach = Reach((ip_network("127.0.0.0/8"),))
    async with open_poster(reach, tls=TLS, answer_s=ANSWER_S) as poster:
        headers = {"x-cmq-message-id": "m"}
        return (await poster.post(f"http://{LOOPBACK}:{port}/", b"hi", headers=headers)).why


async def look_at(way: str, seen: dict[str, Seen], limiter: anyio.CapacityLimiter) -> None:
    async with limiter, hostile(way) as subscriber:
        data, end = await ask(subscriber.port)
        used = subscriber.used[way]
    async with limiter, hostile(way) as subscriber:
        seen[way] = Seen(data, end, used, await push(subscriber.port))


@pytest.fixture(scope="module")
def seen() -> dict[str, Seen]:
    """All ways but the refusal, each looked at."""
    found: dict[str, Seen] = {}

    async def look() -> None:
        limiter = anyio.CapacityLimiter(AT_ONCE)
        async with anyio.create_task_group() as tasks:
            for way in SIGNS:
                tasks.start_soon(look_at, way, found, limiter)

    anyio.run(look)
    return found


def test_there_are_forty_ways_and_more_and_each_has_its_sign() -> None:
    assert len(set(WAYS)) == len(WAYS) >= 40
    assert set(SIGNS) == {*BEFORE_THE_REQUEST, *AFTER_THE_REQUEST}


@pytest.mark.parametrize("way", SIGNS)
def test_a_way_shows_its_sign_on_the_wire(way: str, seen: dict[str, Seen]) -> None:
    sign, end = SIGNS[way]
    found = seen[way]
    assert found.used == 1
    assert re.match(sign, found.data, re.DOTALL), found.data[:200]
    # the kernel resets what is closed with a request unread, if that came in time
    assert found.end in ({end, End.RESET} if way in BEFORE_THE_REQUEST else {end})


@pytest.mark.parametrize("way", SIGNS)
def test_a_push_takes_the_head_of_a_good_answer_and_nothing_else(
    way: str, seen: dict[str, Seen]
) -> None:
    assert (seen[way].why is None) is (way in TAKEN_AS_GOOD), seen[way].why


async def test_a_connection_is_refused_and_later_taken() -> None:
    async with hostile(REFUSES, "is broken") as subscriber:
        with pytest.raises(OSError, match="connect"):
            await ask(subscriber.port)
        await until(lambda: subscriber.is_listening)
        assert (await ask(subscriber.port))[0].startswith(b"HTTP/1.1 500 ")
    assert subscriber.used == {REFUSES: 1, "is broken": 1}


async def test_the_same_message_is_taken_well_when_it_comes_again() -> None:
    async with hostile("is broken") as subscriber:
        answers = [(await ask(subscriber.port, b"m"))[0] for _ in range(3)]
    assert answers[0].startswith(b"HTTP/1.1 500 ")
    assert answers[2].startswith(b"HTTP/1.1 200 ")


async def test_a_friendly_one_takes_every_message_well() -> None:
    async with hostile("is late", REFUSES) as subscriber:
        assert await ask(subscriber.port) == (b"", End.OPEN)
        subscriber.be_friendly()

        async def is_there() -> bool:
            with suppress(OSError):
                return (await ask(subscriber.port))[0].startswith(GOOD)
            return False

        await eventually(is_there)
        answers = [(await ask(subscriber.port, b"%d" % number))[0] for number in range(3)]
    assert answers == [GOOD] * 3
    assert LATE_S > ANSWER_S_MAX
