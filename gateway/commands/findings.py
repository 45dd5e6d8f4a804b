"""What `doctor` finds: one line each, and the verdict on all of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """How it stands: as it should; worse than it could; not fit to serve."""

    OK = "ok"
    DEGRADED = "degraded"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. advice: what to do about it; empty if there is nothing."""

    name: str
    verdict: Verdict
    words: str
    advice: str = ""


def worst_of(findings: Sequence[Finding]) -> Verdict:
    """The verdict on all of it."""
    order = list(Verdict)
    return max((each.verdict for each in findings), key=order.index, default=Verdict.OK)
