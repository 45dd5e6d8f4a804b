"""The hash chains of the decision log, which make a change to what was recorded show. Pure.

Each process that writes has a chain of its own. The hash of a record is the SHA-256 of the hash
before it (64 hexadecimal digits), a newline, and the record exactly as it is stored.

What this cannot prove: whoever may write to the whole database can rewrite a chain from any place
on, cut its end off, or remove all of it, and make every hash and head fit again. Against that,
keep heads elsewhere (`decisions export` prints them) and give them to `decisions verify --head`:
from the first record that is there up to a kept head, nothing can be changed unseen. What retention
has deleted from the beginning cannot be told from what somebody else has, and such a chain's start
time cannot be proved any more: look from which record on a chain goes, and keep new heads.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

FINDINGS_MAX = 100
"""Of one chain; whatever there is beyond them is counted."""


@dataclass(frozen=True, slots=True)
class Link:
    """A place in a chain. seq: from 1; 0 is before the first record. hash: as above."""

    seq: int
    hash: str


def beginning(chain: str, started_at: datetime) -> Link:
    """The place before the first record of a chain."""
    return Link(0, hashlib.sha256(f"{chain} {started_at.isoformat()}".encode()).hexdigest())


def following(before: Link, record: bytes) -> Link:
    """The place of a record that comes after `before`."""
    return Link(before.seq + 1, hashlib.sha256(before.hash.encode() + b"\n" + record).hexdigest())


class Fault(Enum):
    """What can be wrong with a chain; a closed vocabulary."""

    ALTERED = "altered, or not in its place"
    MISLABELLED = "its columns say something else than the record"
    MISSING = "missing"
    ADDED = "was not written by the gateway"
    TRUNCATED = "the end is missing"
    BEGINNING = "the beginning is not the one of this chain"
    HEAD = "the stored head is not the one of the last record"
    NO_CHAIN = "there is no such chain"
    NOT_AS_KEPT = "not as in the head that was kept"
    NOT_THERE = "the head that was kept is not in the chain"
    TOO_OLD = "the head that was kept is older than what is kept: it can no longer be compared"
    UNREADABLE = "holds what the gateway does not write"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong at one place.

    request_id: of the record there, or of the last one before it; "" if there is none.
    """

    fault: Fault
    seq: int
    request_id: str


@dataclass(slots=True)
class Report:
    """What is known of one chain after the walk. first_seq: 0 if there is no record."""

    chain: str
    records: int = 0
    first_seq: int = 0
    head: Link = Link(0, "")
    findings: list[Finding] = field(default_factory=list)
    findings_untold: int = 0

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    @property
    def damaged(self) -> bool:
        """Whether something is wrong, besides what can no longer be known."""
        return any(one.fault is not Fault.TOO_OLD for one in self.findings)

    def add(self, fault: Fault, *, seq: int, request_id: str = "") -> None:
        """Take a finding down."""
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(fault, seq, request_id))
        else:
            self.findings_untold += 1


class Walk:
    """Goes along one chain record by record, in memory of one record.

    after: the anchor. kept: hashes that must be found, by their seq.
    """

    def __init__(self, chain: str, *, after: Link, kept: Mapping[int, str]) -> None:
        self.report = Report(chain, head=after)
        self._last = after
        self._anchor_seq = after.seq
        self._last_request_id = ""
        self._kept = dict(kept)
        self._compare_with_kept(after, request_id="")

    def step(
        self, place: Link, record: bytes, *, request_id: str, previous: str | None = None
    ) -> None:
        """Take the next record. place: what is stored of it. previous: the hash before, if told."""
        report = self.report
        report.records += 1
        if place.seq <= self._last.seq:
            report.add(Fault.ADDED, seq=place.seq, request_id=request_id)
            return
        before: Link | None = self._last
        if place.seq != self._last.seq + 1:
            report.add(Fault.MISSING, seq=self._last.seq + 1)
            before = None if previous is None else Link(place.seq - 1, previous)
        fits = before is None or (
            previous in {None, before.hash} and following(before, record).hash == place.hash
        )
        if not fits:
            report.add(Fault.ALTERED, seq=place.seq, request_id=request_id)
        report.first_seq = report.first_seq or place.seq
        self._compare_with_kept(place, request_id=request_id)
        self._last, self._last_request_id = place, request_id

    def end(self, head: Link | None) -> Report:
        """Compare the end with the stored head, if one is known, and with the heads kept."""
        last = self._last
        if head is not None and head != last:
            fault = Fault.HEAD
            if head.seq != last.seq:
                fault = Fault.TRUNCATED if head.seq > last.seq else Fault.ADDED
            self.report.add(fault, seq=last.seq, request_id=self._last_request_id)
        for seq in self._kept:
            fault = Fault.TOO_OLD if seq < self._anchor_seq else Fault.NOT_THERE
            self.report.add(fault, seq=seq, request_id="")
        self.report.head = last
        return self.report

    def break_off(self) -> Report:
        """End before the end, since what comes next cannot be read."""
        seq, request_id = self._last.seq, self._last_request_id
        self.report.add(Fault.UNREADABLE, seq=seq, request_id=request_id)
        self.report.head = self._last
        return self.report

    def _compare_with_kept(self, place: Link, *, request_id: str) -> None:
        kept = self._kept.pop(place.seq, place.hash)
        if kept != place.hash:
            self.report.add(Fault.NOT_AS_KEPT, seq=place.seq, request_id=request_id)
