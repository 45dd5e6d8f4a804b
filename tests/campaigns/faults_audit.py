"""What subscribers received, held against the ledger: nothing lost, altered or out of order."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, func, select

from gateway.cmq.push.dead_letters import Death
from gateway.cmq.tables import WAITING, dead_letter, delivery
from gateway.events.tables import event
from tests.campaigns import audit
from tests.campaigns.faults_clock import Clock
from tests.campaigns.faults_subscribers import Arrival, Arrivals
from tests.support.running import Gateway
from tests.support.subscribers import digest_of

RETENTION = timedelta(days=1)
NO_SUCH_VERB = 2
Span = tuple[float, float]


class Books(audit.Books):
    """The rows of a gateway's database, without the events of subscriptions themselves."""

    def events(self) -> dict[str, list[Row[Any]]]:
        found = super().events()
        return {name: rows for name, rows in found.items() if not name.startswith("subsc-")}

    def deliveries_waiting(self) -> int:
        waiting = select(func.count()).select_from(delivery)
        return self._count(waiting.where(delivery.c.state == WAITING))

    def dead_letters(self) -> list[Row[Any]]:
        return self._all(select(dead_letter))

    def happened_at(self) -> dict[tuple[str, int], datetime]:
        """When each event was committed, by stream and number."""
        columns = event.c.stream_id, event.c.seq, event.c.happened_at
        return {(row.stream_id, row.seq): row.happened_at for row in self._all(select(*columns))}


@dataclass(frozen=True)
class Delays:
    """How long events took to arrive, in seconds. undisturbed: while the gateway was at work."""

    all: list[float] = field(default_factory=list)
    undisturbed: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Received:
    """What one subscriber received, in figures."""

    arrivals: int
    duplicates: int
    dead: int
    ended: int


class Auditor:
    """Compares arrivals with what was to be told; what is wrong goes to the findings.

    Every event was asked for, so every message is for every subscriber.
    """

    def __init__(self, books: Books, findings: audit.Findings) -> None:
        self._findings = findings
        self._messages = books.messages()
        self._digests = {name: digest_of(row.body) for name, row in self._messages.items()}
        self._happened = books.happened_at()
        self._dead: dict[str, list[Row[Any]]] = defaultdict(list)
        for row in books.dead_letters():
            self._dead[row.subscription_name].append(row)

    @property
    def messages(self) -> set[str]:
        return set(self._messages)

    def audit(self, name: str, arrivals: Arrivals, *, may_bury: bool = False) -> Received:
        """Look at one subscriber. may_bury: some messages may have been given up for it."""
        first: dict[str, Arrival] = {}
        for arrival in arrivals:
            first.setdefault(arrival.message_id, arrival)
            self._compare(name, arrival)
        dead = {row.message_id: row for row in self._dead[name]}
        ended = {each for each, row in dead.items() if _life_ended(row)}
        given_up = set(dead) if may_bury else ended
        missing = [each for each in self._messages if each not in first and each not in given_up]
        self._findings.messages_missing += [f"{name}: {each}" for each in missing]
        self._findings.messages_out_of_order += self._disorder(name, first)
        unasked = 0 if may_bury else len(dead) - len(ended)
        if unasked:
            self._findings.surprises.append(f"{name}: {unasked} messages were given up")
        return Received(len(arrivals), len(arrivals) - len(first), len(dead), len(ended))

    def _compare(self, name: str, arrival: Arrival) -> None:
        """Every arrival has the bytes that were written, so all duplicates are identical."""
        wanted = self._digests.get(arrival.message_id)
        if wanted is None:
            self._findings.messages_altered.append(f"{name}: {arrival.message_id} was not written")
        elif wanted != arrival.digest:
            self._findings.messages_altered.append(f"{name}: {arrival.message_id} has other bytes")

    def _disorder(self, name: str, first: Iterable[str]) -> Iterator[str]:
        last: dict[str, int] = {}
        for message_id in first:
            row = self._messages.get(message_id)
            if row is None:
                continue
            if row.seq < last.get(row.stream_id, 0):
                yield f"{name}: {message_id} came after {last[row.stream_id]}"
            last[row.stream_id] = max(row.seq, last.get(row.stream_id, 0))

    def delays(self, arrivals: Arrivals, *, clock: Clock, away: Sequence[Span]) -> Delays:
        """How long after its event each first arrival came. away: when no gateway was there."""
        found = Delays()
        seen: set[str] = set()
        for arrival in arrivals:
            row = self._messages.get(arrival.message_id)
            if row is None or arrival.message_id in seen:
                continue
            seen.add(arrival.message_id)
            happened = self._happened[row.stream_id, row.seq].timestamp()
            began = clock.moment_of(happened, before=arrival.at)
            if began is None:
                continue
            found.all.append(arrival.at - began)
            if not any(began <= end and arrival.at >= begin for begin, end in away):
                found.undisturbed.append(arrival.at - began)
        return found


def _life_ended(row: Row[Any]) -> bool:
    """Whether the message was given up since the clock had passed the end of its life."""
    is_over: bool = row.died_at >= row.created_at + RETENTION
    return is_over and row.why.startswith(Death.EXPIRED.value)


def join(delays: Iterable[Delays]) -> Delays:
    """The delays of several subscribers together."""
    joined = Delays()
    for each in delays:
        joined.all.extend(each.all)
        joined.undisturbed.extend(each.undisturbed)
    return joined


def percentiles(seconds: Sequence[float]) -> Mapping[str, float]:
    """Median and 99th percentile, in ms."""
    if len(seconds) < 2:
        return {"p50": 0.0, "p99": 0.0}
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3}


def ask_auditor(gateway: Gateway, findings: audit.Findings) -> str:
    """Have the gateway's own auditor look, too; what it said, in a word."""
    done = gateway.command("events", "audit", "--json", check=False)
    if done.returncode == NO_SUCH_VERB:
        return "there is no such verb yet"
    if done.returncode:
        findings.events_wrong.append(
            f"qcs-gateway events audit: {done.stdout[:2_000]}{done.stderr}"
        )
    return json.dumps(json.loads(done.stdout)) if done.returncode == 0 else "discrepancies"
