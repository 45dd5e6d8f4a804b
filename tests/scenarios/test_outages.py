"""What goes on when a part is away: the broker, the gateway, the executor, the data folder."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.batch.attempts import Attempt
from gateway.batch.executor.processes import find_process
from gateway.events.names import BATCH_EVENTS
from tests.batch.executor.executors import kill_process, processes_that_say, sleeper
from tests.support.amqp import read
from tests.support.classic import ClassicClient
from tests.support.inbox import event_in, names_in
from tests.support.running import Gateway, running_gateway, wait_until
from tests.support.sdk import Sdk, task
from tests.support.services import RabbitMQ

TOPIC = "outages"
BROKER_QUEUE = f"cmq.100000000001.ap-guangzhou.{TOPIC}"
UNTIL_TOLD = "echo ran; until test -e go; do sleep 0.02; done"
ONE_RUN = [
    "COMPUTE_NODE_CREATED",
    "COMPUTE_NODE_RUNNING",
    "JOB_RUNNING",
    "TASK_RUNNING",
    "TASK_INSTANCE_RUNNING",
    "TASK_INSTANCE_SUCCEED",
    "COMPUTE_NODE_DELETING",
    "TASK_SUCCEED",
    "JOB_SUCCEED",
]
ALL_EVENTS = [
    {"TopicName": TOPIC, "EventConfigs": [{"EventName": name.value} for name in BATCH_EVENTS]}
]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway that a test may end, without a broker."""
    with running_gateway(tmp_path) as gateway:
        subscribe(Sdk(gateway, gateway.root), "queue")
        yield gateway


def subscribe(sdk: Sdk, protocol: str) -> None:
    """Make the topic, and a subscription to it."""
    sdk("CreateCmqTopic", TopicName=TOPIC)
    if protocol == "queue":
        sdk("CreateCmqQueue", QueueName=TOPIC)
    sdk(
        "CreateCmqSubscribe",
        TopicName=TOPIC,
        SubscriptionName=protocol,
        Protocol=protocol,
        Endpoint=TOPIC,
        NotifyContentFormat="SIMPLIFIED",
    )


def engine_folder(gateway: Gateway) -> Path:
    return gateway.data.absolute() / "engine"


def log_of(gateway: Gateway, job_id: str, *, attempt: int) -> Path:
    """What an attempt at the only instance of a job writes to its standard output."""
    return engine_folder(gateway) / "attempts" / Attempt(job_id, 0, 0, attempt).folder / "stdout"


def wait_for_run(gateway: Gateway, job_id: str, *, attempt: int = 1) -> None:
    """Wait until an attempt has begun."""

    def has_begun() -> bool:
        log = log_of(gateway, job_id, attempt=attempt)
        return log.exists() and log.read_text() == "ran\n"

    wait_until(has_begun, what=lambda: gateway.log[-4000:])


def let_go(gateway: Gateway, job_id: str, *, attempt: int = 1) -> None:
    """Tell a command that it may end."""
    (log_of(gateway, job_id, attempt=attempt).parent / "work" / "go").touch()


def executor_pid(gateway: Gateway) -> int:
    """The one executor: its spawn servers are its children, the keeper was given other words."""
    found = processes_that_say(f"--detach --root {engine_folder(gateway)}")
    [pid] = [each for each in found if parent_of(each) not in found]
    return pid


def parent_of(pid: int) -> int:
    process = find_process(pid)
    return process.parent if process else 0


def test_events_wait_for_a_broker_that_was_absent_at_the_start(
    tmp_path: Path, rabbitmq: RabbitMQ
) -> None:
    rabbitmq.stop()
    with running_gateway(tmp_path, QCS_GATEWAY_AMQP_URL=rabbitmq.url) as gateway:
        sdk = Sdk(gateway, gateway.root)
        subscribe(sdk, "amqp")
        job_id = sdk.submit(task("one", "true"), Notifications=ALL_EVENTS)
        assert sdk.wait(job_id)["JobState"] == "SUCCEED"
        rabbitmq.start()
        messages = read(rabbitmq.url, BROKER_QUEUE, until=lambda found: len(found) >= len(ONE_RUN))
    assert names_in([each.body for each in messages]) == ONE_RUN


def test_a_job_goes_on_while_the_gateway_is_stopped_and_is_told_afterwards(own: Gateway) -> None:
    sdk = Sdk(own, own.root)
    job_id = sdk.submit(task("one", UNTIL_TOLD), Notifications=ALL_EVENTS)
    sdk.wait(job_id, states=["RUNNING"])
    wait_for_run(own, job_id)
    own.stop()
    let_go(own, job_id)
    own.start()
    assert sdk.wait(job_id)["JobState"] == "SUCCEED"
    assert sdk.logs(job_id, "one") == [("ran\n", "")]
    bodies = ClassicClient(own, own.root).drain(TOPIC, count=len(ONE_RUN))
    assert names_in(bodies) == ONE_RUN


def test_a_command_that_its_executor_took_along_is_tried_again_as_no_failure_of_its_own(
    own: Gateway,
) -> None:
    sdk = Sdk(own, own.root)
    command = sleeper()
    job_id = sdk.submit(
        task("one", f"echo ran; test -e go || ({command} & {command}); true"),
        Notifications=ALL_EVENTS,
    )
    wait_for_run(own, job_id)
    wait_until(lambda: len(processes_that_say(command)) >= 2)
    kill_process(executor_pid(own))
    wait_for_run(own, job_id, attempt=2)
    first_is_over = events_until(own, "COMPUTE_NODE_DELETING")
    assert first_is_over[-2:] == ["COMPUTE_NODE_ABNORMAL", "COMPUTE_NODE_DELETING"]
    kill_process(executor_pid(own))
    wait_for_run(own, job_id, attempt=3)
    sdk("TerminateJob", JobId=job_id)
    assert sdk.wait(job_id)["StateReason"] == "It was terminated on request."
    wait_until(lambda: processes_that_say(command) == [])


def events_until(gateway: Gateway, name: str) -> list[str]:
    """The names of the events that a subscriber gets, up to this one."""
    classic = ClassicClient(gateway, gateway.root)
    names: list[str] = []
    while name not in names:
        names += [event_in(body)["EventName"] for body in classic.drain(TOPIC, count=1)]
    return names


def test_an_executor_goes_with_its_data_folder_and_takes_its_commands_along(own: Gateway) -> None:
    sdk = Sdk(own, own.root)
    command = sleeper()
    sdk.submit(task("one", command))
    wait_until(lambda: processes_that_say(command))
    own.kill()
    shutil.rmtree(own.data)
    wait_until(lambda: processes_that_say(command) == [], at_most_s=10)
    wait_until(lambda: processes_that_say(str(engine_folder(own))) == [], at_most_s=10)
