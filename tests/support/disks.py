"""File systems of a test's own, in memory: small enough to be filled."""

import itertools
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.images import BUSYBOX


@contextmanager
def small_disk(
    folder: Path, *, kib: int, mode: str = "755", inodes: int | None = None
) -> Iterator[Path]:
    """A file system of `kib` KiB at a folder, which is made.

    inodes: how many files it may hold; None for as many as it likes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={kib}k,mode={mode}" + (f",nr_inodes={inodes}" if inodes else "")
    with mounted(folder, kind="tmpfs", options=options):
        yield folder


@contextmanager
def layered(folder: Path) -> Iterator[Path]:
    """A root as a container has it, with a busybox in it: "root" in a folder, which is made.

    What is written to it comes to be in "upper".
    """
    for name in ("lower", "upper", "work", "root"):
        (folder / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, folder / "lower")
    layers = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
    with mounted(folder / "root", kind="overlay", options=layers):
        yield folder / "root"


@contextmanager
def mounted(folder: Path, *, kind: str, options: str) -> Iterator[None]:
    """A file system at a folder; without the right to, a test is skipped, and says so."""
    done = subprocess.run(
        ["mount", "-t", kind, "-o", options, kind, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"NO {kind} CAN BE MOUNTED HERE: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write to a file until there is no room."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4_096)


def use_up_files(folder: Path) -> None:
    """Make empty files in a folder until there can be no more."""
    with suppress(OSError):
        for number in itertools.count():
            (folder / str(number)).touch()
