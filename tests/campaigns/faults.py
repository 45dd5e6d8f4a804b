"""Events that cannot be lost: break what can be broken under load, then count what is missing.

`python -m tests.campaigns.faults --cycles 20` ends with 1 if anything is, or if the HTTP
subscribers that are well were kept waiting by the others. Faults, their order and the jobs are
drawn from the seed; what the machine makes of them is its own.
"""

import json
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import click

from gateway.events.bus import TopicAddress
from tests.campaigns import audit, faults_audit
from tests.campaigns.crash import errors_in, servers
from tests.campaigns.faults_audit import Auditor, Books, Received, join, percentiles
from tests.campaigns.faults_clock import Clock
from tests.campaigns.faults_schedule import draw_schedule
from tests.campaigns.faults_subscribers import (
    AmqpReader,
    Arrival,
    Arrivals,
    Crowd,
    PatientReader,
    PatientUser,
    open_crowd,
)
from tests.campaigns.faults_world import World, open_lines, small_disk
from tests.campaigns.load import Accepted, Workload, prepare, working
from tests.campaigns.witness import Witness, listening
from tests.support.running import REGION, Gateway
from tests.support.sdk import Sdk
from tests.support.services import LOOPBACK, RabbitMQ, private_folder
from tests.support.subscribers import digest_of

OWNER = "100000000001"
KEPT_QUEUE, READ_QUEUE = "kept", "read"
HIDDEN_S = 5
NODES = 1
WORK_S = (0.5, 2.5)
CONFIRM_S = 3
PAUSE_AFTER_S = 20
SETTLE_S = 150.0
EXPECTED = re.compile(r"disk is full|disk_full|No space left|Warning: |^  with contextlib")
"""What the log may complain of: a full disk. Why a warning, too: aio-pika's, when the connection
that it could not close in time is collected.
"""


@dataclass(frozen=True)
class Plan:
    """What a campaign does.

    well, hostile: how many HTTP subscribers are; one more is slow. users: how many submit at once.
    pause_s: how long each waits between two jobs, on average. late_s: what the 99th percentile of
    the delays of those who are well has to be under.
    """

    cycles: int
    seed: int
    well: int = 18
    hostile: int = 1
    users: int = 2
    pause_s: float = 5.0
    late_s: float = 1.0


@dataclass
class Report:
    """What a campaign did, and what it found. delay_ms: of the HTTP subscribers that are well."""

    seed: int
    cycles: int
    faults: dict[str, int] = field(default_factory=dict)
    impossible: list[str] = field(default_factory=list)
    jobs: int = 0
    events: int = 0
    deliveries: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    ended_by_clock: int = 0
    wrong_answers: int = 0
    ways: int = 0
    delay_ms: dict[str, Mapping[str, float]] = field(default_factory=dict)
    memory_mb: float = 0.0
    drained_s: float = 0.0
    auditor: str = ""
    findings: audit.Findings = field(default_factory=audit.Findings)


def run_campaign(folder: Path, plan: Plan, *, broker: RabbitMQ, database_url: str = "") -> Report:
    """Work, be broken, settle, and be audited."""
    with ExitStack() as stack:
        lines = stack.enter_context(open_lines(broker))
        witness = stack.enter_context(listening())
        crowd = stack.enter_context(
            open_crowd(folder / "crowd", well=plan.well, hostile=plan.hostile, seed=plan.seed)
        )
        clock = Clock(folder / "clock")
        stack.enter_context(clock.shown_here())
        disk = stack.enter_context(small_disk(folder / "var"))
        settings = {
            "QCS_GATEWAY_AMQP_URL": lines.url(lines.gateway),
            "QCS_GATEWAY_CONFIRM_S": str(CONFIRM_S),
            "QCS_GATEWAY_INSTANCES_PER_CORE": "6",
            "QCS_GATEWAY_PUSH_NETWORKS": f"{LOOPBACK}/32",
            "QCS_GATEWAY_PUSH_PAUSE_AFTER_S": str(PAUSE_AFTER_S),
            **({"QCS_GATEWAY_DATABASE_URL": database_url} if database_url else {}),
            **clock.settings,
        }
        gateway = Gateway(folder, settings=settings)
        stack.callback(gateway.remove)
        gateway.start()
        random = Random(plan.seed)  # noqa: S311  # repeatable on purpose
        report = Report(plan.seed, plan.cycles)
        world = World(
            broker,
            gateway,
            clock,
            lines.portal,
            lines.gateway,
            lines.reader,
            None if database_url else disk,
            random,
            report.findings.surprises.append,
        )
        campaign = Campaign(plan, world, crowd, witness, report, lines.url(lines.reader))
        campaign.run(database_url or f"sqlite:///{gateway.data / 'gateway.db'}")
    return report


