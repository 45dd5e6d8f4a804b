"""Crash proof: kill the gateway again and again while it works, then count what is missing.

`python -m tests.campaigns.crash --cycles 20` ends with 1 if anything is. The moments of the kills
and the jobs are drawn from the seed; what the machine makes of them is its own.
"""

import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import click

from gateway.batch.executor.processes import all_processes
from gateway.events.names import EventName
from tests.batch.executor.executors import is_gone, kill_process, processes_that_say
from tests.campaigns import audit
from tests.campaigns.load import MARK, Accepted, Reader, User, Workload, working
from tests.campaigns.witness import Witness, listening
from tests.support import amqp
from tests.support.running import REGION, Gateway, running_gateway
from tests.support.sdk import PLACEMENT, SMALL, Sdk
from tests.support.services import Postgresql, RabbitMQ, private_folder

TOPIC = "campaign"
KEPT_QUEUE, READ_QUEUE = "kept", "read"
OWNER = "100000000001"
BROKER_QUEUE = f"cmq.{OWNER}.{REGION}.{TOPIC}"
NODES = 2
SETTLE_S = 120.0
STARTS_CUT_SHORT = 0.25
CALL_CUT_SHORT = 0.5
EXECUTOR_KILLED = 0.5
START_S = 1.5
CALL_S = 0.03
WORK_S = 2.0


@dataclass(frozen=True)
class Plan:
    """What a campaign does.

    executor_too: kill the executor now and then as well; what it ran is then tried again.
    isolation: of the commands; "" for the best.
    users: how many submit at once. pause_s: how long each waits between two jobs, on average.
    """

    cycles: int
    seed: int
    executor_too: bool = False
    isolation: str = ""
    users: int = 3
    pause_s: float = 0.2


@dataclass
class Report:
    """What a campaign did, and what it found.

    struck: commands that ran at the moments of the kills. lost: attempts lost with an executor.
    """

    kills: int = 0
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
    report = Report()
    mark = f"campaign-{time.monotonic_ns()}"
    with listening() as witness, running_gateway(folder, **settings) as gateway:
        url = database_url or f"sqlite:///{gateway.data / 'gateway.db'}"
        workload = _prepare(gateway, witness, mark=mark, pause_s=plan.pause_s)
        reader = Reader(gateway, READ_QUEUE)
        accepted = Accepted()
        with working(reader.run):
            users = [User(gateway, workload, seed=f"{plan.seed}-{n}") for n in range(plan.users)]
            with working(*(partial(_submit, user, accepted) for user in users)):
                _kill_again_and_again(gateway, witness, accepted, plan=plan, report=report)
            with audit.open_books(url) as books:
                _settle(books)
        with audit.open_books(url) as books:
            _audit(books, gateway, witness, reader, accepted, broker=broker, report=report)
        gateway.stop()
        report.findings.surprises += _errors_in(gateway.log)
        report.findings.orphans += _processes_marked(mark)
    _await_no_executor(folder, report.findings)
    return report


def _submit(user: User, accepted: Accepted, stop: threading.Event) -> None:
    user.run(stop, accepted)


def _prepare(gateway: Gateway, witness: Witness, *, mark: str, pause_s: float) -> Workload:
    """A topic with three subscribers, and an environment."""
    sdk = Sdk(gateway, gateway.root)
    sdk("CreateCmqTopic", TopicName=TOPIC)
    for queue in (KEPT_QUEUE, READ_QUEUE):
        sdk("CreateCmqQueue", QueueName=queue, VisibilityTimeout=5)
        _subscribe(sdk, "queue", endpoint=queue)
    _subscribe(sdk, "amqp", endpoint=TOPIC)
    configs = [{"EventName": name.value} for name in EventName]
    notifications = [{"TopicName": TOPIC, "EventConfigs": configs}]
    env = {
        "EnvName": TOPIC,
        "DesiredComputeNodeCount": NODES,
        "Notifications": notifications,
        **SMALL,
    }
    env_id = sdk("CreateComputeEnv", ComputeEnv=env, Placement=PLACEMENT)["EnvId"]
    return Workload(witness, notifications, env_id, mark, pause_s)


def _subscribe(sdk: Sdk, protocol: str, *, endpoint: str) -> None:
    sdk(
        "CreateCmqSubscribe",
        TopicName=TOPIC,
        SubscriptionName=endpoint,
        Protocol=protocol,
        Endpoint=endpoint,
        NotifyContentFormat="SIMPLIFIED",
    )


