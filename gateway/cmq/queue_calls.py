"""The handlers of tdmq 2020-02-17 for queues: check, then one transaction."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from gateway.call import Call, Grant
from gateway.clock import Clock
from gateway.cmq import datatypes as wire
from gateway.cmq import limits, queues
from gateway.cmq.lists import asks_for_tags, read_page, refuse_tags
from gateway.cmq.naming import check_name
from gateway.cmq.queues import Backlog, Queue
from gateway.cmq.views import view_queue
from gateway.errors import InvalidParameterValue, UnsupportedOperation
from gateway.ids import NewId, new_request_id
from gateway.service import Empty, Operation
from gateway.store import Store, Tx


@dataclass(frozen=True, slots=True)
class QueueCalls:
    """One method per action."""

    store: Store
    clock: Clock
    new_id: NewId

    @property
    def operations(self) -> Mapping[str, Operation]:
        """The actions and how they are served."""
        return {
            "CreateCmqQueue": Operation(wire.CreateCmqQueueRequest, self.create_queue),
            "DeleteCmqQueue": Operation(wire.QueueRequest, self.delete_queue),
            "DescribeCmqQueues": Operation(wire.DescribeCmqQueuesRequest, self.describe_queues),
            "DescribeCmqQueueDetail": Operation(wire.QueueRequest, self.describe_queue),
            "SendCmqMsg": Operation(wire.SendCmqMsgRequest, self.send_message),
        }

    async def create_queue(
        self, call: Call, grant: Grant, request: wire.CreateCmqQueueRequest
    ) -> wire.CreateCmqQueueResponse:
        """Make a queue."""
        refuse_tags(request.tags)
        refuse_unbuilt(request)
        now = self.clock()
        queue = Queue(
            id=self.new_id("queue"),
            owner_uin=grant.principal.owner_uin,
            region=call.region,
            name=check_name(request.queue_name, parameter="QueueName"),
            max_messages=limits.QUEUE_MESSAGES.read(request.max_msg_heap_num),
            polling_wait_s=limits.POLLING_WAIT_S.read(request.polling_wait_seconds),
            visibility_s=limits.VISIBILITY_S.read(request.visibility_timeout),
            max_message_bytes=limits.MESSAGE_BYTES.read(request.max_msg_size),
            retention_s=limits.QUEUE_RETENTION_S.read(request.msg_retention_seconds),
            trace=bool(request.trace),
            created_by=grant.principal.uin,
            created_at=now,
            modified_at=now,
        )
        await self.store.write(lambda tx: queues.create(tx, queue))
        return wire.CreateCmqQueueResponse(queue_id=queue.id)

    async def delete_queue(self, call: Call, grant: Grant, request: wire.QueueRequest) -> Empty:
        """Delete a queue that no subscription feeds."""
        where = {"region": call.region, "name": request.queue_name}
        await self.store.write(lambda tx: queues.delete(tx, grant.principal.owner_uin, **where))
        return Empty()

    async def describe_queues(
        self, call: Call, grant: Grant, request: wire.DescribeCmqQueuesRequest
    ) -> wire.DescribeCmqQueuesResponse:
        """List queues by name."""
        if asks_for_tags(request.filters):
            return wire.DescribeCmqQueuesResponse(queue_list=[], total_count=0)
        now = self.clock()
        find = partial(
            queues.list_queues,
            owner_uin=grant.principal.owner_uin,
            region=call.region,
            search=request.queue_name or "",
            names=request.queue_name_list or (),
            scope=grant.scope,
            page=read_page(request.offset, request.limit),
        )

        def read(tx: Tx) -> wire.DescribeCmqQueuesResponse:
            total, found = find(tx)
            held = queues.count_messages(tx, found, now=now)
            views = [view_queue(each, backlog=held.get(each.id, Backlog())) for each in found]
            return wire.DescribeCmqQueuesResponse(queue_list=views, total_count=total)

        return await self.store.read_list(read)

    async def describe_queue(
        self, call: Call, grant: Grant, request: wire.QueueRequest
    ) -> wire.DescribeCmqQueueDetailResponse:
        """Show one queue."""
        where = {"region": call.region, "name": request.queue_name}
        now = self.clock()

        def read(tx: Tx) -> wire.CmqQueue:
            queue = queues.get_queue(tx, grant.principal.owner_uin, **where)
            held = queues.count_messages(tx, [queue], now=now)
            return view_queue(queue, backlog=held.get(queue.id, Backlog()))

        return wire.DescribeCmqQueueDetailResponse(queue_describe=await self.store.read_list(read))

    async def send_message(
        self, call: Call, grant: Grant, request: wire.SendCmqMsgRequest
    ) -> wire.MessageResponse:
        """Put a message into a queue."""
        message_id = new_request_id()
        now = self.clock()

        def send(tx: Tx) -> None:
            queue = queues.hold_queue(
                tx, grant.principal.owner_uin, region=call.region, name=request.queue_name
            )
            body = limits.check_content(request.msg_content, bytes_max=queue.max_message_bytes)
            if not 0 <= request.delay_seconds <= queue.retention_s:
                raise InvalidParameterValue(
                    f"`DelaySeconds` must be from 0 to {queue.retention_s}, the queue's retention."
                )
            delay = timedelta(seconds=request.delay_seconds)
            queues.send(tx, queue, body, message_id=message_id, now=now, delay=delay)

        await self.store.write(send)
        return wire.MessageResponse(result=True, msg_id=message_id)


def refuse_unbuilt(request: wire.CreateCmqQueueRequest) -> None:
    """Refuse the features of a queue that are not built. Raises UnsupportedOperation."""
    for parameter, value in {
        "RewindSeconds": request.rewind_seconds,
        "Transaction": request.transaction,
        "DeadLetterQueueName": request.dead_letter_queue_name,
        "RetentionSizeInMB": request.retention_size_in_mb,
    }.items():
        if value:
            raise UnsupportedOperation(f"`{parameter}` of a queue is not served yet.")
