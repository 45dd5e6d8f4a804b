"""A broker that is away: calls go on, what it is to get waits on disk and not in memory."""

from pathlib import Path

from gateway.events.names import BATCH_EVENTS
from tests.support.amqp import read
from tests.support.inbox import event_in
from tests.support.running import Gateway, running_gateway, wait_until
from tests.support.sdk import Sdk, task
from tests.support.services import RabbitMQ

TOPIC = "backlog"
QUEUE = f"cmq.100000000001.ap-guangzhou.{TOPIC}"
JOBS = 5
LARGE = 160
BODY_BYTES = 60_000
GROWTH_BYTES_MAX = LARGE * BODY_BYTES * 2 // 3
NO_LINE = "degraded: no line to the broker: messages wait"
ALL_EVENTS = [
    {"TopicName": TOPIC, "EventConfigs": [{"EventName": name.value} for name in BATCH_EVENTS]}
]


def metric(gateway: Gateway, name: str) -> float:
    """The value of one of the gateway's metrics."""
    lines = gateway.management("/metrics")[1].splitlines()
    (line,) = (line for line in lines if line.startswith(f"qcs_gateway_{name} "))
    return float(line.split()[1])


def resident_bytes(gateway: Gateway) -> int:
    """What the process has in memory, files that are only mapped left out."""
    status = Path(f"/proc/{gateway.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1_024


def publish(sdk: Sdk, number: int) -> None:
    sdk("PublishCmqMsg", TopicName=TOPIC, MsgContent=f"{number} ".ljust(BODY_BYTES, "x"))


def test_a_backlog_waits_on_disk_and_is_told_in_order_when_the_broker_is_back(
    tmp_path: Path, rabbitmq: RabbitMQ
) -> None:
    with running_gateway(tmp_path, QCS_GATEWAY_AMQP_URL=rabbitmq.url) as gateway:
        sdk = Sdk(gateway, gateway.root)
        sdk("CreateCmqTopic", TopicName=TOPIC, MaxMsgSize=65_536)
        sdk(
            "CreateCmqSubscribe",
            TopicName=TOPIC,
            SubscriptionName=TOPIC,
            Protocol="amqp",
            Endpoint=TOPIC,
            NotifyContentFormat="SIMPLIFIED",
        )
        wait_until(lambda: metric(gateway, "broker_connected") == 1)
        assert gateway.management("/readyz") == (200, "ok\n")
        rabbitmq.stop()
        wait_until(lambda: NO_LINE in gateway.management("/readyz")[1])
        assert gateway.management("/readyz")[0] == 200
        assert metric(gateway, "broker_connected") == 0
        for number in range(40):
            publish(sdk, number)
        before = resident_bytes(gateway)
        for number in range(40, LARGE):
            publish(sdk, number)
        jobs = [sdk.submit(task("one", "true"), Notifications=ALL_EVENTS) for _ in range(JOBS)]
        assert {sdk.wait(job_id)["JobState"] for job_id in jobs} == {"SUCCEED"}
        grown = resident_bytes(gateway) - before
        assert grown < GROWTH_BYTES_MAX, f"{grown} bytes for {LARGE * BODY_BYTES} that wait"
        wait_until(lambda: metric(gateway, "messages_waiting") > LARGE)
        assert metric(gateway, "oldest_message_seconds") > 0

        rabbitmq.start()
        total = LARGE + 9 * JOBS
        found = read(rabbitmq.url, QUEUE, until=lambda found: len({x.id for x in found}) == total)
        wait_until(lambda: metric(gateway, "messages_waiting") == 0)
        wait_until(lambda: gateway.management("/readyz") == (200, "ok\n"))
        first = list({each.id: each for each in found}.values())
        sizes = [each for each in first if len(each.body) == BODY_BYTES]
        assert [int(each.body.split()[0]) for each in sizes] == list(range(LARGE))
        told = [event_in(each.body) for each in first if len(each.body) != BODY_BYTES]
        for job_id in jobs:
            seqs = [
                each.properties.headers["seq"] for each in first if each.id.startswith(f"{job_id}-")
            ]
            assert seqs == list(range(1, 10))
        assert len(told) == 9 * JOBS
        assert gateway.command("events", "audit", check=False).returncode == 0
