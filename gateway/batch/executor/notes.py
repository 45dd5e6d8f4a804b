"""What is left word of in an attempt's folder, where its command cannot write.

What isolates a command or runs its container notes when the container began, and how it all ended
if the exit code does not say so.
"""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gateway.batch.engines import Cause
from gateway.batch.executor.folders import SCRATCH
from gateway.batch.executor.left_files import read_left

VERDICT: Final = "verdict.json"
VERDICT_BYTES_MAX: Final = 2**20
BEGUN: Final = "begun"  # in SCRATCH, and empty: when it was made says all


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an attempt ended, where the exit code does not say it."""

    cause: Cause
    detail: str
    exit_code: int | None

    def encoded(self) -> str:
        """It as JSON, for `read_verdict`."""
        return json.dumps([self.cause.value, self.detail, self.exit_code])


def note_begun(folder: str) -> None:
    """Note that the container of an attempt begins now. Raises OSError."""
    os.close(os.open(f"{folder}/{SCRATCH}/{BEGUN}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def find_begun(folder: str) -> datetime | None:
    """When the container of an attempt began; None if it has not."""
    try:
        return datetime.fromtimestamp(os.stat(f"{folder}/{SCRATCH}/{BEGUN}").st_mtime, UTC)
    except OSError:
        return None


def write_verdict(folder: str, verdict: Verdict) -> None:
    """Leave word in an attempt's folder, where its command cannot write. Raises OSError."""
    Path(folder, VERDICT).write_text(verdict.encoded(), encoding="utf-8")


def read_verdict(folder: str) -> Verdict | None:
    """How an attempt ended, if that was written: the exit code is no good then."""
    try:
        found = read_left(f"{folder}/{VERDICT}", bytes_max=VERDICT_BYTES_MAX)
        cause, detail, code = json.loads(found)
        return Verdict(Cause(cause), detail, code)
    except (OSError, ValueError, TypeError):
        return None
