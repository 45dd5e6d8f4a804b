"""The hash chains: whatever is changed afterwards is found."""

import itertools
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cam import tables
from gateway.cam.decisions.chain import FINDINGS_MAX, Fault, Report
from gateway.cam.decisions.proofs import export, verify, verify_export
from gateway.cam.decisions.queries import list_chains
from gateway.cam.decisions.retention import prune, run
from gateway.store import Store, open_store
from gateway.store.migrations import migrate
from tests.support.decisions import NOON, decision_log, make

RECORDS = 7
"""Of each of two chains."""


@dataclass(frozen=True, repr=False)
class Book:
    """A database with two chains, to be copied and tampered with."""

    path: Path
    chains: tuple[str, str]
    lines: tuple[bytes, ...]
    numbers: Iterator[int]

    def copied(self, change: Callable[[sqlite3.Connection], object]) -> str:
        """The URL of a copy in which something was changed by another program."""
        path = self.path.with_name(f"copy-{next(self.numbers)}.db")
        shutil.copyfile(self.path, path)
        with closing(sqlite3.connect(path)) as connection, connection:
            change(connection)
        return f"sqlite:///{path}"

    def reports(
        self, change: Callable[[sqlite3.Connection], object], **kept: Mapping[int, str]
    ) -> list[Report]:
        return anyio.run(partial(verified, self.copied(change), kept))

    def findings(self, change: Callable[[sqlite3.Connection], object]) -> list[tuple[Fault, int]]:
        """What is found after a change: faults and their places, of all chains."""
        found = [one for report in self.reports(change) for one in report.findings]
        return [(one.fault, one.seq) for one in found]


