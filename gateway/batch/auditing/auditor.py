"""The auditor: holds the ledger against the states, all the time, and counts what disagrees.

Streams that change are looked at soon afterwards; all the others in turn, a few a minute. It reads
and never writes, and what it takes of a core is bounded: after each step it rests in proportion.
"""

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import anyio
from anyio.abc import TaskStatus
from sqlalchemy import bindparam, select, union
from sqlalchemy.exc import OperationalError

from gateway.batch.auditing.fold import NOTHING, Findings
from gateway.batch.auditing.streams import StreamAudit, judge_deliveries
from gateway.batch.tables import compute_env, job
from gateway.errors import ResourceNotFound
from gateway.events import inspection, ledger
from gateway.events.inspection import Deliveries
from gateway.events.tables import event_stream
from gateway.store import Store, StoreUnavailable, Tx
from gateway.telemetry import LEDGER_DISCREPANCIES, log

T = TypeVar("T")
PUBLISHED = "published by users"
DUE_MAX = 10_000
"""While so many streams are to be looked at, no further ones are looked for: they can wait."""
AUDITED_AT_ONCE = 100
CHANGES_PAGE = 1_000
MESSAGES_AT_ONCE = 1_000
PAGE = 200
SHOWN_MAX = 5

_STREAMS = union(
    *(
        select(column).where(column > bindparam("after"))
        for column in (event_stream.c.id, job.c.id, compute_env.c.id)
    )
).subquery()
STREAMS = select(_STREAMS.c.id).order_by(_STREAMS.c.id).limit(bindparam("limit"))
"""Whatever has events, or ought to."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How much an auditor does at a time.

    settle_s: so long after an event its messages have their deliveries. share: of a core, taken at
    most. swept_at_once: streams looked at in their turn, each time.
    """

    look_every_s: float = 5.0
    settle_s: float = 5.0
    share: float = 0.02
    swept_at_once: int = 3


