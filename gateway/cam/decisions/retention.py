"""Deleting decisions that have been kept long enough, from the beginning of their chains on."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import anyio
from anyio.abc import TaskStatus
from sqlalchemy.exc import OperationalError

from gateway.cam import tables
from gateway.cam.decisions.queries import list_chains
from gateway.clock import Clock
from gateway.store import Store, StoreUnavailable, Tx
from gateway.telemetry import log

EVERY_S = 600.0
PAGE = 500


async def run(
    store: Store,
    *,
    keep_days: int,
    clock: Clock,
    current_chain: Callable[[], str],
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Delete old decisions for ever; nothing if keep_days is 0. current_chain: see `prune`."""
    task_status.started()
    while keep_days:
        before = clock() - timedelta(days=keep_days)
        try:
            count = await prune(store, before=before, current_chain=current_chain())
            if count:
                log.info("decisions_deleted", records=count, decided_before=before.isoformat())
        except (StoreUnavailable, OperationalError):
            log.warning("decisions_not_deleted", retry_s=EVERY_S)
        await anyio.sleep(EVERY_S)


async def prune(store: Store, *, before: datetime, current_chain: str) -> int:
    """Delete what was decided before a time, a page a transaction; returns how many records.

    A chain that has nothing left goes, too, unless it is the current one. The current chain of
    another process may go after that long a silence; its next record begins a new one.
    """
    count = 0
    for chain in await store.read_list(list_chains):
        spared = chain.id == current_chain
        prune_page = partial(_prune_page, chain=chain.id, before=before, spared=spared)
        while (found := await store.write(prune_page)) == PAGE:
            count += found
        count += found
    return count


def _prune_page(tx: Tx, *, chain: str, before: datetime, spared: bool) -> int:
    """Delete the oldest records of a chain; the anchor moves to the last one of them."""
    parameters = {"chain": chain, "limit": PAGE}
    last, count = None, 0
    for row in tx.execute(tables.OLDEST_OF_CHAIN, parameters):
        if row.decided_at >= before:
            break
        last, count = row, count + 1
    if last is not None:
        tx.execute(tables.DROP_DECISIONS, {"chain": chain, "last_seq": last.seq})
        place = {"chain": chain, "new_seq": last.seq, "new_hash": last.hash}
        tx.execute(tables.MOVE_ANCHOR, place)
    if not spared:
        tx.execute(tables.DROP_EMPTY_CHAIN, {"chain": chain})
    return count
