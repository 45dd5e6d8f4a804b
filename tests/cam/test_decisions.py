"""The decision log: nothing that was decided goes unrecorded."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.call import Decision, Effect, Principal, Reason
from gateway.cam import decisions
from gateway.cam.decisions import DecisionLog, find_decision
from gateway.errors import ServiceUnavailable
from gateway.policy.decision import Determinant, Explanation, NearestMiss
from gateway.policy.record import DecisionRecord
from gateway.store import Store, StoreUnavailable, open_store
from gateway.store.migrations import migrate

DENIED = Decision(Effect.DENY, Reason.IMPLICIT_DENY, "qcs::batch:ap-guangzhou:uin/1:job/*", 3)


def make(request_id: str) -> Callable[[], DecisionRecord]:
    record = DecisionRecord(
        request_id=request_id,
        time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        principal=Principal("1", "2", "alice"),
        action="batch:SubmitJob",
        region="ap-guangzhou",
        source_ip="192.0.2.7",
        resources=(DENIED.resource,),
        decision=DENIED,
        explanation=Explanation(
            decision=DENIED,
            determining=(Determinant("p", 1, 2, "*"),),
            nearest_miss=NearestMiss("p", 1, 1, "region", "ap-beijing", "ap-guangzhou"),
            shadow=None,
        ),
    )
    return lambda: record


async def find(store: Store, request_id: str) -> dict[str, Any] | None:
    return await store.read_point(lambda tx: find_decision(tx, request_id))


@pytest.mark.anyio
async def test_a_durable_record_is_there_at_once_and_shown_as_documented(store: Store) -> None:
    await DecisionLog(store).record(make("r-1"), durably=True)
    assert await find(store, "r-1") == {
        "RequestId": "r-1",
        "Time": "2026-01-02T03:04:05Z",
        "Principal": {"OwnerUin": "1", "Uin": "2", "Name": "alice"},
        "Action": "batch:SubmitJob",
        "Region": "ap-guangzhou",
        "SourceIp": "192.0.2.7",
        "Resources": [DENIED.resource],
        "Effect": "deny",
        "Reason": "implicit-deny",
        "Determining": [{"Policy": "p", "Version": 1, "Statement": 2, "Pattern": "*"}],
        "NearestMiss": {
            "Policy": "p",
            "Version": 1,
            "Statement": 1,
            "Element": "region",
            "Wanted": "ap-beijing",
            "Found": "ap-guangzhou",
        },
        "Shadow": None,
        "Generation": 3,
    }
    assert await find(store, "r-2") is None


@pytest.mark.anyio
async def test_what_waits_is_written_without_being_asked_for(store: Store) -> None:
    log = DecisionLog(store)
    async with anyio.create_task_group() as tasks:
        await tasks.start(log.run)
        for number in range(100):
            await log.record(make(f"r-{number}"), durably=False)
        with anyio.fail_after(5):
            while await find(store, "r-99") is None:
                await anyio.lowlevel.checkpoint()
        assert await find(store, "r-0") is not None
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_what_still_waits_at_the_end_is_written(store: Store) -> None:
    log = DecisionLog(store)
    async with anyio.create_task_group() as tasks:
        await tasks.start(log.run)
        await log.record(make("r-1"), durably=False)
        tasks.cancel_scope.cancel()
    assert await find(store, "r-1") is not None


@pytest.mark.anyio
async def test_a_call_that_cannot_be_recorded_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "WAITING_MAX", 2)
    log = DecisionLog(store)
    await log.record(make("r-1"), durably=False)
    await log.record(make("r-2"), durably=False)
    with pytest.raises(ServiceUnavailable):
        await log.record(make("r-3"), durably=False)
    await log.flush()
    await log.record(make("r-3"), durably=False)


@pytest.mark.anyio
async def test_what_could_not_be_written_waits_on_in_its_order(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    migrate(url)
    async with open_store(url) as store:
        log = DecisionLog(Failing(store, times=2))
        await log.record(make("r-1"), durably=False)
        await log.flush()
        await log.record(make("r-2"), durably=False)
        await log.flush()
        assert await find(store, "r-1") is None
        await log.flush()
        assert await find(store, "r-1") is not None
        assert await find(store, "r-2") is not None


class Failing:
    """A store whose first commits fail, as on a full disk."""

    def __init__(self, store: Store, *, times: int) -> None:
        self._store = store
        self._left = times
        self.signals = store.signals
        self.read_point = store.read_point
        self.read_list = store.read_list
        self.ping = store.ping

    async def write(self, function: Any) -> Any:
        if self._left:
            self._left -= 1
            raise StoreUnavailable("the disk is full")
        return await self._store.write(function)
