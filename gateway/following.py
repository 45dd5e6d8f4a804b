"""The ledger as the streams of events read it: the newest events once for all of them.

Whatever happens wakes every stream. The first one that looks reads what is new and keeps it in
memory; the others find it there. A stream that is behind reads by itself until it has caught up.
"""

import itertools
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

import anyio
from sqlalchemy import bindparam, select

from gateway.call import Resource
from gateway.cmq.tables import subscription
from gateway.events import ledger
from gateway.events.ledger import Entry
from gateway.events.names import EventName, parse_event_name
from gateway.events.outbox import LEDGER_SIGNAL
from gateway.sight import Told
from gateway.store import Store
from gateway.stream import Page, Wanted

KEPT_MAX = 2_048
LOOK_EVERY_S = 0.5  # how late an event is kept that another process wrote
IDLE_S = 30.0  # who comes after nobody looked for so long begins anew
EVERYTHING = ledger.Wanted()
SUBSCRIPTIONS = select(subscription.c.id).where(
    subscription.c.id.in_(bindparam("ids", expanding=True))
)


@dataclass(frozen=True, slots=True)
class _Kept:
    """One of the newest events, as it is told, and by what it is wanted."""

    told: Told
    stream_id: str

    def is_wanted(self, wanted: Wanted) -> bool:
        resource = self.told.resource
        return (
            resource.owner_uin == wanted.owner_uin
            and resource.region == wanted.region
            and (not wanted.names or self.told.name in wanted.names)
            and (not wanted.stream_ids or self.stream_id in wanted.stream_ids)
        )


class Follower:
    """A `gateway.stream.Ledger` on the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: deque[_Kept] = deque()
        self._start = 0  # every event after this position and up to the end is kept
        self._end = 0
        self._looked_at: float | None = None
        self._looked_count = -1
        self._is_behind = False  # there was more than can be read at once
        self._looking = anyio.Lock()

    def find_name(self, written: str) -> str | None:
        """See `Ledger.find_name`; those of subscriptions may be asked for here, too."""
        name = parse_event_name(written) or EventName.__members__.get(written)
        return None if name is None else name.value

    def seen(self) -> int:
        """See `Ledger.seen`."""
        return self._store.signals.count(LEDGER_SIGNAL)

    async def wait(self, seen: int, *, at_most_s: float) -> None:
        """See `Ledger.wait`."""
        await self._store.signals.wait(LEDGER_SIGNAL, seen=seen, at_most_s=at_most_s)

    async def last_position(self) -> int:
        """See `Ledger.last_position`."""
        async with self._looking:
            settled = await self._store.read_point(ledger.find_settled)
            if self._is_idle():
                self._kept.clear()
                self._start = self._end = settled
                self._looked_at = anyio.current_time()
        return settled

    async def find_next(self, position: int) -> int | None:
        """See `Ledger.find_next`."""
        page = await ledger.read_following(self._store, after=position, limit=1, wanted=EVERYTHING)
        return page.entries[0].position if page.entries else None

    async def find_subscriptions(self, ids: Collection[str]) -> Collection[str]:
        """See `Ledger.find_subscriptions`."""
        found = await self._store.read_list(
            lambda tx: tx.execute(SUBSCRIPTIONS, {"ids": sorted(ids)}).scalars().all()
        )
        return frozenset(found)

    async def read_after(self, position: int, *, limit: int, wanted: Wanted) -> Page:
        """See `Ledger.read_after`."""
        await self._look()
        if position >= self._start:
            return self._read_kept(position, limit=limit, wanted=wanted)
        return await self._read_stored(position, limit=limit, wanted=wanted)

    def _is_idle(self) -> bool:
        return self._looked_at is None or anyio.current_time() - self._looked_at > IDLE_S

    async def _look(self) -> None:
        """Keep what is new, unless somebody has just looked and nothing was said since."""
        async with self._looking:
            count, now_s = self.seen(), anyio.current_time()
            recently = self._looked_at is not None and now_s - self._looked_at < LOOK_EVERY_S
            if recently and count == self._looked_count and not self._is_behind:
                return
            page = await ledger.read_following(
                self._store, after=self._end, limit=KEPT_MAX, wanted=EVERYTHING
            )
            for entry in page.entries:
                self._keep(entry)
            self._end = page.reached
            self._is_behind = len(page.entries) == KEPT_MAX
            self._looked_at, self._looked_count = now_s, count

    def _keep(self, entry: Entry) -> None:
        told = find_told(entry)
        if told is not None:
            self._kept.append(_Kept(told, entry.stream_id))
        if len(self._kept) > KEPT_MAX:
            self._start = self._kept.popleft().told.position

    def _read_kept(self, position: int, *, limit: int, wanted: Wanted) -> Page:
        newer = itertools.takewhile(lambda one: one.told.position > position, reversed(self._kept))
        told = [one.told for one in newer if one.is_wanted(wanted)][::-1]
        if len(told) > limit:
            return Page(told[:limit], reached=told[limit - 1].position, is_last=False)
        return Page(told, reached=max(position, self._end), is_last=not self._is_behind)

    async def _read_stored(self, position: int, *, limit: int, wanted: Wanted) -> Page:
        narrowed = ledger.Wanted(
            owner_uin=wanted.owner_uin,
            region=wanted.region,
            names=wanted.names,
            stream_ids=wanted.stream_ids,
        )
        page = await ledger.read_following(
            self._store, after=position, limit=limit, wanted=narrowed
        )
        told = filter(None, map(find_told, page.entries))
        return Page(list(told), page.reached, is_last=False)


def find_told(entry: Entry) -> Told | None:
    """An event, and what its reader must be allowed; None if nobody can be said to describe it."""
    about = _find_about(entry)
    if about is None:
        return None
    service, action, (path, *denied) = about
    is_of_subscription = entry.stream_id.startswith("subsc-")
    return Told(
        position=entry.position,
        name=entry.name,
        data=ledger.event_json(entry),
        action=f"{service}:{action}",
        resource=Resource(service, entry.region, entry.owner_uin, path),
        deny_only=tuple(Resource(service, entry.region, entry.owner_uin, one) for one in denied),
        subscription_id=entry.stream_id if is_of_subscription else "",
    )


def _find_about(entry: Entry) -> tuple[str, str, tuple[str, ...]] | None:
    """Service and name of the action that describes what an event is about, and its paths.

    The first path must be allowed, none may be denied.
    A node's events are among those of the job, or of the environment, that it was made for.
    """
    prefix, _, _ = entry.stream_id.partition("-")
    if prefix == "job":
        return "batch", "DescribeJob", (f"job/{entry.stream_id}",)
    if prefix == "env":
        return "batch", "DescribeComputeEnv", (f"computeenv/{entry.stream_id}",)
    topic, name = entry.batch.get("TopicName"), entry.batch.get("SubscriptionName")
    if prefix == "subsc" and isinstance(topic, str) and isinstance(name, str):
        paths = (f"topic/{topic}", f"subscription/{topic}/{name}")
        return "tdmq", "DescribeCmqSubscriptionDetail", paths
    return None
