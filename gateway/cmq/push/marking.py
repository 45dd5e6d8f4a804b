"""Storing what was delivered: for many lanes in one transaction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import anyio
from sqlalchemy.exc import OperationalError

from gateway.clock import Clock
from gateway.cmq.push import backlog
from gateway.store import Store, StoreUnavailable, Tx
from gateway.telemetry import log

RETRY_S = 0.5
T = TypeVar("T")


@dataclass(slots=True)
class Batch:
    """What is stored together: subscriptions and positions. stored: set when it is done."""

    rows: list[tuple[str, int]] = field(default_factory=list)
    stored: anyio.Event = field(default_factory=anyio.Event)


class DeliveryMarker:
    """Gathers marks while the ones before are being stored.

    Why: a thousand subscribers of one topic are done at about the same time, and a thousand
    transactions, even if they share a commit, take longer than the pushes.
    """

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._batch = Batch()
        self._wake = anyio.Event()

    async def mark(self, subscription_id: str, positions: Sequence[int]) -> None:
        """Return once messages are stored as delivered."""
        batch = self._batch
        batch.rows += [(subscription_id, position) for position in positions]
        self._wake.set()
        await batch.stored.wait()

    async def run(self) -> None:
        """Mark for ever."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            batch, self._batch = self._batch, Batch()
            mark = partial(backlog.mark_many, rows=batch.rows, now=self._clock())
            await write_surely(self._store, mark)
            batch.stored.set()


async def write_surely(store: Store, function: Callable[[Tx], T]) -> T:
    """Write what must be written: while the database is away, try again and again."""
    while True:
        try:
            return await store.write(function)
        except (StoreUnavailable, OperationalError) as error:
            log.warning("push_not_stored", why=str(error), retry_s=RETRY_S)
            await anyio.sleep(RETRY_S)
