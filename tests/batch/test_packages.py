"""Unpacking packages, hostile ones above all: nothing outside the folder is ever touched."""

import gzip
import io
import os
import stat
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.batch.staging import StagingFailed
from gateway.batch.staging.packages import CHUNK, Bounds, Unpacking, _check_directory, unpack
from gateway.batch.staging.tarballs import HEADER_BYTES_MAX, HEADERS_BYTES_MAX, _said
from gateway.batch.storage import trees

SECRET = b"nobody may change this"


class Place:
    """A folder to unpack into, and what lies around it."""

    def __init__(self, top: Path) -> None:
        self.into = top / "attempt" / "work"
        self.archive = top / "archive"
        self.outside = top / "attempt" / "outside"
        self.into.mkdir(parents=True)
        self.outside.write_bytes(SECRET)

    def unpack(self, packed: bytes, bounds: Bounds | None = None) -> None:
        self.archive.write_bytes(packed)
        try:
            unpack(self.archive, self.into, bounds=bounds or Bounds())
        finally:
            self.check_surroundings()

    def check_surroundings(self) -> None:
        """Nothing beside the folder was made, changed or given another mode."""
        attempt = self.into.parent
        assert self.outside.read_bytes() == SECRET
        assert self.outside.stat().st_nlink == 1
        assert sorted(each.name for each in attempt.iterdir()) == ["outside", "work"]
        assert sorted(each.name for each in attempt.parent.iterdir()) == ["archive", "attempt"]

    def files(self) -> dict[str, bytes]:
        return {
            each.relative_to(self.into).as_posix(): each.read_bytes()
            for each in sorted(self.into.rglob("*"))
            if each.is_file() and not each.is_symlink()
        }


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def entry(name: str, kind: bytes = tarfile.REGTYPE, **values: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in values.items():
        setattr(info, key, value)
    return info


def tarball(
    *entries: tuple[tarfile.TarInfo, bytes] | tarfile.TarInfo, form: int = tarfile.PAX_FORMAT
) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for each in entries:
            info, content = each if isinstance(each, tuple) else (each, b"")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return packed.getvalue()


def flipped(packed: bytes, *, at: int) -> bytes:
    return packed[:at] + bytes([packed[at] ^ 0xFF]) + packed[at + 1 :]


def zip_link(name: str, target: str) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, target.encode()


def test_a_tarball_of_the_systems_own_tar_is_unpacked_as_it_was(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = tmp_path_factory.mktemp("source")
    deep = source / "codepkg" / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    (deep / ("f" * 200)).write_bytes(b"long names")
    (source / "codepkg" / "run.sh").write_bytes(b"#!/bin/sh\n")
    (source / "codepkg" / "run.sh").chmod(0o4755)
    (source / "codepkg" / "ä b").write_bytes(b"x" * 100_000)
    (source / "codepkg" / "empty").mkdir()
    (source / "codepkg" / "link").symlink_to("run.sh")
    os.link(source / "codepkg" / "run.sh", source / "codepkg" / "twin")
    for form in ("gnu", "pax", "v7"):
        given_names = ["codepkg"] if form != "v7" else ["codepkg/run.sh", "codepkg/empty"]
        done = subprocess.run(
            ["tar", "-cz", f"--format={form}", "-C", source, *given_names],
            capture_output=True,
            check=True,
        )
        here = Place(tmp_path_factory.mktemp(form))
        here.unpack(done.stdout)
        package = here.into / "codepkg"
        assert (package / "run.sh").read_bytes() == b"#!/bin/sh\n"
        assert stat.S_IMODE((package / "run.sh").stat().st_mode) == 0o755, "not set-user-id"
        assert (package / "empty").is_dir()
        if form != "v7":
            found = here.files()
            assert found[f"codepkg/{'d' * 120}/{'e' * 120}/{'f' * 200}"] == b"long names"
            assert found["codepkg/ä b"] == b"x" * 100_000
            assert os.readlink(package / "link") == "run.sh"
            assert (package / "twin").read_bytes() == b"#!/bin/sh\n"


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "tgz"])
def test_a_tarball_is_known_by_its_content(place: Place, pack: Callable[[bytes], bytes]) -> None:
    place.unpack(pack(tarball((entry("./a/b.txt"), b"hello"), entry("./"))))
    assert place.files() == {"a/b.txt": b"hello"}


