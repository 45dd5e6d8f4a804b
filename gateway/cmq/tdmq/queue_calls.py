"""The handlers of tdmq 2020-02-17 for queues: check, then one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime, timedelta

from gateway.call import Call, Grant
from gateway.clock import Clock
from gateway.cmq import dead_letter_queues, limits, queue_messages, queues, tags, whole_queues
from gateway.cmq.dead_letter_queues import DeadLetters
from gateway.cmq.naming import check_name
from gateway.cmq.queues import DeadLetterPolicy, Queue, QueueChanges
from gateway.cmq.tdmq import datatypes as wire
from gateway.cmq.tdmq.requests import read_queue_list, read_tags
from gateway.cmq.tdmq.views import view_queue
from gateway.errors import InvalidParameterValue, UnsupportedOperation
from gateway.ids import NewId, new_request_id
from gateway.service import Empty, Operation
from gateway.store import Store, Tx

MILLISECONDS_MIN = 10**11
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND = (datetime(9999, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class QueueCalls:
    """One method per action. cloud_limits: the vendor's quotas hold."""

    store: Store
    _: KW_ONLY
    clock: Clock
    new_id: NewId
    cloud_limits: bool = False

    @property
    def operations(self) -> Mapping[str, Operation]:
        """The actions and how they are served."""
        return {
            "CreateCmqQueue": Operation(wire.CreateCmqQueueRequest, self.create_queue),
            "ModifyCmqQueueAttribute": Operation(
                wire.ModifyCmqQueueAttributeRequest, self.modify_queue
            ),
            "DeleteCmqQueue": Operation(wire.QueueRequest, self.delete_queue),
            "DescribeCmqQueues": Operation(wire.DescribeCmqQueuesRequest, self.describe_queues),
            "DescribeCmqQueueDetail": Operation(wire.QueueRequest, self.describe_queue),
            "UnbindCmqDeadLetter": Operation(wire.UnbindCmqDeadLetterRequest, self.unbind),
            "SendCmqMsg": Operation(wire.SendCmqMsgRequest, self.send_message),
            "ClearCmqQueue": Operation(wire.QueueRequest, self.clear_queue),
            "RewindCmqQueue": Operation(wire.RewindCmqQueueRequest, self.rewind_queue),
        }

    async def create_queue(
        self, call: Call, grant: Grant, request: wire.CreateCmqQueueRequest
    ) -> wire.CreateCmqQueueResponse:
        """Make a queue."""
        now = self.clock()
        new = Queue(
            id=self.new_id("queue"),
            owner_uin=grant.principal.owner_uin,
            region=call.region,
            name=check_name(request.queue_name, parameter="QueueName"),
            created_by=grant.principal.uin,
            created_at=now,
            modified_at=now,
        )
        queue = read_changes(request).of(new)
        dead_letters = read_dead_letters(request)
        labels = read_tags(request.tags)

        def create(tx: Tx) -> None:
            bound = dead_letter_queues.bind(tx, queue, dead_letters)
            queues.create(tx, bound, labels=labels, limited=self.cloud_limits)

        await self.store.write(create)
        return wire.CreateCmqQueueResponse(queue_id=queue.id)

    async def modify_queue(
        self, call: Call, grant: Grant, request: wire.ModifyCmqQueueAttributeRequest
    ) -> Empty:
        """Change what is given of a queue; for its retention see `whole_queues.extend`."""
        changes = read_changes(request)
        dead_letters = read_dead_letters(request)
        where = {"region": call.region, "name": request.queue_name}
        now = self.clock()

        def modify(tx: Tx) -> Queue:
            queue = dead_letter_queues.lock(
                tx, grant.principal.owner_uin, **where, target=dead_letters.queue_name
            )
            bound = dead_letter_queues.bind(tx, changes.of(queue), dead_letters)
            queues.change(tx, bound, now=now)
            return bound

        changed = await self.store.write(modify)
        if changes.retention_s is not None:
            await whole_queues.extend(self.store, changed, now=now)
        return Empty()

    async def unbind(
        self, call: Call, grant: Grant, request: wire.UnbindCmqDeadLetterRequest
    ) -> Empty:
        """End a queue's dead letters; what has been set aside stays where it is."""
        where = {"region": call.region, "name": request.source_queue_name}
        now = self.clock()

        def unbind(tx: Tx) -> None:
            queue = queues.lock_queue(tx, grant.principal.owner_uin, **where)
            queues.change(tx, dead_letter_queues.unbound(queue), now=now)

        await self.store.write(unbind)
        return Empty()

    async def delete_queue(self, call: Call, grant: Grant, request: wire.QueueRequest) -> Empty:
        """Delete a queue that nothing else fills."""
        where = {"region": call.region, "name": request.queue_name}
        await whole_queues.delete(self.store, owner_uin=grant.principal.owner_uin, **where)
        return Empty()

    async def describe_queues(
        self, call: Call, grant: Grant, request: wire.DescribeCmqQueuesRequest
    ) -> wire.DescribeCmqQueuesResponse:
        """List queues by name."""
        now = self.clock()
        owner_uin = grant.principal.owner_uin
        wanted = read_queue_list(request, scope=grant.scope)

        def read(tx: Tx) -> wire.DescribeCmqQueuesResponse:
            total, found = queues.list_queues(tx, owner_uin, region=call.region, wanted=wanted)
            return wire.DescribeCmqQueuesResponse(
                queue_list=view_queues(tx, found, now=now), total_count=total
            )

        return await self.store.read_list(read)

    async def describe_queue(
        self, call: Call, grant: Grant, request: wire.QueueRequest
    ) -> wire.DescribeCmqQueueDetailResponse:
        """Show one queue."""
        where = {"region": call.region, "name": request.queue_name}
        now = self.clock()

        def read(tx: Tx) -> wire.CmqQueue:
            queue = queues.get_queue(tx, grant.principal.owner_uin, **where)
            return view_queues(tx, [queue], now=now)[0]

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
            delay_s = request.delay_seconds
            if not 0 <= delay_s <= queue.retention_s:
                raise InvalidParameterValue(
                    f"`DelaySeconds` must be from 0 to {queue.retention_s}, the queue's retention."
                )
            queue_messages.send(tx, queue, [(message_id, body)], now=now, delay_s=delay_s)

        await self.store.write(send)
        return wire.MessageResponse(result=True, msg_id=message_id)

    async def clear_queue(self, call: Call, grant: Grant, request: wire.QueueRequest) -> Empty:
        """Drop what a queue holds by now, what it keeps for a rewind too."""
        where = {"region": call.region, "name": request.queue_name}
        queue = await self._get_queue(grant, **where)
        await whole_queues.clear(self.store, queue, now=self.clock())
        return Empty()

    async def rewind_queue(
        self, call: Call, grant: Grant, request: wire.RewindCmqQueueRequest
    ) -> Empty:
        """Make deleted messages receivable again."""
        where = {"region": call.region, "name": request.queue_name}
        queue = await self._get_queue(grant, **where)
        start_at = read_start_time(request.start_consume_time)
        await whole_queues.rewind(self.store, queue, start_at=start_at, now=self.clock())
        return Empty()

    async def _get_queue(self, grant: Grant, *, region: str, name: str) -> Queue:
        return await self.store.read_point(
            lambda tx: queues.get_queue(tx, grant.principal.owner_uin, region=region, name=name)
        )


