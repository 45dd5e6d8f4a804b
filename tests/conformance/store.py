"""What every `Store` does. It is run on every kind of `database_url`."""

import contextlib
import resource
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta, timezone

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from gateway.errors import ApiError, ResourceNotFound
from gateway.store import Store, StoreUnavailable, Tx, open_store
from tests.support.notes import (
    LOCK_COUNTER,
    MOVE_COUNTER,
    add_note,
    count_from_outside,
    count_notes,
    counter,
    create_tables,
    ids_matching,
    note,
)
from tests.support.services import Postgresql

TOO_MUCH = "x" * 3_000_000
FILE_SIZE_MAX = 1_000_000

Outage = Callable[[], AbstractContextManager[None]]

WRITE_UNTIL_KILLED = """
import anyio, itertools, sys
from gateway.store import open_store
from tests.support.notes import add_note

async def main():
    async with open_store(sys.argv[1]) as store:
        for number in itertools.count():
            await store.write(add_note(f"note-{number}"))
            print(number, flush=True)

anyio.run(main)
"""


def matches(text_: str, pattern: str) -> bool:
    """The reference for patterns: only `*` is special, and stands for any run of characters."""
    pieces = pattern.split("*")
    if len(pieces) == 1:
        return text_ == pattern
    head, *middle, tail = pieces
    if not text_.startswith(head):
        return False
    place = len(head)
    for piece in middle:
        found = text_.find(piece, place)
        if found < 0:
            return False
        place = found + len(piece)
    return len(text_) - len(tail) >= place and text_.endswith(tail)


HOSTILE = st.text(alphabet="aAbB%_\\[]^-?!/:é\n'\"{},", max_size=6)
HOSTILE_PATTERN = st.text(alphabet="aAbB%_\\[]^-?!/:é\n'\"{},\x00***", max_size=6)


