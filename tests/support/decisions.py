"""Decision records to keep, and stores that fail as real ones do."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from msgspec import structs

from gateway.call import Decision, Effect, Principal, Reason, Resource
from gateway.cam.decisions.log import DecisionLog
from gateway.clock import now
from gateway.ids import new_id
from gateway.policy.decision import Explanation
from gateway.policy.record import DecisionRecord
from gateway.store import Store, StoreUnavailable

JOBS = Resource("batch", "ap-guangzhou", "1", "job/*")
DENIED = Decision(Effect.DENY, Reason.IMPLICIT_DENY, JOBS, 3)
ALLOWED = Decision(Effect.ALLOW, Reason.EXPLICIT_ALLOW, JOBS, 3)
NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
SAMPLE = DecisionRecord(
    request_id="r-0",
    time=NOON,
    principal=Principal("1", "2", "alice"),
    action="batch:SubmitJob",
    region="ap-guangzhou",
    source_ip="192.0.2.7",
    resources=(str(JOBS),),
    decision=DENIED,
    explanation=Explanation(
        decision=DENIED, determining=(), nearest_miss=None, fixes=(), shadow=None
    ),
)


def make(request_id: str, **changes: Any) -> Callable[[], DecisionRecord]:
    """A function that works a record out, as the corridor hands it over."""
    return lambda: structs.replace(SAMPLE, request_id=request_id, **changes)


def decision_log(store: Store, **limits: Any) -> DecisionLog:
    return DecisionLog(store, clock=now, new_id=new_id, **limits)


class Faulty:
    """A real store, some of whose commits fail.

    fails: whether the next commit does. keeps: it is stored all the same, as when the line is lost
    during the commit.
    """

    def __init__(self, store: Store, *, fails: Callable[[], bool], keeps: bool = False) -> None:
        self._store = store
        self._fails = fails
        self._keeps = keeps
        self.signals = store.signals
        self.read_point = store.read_point
        self.read_list = store.read_list
        self.ping = store.ping

    async def write(self, function: Any) -> Any:
        if not self._fails():
            return await self._store.write(function)
        if self._keeps:
            await self._store.write(function)
        raise StoreUnavailable("the disk is full")


def first(times: int) -> Callable[[], bool]:
    """True so many times, then False."""
    left = iter(range(times))
    return lambda: next(left, None) is not None
