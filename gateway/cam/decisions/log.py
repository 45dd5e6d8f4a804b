"""The decision log: every record on disk, in its place in a hash chain, before it is needed."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from anyio.abc import TaskStatus
from sqlalchemy.exc import DataError, IntegrityError

from gateway.cam import tables
from gateway.cam.decisions.writer import ChainWriter, Row
from gateway.clock import Clock
from gateway.errors import ServiceUnavailable
from gateway.ids import NewId
from gateway.policy.record import MakeRecord, Record
from gateway.store import Store, StoreUnavailable, Tx
from gateway.telemetry import DECISIONS_DROPPED, log

FLUSH_S = 0.5
DURABLE_MAX = 500
"""At most so many durable records are written in one transaction."""
READS_MAX = 200
"""And so many others beside them, which bounds how long they hold the durable ones up."""
READS_ON_LOOP_MAX = 10
"""More are worked out in a thread."""

_REQUEST_ID = re.compile(r"[0-9A-Za-z-]{1,36}")


class Overflow(Enum):
    """What happens to a plain read while the log is full; all else is refused in any case."""

    REFUSE = "refuse"
    DROP = "drop"


@dataclass(slots=True, eq=False)
class _Waiting:
    """A durable record, and how its call is told: what went wrong, if anything.

    Why no event of anyio: a denied call would pay several times as much to wait for its record.
    """

    row: Row
    settled: asyncio.Future[Exception | None]

    def settle(self, error: Exception | None) -> None:
        if not self.settled.done():
            self.settled.set_result(error)


class DecisionLog:
    """Keeps decision records: one appender, one hash chain.

    What is wanted `durably` is on disk before `record` returns. The rest follows within a second;
    a crash loses at most the records of plain reads of the last FLUSH_S. While `waiting_max` are
    waiting, because the database is away or too slow, every call is refused before it is carried
    out; under Overflow.DROP plain reads are answered all the same, unrecorded, and counted.

    A call that was refused may leave its record behind, if the database was lost during the
    commit or took longer than `write_s`. One that was answered never lacks it.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        new_id: NewId,
        overflow: Overflow = Overflow.REFUSE,
        waiting_max: int = 20_000,
        write_s: float = 60.0,
    ) -> None:
        self._store = store
        self._overflow = overflow
        self._waiting_max = waiting_max
        self._write_s = write_s
        self._writer = ChainWriter(store, clock=clock, new_id=new_id)
        self._durable: list[_Waiting] = []
        self._reads: list[MakeRecord] = []
        self._page: list[Row] = []  # reads that are worked out and not yet written
        self._appending = anyio.Lock()
        self._woken = anyio.Event()
        self._running = False

    @property
    def chain(self) -> str:
        """The id of the chain that is written to now."""
        return self._writer.chain

    async def record(self, make: MakeRecord, *, durably: bool) -> None:
        """Keep a record; durably: return when it is on disk. Raises ServiceUnavailable.

        While `run` does not, before the start and during the end, who waits for a durable record
        writes it himself.
        """
        if len(self._durable) + self._reads_waiting >= self._waiting_max:
            if durably or self._overflow is Overflow.REFUSE:
                raise _refusal()
            DECISIONS_DROPPED.inc()
        elif durably:
            await self._record_durably(_row(make()))
        else:
            self._reads.append(make)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Write what waits, again and again; the rest on cancellation."""
        self._running = True
        task_status.started()
        try:
            await self._append_for_ever()
        finally:
            self._running = False
            with anyio.CancelScope(shield=True):
                await self._append_the_rest()

    async def flush(self) -> None:
        """Write what waits now. What cannot be written waits on, or is refused if durable."""
        async with self._appending:
            for _ in range(1 + self._reads_waiting // READS_MAX):
                if not await self._append(reads=True):
                    return

    @property
    def _reads_waiting(self) -> int:
        return len(self._reads) + len(self._page)

    async def _record_durably(self, row: Row) -> None:
        waiting = _Waiting(row, asyncio.get_running_loop().create_future())
        self._durable.append(waiting)
        self._woken.set()
        while not (self._running or waiting.settled.done()):
            await self.flush()
        error = await waiting.settled  # as long as a write may take, twice at most
        if isinstance(error, ServiceUnavailable):
            raise _refusal() from error
        if error is not None:
            raise error

    async def _append_for_ever(self) -> None:
        reads_due = anyio.current_time() + FLUSH_S
        while True:
            self._woken = anyio.Event()
            if not self._durable:
                with anyio.move_on_after(reads_due - anyio.current_time()):
                    await self._woken.wait()
            are_due = anyio.current_time() >= reads_due
            async with self._appending:
                written = await self._append(reads=are_due)
            if are_due and (not written or self._reads_waiting < READS_MAX):
                reads_due = anyio.current_time() + FLUSH_S

    async def _append_the_rest(self) -> None:
        async with self._appending:
            while self._durable or self._reads_waiting:
                if not await self._append(reads=True) and not self._durable:
                    DECISIONS_DROPPED.inc(self._reads_waiting)
                    log.error("decisions_lost_at_the_end", records=self._reads_waiting)
                    return

    async def _append(self, *, reads: bool) -> bool:
        """Write one page, with `_appending` held; False if the database did not take it.

        Why nothing but the write is awaited while records are out of the lists: whoever is
        cancelled here must not take the others' answers along.
        """
        if reads and not self._page and self._reads:
            await self._work_out_reads()
        durable, self._durable = self._durable[:DURABLE_MAX], self._durable[DURABLE_MAX:]
        error: Exception | None = StoreUnavailable("The database takes too long. Try again.")
        try:
            with anyio.move_on_after(self._write_s, shield=True):
                error = await self._write(durable, reads=reads)
        finally:
            for waiting in durable:
                waiting.settle(error)
        return error is None

    async def _work_out_reads(self) -> None:
        makes = self._reads[:READS_MAX]
        if len(makes) > READS_ON_LOOP_MAX:
            self._page = await anyio.to_thread.run_sync(_rows, makes)
        else:
            self._page = _rows(makes)
        del self._reads[: len(makes)]

    async def _write(self, durable: Sequence[_Waiting], *, reads: bool) -> Exception | None:
        """Write the durable records given and, if `reads`, the page; returns what is in the way."""
        page: list[Row] = []
        try:
            stored = await self._writer.settle()
            self._page = [row for row in self._page if row["request_id"] not in stored]
            page = self._page if reads else []
            if durable or page:
                await self._writer.append([*(waiting.row for waiting in durable), *page])
        except StoreUnavailable as error:
            log.warning("decisions_not_written", durable=len(durable), reads=len(page))
            return error
        except Exception:  # one of them is impossible; that must harm no other
            log.exception("decisions_written_one_by_one", durable=len(durable), reads=len(page))
            return await self._write_each(durable, page)
        if page:
            self._page = []
        return None

    async def _write_each(
        self, durable: Sequence[_Waiting], page: Sequence[Row]
    ) -> Exception | None:
        """Write records one by one. A read that the database can never take is counted as lost."""
        for waiting in durable:
            waiting.settle(await self._write_one(waiting.row))
        for done, row in enumerate(page):
            error = await self._write_one(row)
            if isinstance(error, DataError | IntegrityError):
                DECISIONS_DROPPED.inc()
                log.error("decision_lost", request_id=row["request_id"], exc_info=error)
            elif error is not None:
                self._page = list(page[done:])
                return error
        if page:
            self._page = []
        return None

    async def _write_one(self, row: Row) -> Exception | None:
        """Returns what is in the way; that it is there already is not."""
        try:
            if row["request_id"] not in await self._writer.settle():
                await self._append_unless_stored(row)
        except Exception as error:  # whatever it is, it is told to whom it concerns
            return error
        return None

    async def _append_unless_stored(self, row: Row) -> None:
        try:
            await self._writer.append([row])
        except IntegrityError:  # of its request id, or of its place, which somebody else took
            found = await self._store.read_point(lambda tx: find_row(tx, row["request_id"]))
            if found is None or found["record"] != row["record"]:
                raise


def find_decision(tx: Tx, request_id: str) -> dict[str, Any] | None:
    """A record in its public form; None if there is none."""
    row = find_row(tx, request_id)
    if row is None:
        return None
    found: dict[str, Any] = msgspec.json.decode(row["record"])
    return found


def find_row(tx: Tx, request_id: str) -> Row | None:
    """A record with its columns; None if there is none."""
    if _REQUEST_ID.fullmatch(request_id) is None:  # it may hold what no database takes
        return None
    found = tx.execute(tables.FIND_DECISION, {"request_id": request_id}).mappings().one_or_none()
    return None if found is None else dict(found)


def columns_of(public: Mapping[str, Any]) -> dict[str, Any]:
    """What of a record, in its public form, is repeated in columns to be searched."""
    principal = public["Principal"]
    return {
        "request_id": public["RequestId"],
        "owner_uin": principal["OwnerUin"],
        "uin": principal["Uin"],
        "name": principal["Name"],
        "action": public["Action"],
        "effect": public["Effect"],
        "reason": public["Reason"],
        "decided_at": datetime.fromisoformat(public["Time"]),
    }


def _rows(makes: Sequence[MakeRecord]) -> list[Row]:
    """The rows of reads. A record that cannot be worked out is our fault, and no other's."""
    rows = []
    for make in makes:
        try:
            rows.append(_row(make()))
        except Exception:
            DECISIONS_DROPPED.inc()
            log.exception("decision_not_worked_out")
    return rows


def _row(record: Record) -> Row:
    public = record.public()
    return {**columns_of(public), "record": msgspec.json.encode(public)}


def _refusal() -> ServiceUnavailable:
    return ServiceUnavailable("The decision cannot be recorded now. Try again.")
