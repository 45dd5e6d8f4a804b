"""The service of the classic CMQ data API (2017): messages of queues, with numbered errors.

Parameters are plain text; a list is written `receiptHandle.1`, `receiptHandle.2`, from 0 or 1 on.
The members of an answer stand beside `code`, `message` and `requestId`, which the caller adds; an
answer that only half succeeded brings `code` and `message` itself, and they win.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import msgspec

from gateway.call import Call, Grant, Reply
from gateway.clock import Clock
from gateway.cmq import queues
from gateway.cmq.queues import Queue, Received
from gateway.errors import ClassicError, ResourceNotFound
from gateway.ids import new_request_id, new_secret
from gateway.store import Store, Tx

BATCH_MAX = 16
POLLING_WAIT_S_MAX = 30
Params = Mapping[str, str]
WAIT_S_MIN = 0.01
POLL_S = 1.0  # how late a message is seen that another process wrote


class Classic(msgspec.Struct, rename="camel", kw_only=True):
    """An answer of the classic API. Snake case here is lowerCamelCase on the wire."""


class Nothing(Classic):
    """No members of its own."""


class SendMessageAnswer(Classic):
    """Members of SendMessage."""

    msg_id: str


class ReceivedMessage(Classic):
    """A received message. Times are in seconds since 1970."""

    msg_body: str
    msg_id: str
    receipt_handle: str
    enqueue_time: int
    first_dequeue_time: int
    next_visible_time: int
    dequeue_count: int


class BatchReceiveMessageAnswer(Classic):
    """Members of BatchReceiveMessage."""

    msg_info_list: list[ReceivedMessage]


class DeleteFailure(Classic):
    """Why one message of a batch was not deleted."""

    code: int
    message: str
    receipt_handle: str


class PartialFailure(Classic):
    """Members of BatchDeleteMessage if some messages were not deleted; the others were."""

    code: int
    message: str
    error_list: list[DeleteFailure]


@dataclass(frozen=True, slots=True)
class ClassicService:
    """An `Upstream` for the classic data API."""

    store: Store
    clock: Clock

    @property
    def actions(self) -> frozenset[str]:
        """The actions that have a handler."""
        return frozenset(self._handlers())

    async def __call__(self, call: Call, grant: Grant) -> Reply:
        """Serve one call that was decided on before. Raises ClassicError."""
        handler = self._handlers().get(call.action)
        if handler is None:
            raise failure(4000, 10430, f"action name {call.action} is not existed")
        params = {name: str(value) for name, value in call.params.items()}
        queue = await self._find_queue(call, grant, required(params, "queueName"))
        return Reply(msgspec.json.encode(await handler(queue, params)))

    def _handlers(self) -> Mapping[str, Callable[[Queue, Params], Awaitable[Classic]]]:
        return {
            "SendMessage": self.send_message,
            "ReceiveMessage": self.receive_message,
            "BatchReceiveMessage": self.batch_receive_message,
            "DeleteMessage": self.delete_message,
            "BatchDeleteMessage": self.batch_delete_message,
        }

    async def _find_queue(self, call: Call, grant: Grant, name: str) -> Queue:
        owner_uin = grant.principal.owner_uin
        queue = await self.store.read_point(
            lambda tx: queues.find_queue(tx, owner_uin, region=call.region, name=name)
        )
        if queue is None:
            raise not_existed()
        return queue

    async def send_message(self, queue: Queue, params: Params) -> SendMessageAnswer:
        """Put a message into the queue."""
        body = required(params, "msgBody").encode()
        if not body:
            raise failure(4000, 10120, "message body is empty")
        if len(body) > queue.max_message_bytes:
            raise failure(4400, 10230, f"message is larger than {queue.max_message_bytes} bytes")
        delay_s = number(params, "delaySeconds", low=0, high=queue.retention_s, default=0)
        message_id = new_request_id()
        now = self.clock()

        def send(tx: Tx) -> None:
            try:
                held = queues.hold_queue(tx, queue.owner_uin, region=queue.region, name=queue.name)
            except ResourceNotFound as error:
                raise not_existed() from error
            delay = timedelta(seconds=delay_s)
            queues.send(tx, held, body, message_id=message_id, now=now, delay=delay)

        await self.store.write(send)
        return SendMessageAnswer(msg_id=message_id)

    async def receive_message(self, queue: Queue, params: Params) -> ReceivedMessage:
        """Receive one message, waiting for it up to the polling wait."""
        return (await self._receive(queue, params, count=1))[0]

    async def batch_receive_message(
        self, queue: Queue, params: Params
    ) -> BatchReceiveMessageAnswer:
        """Receive what there is, up to `numOfMsg`, waiting for the first."""
        required(params, "numOfMsg")
        count = number(params, "numOfMsg", low=1, high=BATCH_MAX, default=1, range_module=10370)
        return BatchReceiveMessageAnswer(
            msg_info_list=await self._receive(queue, params, count=count)
        )

    async def _receive(self, queue: Queue, params: Params, *, count: int) -> list[ReceivedMessage]:
        """Receive at least one message. Raises ClassicError 7000/10200 if none comes in time."""
        wait_s = number(
            params,
            "pollingWaitSeconds",
            low=0,
            high=POLLING_WAIT_S_MAX,
            default=queue.polling_wait_s,
        )
        give_up_at = self.clock() + timedelta(seconds=wait_s)
        while True:
            seen = self.store.signals.count(queue.signal)
            now = self.clock()
            visible_at = await self.store.read_point(
                partial(queues.next_visible_at, queue=queue, now=now)
            )
            if visible_at is not None and visible_at <= now:
                take = partial(
                    queues.receive, queue=queue, count=count, now=now, new_secret=new_secret
                )
                if received := await self.store.write(take):
                    return [view(message) for message in received]
            if now >= give_up_at:
                raise failure(7000, 10200, "no message")
            next_look_at = min(give_up_at, visible_at or give_up_at)
            at_most_s = min(POLL_S, max((next_look_at - now).total_seconds(), WAIT_S_MIN))
            await self.store.signals.wait(queue.signal, seen=seen, at_most_s=at_most_s)

    async def delete_message(self, queue: Queue, params: Params) -> Nothing:
        """Delete a received message."""
        receipt = required(params, "receiptHandle")
        now = self.clock()
        if not await self.store.write(
            lambda tx: queues.delete_message(tx, queue, receipt=receipt, now=now)
        ):
            raise failure(4430, 10260, "receipt handle is invalid or expired")
        return Nothing()

    async def batch_delete_message(self, queue: Queue, params: Params) -> Classic:
        """Delete received messages; those whose handle is no good are named in the answer."""
        receipts = array(params, "receiptHandle")
        now = self.clock()

        def delete(tx: Tx) -> list[str]:
            return [
                receipt
                for receipt in receipts
                if not queues.delete_message(tx, queue, receipt=receipt, now=now)
            ]

        failed = await self.store.write(delete)
        if not failed:
            return Nothing()
        why = "(10260) receipt handle is invalid or expired"
        return PartialFailure(
            code=6010,
            message="(10150) some messages were not deleted",
            error_list=[
                DeleteFailure(code=4430, message=why, receipt_handle=each) for each in failed
            ],
        )


def failure(number: int, module: int, message: str) -> ClassicError:
    """A numbered error. Source: CMQ 2017 error table."""
    return ClassicError(message, number=number, module=module)


def not_existed() -> ClassicError:
    """The error for a queue that does not exist."""
    return failure(4440, 10100, "queue is not existed, or deleted")


def required(params: Params, name: str) -> str:
    """A parameter that must be there. Raises ClassicError 4000/10390."""
    if name not in params:
        raise failure(4000, 10390, f"lacked of required parameter {name}")
    return params[name]


def number(
    params: Params, name: str, *, low: int, high: int, default: int, range_module: int = 10350
) -> int:
    """A whole number. Raises ClassicError 4000 with 10360 for no number, 10350 out of range."""
    text = params.get(name)
    if not text:
        return default
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise failure(4000, 10360, f"error type: parameter {name} is not a number")
    value = int(text)
    if not low <= value <= high:
        raise failure(4000, range_module, f"parameter {name} must be from {low} to {high}")
    return value


def array(params: Params, name: str) -> list[str]:
    """A list written `name.1`, `name.2`, …, from 0 or 1 on.

    Raises ClassicError 4000: 10390 absent, 10310 no number, 10380 a gap, 10370 over 16.
    """
    found: dict[int, str] = {}
    for key, value in params.items():
        stem, dot, index = key.partition(".")
        if stem != name or not dot:
            continue
        if not re.fullmatch(r"[0-9]{1,4}", index):
            raise failure(4000, 10310, f"parameter {key} key format error")
        found[int(index)] = value
    if not found:
        raise failure(4000, 10390, f"lacked of required parameter {name}.n")
    if len(found) > BATCH_MAX:
        raise failure(4000, 10370, f"batch size out of range: at most {BATCH_MAX}")
    first = min(found)
    if first > 1 or max(found) - first + 1 != len(found):
        raise failure(4000, 10380, f"parameter {name}.n is not consequent")
    return [found[index] for index in sorted(found)]


def view(message: Received) -> ReceivedMessage:
    """A received message as the classic API writes it."""
    return ReceivedMessage(
        msg_body=message.body,
        msg_id=message.id,
        receipt_handle=message.receipt,
        enqueue_time=seconds(message.enqueued_at),
        first_dequeue_time=seconds(message.first_dequeued_at),
        next_visible_time=seconds(message.visible_at),
        dequeue_count=message.dequeue_count,
    )


def seconds(moment: datetime) -> int:
    """A time as the classic API writes it: whole seconds since 1970."""
    return int(moment.timestamp())
