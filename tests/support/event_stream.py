"""A reader of the stream of events: server-sent events over a plain HTTP client."""

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from tencentcloud.common.abstract_client import AbstractClient
from tencentcloud.common.credential import Credential
from tencentcloud.common.http.request import RequestInternal
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile

from tests.support.running import REGION, Credentials
from tests.support.services import LOOPBACK

PATH = "/events/stream"
ANSWER_S = 30.0
Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Block:
    """One block of the stream. event: "" for one that only moves the cursor, or says nothing."""

    id: int | None = None
    event: str = ""
    data: str = ""
    comment: bool = False

    @property
    def members(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.data)
        return found

    @property
    def subject(self) -> str:
        return str(self.members["Subject"])


class Reader:
    """One open stream, or the answer that refuses it. It is the context of its connection."""

    def __init__(self, port: int, query: str, headers: Mapping[str, str]) -> None:
        self._connection = http.client.HTTPConnection(LOOPBACK, port, timeout=ANSWER_S)
        target = f"{PATH}?{query}" if query else PATH
        self._connection.request("GET", target, headers=dict(headers))
        self.answer = self._connection.getresponse()
        self.last_id: int | None = None

    @property
    def status(self) -> int:
        return self.answer.status

    @property
    def code(self) -> str:
        """The public code of a refusal."""
        return str(json.loads(self.answer.read())["Response"]["Error"]["Code"])

    def block(self) -> Block | None:
        """The next block; None if the stream has ended, in order or not."""
        found: dict[str, Any] = {}
        try:
            while line := self.answer.readline().decode():
                if line == "\n":
                    self.last_id = found.get("id", self.last_id)
                    return Block(**found)
                name, _, value = line.rstrip("\n").partition(":")
                if name == "id":
                    found["id"] = int(value)
                elif name in {"event", "data"}:
                    found[name] = value.removeprefix(" ")
                elif not name:
                    found["comment"] = True
        except (http.client.HTTPException, ConnectionError):
            return None
        return None

    def blocks(self) -> Iterator[Block]:
        while (block := self.block()) is not None:
            yield block

    def events(self, count: int) -> list[Block]:
        """The next events, so many; fewer if the stream ends before."""
        found: list[Block] = []
        while len(found) < count and (block := self.block()) is not None:
            if block.event:
                found.append(block)
        return found

    def until(self, condition: Callable[[Block], bool]) -> list[Block]:
        """The blocks up to and with the first one of which the condition holds."""
        found: list[Block] = []
        for block in self.blocks():
            found.append(block)
            if condition(block):
                return found
        raise AssertionError(f"the stream ended before: {found[-3:]}")

    def close(self) -> None:
        self._connection.close()


def signed_headers(
    port: int,
    who: Credentials,
    query: Parameters,
    *,
    region: str = REGION,
    action: str = "DescribeEvents",
    service: str = "batch",
) -> tuple[str, dict[str, str]]:
    """Query and headers of a GET as the official SDK signs it."""
    endpoint = f"{LOOPBACK}:{port}"
    http_profile = HttpProfile(endpoint=endpoint, reqMethod="GET", protocol="http")
    profile = ClientProfile(httpProfile=http_profile)
    client = _Client(Credential(who.secret_id, who.secret_key, who.token or None), region, profile)
    client._service = service  # noqa: SLF001  # of the class, with other clients
    made = RequestInternal(endpoint, "GET", "/", header={})
    client._build_req_inter(action, dict(query), made)  # noqa: SLF001  # signs only
    return made.data, dict(made.header)


class _Client(AbstractClient):
    _apiVersion = "2017-03-12"  # noqa: N815  # the SDK's name
    _service = "batch"


@contextmanager
def reading(
    port: int, who: Credentials | str, *, last_event_id: int | None = None, **query: Any
) -> Iterator[Reader]:
    """Open a stream. who: a key to sign with, or a bearer token.

    query: the parameters, and `region`, `action` and `service` as the SDK is told them.
    """
    options = {name: query.pop(name) for name in ("region", "action", "service") if name in query}
    if isinstance(who, str):
        text, headers = urlencode(query), {"Authorization": f"Bearer {who}"}
    else:
        text, headers = signed_headers(port, who, query, **options)
    if last_event_id is not None:
        headers["Last-Event-ID"] = str(last_event_id)
    reader = Reader(port, text, headers)
    try:
        yield reader
    finally:
        reader.close()


def lazy_socket(port: int, who: Credentials, **query: Any) -> socket.socket:
    """A connection on which a stream was asked for, with little room for what comes."""
    text, headers = signed_headers(port, who, query)
    lazy = socket.socket()
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    lazy.settimeout(ANSWER_S)
    lazy.connect((LOOPBACK, port))
    lines = [
        f"GET {PATH}?{text} HTTP/1.1",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    lazy.sendall("\r\n".join([*lines, "", ""]).encode())
    return lazy


def was_cut(lazy: socket.socket) -> bool:
    """Read what is left on a connection; whether it was dropped, not ended in order."""
    tail = b""
    give_up_at = time.monotonic() + ANSWER_S
    try:
        while (piece := lazy.recv(65_536)) and time.monotonic() < give_up_at:
            tail = (tail + piece)[-64:]
    except ConnectionResetError:
        return True
    return b"event: end" not in tail and not tail.endswith(b"0\r\n\r\n")
