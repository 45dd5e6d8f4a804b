"""A PostgreSQL that is frozen: it keeps its connections, and says nothing."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing, suppress

import anyio
import psycopg
import pytest
from sqlalchemy import text

from gateway.store import Store, StoreUnavailable, open_store
from gateway.store.lines import Line, Lines, Prober, Watch
from gateway.store.postgresql import PING_S
from tests.support.notes import add_note, count_notes, create_tables
from tests.support.services import Postgresql, private_folder

pytestmark = [pytest.mark.anyio, pytest.mark.needs("postgresql")]
GIVEN_UP_S = 20


@pytest.fixture(scope="module")
def freezable() -> Iterator[Postgresql]:
    """A server of these tests' own, which nobody else waits for."""
    with private_folder("freezable") as folder, closing(Postgresql(folder)) as server:
        server.start()
        yield server


@pytest.fixture
async def store(freezable: Postgresql) -> AsyncIterator[Store]:
    freezable.execute("DROP DATABASE IF EXISTS frozen WITH (FORCE)")
    freezable.execute("CREATE DATABASE frozen")
    async with open_store(freezable.url_of("frozen")) as opened:
        await opened.write(create_tables)
        yield opened


async def test_ping_tells_soon_that_a_frozen_server_is_away_and_that_it_is_back(
    store: Store, freezable: Postgresql
) -> None:
    await store.ping()
    with freezable.frozen():
        for _ in range(2):
            with anyio.fail_after(2 * PING_S), pytest.raises(StoreUnavailable):
                await store.ping()
    await store.ping()


async def test_who_leaves_a_ping_does_not_wait_for_its_thread(
    store: Store, freezable: Postgresql
) -> None:
    await store.ping()
    with freezable.frozen():
        began = anyio.current_time()
        with anyio.move_on_after(0.1):
            await store.ping()
        assert anyio.current_time() - began < PING_S


async def test_calls_that_wait_for_a_frozen_server_are_told_and_later_ones_work(
    store: Store, freezable: Postgresql
) -> None:
    told: list[str] = []

    async def call(name: str) -> None:
        with pytest.raises(StoreUnavailable):
            await (store.write(add_note(name)) if name else store.read_list(count_notes))
        told.append(name)

    with freezable.frozen(), anyio.fail_after(GIVEN_UP_S):
        async with anyio.create_task_group() as tasks:
            for name in ("", "during", "", "meanwhile"):
                tasks.start_soon(call, name)
    assert len(told) == 4
    with anyio.fail_after(GIVEN_UP_S):
        await _until_written(store)


async def test_a_store_ends_while_the_server_is_frozen(freezable: Postgresql) -> None:
    async def read(store: Store) -> None:
        with suppress(StoreUnavailable):
            await store.read_list(lambda tx: tx.execute(text("SELECT 1")))

    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(freezable.url_of("postgres")))
        await read(store)
        with freezable.frozen():
            began = anyio.current_time()
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(read, store)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            await stack.aclose()
            assert anyio.current_time() - began < GIVEN_UP_S


def open_line(freezable: Postgresql, connect_s: int) -> Line:
    url = freezable.url_of("postgres")
    return psycopg.connect(url, autocommit=True, connect_timeout=connect_s)


def test_a_statement_may_take_long_while_the_server_answers_others(freezable: Postgresql) -> None:
    lines = Lines()
    prober = Prober(lambda connect_s: open_line(freezable, connect_s))
    with closing(prober), open_line(freezable, 5) as line:
        lines.add(line)
        with closing(Watch(lines, prober, silent_s=0.2, every_s=0.01)):
            assert line.execute("SELECT pg_sleep(1.5)").rowcount == 1


def test_lines_are_cut_once_the_server_is_silent_and_only_those(freezable: Postgresql) -> None:
    lines = Lines()
    prober = Prober(lambda connect_s: open_line(freezable, connect_s))
    ended = threading.Event()
    with closing(prober), open_line(freezable, 5) as line:
        lines.add(line)
        prober.ask(at_most_s=5)

        def wait() -> None:
            with pytest.raises(psycopg.OperationalError):
                line.execute("SELECT pg_sleep(60)")
            ended.set()

        thread = threading.Thread(target=wait)
        thread.start()
        with freezable.frozen(), closing(Watch(lines, prober, silent_s=0.2, every_s=0.01)):
            assert ended.wait(GIVEN_UP_S)
        thread.join()
        assert lines.cut() == 0


async def test_a_standby_is_an_outage_for_changes_until_it_is_promoted(
    store: Store, freezable: Postgresql
) -> None:
    await store.write(add_note("before"))
    with freezable.standing_by():
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.write(add_note("during"))
            with pytest.raises(StoreUnavailable, match="takes no changes"):
                await store.ping()
        assert await store.read_list(count_notes) == 1
    with anyio.fail_after(GIVEN_UP_S):
        await _until_written(store)
    await store.ping()
    assert await store.read_list(count_notes) == 2


async def _until_written(store: Store) -> None:
    """Write until that is taken again; it takes a moment to see that the server is well."""
    written = False
    while not written:
        with suppress(StoreUnavailable):
            await store.write(add_note("after"))
            written = True
