"""`qcs-gateway events …`, beside a server that makes them and tells them."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from click.testing import CliRunner

from gateway.cli import main
from tests.support.amqp import Delivered, read
from tests.support.classic import ClassicClient
from tests.support.inbox import event_in, names_in
from tests.support.running import Gateway, running_gateway, wait_until
from tests.support.sdk import Sdk, task
from tests.support.services import LOOPBACK, RabbitMQ, free_port

Done = subprocess.CompletedProcess[str]
OF_A_JOB = [
    *("JOB_RUNNING", "TASK_RUNNING", "TASK_INSTANCE_RUNNING"),
    *("TASK_INSTANCE_SUCCEED", "TASK_SUCCEED", "JOB_SUCCEED"),
]
ON_THE_BROKER = "cmq.100000000001.ap-guangzhou.on-the-broker"


@pytest.fixture(scope="module")
def telling(
    tmp_path_factory: pytest.TempPathFactory, rabbitmq_server: RabbitMQ
) -> Iterator[Gateway]:
    """A gateway with a broker, that may push to this machine, and that only these tests call."""
    rabbitmq_server.start()
    with running_gateway(
        tmp_path_factory.mktemp("telling"),
        QCS_GATEWAY_AMQP_URL=rabbitmq_server.url,
        QCS_GATEWAY_PUSH_NETWORKS=f"{LOOPBACK}/32",
    ) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def sdk(telling: Gateway) -> Sdk:
    return Sdk(telling, telling.root)


@pytest.fixture(scope="module")
def classic(telling: Gateway) -> ClassicClient:
    return ClassicClient(telling, telling.root)


@pytest.fixture(scope="module")
def job(sdk: Sdk, classic: ClassicClient, rabbitmq_server: RabbitMQ) -> str:
    """A job that ran, told to a queue and on the broker, both of which are empty again."""
    sdk("CreateCmqTopic", TopicName="told")
    subscribe_queue(sdk, "told", name="told")
    subscribe(sdk, "told", name="on-the-broker", protocol="amqp", endpoint="on-the-broker")
    job_id = run_job(sdk, "told")
    assert names_in(classic.drain("told", count=6)) == OF_A_JOB
    read(rabbitmq_server.url, ON_THE_BROKER, until=lambda found: len(found) >= 6)
    return job_id


def subscribe(
    sdk: Sdk, topic: str, *, name: str, protocol: str, endpoint: str, **members: Any
) -> None:
    sdk(
        "CreateCmqSubscribe",
        TopicName=topic,
        SubscriptionName=name,
        Protocol=protocol,
        Endpoint=endpoint,
        NotifyContentFormat="SIMPLIFIED",
        **members,
    )


def subscribe_queue(sdk: Sdk, topic: str, *, name: str, **members: Any) -> None:
    """Make a queue and subscribe it, both of one name."""
    sdk("CreateCmqQueue", QueueName=name)
    subscribe(sdk, topic, name=name, protocol="queue", endpoint=name, **members)


def run_job(sdk: Sdk, topic: str) -> str:
    asked = [{"TopicName": topic, "EventConfigs": [{"EventName": name} for name in OF_A_JOB]}]
    job_id = sdk.submit(task("greet", "true"), Notifications=asked)
    sdk.wait(job_id)
    return job_id


def run(gateway: Gateway, *arguments: str) -> Done:
    return gateway.verb("events", *arguments)


def lines_of(gateway: Gateway, *arguments: str) -> list[dict[str, Any]]:
    done = run(gateway, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def shown(gateway: Gateway, event_id: str) -> dict[str, Any]:
    (found,) = lines_of(gateway, "show", event_id)
    return found


def dead_letters(gateway: Gateway, *arguments: str) -> list[dict[str, Any]]:
    return lines_of(gateway, "dead-letters", "list", *arguments)


def names(found: list[dict[str, Any]]) -> list[str]:
    return [one["EventName"] for one in found]


def test_the_events_of_a_job_are_listed_the_newest_first(telling: Gateway, job: str) -> None:
    found = lines_of(telling, "list", "--job", job, "--kind", "job")
    assert names(found) == ["JOB_SUCCEED", "JOB_RUNNING"]
    last = found[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", last.pop("EventTime"))
    assert last.pop("Position") > found[1]["Position"]
    assert last.pop("Batch")["JobState"] == "SUCCEED"
    assert last == {
        "EventId": f"{job}-{last['Seq']}",
        "Seq": last["Seq"],
        "EventName": "JOB_SUCCEED",
        "Region": "ap-guangzhou",
        "Owner": "100000000001",
        "Subject": job,
    }


def test_events_are_chosen_by_name_account_region_and_time(telling: Gateway, job: str) -> None:
    of_job = ("list", "--job", job)
    everything = names(lines_of(telling, *of_job))
    assert [name for name in everything[::-1] if name in OF_A_JOB] == OF_A_JOB
    for options in (
        ["--owner", "100000000001", "--region", "ap-guangzhou"],
        ["--since", "1h"],
        ["--since", "2020-01-01", "--until", "2999-01-01"],
    ):
        assert names(lines_of(telling, *of_job, *options)) == everything, options
    for options in (["--owner", "1"], ["--region", "ap-beijing"], ["--until", "1h"]):
        assert lines_of(telling, *of_job, *options) == [], options
    two = lines_of(telling, *of_job, "--name", "TaskSucceed", "--name", "JOB_RUNNING")
    assert names(two) == ["TASK_SUCCEED", "JOB_RUNNING"]
    assert lines_of(telling, "list", "--env", "env-00000000") == []
    assert names(lines_of(telling, *of_job, "--limit", "1")) == everything[:1]


def test_a_list_is_a_line_for_each_event_for_people(telling: Gateway, job: str) -> None:
    line = run(telling, "list", "--job", job, "--name", "TASK_INSTANCE_SUCCEED").stdout
    assert line.count("\n") == 1
    for word in ("TASK_INSTANCE_SUCCEED", job, "TaskName=greet", "TaskInstanceIndex=0"):
        assert word in line


def test_an_event_is_shown_with_what_became_of_its_message_for_each_subscriber(
    telling: Gateway, job: str
) -> None:
    event_id = lines_of(telling, "list", "--job", job, "--name", "JOB_SUCCEED")[0]["EventId"]
    wait_until(lambda: shown(telling, event_id)["Messages"][0]["SendTime"])
    (message,) = shown(telling, event_id)["Messages"][:1]
    assert (message["MessageId"], message["TopicName"]) == (f"{event_id}-0", "told")
    (delivery,) = message["Deliveries"]
    assert (delivery["SubscriptionName"], delivery["Protocol"]) == ("told", "queue")
    assert (delivery["State"], delivery["Attempts"], delivery["Why"]) == ("delivered", 0, None)
    text = run(telling, "show", event_id).stdout
    assert text.startswith(f"JOB_SUCCEED  {event_id}  at ")
    assert f"{event_id}-0, to topic told, sent at" in text
    assert "told (queue): delivered at" in text


def test_a_message_is_shown_by_its_own_id_with_its_event(telling: Gateway, job: str) -> None:
    (event,) = lines_of(telling, "list", "--job", job, "--name", "JOB_RUNNING")
    message_id = f"{event['EventId']}-0"
    found = shown(telling, message_id)
    assert (found["EventId"], found["EventName"]) == (event["EventId"], "JOB_RUNNING")
    assert {one["MessageId"] for one in found["Messages"]} == {message_id}
    (fate,) = found["Messages"][0]["Deliveries"]
    assert (fate["SubscriptionName"], fate["State"]) == ("told", "delivered")
    text = run(telling, "show", message_id).stdout
    assert text.startswith(f"JOB_RUNNING  {event['EventId']}")
    assert f"message   {message_id}, to topic told" in text
    assert run(telling, "show", f"{event['EventId']}-1").returncode == 1


@pytest.mark.parametrize("event_id", ["job-00000000-1", "job-00000000", "\x1b[31m-1", ""])
def test_an_event_that_is_not_there_is_a_no(telling: Gateway, event_id: str) -> None:
    done = run(telling, "show", event_id)
    assert (done.returncode, done.stdout) == (1, "")
    assert "There is no event" in done.stderr
    assert "\x1b" not in done.stderr


@contextmanager
def tailing(gateway: Gateway, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "events", "tail", "--json", *arguments],
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **gateway.environment},
        cwd=gateway.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def next_event(output: IO[str] | None) -> tuple[str, str]:
    assert output
    found = json.loads(output.readline())
    return found["Subject"], found["EventName"]


def test_a_tail_shows_the_last_events_then_each_new_one_and_ends_well_when_interrupted(
    telling: Gateway, sdk: Sdk, job: str
) -> None:
    with tailing(telling, "--last", "2", "--kind", "job") as process:
        before = [next_event(process.stdout) for _ in range(2)]
        assert before[1][1] == "JOB_SUCCEED"
        new = run_job(sdk, "told")
        after = [next_event(process.stdout) for _ in range(2)]
        assert after == [(new, "JOB_RUNNING"), (new, "JOB_SUCCEED")]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr
        assert process.stderr.read() == ""


def test_one_event_is_told_again_by_the_running_server_to_queue_and_broker(
    telling: Gateway, sdk: Sdk, classic: ClassicClient, rabbitmq_server: RabbitMQ, job: str
) -> None:
    job_id = run_job(sdk, "told")
    event_id = lines_of(telling, "list", "--job", job_id, "--name", "JOB_RUNNING")[0]["EventId"]

    def about(got: list[Delivered]) -> list[Delivered]:
        return [each for each in got if each.id == f"{event_id}-0"]

    first = wait_for_bodies(classic, "told", job_id=job_id, count=6)
    for number in (1, 2):
        done = run(telling, "replay", event_id if number == 1 else f"{event_id}-0")
        assert (done.returncode, done.stdout) == (0, "1 message is told again.\n")
        assert wait_for_bodies(classic, "told", job_id=job_id, count=1) == first[:1]
    found = read(rabbitmq_server.url, ON_THE_BROKER, until=lambda got: len(about(got)) >= 3)
    ours = about(found)
    assert len({each.body for each in ours}) == 1
    replays = [each.properties.headers.get("replay") for each in ours]
    assert replays == [None, 1, 2]
    assert [one["Replay"] for one in shown(telling, event_id)["Messages"]] == [0, 1, 2]


def wait_for_bodies(classic: ClassicClient, queue: str, *, job_id: str, count: int) -> list[str]:
    """The next bodies in a queue about one job; those of others are dropped."""
    found: list[str] = []
    while len(found) < count:
        (body,) = classic.drain(queue, count=1)
        if event_in(body)["Batch"]["JobId"] == job_id:
            found.append(body)
    return found


def test_a_subscription_made_later_is_told_what_it_wants_and_nobody_else_is(
    telling: Gateway, sdk: Sdk, classic: ClassicClient, job: str
) -> None:
    only_jobs = ["batch.job.#"]
    sdk("CreateCmqTopic", TopicName="later", FilterType=2)
    subscribe_queue(sdk, "later", name="first")
    job_id = run_job(sdk, "later")
    bodies = classic.drain("first", count=6)
    subscribe_queue(sdk, "later", name="second", BindingKey=only_jobs)
    options = ("replay", "--topic", "later", "--subscription", "second", "--job", job_id)
    dry = run(telling, *options, "--dry-run", "--json")
    assert json.loads(dry.stdout) == {"Told": 2, "Unwanted": 4, "Gone": 0, "DryRun": True}
    assert classic.is_empty("second")
    done = run(telling, *options)
    assert (done.returncode, done.stdout) == (0, "2 messages are told again.\n")
    assert classic.drain("second", count=2) == [bodies[0], bodies[5]]
    assert classic.is_empty("second")
    assert classic.is_empty("first")


def test_a_new_subscription_on_the_broker_is_told_alone(
    telling: Gateway, sdk: Sdk, rabbitmq_server: RabbitMQ, job: str
) -> None:
    sdk("CreateCmqTopic", TopicName="alone", FilterType=2)
    job_id = run_job(sdk, "alone")
    for name, key in (("narrow", "batch.task.#"), ("wide", "#")):
        subscribe(sdk, "alone", name=name, protocol="amqp", endpoint=f"q-{name}", BindingKey=[key])
    done = run(telling, "replay", "--topic", "alone", "--subscription", "narrow")
    assert (done.returncode, done.stdout) == (0, "2 messages are told again.\n")
    queue = "cmq.100000000001.ap-guangzhou.q-{}"
    found = read(rabbitmq_server.url, queue.format("narrow"), until=lambda got: len(got) >= 2)
    assert names_in([each.body for each in found]) == ["TASK_RUNNING", "TASK_SUCCEED"]
    assert {each.properties.headers["replay"] for each in found} == {1}
    run(telling, "replay", "--topic", "alone", "--job", job_id, "--name", "JOB_SUCCEED")
    (told,) = read(rabbitmq_server.url, queue.format("wide"), until=lambda got: len(got) >= 1)
    assert names_in([told.body]) == ["JOB_SUCCEED"]


def waiting_of(sdk: Sdk, topic: str) -> int:
    """How many messages wait for the one subscription of a topic."""
    (subscription,) = sdk("DescribeCmqSubscriptionDetail", TopicName=topic)["SubscriptionSet"]
    count: int = subscription["MsgCount"]
    return count


def test_dead_letters_are_listed_shown_and_told_again_to_who_has_the_name_now(
    telling: Gateway, sdk: Sdk, classic: ClassicClient
) -> None:
    nobody = f"http://{LOOPBACK}:{free_port()}/"
    sdk("CreateCmqTopic", TopicName="dead")
    subscribe(sdk, "dead", name="mourned", protocol="http", endpoint=nobody)
    contents = ["first", "\x1b[31msecond\nline"]
    for content in contents:
        sdk("PublishCmqMsg", TopicName="dead", MsgContent=content)
    wait_until(lambda: waiting_of(sdk, "dead") == 2)
    sdk("DeleteCmqSubscribe", TopicName="dead", SubscriptionName="mourned")
    second, first = dead_letters(telling, "--topic", "dead", "--subscription", "mourned")
    assert (first["TopicName"], first["SubscriptionName"]) == ("dead", "mourned")
    assert (first["Endpoint"], first["ReplayTime"]) == (nobody, None)
    assert "the subscription was deleted" in first["Why"]
    assert dead_letters(telling, "--topic", "told") == []
    buried = shown(telling, first["MessageId"])
    assert [one["MessageId"] for one in buried["Messages"]] == [first["MessageId"]]
    assert [one["Id"] for one in buried["DeadLetters"]] == [first["Id"]]
    assert run(telling, "show", first["MessageId"]).stdout.startswith("published by a user")
    text = run(telling, "dead-letters", "show", str(second["Id"])).stdout
    assert r"  body      \x1b[31msecond\nline" in text
    all_ = ("--topic", "dead", "--subscription", "mourned", "--all")
    refused = run(telling, "dead-letters", "replay", *all_)
    assert (refused.returncode, refused.stdout) == (1, "0 dead letters are told again.\n")
    assert "no subscription `mourned` now" in refused.stderr
    subscribe_queue(sdk, "dead", name="mourned")
    one = run(telling, "dead-letters", "replay", str(first["Id"]))
    assert (one.returncode, one.stdout) == (0, "1 dead letter is told again.\n")
    rest = run(telling, "dead-letters", "replay", *all_)
    assert (rest.returncode, rest.stdout) == (0, "1 dead letter is told again.\n")
    assert classic.drain("mourned", count=2) == contents
    kept = dead_letters(telling, "--topic", "dead")
    assert [one["Id"] for one in kept] == [second["Id"], first["Id"]]
    assert all(one["ReplayTime"] for one in kept)


def test_nothing_to_tell_again_is_a_no(telling: Gateway, job: str) -> None:
    for arguments in (
        ("replay", "job-00000000-1"),
        ("replay", "--topic", "nowhere"),
        ("replay", "--topic", "told", "--subscription", "nobody"),
        ("replay", "--topic", "told", "--owner", "200000000001"),
        ("dead-letters", "replay", "999999"),
        ("dead-letters", "show", "999999"),
    ):
        done = run(telling, *arguments)
        assert done.returncode == 1, arguments
        assert done.stderr, arguments


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("replay", "--topic", "nowhere"),
            "There is no topic 'nowhere' in ap-guangzhou, account 100000000001.",
        ),
        (
            ("replay", "--topic", "told", "--region", "ap-beijing"),
            "There is no topic 'told' in ap-beijing, account 100000000001.",
        ),
        (
            ("replay", "--topic", "nowhere", "--subscription", "nobody"),
            "qcs-gateway: there is no topic 'nowhere' in ap-guangzhou, account 100000000001.",
        ),
        (
            ("replay", "--topic", "told", "--subscription", "nobody"),
            "qcs-gateway: topic 'told' has no subscription 'nobody'.",
        ),
        (
            ("replay", "--topic", "told", "--job", "job-00000000"),
            "No message of topic 'told' fits what was asked for.",
        ),
        (("replay", "job-00000000-1"), "Nothing was told of 'job-00000000-1'."),
        (
            ("replay", "job-00000000-1", "--topic", "told", "--dry-run", "--json"),
            "Nothing was told of 'job-00000000-1'.",
        ),
    ],
)
def test_why_nothing_is_told_again_is_said_in_one_line(
    telling: Gateway, job: str, arguments: tuple[str, ...], said: str
) -> None:
    done = run(telling, *arguments)
    assert (done.returncode, done.stderr) == (1, f"{said}\n")


def test_an_empty_list_says_what_there_is_nothing_of(telling: Gateway, job: str) -> None:
    for arguments, said in (
        (("list", "--job", "job-00000000"), "There is no event of 'job-00000000'."),
        (("list", "--env", "env-\x1b[31m"), r"There is no event of 'env-\x1b[31m'."),
        (
            ("list", "--job", job, "--name", "JOB_FAILED", "--json"),
            "No event fits what was asked for.",
        ),
        (("dead-letters", "list", "--topic", "told"), "No dead letter fits what was asked for."),
    ):
        done = run(telling, *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{said}\n"), arguments


def test_a_list_of_two_jobs_says_which_of_them_has_no_events(telling: Gateway, job: str) -> None:
    done = run(telling, "list", "--job", job, "--job", "job-00000000", "--limit", "1")
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert done.stderr == "There is no event of 'job-00000000'.\n"


def test_one_stream_and_one_message_are_counted_as_one(telling: Gateway, job: str) -> None:
    line = run(telling, "audit", "--job", job).stdout
    assert line.startswith("1 stream, ")
    event_id = lines_of(telling, "list", "--job", job, "--name", "JOB_RUNNING")[0]["EventId"]
    dry = run(telling, "replay", event_id, "--dry-run")
    assert dry.stdout == "1 message would be told again.\n"


def test_whatever_is_one_less_is_said_of_one(telling: Gateway, sdk: Sdk) -> None:
    sdk("CreateCmqTopic", TopicName="passing", FilterType=2)
    subscribe_queue(sdk, "passing", name="passing")
    subscribe_queue(sdk, "passing", name="elsewhere", BindingKey=["elsewhere"])
    sdk("PublishCmqMsg", TopicName="passing", MsgContent="one", MsgTag=["here"])
    narrow = ("replay", "--topic", "passing", "--subscription", "elsewhere")
    wait_until(lambda: "1 more is not for this subscription." in run(telling, *narrow).stderr)
    for name in ("passing", "elsewhere"):
        sdk("DeleteCmqSubscribe", TopicName="passing", SubscriptionName=name)
    sdk("DeleteCmqTopic", TopicName="passing")
    done = run(telling, "replay", "--topic", "passing")
    assert (done.returncode, done.stdout) == (1, "0 messages are told again.\n")
    assert done.stderr == "1 more belongs to a topic that is gone.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "--since", "yesterday"),
        ("list", "--limit", "0"),
        ("list", "--name", "JOB_EXPLODED"),
        ("list", "--kind", "cloud"),
        ("tail", "--last", "-1"),
        ("show",),
        ("replay",),
        ("replay", "--job", "job-00000001"),
        ("replay", "job-00000001-1", "--subscription", "s"),
        ("list", "--since", "2026-02-02", "--until", "2026-02-01"),
        ("tail", "--since", "1h", "--until", "2h"),
        ("replay", "--topic", "told", "--since", "1h", "--until", "2h"),
        ("dead-letters", "list", "--owner", "1"),
        ("dead-letters", "replay"),
        ("dead-letters", "replay", "--all"),
        ("dead-letters", "replay", "--topic", "t", "--subscription", "s"),
        ("dead-letters", "replay", "1", "--all", "--topic", "t", "--subscription", "s"),
        ("dead-letters", "replay", "one"),
        ("dead-letters", "show", "0"),
    ],
)
def test_misuse_is_told(telling: Gateway, arguments: tuple[str, ...]) -> None:
    done = run(telling, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


@pytest.mark.parametrize(
    "verb",
    [
        *("list", "tail", "show job-1-1", "replay job-1-1", "replay --topic t"),
        *("dead-letters list", "dead-letters show 1", "dead-letters replay 1"),
    ],
)
def test_the_verbs_make_no_database(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {"QCS_GATEWAY_DATA": "var"}
    done = CliRunner().invoke(main, ["events", *verb.split()], env=environment)
    assert (done.exit_code, done.stdout) == (1, "")
    assert re.fullmatch(r"qcs-gateway: there is no database in var;.*\n", done.stderr)
    assert not (tmp_path / "var").exists()