def view_queues(tx: Tx, found: Sequence[Queue], *, now: datetime) -> list[wire.CmqQueue]:
    """How queues look on the wire, with what they hold."""
    held = queue_messages.count_messages(tx, found, now=now)
    target_ids = [each.dead_letter_queue_id for each in found if each.dead_letter_queue_id]
    names = queues.read_names(tx, target_ids) if target_ids else {}
    sources = queues.list_sources(tx, found)
    labels = tags.of(tx, [each.id for each in found])
    return [
        view_queue(
            each,
            backlog=held[each.id],
            dead_letter_queue=names.get(each.dead_letter_queue_id or "", ""),
            sources=sources.get(each.id, ()),
            tags=labels.get(each.id, ()),
        )
        for each in found
    ]


def read_changes(request: wire.QueueAttributes) -> QueueChanges:
    """The attributes that are given. Raises InvalidParameterValue; UnsupportedOperation.

    Why no transactions: a transactional queue asks its senders what became of a message, and the
    API has no call by which one of them could answer.
    """
    for parameter, value in {
        "Transaction": request.transaction,
        "FirstQueryInterval": request.first_query_interval,
        "MaxQueryCount": request.max_query_count,
    }.items():
        if value:
            raise UnsupportedOperation(f"`{parameter}`: there are no transactional queues here.")
    rewind_mb = request.retention_size_in_mb
    return QueueChanges(
        max_messages=limits.QUEUE_MESSAGES.check(request.max_msg_heap_num),
        polling_wait_s=limits.POLLING_WAIT_S.check(request.polling_wait_seconds),
        visibility_s=limits.VISIBILITY_S.check(request.visibility_timeout),
        max_message_bytes=limits.MESSAGE_BYTES.check(request.max_msg_size),
        retention_s=limits.QUEUE_RETENTION_S.check(request.msg_retention_seconds),
        trace=request.trace,
        rewind_s=limits.REWIND_S.check(request.rewind_seconds),
        rewind_mb=limits.REWIND_MB.check(rewind_mb) if rewind_mb else rewind_mb,
    )


def read_dead_letters(request: wire.QueueAttributes) -> DeadLetters:
    """Where dead letters shall go, and when. Raises InvalidParameterValue."""
    policy = limits.DEAD_LETTER_POLICY.check(request.policy)
    return DeadLetters(
        queue_name=request.dead_letter_queue_name or None,
        policy=None if policy is None else DeadLetterPolicy(policy),
        max_receive_count=limits.RECEIVE_COUNT.check(request.max_receive_count),
        max_time_to_live_s=limits.TIME_TO_LIVE_S.check(request.max_time_to_live),
    )


def read_start_time(number: int) -> datetime:
    """The time that a queue is rewound to. Raises InvalidParameterValue.

    Why both units: tdmq does not say which it means. Its other times are in milliseconds, the
    classic API's in seconds; no time to rewind to is the same number in both.
    """
    seconds = number / 1_000 if number >= MILLISECONDS_MIN else number
    if not 0 <= seconds <= _LAST_SECOND:
        raise InvalidParameterValue(f"`StartConsumeTime` is no time: `{number}`.")
    return _EPOCH + timedelta(seconds=seconds)
