"""File systems of a test's own, in memory: small enough to be filled."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, *, kib: int, mode: str = "755") -> Iterator[Path]:
    """A file system of `kib` KiB at a folder, which is made; without the right to, a test is
    skipped, and says so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={kib}k,mode={mode}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"NO SMALL FILE SYSTEM CAN BE MOUNTED HERE: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