USUAL = Pace()


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What an audit compared, and what it found."""

    streams: int = 0
    events: int = 0
    messages: int = 0
    found: Findings = NOTHING

    def __add__(self, other: "AuditResult") -> "AuditResult":
        return AuditResult(
            self.streams + other.streams,
            self.events + other.events,
            self.messages + other.messages,
            self.found + other.found,
        )


async def audit_everything(store: Store, *, deliveries: Deliveries) -> AuditResult:
    """Audit whatever there is, once, page by page. deliveries: what became of messages."""
    total = AuditResult()
    after = ""
    while stream_ids := await store.read_list(partial(_list_streams, after=after, limit=PAGE)):
        for stream_id in stream_ids:
            total += await audit_one(store, stream_id, deliveries=deliveries)
        after = stream_ids[-1]
    reached: int | None = 0
    while reached is not None:
        read = partial(_audit_published, after=reached, deliveries=deliveries)
        result, reached = await store.read_list(read)
        total += result
    return total


async def audit_named(store: Store, stream_id: str, *, deliveries: Deliveries) -> AuditResult:
    """Audit the job or environment of this id. Raises ResourceNotFound if there never was one."""
    keys = {"after": "", "limit": 1}
    known = STREAMS.where(_STREAMS.c.id == stream_id)
    if not await store.read_list(lambda tx: tx.execute(known, keys).all()):
        raise ResourceNotFound(f"there is no job or environment `{stream_id}`")
    return await audit_one(store, stream_id, deliveries=deliveries)


async def audit_one(store: Store, stream_id: str, *, deliveries: Deliveries) -> AuditResult:
    """Audit one stream, in as many reads as it takes."""
    audit = StreamAudit(stream_id, deliveries=deliveries)
    while not audit.done:
        await store.read_list(audit.step)
    return AuditResult(1, audit.events, audit.messages, audit.found)


def _list_streams(tx: Tx, *, after: str, limit: int) -> list[str]:
    return list(tx.execute(STREAMS, {"after": after, "limit": limit}).scalars())


def _audit_published(
    tx: Tx, *, after: int, deliveries: Deliveries
) -> tuple[AuditResult, int | None]:
    """Hold a page of what users published against what was delivered.

    Returns besides how far was looked; None: to the end.
    """
    messages, reached = inspection.list_published(tx, after=after, limit=MESSAGES_AT_ONCE)
    found = judge_deliveries(tx, messages, stream_id="", deliveries=deliveries)
    return AuditResult(messages=len(messages), found=found), reached


class Auditor:
    """Audits for ever. deliveries: what became of messages."""

    def __init__(self, store: Store, *, deliveries: Deliveries, pace: Pace = USUAL) -> None:
        self._store = store
        self._pace = pace
        self._deliveries = deliveries
        self._due: dict[str, float] = {}
        self._wrong: dict[str, Findings] = {}
        self._seen = -1  # the position up to which changes were looked for
        self._swept = ""
        self._published = 0
        self._round = NOTHING  # of what users published, since its beginning

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Look at what changes, and at all else in turn, until cancelled."""
        with contextlib.suppress(StoreUnavailable, OperationalError):
            self._seen = await self._read(ledger.find_settled)
        task_status.started()
        while True:
            behind = False
            try:
                await self._look_for_changes()
                behind = await self._audit_due()
                await self._sweep()
            except (StoreUnavailable, OperationalError):
                log.warning("ledger_not_audited", retry_s=self._pace.look_every_s)
            if not behind:
                await anyio.sleep(self._pace.look_every_s)

    async def _look_for_changes(self) -> None:
        settled = await self._read(ledger.find_settled)
        if self._seen < 0:  # what was before is for the sweep
            self._seen = settled
        while self._seen < settled and len(self._due) < DUE_MAX:
            look = partial(
                inspection.list_changed, after=self._seen, upto=settled, limit=CHANGES_PAGE
            )
            changed, self._seen = await self._read(look)
            self._put_off(changed)

    def _put_off(self, stream_ids: Iterable[str]) -> None:
        at = anyio.current_time() + self._pace.settle_s
        for stream_id in stream_ids:
            self._due.setdefault(stream_id, at)

    async def _audit_due(self) -> bool:
        """Audit the streams whose time has come, or some of them; True if there are more."""
        now = anyio.current_time()
        due = [stream_id for stream_id, at in self._due.items() if at <= now]
        for stream_id in due[:AUDITED_AT_ONCE]:
            del self._due[stream_id]
            await self._audit(stream_id)
        return len(due) > AUDITED_AT_ONCE

    async def _sweep(self) -> None:
        """Audit a few more streams, and a few more of the messages that users published."""
        look = partial(_list_streams, after=self._swept, limit=self._pace.swept_at_once)
        stream_ids = await self._read(look)
        for stream_id in stream_ids:
            await self._audit(stream_id)
        self._swept = stream_ids[-1] if stream_ids else ""
        await self._sweep_published()

    async def _sweep_published(self) -> None:
        """Audit a page of what users published; what is wrong counts until a round without it."""
        read = partial(_audit_published, after=self._published, deliveries=self._deliveries)
        result, reached = await self._read(read)
        self._round += result.found
        if reached is None or self._round.count > self._wrong.get(PUBLISHED, NOTHING).count:
            self._note(PUBLISHED, self._round)
        if reached is None:
            self._round = NOTHING
        self._published = reached or 0

    async def _audit(self, stream_id: str) -> None:
        audit = StreamAudit(stream_id, deliveries=self._deliveries)
        try:
            while not audit.done:
                await self._read(audit.step)
        except (StoreUnavailable, OperationalError):
            self._put_off([stream_id])
            raise
        except Exception:  # a fault of our own: nobody's job may suffer from an audit
            log.exception("stream_not_audited", stream_id=stream_id)
            return
        if audit.unexpanded:
            self._put_off([stream_id])
        self._note(stream_id, audit.found)

    def _note(self, whose: str, found: Findings) -> None:
        """Count what is wrong, and say it once."""
        before = self._wrong.pop(whose, NOTHING)
        now = replace(found, first=found.first[:SHOWN_MAX])
        if now.count:
            self._wrong[whose] = now
            if now != before:
                shown = [f"{each.flaw.value}: {each.what}" for each in now.first]
                log.error("ledger_discrepancies", stream_id=whose, count=now.count, first=shown)
        elif before.count:
            log.info("ledger_agrees_again", stream_id=whose)
        LEDGER_DISCREPANCIES.set(sum(each.count for each in self._wrong.values()))

    async def _read(self, function: Callable[[Tx], T]) -> T:
        """Read, then rest in proportion to what it cost."""
        result, cost_s = await self._store.read_list(partial(_timed, function))
        await anyio.sleep(cost_s / self._pace.share)
        return result


def _timed(function: Callable[[Tx], T], tx: Tx) -> tuple[T, float]:
    began = time.thread_time()
    result = function(tx)
    return result, time.thread_time() - began
