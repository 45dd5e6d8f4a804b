"""An HTTP subscriber that answers in more than fifty wrong ways, one after the other."""

import gzip
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import anyio
from anyio.abc import ByteStream, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.support.receiver import GOOD, HEAD_BYTES_MAX, Answer, repeats, says, status
from tests.support.services import LOOPBACK

LATE_S = 16.0  # later than any push waits for an answer
REFUSE_S = 1.5
FLOOD_S = 0.002  # between two pieces of what has no end: the loop has others to serve
OFTEN = 4  # every so manieth message is answered wrongly twice
REFUSES = "refuses connections"
OK = b"HTTP/1.1 200 OK\r\n"
BOMB = gzip.compress(bytes(10_000_000))
TLS_HELLO = b"\x16\x03\x03\x00\x31\x02\x00\x00\x2d\x03\x03" + bytes(44)


def late(raw: bytes, *, after_s: float) -> Answer:
    """Answer with these bytes when nobody waits for them any more."""

    async def answer(stream: ByteStream) -> bool:
        await anyio.sleep(after_s)
        await stream.send(raw)
        return True

    return answer


def half_closed(raw: bytes) -> Answer:
    """Answer with these bytes and close this side alone; the other may go on speaking."""

    async def answer(stream: ByteStream) -> bool:
        if raw:
            await stream.send(raw)
        await stream.send_eof()
        while True:
            await stream.receive()

    return answer


def elsewhere(line: str, location: str) -> Answer:
    """Answer that the message is to be sent to another place."""
    return status(line, f"Location: {location}")


