"""What is in a tar archive, read from its beginning to its end and never kept as a whole.

Why not the standard library's: it reads what a header claims into memory, and knows forms, sparse
files among them, that no package needs. Here a header has a bound and anything unusual is refused.
Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU tar's manual,
"Basic Tar Format", for its long names and its numbers in base 256.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from gateway.batch.staging import StagingFailed

BLOCK: Final = 512
HEADER_BYTES_MAX: Final = 1_048_576
HEADERS_BYTES_MAX: Final = 64 * 2**20
HEADERS_PER_ENTRY: Final = 3
"""An extended header, a long name and a long link: more than this on average means harm."""
_NUMBER_BYTES_MAX: Final = 8
_LENGTH_DIGITS_MAX: Final = 7
_HEEDED: Final = {b"path", b"linkpath", b"size"}
SPARSE: Final = "GNU.sparse"
_EXTENDED: Final = {b"x", b"L", b"K"}
_IGNORED: Final = {b"g"}  # remarks on the whole archive


class Kind(Enum):
    """What an entry of an archive is."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"  # a symbolic one
    TWIN = "twin"  # a second name of an earlier file


_KINDS: Final = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"1": Kind.TWIN,
    b"2": Kind.LINK,
    b"5": Kind.FOLDER,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of an archive, as the archive tells it: nothing in it may be believed.

    target: of a link, where it leads. size: bytes of content. mode: permissions.
    """

    name: str
    kind: Kind
    size: int
    mode: int
    target: str = ""


class Reader(Protocol):
    """Bytes in order: as many as asked for, fewer only at the end."""

    def read(self, size: int, /) -> bytes:
        """Read on."""
        ...


class Tarball:
    """The entries of a tar archive, each with its content, in their order.

    Read an entry's content before going on to the next; what is left of it is skipped.
    """

    def __init__(self, stream: Reader, *, entries_max: int) -> None:
        """entries_max: of entries that may be, by which the extended headers are bounded, too."""
        self._stream = stream
        self._left = 0
        self._padding = 0
        self._headers_left = HEADERS_PER_ENTRY * entries_max
        self._headers_bytes_left = HEADERS_BYTES_MAX

    def __iter__(self) -> Iterator[Entry]:
        """Go through the archive. Raises StagingFailed for what is no tar archive."""
        said: dict[str, str] = {}
        while (header := self._header()) is not None:
            flag, size = header[156:157], _number(header[124:136])
            if flag in _EXTENDED | _IGNORED:
                self._count_header(size)
                self._expect(size)
                content = self.read(size)
                if flag not in _IGNORED:
                    said |= _said(flag, content)
                continue
            entry = _entry(header, said)
            said = {}
            self._expect(entry.size)
            yield entry

    def read(self, size: int) -> bytes:
        """Read on in the content of the entry given last; b"" at its end."""
        wanted = min(size, self._left)
        data = self._stream.read(wanted) if wanted else b""
        if len(data) < wanted:
            raise _broken()
        self._left -= len(data)
        return data

    def _count_header(self, size: int) -> None:
        if size > HEADER_BYTES_MAX:
            raise StagingFailed("The package has a header that is too large.")
        self._headers_left -= 1
        self._headers_bytes_left -= size
        if self._headers_left < 0 or self._headers_bytes_left < 0:
            raise StagingFailed("The package has too many extended headers.")

    def _expect(self, size: int) -> None:
        self._left = size
        self._padding = -size % BLOCK

    def _header(self) -> bytes | None:
        """The next header; None at the end, which is a block of zeros or nothing at all."""
        while self.read(1 << 16):
            pass
        if len(self._stream.read(self._padding)) < self._padding:
            raise _broken()
        self._padding = 0
        block = self._stream.read(BLOCK)
        if not block or not any(block):
            return None
        if len(block) < BLOCK or not _is_header(block):
            raise _broken()
        return block


def _is_header(block: bytes) -> bool:
    total = sum(block[:148]) + 8 * ord(" ") + sum(block[156:])
    try:
        return _number(block[148:156]) == total
    except StagingFailed:
        return False


def _entry(header: bytes, said: dict[str, str]) -> Entry:
    """An entry by its header and by what the extended headers before it said."""
    kind = _KINDS.get(header[156:157])
    if kind is None or SPARSE in said:
        raise StagingFailed("The package has a device, or something else that is no plain file.")
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    name = said.get("path") or "/".join(part for part in (prefix, _text(header[:100])) if part)
    size = _decimal(said["size"]) if "size" in said else _number(header[124:136])
    if kind is Kind.FILE and name.endswith("/"):
        kind = Kind.FOLDER  # as archives older than the standard have it
    target = said.get("linkpath") or _text(header[157:257])
    return Entry(
        name=name,
        kind=kind,
        size=size if kind is Kind.FILE else 0,
        mode=_number(header[100:108]),
        target=target if kind in {Kind.LINK, Kind.TWIN} else "",
    )


def _said(flag: bytes, content: bytes) -> dict[str, str]:
    """What an extended header says of the next entry, as far as anybody here cares.

    Why the rest is not kept: there may be millions of records.
    """
    if flag == b"L":
        return {"path": _text(content)}
    if flag == b"K":
        return {"linkpath": _text(content)}
    said = {}
    at = 0
    while at < len(content):
        digits = content[at : at + _LENGTH_DIGITS_MAX + 1].partition(b" ")[0]
        length = _decimal(digits.decode("ascii", "replace"))
        record = content[at : at + length]
        if length <= len(digits) + 1 or len(record) < length or not record.endswith(b"\n"):
            raise _broken()
        key, _, value = record[len(digits) + 1 : -1].partition(b"=")
        if key in _HEEDED:
            said[key.decode()] = value.decode(errors="surrogateescape")
        elif key.startswith(b"GNU.sparse"):
            said[SPARSE] = ""
        at += length
    return said


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="surrogateescape")


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):  # noqa: PLR2004  # as 2**64 has
        raise _broken()
    return int(text)


def _number(field: bytes) -> int:
    """Octal digits, or GNU's base 256, of which no honest size needs more than eight bytes."""
    if field[:1] == b"\x80":
        value = int.from_bytes(field[1:], "big")
        if value.bit_length() > 8 * _NUMBER_BYTES_MAX:
            raise _broken()
        return value
    digits = field.strip(b" \0").decode("ascii", "replace")
    if digits and not (digits.isascii() and all(digit in "01234567" for digit in digits)):
        raise _broken()
    return int(digits or "0", 8)


def _broken() -> StagingFailed:
    return StagingFailed("The package is no whole archive: use .tgz, .tar.gz, .tar or .zip.")
