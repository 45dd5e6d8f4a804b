"""The handlers of the classic API for queues and the messages in them."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial

import anyio

from gateway.call import HAS_LEFT
from gateway.clock import Clock
from gateway.cmq import limits, queue_messages, queues, whole_queues
from gateway.cmq.classic.actions import Action, Asked
from gateway.cmq.classic.answers import Classic, Nothing
from gateway.cmq.classic.numbers import failure, told_as
from gateway.cmq.classic.parameters import array, number, read_page, read_search, required
from gateway.cmq.classic.queue_answers import (
    BatchReceiveMessageAnswer,
    BatchSendMessageAnswer,
    CreateQueueAnswer,
    DeleteFailure,
    GetQueueAttributesAnswer,
    ListedQueue,
    ListQueueAnswer,
    PartialFailure,
    ReceivedMessage,
    SendMessageAnswer,
    view_attributes,
    view_message,
)
from gateway.cmq.classic.queue_parameters import (
    ATTRIBUTES,
    WAITS,
    read_changes,
    read_start_time,
    read_wait,
)
from gateway.cmq.lists import Wanted
from gateway.cmq.naming import check_name
from gateway.cmq.queue_messages import Received
from gateway.cmq.queues import Queue
from gateway.ids import NewId, new_request_id, new_secret
from gateway.store import Store, Tx

WAIT_S_MIN = 0.01
POLL_S = 1.0  # how late a message is seen that another process wrote


@dataclass(frozen=True, slots=True)
class QueueCalls:
    """One method per action. cloud_limits: the vendor's quotas hold."""

    store: Store
    _: KW_ONLY
    clock: Clock
    new_id: NewId
    cloud_limits: bool = False

    @property
    def actions(self) -> Mapping[str, Action]:
        """The actions and how they are served."""
        one, waits = {"queueName"}, {"queueName", *WAITS}
        page = {"searchWord", "offset", "limit"}
        bodies, receipts = {"msgBody"}, {"receiptHandle"}
        return {
            "CreateQueue": Action(self.create_queue, one | ATTRIBUTES),
            "ListQueue": Action(self.list_queue, page),
            "GetQueueAttributes": Action(self.get_attributes, one),
            "SetQueueAttributes": Action(self.set_attributes, one | ATTRIBUTES),
            "DeleteQueue": Action(self.delete_queue, one),
            "RewindQueue": Action(self.rewind_queue, one | {"startConsumeTime"}),
            "SendMessage": Action(self.send_message, one | {"msgBody", "delaySeconds"}),
            "BatchSendMessage": Action(self.batch_send_message, one | {"delaySeconds"}, bodies),
            "ReceiveMessage": Action(self.receive_message, waits),
            "BatchReceiveMessage": Action(self.batch_receive_message, waits | {"numOfMsg"}),
            "DeleteMessage": Action(self.delete_message, one | receipts),
            "BatchDeleteMessage": Action(self.batch_delete_message, one, receipts),
        }

    async def create_queue(self, asked: Asked) -> CreateQueueAnswer:
        """Make a queue."""
        with told_as((4000, 10020)):
            name = check_name(required(asked.params, "queueName"), parameter="queueName")
        now = self.clock()
        new = Queue(
            id=self.new_id("queue"),
            owner_uin=asked.owner_uin,
            region=asked.region,
            name=name,
            created_by=asked.created_by,
            created_at=now,
            modified_at=now,
        )
        queue = read_changes(asked.params).of(new)
        await self.store.write(partial(queues.create, queue=queue, limited=self.cloud_limits))
        return CreateQueueAnswer(queue_id=queue.id)

    async def list_queue(self, asked: Asked) -> ListQueueAnswer:
        """List queues by name."""
        offset, limit = read_page(asked.params)
        search = read_search(asked.params)
        wanted = Wanted(search=search, scope=asked.scope, offset=offset, limit=limit)
        total, found = await self.store.read_list(
            lambda tx: queues.list_queues(tx, asked.owner_uin, region=asked.region, wanted=wanted)
        )
        listed = [ListedQueue(queue_id=each.id, queue_name=each.name) for each in found]
        return ListQueueAnswer(total_count=total, queue_list=listed)

    async def get_attributes(self, asked: Asked) -> GetQueueAttributesAnswer:
        """Show a queue and how many messages it holds."""
        place = asked.queue
        now = self.clock()

        def read(tx: Tx) -> GetQueueAttributesAnswer:
            queue = queues.get_queue(tx, **place)
            held = queue_messages.count_messages(tx, [queue], now=now)
            return view_attributes(queue, held[queue.id])

        return await self.store.read_list(read)

    async def set_attributes(self, asked: Asked) -> Nothing:
        """Change what is given of a queue; for its retention see `whole_queues.extend`."""
        changes = read_changes(asked.params)
        place = asked.queue
        now = self.clock()

        def change(tx: Tx) -> Queue:
            changed = changes.of(queues.lock_queue(tx, **place))
            queues.change(tx, changed, now=now)
            return changed

        changed = await self.store.write(change)
        if changes.retention_s is not None:
            await whole_queues.extend(self.store, changed, now=now)
        return Nothing()

    async def delete_queue(self, asked: Asked) -> Nothing:
        """Delete a queue that nothing else fills."""
        place = asked.queue
        await whole_queues.delete(self.store, **place)
        return Nothing()

    async def rewind_queue(self, asked: Asked) -> Nothing:
        """Make deleted messages receivable again."""
        place = asked.queue
        start_at = read_start_time(asked.params)
        queue = await self.store.read_point(lambda tx: queues.get_queue(tx, **place))
        await whole_queues.rewind(self.store, queue, start_at=start_at, now=self.clock())
        return Nothing()

    async def send_message(self, asked: Asked) -> SendMessageAnswer:
        """Put a message into a queue."""
        bodies = [required(asked.params, "msgBody").encode()]
        (message_id,) = await self._send(asked, bodies=bodies)
        return SendMessageAnswer(msg_id=message_id)

    async def batch_send_message(self, asked: Asked) -> BatchSendMessageAnswer:
        """Put messages into a queue, all of them or none."""
        bodies = [body.encode() for body in array(asked.params, "msgBody")]
        if sum(map(len, bodies)) > limits.BATCH_BYTES_MAX:
            raise failure((4470, 10300), f"batch is larger than {limits.BATCH_BYTES_MAX} bytes")
        sent = await self._send(asked, bodies=bodies)
        return BatchSendMessageAnswer(msg_list=[SendMessageAnswer(msg_id=each) for each in sent])

    async def _send(self, asked: Asked, *, bodies: list[bytes]) -> list[str]:
        """Put messages into a queue; returns their ids. Raises ClassicError."""
        if not all(bodies):
            raise failure((4000, 10120), "message body is empty")
        messages = [(new_request_id(), body) for body in bodies]
        place = asked.queue
        now = self.clock()

        def send(tx: Tx) -> None:
            queue = queues.hold_queue(tx, **place)
            longest = max(map(len, bodies))
            if longest > queue.max_message_bytes:
                text = f"message is larger than {queue.max_message_bytes} bytes"
                raise failure((4400, 10230), text)
            delay_s = number(
                asked.params,
                "delaySeconds",
                low=0,
                high=queue.retention_s,
                default=0,
                range_module=10692,
            )
            queue_messages.send(tx, queue, messages, now=now, delay_s=delay_s)

        await self.store.write(send)
        return [message_id for message_id, _ in messages]

    async def receive_message(self, asked: Asked) -> ReceivedMessage:
        """Receive one message, waiting for it up to the polling wait."""
        return (await self._receive(asked, count=1))[0]

    async def batch_receive_message(self, asked: Asked) -> BatchReceiveMessageAnswer:
        """Receive what there is, up to `numOfMsg`, waiting for the first."""
        required(asked.params, "numOfMsg")
        count = number(
            asked.params,
            "numOfMsg",
            low=1,
            high=limits.BATCH_MAX,
            default=1,
            range_module=10370,
        )
        return BatchReceiveMessageAnswer(msg_info_list=await self._receive(asked, count=count))

    async def _receive(self, asked: Asked, *, count: int) -> list[ReceivedMessage]:
        """Receive at least one message. Raises ClassicError 7000/10200 if none comes in time.

        Why whoever has hung up takes nothing, and gives back what was taken meanwhile: the message
        would be hidden from all others until it becomes visible again, and one of its receives
        would be gone.
        """
        place = asked.queue
        has_left = HAS_LEFT.get()
        asked_s = read_wait(asked.params)
        started_at = anyio.current_time()  # which nobody sets back
        while True:
            now = self.clock()
            queue = await self.store.read_point(lambda tx: queues.get_queue(tx, **place))
            seen = self.store.signals.count(queue.signal)
            look = partial(queue_messages.next_visible_at, queue=queue, now=now)
            visible_at = await self.store.read_point(look)
            if has_left():
                raise failure((7000, 10200), "no message")
            if visible_at is not None and visible_at <= now:
                take = partial(
                    queue_messages.receive, queue=queue, count=count, now=now, new_secret=new_secret
                )
                taken = await self.store.write(take)
                if taken.messages and has_left():
                    await self._give_back(queue, messages=taken.messages)
                    raise failure((7000, 10200), "no message")
                if taken.messages:
                    return [view_message(message) for message in taken.messages]
                if not taken.is_all:
                    continue
            wait_s = queue.polling_wait_s if asked_s is None else asked_s
            left_s = started_at + wait_s - anyio.current_time()
            if left_s <= 0:
                raise failure((7000, 10200), "no message")
            hidden_s = left_s if visible_at is None else (visible_at - now).total_seconds()
            at_most_s = min(POLL_S, left_s, max(hidden_s, WAIT_S_MIN))
            await self.store.signals.wait(queue.signal, seen=seen, at_most_s=at_most_s)

    async def _give_back(self, queue: Queue, *, messages: Sequence[Received]) -> None:
        """Have messages be as they were before they were received."""
        now = self.clock()
        await self.store.write(
            partial(queue_messages.give_back, queue=queue, messages=messages, now=now)
        )

    async def delete_message(self, asked: Asked) -> Nothing:
        """Delete a received message."""
        receipt = required(asked.params, "receiptHandle")
        if await self._delete(asked, receipts=[receipt]):
            raise failure((4430, 10260), "receipt handle is invalid or expired")
        return Nothing()

    async def batch_delete_message(self, asked: Asked) -> Classic:
        """Delete received messages; those whose handle is no good are named in the answer."""
        receipts = array(asked.params, "receiptHandle")
        failed = await self._delete(asked, receipts=receipts)
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

    async def _delete(self, asked: Asked, *, receipts: list[str]) -> list[str]:
        """Delete received messages; returns the handles that are no good."""
        place = asked.queue
        now = self.clock()

        def delete(tx: Tx) -> list[str]:
            queue = queues.get_queue(tx, **place)
            return [
                receipt
                for receipt in receipts
                if not queue_messages.delete(tx, queue, receipt=receipt, now=now)
            ]

        return await self.store.write(delete)
