"""A reader that hangs up while it waits takes nothing any more: another one gets the message."""

import pytest

from tests.support.classic import ClassicClient
from tests.support.raw_client import Line, classic, open_line
from tests.support.running import Gateway

WAITS = {"pollingWaitSeconds": "30"}


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
