"""The name of one attempt at one task instance, from which all of it is found. Pure.

Why: the name says where the attempt belongs, so that an engine's report needs no look-up and no
table maps one to the other.
"""

import re
from functools import lru_cache
from typing import NamedTuple

_FORM = re.compile(r"(job-[a-z0-9]{8})\.([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})")


class Attempt(NamedTuple):
    """The `attempt`-th try (from 1) at instance `number` of the task at `position`."""

    job_id: str
    position: int
    number: int
    attempt: int

    @property
    def id(self) -> str:
        """The name under which an engine knows it."""
        return f"{self.job_id}.{self.position}.{self.number}.{self.attempt}"

    @property
    def folder(self) -> str:
        """Its folder, relative to the engine's root of attempts.

        Why no folder for the instance: most have one attempt, and to make a folder costs a command
        more than anything else but its process.
        """
        return f"{self.job_id}/{self.position}/{self.number}.{self.attempt}"


@lru_cache(maxsize=10_000)
def parse_attempt(text: str) -> Attempt:
    """Read an attempt's id. Raises ValueError if it is none of ours.

    Why it is kept: a report is read in several places within milliseconds.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an attempt's id")
    return Attempt(match[1], int(match[2]), int(match[3]), int(match[4]))
