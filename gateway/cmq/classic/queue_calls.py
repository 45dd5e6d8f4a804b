"""The handlers of the classic API for queues and the messages in them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from gateway.call import Call, Grant
from gateway.clock import Clock
from gateway.cmq import limits, queue_messages, queues
from gateway.cmq.classic.answers import (
    BatchReceiveMessageAnswer,
    BatchSendMessageAnswer,
    Classic,
    CreateQueueAnswer,
    DeleteFailure,
    GetQueueAttributesAnswer,
    ListedQueue,
    ListQueueAnswer,
    Nothing,
    PartialFailure,
    ReceivedMessage,
    SendMessageAnswer,
    view_attributes,
    view_message,
)
from gateway.cmq.classic.parameters import (
    BATCH_MAX,
    Params,
    array,
    failure,
    not_existed,
    number,
    read_page,
    required,
)
from gateway.cmq.classic.queue_parameters import (
    check_known,
    read_changes,
    read_start_time,
    read_wait,
)
from gateway.cmq.lists import Wanted
from gateway.cmq.naming import check_name
from gateway.cmq.queue_messages import CannotRewind, QueueFull
from gateway.cmq.queues import Queue, QueueInUse
from gateway.cmq.tdmq import queue_calls
from gateway.errors import (
    ApiError,
    InvalidParameterValue,
    LimitExceeded,
    ResourceInUse,
    ResourceNotFound,
)
from gateway.ids import NewId, new_request_id, new_secret
from gateway.store import Store, Tx

WAIT_S_MIN = 0.01
POLL_S = 1.0  # how late a message is seen that another process wrote

Handler = Callable[[Call, Grant, Params], Awaitable[Classic]]

PAIRS: Mapping[type[ApiError], tuple[int, int]] = {
    ResourceNotFound: (4440, 10100),
    ResourceInUse: (4460, 10210),
    LimitExceeded: (4450, 10220),
    QueueFull: (4410, 10240),
    CannotRewind: (6050, 10670),
    QueueInUse: (4000, 10540),
    InvalidParameterValue: (4000, 10350),
}
"""The numbers of what queues refuse, by kind.

