"""Fetching a package over HTTP(S).

Why from anywhere the gateway's machine reaches, private addresses too: packages lie on the web
servers of one's own network, and the command that the package is for has the same network itself.
What comes back is shown to nobody; it is unpacked, or refused as no archive.

Why several bounds of time: a server that sends a byte now and then is never silent. So an answer
must begin within ANSWER_S_MAX, every PORTION_BYTES of it must come within PORTION_S_MAX, and all
tries together may take FETCH_S_MAX.
"""

from asyncio import IncompleteReadError
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit

import aiohttp
import anyio
import anyio.to_thread

from gateway.batch.staging import StagingFailed
from gateway.batch.storage import trees

BYTES_MAX: Final = 2 * 2**30
FETCH_S_MAX: Final = 600.0
CONNECT_S_MAX: Final = 10.0
ANSWER_S_MAX: Final = 60.0
PORTION_BYTES: Final = 256 * 1024
PORTION_S_MAX: Final = 30.0
TRIES: Final = 3
PAUSE_S: Final = 1.0
REDIRECTS_MAX: Final = 5
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S_MAX)
_LATER: Final = frozenset({408, 429})  # HTTP status: it was too slow, or asked too often
_FINAL_STATUS: Final = frozenset(range(400, 500)) - _LATER
_AS_IT_IS: Final = {"Accept-Encoding": "identity"}
"""An archive is wanted as it is: else the client asks for a compressed one, which is another."""


class _Hopeless(StagingFailed):
    """What another try would not mend."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server may take, in seconds; see above. pause_s: before another try."""

    fetch_s_max: float = FETCH_S_MAX
    answer_s_max: float = ANSWER_S_MAX
    portion_s_max: float = PORTION_S_MAX
    pause_s: float = PAUSE_S


async def fetch_http(
    url: str, target: Path, *, bytes_max: int = BYTES_MAX, patience: Patience = Patience()
) -> None:
    """Fetch a file to `target`, which is replaced; tried three times.

    bytes_max: more are refused. Raises StagingFailed, or OSError of the disk, of which the last
    room is not taken.
    """
    with anyio.move_on_after(patience.fetch_s_max):
        for rest in reversed(range(TRIES)):
            try:
                return await _fetch(url, target, bytes_max=bytes_max, patience=patience)
            except _Hopeless:
                raise
            except (StagingFailed, aiohttp.ClientError, TimeoutError) as error:
                if not rest:
                    raise StagingFailed(
                        f"`{shown(url)}` cannot be fetched: {_why(error)}"
                    ) from error
            await anyio.sleep(patience.pause_s)
    raise StagingFailed(
        f"`{shown(url)}` cannot be fetched: it took over {patience.fetch_s_max:g} s."
    )


async def _fetch(url: str, target: Path, *, bytes_max: int, patience: Patience) -> None:
    async with aiohttp.ClientSession(
        headers=_AS_IT_IS, timeout=_TIMEOUT, auto_decompress=False
    ) as session:
        with anyio.fail_after(patience.answer_s_max):
            answer = await session.get(url, max_redirects=REDIRECTS_MAX)
        async with answer:
            if answer.status in _FINAL_STATUS:
                raise _Hopeless(f"`{shown(url)}` was answered with status {answer.status}.")
            if answer.status != 200:  # noqa: PLR2004  # OK
                raise StagingFailed(f"it was answered with status {answer.status}.")
            if (answer.content_length or 0) > bytes_max:
                raise _Hopeless(f"`{shown(url)}` is larger than {bytes_max} bytes.")
            written = 0
            async with await anyio.open_file(target, "wb") as file:
                while portion := await _portion(answer.content, s_max=patience.portion_s_max):
                    written += len(portion)
                    if written > bytes_max:
                        raise _Hopeless(f"`{shown(url)}` is larger than {bytes_max} bytes.")
                    await anyio.to_thread.run_sync(_write, file.wrapped, portion)


def _write(file: IO[bytes], portion: bytes) -> None:
    trees.check_room(file.fileno(), len(portion))
    file.write(portion)


async def _portion(content: aiohttp.StreamReader, *, s_max: float) -> bytes:
    """The next portion, which is shorter at the end. Raises TimeoutError."""
    try:
        with anyio.fail_after(s_max):
            return await content.readexactly(PORTION_BYTES)
    except IncompleteReadError as end:
        return end.partial


def shown(url: str) -> str:
    """An address as it may be shown: without its query and without a user, which may be keys."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _why(error: Exception) -> str:
    """In words without the address, which the library's own may hold."""
    if isinstance(error, StagingFailed):
        return str(error)
    if isinstance(error, TimeoutError):
        return "the server is too slow, or silent."
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"the server cannot be reached ({type(error).__name__})."
    return f"the server did not answer as HTTP asks ({type(error).__name__})."