class StoreConformance:
    """The suite; a subclass in a test module runs it."""

    @pytest.fixture
    async def store(self, database_url: str) -> AsyncIterator[Store]:
        """The store under test, with the suite's own tables and no others."""
        async with open_store(database_url) as store:
            await store.write(create_tables)
            yield store

    @pytest.fixture
    def outage(self, request: pytest.FixtureRequest, database_url: str) -> Outage:
        """A `with` block in which the database cannot commit."""
        if database_url.startswith("sqlite"):
            return full_disk
        server: Postgresql = request.getfixturevalue("postgresql")
        return lambda: stopped(server)

    @pytest.mark.anyio
    async def test_write_returns_what_the_function_returned(self, store: Store) -> None:
        assert await store.write(lambda tx: tx.execute(text("SELECT 42")).scalar_one()) == 42

    @pytest.mark.anyio
    async def test_a_write_that_returned_is_seen_from_another_connection(
        self, store: Store, database_url: str
    ) -> None:
        for number in range(3):
            await store.write(add_note(f"note-{number}"))
            assert count_from_outside(database_url) == number + 1

    @pytest.mark.anyio
    async def test_a_write_that_returned_survives_kill_9(
        self, store: Store, database_url: str
    ) -> None:
        command = [sys.executable, "-c", WRITE_UNTIL_KILLED, database_url]
        with subprocess.Popen(  # noqa: ASYNC220  # nothing else runs on this loop
            command, stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout
            returned = [int(writer.stdout.readline()) for _ in range(20)]
            writer.kill()
            returned += [int(line) for line in writer.stdout if line.endswith("\n")]
        assert await store.read_list(count_notes) >= len(returned)

    @pytest.mark.anyio
    async def test_a_function_that_raises_undoes_only_its_own_changes(self, store: Store) -> None:
        async def write(number: int) -> None:
            def function(tx: Tx) -> None:
                add_note(f"note-{number}")(tx)
                if number % 2:
                    raise ResourceNotFound(f"{number}")

            with contextlib.suppress(ResourceNotFound):
                await store.write(function)

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(write, number)

        ids = await store.read_list(lambda tx: set(tx.execute(select(note.c.id)).scalars()))
        assert ids == {f"note-{number}" for number in range(0, 100, 2)}

    @pytest.mark.anyio
    async def test_a_function_that_raises_with_nobody_beside_it_undoes_what_it_did(
        self, store: Store
    ) -> None:
        def refused(tx: Tx) -> None:
            add_note("note-1")(tx)
            tx.execute(text("INSERT INTO conformance_counter VALUES (1, 1)"))

        def caught(tx: Tx) -> None:
            with contextlib.suppress(DBAPIError):
                refused(tx)
            raise ResourceNotFound("x")

        for function, kind in ((refused, DBAPIError), (caught, ResourceNotFound)):
            with pytest.raises(kind):
                await store.write(function)
            assert await store.read_list(count_notes) == 0
        await store.write(add_note("note-2"))
        assert await store.read_list(count_notes) == 1

    @pytest.mark.anyio
    @pytest.mark.parametrize("error", [ValueError("x"), StopIteration(), ResourceNotFound("x")])
    async def test_the_error_of_a_function_reaches_its_caller_alone(
        self, store: Store, error: Exception
    ) -> None:
        def fail(_: Tx) -> None:
            raise error

        kind = RuntimeError if isinstance(error, StopIteration) else type(error)
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(store.write, add_note(f"note-{number}"))
            with anyio.fail_after(10), pytest.raises(kind):
                await store.write(fail)
        assert await store.read_list(count_notes) == 10

    @pytest.mark.anyio
    @pytest.mark.parametrize(
        "statement",
        ["SELECT * FROM no_such_table", "INSERT INTO conformance_counter VALUES (1, 1)"],
    )
    async def test_a_refused_statement_fails_neither_its_neighbours_nor_as_an_outage(
        self, store: Store, statement: str
    ) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(store.write, add_note(f"note-{number}"))
            with pytest.raises(DBAPIError):
                await store.write(lambda tx: tx.execute(text(statement)))
        assert await store.read_list(count_notes) == 10

    @pytest.mark.anyio
    async def test_many_concurrent_writers_all_get_their_own_result(self, store: Store) -> None:
        results: dict[int, int] = {}

        def function(tx: Tx, number: int) -> int:
            add_note(f"note-{number}")(tx)
            return number

        async def write(number: int) -> None:
            results[number] = await store.write(lambda tx: function(tx, number))

        async with anyio.create_task_group() as tasks:
            for number in range(500):
                tasks.start_soon(write, number)

        assert results == {number: number for number in range(500)}
        assert await store.read_list(count_notes) == 500

    @pytest.mark.anyio
    async def test_no_update_is_lost_between_a_locked_read_and_the_guarded_write(
        self, store: Store
    ) -> None:
        def advance(tx: Tx) -> None:
            value = tx.execute(LOCK_COUNTER).scalar_one()
            assert tx.execute(MOVE_COUNTER, {"old": value, "new": value + 1}).rowcount == 1

        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(store.write, advance)

        value = await store.read_point(lambda tx: tx.execute(select(counter.c.value)).scalar_one())
        assert value == 100

    @pytest.mark.anyio
    async def test_a_deadlock_between_two_writers_ends_with_both_done(self, store: Store) -> None:
        await store.write(lambda tx: tx.execute(counter.insert(), {"id": 2, "value": 0}))
        both_hold_one = threading.Barrier(2)

        def advance_both(tx: Tx, order: tuple[int, int]) -> None:
            for counter_id in order:
                row = counter.c.id == counter_id
                tx.execute(select(counter).where(row).with_for_update()).one()
                tx.execute(update(counter).where(row).values(value=counter.c.value + 1))
                # one writer at a time, or a second try: then nobody else comes to the barrier
                with contextlib.suppress(threading.BrokenBarrierError):
                    both_hold_one.wait(0.5)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.write, lambda tx: advance_both(tx, (1, 2)))
            tasks.start_soon(store.write, lambda tx: advance_both(tx, (2, 1)))

        values = await store.read_list(
            lambda tx: tx.execute(select(counter.c.value)).scalars().all()
        )
        assert values == [2, 2]

    @pytest.mark.anyio
    async def test_a_signal_wakes_its_waiter_after_the_commit_and_not_before(
        self, store: Store, database_url: str
    ) -> None:
        seen = store.signals.count("notes")
        may_commit = threading.Event()
        counts_during: list[int] = []

        def function(tx: Tx) -> None:
            add_note("note-1")(tx)
            may_commit.wait(10)
            counts_during.append(store.signals.count("notes"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.write, function)
            await store.signals.wait("notes", seen=seen, at_most_s=0.05)
            assert store.signals.count("notes") == seen
            may_commit.set()
            with anyio.fail_after(10):
                await store.signals.wait("notes", seen=seen, at_most_s=60)
            assert count_from_outside(database_url) == 1
        assert counts_during == [seen]

    @pytest.mark.anyio
    async def test_a_signal_between_the_look_and_the_wait_is_not_lost(self, store: Store) -> None:
        seen = store.signals.count("notes")
        await store.write(add_note("note-1"))
        with anyio.fail_after(10):
            await store.signals.wait("notes", seen=seen, at_most_s=60)

    @pytest.mark.anyio
    async def test_a_transaction_that_was_undone_wakes_nobody(self, store: Store) -> None:
        def function(tx: Tx) -> None:
            add_note("note-1")(tx)
            raise ResourceNotFound("note-2")

        seen = store.signals.count("notes")
        with pytest.raises(ResourceNotFound):
            await store.write(function)
        await store.write(lambda tx: tx.wake("others"))
        assert store.signals.count("notes") == seen

    @pytest.mark.anyio
    async def test_every_waiter_of_a_signal_is_woken_and_no_other(self, store: Store) -> None:
        woken: list[int] = []

        async def wait(number: int) -> None:
            await store.signals.wait("notes", seen=0, at_most_s=60)
            woken.append(number)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                for number in range(5):
                    tasks.start_soon(wait, number)
                await store.write(lambda tx: tx.wake("others"))
                assert woken == []
                await store.write(add_note("note-1"))
        assert sorted(woken) == [0, 1, 2, 3, 4]

    @pytest.mark.anyio
    async def test_a_caller_who_leaves_does_not_take_the_signals_along(self, store: Store) -> None:
        started, may_commit = threading.Event(), threading.Event()

        def function(tx: Tx) -> None:
            started.set()
            may_commit.wait(10)
            add_note("note-1")(tx)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.write, function)
                await anyio.to_thread.run_sync(started.wait)
                tasks.cancel_scope.cancel()
                may_commit.set()
            await store.signals.wait("notes", seen=0, at_most_s=60)
        assert await store.read_list(count_notes) == 1

    @pytest.mark.anyio
    async def test_a_list_is_read_in_one_view_whatever_is_written_meanwhile(
        self, store: Store
    ) -> None:
        def count_twice(tx: Tx) -> tuple[int, int]:
            before = count_notes(tx)
            anyio.from_thread.run(store.write, add_note("note-1"))
            return before, count_notes(tx)

        assert await store.read_list(count_twice) == (0, 0)
        assert await store.read_list(count_notes) == 1

    @pytest.mark.anyio
    @pytest.mark.parametrize("door", ["read_point", "read_list"])
    async def test_a_read_cannot_write(self, store: Store, door: str) -> None:
        with pytest.raises((DBAPIError, ApiError)):
            await getattr(store, door)(add_note("note-1"))
        await store.write(add_note("note-2"))
        assert await store.read_list(count_notes) == 1

    @pytest.mark.anyio
    async def test_what_was_written_is_read_at_once_through_every_door(self, store: Store) -> None:
        for number in range(20):
            await store.write(add_note(f"note-{number}"))
            assert await store.read_point(count_notes) == number + 1
            assert await store.read_list(count_notes) == number + 1

    @pytest.mark.anyio
    async def test_a_unique_value_is_refused_the_second_time(self, store: Store) -> None:
        await store.write(add_note("note-1"))
        with pytest.raises(IntegrityError):
            await store.write(add_note("note-1"))

    @pytest.mark.anyio
    @pytest.mark.parametrize(
        "moment",
        [
            datetime(2018, 6, 15, 14, 43, 17, 123_456, tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            datetime.min.replace(tzinfo=UTC),
            datetime.max.replace(tzinfo=UTC),
            datetime(2018, 6, 15, 22, 43, 17, 1, tzinfo=timezone(timedelta(hours=8))),
            None,
        ],
        ids=str,
    )
    async def test_a_moment_comes_back_aware_and_to_the_microsecond(
        self, store: Store, moment: datetime | None
    ) -> None:
        await store.write(add_note("note-1", at=moment))
        read = await store.read_point(lambda tx: tx.execute(select(note.c.at)).scalar_one())
        assert read == moment
        assert read is None or read.utcoffset() == timedelta(0)

    @pytest.mark.anyio
    async def test_a_moment_without_a_zone_is_refused(self, store: Store) -> None:
        naive = datetime(2018, 6, 15, tzinfo=UTC).replace(tzinfo=None)
        with pytest.raises(Exception, match="offset-naive"):
            await store.write(add_note("note-1", at=naive))
        assert await store.read_point(count_notes) == 0

    @pytest.mark.anyio
    async def test_moments_sort_as_times_do(self, store: Store) -> None:
        start = datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)
        for number in (3, 1, 2):
            await store.write(add_note(f"{number}", at=start + timedelta(seconds=number)))
        by_time = select(note.c.id).where(note.c.at > start).order_by(note.c.at)
        ids = await store.read_list(lambda tx: tx.execute(by_time).scalars().all())
        assert ids == ["1", "2", "3"]

    @pytest.mark.anyio
    @settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(values=st.sets(HOSTILE, max_size=8), patterns=st.lists(HOSTILE_PATTERN, max_size=4))
    @example(values={"job-a", "JOB-A", "job-b"}, patterns=["job-*"])
    @example(values={"a\\b", "a%b", "a_b", "aXb"}, patterns=["a%b*", "a_b*", "a\\*"])
    @example(values={"[a]", "a", "[", "?"}, patterns=["[a]*", "[*", "?*"])
    @example(values={"job-x", "job-y"}, patterns=["job-x\x00*", "job-y\x00", "job-x\ud800*"])
    async def test_only_the_star_is_a_wildcard_and_case_counts(
        self, store: Store, values: set[str], patterns: list[str]
    ) -> None:
        await store.write(lambda tx: tx.execute(note.delete()))
        rows = [{"id": value, "body": "", "at": None} for value in values]
        if rows:
            await store.write(lambda tx: tx.execute(note.insert(), rows))
        expected = {v for v in values if any(matches(v, pattern) for pattern in patterns)}
        assert await store.read_list(lambda tx: ids_matching(tx, patterns)) == expected

    @pytest.mark.anyio
    async def test_thousands_of_patterns_are_one_condition(self, store: Store) -> None:
        patterns = [f"job-{number}*" for number in range(5_000)] + ["exact"]
        for note_id in ("job-4999x", "env-1", "exact"):
            await store.write(add_note(note_id))
        ids = await store.read_list(lambda tx: ids_matching(tx, patterns))
        assert ids == {"job-4999x", "exact"}

    @pytest.mark.anyio
    async def test_an_outage_is_told_nothing_is_half_done_and_the_store_works_again_after(
        self, store: Store, outage: Outage
    ) -> None:
        await store.write(add_note("before"))
        seen = store.signals.count("notes")
        with outage():
            with pytest.raises(StoreUnavailable):
                await store.write(add_note("during", body=TOO_MUCH))
            assert store.signals.count("notes") == seen
        await store.ping()
        await store.write(add_note("after"))
        ids = await store.read_list(lambda tx: set(tx.execute(select(note.c.id)).scalars()))
        assert ids == {"before", "after"}

    @pytest.mark.anyio
    async def test_in_an_outage_every_waiting_caller_gets_an_answer(
        self, store: Store, outage: Outage
    ) -> None:
        answers: list[type[Exception] | None] = []

        async def write(number: int) -> None:
            try:
                await store.write(add_note(f"note-{number}", body=TOO_MUCH))
            except StoreUnavailable as error:
                answers.append(type(error))
            else:
                answers.append(None)

        with outage(), anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for number in range(8):
                    tasks.start_soon(write, number)
        assert answers == [StoreUnavailable] * 8
        assert await store.read_list(count_notes) == 0

    @pytest.mark.anyio
    async def test_an_error_of_the_database_does_not_tell_what_was_to_be_stored(
        self, store: Store
    ) -> None:
        await store.write(add_note("note-1", body="a secret"))
        with pytest.raises(IntegrityError) as refused:
            await store.write(add_note("note-1", body="a secret"))
        assert "a secret" not in str(refused.value)

    @pytest.mark.anyio
    async def test_ping_passes_while_the_database_answers(self, store: Store) -> None:
        await store.ping()


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Refuse this process any file larger than a megabyte, as a full disk would refuse it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE_MAX, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def stopped(server: Postgresql) -> Iterator[None]:
    """Stop the database server, and start it again afterwards."""
    server.stop()
    try:
        yield
    finally:
        server.start()
