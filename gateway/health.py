"""How the service does: whether it can take calls, and what else somebody should know.

Why what is only worse is no reason to be unready: readiness is about taking calls, and a broker
that is away keeps nobody from submitting jobs; their events wait. Without the database, or with
nowhere to store a change, calls are refused, and others should get them. So /readyz is 503 for
these, and says all the rest in lines that begin with "degraded:", from the metrics themselves.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus
from prometheus_client import Gauge
from sqlalchemy.exc import OperationalError

from gateway import telemetry
from gateway.clock import Clock
from gateway.cmq.push import backlog
from gateway.cmq.push.backlog import Load
from gateway.events import outbox
from gateway.server import Readiness
from gateway.store import Store, StoreUnavailable, Tx
from gateway.telemetry import log

LOOK_EVERY_S = 2.0
PING_S = 5.0
LATE_S = 60.0
"""A message that waits for longer is worth a line."""
NAMED_MAX = 3
"""So many of those whose messages wait are named in that line."""
DISK_LOW_BYTES = 256 * 1_024 * 1_024
DISK_PROBE_BYTES = 1_024 * 1_024
"""While there is no room for so much, the disk counts as full: SQLite's log grows by pages."""
PROBE = "room.probe"


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that a metric says, in words.

    holds: whether its value is a concern. words: with `{}` for the value.
    """

    gauge: Gauge
    holds: Callable[[float], bool]
    words: str


_ALWAYS = (
    Concern(telemetry.LEDGER_DISCREPANCIES, bool, "{:.0f} discrepancies between ledger and states"),
    Concern(
        telemetry.POLICY_BROKEN, bool, "the policies on disk are refused; the last good ones hold"
    ),
    Concern(telemetry.EXECUTOR_SILENT, bool, "no executor answers: jobs wait"),
    Concern(
        telemetry.OLDEST_PUSH_SECONDS,
        lambda seconds: seconds > LATE_S,
        "a message waits to be pushed for {:.0f} s",
    ),
    Concern(
        telemetry.DISK_FREE_BYTES,
        lambda free: free < DISK_LOW_BYTES,
        "only {:.0f} bytes left for the data",
    ),
)
_WITH_BROKER = (
    Concern(
        telemetry.BROKER_CONNECTED,
        lambda connected: not connected,
        "no line to the broker: messages wait",
    ),
    Concern(telemetry.BROKER_BLOCKED, bool, "the broker is short of memory or disk: messages wait"),
    Concern(
        telemetry.TOPICS_HELD, bool, "the broker cannot take what {:.0f} topics have, see the log"
    ),
    Concern(
        telemetry.OLDEST_MESSAGE_SECONDS,
        lambda seconds: seconds > LATE_S,
        "a message waits to be sent for {:.0f} s",
    ),
)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits: how many messages for the broker, since when the oldest does, and pushes.

    late_topics, late_subscriptions: whose messages wait for too long, the oldest first.
    """

    unsent: int
    unsent_since: datetime | None
    pushes: Load
    late_topics: Sequence[str] = ()
    late_subscriptions: Sequence[str] = ()