def test_a_zip_is_unpacked_with_folders_links_and_modes(place: Place) -> None:
    script = zipfile.ZipInfo("pkg/run.sh")
    script.external_attr = (stat.S_IFREG | 0o6755) << 16
    place.unpack(zipped((script, b"true"), ("pkg/empty/", b""), zip_link("pkg/l", "run.sh")))
    assert place.files() == {"pkg/run.sh": b"true"}
    assert stat.S_IMODE((place.into / "pkg/run.sh").stat().st_mode) == 0o755
    assert (place.into / "pkg/empty").is_dir()
    assert os.readlink(place.into / "pkg/l") == "run.sh"


def test_the_later_of_two_files_with_one_name_counts_and_its_twin_keeps_the_earlier(
    place: Place,
) -> None:
    twin = entry("twin", tarfile.LNKTYPE, linkname="a")
    place.unpack(tarball((entry("a"), b"old"), twin, (entry("a"), b"new")))
    assert place.files() == {"a": b"new", "twin": b"old"}


LINK, TWIN, FOLDER = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
HOSTILE: dict[str, list[Any]] = {
    "an absolute name": [(entry("/etc/x"), b"!")],
    "a name that climbs": [(entry("../outside"), b"!")],
    "a name that climbs in the middle": [(entry("a/../../outside"), b"!")],
    "an absolute link": [entry("l", LINK, linkname="/etc/passwd")],
    "a link that climbs": [entry("l", LINK, linkname="../outside")],
    "a link that climbs from below": [entry("a/l", LINK, linkname="../../outside")],
    "a link through a link": [
        entry("a/b", FOLDER),
        entry("a/b/up", LINK, linkname="../.."),
        entry("l", LINK, linkname="a/b/up/../outside"),
    ],
    "a file through a link": [
        entry("l", LINK, linkname="."),
        (entry("l/../../outside"), b"!"),
    ],
    "a file where a link is": [entry("l", LINK, linkname="x"), (entry("l/a"), b"!")],
    "a link where a folder is": [(entry("d/a"), b""), entry("d", LINK, linkname="x")],
    "a file where a folder is": [(entry("d/a"), b""), (entry("d"), b"!")],
    "a folder where a file is": [(entry("f"), b""), (entry("f/a"), b"!")],
    "a twin of what is outside": [entry("t", TWIN, linkname="../outside")],
    "a twin of an absolute name": [entry("t", TWIN, linkname="/etc/passwd")],
    "a twin of a link": [entry("l", LINK, linkname="x"), entry("t", TWIN, linkname="l")],
    "a twin of a folder": [entry("d", FOLDER), entry("t", TWIN, linkname="d")],
    "a twin of nothing": [entry("t", TWIN, linkname="nothing")],
    "a twin of the top": [entry("t", TWIN, linkname=".")],
    "a device": [entry("d", tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "a block device": [entry("d", tarfile.BLKTYPE, devmajor=8)],
    "a pipe": [entry("p", tarfile.FIFOTYPE)],
    "an unknown kind": [entry("u", b"Z")],
    "a sparse file": [(entry("s", pax_headers={"GNU.sparse.major": "1"}), b"")],
    "an empty link": [entry("l", LINK, linkname="")],
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_a_hostile_tarball_is_refused(place: Place, name: str, form: int) -> None:
    if name == "a sparse file" and form == tarfile.GNU_FORMAT:
        entries: Sequence[Any] = [entry("s", tarfile.GNUTYPE_SPARSE)]
    else:
        entries = HOSTILE[name]
    with pytest.raises(StagingFailed):
        place.unpack(tarball(*entries, form=form))


@pytest.mark.parametrize(
    "entries",
    [
        [("/etc/x", b"!")],
        [("../outside", b"!")],
        [("a/../../outside", b"!")],
        [zip_link("l", "/etc/passwd")],
        [zip_link("l", "../outside")],
        [zip_link("l", "x"), ("l/a", b"!")],
    ],
    ids=range(6),
)
def test_a_hostile_zip_is_refused(
    place: Place, entries: list[tuple[str | zipfile.ZipInfo, bytes]]
) -> None:
    with pytest.raises(StagingFailed):
        place.unpack(zipped(*entries))


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\x1f\x8b",
        b"PK\x03\x04",
        b"PK\x05\x06",
        b"not an archive at all, but some text",
        b"\0" * 10_240,
        gzip.compress(b"not a tarball"),
        gzip.compress(tarball((entry("a"), b"hello")))[:-12],
        tarball((entry("a"), b"hello" * 1000))[:2048],
        tarball((entry("a"), b"hello")).replace(b"ustar", b"ustaR", 1),
        zipped(("a", b"hello" * 1000))[:60],
        flipped(zipped(("a", b"hello" * 20)), at=35),
    ],
    ids=range(12),
)
def test_what_is_no_whole_archive_is_refused_in_words(place: Place, packed: bytes) -> None:
    with pytest.raises(StagingFailed, match="The package"):
        place.unpack(packed)


def test_a_bomb_stops_at_the_bound(place: Place) -> None:
    bounds = Bounds(bytes_max=100_000, entries_max=50, depth_max=5)
    large = (entry("zeros"), b"\0" * 200_000)
    with pytest.raises(StagingFailed, match="bytes"):
        place.unpack(gzip.compress(tarball(large)), bounds)
    assert sum(len(content) for content in place.files().values()) <= 100_000
    with pytest.raises(StagingFailed, match="bytes"):
        place.unpack(zipped(("zeros", b"\0" * 200_000)), bounds)
    with pytest.raises(StagingFailed, match="entries"):
        place.unpack(tarball(*[entry(f"f{number}") for number in range(51)]), bounds)
    with pytest.raises(StagingFailed, match="nested"):
        place.unpack(tarball(entry("a/b/c/d/e/f")), bounds)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, LINK, FOLDER])
