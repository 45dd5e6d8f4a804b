"""Proving the decision log: in the database, and in a file that was exported from it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from gateway.cam.decisions.chain import Fault, Link, Report, Walk, beginning
from gateway.cam.decisions.log import columns_of
from gateway.cam.decisions.queries import Chain, list_chains, walk_rows
from gateway.cam.tables import CHAINS_OF_DECISIONS, STRAYS_OF_CHAIN
from gateway.service import Wire
from gateway.store import Tx

Kept = Mapping[str, Mapping[int, str]]
"""Heads kept elsewhere: hash by chain and seq."""


NO_VALUES_OF_OURS = (ArithmeticError, AttributeError, TypeError, ValueError)
"""What reading a row raises that somebody else wrote: SQLite takes any type in any column."""


class ExportLine(Wire):
    """One line of an export. previous: the hash before. record: exactly as it is stored."""

    chain: str
    seq: int
    previous: str
    hash: str
    record: msgspec.Raw


def verify(tx: Tx, *, kept: Kept) -> Iterator[Report]:
    """Walk every chain of the database, in memory of one page. See `chain.py`."""
    try:
        chains = list_chains(tx)
    except NO_VALUES_OF_OURS:
        yield Walk("", after=Link(0, ""), kept={}).break_off()
        return
    known = {chain.id for chain in chains}
    for chain in chains:
        yield _walk_stored(tx, chain, kept=kept.get(chain.id, {}))
    strays = set(tx.execute(CHAINS_OF_DECISIONS).scalars()) | set(kept)
    for name in sorted(strays - known, key=str):
        yield _report_stray(tx, name, kept=kept.get(name, {}))


def export(tx: Tx) -> Iterator[bytes]:
    """The whole log as lines of JSON: chain by chain, each from its oldest record on."""
    for chain in list_chains(tx):
        before = chain.anchor.hash
        for row in walk_rows(tx, chain.id):
            line = ExportLine(
                chain=chain.id,
                seq=row["seq"],
                previous=before,
                hash=row["hash"],
                record=msgspec.Raw(row["record"]),
            )
            yield msgspec.json.encode(line)
            before = row["hash"]


def verify_export(lines: Iterable[bytes], *, kept: Kept) -> list[Report]:
    """Walk the chains of an exported file. What was cut off its end shows by a kept head only."""
    walks: dict[str, Walk] = {}
    unreadable = Report("")
    for number, text in enumerate(lines, start=1):
        try:
            line = msgspec.json.decode(text, type=ExportLine)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            unreadable.add(Fault.UNREADABLE, seq=number)
            continue
        walk = walks.get(line.chain)
        if walk is None:
            anchor = Link(line.seq - 1, line.previous)
            walk = walks[line.chain] = Walk(line.chain, after=anchor, kept=kept.get(line.chain, {}))
        record = bytes(line.record)
        place = Link(line.seq, line.hash)
        walk.step(place, record, request_id=_request_id(record), previous=line.previous)
    reports = [walk.end(None) for walk in walks.values()]
    for name in sorted(set(kept) - set(walks)):
        reports.append(Report(name))
        reports[-1].add(Fault.NO_CHAIN, seq=max(kept[name]))
    return reports if unreadable.sound else [*reports, unreadable]


def _walk_stored(tx: Tx, chain: Chain, *, kept: Mapping[int, str]) -> Report:
    walk = Walk(chain.id, after=chain.anchor, kept=kept)
    try:
        _walk_rows(tx, chain, walk=walk)
        return walk.end(chain.head)
    except NO_VALUES_OF_OURS:
        return walk.break_off()


def _walk_rows(tx: Tx, chain: Chain, *, walk: Walk) -> None:
    if chain.anchor.seq == 0 and chain.anchor != beginning(chain.id, chain.started_at):
        walk.report.add(Fault.BEGINNING, seq=0)
    for row in walk_rows(tx, chain.id):
        request_id = _request_id(row["record"]) or row["request_id"]
        record = row["record"]
        if isinstance(record, str):  # as an UPDATE by hand leaves it in SQLite
            record = record.encode()
        walk.step(Link(row["seq"], row["hash"]), record, request_id=request_id)
        if not _labels_fit(row):
            walk.report.add(Fault.MISLABELLED, seq=row["seq"], request_id=request_id)


def _report_stray(tx: Tx, name: str, *, kept: Mapping[int, str]) -> Report:
    """Records whose chain is gone, or a kept head of a chain that is."""
    report = Report(str(name))
    for row in tx.execute(STRAYS_OF_CHAIN, {"chain": name}):
        report.records += 1
        report.add(Fault.NO_CHAIN, seq=row.seq, request_id=str(row.request_id))
    if not report.records:
        report.add(Fault.NO_CHAIN, seq=max(kept))
    return report


def _labels_fit(row: Mapping[str, Any]) -> bool:
    """Whether the columns that are searched say what the record says."""
    try:
        labels = columns_of(msgspec.json.decode(row["record"]))
    except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError, ValueError):
        return False
    return all(row[name] == label for name, label in labels.items())


def _request_id(record: bytes) -> str:
    try:
        return str(msgspec.json.decode(record)["RequestId"])
    except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError):
        return ""