Why 10210 and 10540: the error table leaves out the number that goes with 4460, and 10210 is the
one that is free beside it; it has none for a queue that is still filled, so that this is answered
like a topic that still has subscriptions.
"""


@dataclass(frozen=True, slots=True)
class QueueCalls:
    """One method per action. cloud_limits: the vendor's quotas hold."""

    store: Store
    clock: Clock
    new_id: NewId
    cloud_limits: bool = False

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """The actions and how they are served."""
        return {
            "CreateQueue": self.create_queue,
            "ListQueue": self.list_queue,
            "GetQueueAttributes": self.get_attributes,
            "SetQueueAttributes": self.set_attributes,
            "DeleteQueue": self.delete_queue,
            "RewindQueue": self.rewind_queue,
            "SendMessage": self.send_message,
            "BatchSendMessage": self.batch_send_message,
            "ReceiveMessage": self.receive_message,
            "BatchReceiveMessage": self.batch_receive_message,
            "DeleteMessage": self.delete_message,
            "BatchDeleteMessage": self.batch_delete_message,
        }

    async def serve(self, call: Call, grant: Grant, params: Params) -> Classic | None:
        """Serve a call about a queue; None if it is about something else. Raises ClassicError."""
        handler = self.handlers.get(call.action)
        if handler is None:
            return None
        check_known(call.action, params)
        try:
            return await handler(call, grant, params)
        except ResourceNotFound as error:
            raise not_existed() from error
        except tuple(PAIRS) as error:
            pair = next(pair for kind, pair in PAIRS.items() if isinstance(error, kind))
            raise failure(*pair, error.message) from error

    async def create_queue(self, call: Call, grant: Grant, params: Params) -> CreateQueueAnswer:
        """Make a queue."""
        try:
            name = check_name(required(params, "queueName"), parameter="queueName")
        except InvalidParameterValue as error:
            raise failure(4000, 10020, error.message) from error
        now = self.clock()
        new = Queue(
            id=self.new_id("queue"),
            owner_uin=grant.principal.owner_uin,
            region=call.region,
            name=name,
            created_by=grant.principal.uin,
            created_at=now,
            modified_at=now,
        )
        queue = read_changes(params).of(new)
        await self.store.write(partial(queues.create, queue=queue, limited=self.cloud_limits))
        return CreateQueueAnswer(queue_id=queue.id)

    async def list_queue(self, call: Call, grant: Grant, params: Params) -> ListQueueAnswer:
        """List queues by name."""
        offset, limit = read_page(params)
        search = params.get("searchWord", "")
        wanted = Wanted(search=search, scope=grant.scope, offset=offset, limit=limit)
        owner_uin = grant.principal.owner_uin
        total, found = await self.store.read_list(
            lambda tx: queues.list_queues(tx, owner_uin, region=call.region, wanted=wanted)
        )
        listed = [ListedQueue(queue_id=each.id, queue_name=each.name) for each in found]
        return ListQueueAnswer(total_count=total, queue_list=listed)

    async def get_attributes(
        self, call: Call, grant: Grant, params: Params
    ) -> GetQueueAttributesAnswer:
        """Show a queue and how many messages it holds."""
        now = self.clock()

        def read(tx: Tx) -> GetQueueAttributesAnswer:
            queue = _find(tx, call, grant, params)
            held = queue_messages.count_messages(tx, [queue], now=now)
            return view_attributes(queue, held[queue.id])

        return await self.store.read_list(read)

    async def set_attributes(self, call: Call, grant: Grant, params: Params) -> Nothing:
        """Change what is given of a queue."""
        changes = read_changes(params)
        where = {"region": call.region, "name": required(params, "queueName")}
        now = self.clock()

        def change(tx: Tx) -> None:
            queue = queues.lock_queue(tx, grant.principal.owner_uin, **where)
            queues.change(tx, changes.of(queue), now=now)

        await self.store.write(change)
        return Nothing()

    async def delete_queue(self, call: Call, grant: Grant, params: Params) -> Nothing:
        """Delete a queue that nothing else fills."""
        where = {"region": call.region, "name": required(params, "queueName")}
        await self.store.write(lambda tx: queues.delete(tx, grant.principal.owner_uin, **where))
        return Nothing()

    async def rewind_queue(self, call: Call, grant: Grant, params: Params) -> Nothing:
        """Make deleted messages receivable again."""
        start_at = read_start_time(params)
        queue = await self.store.read_point(lambda tx: _find(tx, call, grant, params))
        await queue_calls.rewind(self.store, queue, start_at=start_at, now=self.clock())
        return Nothing()

    async def send_message(self, call: Call, grant: Grant, params: Params) -> SendMessageAnswer:
        """Put a message into a queue."""
        bodies = [required(params, "msgBody").encode()]
        (message_id,) = await self._send(call, grant, params, bodies=bodies)
        return SendMessageAnswer(msg_id=message_id)

    async def batch_send_message(
        self, call: Call, grant: Grant, params: Params
    ) -> BatchSendMessageAnswer:
        """Put messages into a queue, all of them or none."""
        bodies = [body.encode() for body in array(params, "msgBody")]
        if sum(map(len, bodies)) > limits.BATCH_BYTES_MAX:
            raise failure(4470, 10300, f"batch is larger than {limits.BATCH_BYTES_MAX} bytes")
        sent = await self._send(call, grant, params, bodies=bodies)
        return BatchSendMessageAnswer(msg_list=[SendMessageAnswer(msg_id=each) for each in sent])

    async def _send(
        self, call: Call, grant: Grant, params: Params, *, bodies: list[bytes]
    ) -> list[str]:
        """Put messages into a queue; returns their ids. Raises ClassicError."""
        if not all(bodies):
            raise failure(4000, 10120, "message body is empty")
        messages = [(new_request_id(), body) for body in bodies]
        where = {"region": call.region, "name": required(params, "queueName")}
        now = self.clock()

        def send(tx: Tx) -> None:
            queue = queues.hold_queue(tx, grant.principal.owner_uin, **where)
            longest = max(map(len, bodies))
            if longest > queue.max_message_bytes:
                text = f"message is larger than {queue.max_message_bytes} bytes"
                raise failure(4400, 10230, text)
            delay_s = number(
                params,
                "delaySeconds",
                low=0,
                high=queue.retention_s,
                default=0,
                range_module=10692,
            )
            queue_messages.send(tx, queue, messages, now=now, delay_s=delay_s)

        await self.store.write(send)
        return [message_id for message_id, _ in messages]

    async def receive_message(self, call: Call, grant: Grant, params: Params) -> ReceivedMessage:
        """Receive one message, waiting for it up to the polling wait."""
        return (await self._receive(call, grant, params, count=1))[0]

    async def batch_receive_message(
        self, call: Call, grant: Grant, params: Params
    ) -> BatchReceiveMessageAnswer:
        """Receive what there is, up to `numOfMsg`, waiting for the first."""
        required(params, "numOfMsg")
        count = number(params, "numOfMsg", low=1, high=BATCH_MAX, default=1, range_module=10370)
        return BatchReceiveMessageAnswer(
            msg_info_list=await self._receive(call, grant, params, count=count)
        )

    async def _receive(
        self, call: Call, grant: Grant, params: Params, *, count: int
    ) -> list[ReceivedMessage]:
        """Receive at least one message. Raises ClassicError 7000/10200 if none comes in time."""
        asked_s = read_wait(params)
        started_at = now = self.clock()
        while True:
            queue = await self.store.read_point(lambda tx: _find(tx, call, grant, params))
            seen = self.store.signals.count(queue.signal)
            look = partial(queue_messages.next_visible_at, queue=queue, now=now)
            visible_at = await self.store.read_point(look)
            if visible_at is not None and visible_at <= now:
                take = partial(
                    queue_messages.receive, queue=queue, count=count, now=now, new_secret=new_secret
                )
                taken = await self.store.write(take)
                if taken.messages:
                    return [view_message(message) for message in taken.messages]
                if not taken.is_all:
                    continue
            wait_s = queue.polling_wait_s if asked_s is None else asked_s
            give_up_at = started_at + timedelta(seconds=wait_s)
            if now >= give_up_at:
                raise failure(7000, 10200, "no message")
            next_look_at = min(give_up_at, visible_at or give_up_at)
            at_most_s = min(POLL_S, max((next_look_at - now).total_seconds(), WAIT_S_MIN))
            await self.store.signals.wait(queue.signal, seen=seen, at_most_s=at_most_s)
            now = self.clock()

    async def delete_message(self, call: Call, grant: Grant, params: Params) -> Nothing:
        """Delete a received message."""
        receipt = required(params, "receiptHandle")
        if await self._delete(call, grant, params, receipts=[receipt]):
            raise failure(4430, 10260, "receipt handle is invalid or expired")
        return Nothing()

    async def batch_delete_message(self, call: Call, grant: Grant, params: Params) -> Classic:
        """Delete received messages; those whose handle is no good are named in the answer."""
        receipts = array(params, "receiptHandle")
        failed = await self._delete(call, grant, params, receipts=receipts)
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

    async def _delete(
        self, call: Call, grant: Grant, params: Params, *, receipts: list[str]
    ) -> list[str]:
        """Delete received messages; returns the handles that are no good."""
        now = self.clock()

        def delete(tx: Tx) -> list[str]:
            queue = _find(tx, call, grant, params)
            return [
                receipt
                for receipt in receipts
                if not queue_messages.delete(tx, queue, receipt=receipt, now=now)
            ]

        return await self.store.write(delete)


def _find(tx: Tx, call: Call, grant: Grant, params: Params) -> Queue:
    """The queue that a call names. Raises ResourceNotFound, ClassicError 4000/10390."""
    name = required(params, "queueName")
    return queues.get_queue(tx, grant.principal.owner_uin, region=call.region, name=name)