async def verified(url: str, kept: Mapping[str, Mapping[int, str]]) -> list[Report]:
    async with open_store(url) as store:
        return await store.read_list(lambda tx: list(verify(tx, kept=kept)))


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Book:
    path = tmp_path_factory.mktemp("book") / "gateway.db"
    migrate(f"sqlite:///{path}")
    first, second, lines = anyio.run(written, f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")  # one file, which can be copied
    return Book(path, (first, second), lines, itertools.count())


async def written(url: str) -> tuple[str, str, tuple[bytes, ...]]:
    async with open_store(url) as store:
        chains = []
        for letter in "ab":
            log = decision_log(store)
            chains.append(log.chain)
            for number in range(RECORDS):
                await log.record(make(f"{letter}-{number + 1}"), durably=True)
        return chains[0], chains[1], await store.read_list(lambda tx: tuple(export(tx)))


def change(statement: str, *values: object) -> Callable[[sqlite3.Connection], object]:
    def run(connection: sqlite3.Connection) -> None:
        assert connection.execute(statement, values).rowcount > 0

    return run


def nothing(connection: sqlite3.Connection) -> None:
    del connection


def test_what_nobody_touched_is_sound(book: Book) -> None:
    reports = book.reports(nothing)
    assert {one.chain for one in reports} == set(book.chains)
    assert all(one.sound and one.records == RECORDS for one in reports)


def test_an_altered_record_is_found_with_its_request_id(book: Book) -> None:
    alter = (
        "UPDATE cam_decision SET record = replace(record, 'alice', 'mallo')"
        " WHERE chain = ? AND seq = ?"
    )
    [finding, *rest] = [
        one for report in book.reports(change(alter, book.chains[0], 3)) for one in report.findings
    ]
    assert (finding.fault, finding.seq, finding.request_id) == (Fault.ALTERED, 3, "a-3")
    assert [one.fault for one in rest] == [Fault.MISLABELLED]


def test_a_missing_record_is_found(book: Book) -> None:
    remove = change("DELETE FROM cam_decision WHERE chain = ? AND seq = ?", book.chains[0], 3)
    assert book.findings(remove) == [(Fault.MISSING, 3)]


def test_a_missing_first_record_is_found(book: Book) -> None:
    remove = change("DELETE FROM cam_decision WHERE chain = ? AND seq = ?", book.chains[0], 1)
    assert book.findings(remove) == [(Fault.MISSING, 1)]


def test_an_end_that_was_cut_off_is_found(book: Book) -> None:
    remove = change("DELETE FROM cam_decision WHERE chain = ? AND seq > 4", book.chains[0])
    assert book.findings(remove) == [(Fault.TRUNCATED, 4)]


def test_records_that_changed_places_are_found(book: Book) -> None:
    def swap(connection: sqlite3.Connection) -> None:
        for old, new in ((3, -1), (4, 3), (-1, 4)):
            values = (new, book.chains[0], old)
            connection.execute(
                "UPDATE cam_decision SET seq = ? WHERE chain = ? AND seq = ?", values
            )

    assert book.findings(swap) == [(Fault.ALTERED, 3), (Fault.ALTERED, 4), (Fault.ALTERED, 5)]


@pytest.mark.parametrize("seq", [RECORDS + 1, 0, -5, -(2**63), 2**63 - 1])
def test_an_added_record_is_found(book: Book, seq: int) -> None:
    add = (
        "INSERT INTO cam_decision SELECT chain, ?, hash, 'x', owner_uin, uin, name, action,"
        " effect, reason, decided_at, record FROM cam_decision WHERE chain = ? AND seq = ?"
    )
    assert book.findings(change(add, seq, book.chains[0], 2)) != []


def test_a_chain_whose_row_is_gone_is_found(book: Book) -> None:
    remove = change("DELETE FROM cam_decision_chain WHERE id = ?", book.chains[0])
    found = book.findings(remove)
    assert found == [(Fault.NO_CHAIN, seq) for seq in range(1, RECORDS + 1)]


def test_a_chain_that_is_gone_altogether_is_found_by_a_head_that_was_kept(book: Book) -> None:
    def remove(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM cam_decision WHERE chain = ?", (book.chains[0],))
        connection.execute("DELETE FROM cam_decision_chain WHERE id = ?", (book.chains[0],))

    assert book.findings(remove) == []  # which is why heads are kept
    reports = book.reports(remove, **{book.chains[0]: {3: "0" * 64}})
    assert [one.fault for report in reports for one in report.findings] == [Fault.NO_CHAIN]


def head_of(book: Book, place: int) -> tuple[str, int, str]:
    line = msgspec.json.decode(book.lines[place])
    return line["Chain"], line["Seq"], line["Hash"]


def test_a_head_that_was_kept_is_found_again_and_a_false_one_is_not(book: Book) -> None:
    chain, seq, digest = head_of(book, 3)
    kept = {chain: {seq: digest}}
    assert all(one.sound for one in book.reports(nothing, **kept))
    kept = {chain: {seq: "0" * 64}}
    faults = [one.fault for report in book.reports(nothing, **kept) for one in report.findings]
    assert faults == [Fault.NOT_AS_KEPT]
    kept = {chain: {RECORDS + 5: digest}}
    faults = [one.fault for report in book.reports(nothing, **kept) for one in report.findings]
    assert faults == [Fault.NOT_THERE]


def test_many_findings_are_counted_and_a_few_are_told(book: Book) -> None:
    report = Report("chain-a")
    for seq in range(FINDINGS_MAX + 7):
        report.add(Fault.ALTERED, seq=seq)
    assert (len(report.findings), report.findings_untold) == (FINDINGS_MAX, 7)


SELECT = {
    "cam_decision": "SELECT rowid FROM cam_decision",
    "cam_decision_chain": "SELECT rowid FROM cam_decision_chain",
}
COLUMNS = [
    *(("cam_decision", one.name) for one in tables.decision.columns),
    *(("cam_decision_chain", one.name) for one in tables.decision_chain.columns),
]
values = st.one_of(  # SQLite takes a value of any type anywhere
    st.text("0af-", max_size=9), st.integers(-(2**63), 2**63 - 1), st.binary(max_size=40)
)


@given(what=st.sampled_from(COLUMNS), value=values, place=st.integers(0, 2 * RECORDS - 1))
@settings(max_examples=150)
def test_any_single_change_of_any_column_is_found(
    book: Book, what: tuple[str, str], value: object, place: int
) -> None:
    table, column = what

    def alter(connection: sqlite3.Connection) -> None:
        ids = [row[0] for row in connection.execute(SELECT[table])]
        rowid = ids[place % len(ids)]
        statement = f"UPDATE OR IGNORE {table} SET {column} = ? WHERE rowid = ?"  # noqa: S608
        connection.execute(statement, (value, rowid))

    changed = alter_and_tell(book, alter)
    assert changed is not book_is_sound(book, alter)


def alter_and_tell(book: Book, alter: Callable[[sqlite3.Connection], object]) -> bool:
    """Whether a change leaves other rows than there were."""
    dumps: list[list[str]] = []
    for one in (nothing, alter):
        path = book.copied(one).removeprefix("sqlite:///")
        with closing(sqlite3.connect(path)) as connection:
            dumps.append(list(connection.iterdump()))
    return dumps[0] != dumps[1]


def book_is_sound(book: Book, alter: Callable[[sqlite3.Connection], object]) -> bool:
    return all(one.sound for one in book.reports(alter))


@given(data=st.data(), place=st.integers(0, 2 * RECORDS - 1))
@settings(max_examples=60)
def test_any_changed_byte_of_a_record_is_found(book: Book, data: st.DataObject, place: int) -> None:
    def flip(connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT rowid, record FROM cam_decision").fetchall()
        rowid, record = rows[place]
        at = data.draw(st.integers(0, len(record) - 1))
        altered = bytearray(record)
        altered[at] ^= data.draw(st.integers(1, 255))
        statement = "UPDATE cam_decision SET record = ? WHERE rowid = ?"
        connection.execute(statement, (bytes(altered), rowid))

    assert not book_is_sound(book, flip)


@given(order=st.permutations(range(RECORDS)))
@settings(max_examples=40)
def test_any_other_order_of_the_records_is_found(book: Book, order: Sequence[int]) -> None:
    def reorder(connection: sqlite3.Connection) -> None:
        statement = "UPDATE cam_decision SET seq = ? WHERE chain = ? AND seq = ?"
        for seq in range(1, RECORDS + 1):
            connection.execute(statement, (-seq, book.chains[1], seq))
        for seq, place in enumerate(order, start=1):
            connection.execute(statement, (seq, book.chains[1], -place - 1))

    assert book_is_sound(book, reorder) is (list(order) == sorted(order))


def test_an_export_is_sound_and_every_change_of_its_lines_is_found(book: Book) -> None:
    assert all(one.sound for one in verify_export(book.lines, kept={}))
    for number in range(len(book.lines)):
        lines = list(book.lines)
        lines[number] = lines[number].replace(b"alice", b"mallo")
        assert not all(one.sound for one in verify_export(lines, kept={}))
    for number in (1, 3, RECORDS - 2):
        lines = [*book.lines[:number], *book.lines[number + 1 :]]
        assert not all(one.sound for one in verify_export(lines, kept={}))
        lines = [*book.lines]
        lines[number], lines[number + 1] = lines[number + 1], lines[number]
        assert not all(one.sound for one in verify_export(lines, kept={}))
    lines = [*book.lines, b"{}", b"\xff"]
    assert [one.fault for one in verify_export(lines, kept={})[-1].findings] == [
        Fault.UNREADABLE,
        Fault.UNREADABLE,
    ]


def test_an_export_whose_end_was_cut_off_is_found_by_a_head_that_was_kept(book: Book) -> None:
    chain, seq, digest = head_of(book, -1)
    kept = {chain: {seq: digest}}
    assert all(one.sound for one in verify_export(book.lines, kept=kept))
    assert not all(one.sound for one in verify_export(book.lines[:-1], kept=kept))


def test_an_export_names_chain_seq_hashes_and_record(book: Book) -> None:
    line = msgspec.json.decode(book.lines[1])
    assert list(line) == ["Chain", "Seq", "Previous", "Hash", "Record"]
    assert line["Record"]["RequestId"] == "a-2"
    assert line["Previous"] == head_of(book, 0)[2]


@pytest.mark.anyio
async def test_what_is_old_is_deleted_and_the_rest_stays_proved(store: Store) -> None:
    log = decision_log(store)
    for number in range(1_200):
        decided_at = NOON + timedelta(minutes=number)
        await log.record(make(f"r-{number}", time=decided_at), durably=False)
    await log.flush()
    before = NOON + timedelta(minutes=1_150)
    assert await prune(store, before=before, current_chain=log.chain) == 1_150
    [report] = await verified_in(store)
    assert (report.findings, report.records, report.first_seq) == ([], 50, 1_151)
    await log.record(make("after"), durably=True)
    [report] = await verified_in(store)
    assert (report.findings, report.records) == ([], 51)
    exported = await store.read_list(lambda tx: list(export(tx)))
    assert all(one.sound for one in verify_export(exported, kept={}))
    altered = [exported[0].replace(b"alice", b"mallo"), *exported[1:]]
    assert not all(one.sound for one in verify_export(altered, kept={}))
    kept = {log.chain: {20: "0" * 64}}
    [report] = await store.read_list(lambda tx: list(verify(tx, kept=kept)))
    assert [(one.fault, one.seq) for one in report.findings] == [(Fault.TOO_OLD, 20)]
    assert (report.sound, report.damaged) == (False, False)


async def verified_in(store: Store) -> list[Report]:
    return await store.read_list(lambda tx: list(verify(tx, kept={})))


@pytest.mark.anyio
async def test_a_chain_with_nothing_left_goes_unless_it_is_written_to(store: Store) -> None:
    dead, live = decision_log(store), decision_log(store)
    for log in (dead, live):
        await log.record(make(log.chain), durably=True)
    later = datetime(2027, 1, 1, tzinfo=UTC)
    assert await prune(store, before=later, current_chain=live.chain) == 2
    assert [one.id for one in await store.read_list(list_chains)] == [live.chain]
    await live.record(make("r-1"), durably=True)
    [report] = await verified_in(store)
    assert (report.findings, report.records, report.first_seq) == ([], 1, 2)


@pytest.mark.anyio
async def test_what_is_young_or_behind_something_young_is_kept(store: Store) -> None:
    log = decision_log(store)
    await log.record(make("young", time=NOON), durably=True)
    await log.record(make("old", time=NOON - timedelta(days=9)), durably=True)
    assert await prune(store, before=NOON, current_chain="") == 0
    [report] = await verified_in(store)
    assert (report.findings, report.records) == ([], 2)


@pytest.mark.anyio
async def test_retention_runs_by_itself_and_keeps_for_ever_if_told_so(store: Store) -> None:
    log = decision_log(store)
    await log.record(make("old", time=NOON), durably=True)
    await log.record(make("young", time=NOON + timedelta(days=2)), durably=True)
    beside: dict[str, Any] = {
        "clock": lambda: NOON + timedelta(days=3),
        "current_chain": lambda: log.chain,
    }
    with anyio.fail_after(20):
        await run(store, keep_days=0, **beside)
        assert (await verified_in(store))[0].records == 2
        async with anyio.create_task_group() as tasks:
            await tasks.start(partial(run, store, keep_days=2, **beside))
            while (await verified_in(store))[0].records == 2:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    [report] = await verified_in(store)
    assert (report.findings, report.records, report.first_seq) == ([], 1, 2)
