"""Storing which messages are sent: beside the publishing, and many topics in one transaction."""

from collections import defaultdict
from collections.abc import Sequence

import anyio
from sqlalchemy.exc import OperationalError

from gateway.clock import Clock
from gateway.events import outbox
from gateway.store import Store, StoreUnavailable
from gateway.telemetry import log

STOP_S = 5.0
BATCHES_MAX = 64  # more than these wait for the database, and with them the publishing
GATHER_S = 0.02
GATHER_BELOW = 256  # messages
"""Few messages are marked a little later, with what comes meanwhile: the transactions of the calls
have the database to themselves, and after a crash no more than this is sent a second time.
"""


Batch = tuple[str, Sequence[int]]
"""A topic, and the positions of messages of it that are sent."""


class Marker:
    """Knows which messages are sent and not yet marked, so that no lane sends them again.

    Why beside: a lane that waited for its marks to be durable would keep what came meanwhile.
    """

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._unmarked: dict[str, set[int]] = defaultdict(set)
        self._into, self._out_of = anyio.create_memory_object_stream[Batch](BATCHES_MAX)

    def unmarked(self, topic: str) -> frozenset[int]:
        """The positions of a topic's messages that are sent, and may not look so in the database.

        Ask before reading: marks that are stored during the read leave this set.
        """
        return frozenset(self._unmarked.get(topic, ()))

    async def add(self, topic: str, positions: Sequence[int]) -> None:
        """Have messages of a topic marked, soon."""
        if positions:
            self._unmarked[topic].update(positions)
            await self._into.send((topic, positions))

    async def run(self) -> None:
        """Mark for ever. What cannot be marked is sent again, with the same bytes."""
        sent: list[Batch] = []
        with self._into, self._out_of:
            try:
                async for batch in self._out_of:
                    sent = [batch, *self._buffered()]
                    if sum(len(positions) for _, positions in sent) < GATHER_BELOW:
                        await anyio.sleep(GATHER_S)
                        sent += self._buffered()
                    await self._mark(sent)
                    sent = []
            finally:  # told to end: what is sent is still marked, or it would be sent again
                with anyio.move_on_after(STOP_S, shield=True):
                    await self._mark([*sent, *self._buffered()])

    def _buffered(self) -> list[Batch]:
        sent: list[Batch] = []
        while self._out_of.statistics().current_buffer_used:
            sent.append(self._out_of.receive_nowait())
        return sent

    async def _mark(self, sent: Sequence[Batch]) -> None:
        if not sent:
            return
        now = self._clock()
        all_sent = [position for _, positions in sent for position in positions]
        try:
            await self._store.write(lambda tx: outbox.mark_sent(tx, all_sent, now=now))
        except (StoreUnavailable, OperationalError) as error:
            log.warning("messages_not_marked", messages=len(all_sent), why=str(error))
        for topic, positions in sent:
            unmarked = self._unmarked.get(topic, set())
            unmarked.difference_update(positions)
            if not unmarked:
                self._unmarked.pop(topic, None)
