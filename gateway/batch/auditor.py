"""The auditor: holds the ledger against the states, all the time, and counts what disagrees.

Streams that change are looked at soon afterwards; all the others in turn, a few a minute. It reads
and never writes, and what it takes of a core is bounded: after each step it rests in proportion.
"""

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeVar

import anyio
from anyio.abc import TaskStatus
from sqlalchemy import bindparam, select, union
from sqlalchemy.exc import OperationalError

from gateway.batch.audit import Discrepancy, Flaw
from gateway.batch.stream_audit import Rules, StreamAudit
from gateway.batch.tables import compute_env, job
from gateway.clock import Clock
from gateway.errors import ResourceNotFound
from gateway.events import inspection, ledger
from gateway.events.inspection import Deliveries
from gateway.events.tables import event_stream
from gateway.store import Store, StoreUnavailable, Tx
from gateway.telemetry import LEDGER_DISCREPANCIES, log

T = TypeVar("T")
LOOK_EVERY_S = 5.0
SETTLE_S = 5.0  # so long after an event its messages have their deliveries
SHARE = 0.02
"""How much of a core the auditor takes at most."""
DUE_MAX = 10_000
"""While so many streams are to be looked at, no further ones are looked for: they can wait."""
AUDITED_AT_ONCE = 100
CHANGES_PAGE = 1_000
SWEPT_AT_ONCE = 3
POSITIONS_AT_ONCE = 1_000
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
class Account:
    """What an audit compared, and what it found."""

    streams: int = 0
    events: int = 0
    messages: int = 0
    found: tuple[Discrepancy, ...] = ()

    def __add__(self, other: "Account") -> "Account":
        return Account(
            self.streams + other.streams,
            self.events + other.events,
            self.messages + other.messages,
            self.found + other.found,
        )


def rules_of(deliveries: Deliveries, *, keep_days: int, clock: Clock) -> Rules:
    """What streams are held against now. keep_days: of retention; 0: for ever.

    Why the setting and nothing else: no row says what retention took. Where it was set to more
    days later, what it took before is reported as missing for as long as its job is there.
    """
    return Rules(deliveries, clock() - timedelta(days=keep_days) if keep_days else None)


async def audit_everything(store: Store, *, rules: Rules) -> Account:
    """Audit whatever there is, once, page by page."""
    total = Account()
    after = ""
    while stream_ids := await store.read_list(partial(_list_streams, after=after, limit=PAGE)):
        for stream_id in stream_ids:
            total += await audit_one(store, stream_id, rules=rules)
        after = stream_ids[-1]
    upto = await store.read_list(inspection.last_message)
    for first in range(0, upto, POSITIONS_AT_ONCE):
        read = partial(_audit_published, after=first, rules=rules)
        total += await store.read_list(read)
    return total


async def audit_named(store: Store, stream_id: str, *, rules: Rules) -> Account:
    """Audit the job or environment of this id. Raises ResourceNotFound if there never was one."""
    keys = {"after": "", "limit": 1}
    known = STREAMS.where(_STREAMS.c.id == stream_id)
    if not await store.read_list(lambda tx: tx.execute(known, keys).all()):
        raise ResourceNotFound(f"there is no job or environment `{stream_id}`")
    return await audit_one(store, stream_id, rules=rules)


async def audit_one(store: Store, stream_id: str, *, rules: Rules) -> Account:
    """Audit one stream, in as many reads as it takes."""
    audit = StreamAudit(stream_id, rules=rules)
    while not audit.done:
        await store.read_list(audit.step)
    return Account(1, audit.events, audit.messages, tuple(audit.found))


def _list_streams(tx: Tx, *, after: str, limit: int) -> list[str]:
    return list(tx.execute(STREAMS, {"after": after, "limit": limit}).scalars())


def _audit_published(tx: Tx, *, after: int, rules: Rules) -> Account:
    """Hold a page of what users published against what was delivered."""
    messages = inspection.list_published(tx, after=after, upto=after + POSITIONS_AT_ONCE)
    missing = rules.deliveries.list_undelivered(tx, messages)
    found = tuple(
        Discrepancy(
            "", Flaw.DELIVERY_MISSING, f"message {message.id} was never delivered to {subscription}"
        )
        for message, subscription in missing
    )
    return Account(messages=len(messages), found=found)


class Auditor:
    """Audits for ever. deliveries: what became of messages. keep_days: see `rules_of`."""

    def __init__(
        self, store: Store, *, deliveries: Deliveries, keep_days: int, clock: Clock
    ) -> None:
        self._store = store
        self._rules = partial(rules_of, deliveries, keep_days=keep_days, clock=clock)
        self._due: dict[str, float] = {}
        self._wrong: dict[str, tuple[Discrepancy, ...]] = {}
        self._seen = -1  # the position up to which changes were looked for
        self._swept = ""
        self._published = 0

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
                log.warning("ledger_not_audited", retry_s=LOOK_EVERY_S)
            if not behind:
                await anyio.sleep(LOOK_EVERY_S)

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
        at = anyio.current_time() + SETTLE_S
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
        look = partial(_list_streams, after=self._swept, limit=SWEPT_AT_ONCE)
        stream_ids = await self._read(look)
        for stream_id in stream_ids:
            await self._audit(stream_id)
        self._swept = stream_ids[-1] if stream_ids else ""
        first = self._published
        account, last = await self._read(
            lambda tx: (
                _audit_published(tx, after=first, rules=self._rules()),
                inspection.last_message(tx),
            )
        )
        self._note(f"published after {first}", account.found)
        self._published = first + POSITIONS_AT_ONCE if first + POSITIONS_AT_ONCE < last else 0

    async def _audit(self, stream_id: str) -> None:
        audit = StreamAudit(stream_id, rules=self._rules())
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
        self._note(stream_id, tuple(audit.found))

    def _note(self, whose: str, found: tuple[Discrepancy, ...]) -> None:
        """Count what is wrong, and say it once."""
        before = self._wrong.pop(whose, ())
        if found:
            self._wrong[whose] = found
            if found != before:
                shown = [f"{each.flaw.value}: {each.what}" for each in found[:SHOWN_MAX]]
                log.error("ledger_discrepancies", stream_id=whose, count=len(found), first=shown)
        elif before:
            log.info("ledger_agrees_again", stream_id=whose)
        LEDGER_DISCREPANCIES.set(sum(map(len, self._wrong.values())))

    async def _read(self, function: Callable[[Tx], T]) -> T:
        """Read, then rest in proportion to what it cost."""
        result, cost_s = await self._store.read_list(partial(_timed, function))
        await anyio.sleep(cost_s / SHARE)
        return result


def _timed(function: Callable[[Tx], T], tx: Tx) -> tuple[T, float]:
    began = time.thread_time()
    result = function(tx)
    return result, time.thread_time() - began