class Campaign:
    """One campaign on a gateway that serves."""

    def __init__(
        self,
        plan: Plan,
        world: World,
        crowd: Crowd,
        witness: Witness,
        report: Report,
        reader_url: str,
    ) -> None:
        self.report = report
        self._plan = plan
        self._world = world
        self._gateway = world.gateway
        self._crowd = crowd
        self._witness = witness
        self._name = f"faults-{time.monotonic_ns()}"
        self._accepted = Accepted()
        self._queue_reader = PatientReader(world.gateway, READ_QUEUE)
        queue = TopicAddress(OWNER, REGION, self._name).queue(self._name)
        self._amqp_reader = AmqpReader(reader_url, queue)

    def run(self, database_url: str) -> None:
        """Have users work while things go wrong, then wait until all is told, and compare."""
        workload = self._prepare()
        users = [
            PatientUser(self._gateway, workload, seed=f"{self._plan.seed}-{number}")
            for number in range(self._plan.users)
        ]
        with working(self._queue_reader.run, self._amqp_reader.run):
            with working(*(partial(user.run, self._accepted) for user in users)):
                self._break_again_and_again()
            self._crowd.be_friendly()
            with _open_books(database_url) as books:
                self._settle(books)
        with _open_books(database_url) as books:
            self._audit(books)

    def _prepare(self) -> Workload:
        """A topic with all its subscribers, and an environment."""
        queues = {queue: ("queue", queue) for queue in (KEPT_QUEUE, READ_QUEUE)}
        crowd = {name: ("http", url) for name, url in self._crowd.endpoints.items()}
        asked, env_id = prepare(
            Sdk(self._gateway, self._gateway.root),
            self._name,
            subscribers={**queues, self._name: ("amqp", self._name), **crowd},
            nodes=NODES,
            hidden_s=HIDDEN_S,
        )
        return Workload(self._witness, asked, env_id, self._name, self._plan.pause_s)

    def _break_again_and_again(self) -> None:
        world = self._world
        disk, clock = world.disk is not None, world.clock.can_be_set
        schedule = draw_schedule(self._plan.cycles, world.random, disk=disk, clock=clock)
        if not disk:
            self.report.impossible.append("a full disk: no disk of its own could be mounted")
        if not clock:
            self.report.impossible.append("a clock that is set: Debian's faketime is not installed")
        for number, fault in enumerate(schedule, 1):
            world.pause(*WORK_S)
            click.echo(f"{number}/{len(schedule)}  {fault.value}", err=True)
            world.commit(fault)
        world.pause(*WORK_S)

    def _settle(self, books: Books) -> None:
        """Wait until nothing more happens; what is still open then is for the audit to tell."""
        began = time.monotonic()
        while time.monotonic() < began + SETTLE_S:
            if not self._waiting(books):
                break
            threading.Event().wait(0.2)
        self.report.drained_s = time.monotonic() - began
        self._world.note_memory()

    def _waiting(self, books: Books) -> bool:
        """Whether anything is still to be done or to be told."""
        if books.jobs_open() or books.messages_waiting() or books.deliveries_waiting():
            return True
        wanted = set(books.messages())
        amqp = {arrival.message_id for arrival in self._amqp_reader.seen}
        queue = {message_id for message_id, _ in self._queue_reader.seen}
        return not (wanted <= amqp and wanted <= queue)

    def _audit(self, books: Books) -> None:
        report, findings = self.report, self.report.findings
        findings.surprises += self._accepted.surprises
        audit.audit_jobs(books, self._accepted.jobs, findings)
        audit.audit_events(books, findings)
        audit.audit_messages(books, findings)
        auditor = Auditor(books, findings)
        received = dict(self._received(auditor))
        self._audit_queues(auditor)
        report.faults = {fault.value: count for fault, count in self._world.done.items()}
        report.jobs = len(self._accepted.jobs)
        report.events = len(auditor.messages)
        report.deliveries = sum(each.arrivals for each in received.values())
        report.duplicates = sum(each.duplicates for each in received.values())
        report.dead_letters = sum(each.dead for each in received.values())
        report.ended_by_clock = sum(each.ended for each in received.values())
        used = self._crowd.ways_used()
        report.wrong_answers = sum(used.values())
        report.ways = sum(count > 0 for count in used.values())
        report.memory_mb = self._world.peak_mb
        report.auditor = faults_audit.ask_auditor(self._gateway, findings)
        findings.surprises += errors_in(_without_the_expected(self._gateway.log))

    def _received(self, auditor: Auditor) -> Iterator[tuple[str, Received]]:
        """What the subscribers over HTTP and AMQP received; and how late, those who are well."""
        delays = []
        for name, arrivals in self._crowd.arrivals().items():
            yield name, auditor.audit(name, arrivals, may_bury=name not in self._crowd.well)
            if name in self._crowd.well:
                found = auditor.delays(arrivals, clock=self._world.clock, away=self._world.away)
                delays.append(found)
        yield "amqp", auditor.audit("amqp", self._amqp_reader.seen)
        joined = join(delays)
        self.report.delay_ms = {
            "undisturbed": percentiles(joined.undisturbed),
            "all": percentiles(joined.all),
        }
        if self.report.delay_ms["undisturbed"]["p99"] > self._plan.late_s * 1e3:
            self.report.findings.surprises.append(
                f"events reached those who are well late: {self.report.delay_ms}"
            )

    def _audit_queues(self, auditor: Auditor) -> None:
        """Compare what the queues held. The order is that of the one which nobody read meanwhile.

        Why: a hand-out whose answer was cut off comes back later than what follows it.
        """
        kept = PatientReader(self._gateway, KEPT_QUEUE)
        last = time.monotonic()
        while len({message_id for message_id, _ in kept.seen}) < len(auditor.messages):
            if kept.read():
                last = time.monotonic()
            elif time.monotonic() > last + 3 * HIDDEN_S:
                break
        auditor.audit("kept queue", _arrivals(kept))
        read = _arrivals(self._queue_reader)
        auditor.audit("read queue", sorted(read, key=lambda each: _place(each.message_id)))


