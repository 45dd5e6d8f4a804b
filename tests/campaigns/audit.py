"""The audit of a campaign: what the rows, the witness and the subscribers say, held together.

The rows are read as another program would, past the gateway. What must be in the ledger is worked
out from the states that the rows ended in, not from anything that wrote the ledger.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from sqlalchemy import Connection, Row, create_engine, func, select

from gateway.batch.tables import (
    compute_env,
    compute_env_activity,
    compute_node,
    job,
    task,
    task_instance,
)
from gateway.events.tables import event, message
from gateway.store.postgresql import driver_url
from tests.campaigns.witness import Run, Subject

FINAL = ("SUCCEED", "FAILED")
Arrivals = Sequence[tuple[str, bytes]]


@dataclass
class Findings:
    """What is wrong, a sentence each; nothing, if the promises were kept."""

    jobs_lost: list[str] = field(default_factory=list)
    jobs_made_twice: list[str] = field(default_factory=list)
    jobs_not_over: list[str] = field(default_factory=list)
    runs_at_once: list[str] = field(default_factory=list)
    runs_uncounted: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    nodes_held: list[str] = field(default_factory=list)
    events_wrong: list[str] = field(default_factory=list)
    messages_missing: list[str] = field(default_factory=list)
    messages_altered: list[str] = field(default_factory=list)
    messages_out_of_order: list[str] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)

    def by_name(self) -> dict[str, list[str]]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @property
    def count(self) -> int:
        return sum(len(found) for found in self.by_name().values())


class Books:
    """The rows of a gateway's database, which may be running."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _all(self, statement: Any) -> list[Row[Any]]:
        with self._connection.begin():
            return list(self._connection.execute(statement))

    def _count(self, statement: Any) -> int:
        return int(self._all(statement)[0][0])

    def jobs_open(self) -> int:
        """How many jobs are not over."""
        return self._count(select(func.count()).select_from(job).where(job.c.state.not_in(FINAL)))

    def nodes_astir(self) -> int:
        """How many nodes of environments are not yet as they were asked for."""
        idle = (compute_node.c.state == "RUNNING") & (compute_node.c.fate == "")
        asked = self._count(select(func.coalesce(func.sum(compute_env.c.desired_count), 0)))
        return asked - self._count(select(func.count()).select_from(compute_node).where(idle))

    def messages_waiting(self) -> int:
        """How many messages are not yet with every subscriber."""
        waiting = message.c.sent_at.is_(None) | message.c.expanded_at.is_(None)
        return self._count(select(func.count()).select_from(message).where(waiting))

    def jobs(self) -> list[Row[Any]]:
        return self._all(select(job))

    def tasks(self) -> list[Row[Any]]:
        return self._all(select(task))

    def instances(self) -> list[Row[Any]]:
        on_task = (task.c.job_id == task_instance.c.job_id) & (
            task.c.position == task_instance.c.position
        )
        columns = task.c.name.label("task_name"), task.c.env_id
        return self._all(select(task_instance, *columns).join(task, on_task))

    def envs(self) -> list[str]:
        return [row.id for row in self._all(select(compute_env.c.id))]

    def nodes(self) -> list[Row[Any]]:
        return self._all(select(compute_node))

    def made(self) -> Counter[str]:
        """How many nodes were made in each environment, those made again among them."""
        made = select(compute_env_activity.c.env_id).where(
            compute_env_activity.c.type == "CREATE_COMPUTE_NODE",
            compute_env_activity.c.state == "SUCCEED",
        )
        return Counter(row.env_id for row in self._all(made))

    def events(self) -> dict[str, list[Row[Any]]]:
        """The ledger by job or environment, in the order of its numbers."""
        found: dict[str, list[Row[Any]]] = defaultdict(list)
        for row in self._all(select(event).order_by(event.c.stream_id, event.c.seq)):
            found[row.stream_id].append(row)
        return found

    def messages(self) -> dict[str, Row[Any]]:
        """The messages by id, in the order of their events."""
        rows = self._all(select(message).order_by(message.c.stream_id, message.c.seq))
        return {row.id: row for row in rows}


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A connection to the database at a URL."""
    engine = create_engine(url if url.startswith("sqlite") else driver_url(url))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def open_books(url: str) -> Iterator[Books]:
    """The rows at a database's URL."""
    with connected(url) as connection:
        yield Books(connection)


def audit_jobs(books: Books, accepted: Mapping[str, str], findings: Findings) -> None:
    """Every promised job is there once, and over. accepted: the job's id by its ClientToken."""
    by_token: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in books.jobs():
        by_token[row.name].append(row)
        if row.state not in FINAL:
            findings.jobs_not_over.append(f"{row.id} is {row.state}")
    for token, job_id in accepted.items():
        if job_id not in {row.id for row in by_token[token]}:
            findings.jobs_lost.append(f"{job_id} for {token}")
    for token, rows in by_token.items():
        if len(rows) > 1:
            findings.jobs_made_twice.append(f"{token}: {[row.id for row in rows]}")
        if token not in accepted:
            findings.surprises.append(f"{token} was made and never answered")
    held = [row for row in books.nodes() if row.busy_with]
    findings.nodes_held += [f"{row.id} is busy with {row.busy_with}" for row in held]


