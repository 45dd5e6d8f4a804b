"""The statements on queues and the messages in them."""

from sqlalchemy import bindparam, delete, func, insert, select, update

from gateway.cmq.tables import queue, queue_message
from gateway.store import Moment

ADD_QUEUE = insert(queue)
QUEUE_BY_KEY = select(queue).where(queue.c.key == bindparam("key"))
LOCK_QUEUE = QUEUE_BY_KEY.with_for_update()
HOLD_QUEUE = QUEUE_BY_KEY.with_for_update(read=True, key_share=True)
DROP_QUEUE = delete(queue).where(queue.c.id == bindparam("id_"))

ADD_QUEUE_MESSAGES = insert(queue_message)

RECEIVABLE = (
    select(queue_message)
    .where(
        queue_message.c.queue_id == bindparam("queue_id"),
        queue_message.c.deleted_at.is_(None),
        queue_message.c.visible_at <= bindparam("now"),
        queue_message.c.expires_at > bindparam("now"),
    )
    .order_by(queue_message.c.position)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
HAND_OUT = (
    update(queue_message)
    .where(queue_message.c.position == bindparam("position_"))
    .values(
        receipt=bindparam("receipt_"),
        visible_at=bindparam("visible_at_"),
        first_dequeued_at=func.coalesce(
            queue_message.c.first_dequeued_at, bindparam("now", type_=Moment)
        ),
        dequeue_count=queue_message.c.dequeue_count + 1,
    )
)
NEXT_VISIBLE = (
    select(queue_message.c.visible_at)
    .where(
        queue_message.c.queue_id == bindparam("queue_id"),
        queue_message.c.deleted_at.is_(None),
        queue_message.c.expires_at > bindparam("now"),
    )
    .order_by(queue_message.c.visible_at)
    .limit(1)
)
DELETE_BY_RECEIPT = delete(queue_message).where(
    queue_message.c.position == bindparam("position"),
    queue_message.c.queue_id == bindparam("queue_id"),
    queue_message.c.receipt == bindparam("receipt"),
    queue_message.c.visible_at > bindparam("now"),
    queue_message.c.expires_at > bindparam("now"),
)
DROP_EXPIRED = delete(queue_message).where(queue_message.c.expires_at <= bindparam("now"))
_VISIBLE = queue_message.c.visible_at <= bindparam("now")
COUNT_MESSAGES = (
    select(
        queue_message.c.queue_id,
        func.count().filter(_VISIBLE).label("active"),
        func.count().filter(~_VISIBLE, queue_message.c.receipt.is_not(None)).label("inactive"),
        func.count().filter(~_VISIBLE, queue_message.c.receipt.is_(None)).label("delayed"),
        func.min(queue_message.c.enqueued_at).label("oldest"),
    )
    .where(
        queue_message.c.queue_id.in_(bindparam("queue_ids", expanding=True)),
        queue_message.c.deleted_at.is_(None),
        queue_message.c.expires_at > bindparam("now"),
    )
    .group_by(queue_message.c.queue_id)
)
