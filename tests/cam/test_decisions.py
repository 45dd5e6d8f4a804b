"""The decision log: nothing that was decided goes unrecorded."""

import json
from typing import Any

import anyio
import pytest
from prometheus_client import REGISTRY

from gateway.call import Principal
from gateway.cam import tables
from gateway.cam.decisions.chain import Report
from gateway.cam.decisions.log import DecisionLog, Overflow, find_decision
from gateway.cam.decisions.proofs import verify
from gateway.cam.decisions.queries import list_chains
from gateway.clock import now
from gateway.errors import ServiceUnavailable
from gateway.policy.record import DecisionRecord
from gateway.store import Store, StoreUnavailable, Tx
from tests.support.decisions import SAMPLE, Faulty, decision_log, first, make

pytestmark = pytest.mark.anyio


async def find(store: Store, request_id: str) -> dict[str, Any] | None:
    return await store.read_point(lambda tx: find_decision(tx, request_id))


async def reports(store: Store) -> list[Report]:
    return await store.read_list(lambda tx: list(verify(tx, kept={})))


async def assert_sound(store: Store, *, records: int, chains: int = 1) -> None:
    """The log holds so many records, and every chain of them is whole."""
    found = await reports(store)
    assert [one.findings for one in found] == [[]] * chains
    assert sum(one.records for one in found) == records


def dropped() -> float:
    value = REGISTRY.get_sample_value("qcs_gateway_decisions_dropped_total")
    assert value is not None
    return value


def broken() -> DecisionRecord:
    raise ZeroDivisionError


async def test_a_durable_record_is_there_at_once_and_shown_in_its_public_form(
    store: Store,
) -> None:
    await decision_log(store).record(make("r-0"), durably=True)
    assert await find(store, "r-0") == json.loads(json.dumps(SAMPLE.public()))
    assert await find(store, "r-1") is None


@pytest.mark.parametrize("request_id", ["", "\x00", "\udcff", "' OR 1=1 --", "r" * 37])
async def test_what_is_no_request_id_is_not_found(store: Store, request_id: str) -> None:
    await decision_log(store).record(make("r-0"), durably=True)
    assert await find(store, request_id) is None


async def test_what_waits_is_written_within_a_second_without_being_asked_for(
    store: Store,
) -> None:
    log = decision_log(store)
    async with anyio.create_task_group() as tasks:
        await tasks.start(log.run)
        for number in range(1_000):
            await log.record(make(f"r-{number}"), durably=False)
        with anyio.fail_after(5):
            while await find(store, "r-999") is None:
                await anyio.lowlevel.checkpoint()
        assert await find(store, "r-0") is not None
        tasks.cancel_scope.cancel()
    await assert_sound(store, records=1_000)


async def test_what_still_waits_at_the_end_is_written(store: Store) -> None:
    log = decision_log(store)
    async with anyio.create_task_group() as tasks:
        await tasks.start(log.run)
        for number in range(1_000):
            await log.record(make(f"r-{number}"), durably=False)
        tasks.cancel_scope.cancel()
    await assert_sound(store, records=1_000)


async def test_a_durable_record_after_the_end_is_written_all_the_same(store: Store) -> None:
    log = decision_log(store)
    async with anyio.create_task_group() as tasks:
        await tasks.start(log.run)
        tasks.cancel_scope.cancel()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(record_durably, log, f"r-{number}", [])
    await assert_sound(store, records=20)


async def record_durably(log: DecisionLog, request_id: str, done: list[str]) -> None:
    """Note the call in `done` if its record was kept, as an answer would tell."""
    try:
        await log.record(make(request_id), durably=True)
    except ServiceUnavailable:
        return
    done.append(request_id)


async def test_two_hundred_at_once_share_commits_and_are_all_there(store: Store) -> None:
    commits = 0

    def count() -> bool:
        nonlocal commits
        commits += 1
        return False

    log = decision_log(Faulty(store, fails=count))
    done: list[str] = []
    async with anyio.create_task_group() as tasks:
        await tasks.start(log.run)
        async with anyio.create_task_group() as calls:
            for number in range(200):
                calls.start_soon(record_durably, log, f"d-{number}", done)
                await log.record(make(f"r-{number}"), durably=False)
        assert len(done) == 200
        assert commits < 50
        for name in done:
            assert await find(store, name) is not None
        tasks.cancel_scope.cancel()
    await assert_sound(store, records=400)


