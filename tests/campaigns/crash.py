"""Crash proof: kill the gateway again and again while it works, then count what is missing.

`python -m tests.campaigns.crash --cycles 20` ends with 1 if anything is. The moments of the kills
and the jobs are drawn from the seed; what the machine makes of them is its own.
"""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import click

from gateway.batch.executor.processes import all_processes
from gateway.events.bus import TopicAddress
from tests.batch.executor.executors import is_gone, kill_process, processes_that_say
from tests.campaigns import audit, crash_points
from tests.campaigns.load import MARK, Accepted, Reader, User, Workload, prepare, working
from tests.campaigns.witness import Witness, listening
from tests.support import amqp
from tests.support.running import REGION, ROOT, Gateway, running_gateway
from tests.support.sdk import Sdk
from tests.support.services import Postgresql, RabbitMQ, private_folder

KEPT_QUEUE, READ_QUEUE = "kept", "read"
OWNER = "100000000001"
NODES = 2
SETTLE_S = 120.0
HIDDEN_S = 5
START_CUT_SHORT = 0.25
CALL_CUT_SHORT = 0.5
EXECUTOR_KILLED = 0.5
START_S = 1.5
CALL_S = 0.03
EXECUTOR_GONE_S = 0.2
WORK_S = 2.0
REACHED_S = 30.0
PASSES_MAX = 6
OFTEN_PASSES_MAX = 60


@dataclass(frozen=True)
class Plan:
    """What a campaign does.

    executor_too: kill the executor now and then as well; what it ran is then tried again.
    isolation: of the commands; "" for the best.
    users: how many submit at once. pause_s: how long each waits between two jobs, on average.
    points: crash points, see `crash_points.py`; at each a process dies once, after the cycles.
    """

    cycles: int
    seed: int
    executor_too: bool = False
    isolation: str = ""
    users: int = 3
    pause_s: float = 0.2
    points: tuple[str, ...] = ()


@dataclass
class Report:
    """What a campaign did, and what it found.

    kills: of the gateway. executor_kills: of executors. struck: commands that ran when the gateway
    was killed. lost: attempts lost with an executor.
    """

    kills: int = 0
    executor_kills: int = 0
    struck: int = 0
    lost: int = 0
    jobs: int = 0
    runs: int = 0
    events: int = 0
    duplicates: int = 0
    findings: audit.Findings = field(default_factory=audit.Findings)


def run_campaign(folder: Path, plan: Plan, *, broker: RabbitMQ, database_url: str = "") -> Report:
    """Work, be killed, settle, and be audited."""
    settings = {
        "QCS_GATEWAY_AMQP_URL": broker.url,
        "QCS_GATEWAY_INSTANCES_PER_CORE": "6",
        "QCS_GATEWAY_ISOLATION": plan.isolation,
    }
    if database_url:
        settings["QCS_GATEWAY_DATABASE_URL"] = database_url
    with listening() as witness, running_gateway(folder, **settings) as gateway:
        url = database_url or f"sqlite:///{gateway.data / 'gateway.db'}"
        campaign = Campaign(plan, gateway, witness, broker)
        campaign.work_and_kill(url)
        with audit.open_books(url) as books:
            campaign.audit_rows(books)
            campaign.audit_subscribers(books)
        gateway.stop()
        campaign.audit_machine()
    _await_no_executor(folder, campaign.report.findings)
    return campaign.report