def _kill_again_and_again(
    gateway: Gateway, witness: Witness, accepted: Accepted, *, plan: Plan, report: Report
) -> None:
    """Kill at random moments: of the work, of a call, and now and then of the start itself."""
    random = Random(plan.seed)  # noqa: S311  # repeatable on purpose
    moment = threading.Event()
    for cycle in range(plan.cycles):
        moment.wait(random.uniform(0, WORK_S))
        if plan.executor_too and random.random() < EXECUTOR_KILLED:
            _kill_executor(gateway)
            moment.wait(random.uniform(0, 0.2))
        if random.random() < CALL_CUT_SHORT:
            accepted.asking.clear()
            accepted.asking.wait(START_S)
            moment.wait(random.uniform(0, CALL_S))
        report.struck += len(witness.living())
        _kill(gateway, report)
        while random.random() < STARTS_CUT_SHORT:
            gateway.start(wait=False)
            moment.wait(random.uniform(0, START_S))
            _kill(gateway, report)
        gateway.start()
        click.echo(f"cycle {cycle + 1}: {report.kills} kills", err=True)


def _kill(gateway: Gateway, report: Report) -> None:
    """Kill the gateway, which must have lived until then."""
    if is_gone(gateway.pid):
        report.findings.surprises.append("the gateway ended by itself")
    gateway.kill()
    report.kills += 1


def _kill_executor(gateway: Gateway) -> None:
    root = gateway.data.absolute() / "engine"
    for pid in processes_that_say(f"--detach --root {root}"):
        kill_process(pid)


def _settle(books: audit.Books) -> None:
    """Wait until nothing more happens; what is still open then is for the audit to tell."""
    give_up_at = time.monotonic() + SETTLE_S
    moment = threading.Event()
    while books.jobs_open() or books.messages_waiting():
        if time.monotonic() > give_up_at:
            return
        moment.wait(0.2)


def _audit(
    books: audit.Books,
    gateway: Gateway,
    witness: Witness,
    reader: Reader,
    accepted: Accepted,
    *,
    broker: RabbitMQ,
    report: Report,
) -> None:
    findings = report.findings
    findings.surprises += accepted.surprises
    audit.audit_jobs(books, accepted.jobs, findings)
    audit.audit_runs(books, witness.runs, terminated=accepted.terminated, findings=findings)
    audit.audit_events(books, findings)
    audit.audit_messages(books, findings)
    wanted = set(books.messages())
    kept = Reader(gateway, KEPT_QUEUE)
    for each in (kept, reader):
        _read_until(each, wanted)
    from_broker = _read_broker(broker, wanted)
    audit.audit_arrivals(books, "rabbitmq", from_broker, in_order=True, findings=findings)
    audit.audit_arrivals(books, "queue", kept.seen, in_order=True, findings=findings)
    # Why no order: a hand-out whose answer was cut off comes back later than what follows it.
    audit.audit_arrivals(books, "reader", reader.seen, in_order=False, findings=findings)
    report.jobs = len(accepted.jobs)
    report.runs = sum(len(runs) for runs in witness.runs.values())
    report.lost = sum(row.losses for row in books.instances())
    report.events = sum(len(rows) for rows in books.events().values())
    report.duplicates = len(from_broker) - len({message_id for message_id, _ in from_broker})


def _read_until(reader: Reader, wanted: set[str]) -> None:
    """Read until every message was seen, or none comes for longer than any is hidden."""
    last = time.monotonic()
    while not wanted <= {message_id for message_id, _ in reader.seen}:
        if reader.read():
            last = time.monotonic()
        elif time.monotonic() > last + 15:
            return


def _read_broker(broker: RabbitMQ, wanted: set[str]) -> audit.Arrivals:
    """All that the broker's queue holds."""
    left = set(wanted)
    found: list[tuple[str, bytes]] = []
    with amqp.open_channel(broker.url) as channel:
        for method, properties, body in channel.consume(BROKER_QUEUE, inactivity_timeout=5):
            if method is None:
                break
            found.append((str(properties.message_id), body))
            channel.basic_ack(method.delivery_tag)
            left.discard(found[-1][0])
            if not left and not channel.get_waiting_message_count():
                break
    return found


def _errors_in(log: str) -> list[str]:
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
    moment = threading.Event()
    while left := processes_that_say(str(folder)):
        if time.monotonic() > give_up_at:
            findings.orphans += [f"process {pid} of the executor" for pid in left]
            return
        moment.wait(0.05)


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
        f"{report.kills} kills while {report.struck} commands ran, {report.jobs} jobs accepted, "
        f"{report.runs} commands run, {report.lost} of them lost with an executor, "
        f"{report.events} events, {report.duplicates} duplicates on the broker"
    )
    for name, found in report.findings.by_name().items():
        click.echo(f"{len(found):5}  {name.replace('_', ' ')}")
        for sentence in found[:10]:
            click.echo(f"         {sentence}")


@click.command(help=__doc__)
@click.option("--cycles", type=click.IntRange(1), default=20, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--postgresql", is_flag=True, help="Use PostgreSQL instead of SQLite.")
@click.option("--executor-too", is_flag=True, help="Kill the executor now and then as well.")
@click.option("--isolation", type=click.Choice(["sandbox", "uid", "none"]), default=None)
@click.option("--log", type=click.Path(path_type=Path), help="Where to keep the gateway's log.")
def main(cycles: int, seed: int, postgresql: bool, log: Path | None, **options: Any) -> None:
    plan = Plan(cycles, seed, **{name: value for name, value in options.items() if value})
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
