"""WHERE IT STANDS: the database, and the only way to change it.

A transaction is a plain function `def submit(tx, …)`. It runs off the event loop, in one hop, and
the caller goes on after the commit. Time, ids and randomness come to it as parameters.
"""

from gateway.store.schema import (
    POSITION,
    Moment,
    escape_like,
    is_one_of,
    matches_any,
    metadata,
)
from gateway.store.signals import Signals
from gateway.store.transactions import Conflict, Store, StoreUnavailable, Tx, open_store
from gateway.store.visibility import Judge, Judged, visible

__all__ = [
    "POSITION",
    "Conflict",
    "Judge",
    "Judged",
    "Moment",
    "Signals",
    "Store",
    "StoreUnavailable",
    "Tx",
    "escape_like",
    "is_one_of",
    "matches_any",
    "metadata",
    "open_store",
    "visible",
]