BEFORE_THE_REQUEST: dict[str, Answer] = {
    "resets at once": says(b"", then="reset"),
    "closes at once": says(b""),
    "speaks first": says(b"220 mail.example ESMTP\r\n", then="hang"),
    "hangs up unasked": says(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"),
}
STATUSES: dict[str, Answer] = {
    "goes elsewhere for ever": elsewhere("301 Moved Permanently", "http://127.0.0.1:1/"),
    "goes elsewhere": elsewhere("302 Found", "http://127.0.0.1:1/"),
    "goes to see another": elsewhere("303 See Other", "http://127.0.0.1:1/"),
    "goes elsewhere with the body": elsewhere("307 Temporary Redirect", "http://127.0.0.1:1/"),
    "goes elsewhere for good": elsewhere("308 Permanent Redirect", "http://169.254.169.254/"),
    "goes to itself": elsewhere("302 Found", ""),
    "is not modified": status("304 Not Modified"),
    "finds it bad": status("400 Bad Request"),
    "wants a login": status("401 Unauthorized", 'WWW-Authenticate: Basic realm="x"'),
    "forbids it": status("403 Forbidden"),
    "is not there": status("404 Not Found"),
    "is gone": status("410 Gone"),
    "has enough": status("429 Too Many Requests", "Retry-After: 86400"),
    "is broken": status("500 Internal Server Error"),
    "has a broken server": status("502 Bad Gateway"),
    "is overloaded": status("503 Service Unavailable", "Retry-After: 1"),
    "switches protocols": status("101 Switching Protocols", "Upgrade: x"),
    "has a status of its own": status("999 -"),
    "says 199": says(b"HTTP/1.1 199 Almost\r\n\r\n", then="hang"),
    "says go on for ever": repeats(b"HTTP/1.1 100 Continue\r\n\r\n" * 10, every_s=0.01),
}
NOT_HTTP: dict[str, Answer] = {
    "says nothing": says(b""),
    "resets before the head": says(b"", then="reset"),
    "resets in the head": says(OK + b"Content-Le", then="reset"),
    "breaks off in the status": says(b"HTTP/1.1 20"),
    "breaks off in the headers": says(OK + b"Content-Le"),
    "hangs": says(b"", then="hang"),
    "hangs in the head": says(OK, then="hang"),
    "is late": late(GOOD, after_s=LATE_S),
    "trickles": repeats(b"x", first=b"HTTP/1.1 200 O", every_s=0.1),
    "speaks nonsense": says(b"\x00\xff\x17 nonsense \r\n\r\n"),
    "speaks HTTP/0.9": says(b"<html>200 OK</html>\n"),
    "speaks TLS": says(TLS_HELLO),
    "has a status of letters": says(b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n"),
    "has a status of four digits": says(b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"),
    "has an endless reason": repeats(b"very " * 1_000, first=b"HTTP/1.1 200 ", every_s=FLOOD_S),
    "has headers without end": repeats(b"A: x\r\n" * 1_000, first=OK, every_s=FLOOD_S),
    "has a huge header": says(OK + b"A: " + b"x" * 100_000 + b"\r\n\r\n"),
    "has a line without a colon": says(OK + b"no header\r\n\r\n"),
    "slips a header in": says(OK + b"A: b\rContent-Length: 7\r\n\r\n"),
    "has a NUL in a header": says(OK + b"A: \x00\r\nContent-Length: 0\r\n\r\n"),
    "has a negative length": says(OK + b"Content-Length: -1\r\n\r\n"),
    "has two lengths": says(OK + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n"),
    "closes one way": half_closed(b""),
    "has content where it said none": says(b"HTTP/1.1 204 No Content\r\n\r\nhello"),
    "says more than its length": says(OK + b"Content-Length: 2\r\n\r\nok and more"),
    "has broken chunks": says(OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n"),
}
TAKEN_AS_GOOD: dict[str, Answer] = {
    "has no content": says(b"HTTP/1.1 204 No Content\r\n\r\n", then="go on"),
    "says less than its length": says(OK + b"Content-Length: 1000\r\n\r\nok"),
    "hangs in the body": says(OK + b"Content-Length: 1000\r\n\r\nok", then="hang"),
    "resets in the body": says(OK + b"Content-Length: 1000\r\n\r\nok", then="reset"),
    "has a body without end": repeats(b"x" * 10_000, first=OK + b"\r\n", every_s=FLOOD_S),
    "packs a bomb": says(
        OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB
    ),
    "packs badly": says(OK + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"),
    "answers twice": says(GOOD + GOOD, then="go on"),
    "answers, then something else": says(GOOD + b"HTTP/1.1 500 No\r\n\r\n"),
    "keeps the line, and closes it": says(GOOD),
    "keeps the line, and resets it": says(GOOD, then="reset"),
    "says it closes, and does not": says(
        OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n", then="hang"
    ),
    "answers, and closes one way": half_closed(GOOD),
}
"""A push has succeeded when the head of a 2xx answer is there: what follows is of no interest."""

AFTER_THE_REQUEST = STATUSES | NOT_HTTP | TAKEN_AS_GOOD
WAYS: Sequence[str] = (REFUSES, *BEFORE_THE_REQUEST, *AFTER_THE_REQUEST)


@dataclass(frozen=True)
class Asked:
    """One request: its path, and what came with it."""

    path: str
    headers: dict[str, str]
    body: bytes


class Hostile:
    """Answers a message wrongly the first time, now and then the second, and then well.

    ways: what is done, one after the other, again and again. note: told of every whole request.
    used: how often each way was. friendly: answer well from now on. is_listening: whether it takes
    connections now.
    """

    def __init__(
        self, port: int, *, ways: Sequence[str], random: Random, note: Callable[[Asked], None]
    ) -> None:
        self.port = port
        self.used: Counter[str] = Counter()
        self.friendly = False
        self.is_listening = False
        self._ways = _for_ever(ways)
        self._next = next(self._ways)
        self._random = random
        self._note = note
        self._wrong_left: dict[str, int] = {}
        self._shut = anyio.Event()

    def be_friendly(self) -> None:
        """Answer well from now on, whatever was going on."""
        self.friendly = True
        self._shut.set()

    async def run(self) -> None:
        """Listen for ever, but for the moments in which connections are refused."""
        while True:
            while self._next == REFUSES and not self.friendly:
                await anyio.sleep(REFUSE_S)
                self._use()
            self._shut = anyio.Event()
            listener = await anyio.create_tcp_listener(local_host=LOOPBACK, local_port=self.port)
            async with listener, anyio.create_task_group() as tasks:
                self.is_listening = True
                tasks.start_soon(listener.serve, self._serve)
                await self._shut.wait()
                self.is_listening = False
                tasks.cancel_scope.cancel()

    def _use(self) -> str:
        """The way whose turn it is; the next one comes after it."""
        used, self._next = self._next, next(self._ways)
        self.used[used] += 1
        return used

    async def _serve(self, stream: SocketStream) -> None:
        broken = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.IncompleteRead)
        with suppress(*broken, anyio.DelimiterNotFound):
            async with stream:
                if self._next in BEFORE_THE_REQUEST and not self.friendly:
                    await BEFORE_THE_REQUEST[self._use()](stream)
                else:
                    await self._converse(stream)
        if self._next == REFUSES and not self.friendly:
            self._shut.set()

    async def _converse(self, stream: SocketStream) -> None:
        reader = BufferedByteReceiveStream(stream)
        goes_on = True
        while goes_on:
            asked = await read_request(reader)
            self._note(asked)
            answer = says(GOOD, then="go on")
            if self._is_wronged(asked.headers["x-cmq-message-id"]):
                answer = AFTER_THE_REQUEST[self._use()]
            goes_on = await answer(stream) and self._next in AFTER_THE_REQUEST

    def _is_wronged(self, message_id: str) -> bool:
        if self.friendly or self._next not in AFTER_THE_REQUEST:
            return False
        share = 2 if self._random.randrange(OFTEN) == 0 else 1
        left = self._wrong_left.setdefault(message_id, share)
        self._wrong_left[message_id] = left - 1
        return left > 0


def _for_ever(ways: Sequence[str]) -> Iterator[str]:
    while True:
        yield from ways


async def read_request(reader: BufferedByteReceiveStream) -> Asked:
    """The next whole request of a connection."""
    head = (await reader.receive_until(b"\r\n\r\n", HEAD_BYTES_MAX)).decode("latin-1")
    first, *lines = head.split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    headers = {name.lower(): value for name, _, value in pairs}
    body = await reader.receive_exactly(int(headers["content-length"]))
    return Asked(first.split(" ")[1], headers, body)
