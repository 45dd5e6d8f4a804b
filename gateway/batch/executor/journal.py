"""The journal: a file of JSON lines that is only appended to, and what each line can be.

A line is durable when `write` returns. Whoever reads the file after a crash finds whole lines and
at most a torn end, which is dropped: what it would have said was neither acted on nor told.

Behind the lines are zeros. Why: where a file system need not make a file longer, it makes what is
written durable sooner: an ext4 that has nothing else to do takes half the time.
"""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from gateway.batch.engines import Ended

COMPACT_BYTES_MIN: Final = 4_194_304
AHEAD_BYTES: Final = 32_768
"""So many zeros are written at once."""


class Line(msgspec.Struct, tag_field="line", tag=str.lower):
    """One thing to remember, told apart by its `line`."""


class Boot(Line):
    """The executor began on this boot of the machine. Pids of another boot mean nothing."""

    boot_id: str


class Began(Line):
    """An attempt is about to be started."""

    attempt_id: str
    folder: str
    at: datetime


class Spawned(Line):
    """Its process exists. Only a help to find it again: a lost one is found by its folder."""

    attempt_id: str
    pid: int
    start_ticks: int


class Over(Line):
    """An attempt is over. with_executor: because the executor that had it died. folder: as its
    launch says it; "" if it never was to be started, and in the lines of older executors.
    """

    ended: Ended
    with_executor: bool = False
    folder: str = ""


class Forgotten(Line):
    """The outcomes of these attempts are stored elsewhere; they must never be started again.

    loss: what was `with_executor` before is known elsewhere to have lost its nodes.
    """

    attempt_ids: list[str]
    loss: bool = False


AnyLine = Boot | Began | Spawned | Over | Forgotten
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyLine] = msgspec.json.Decoder(AnyLine)


class Journal:
    """An open journal. Its owner holds a lock on the folder: there is one writer."""

    def __init__(self, path: Path) -> None:
        """Open or create the file, and drop a torn end. Raises OSError."""
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.dropped_bytes = 0
        self.found = self._read()
        self._live_size = self._size

    def _read(self) -> list[AnyLine]:
        """All lines up to the first that cannot be read; the rest is cut off.

        Why the rest and not only the last line: after a power cut the last batch, many lines long,
        may have holes anywhere. Nothing in it had been acted on.
        """
        data = self._path.read_bytes().rstrip(b"\0")
        lines: list[AnyLine] = []
        begin = 0
        while (end := data.find(b"\n", begin)) >= 0:
            try:
                lines.append(_decoder.decode(data[begin:end]))
            except msgspec.DecodeError:
                break
            begin = end + 1
        self._size = begin
        self.dropped_bytes = len(data) - begin
        if self.dropped_bytes:
            self._cut()
        return lines

    def write(self, lines: Sequence[AnyLine], *, durable: bool = True) -> None:
        """Append lines, all or none. Raises OSError, and then none of them is in the file."""
        data = b"".join(_encoder.encode(line) + b"\n" for line in lines)
        end = self._size + len(data)
        try:
            _write_all(self._file, data, offset=self._size)
            if os.fstat(self._file).st_size == end:
                self._write_ahead(end)
            if durable:
                os.fdatasync(self._file)
        except OSError:
            self._cut()
            raise
        self._size = end

    def _write_ahead(self, end: int) -> None:
        """Write zeros behind the last line, if there is room. Raises OSError."""
        try:
            _write_all(self._file, bytes(AHEAD_BYTES), offset=end)
        except OSError:
            os.ftruncate(self._file, end)

    def _cut(self) -> None:
        """Have the file end with its last line. Raises OSError."""
        os.ftruncate(self._file, self._size)

    @property
    def wants_compacting(self) -> bool:
        """Whether most of a large file is about what is over and forgotten."""
        return self._size > max(COMPACT_BYTES_MIN, 2 * self._live_size)

    def compact(self, lines: Sequence[AnyLine]) -> None:
        """Replace the whole file by `lines`, at once or not at all. Raises OSError.

        After a failure it is wanted again when the file has doubled.
        """
        self._live_size = self._size
        data = b"".join(_encoder.encode(line) + b"\n" for line in lines)
        new_path = self._path.with_suffix(".new")
        new = os.open(new_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(new, data, offset=0)
            os.fsync(new)
            os.replace(new_path, self._path)
        except OSError:
            os.close(new)
            raise
        os.close(self._file)
        self._file, self._size, self._live_size = new, len(data), len(data)
        _sync_folder(self._path.parent)

    def close(self) -> None:
        """Close the file. What was written stays."""
        os.close(self._file)


def _write_all(file: int, data: bytes, *, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
