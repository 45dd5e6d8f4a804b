"""A whole gateway: how it starts, how it ends, and what outlives it."""

import asyncio
import json
import os
import signal
import socket
import stat
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.app import copies_of, listen
from gateway.store.migrations import find_installation
from tests.support import amqp
from tests.support.classic import ClassicClient
from tests.support.raw_client import call, classic, open_line, send, signed
from tests.support.running import Credentials, Gateway, running_gateway, wait_until
from tests.support.sdk import Sdk, task
from tests.support.services import RabbitMQ

TERM = signal.SIGTERM


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Gateway]:
    """One that the test starts and ends."""
    gateway = Gateway(tmp_path, settings={})
    yield gateway
    gateway.remove()


def test_the_first_start_makes_a_root_key_that_works_and_the_next_keeps_it(
    installation: Gateway,
) -> None:
    installation.start()
    root = installation.root
    assert call(installation, root, "DescribeJobs").code == ""
    assert stat.S_IMODE((installation.data / "root.env").stat().st_mode) == 0o600
    assert stat.S_IMODE(installation.data.stat().st_mode) == 0o711
    assert installation.stop() == 0
    installation.start()
    assert installation.root == root
    assert call(installation, root, "DescribeJobs").code == ""


def test_a_root_key_that_is_set_is_used_and_none_is_written(tmp_path: Path) -> None:
    given = Credentials("AKIDgiven", "given-secret")
    settings = {
        "QCS_GATEWAY_ROOT_SECRET_ID": given.secret_id,
        "QCS_GATEWAY_ROOT_SECRET_KEY": given.secret_key,
        "QCS_GATEWAY_ROOT_UIN": "100000000009",
    }
    with running_gateway(tmp_path, **settings) as gateway:
        assert not (gateway.data / "root.env").exists()
        answer = send(gateway, signed(gateway, given, "GetCallerIdentity", service="sts"))
        assert answer.members["AccountId"] == "100000000009"
        assert given.secret_key not in gateway.log