class Campaign:
    """One campaign on a gateway that serves.

    name: of its topic, and what marks its processes; a broker may see several campaigns.
    """

    def __init__(self, plan: Plan, gateway: Gateway, witness: Witness, broker: RabbitMQ) -> None:
        self.report = Report()
        self._plan = plan
        self._gateway = gateway
        self._witness = witness
        self._broker = broker
        self._name = f"campaign-{time.monotonic_ns()}"
        self._random = Random(plan.seed)  # noqa: S311  # repeatable on purpose
        self._accepted = Accepted()
        self._reader = Reader(gateway, READ_QUEUE)

    def work_and_kill(self, database_url: str) -> None:
        """Have users work while the gateway is killed, then wait until all is done."""
        workload = self._prepare()
        users = [
            User(self._gateway, workload, seed=f"{self._plan.seed}-{number}")
            for number in range(self._plan.users)
        ]
        with working(self._reader.run):
            with working(*(partial(user.run, self._accepted) for user in users)):
                self._kill_again_and_again()
                self._die_at_every_point()
            with audit.open_books(database_url) as books:
                _settle(books)

    def _prepare(self) -> Workload:
        """A topic with three subscribers, and an environment."""
        queues = {queue: ("queue", queue) for queue in (KEPT_QUEUE, READ_QUEUE)}
        asked, env_id = prepare(
            Sdk(self._gateway, self._gateway.root),
            self._name,
            subscribers={**queues, self._name: ("amqp", self._name)},
            nodes=NODES,
            hidden_s=HIDDEN_S,
        )
        return Workload(self._witness, asked, env_id, self._name, self._plan.pause_s)

    def _kill_again_and_again(self) -> None:
        """Kill at random moments: of the work, of a call, and now and then of the start itself."""
        for cycle in range(self._plan.cycles):
            self._pause(WORK_S)
            if self._plan.executor_too and self._happens(EXECUTOR_KILLED):
                self._kill_executor()
            if self._happens(CALL_CUT_SHORT):
                self._accepted.asking.clear()
                self._accepted.asking.wait(START_S)
                self._pause(CALL_S)
            self.report.struck += len(self._witness.living())
            self._kill()
            while self._happens(START_CUT_SHORT):
                self._gateway.start(wait=False)
                self._pause(START_S)
                self._kill()
            self._gateway.start()
            click.echo(f"cycle {cycle + 1}: {self.report.kills} kills", err=True)

    def _die_at_every_point(self) -> None:
        """Have a process kill itself at each of the points, and another one go on."""
        for point in self._plan.points:
            place = crash_points.place_of(point)
            times = self._random.randint(1, OFTEN_PASSES_MAX if place.often else PASSES_MAX)
            self._pause(WORK_S)
            self._kill()
            if place.program == "executor":
                pids = self._start_executor_that_dies(point, times=times)
                self._gateway.start()
                self._await_death(point, partial(_are_gone, pids))
                self.report.executor_kills += 1
            else:
                command = crash_points.command(point, times=times, arguments=["serve"])
                self._gateway.start(wait=False, command=command)
                self._await_death(point, lambda: self._gateway.ended)
                self.report.kills += 1
                self._gateway.kill()
                self._gateway.start()
            click.echo(f"{point}, pass {times}", err=True)

    def _start_executor_that_dies(self, point: str, *, times: int) -> list[int]:
        """Start an executor in the place of the one there is; returns the pids of its processes.

        There are none if it has died already, while it took in what the one before had left.
        """
        self._kill_executor()
        self._await_death(point, self._kill_all_executors)  # they hold its folder until then
        root = self._executor_root
        arguments = ["--detach", "--root", root, "--isolation", self._plan.isolation]
        command = crash_points.command(point, times=times, arguments=arguments)
        done = subprocess.run(
            command,
            check=False,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=START_S * 20,
        )
        assert not done.returncode or b"it ended" in done.stderr, done.stderr
        return processes_that_say(f"{point} {times} executor --detach --root {root}")

    def _await_death(self, point: str, has_died: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + REACHED_S
        while not has_died():
            if time.monotonic() > give_up_at:
                self.report.findings.surprises.append(f"nothing came to the point: {point}")
                return
            threading.Event().wait(0.02)

    def _pause(self, at_most_s: float) -> None:
        threading.Event().wait(self._random.uniform(0, at_most_s))

    def _happens(self, chance: float) -> bool:
        return self._random.random() < chance

    def _kill(self) -> None:
        """Kill the gateway, which must have lived until then."""
        if is_gone(self._gateway.pid):
            self.report.findings.surprises.append("the gateway ended by itself")
        self._gateway.kill()
        self.report.kills += 1

    def _kill_executor(self) -> None:
        """Kill one of its processes, and so all: itself, or one that spawns for it."""
        if pids := self._executors():
            kill_process(self._random.choice(sorted(pids)))
            self.report.executor_kills += 1
        self._pause(EXECUTOR_GONE_S)

    @property
    def _executor_root(self) -> str:
        return str(self._gateway.data.absolute() / "engine")

    def _executors(self) -> list[int]:
        return processes_that_say(f"--detach --root {self._executor_root}")

    def _kill_all_executors(self) -> bool:
        """Kill what there is; True if there was nothing: a gateway may have died starting one."""
        pids = self._executors()
        for pid in pids:
            kill_process(pid)
        return not pids

    def audit_rows(self, books: audit.Books) -> None:
        """Hold what the users and the witness know against what the gateway has written."""
        accepted, runs, findings = self._accepted, self._witness.runs, self.report.findings
        findings.surprises += accepted.surprises
        audit.audit_jobs(books, accepted.jobs, findings)
        audit.audit_runs(books, runs, terminated=accepted.terminated, findings=findings)
        audit.audit_events(books, findings)
        if not self.report.executor_kills:
            audit.audit_losses(books, findings)
        audit.audit_messages(books, findings)
        findings.events_wrong += _discrepancies(self._gateway)
        self.report.jobs = len(accepted.jobs)
        self.report.runs = sum(len(each) for each in runs.values())
        self.report.lost = sum(row.losses for row in books.instances())
        self.report.events = sum(len(rows) for rows in books.events().values())

    def audit_subscribers(self, books: audit.Books) -> None:
        """Hold what the three subscribers received against what was to be sent."""
        wanted = set(books.messages())
        kept = Reader(self._gateway, KEPT_QUEUE)
        for reader in (kept, self._reader):
            _read_until(reader, wanted)
        queue = TopicAddress(OWNER, REGION, self._name).queue(self._name)
        from_broker = _read_broker(self._broker, queue, wanted)
        audit_one = partial(audit.audit_arrivals, books, findings=self.report.findings)
        audit_one("rabbitmq", from_broker, in_order=True)
        audit_one("queue", kept.seen, in_order=True)
        # Why no order: a hand-out whose answer was cut off comes back later than what follows it.
        audit_one("reader", self._reader.seen, in_order=False)
        self.report.duplicates = len(from_broker) - len(dict(from_broker))

    def audit_machine(self) -> None:
        """Look at what a gateway that has stopped left behind."""
        self.report.findings.surprises += errors_in(self._gateway.log)
        self.report.findings.orphans += _processes_marked(self._name)


def _are_gone(pids: list[int]) -> bool:
    return all(map(is_gone, pids))


def _discrepancies(gateway: Gateway) -> list[str]:
    """What the gateway's own audit finds, a line each; the last one says how much it compared."""
    return gateway.verb("events", "audit").stdout.splitlines()[:-1]


def _settle(books: audit.Books) -> None:
    """Wait until all is over, or nothing more happens: the audit tells what is open then."""
    last, give_up_at = None, time.monotonic() + SETTLE_S
    while any(left := (books.jobs_open(), books.nodes_astir(), books.messages_waiting())):
        if left != last:
            last, give_up_at = left, time.monotonic() + SETTLE_S
        elif time.monotonic() > give_up_at:
            return
        threading.Event().wait(0.2)


def _read_until(reader: Reader, wanted: set[str]) -> None:
    """Read until every message was seen, or none comes for longer than any is hidden."""
    last, looked_at, missing = time.monotonic(), 0, set(wanted)
    while missing := missing.difference(id_ for id_, _ in reader.seen[looked_at:]):
        looked_at = len(reader.seen)
        if reader.read():
            last = time.monotonic()
        elif time.monotonic() > last + 3 * HIDDEN_S:
            return


def _read_broker(broker: RabbitMQ, queue: str, wanted: set[str]) -> audit.Arrivals:
    """All that a queue on the broker holds."""
    left = set(wanted)
    found: list[tuple[str, bytes]] = []
    with amqp.open_channel(broker.url) as channel:
        for method, properties, body in channel.consume(queue, inactivity_timeout=5):
            if method is None:
                break
            found.append((str(properties.message_id), body))
            channel.basic_ack(method.delivery_tag)
            left.discard(found[-1][0])
            if not left and not channel.get_waiting_message_count():
                break
    return found


def errors_in(log: str) -> list[str]:
    """The lines of a log that ask for a person, and those that are no log lines at all."""
    errors = []
    for line in log.splitlines():
        try:
            is_error = json.loads(line)["level"] in {"error", "critical"}
        except ValueError:
            is_error = True
        if is_error:
            errors.append(line[:300])
    return errors


def _processes_marked(mark: str) -> list[str]:
    """The living processes that have the mark of the campaign in their environment."""
    found = []
    for process in all_processes():
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has gone meanwhile
        if f"{MARK}={mark}".encode() in environment:
            found.append(f"process {process.pid} of a command")
    return found


def _await_no_executor(folder: Path, findings: audit.Findings) -> None:
    """The executor must go with its data folder, and nothing of it may stay."""
    give_up_at = time.monotonic() + 10
    while left := processes_that_say(str(folder)):
        if time.monotonic() > give_up_at:
            findings.orphans += [f"process {pid} of the executor" for pid in left]
            return
        threading.Event().wait(0.05)


@contextmanager
def servers(*, postgresql: bool) -> Iterator[tuple[RabbitMQ, str]]:
    """A broker, and the URL of a PostgreSQL database, or "" for the embedded one."""
    with ExitStack() as stack:
        folder = stack.enter_context(private_folder("rabbitmq"))
        broker = stack.enter_context(closing(RabbitMQ(folder)))
        broker.start()
        url = ""
        if postgresql:
            folder = stack.enter_context(private_folder("postgresql"))
            cluster = stack.enter_context(closing(Postgresql(folder)))
            cluster.start()
            cluster.execute("CREATE DATABASE campaign TEMPLATE template0")
            url = cluster.url_of("campaign")
        yield broker, url


def show(report: Report) -> None:
    """Print the counts, and the first of everything that is wrong."""
    click.echo(
        f"{report.kills} kills of the gateway while {report.struck} commands ran, "
        f"{report.executor_kills} of executors, {report.jobs} jobs accepted, "
        f"{report.runs} commands run, {report.lost} of them lost with an executor, "
        f"{report.events} events, {report.duplicates} duplicates on the broker"
    )
    for name, found in report.findings.by_name().items():
        click.echo(f"{len(found):5}  {name.replace('_', ' ')}")
        for sentence in found[:10]:
            click.echo(f"         {sentence}")


@click.command(help=__doc__)
@click.option("--cycles", type=click.IntRange(0), default=20, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--postgresql", is_flag=True, help="Use PostgreSQL instead of SQLite.")
@click.option("--points", is_flag=True, help="Then have a process die at each crash point.")
@click.option("--executor-too", is_flag=True, help="Kill the executor now and then as well.")
@click.option("--isolation", type=click.Choice(["sandbox", "uid", "none"]), default=None)
@click.option("--log", type=click.Path(path_type=Path), help="Where to keep the gateway's log.")
def main(
    cycles: int, seed: int, postgresql: bool, points: bool, log: Path | None, **options: Any
) -> None:
    chosen = crash_points.points_of(postgresql=postgresql) if points else ()
    options = {name: value for name, value in options.items() if value}
    plan = Plan(cycles, seed, points=chosen, **options)
    with servers(postgresql=postgresql) as (broker, url), private_folder("campaign") as folder:
        try:
            report = run_campaign(folder, plan, broker=broker, database_url=url)
        finally:
            if log:
                shutil.copy(folder / "log", log)
    show(report)
    sys.exit(1 if report.findings.count else 0)


if __name__ == "__main__":
    main()