def _place(message_id: str) -> tuple[str, int]:
    """Stream and number of a message."""
    stream, seq, _ = message_id.rsplit("-", 2)
    return stream, int(seq)


def _arrivals(reader: PatientReader) -> Arrivals:
    return [Arrival(message_id, digest_of(body), 0.0) for message_id, body in reader.seen]


@contextmanager
def _open_books(url: str) -> Iterator[Books]:
    with audit.connected(url) as connection:
        yield Books(connection)


def _without_the_expected(log: str) -> str:
    return "\n".join(line for line in log.splitlines() if not EXPECTED.search(line))


def show(report: Report) -> None:
    """Print the counts, and the first of everything that is wrong."""
    for sentence in report.impossible:
        click.echo(f"NOT DONE: {sentence}", err=True)
    click.echo(f"{report.cycles} cycles, seed {report.seed}")
    for name, count in report.faults.items():
        click.echo(f"{count:7}  {name}")
    click.echo(
        f"{report.jobs} jobs, {report.events} events, {report.deliveries} deliveries over HTTP and"
        f" AMQP, {report.duplicates} of them again, {report.dead_letters} dead letters"
        f" ({report.ended_by_clock} as the clock passed the end of their lives),"
        f" {report.wrong_answers} wrong answers in {report.ways} ways"
    )
    for name, cuts in report.delay_ms.items():
        click.echo(f"{name}: p50 {cuts['p50']:.0f} ms, p99 {cuts['p99']:.0f} ms")
    click.echo(
        f"gateway's memory at most {report.memory_mb:.0f} MB; all told {report.drained_s:.1f} s"
        f" after the last fault; auditor: {report.auditor}"
    )
    for name, found in report.findings.by_name().items():
        click.echo(f"{len(found):5}  {name.replace('_', ' ')}")
        for sentence in found[:10]:
            click.echo(f"         {sentence}")


@click.command(help=__doc__)
@click.option("--cycles", type=click.IntRange(1), default=20, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--well", type=int, default=Plan.well, show_default=True)
@click.option("--hostile", type=int, default=Plan.hostile, show_default=True)
@click.option("--pause-s", type=float, default=Plan.pause_s, show_default=True)
@click.option("--late-s", type=float, default=Plan.late_s, show_default=True)
@click.option("--postgresql", is_flag=True, help="Use PostgreSQL instead of SQLite.")
@click.option("--log", type=click.Path(path_type=Path), help="Where to keep the gateway's log.")
@click.option("--json", "as_json", is_flag=True, help="Print the report for machines.")
def main(postgresql: bool, log: Path | None, as_json: bool, **options: Any) -> None:
    plan = Plan(**options)
    with servers(postgresql=postgresql) as (broker, url), private_folder("campaign") as folder:
        try:
            report = run_campaign(folder, plan, broker=broker, database_url=url)
        finally:
            if log:
                shutil.copy(folder / "log", log)
    if as_json:
        click.echo(json.dumps(asdict(report)))
    else:
        show(report)
    if report.findings.count:
        click.echo(f"Repeat with --cycles {plan.cycles} --seed {plan.seed}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
