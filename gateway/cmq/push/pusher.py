"""Pushing over HTTP: one lane per subscription that something waits for, each in order.

A message that fails holds up the ones behind it and nobody else. Who failed, or took long, pushes
from places of its own, so that slow subscribers never take those of the others. At least once: a
crash between a push and its mark repeats the same bytes with the same id.
"""

import ssl
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial

import anyio
from anyio.abc import TaskGroup, TaskStatus
from sqlalchemy.exc import OperationalError

from gateway.clock import Clock
from gateway.cmq.push import backlog
from gateway.cmq.push.addresses import Reach
from gateway.cmq.push.backlog import Pausing, Waiting
from gateway.cmq.push.lanes import Office, PushLane
from gateway.cmq.push.marking import DeliveryMarker
from gateway.cmq.push.posting import ANSWER_S, Poster, open_poster
from gateway.cmq.push.schedules import Fraction
from gateway.cmq.push.secrets import Secrets
from gateway.cmq.subscribers import PUSH_SIGNAL
from gateway.store import Store, StoreUnavailable, Tx
from gateway.telemetry import log

PLACES_MAX = 512  # requests at once for subscribers that are well, and as many for the others
POLL_S = 1.0  # how late a message is seen that another process wrote
LOOK_S = 0.02  # how often, at most, all that waits is looked through
LOOK_SHARE = 0.1  # of the time, at most, while there is much
SLOW_MAX = 10_000


async def run(
    store: Store,
    *,
    secrets: Secrets,
    reach: Reach,
    clock: Clock,
    fraction: Fraction,
    new_request_id: Callable[[], str],
    pause_after_s: int,
    tls: ssl.SSLContext | None = None,
    answer_s: float = ANSWER_S,
    places: int = PLACES_MAX,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Push for ever. While the database is away, try again and again.

    tls: how the certificates of https are checked; None: by the system's authorities. places: how
    many requests may be under way to subscribers that are well, and to the others.
    """
    tls = tls or ssl.create_default_context()
    pausing = Pausing(timedelta(seconds=pause_after_s), fraction)
    marker = DeliveryMarker(store, clock=clock)
    office = Office(store, marker, secrets, pausing, clock, new_request_id)
    async with (
        open_poster(reach, tls=tls, answer_s=answer_s) as quick,
        open_poster(reach, tls=tls, answer_s=answer_s) as slow,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(marker.run)
        tasks.start_soon(Pusher(office, quick=quick, slow=slow, places=places).run)
        task_status.started()


class Pusher:
    """Opens a lane for whoever is due and has none.

    quick, slow: the connections of subscribers that are well, and of the others. places: for each.
    """

    def __init__(self, office: Office, *, quick: Poster, slow: Poster, places: int) -> None:
        self._office = office
        self._store = office.store
        self._quick = quick
        self._slow = slow
        self._places = places
        self._lanes: dict[str, PushLane] = {}
        self._slow_ids: set[str] = set()
        self._crowded = False
        self._last_opened = ""

    async def run(self) -> None:
        """Open lanes for ever."""
        reachable = True
        async with anyio.create_task_group() as tasks:
            while True:
                seen = self._store.signals.count(PUSH_SIGNAL)
                looked_at = anyio.current_time()
                try:
                    wait_s, cost_s = await self._open_lanes(tasks)
                except (StoreUnavailable, OperationalError) as error:
                    if reachable:
                        log.warning("pushing_stopped", why=str(error), retry_s=POLL_S)
                    reachable = False
                    await anyio.sleep(POLL_S)
                    continue
                if not reachable:
                    log.info("pushing_again")
                reachable = True
                await self._store.signals.wait(PUSH_SIGNAL, seen=seen, at_most_s=wait_s)
                rest_s = min(POLL_S, max(LOOK_S, cost_s / LOOK_SHARE))
                await anyio.sleep_until(looked_at + rest_s)

    async def _open_lanes(self, tasks: TaskGroup) -> tuple[float, float]:
        """Open lanes for those who are due.

        Returns for how many seconds nobody else is, and the processor time of the look.
        """
        now = self._office.clock()
        waiting, cost_s = await self._store.read_list(partial(_look, now=now))
        if len(self._slow_ids) > SLOW_MAX:
            self._slow_ids &= {each.subscription_id for each in waiting}
        places = self._free_places()
        self._crowded = False
        for each in self._in_turn(waiting):
            lane = self._lanes.get(each.subscription_id)
            is_well = not each.failing and each.subscription_id not in self._slow_ids
            if lane is not None:
                lane.note(each.newest)
            elif each.due_at is None and places[is_well] > 0:
                places[is_well] -= 1
                self._open(tasks, each.subscription_id, is_well=is_well)
            elif each.due_at is None:
                self._crowded = True
        return _until_next(waiting, now=now), cost_s

    def _free_places(self) -> dict[bool, int]:
        """How many lanes may be opened for subscribers that are well, and for the others.

        Why a lane changes over while its request is on its way: five hundred subscribers that stop
        answering at once would else hold up all others for as long as an answer may take.
        """
        now = anyio.current_time()
        slow = sum(lane.is_slow(now=now) for lane in self._lanes.values())
        well = len(self._lanes) - slow
        free = 2 * self._places - len(self._lanes)
        return {True: min(self._places - well, free), False: self._places - slow}

    def _in_turn(self, waiting: Iterable[Waiting]) -> list[Waiting]:
        """Begin after the one who had the last place, so that everybody has one in turn."""
        last = self._last_opened
        return sorted(waiting, key=lambda w: (w.subscription_id <= last, w.subscription_id))

    def _open(self, tasks: TaskGroup, subscription_id: str, *, is_well: bool) -> None:
        poster = self._quick if is_well else self._slow
        lane = PushLane(self._office, poster, subscription_id=subscription_id, is_well=is_well)
        self._lanes[subscription_id] = lane
        self._last_opened = subscription_id
        tasks.start_soon(self._run_lane, lane)

    async def _run_lane(self, lane: PushLane) -> None:
        more = False
        try:
            more = await lane.run(may_go_on=lambda: not self._crowded)
        except (StoreUnavailable, OperationalError) as error:
            log.warning("push_not_read", subscription=lane.subscription_id, why=str(error))
        finally:
            del self._lanes[lane.subscription_id]
        if lane.is_well:
            self._slow_ids.discard(lane.subscription_id)
        else:
            self._slow_ids.add(lane.subscription_id)
        if more or self._crowded:
            self._store.signals.wake([PUSH_SIGNAL])


def _look(tx: Tx, *, now: datetime) -> tuple[list[Waiting], float]:
    """Who waits, and what it cost to see; not how long it took, which others have a share in."""
    began = time.thread_time()
    waiting = backlog.list_waiting(tx, now=now)
    return waiting, time.thread_time() - began


def _until_next(waiting: Iterable[Waiting], *, now: datetime) -> float:
    """Seconds until the next retry is due; not longer than until it is time to look anyway."""
    ahead = ((each.due_at - now).total_seconds() for each in waiting if each.due_at is not None)
    return min(POLL_S, *ahead, POLL_S)