def audit_runs(
    books: Books,
    runs: Mapping[Subject, list[Run]],
    *,
    terminated: set[str],
    findings: Findings,
) -> None:
    """Every attempt ran once, none beside another of the same instance, and none lives on."""
    seen = dict(runs)
    for row in books.instances():
        subject = Subject(row.job_id, row.task_name, row.number)
        found = seen.pop(subject, [])
        if any(run.overlapped for run in found):
            findings.runs_at_once.append(str(subject))
        fewest = 0 if row.job_id in terminated else row.attempt - row.losses
        most = attempts_begun(row)
        if not fewest <= len(found) <= most:
            findings.runs_uncounted.append(f"{subject}: {len(found)} runs, not {fewest} to {most}")
        if row.state == "SUCCEED" and not found[-1].finished:
            findings.runs_uncounted.append(f"{subject}: SUCCEED, but its last run was cut off")
        if any(run.alive for run in found):
            findings.orphans.append(str(subject))
    findings.runs_uncounted += [f"{subject}: runs of no instance" for subject in seen]


def attempts_begun(instance: Row[Any]) -> int:
    """How many attempts at an instance have run: the last may have been ended before it could.

    `running_at` is the last one's; it is emptied when that is placed.
    """
    attempts: int = instance.attempt
    if attempts and instance.cause == "TERMINATED" and instance.running_at is None:
        return attempts - 1
    return attempts


def audit_events(books: Books, findings: Findings) -> None:
    """The ledger has no gap, and says what the states imply: nothing less, nothing more."""
    ledger = books.events()
    for stream_id, expected in expected_events(books).items():
        rows = ledger.pop(stream_id, [])
        if [row.seq for row in rows] != list(range(1, len(rows) + 1)):
            findings.events_wrong.append(f"{stream_id} has gaps: {[row.seq for row in rows]}")
        found = Counter(row.name for row in rows)
        if found != expected:
            missing, surplus = dict(expected - found), dict(found - expected)
            findings.events_wrong.append(f"{stream_id} lacks {missing}, has besides {surplus}")
    findings.events_wrong += [f"{stream_id}: events of nothing" for stream_id in ledger]


def expected_events(books: Books) -> dict[str, Counter[str]]:
    """How often each event must be in the ledger of each job and environment."""
    expected: dict[str, Counter[str]] = {row.id: Counter() for row in books.jobs()}
    began: set[str | tuple[str, int]] = set()
    for row in books.instances():
        names = expected[row.job_id]
        attempts = attempts_begun(row)
        names["TASK_INSTANCE_RUNNING"] += attempts
        names[f"TASK_INSTANCE_{row.state}"] += 1
        if attempts:
            began |= {row.job_id, (row.job_id, row.position)}
        if row.env_id is None:
            names["COMPUTE_NODE_CREATED"] += row.attempt
            names["COMPUTE_NODE_RUNNING"] += attempts
            names["COMPUTE_NODE_DELETING"] += row.attempt
            names["COMPUTE_NODE_ABNORMAL"] += row.losses
    for row in books.tasks():
        expected[row.job_id][f"TASK_{row.state}"] += 1
        expected[row.job_id]["TASK_RUNNING"] += (row.job_id, row.position) in began
    for row in books.jobs():
        expected[row.id][f"JOB_{row.state}"] += 1
        expected[row.id]["JOB_RUNNING"] += row.id in began
    expected |= {env_id: Counter(COMPUTE_ENV_CREATED=1) for env_id in books.envs()}
    there = Counter(row.env_id for row in books.nodes())
    for env_id, made in books.made().items():
        for state in ("CREATED", "RUNNING"):
            expected[env_id][f"COMPUTE_NODE_{state}"] += made
        for state in ("ABNORMAL", "DELETING"):  # whoever is made again was lost
            expected[env_id][f"COMPUTE_NODE_{state}"] += made - there[env_id]
    return {stream_id: +names for stream_id, names in expected.items()}


def audit_losses(books: Books, findings: Findings) -> None:
    """Where no executor died, no attempt was lost, and no node made again."""
    lost = sum(row.losses for row in books.instances())
    if lost:
        findings.surprises.append(f"{lost} attempts were lost, and no executor was killed")
    there = Counter(row.env_id for row in books.nodes())
    for env_id, made in books.made().items():
        if made > there[env_id]:
            findings.surprises.append(f"{env_id}: nodes made again, and no executor was killed")


def audit_messages(books: Books, findings: Findings) -> None:
    """Every event has its one message: whoever is asked for was asked for all of them."""
    messages = [(row.stream_id, row.seq) for row in books.messages().values()]
    events = [(row.stream_id, row.seq) for rows in books.events().values() for row in rows]
    for key in sorted(set(events) ^ set(messages)):
        findings.messages_missing.append(f"{key}: an event without a message, or the reverse")
    if len(messages) != len(set(messages)):
        findings.messages_altered.append("an event has two messages")


def audit_arrivals(
    books: Books, name: str, arrivals: Arrivals, *, in_order: bool, findings: Findings
) -> None:
    """A subscriber got every message, each time with the same bytes, first arrivals in order."""
    messages = books.messages()
    first: dict[str, None] = {}
    for message_id, body in arrivals:
        first.setdefault(message_id)
        if message_id not in messages:
            findings.messages_altered.append(f"{name}: {message_id} was never written")
        elif bytes(messages[message_id].body) != body:
            findings.messages_altered.append(f"{name}: {message_id} has other bytes")
    missing = [message_id for message_id in messages if message_id not in first]
    findings.messages_missing += [f"{name}: {message_id}" for message_id in missing]
    if in_order:
        findings.messages_out_of_order += _disorder(name, [messages[each] for each in first])


def _disorder(name: str, rows: Sequence[Row[Any]]) -> Iterator[str]:
    last: dict[str, int] = {}
    for row in rows:
        if row.seq < last.get(row.stream_id, 0):
            yield f"{name}: {row.id} came after {last[row.stream_id]}"
        last[row.stream_id] = max(row.seq, last.get(row.stream_id, 0))