def test_folders_made_on_the_way_count_as_entries(tmp_path: Path, kind: bytes) -> None:
    deep = [entry(f"{number}/b/c/d/e", kind, linkname="x") for number in range(10)]
    Place(tmp_path / "1").unpack(tarball(*deep), Bounds(entries_max=50))
    with pytest.raises(StagingFailed, match="over 49 entries"):
        Place(tmp_path / "2").unpack(tarball(*deep), Bounds(entries_max=49))


def test_folders_that_are_entries_count_once(place: Place) -> None:
    names = ["a", "a/b", "a/b/c", "a/b/c"]
    place.unpack(tarball(*[entry(name, FOLDER) for name in names]), Bounds(entries_max=4))
    assert (place.into / "a/b/c").is_dir()


def test_a_package_does_not_take_the_last_room_of_a_disk(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "FLOOR_BYTES", 2**62)
    monkeypatch.setattr(trees, "FLOOR_PERCENT", 100)
    with pytest.raises(OSError, match="No space left on device"):
        place.unpack(tarball((entry("a"), b"hello")))
    assert (place.into / "a").read_bytes() == b""


def test_a_header_that_claims_to_be_huge_is_not_read(place: Place) -> None:
    whole = bytearray(tarball((entry("n" * 300), b""), form=tarfile.GNU_FORMAT))
    whole[124:136] = b"77777777777\0"
    whole[148:156] = b" " * 8
    whole[148:156] = b"%06o\0 " % sum(whole[:512])
    with pytest.raises(StagingFailed, match="too large"):
        place.unpack(bytes(whole))


def test_a_zip_with_a_huge_list_of_files_is_not_read(place: Place) -> None:
    packed = bytearray(zipped(("a", b"")))
    at = packed.rfind(b"PK\x05\x06")
    struct.pack_into("<L", packed, at + 12, 2**31)
    with pytest.raises(StagingFailed, match="too large"):
        place.unpack(bytes(packed))


def pax(kind: bytes, content: bytes) -> bytes:
    """An extended header, as it stands before an entry."""
    info = entry("pax", kind, size=len(content))
    return info.tobuf(tarfile.USTAR_FORMAT) + content + b"\0" * (-len(content) % 512)


@pytest.mark.parametrize("kind", [b"g", b"x", b"L", b"K"])
def test_extended_headers_count_by_their_number(place: Place, kind: bytes) -> None:
    content = b"11 path=ab\n"
    few, many = pax(kind, content) * 30, pax(kind, content) * 31
    end = tarball((entry("ab"), b""))
    place.unpack(few + end, Bounds(entries_max=10))
    with pytest.raises(StagingFailed, match="extended headers"):
        place.unpack(many + end, Bounds(entries_max=10))


