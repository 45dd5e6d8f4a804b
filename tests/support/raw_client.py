"""Requests that no honest client would send: a TC3 and a v1 signer of our own, and bare sockets.

Written from the documents; shares no code with the gateway nor with the official SDK.
"""

import base64
import hashlib
import hmac
import json
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, BinaryIO
from urllib.parse import urlencode

from tests.support.running import REGION, Credentials, Gateway
from tests.support.services import LOOPBACK

CLASSIC_PATH = "/v2/index.php"
ANSWER_S = 40
VERSIONS = {
    "batch": "2017-03-12",
    "cam": "2019-01-16",
    "sts": "2018-08-13",
    "tdmq": "2020-02-17",
    "cmq": "2019-03-04",
}


@dataclass(frozen=True)
class Request:
    """One HTTP/1.1 request, byte for byte. headers: in this order, repeated ones too."""

    method: str = "POST"
    target: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def header(self, name: str) -> str:
        return next(value for known, value in self.headers if known.lower() == name.lower())

    def with_header(self, name: str, value: str) -> "Request":
        """The same request with this header once, in place of any of that name."""
        others = tuple(pair for pair in self.headers if pair[0].lower() != name.lower())
        return replace(self, headers=(*others, (name, value)))

    def without_header(self, name: str) -> "Request":
        kept = tuple(pair for pair in self.headers if pair[0].lower() != name.lower())
        return replace(self, headers=kept)

    def with_another(self, name: str, value: str) -> "Request":
        """The same request with one header more, be its name there already or not."""
        return replace(self, headers=(*self.headers, (name, value)))

    @property
    def head(self) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{n}: {v}" for n, v in self.headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def __bytes__(self) -> bytes:
        return self.head + self.body


@dataclass(frozen=True)
class Answer:
    """One HTTP response. headers: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def members(self) -> dict[str, Any]:
        """What stands in `Response`, RequestId included."""
        found: dict[str, Any] = json.loads(self.body)["Response"]
        return found

    @property
    def code(self) -> str:
        """The public code of an error; "" for a success."""
        return str(self.members.get("Error", {}).get("Code", ""))

    @property
    def message(self) -> str:
        return str(self.members["Error"]["Message"])

    @property
    def request_id(self) -> str:
        return str(self.members["RequestId"])

    @property
    def classic(self) -> dict[str, Any]:
        """The members of an answer of the classic queue API."""
        found: dict[str, Any] = json.loads(self.body)
        return found


class Line:
    """One TCP connection, on which requests may be sent whole, in pieces or one after another."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._file: BinaryIO = opened.makefile("rb")

    def send(self, data: bytes | Request) -> None:
        self._socket.sendall(bytes(data))

    def send_as_far_as_possible(self, data: bytes) -> None:
        """Send, and do not mind if the other side has had enough."""
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def answer(self) -> Answer:
        """The next response."""
        status_line = self._file.readline()
        if not status_line:
            raise ConnectionResetError("the connection was closed without an answer")
        headers: dict[str, str] = {}
        while line := self._file.readline().decode("latin-1").rstrip("\r\n"):
            name, _, value = line.partition(":")
            assert name.lower() not in headers, f"the answer has two {name}"
            headers[name.lower()] = value.strip()
        body = self._file.read(int(headers.get("content-length", "0")))
        return Answer(int(status_line.split()[1]), headers, body)

    def is_closed(self) -> bool:
        """Wait for the next byte; whether the other side closes the connection instead."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@contextmanager
def open_line(port: int) -> Iterator[Line]:
    """A new connection to a port of this machine."""
    line = Line(socket.create_connection((LOOPBACK, port), timeout=ANSWER_S))
    try:
        yield line
    finally:
        line.close()


def send(gateway: Gateway, request: Request) -> Answer:
    """Send one request on a connection of its own."""
    with open_line(gateway.port) as line:
        line.send(request)
        return line.answer()


def call(gateway: Gateway, who: Credentials, action: str, **parameters: Any) -> Answer:
    """Sign and send one call; actions with `Cmq` in their names are tdmq's, others batch's."""
    service = "tdmq" if "Cmq" in action else "batch"
    return send(gateway, signed(gateway, who, action, parameters, service=service))


def signed(
    gateway: Gateway,
    who: Credentials,
    action: str,
    parameters: Mapping[str, Any] | bytes = b"{}",
    *,
    service: str = "batch",
    version: str | None = None,
    region: str = REGION,
    host: str | None = None,
    content_type: str = "application/json",
    signed_at: int | None = None,
) -> Request:
    """A POST signed with TC3. parameters: bytes are sent as they are."""
    given = parameters
    body = given if isinstance(given, bytes) else json.dumps(given).encode()
    host = host or gateway.url.removeprefix("http://")
    signed_at = int(time.time()) if signed_at is None else signed_at
    headers = {
        "Host": host,
        "Content-Type": content_type,
        "Content-Length": str(len(body)),
        "X-TC-Action": action,
        "X-TC-Version": version or VERSIONS[service],
        "X-TC-Region": region,
        "X-TC-Timestamp": str(signed_at),
    }
    unsigned = Request("POST", "/", tuple(headers.items()), body)
    value = authorization(unsigned, who, service=service, signed_at=signed_at)
    return unsigned.with_header("Authorization", value)


def authorization(request: Request, who: Credentials, *, service: str, signed_at: int) -> str:
    """The Authorization header of a request, by "Signature Method v3"."""
    _, _, query = request.target.partition("?")
    content_type, host = request.header("content-type"), request.header("host")
    canonical = "\n".join(
        [
            request.method,
            "/",
            query,
            f"content-type:{content_type}\nhost:{host}\n",
            "content-type;host",
            hashlib.sha256(request.body).hexdigest(),
        ]
    )
    day = datetime.fromtimestamp(signed_at, UTC).strftime("%Y-%m-%d")
    scope = f"{day}/{service}/tc3_request"
    digest = hashlib.sha256(canonical.encode("latin-1")).hexdigest()
    key = f"TC3{who.secret_key}".encode()
    for part in (day, service, "tc3_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    to_sign = f"TC3-HMAC-SHA256\n{signed_at}\n{scope}\n{digest}"
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    return (
        f"TC3-HMAC-SHA256 Credential={who.secret_id}/{scope}, "
        f"SignedHeaders=content-type;host, Signature={signature}"
    )


def classic(
    gateway: Gateway,
    who: Credentials | None,
    action: str,
    parameters: Mapping[str, str],
    *,
    target: str = CLASSIC_PATH,
) -> Request:
    """A call of the classic queue API, signed with v1; unsigned if nobody signs it."""
    host = gateway.url.removeprefix("http://")
    form = {"Action": action, "Region": REGION, **parameters}
    if who is not None:
        form |= {
            "SecretId": who.secret_id,
            "Timestamp": str(int(time.time())),
            "Nonce": str(secrets.randbelow(2**31) + 1),
            "SignatureMethod": "HmacSHA256",
        }
        text = "&".join(f"{name}={form[name]}" for name in sorted(form))
        digest = hmac.new(
            who.secret_key.encode(), f"POST{host}{CLASSIC_PATH}?{text}".encode(), hashlib.sha256
        ).digest()
        form["Signature"] = base64.b64encode(digest).decode()
    body = urlencode(form).encode()
    headers = {
        "Host": host,
        "Content-Type": "application/x-www-form-urlencoded",
        "Content-Length": str(len(body)),
    }
    return Request("POST", target, tuple(headers.items()), body)
