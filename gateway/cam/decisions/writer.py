"""Writing decision records at the end of a hash chain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy.exc import IntegrityError

from gateway.cam import tables
from gateway.cam.decisions.chain import Link, beginning, following
from gateway.clock import Clock
from gateway.ids import NewId
from gateway.store import Conflict, Store, StoreUnavailable, Tx
from gateway.telemetry import log

Row = Mapping[str, Any]
"""The columns of `cam_decision`, its place in the chain left out."""


@dataclass(frozen=True, slots=True)
class _Chain:
    """The chain of this process. It is stored together with its first record."""

    id: str
    started_at: datetime
    head: Link

    @property
    def is_stored(self) -> bool:
        return self.head.seq > 0


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A write of which nobody can tell yet whether it was committed."""

    head: Link
    request_ids: frozenset[str]


class ChainWriter:
    """Gives records their places in a chain of its own and stores them. One caller at a time.

    The stored head moves with the records, and only from the head that is known here: two
    writers, or one that is mistaken, cannot make a fork or a gap.
    """

    def __init__(self, store: Store, *, clock: Clock, new_id: NewId) -> None:
        self._store = store
        self._clock = clock
        self._new_id = new_id
        self._chain = self._new_chain()
        self._doubt: _Doubt | None = None

    @property
    def chain(self) -> str:
        """The id of the chain that is written to now."""
        return self._chain.id

    async def append(self, rows: Sequence[Row]) -> None:
        """Store records, all or none. Raises StoreUnavailable, or what the database said.

        After StoreUnavailable or a cancellation call `settle` first. A chain that somebody took
        away or changed (retention in another process does, after a long silence) is left as it
        is, and another one begun.
        """
        try:
            await self._write(rows)
        except Conflict:
            log.warning("decision_chain_left", chain=self._chain.id, seq=self._chain.head.seq)
            self._chain = self._new_chain()
            await self._write(rows)

    async def settle(self) -> frozenset[str]:
        """Find out whether the last write was stored after all; gives its request ids if so.

        Why: if the line to the database is lost during a commit, only the database knows.
        """
        doubt = self._doubt
        if doubt is None:
            return frozenset()
        parameters = {"chain": self._chain.id}
        stored = await self._store.read_point(
            lambda tx: tx.execute(tables.FIND_CHAIN, parameters).one_or_none()
        )
        self._doubt = None
        if stored is None or Link(stored.head_seq, stored.head_hash) != doubt.head:
            return frozenset()
        self._chain = replace(self._chain, head=doubt.head)
        return doubt.request_ids

    async def _write(self, rows: Sequence[Row]) -> None:
        chain, head, placed = self._chain, self._chain.head, []
        for row in rows:
            head = following(head, row["record"])
            placed.append({**row, "chain": chain.id, "seq": head.seq, "hash": head.hash})
        self._doubt = _Doubt(head, frozenset(row["request_id"] for row in rows))
        try:
            await self._store.write(lambda tx: _add(tx, chain, placed, head=head))
        except StoreUnavailable:
            raise
        except Exception:  # raised inside the transaction, which is undone
            self._doubt = None
            raise
        self._doubt = None
        self._chain = replace(chain, head=head)

    def _new_chain(self) -> _Chain:
        chain, started_at = self._new_id("chain"), self._clock()
        return _Chain(chain, started_at, beginning(chain, started_at))


def _add(tx: Tx, chain: _Chain, rows: Sequence[Row], *, head: Link) -> None:
    """Store records and move the head there. Raises Conflict if the head is somewhere else."""
    if chain.is_stored:
        parameters = {
            "chain": chain.id,
            "old_seq": chain.head.seq,
            "old_hash": chain.head.hash,
            "new_seq": head.seq,
            "new_hash": head.hash,
        }
        if tx.execute(tables.MOVE_HEAD, parameters).rowcount != 1:
            raise Conflict(chain.id)
    else:
        _open(tx, chain, head=head)
    tx.execute(tables.ADD_DECISIONS, rows)


def _open(tx: Tx, chain: _Chain, *, head: Link) -> None:
    columns = {
        "id": chain.id,
        "started_at": chain.started_at,
        "anchor_seq": chain.head.seq,
        "anchor_hash": chain.head.hash,
        "head_seq": head.seq,
        "head_hash": head.hash,
    }
    try:
        tx.execute(tables.OPEN_CHAIN, columns)
    except IntegrityError as error:  # the id was drawn twice
        raise Conflict(chain.id) from error