def test_a_bomb_of_extended_headers_stops_at_the_bound(place: Place) -> None:
    header = gzip.compress(pax(b"g", b"\0" * HEADER_BYTES_MAX))
    packed = header * (HEADERS_BYTES_MAX // HEADER_BYTES_MAX + 1)
    with pytest.raises(StagingFailed, match="extended headers"):
        place.unpack(packed + gzip.compress(tarball(entry("a"))))


def test_an_extended_header_of_many_records_is_read_once_and_not_kept(place: Place) -> None:
    records = b"6 a=b\n" * 150_000 + b"11 path=ab\n"
    place.unpack(pax(b"x", records) + tarball((entry("other"), b"x")))
    assert place.files() == {"ab": b"x"}
    assert _said(b"x", records) == {"path": "ab"}


def test_content_that_is_skipped_counts_as_well(place: Place) -> None:
    """A file that is called as the folder itself is not written: and yet it is unpacked."""
    with pytest.raises(StagingFailed, match="bytes"):
        place.unpack(
            gzip.compress(tarball((entry("."), b"\0" * 200_000))),
            Bounds(bytes_max=100_000, entries_max=10),
        )


def zip64(packed: bytes, *, directory_bytes: int) -> bytes:
    """A zip with a second end, which says something else than the first."""
    at = packed.rfind(b"PK\x05\x06")
    end = struct.pack(
        "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, directory_bytes, at - directory_bytes
    )
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    first = bytearray(packed[at:])
    struct.pack_into("<2L", first, 12, 0, 0)
    return packed[:at] + end + locator + bytes(first)


def test_a_zip_with_a_second_list_of_files_is_refused(place: Place) -> None:
    packed = zipped(("a", b"x"))
    size = struct.unpack_from("<L", packed, packed.rfind(b"PK\x05\x06") + 12)[0]
    double = zip64(packed, directory_bytes=size)
    with zipfile.ZipFile(io.BytesIO(double)) as archive:
        assert archive.namelist() == ["a"], "the standard library believes the second"
    with pytest.raises(StagingFailed, match="zip64"):
        place.unpack(double)


def test_the_entries_of_a_zip_are_counted_whatever_its_end_says(place: Place) -> None:
    packed = bytearray(zipped(*[(f"f{number}", b"") for number in range(11)]))
    struct.pack_into("<2H", packed, packed.rfind(b"PK\x05\x06") + 8, 1, 1)
    place.unpack(bytes(packed), Bounds(entries_max=11))
    assert len(place.files()) == 11
    with pytest.raises(StagingFailed, match="over 10 entries"):
        _check_directory(io.BytesIO(packed), Unpacking(place.into, Bounds(entries_max=10)))


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_of_a_packing_that_bursts_in_memory_is_refused(place: Place, packing: int) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", packing) as archive:
        archive.writestr("a", b"\0" * 1000)
    with pytest.raises(StagingFailed, match="deflated"):
        place.unpack(packed.getvalue())


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["tgz", "tar"])
def test_unpacking_stops_in_the_middle_of_a_file(
    place: Place, pack: Callable[[bytes], bytes]
) -> None:
    asked: list[None] = []

    def is_stopped() -> bool:
        asked.append(None)
        return len(asked) > 10

    large = b"\0" * (20 * CHUNK)
    place.archive.write_bytes(pack(tarball((entry("a"), large))))
    with pytest.raises(StagingFailed, match="stopped"):
        unpack(place.archive, place.into, is_stopped=is_stopped)
    assert 0 < (place.into / "a").stat().st_size < len(large)
    asked.clear()
    place.archive.write_bytes(zipped(("b", large)))
    with pytest.raises(StagingFailed, match="stopped"):
        unpack(place.archive, place.into, is_stopped=is_stopped)
    assert (place.into / "b").stat().st_size < len(large)


NAMES = st.lists(
    st.sampled_from(["a", "b", "l", "..", ".", "", "outside", "work"]), min_size=1, max_size=4
).map("/".join)
ENTRIES = st.lists(
    st.tuples(
        NAMES, st.sampled_from([tarfile.REGTYPE, LINK, TWIN, FOLDER, tarfile.FIFOTYPE]), NAMES
    ),
    max_size=8,
)


@example(entries=[("a", LINK, "a")], absolute=False)
@given(entries=ENTRIES, absolute=st.booleans())
def test_no_tarball_touches_what_is_outside(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[tuple[str, bytes, str]],
    absolute: bool,
) -> None:
    place = Place(tmp_path_factory.mktemp("any"))
    top = f"{place.outside}/" if absolute else ""
    infos = [entry(name, kind, linkname=f"{top}{target}") for name, kind, target in entries]
    packed = tarball(*[(info, b"!" if info.isreg() else b"") for info in infos])
    try:
        place.unpack(packed)
    except OSError:
        return
    for found in place.into.rglob("*"):
        real = Path(os.path.realpath(found))  # `resolve` does not take links that lead in a circle
        assert real.is_relative_to(place.into), "no link leads outside"


@given(data=st.data())
def test_no_damaged_archive_does_anything_but_unpack_or_be_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = data.draw(st.sampled_from([SMALL_TAR, SMALL_ZIP]))
    packed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    place = Place(tmp_path_factory.mktemp("damaged"))
    try:
        place.unpack(bytes(packed[: data.draw(st.integers(0, len(packed)))]))
    except OSError:
        return


SMALL_TAR = tarball(
    (entry("a/b"), b"hello"), entry("l", LINK, linkname="a/b"), entry("t", TWIN, linkname="a/b")
)
SMALL_ZIP = zipped(("a/b", b"hello" * 20), zip_link("l", "a/b"))