BROKEN: dict[str, tuple[str, str]] = {
    "policies that contradict themselves": (
        "accounts.toml",
        '[[account]]\nuin = "1"\n[[account.user]]\nname = "x"\nuin = "1"\n',
    ),
    "a policy that is no JSON": ("presets/QcloudBatchFullAccess.json", "{"),
    "a model that is another": ("model.conf", "[request_definition]\nr = sub\n"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_set_of_policies_is_no_start_but_a_sentence(
    installation: Gateway, case: str
) -> None:
    file, text = BROKEN[case]
    (installation.policies / file).write_text(text, encoding="utf-8")
    assert_does_not_start(installation)


@pytest.mark.parametrize("file", ["sealing.key", "root.env"])
def test_a_key_file_that_others_can_read_is_no_start_but_a_sentence(
    installation: Gateway, file: str
) -> None:
    installation.start()
    installation.stop()
    (installation.data / file).chmod(0o644)
    assert_does_not_start(installation)


def test_a_port_that_is_taken_is_no_start_but_a_sentence(
    installation: Gateway, gateway: Gateway
) -> None:
    installation.port = gateway.port
    assert_does_not_start(installation)


def test_under_another_database_it_does_not_start_and_no_work_folder_goes(
    installation: Gateway,
) -> None:
    work = installation.data / "engine" / "attempts" / "job-00000001"
    work.mkdir(parents=True)
    (installation.data / "installation").write_text("of-another-database\n", encoding="ascii")
    sentence = assert_does_not_start(installation)
    assert "of-another-database" in sentence
    name = find_installation(f"sqlite:///{installation.data}/gateway.db")
    assert name
    assert name in sentence
    assert work.is_dir()


def assert_does_not_start(gateway: Gateway) -> str:
    """Returns the sentence that it says instead."""
    done = gateway.command("serve", check=False)
    assert done.returncode == 1
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("qcs-gateway: ")
    assert "Traceback" not in done.stderr
    return sentence


def receive(gateway: Gateway, queue: str, *, wait_s: int) -> Callable[[], dict[str, Any]]:
    """Ask a queue for a message and wait for it; returns a function that gives the answer."""
    parameters = {"queueName": queue, "pollingWaitSeconds": str(wait_s)}
    request = classic(gateway, gateway.root, "ReceiveMessage", parameters)
    found: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: found.append(send(gateway, request).classic))
    thread.start()

    def answer() -> dict[str, Any]:
        thread.join(30)
        return found[0]

    return answer


def refuses_connections(gateway: Gateway) -> bool:
    try:
        with open_line(gateway.port):
            return False
    except ConnectionRefusedError:
        return True


def test_a_call_that_is_half_sent_at_the_end_is_answered_and_new_ones_are_refused(
    installation: Gateway,
) -> None:
    installation.start()
    request = signed(
        installation, installation.root, "CreateCmqTopic", {"TopicName": "last"}, service="tdmq"
    )
    with open_line(installation.port) as line:
        line.send(request.head + request.body[:1])
        os.kill(installation.pid, TERM)
        wait_until(lambda: refuses_connections(installation))
        line.send(request.body[1:])
        answer = line.answer()
        assert answer.code == ""
        assert line.is_closed()
    assert installation.stop() == 0
    installation.start()
    found = call(installation, installation.root, "DescribeCmqTopicDetail", TopicName="last")
    assert found.members["TopicDescribe"]["TopicId"] == answer.members["TopicId"]


def test_who_waits_for_a_message_is_answered_at_the_end(installation: Gateway) -> None:
    installation.start()
    call(installation, installation.root, "CreateCmqQueue", QueueName="empty")
    answer = receive(installation, "empty", wait_s=2)
    wait_until(lambda: has_a_caller(installation))
    os.kill(installation.pid, TERM)
    assert answer()["code"] == 7000
    assert installation.stop() == 0


def has_a_caller(gateway: Gateway) -> bool:
    """Whether a connection to the API is open now."""
    port = f":{gateway.port:04X}"
    tables = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    return any(row.split()[1].endswith(port) and row.split()[3] == "01" for row in tables)


def test_an_idle_connection_does_not_keep_it_from_ending(installation: Gateway) -> None:
    installation.start()
    with open_line(installation.port) as idle, open_line(installation.port) as used:
        used.send(signed(installation, installation.root, "DescribeJobs"))
        assert used.answer().code == ""
        assert installation.stop() == 0
        assert idle.is_closed()
        assert used.is_closed()


def test_readiness_ends_with_the_process(installation: Gateway) -> None:
    installation.start()
    assert installation.management("/readyz")[0] == 200
    installation.stop()
    assert installation.management("/readyz")[0] == 0


def test_a_decision_on_a_read_is_not_lost_by_ending_at_once(installation: Gateway) -> None:
    installation.start()
    answer = call(installation, installation.root, "DescribeJobs")
    installation.stop()
    shown = installation.command("decisions", "show", answer.request_id, "--json").stdout
    assert json.loads(shown)["Reason"] == "root"


def test_a_running_command_survives_the_end_and_its_events_come_after_the_next_start(
    tmp_path: Path, rabbitmq: RabbitMQ
) -> None:
    with running_gateway(tmp_path, QCS_GATEWAY_AMQP_URL=rabbitmq.url) as gateway:
        sdk = Sdk(gateway, gateway.root)
        sdk("CreateCmqTopic", TopicName="told")
        sdk("CreateCmqQueue", QueueName="told")
        feed = {"TopicName": "told", "SubscriptionName": "q"}
        sdk("CreateCmqSubscribe", **feed, Protocol="queue", Endpoint="told")
        feed["SubscriptionName"] = "a"
        sdk("CreateCmqSubscribe", **feed, Protocol="amqp", Endpoint="outlived")
        told = {"TopicName": "told", "EventConfigs": [{"EventName": "JOB_SUCCEED"}]}
        job_id = sdk.submit(task("long", "sleep 3; echo survived"), Notifications=[told])
        sdk.wait(job_id, states=["RUNNING"])
        assert gateway.stop() == 0
        gateway.start()
        assert sdk.wait(job_id)["JobState"] == "SUCCEED"
        assert sdk.logs(job_id, "long") == [("survived\n", "")]
        [body] = ClassicClient(gateway, gateway.root).drain("told", count=1)
        event = json.loads(b64decode(body))["Events"][0]
        assert event["EventName"] == "JOB_SUCCEED"
        queue = "cmq.100000000001.ap-guangzhou.outlived"
        [message] = amqp.read(rabbitmq.url, queue, until=lambda found: len(found) == 1)
        assert message.body == body.encode()
        assert rabbitmq.url.split("@")[0].rpartition(":")[2] not in secrets_in(gateway.log)


def test_without_the_broker_that_subscribers_are_reached_by_it_does_not_start(
    tmp_path: Path, rabbitmq: RabbitMQ
) -> None:
    feed = {"TopicName": "told", "SubscriptionName": "a"}
    with running_gateway(tmp_path, QCS_GATEWAY_AMQP_URL=rabbitmq.url) as gateway:
        sdk = Sdk(gateway, gateway.root)
        sdk("CreateCmqTopic", TopicName="told")
        sdk("CreateCmqSubscribe", **feed, Protocol="amqp", Endpoint="told")
        gateway.stop()
        without = Gateway(tmp_path, settings={})
        assert "`amqp_url` is empty" in assert_does_not_start(without)
        gateway.start()
        sdk("DeleteCmqSubscribe", **feed)
        gateway.stop()
        without.start()
        without.stop()


def secrets_in(log: str) -> list[str]:
    """The passwords of all addresses in a log that are not hidden."""
    addresses = [word for word in log.split() if "amqp://" in word]
    found = [address.split("@")[0].rpartition(":")[2] for address in addresses if "@" in address]
    return [password for password in found if set(password) != {"*"}]


def test_whoever_connects_at_once_is_let_in_within_a_few_turns_of_the_loop() -> None:
    turns_waited = uvloop.run(_turns_until_all_are_let_in(connections=64))
    assert turns_waited < 10


async def _turns_until_all_are_let_in(*, connections: int) -> int:
    """Connect before the loop looks; count its turns from the first one let in to the last."""
    let_in: list[asyncio.BaseTransport] = []

    class Counted(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            let_in.append(transport)

    listeners = copies_of(listen("127.0.0.1", 0))
    address = listeners[0].getsockname()
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Counted, sock=each) for each in listeners]
    clients = [socket.create_connection(address) for _ in range(connections)]
    turns = 0
    async with asyncio.timeout(30):
        while len(let_in) < connections:
            await asyncio.sleep(0)
            turns += bool(let_in)
    closing: list[Any] = [*servers, *clients, *let_in]
    for each in closing:
        each.close()
    for server in servers:
        await server.wait_closed()
    return turns
