"""The decision log: every record on disk, found again by its request id."""

from collections.abc import Callable, Sequence
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from anyio.abc import TaskStatus

from gateway.cam import tables
from gateway.errors import ServiceUnavailable
from gateway.policy.record import DecisionRecord
from gateway.store import Store, Tx
from gateway.telemetry import log

FLUSH_S = 0.5
WAITING_MAX = 20_000

Make = Callable[[], DecisionRecord]


class DecisionLog:
    """Keeps decision records: those that must be durable at once, the others in groups.

    A crash of the process loses at most the records of plain reads of the last FLUSH_S. When
    more than WAITING_MAX are waiting the call is refused: no call goes unrecorded.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[Make] = []

    async def record(self, make: Make, *, durably: bool) -> None:
        """Keep a record; durably: return when it is on disk. Raises ServiceUnavailable."""
        if durably:
            row = _row(make())
            await self._store.write(lambda tx: _add(tx, [row]))
        elif len(self._waiting) >= WAITING_MAX:
            raise ServiceUnavailable("The decision cannot be recorded now. Try again.")
        else:
            self._waiting.append(make)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Write what waits, again and again; the rest on cancellation."""
        task_status.started()
        try:
            while True:
                await anyio.sleep(FLUSH_S)
                await self.flush()
        finally:
            with anyio.CancelScope(shield=True):
                await self.flush()

    async def flush(self) -> None:
        """Write what waits now; what cannot be written stays."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        rows = await anyio.to_thread.run_sync(lambda: _rows(waiting))
        try:
            await self._store.write(lambda tx: _add(tx, rows))
        except Exception:  # whatever it is: what was decided is kept, and tried again
            log.exception("decisions_not_written", records=len(waiting))
            self._waiting = waiting + self._waiting


def find_decision(tx: Tx, request_id: str) -> dict[str, Any] | None:
    """A record in its public form; None if there is none."""
    record = tx.execute(tables.FIND_DECISION, {"request_id": request_id}).scalar()
    if record is None:
        return None
    found: dict[str, Any] = msgspec.json.decode(record)
    return found


def _rows(waiting: Sequence[Make]) -> list[dict[str, Any]]:
    """The rows of what waits. A record that cannot be worked out is our fault, and no other's."""
    rows = []
    for make in waiting:
        try:
            rows.append(_row(make()))
        except Exception:
            log.exception("decision_not_worked_out")
    return rows


def _row(record: DecisionRecord) -> dict[str, Any]:
    return {
        "request_id": record.request_id,
        "owner_uin": record.principal.owner_uin,
        "uin": record.principal.uin,
        "action": record.action,
        "effect": record.decision.effect.value,
        "decided_at": record.time,
        "record": msgspec.json.encode(record.public()),
    }


def _add(tx: Tx, rows: Sequence[dict[str, Any]]) -> None:
    tx.execute(tables.ADD_DECISIONS, list(rows))