@pytest.mark.parametrize("keeps", [False, True], ids=["undone", "stored unknown to us"])
async def test_while_commits_fail_calls_are_refused_and_reads_wait_and_no_chain_breaks(
    store: Store, keeps: bool
) -> None:
    turns = iter(range(10_000))
    log = decision_log(Faulty(store, fails=lambda: next(turns) % 3 == 1, keeps=keeps))
    done: list[str] = []
    async with anyio.create_task_group() as tasks:
        await tasks.start(log.run)
        for start in range(0, 200, 20):
            async with anyio.create_task_group() as calls:
                for number in range(start, start + 20):
                    calls.start_soon(record_durably, log, f"d-{number}", done)
                    await log.record(make(f"r-{number}"), durably=False)
            await log.flush()
        tasks.cancel_scope.cancel()
    assert 0 < len(done) < 200
    for name in [*done, *(f"r-{number}" for number in range(200))]:
        assert await find(store, name) is not None, name
    kept = 400 if keeps else 200 + len(done)
    await assert_sound(store, records=kept)


async def test_a_call_that_is_cancelled_while_it_waits_takes_no_other_along(
    store: Store,
) -> None:
    log = decision_log(store)
    done: list[str] = []
    async with anyio.create_task_group() as tasks:
        await tasks.start(log.run)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as calls:
                for number in range(0, 100, 2):
                    with anyio.CancelScope() as scope:
                        scope.cancel()
                        await record_durably(log, f"d-{number}", [])
                    calls.start_soon(record_durably, log, f"d-{number + 1}", done)
                    await anyio.lowlevel.checkpoint()
        assert len(done) == 50
        tasks.cancel_scope.cancel()
    assert all([await find(store, name) for name in done])
    assert [one.findings for one in await reports(store)] == [[]]


async def test_who_flushes_himself_and_is_cancelled_takes_no_other_along(store: Store) -> None:
    log = decision_log(store)
    done: list[str] = []
    with anyio.fail_after(20):
        async with anyio.create_task_group() as calls:
            for number in range(50):
                calls.start_soon(record_durably, log, f"d-{number}", done)
            with anyio.move_on_after(0.001):
                await record_durably(log, "cancelled", [])
    assert len(done) == 50
    assert [one.findings for one in await reports(store)] == [[]]


async def test_a_record_that_cannot_be_worked_out_fails_its_own_call_only(store: Store) -> None:
    log = decision_log(store)
    before = dropped()
    async with anyio.create_task_group() as tasks:
        await tasks.start(log.run)
        with pytest.raises(ZeroDivisionError):
            await log.record(broken, durably=True)
        await log.record(broken, durably=False)
        await log.record(make("r-1"), durably=False)
        await log.record(make("r-2"), durably=True)
        tasks.cancel_scope.cancel()
    assert dropped() == before + 1
    await assert_sound(store, records=2)


async def test_a_record_that_the_database_cannot_take_harms_no_other(store: Store) -> None:
    log = decision_log(store)
    before = dropped()
    impossible = make("r-0", principal=Principal("1", "2", "a\x00b"), action="x" * 97)
    done: list[str] = []
    for number in range(1, 4):
        await log.record(make(f"r-{number}"), durably=False)
    await log.record(impossible, durably=False)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as calls:
            for number in range(5):
                calls.start_soon(record_durably, log, f"d-{number}", done)
    await log.flush()
    assert len(done) == 5
    is_taken = await find(store, "r-0") is not None  # SQLite takes anything
    assert dropped() == before + (not is_taken)
    await assert_sound(store, records=8 + is_taken)


async def test_a_request_id_that_is_there_already_harms_no_other(store: Store) -> None:
    log = decision_log(store)
    await log.record(make("r-1"), durably=True)
    await log.record(make("r-1"), durably=False)
    await log.record(make("r-2"), durably=False)
    before = dropped()
    await log.flush()
    assert dropped() == before
    await assert_sound(store, records=2)


async def test_a_request_id_that_stands_for_another_call_loses_a_read_and_counts_it(
    store: Store,
) -> None:
    log = decision_log(store)
    await log.record(make("r-1"), durably=True)
    await log.record(make("r-1", action="batch:DeleteJob"), durably=False)
    await log.record(make("r-2"), durably=False)
    before = dropped()
    await log.flush()
    assert dropped() == before + 1
    await assert_sound(store, records=2)


async def test_a_read_whose_place_somebody_took_is_counted_as_lost(store: Store) -> None:
    log = decision_log(store)
    await log.record(make("r-1"), durably=True)
    await store.write(take_the_next_place)
    await log.record(make("r-2"), durably=False)
    before = dropped()
    await log.flush()
    assert await find(store, "r-2") is None
    assert dropped() == before + 1


def take_the_next_place(tx: Tx) -> None:
    row = tx.execute(tables.FIND_DECISION, {"request_id": "r-1"}).mappings().one()
    tx.execute(tables.ADD_DECISIONS, {**row, "seq": 2, "request_id": "intruder"})


async def test_a_read_of_which_nobody_can_tell_whether_it_is_there_waits_on(store: Store) -> None:
    await decision_log(store).record(make("r-1"), durably=True)
    silent = Silent(store)
    log = decision_log(silent)
    await log.record(make("r-1", action="batch:DeleteJob"), durably=False)
    before = dropped()
    await log.flush()
    assert dropped() == before
    silent.is_silent = False
    await log.flush()
    assert dropped() == before + 1
    await assert_sound(store, records=1)