class Health:
    """What /readyz and the metrics say; unready before `ready` and from `draining` on.

    data: the folder of all state. embedded: whether the database is in it; if not, calls are taken
    while it is full, and only no job can start. with_broker: whether one is configured.
    """

    def __init__(
        self, store: Store, *, data: Path, embedded: bool, with_broker: bool, clock: Clock
    ) -> None:
        self._store = store
        self._data = data
        self._embedded = embedded
        self._clock = clock
        self._concerns = (*_ALWAYS, *_WITH_BROKER) if with_broker else _ALWAYS
        self._refusing = "starting"
        self._full = ""
        self._late: Mapping[Gauge, Sequence[str]] = {}

    def ready(self) -> None:
        """Say from now on that calls are taken."""
        self._refusing = ""

    def draining(self) -> None:
        """Say from now on that no calls are taken."""
        self._refusing = "draining"

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep the metrics up to date, until cancelled."""
        await self._look_at_disk()
        task_status.started()
        while True:
            try:
                await self._look_at_backlog()
            except (StoreUnavailable, OperationalError):
                log.warning("backlog_not_measured", retry_s=LOOK_EVERY_S)
            await anyio.sleep(LOOK_EVERY_S)
            await self._look_at_disk()

    async def readiness(self) -> Readiness:
        """Why calls cannot be taken now, and what else is not well."""
        problems = [self._refusing] if self._refusing else []
        degraded = list_concerns(self._concerns, late=self._late)
        if self._full and self._embedded:
            problems.append(self._full)
        elif self._full:
            degraded.insert(0, self._full)
        try:
            with anyio.fail_after(PING_S):
                await self._store.ping()
        except Exception as error:  # whatever it is, the answer is "not ready"
            problems.append(f"the database does not answer: {type(error).__name__}")
        return Readiness(problems, degraded)

    async def _look_at_disk(self) -> None:
        full, free = await anyio.to_thread.run_sync(measure_disk, self._data)
        telemetry.DISK_FREE_BYTES.set(free)
        if full and not self._full:
            log.error("disk_full", folder=str(self._data), why=full)
        elif self._full and not full:
            log.info("disk_has_room_again", folder=str(self._data))
        self._full = full

    async def _look_at_backlog(self) -> None:
        late_since = self._clock() - timedelta(seconds=LATE_S)
        found = await self._store.read_list(partial(_read_backlog, late_since=late_since))
        self._late = {
            telemetry.OLDEST_MESSAGE_SECONDS: found.late_topics,
            telemetry.OLDEST_PUSH_SECONDS: found.late_subscriptions,
        }
        telemetry.MESSAGES_WAITING.set(found.unsent)
        telemetry.OLDEST_MESSAGE_SECONDS.set(self._age_s(found.unsent_since))
        telemetry.PUSHES_WAITING.set(found.pushes.waiting)
        telemetry.OLDEST_PUSH_SECONDS.set(self._age_s(found.pushes.since))
        telemetry.SUBSCRIPTIONS_PAUSED.set(found.pushes.paused)

    def _age_s(self, since: datetime | None) -> float:
        return 0.0 if since is None else max(0.0, (self._clock() - since).total_seconds())


def measure_disk(folder: Path) -> tuple[str, int]:
    """Why nothing more can be stored in a folder, or "", and how many bytes are left for it.

    Why it is tried, and not only looked up: a quota, or the end of the inodes, shows in no number.
    """
    probe, free = folder / PROBE, 0
    try:
        free = shutil.disk_usage(folder).free
        try:
            with probe.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, DISK_PROBE_BYTES)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        return f"nothing can be stored in {folder}: {error.strerror}", free
    return "", free


def list_concerns(concerns: Sequence[Concern], *, late: Mapping[Gauge, Sequence[str]]) -> list[str]:
    """What is worse than it should be, in words. late: by a metric, what is to be named with it."""
    said = []
    for concern in concerns:
        value = _value_of(concern.gauge)
        if concern.holds(value):
            names = ", ".join(late.get(concern.gauge, ()))
            said.append(concern.words.format(value) + (f": {names}" if names else ""))
    return said


def _read_backlog(tx: Tx, *, late_since: datetime) -> Backlog:
    """What waits. late_since: whose messages wait since before then is looked up besides."""
    unsent_since, pushes = outbox.oldest_unsent(tx), backlog.measure(tx)
    topics: Sequence[str] = ()
    subscriptions: Sequence[str] = ()
    if unsent_since is not None and unsent_since < late_since:
        topics = outbox.list_longest_unsent(tx, limit=NAMED_MAX)
    if pushes.since is not None and pushes.since < late_since:
        subscriptions = backlog.list_longest_waiting(tx, limit=NAMED_MAX)
    return Backlog(outbox.count_unsent(tx), unsent_since, pushes, topics, subscriptions)


def _value_of(gauge: Gauge) -> float:
    [metric] = gauge.collect()
    return metric.samples[0].value
