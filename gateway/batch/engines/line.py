"""The line to an executor: frames over a socket in its folder.

Why asyncio's streams and not anyio's: theirs for such sockets waits with a callback that fails in
the loop if what it waits for comes in the moment it is cancelled.
"""

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from gateway.batch.executor import frames
from gateway.batch.executor.folders import SOCKET

RECEIVE_BYTES: Final = 262_144


class Line:
    """Whole frames out, whole frames in. Make it with `dial`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._unframer = frames.Unframer()

    async def send(self, frame: bytes) -> None:
        """Send a frame. Cancelled, it may have sent half of it. Raises OSError."""
        self._writer.write(frame)
        await self._writer.drain()

    async def receive(self) -> list[frames.FromExecutor]:
        """What came next: at least one frame, or none at the end. Raises FrameError."""
        heard: list[frames.FromExecutor] = []
        while not heard:
            data = b""
            with suppress(OSError):
                data = await self._reader.read(RECEIVE_BYTES)
            if not data:
                return []
            heard = [frames.decode_from_executor(body) for body in self._unframer.feed(data)]
        return heard

    def cut(self) -> None:
        """End the line at once, with what is on its way."""
        self._writer.transport.abort()


async def dial(root: Path) -> Line:
    """Connect to the executor of a folder. Raises OSError.

    Why through /proc: a socket's path may have 107 bytes, a data folder's more.
    """
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        path = f"/proc/self/fd/{folder}/{SOCKET}"
        return Line(*await asyncio.open_unix_connection(path, limit=RECEIVE_BYTES))
    finally:
        os.close(folder)
