"""What the journal and the ledger remember, and what a full disk does to them."""

import itertools
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.batch.engines import Cause, Ended, Launch
from gateway.batch.executor.journal import AHEAD_BYTES, COMPACT_BYTES_MIN, Boot, Journal
from gateway.batch.executor.ledger import EXECUTOR_ENDED, Ledger
from tests.support.attempts import launch

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def open_ledger(folder: Path) -> Ledger:
    return Ledger(Journal(folder / "journal"), boot_id="this-boot", clock=lambda: NOW)


def over(attempt: Launch) -> Ended:
    return Ended(attempt.attempt_id, NOW, exit_code=0, cause=None)


def lines_of(path: Path) -> bytes:
    """What a journal says, without the zeros behind it."""
    return path.read_bytes().rstrip(b"\0")


@contextmanager
def no_room_in(path: Path, *, but: int = 10) -> Iterator[None]:
    """No file of this process may be written to beyond the lines of `path`, but for some bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(lines_of(path)) + but, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_where_the_files_of_an_end_are_is_remembered_until_it_is_acknowledged(
    tmp_path: Path,
) -> None:
    ledger = open_ledger(tmp_path)
    ended, forgotten, never_ran = launch("a"), launch("b"), launch("c")
    ledger.begin([ended, forgotten, never_ran])
    ledger.commit()
    ledger.end(over(ended))
    ledger.end(over(forgotten))
    ledger.end(replace(over(never_ran), started=False))
    ledger.end(Ended("job-99999999.0.0.1", NOW, None, Cause.TERMINATED))  # stopped, unknown
    ledger.commit()
    ledger.acknowledge([forgotten.attempt_id])
    for _ in range(2):
        assert list(ledger.left()) == [(over(ended), ended.folder)]
        ledger.close()
        ledger = open_ledger(tmp_path)


def test_a_ledger_opened_again_knows_where_every_attempt_stands(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    begun, ended, forgotten = launch("a"), launch("b"), launch("c")
    ledger.begin([begun, ended, forgotten])
    assert ledger.commit().launches == [begun, ended, forgotten]
    ledger.note_process(begun.attempt_id, pid=5, start_ticks=6)
    ledger.end(over(ended))
    ledger.end(over(forgotten))
    assert ledger.commit().ended == [over(ended), over(forgotten)]
    ledger.acknowledge([forgotten.attempt_id])
    ledger.close()
    again = open_ledger(tmp_path)
    assert list(again.begun) == [begun.attempt_id]
    spawned = again.begun[begun.attempt_id].spawned
    assert spawned is not None
    assert (spawned.pid, spawned.start_ticks) == (5, 6)
    assert again.outcomes == {ended.attempt_id: over(ended)}
    again.begin([begun, ended, forgotten])
    assert again.commit().launches == []


def test_the_boot_a_journal_was_written_on_is_told_from_this_one(tmp_path: Path) -> None:
    Journal(tmp_path / "journal").write([Boot(boot_id="an-earlier-boot")])
    assert open_ledger(tmp_path).previous_boot_id == "an-earlier-boot"
    assert open_ledger(tmp_path).previous_boot_id == "this-boot"


@pytest.mark.parametrize(
    "rubbish", [b'{"line":"beg', b"\0" * 100 + b"x", b'{"line":"x"}\n{"line":"boot"']
)
def test_a_torn_end_is_dropped_for_good(tmp_path: Path, rubbish: bytes) -> None:
    ledger, attempt = open_ledger(tmp_path), launch("a")
    ledger.end(over(attempt))
    ledger.commit()
    ledger.close()
    path = tmp_path / "journal"
    path.write_bytes(lines_of(path) + rubbish)
    torn = Journal(path)
    assert torn.dropped_bytes == len(rubbish)
    torn.close()
    again = Journal(path)
    assert again.dropped_bytes == 0
    again.close()
    assert open_ledger(tmp_path).outcomes == {attempt.attempt_id: over(attempt)}


def test_what_is_written_ahead_is_no_torn_end_and_the_lines_have_no_gap(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    crashed = Journal(path)
    crashed.write([Boot(boot_id="first")])
    assert len(lines_of(path)) + AHEAD_BYTES <= path.stat().st_size
    after = Journal(path)
    assert (after.found, after.dropped_bytes) == ([Boot(boot_id="first")], 0)
    after.write([Boot(boot_id="second")])
    assert lines_of(path).count(b"\0") == 0
    after.write([Boot(boot_id="x" * 2 * AHEAD_BYTES)])
    assert Journal(path).found[1:] == [Boot(boot_id="second"), Boot(boot_id="x" * 2 * AHEAD_BYTES)]


def test_a_whole_line_behind_a_hole_never_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path).write([Boot(boot_id="first")])
    line = lines_of(path)
    path.write_bytes(line + b"\0" * len(line) + line)
    Journal(path).write([Boot(boot_id="later")])  # just as long as the hole
    assert Journal(path).found == [Boot(boot_id="first"), Boot(boot_id="later")]


def test_where_there_is_no_room_ahead_a_line_is_written_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal, boots = Journal(path), [Boot(boot_id="first"), Boot(boot_id="second")]
    with no_room_in(path, but=100):
        for boot in boots:
            journal.write([boot])
            assert path.read_bytes() == lines_of(path)
    assert Journal(path).found == boots


def test_on_a_full_disk_nothing_starts_and_no_outcome_is_lost(tmp_path: Path) -> None:
    ledger, running, refused = open_ledger(tmp_path), launch("a"), launch("b")
    ledger.begin([running])
    ledger.commit()
    lines = lines_of(tmp_path / "journal")
    ledger.begin([refused])
    ledger.end(over(running))
    with no_room_in(tmp_path / "journal"):
        for _ in range(2):
            with pytest.raises(OSError, match="too large"):
                ledger.commit()
    assert (tmp_path / "journal").read_bytes() == lines
    committed = ledger.commit()
    assert committed.launches == []
    assert [(each.attempt_id, each.cause, each.started) for each in committed.ended] == [
        (running.attempt_id, None, True),
        (refused.attempt_id, Cause.INFRA_LOST, False),
    ]


def test_a_large_journal_shrinks_to_what_still_matters(tmp_path: Path) -> None:
    ledger, kept, ended = open_ledger(tmp_path), launch("kept"), launch("ended")
    ledger.begin([kept, ended])
    ledger.commit()
    ledger.end(over(ended))
    ledger.commit()
    sizes = []
    for _ in range(100):
        attempts = [launch("x") for _ in range(500)]
        ledger.begin(attempts)
        ledger.commit()
        for attempt in attempts:
            ledger.end(over(attempt))
        ledger.commit()
        ledger.acknowledge([attempt.attempt_id for attempt in attempts])
        sizes.append((tmp_path / "journal").stat().st_size)
    ledger.close()
    assert any(later < earlier for earlier, later in itertools.pairwise(sizes))
    assert max(sizes) < 2 * COMPACT_BYTES_MIN
    again = open_ledger(tmp_path)
    assert list(again.begun) == [kept.attempt_id]
    assert list(again.left()) == [(over(ended), ended.folder)]
    assert again.knows(attempts[0].attempt_id)


def test_nodes_are_lost_by_a_mark_of_the_journal_whatever_the_words(tmp_path: Path) -> None:
    died, spoke = launch("died"), launch("spoke")
    ledger = open_ledger(tmp_path)
    ledger.begin([died, spoke])
    ledger.commit()
    ledger.end(replace(over(spoke), cause=Cause.INFRA_LOST, detail=EXECUTOR_ENDED))
    ledger.end(replace(over(died), cause=Cause.INFRA_LOST), with_executor=True)
    ledger.commit()
    assert ledger.lost_with_an_executor == 1
    ledger.close()
    again = open_ledger(tmp_path)
    assert again.lost_with_an_executor == 1
    again.acknowledge([died.attempt_id])
    assert again.lost_with_an_executor == 0
    again.close()


def test_a_loss_of_nodes_is_acknowledged_apart_from_what_ran_there(tmp_path: Path) -> None:
    died, later = launch("died"), launch("later")
    ledger = open_ledger(tmp_path)
    ledger.end(replace(over(died), cause=Cause.INFRA_LOST), with_executor=True)
    ledger.commit()
    ledger.acknowledge_loss()
    assert ledger.lost_with_an_executor == 0
    ledger.close()
    again = open_ledger(tmp_path)
    assert again.lost_with_an_executor == 0
    assert list(again.outcomes) == [died.attempt_id]
    again.end(replace(over(later), cause=Cause.INFRA_LOST), with_executor=True)
    again.commit()
    again.close()
    assert open_ledger(tmp_path).lost_with_an_executor == 1


def test_a_journal_of_before_that_mark_is_read(tmp_path: Path) -> None:
    line = '{"line":"over","ended":{"attempt_id":"a","at":"2026-01-01T00:00:00Z",'
    (tmp_path / "journal").write_text(line + '"exit_code":0,"cause":null}}\n')
    ledger = open_ledger(tmp_path)
    assert list(ledger.outcomes) == ["a"]
    assert ledger.lost_with_an_executor == 0
