"""A database that goes away at work: calls are refused as long as it is, and none is half done."""

import json
from pathlib import Path

from gateway.events.names import BATCH_EVENTS
from tests.support.running import Refused, running_gateway, wait_until
from tests.support.sdk import Sdk, task
from tests.support.services import Postgresql

TOPIC = "away"
ALL_EVENTS = [
    {"TopicName": TOPIC, "EventConfigs": [{"EventName": name.value} for name in BATCH_EVENTS]}
]


def refusal(sdk: Sdk) -> str:
    """The code with which a job is refused; "" if it is taken."""
    try:
        sdk.submit(task("one", "true"))
    except Refused as refused:
        return refused.code
    return ""


def test_without_its_database_it_refuses_calls_says_why_and_goes_on_by_itself(
    tmp_path: Path, postgresql: Postgresql, postgresql_url: str
) -> None:
    with running_gateway(tmp_path, QCS_GATEWAY_DATABASE_URL=postgresql_url) as gateway:
        sdk = Sdk(gateway, gateway.root)
        sdk("CreateCmqTopic", TopicName=TOPIC)
        before = sdk.submit(task("one", "sleep 1"), Notifications=ALL_EVENTS)
        sdk.wait(before, states=["RUNNING"])
        postgresql.stop()
        assert refusal(sdk) == "ServiceUnavailable"
        status, text = gateway.management("/readyz")
        assert status == 503
        assert text.startswith("the database does not answer: ")
        assert gateway.management("/livez")[0] == 200
        postgresql.start()
        wait_until(lambda: gateway.management("/readyz")[0] == 200)
        wait_until(lambda: not refusal(sdk))
        assert sdk.wait(before)["JobState"] == "SUCCEED"
        after = sdk.submit(task("one", "true"), Notifications=ALL_EVENTS)
        assert sdk.wait(after)["JobState"] == "SUCCEED"
        wait_until(lambda: sdk("DescribeJobs")["TotalCount"] == 3)
        done = gateway.command("events", "audit", "--json", check=False)
        assert json.loads(done.stdout)["Discrepancies"] == []
