"""A line between a client and a server that can be dropped, or fall silent."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import SocketAttribute, SocketStream


class Line:
    """Passes bytes both ways between its own port and another, on loopback."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._server_port = port
        self._scopes: set[anyio.CancelScope] = set()
        self._silent: set[anyio.CancelScope] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int) -> AsyncIterator["Line"]:
        """A line to `port`; its own port is `port` of what is given."""
        line = cls(port)
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        line.port = listener.extra(SocketAttribute.local_port)  # noqa: S610  # anyio's extra, not Django's
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, line._pass_on)
            yield line
            tasks.cancel_scope.cancel()

    def drop(self) -> None:
        """Cut every connection there is; new ones can be made at once."""
        for scope in tuple(self._scopes):
            scope.cancel()

    def fall_silent(self) -> None:
        """Swallow whatever is sent on the connections there are, both ways; new ones work."""
        self._silent.update(self._scopes)

    async def _pass_on(self, client: SocketStream) -> None:
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                async with (
                    client,
                    await anyio.connect_tcp("127.0.0.1", self._server_port) as server,
                    anyio.create_task_group() as tasks,
                ):
                    tasks.start_soon(self._copy, client, server, scope)
                    tasks.start_soon(self._copy, server, client, scope)
            finally:
                self._scopes.discard(scope)
                self._silent.discard(scope)

    async def _copy(
        self, source: SocketStream, target: SocketStream, scope: anyio.CancelScope
    ) -> None:
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                data = await source.receive()
                if scope not in self._silent:
                    await target.send(data)
        scope.cancel()
