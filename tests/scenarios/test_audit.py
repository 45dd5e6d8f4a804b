"""`qcs-gateway events audit` beside a server, and the auditor inside of it."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.events.names import BATCH_EVENTS
from tests.support.running import Gateway, running_gateway, wait_until
from tests.support.sdk import Sdk, task

TOPIC = "audited"
ALL_EVENTS = [
    {"TopicName": TOPIC, "EventConfigs": [{"EventName": name.value} for name in BATCH_EVENTS]}
]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose rows these tests change behind its back."""
    with running_gateway(tmp_path_factory.mktemp("audited")) as gateway:
        Sdk(gateway, gateway.root)("CreateCmqTopic", TopicName=TOPIC)
        yield gateway


@pytest.fixture
def job(own: Gateway) -> str:
    """A job that ran, and was told."""
    sdk = Sdk(own, own.root)
    job_id = sdk.submit(task("one", "true", TaskInstanceNum=2), Notifications=ALL_EVENTS)
    assert sdk.wait(job_id)["JobState"] == "SUCCEED"
    return job_id


def change(gateway: Gateway, statement: str, *values: str) -> None:
    """Change a row as somebody with a shell might."""
    path: Path = gateway.data / "gateway.db"
    with closing(sqlite3.connect(path, timeout=30)) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


def test_the_audit_of_a_server_that_works_compares_everything_and_finds_nothing(
    own: Gateway, job: str
) -> None:
    done = own.command("events", "audit")
    assert done.stdout.endswith("messages compared: 0 discrepancies\n")
    one = json.loads(own.verb("events", "audit", "--job", job, "--json").stdout)
    compared = {"Streams": 1, "Events": 14, "Messages": 14}
    assert one == {**compared, "DiscrepancyCount": 0, "Discrepancies": []}


def test_a_lost_message_is_named_by_the_verb_by_the_log_and_by_the_metric(
    own: Gateway, job: str
) -> None:
    change(own, "DELETE FROM event_message WHERE id = ?", f"{job}-14-0")
    done = own.verb("events", "audit", "--job", job)
    assert done.returncode == 1
    assert f"{job}  message-missing  message {job}-14-0 is gone\n" in done.stdout
    assert done.stdout.endswith("13 messages compared: 1 discrepancy\n")
    metric = "qcs_gateway_ledger_discrepancies 1.0"
    wait_until(lambda: metric in own.management("/metrics")[1], what=lambda: own.log[-2000:])
    lines = [json.loads(line) for line in own.log.splitlines()]
    [line] = [each for each in lines if each["event"] == "ledger_discrepancies"]
    assert (line["level"], line["stream_id"]) == ("error", job)
    status, text = own.management("/readyz")
    assert (status, "1 discrepancies between ledger and states" in text) == (200, True)
    change(own, "DELETE FROM batch_job WHERE id = ?", job)
    wait_until(lambda: metric not in own.management("/metrics")[1])


def test_text_that_is_stored_does_not_reach_the_terminal_as_it_is(own: Gateway, job: str) -> None:
    change(own, "UPDATE batch_task SET name = char(27) || '[2J' WHERE job_id = ?", job)
    done = own.verb("events", "audit", "--job", job)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert r"\x1b[2J" in done.stdout


def test_a_job_that_never_was_is_no_clean_audit(own: Gateway) -> None:
    done = own.verb("events", "audit", "--job", "job-00000000")
    assert done.returncode == 1
    assert "no job or environment `job-00000000`" in done.stderr
