"""A reader that hangs up while it waits takes nothing any more: another one gets the message."""

from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from tests.support.classic import ClassicClient
from tests.support.databases import connected
from tests.support.raw_client import Line, classic, open_line
from tests.support.running import Gateway, running_gateway, wait_until

WAITS = {"pollingWaitSeconds": "30"}
HOLD = text("LOCK TABLE cmq_queue_message IN EXCLUSIVE MODE")  # which lets others read
WAITING = text("""
    SELECT count(*) FROM pg_locks
    WHERE NOT granted AND relation = 'cmq_queue_message'::regclass
""")


def poll(gateway: Gateway, line: Line, action: str, queue: str) -> None:
    """Begin to wait for a message; whoever calls next is served after this began."""
    asked = {"queueName": queue, **WAITS, **({"numOfMsg": "16"} if "Batch" in action else {})}
    line.send(classic(gateway, gateway.root, action, asked))
    ClassicClient(gateway, gateway.root)("GetQueueAttributes", queueName=queue)


@pytest.mark.parametrize("action", ["ReceiveMessage", "BatchReceiveMessage"])
def test_who_hangs_up_while_waiting_takes_no_message(gateway: Gateway, action: str) -> None:
    call, queue = ClassicClient(gateway, gateway.root), f"left-by-{action}"
    call("CreateQueue", queueName=queue)
    for _ in range(3):
        with open_line(gateway.port) as line:
            poll(gateway, line, action, queue)
    call("SendMessage", queueName=queue, msgBody="m")
    received = call("ReceiveMessage", queueName=queue, pollingWaitSeconds="5")
    assert (received["msgBody"], received["dequeueCount"]) == ("m", 1)


def test_who_stays_on_the_line_gets_the_message(gateway: Gateway) -> None:
    call = ClassicClient(gateway, gateway.root)
    call("CreateQueue", queueName="not-left")
    with open_line(gateway.port) as line:
        poll(gateway, line, "ReceiveMessage", "not-left")
        call("SendMessage", queueName="not-left", msgBody="m")
        answer = line.answer().classic
    assert (answer["msgBody"], answer["dequeueCount"]) == ("m", 1)


def is_taking(connection: Connection) -> bool:
    """Whether somebody is about to take messages, and held up."""
    return bool(connection.execute(WAITING).scalar_one())


def test_who_hangs_up_while_it_takes_a_message_leaves_it_to_the_next(
    postgresql_url: str, tmp_path: Path
) -> None:
    with running_gateway(tmp_path, QCS_GATEWAY_DATABASE_URL=postgresql_url) as gateway:
        call = ClassicClient(gateway, gateway.root)
        call("CreateQueue", queueName="left")
        call("SendMessage", queueName="left", msgBody="m")
        with connected(postgresql_url) as holder:
            holder.execute(HOLD)
            with open_line(gateway.port) as line:
                line.send(classic(gateway, gateway.root, "ReceiveMessage", {"queueName": "left"}))
                wait_until(lambda: is_taking(holder))
            call("GetQueueAttributes", queueName="left")  # served after the line is closed
        received = call("ReceiveMessage", queueName="left", pollingWaitSeconds="20")
    assert (received["msgBody"], received["dequeueCount"]) == ("m", 1)
