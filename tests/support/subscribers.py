"""Many HTTP subscribers in one process: all answer well, but for the slow and the hostile ones.

Each whole request is a line of the log: path, message id, digest of the body and the moment, as
`time.monotonic` tells it to every process of the machine. Told SIGUSR1, all answer well at once.
"""

import argparse
import asyncio
import hashlib
import json
import signal
import time
from pathlib import Path
from random import Random
from typing import TextIO, cast

import anyio
import httptools

from tests.support.hostile import WAYS, Asked, Hostile
from tests.support.receiver import GOOD
from tests.support.services import LOOPBACK

SLOW = "/slow"
SLOW_S = (1.0, 3.0)


def digest_of(body: bytes) -> str:
    """What stands for a body in the log."""
    return hashlib.sha256(body).hexdigest()[:24]


class Crowd:
    """All subscribers. Those whose path begins with `SLOW` take seconds to answer."""

    def __init__(self, log: TextIO, *, random: Random) -> None:
        self.friendly = False
        self._log = log
        self._random = random

    def note(self, asked: Asked) -> None:
        self.write(asked.path, message_id=asked.headers["x-cmq-message-id"], body=asked.body)

    def write(self, path: str, *, message_id: str, body: bytes) -> None:
        moment = time.monotonic()
        self._log.write(f"{path}\t{message_id}\t{digest_of(body)}\t{moment:.6f}\n")

    def delay_s(self, path: str) -> float:
        """How long the answer takes."""
        return 0.0 if self.friendly or not path.startswith(SLOW) else self._random.uniform(*SLOW_S)


class Line(asyncio.Protocol):
    """One connection. Why by hand: a thousand subscribers must not take the load's own time."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._parser = httptools.HttpRequestParser(self)
        self._path = self._message_id = ""
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path, self._body = url.decode(), b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-cmq-message-id":
            self._message_id = value.decode()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._crowd.write(self._path, message_id=self._message_id, body=self._body)
        delay_s = self._crowd.delay_s(self._path)
        if delay_s:
            asyncio.get_running_loop().call_later(delay_s, self._transport.write, GOOD)
        else:
            self._transport.write(GOOD)


async def serve(
    *, log: Path, port: int, hostile_ports: list[int], seed: str, report: Path | None
) -> None:
    """Serve until told to end. report: which hostile ways were used, and how often."""
    with log.open("a", buffering=1, encoding="utf-8") as lines:
        crowd = Crowd(lines, random=Random(seed))  # noqa: S311
        hostile = [
            Hostile(each, ways=_ways_from(seed, number), random=Random(seed), note=crowd.note)  # noqa: S311
            for number, each in enumerate(hostile_ports)
        ]
        server = await asyncio.get_running_loop().create_server(
            lambda: Line(crowd), LOOPBACK, port, backlog=2_048
        )
        async with server, anyio.create_task_group() as tasks:
            for each in hostile:
                tasks.start_soon(each.run)
            await _obey(crowd, hostile, report=report)
            tasks.cancel_scope.cancel()


def _ways_from(seed: str, number: int) -> list[str]:
    """All wrong ways, in an order of this subscriber's own."""
    return Random(f"{seed}-{number}").sample(WAYS, len(WAYS))  # noqa: S311


async def _obey(crowd: Crowd, hostile: list[Hostile], *, report: Path | None) -> None:
    """Do as the signals say, until it is SIGTERM."""
    with anyio.open_signal_receiver(signal.SIGUSR1, signal.SIGTERM) as signals:
        async for number in signals:
            used = {way: sum(each.used[way] for each in hostile) for way in WAYS}
            if report:
                report.write_text(json.dumps(used), encoding="utf-8")  # noqa: ASYNC240  # a short one
            if number == signal.SIGTERM:
                return
            crowd.friendly = True
            for each in hostile:
                each.be_friendly()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--hostile-port", type=int, action="append", default=[])
    parser.add_argument("--seed", default="1")
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()

    async def run() -> None:
        await serve(
            log=options.log,
            port=options.port,
            hostile_ports=options.hostile_port,
            seed=options.seed,
            report=options.report,
        )

    anyio.run(run, backend_options={"use_uvloop": True})


if __name__ == "__main__":
    main()
