"""What the broker can take: frames that were built beforehand, written as they are."""

import socket
import struct
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from pamqp import commands, frame
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader, ProtocolHeader

CHANNEL = 1
CHANNEL_MAX = 2_047  # RabbitMQ's own
TIMEOUT_S = 30.0
HEADER = struct.Struct(">BHI")
ACK = (60, 80)


class Ceiling:
    """A blocking socket to the broker with one channel in confirm mode."""

    def __init__(self, url: str, *, exchange: str, routing_key: str, body: bytes) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""
        self._frames = b"".join(
            frame.marshal(each, CHANNEL)
            for each in (
                commands.Basic.Publish(exchange=exchange, routing_key=routing_key),
                ContentHeader(
                    body_size=len(body), properties=commands.Basic.Properties(delivery_mode=2)
                ),
                ContentBody(body),
            )
        )
        self._open(f"\0{parts.username}\0{parts.password}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._socket.close()

    def publish(self, count: int, *, window: int) -> None:
        """Publish, with at most so many unconfirmed, until all are confirmed."""
        sent = confirmed = 0
        step = window // 4
        while confirmed < count:
            while sent < count and sent - confirmed <= window - step:
                batch = min(step, count - sent)
                self._socket.sendall(self._frames * batch)
                sent += batch
            confirmed = self._last_confirmed(confirmed)

    def _last_confirmed(self, before: int) -> int:
        """Wait for confirms; the broker sends them in order, some of them for many at once."""
        confirmed = before
        received = self._unread + self._socket.recv(65_536)
        at = 0
        while len(received) - at >= HEADER.size:
            _, _, size = HEADER.unpack_from(received, at)
            if len(received) - at < HEADER.size + size + 1:
                break
            if struct.unpack_from(">HH", received, at + HEADER.size) == ACK:
                (tag, multiple) = struct.unpack_from(">QB", received, at + HEADER.size + 4)
                confirmed = tag if multiple else confirmed + 1
            at += HEADER.size + size + 1
        self._unread = received[at:]
        return confirmed

    def _open(self, login: str) -> None:
        self._socket.sendall(ProtocolHeader().marshal())
        self._await("Connection.Start")
        self._send(commands.Connection.StartOk({}, "PLAIN", login, "en_US"), channel=0)
        self._await("Connection.Tune")
        self._send(commands.Connection.TuneOk(CHANNEL_MAX, 131_072, 0), channel=0)
        self._send(commands.Connection.Open("/"), channel=0)
        self._await("Connection.OpenOk")
        self._send(commands.Channel.Open(), channel=CHANNEL)
        self._await("Channel.OpenOk")
        self._send(commands.Confirm.Select(), channel=CHANNEL)
        self._await("Confirm.SelectOk")

    def _send(self, command: Frame, *, channel: int) -> None:
        self._socket.sendall(frame.marshal(command, channel))

    def _await(self, name: str) -> None:
        while True:
            size, _, found = frame.unmarshal(self._unread) if self._unread else (0, 0, None)
            if found is not None:
                self._unread = self._unread[size:]
                if found.name == name:
                    return
                raise SystemExit(f"the broker answered {found.name} instead of {name}")
            self._unread += self._socket.recv(65_536)
