"""The handlers of the classic API for queues and the messages in them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from gateway.call import Call, Grant
from gateway.clock import Clock
from gateway.cmq import queues
from gateway.cmq.classic.answers import (
    BatchReceiveMessageAnswer,
    Classic,
    DeleteFailure,
    Nothing,
    PartialFailure,
    ReceivedMessage,
    SendMessageAnswer,
    seconds,
)
from gateway.cmq.classic.parameters import (
    BATCH_MAX,
    Params,
    array,
    failure,
    not_existed,
    number,
    required,
)
from gateway.cmq.queues import Queue, Received
from gateway.errors import ResourceNotFound
from gateway.ids import new_request_id, new_secret
from gateway.store import Store, Tx

POLLING_WAIT_S_MAX = 30
WAIT_S_MIN = 0.01
POLL_S = 1.0  # how late a message is seen that another process wrote

Handler = Callable[[Queue, Params], Awaitable[Classic]]


@dataclass(frozen=True, slots=True)
class QueueCalls:
    """One method per action on a queue that exists."""

    store: Store
    clock: Clock

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """The actions and how they are served."""
        return {
            "SendMessage": self.send_message,
            "ReceiveMessage": self.receive_message,
            "BatchReceiveMessage": self.batch_receive_message,
            "DeleteMessage": self.delete_message,
            "BatchDeleteMessage": self.batch_delete_message,
        }

    async def serve(self, handler: Handler, *, call: Call, grant: Grant, params: Params) -> Classic:
        """Serve a call on the queue that it names. Raises ClassicError."""
        queue = await self._find_queue(call, grant, required(params, "queueName"))
        return await handler(queue, params)

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