class Silent(Faulty):
    """A store of which nothing can be read while it is silent."""

    is_silent = True

    def __init__(self, store: Store) -> None:
        super().__init__(store, fails=lambda: False)
        self.read_point = self._read_unless_silent

    async def _read_unless_silent(self, function: Any) -> Any:
        if self.is_silent:
            raise StoreUnavailable("the line is lost")
        return await self._store.read_point(function)


async def test_when_too_many_wait_every_further_call_is_refused(store: Store) -> None:
    log = decision_log(store, waiting_max=2)
    before = dropped()
    await log.record(make("r-1"), durably=False)
    await log.record(make("r-2"), durably=False)
    for durably in (True, False):
        with pytest.raises(ServiceUnavailable):
            await log.record(make("r-3"), durably=durably)
    await log.flush()
    await log.record(make("r-3"), durably=True)
    assert dropped() == before
    await assert_sound(store, records=3)


async def test_when_too_many_wait_reads_may_be_dropped_and_counted_but_nothing_else(
    store: Store,
) -> None:
    log = decision_log(store, overflow=Overflow.DROP, waiting_max=1)
    before = dropped()
    await log.record(make("r-1"), durably=False)
    await log.record(make("r-2"), durably=False)
    with pytest.raises(ServiceUnavailable):
        await log.record(make("r-3"), durably=True)
    assert dropped() == before + 1
    await log.flush()
    await assert_sound(store, records=1)


async def test_what_could_not_be_written_waits_on_in_its_order(store: Store) -> None:
    log = decision_log(Faulty(store, fails=first(2)))
    await log.record(make("r-1"), durably=False)
    await log.flush()
    await log.record(make("r-2"), durably=False)
    await log.flush()
    assert await find(store, "r-1") is None
    await log.flush()
    assert await find(store, "r-1") is not None
    await log.flush()
    assert await find(store, "r-2") is not None
    await assert_sound(store, records=2)


async def test_a_durable_call_is_refused_when_the_commit_fails_and_leaves_nothing(
    store: Store,
) -> None:
    log = decision_log(Faulty(store, fails=first(1)))
    with pytest.raises(ServiceUnavailable):
        await log.record(make("r-1"), durably=True)
    assert await find(store, "r-1") is None
    await log.record(make("r-2"), durably=True)
    await assert_sound(store, records=1)


async def test_a_commit_that_takes_too_long_is_a_refusal_and_the_next_one_goes_on(
    store: Store,
) -> None:
    slow = Slow(store)
    log = decision_log(slow, write_s=0.5)
    with anyio.fail_after(10), pytest.raises(ServiceUnavailable):
        await log.record(make("r-1"), durably=True)
    slow.is_slow = False
    await log.record(make("r-2"), durably=True)
    await assert_sound(store, records=1)


class Slow(Faulty):
    """A store whose commits take for ever while it is slow."""

    is_slow = True

    def __init__(self, store: Store) -> None:
        super().__init__(store, fails=lambda: False)

    async def write(self, function: Any) -> Any:
        if self.is_slow:
            await anyio.sleep_forever()
        return await super().write(function)


async def test_a_chain_that_somebody_else_moved_is_left_and_another_begun(store: Store) -> None:
    log = decision_log(store)
    await log.record(make("r-1"), durably=True)
    left = log.chain
    await store.write(change_head)
    await log.record(make("r-2"), durably=True)
    assert log.chain != left
    sound = {one.chain: one.sound for one in await reports(store)}
    assert sound == {left: False, log.chain: True}


def change_head(tx: Any) -> None:
    [chain] = list_chains(tx)
    place = {"chain": chain.id, "old_seq": 1, "old_hash": chain.head.hash}
    tx.execute(tables.MOVE_HEAD, {**place, "new_seq": 9, "new_hash": "0" * 64})


async def test_an_id_of_a_chain_that_is_drawn_twice_is_drawn_again(store: Store) -> None:
    ids = iter(["chain-a", "chain-a", "chain-b"])

    def draw(_: str) -> str:
        return next(ids)

    for number in range(2):
        log = DecisionLog(store, clock=now, new_id=draw)
        await log.record(make(f"r-{number}"), durably=True)
    await assert_sound(store, records=2, chains=2)


async def test_a_process_that_decides_nothing_leaves_no_chain(store: Store) -> None:
    await decision_log(store).flush()
    assert await store.read_list(list_chains) == []


async def test_the_store_that_is_closed_refuses_instead_of_hanging(store: Store) -> None:
    class Closed(Faulty):
        async def write(self, function: Any) -> Any:
            raise StoreUnavailable("The service is stopping. Try again.")

    log = decision_log(Closed(store, fails=lambda: True))
    with anyio.fail_after(5), pytest.raises(ServiceUnavailable):
        await log.record(make("r-1"), durably=True)
