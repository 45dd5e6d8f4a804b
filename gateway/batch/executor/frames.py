"""What gateway and executor say to each other: msgpack in frames of a four-byte length. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from gateway.batch.engines import Ended, Launch, Started

PROTOCOL: Final = 2
FRAME_BYTES_MAX: Final = 16_777_216
LENGTH_BYTES: Final = 4
EXIT_REFUSED: Final = 4
"""How an executor ends that cannot serve as asked, before it has a line to say so on.

Not 1: so does any program of Python's end that fails.
"""
EXIT_FAILED: Final = 5
"""How one ends that cannot serve now: another may, later."""


class FrameError(Exception):
    """The bytes are no frame of this protocol; the connection cannot go on."""


class Frame(msgspec.Struct, tag_field="kind", tag=str.lower):
    """One thing said, told apart by its `kind`."""


class Hello(Frame):
    """Gateway: the first frame. isolation: a name in `isolation`, "" for the best there is.

    folders: of the machine that a sandbox shows besides the system, read-only.
    """

    protocol: int = PROTOCOL
    isolation: str = ""
    folders: tuple[str, ...] = ()


class Start(Frame):
    """Gateway: start these attempts, unless they are known."""

    launches: list[Launch]


class Stop(Frame):
    """Gateway: kill these attempts."""

    attempt_ids: list[str]


class Acknowledge(Frame):
    """Gateway: these outcomes are stored.

    loss: so is that nodes were lost before this line began. An executor of before that word
    passes over it, and tells of the loss again.
    """

    attempt_ids: list[str]
    loss: bool = False


class Reconcile(Frame):
    """Gateway: these attempts should be running."""

    attempt_ids: list[str]


class Welcome(Frame):
    """Executor: the answer to Hello. All that runs and all outcomes follow as Facts.

    abilities: the values of `Ability` it has here; missing: why it has not the others.
    attempts_lost: how many of the outcomes that follow say that an earlier executor died, if that
    loss is not acknowledged.
    """

    pid: int
    isolation: str
    abilities: list[str] = []
    missing: dict[str, str] = {}
    attempts_lost: int = 0


class Refused(Frame):
    """Executor: a Hello cannot be met, or another gateway has come; the connection ends."""

    reason: str


class Facts(Frame):
    """Executor: what happened. An outcome is durable before it is told."""

    started: list[Started] = []
    ended: list[Ended] = []


FromGateway = Hello | Start | Stop | Acknowledge | Reconcile
FromExecutor = Welcome | Refused | Facts

_encoder = msgspec.msgpack.Encoder()
_from_gateway: msgspec.msgpack.Decoder[FromGateway] = msgspec.msgpack.Decoder(FromGateway)
_from_executor: msgspec.msgpack.Decoder[FromExecutor] = msgspec.msgpack.Decoder(FromExecutor)


def encode(frame: Frame) -> bytes:
    """The bytes of one frame, its length first. Raises FrameError if it is too long."""
    body = _encoder.encode(frame)
    if len(body) > FRAME_BYTES_MAX:
        raise FrameError(f"a frame of {len(body)} bytes is too long")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def decode_from_gateway(body: bytes) -> FromGateway:
    """Read what a gateway said. Raises FrameError."""
    try:
        return _from_gateway.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError(str(error)) from error


def decode_from_executor(body: bytes) -> FromExecutor:
    """Read what an executor said. Raises FrameError."""
    try:
        return _from_executor.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError(str(error)) from error


class Unframer:
    """Cuts a stream of bytes into the bodies of frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes in; yield every body that is complete. Raises FrameError if it is too long."""
        self._buffer += data
        begin = 0
        try:
            while len(self._buffer) - begin >= LENGTH_BYTES:
                length = int.from_bytes(self._buffer[begin : begin + LENGTH_BYTES], "big")
                if length > FRAME_BYTES_MAX:
                    raise FrameError(f"a frame of {length} bytes is too long")
                end = begin + LENGTH_BYTES + length
                if len(self._buffer) < end:
                    return
                yield bytes(self._buffer[begin + LENGTH_BYTES : end])
                begin = end
        finally:
            del self._buffer[:begin]


def start_frames(
    launches: Sequence[Launch], *, bytes_max: int = FRAME_BYTES_MAX
) -> Iterator[bytes]:
    """Start frames for any number of launches, each frame within the limit.

    Raises FrameError for a single launch that no frame can hold.
    """
    frame = Start(launches=list(launches))
    body = _encoder.encode(frame)
    if len(body) <= bytes_max:
        yield len(body).to_bytes(LENGTH_BYTES, "big") + body
        return
    if len(launches) <= 1:
        raise FrameError(f"a launch of {len(body)} bytes is too long")
    middle = len(launches) // 2
    yield from start_frames(launches[:middle], bytes_max=bytes_max)
    yield from start_frames(launches[middle:], bytes_max=bytes_max)
