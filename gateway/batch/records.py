"""Rows as values: a task and an instance as a transaction sees them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import Row

from gateway.batch.attempts import Attempt
from gateway.batch.outcomes import RetryRules, read_retry_rules
from gateway.batch.states import COUNTERS, HOLDING, Counts, State
from gateway.call import Value


@dataclass(slots=True)
class Task:
    """A task as it stands inside a transaction.

    cpu, mem_gib: the size of its elastic nodes. node_failures: how often in a row none could be
    made, node_reason why; node_retry_at: when it is tried again, or None if nothing failed or the
    instances without a try left are still to fail. changes: what was moved since `counts` was read.
    """

    position: int
    name: str
    state: State
    env_id: str | None
    cpu: int
    mem_gib: int
    concurrent_max: int
    node_failures: int
    node_retry_at: datetime | None
    node_reason: str
    blockers: int
    doom: str
    spec: bytes
    counts: Counts
    created_at: datetime
    ended_at: datetime | None
    changes: Counter[State] = field(default_factory=Counter)

    def parts(self) -> Counts:
        """How many instances are in each state, what was moved so far included."""
        return self.counts.plus(self.changes)

    @property
    def retry_rules(self) -> RetryRules:
        """What it says of failures and nodes, read anew each time."""
        return read_retry_rules(self.spec)


class Instance(Value, frozen=True):
    """A task instance as its row stands."""

    job_id: str
    position: int
    number: int
    state: State
    attempt: int
    first_attempt: int
    terminating: bool
    failures: int
    losses: int
    node_id: str
    node_instance_id: str
    exit_code: int | None
    cause: str | None
    reason: str
    created_at: datetime
    launched_at: datetime | None
    running_at: datetime | None
    ended_at: datetime | None

    @property
    def latest(self) -> Attempt:
        """Its newest attempt."""
        return Attempt(self.job_id, self.position, self.number, self.attempt)

    @property
    def machine(self) -> str:
        """The id of the machine it runs on; "" while it runs on none."""
        return self.node_instance_id if self.state in HOLDING else ""


class Node(NamedTuple):
    """Where an instance runs: the node's id, the id of its machine, and its size."""

    id: str
    instance_id: str
    cpu: int
    mem_gib: int


def read_task(row: Row[Any]) -> Task:
    """A task from its row."""
    return Task(
        position=row.position,
        name=row.name,
        state=State(row.state),
        env_id=row.env_id,
        cpu=row.cpu,
        mem_gib=row.mem_gib,
        concurrent_max=row.concurrent_max,
        node_failures=row.node_failures,
        node_retry_at=row.node_retry_at,
        node_reason=row.node_reason,
        blockers=row.blockers,
        doom=row.doom,
        spec=row.spec,
        counts=read_counts(row),
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


_counters_of = attrgetter(*COUNTERS)


def read_counts(row: Row[Any]) -> Counts:
    """The eight counters of a task's row."""
    return Counts(*_counters_of(row))


def read_instance(row: Sequence[Any]) -> Instance:
    """An instance from its row, whose columns are in the order of the members."""
    job_id, position, number, state, *rest = list(row)
    return Instance(job_id, position, number, State(state), *rest)
