"""The statements on queues and the messages in them."""

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal_column,
    not_,
    or_,
    select,
    type_coerce,
    update,
)

from gateway.cmq.tables import queue, queue_message
from gateway.store import Moment

AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)
"""When a message that is not delayed can be received: whatever the clock says by then.

Why not the time of its arrival: a clock that is set back would hide what has arrived before, and
what arrives after would overtake it.
"""
ADD_QUEUE = insert(queue)
QUEUE_BY_KEY = select(queue).where(queue.c.key == bindparam("key"))
LOCK_QUEUE = QUEUE_BY_KEY.with_for_update()
HOLD_QUEUE = QUEUE_BY_KEY.with_for_update(read=True, key_share=True)
COUNT_QUEUES = (
    select(func.count())
    .select_from(queue)
    .where(queue.c.owner_uin == bindparam("owner_uin"), queue.c.region == bindparam("region"))
)
CHANGING = (
    *("max_messages", "polling_wait_s", "visibility_s", "max_message_bytes", "retention_s"),
    *("trace", "rewind_s", "rewind_mb", "dead_letter_queue_id", "dead_letter_policy"),
    *("max_receive_count", "max_time_to_live_s", "modified_at"),
)
CHANGE_QUEUE = (
    update(queue)
    .where(queue.c.id == bindparam("id_"))
    .values({name: bindparam(f"{name}_") for name in CHANGING})
)
DROP_QUEUE = delete(queue).where(queue.c.id == bindparam("id_"))
NAMES = select(queue.c.id, queue.c.name).where(
    queue.c.id.in_(bindparam("queue_ids", expanding=True))
)
SOURCES = (
    select(queue)
    .where(queue.c.dead_letter_queue_id.in_(bindparam("queue_ids", expanding=True)))
    .order_by(queue.c.name)
)
BOUND_QUEUES = select(queue).where(queue.c.dead_letter_queue_id.is_not(None)).order_by(queue.c.id)
_source, _target = queue.alias("source"), queue.alias("target")
HOLD_TARGET = (
    select(_target.c.id, _target.c.retention_s)
    .join(_source, _source.c.dead_letter_queue_id == _target.c.id)
    .where(_source.c.id == bindparam("queue_id"))
    .with_for_update(read=True, key_share=True, of=_target)
)

ADD_QUEUE_MESSAGES = insert(queue_message)

_IS_OF_QUEUE = queue_message.c.queue_id == bindparam("queue_id")
_IS_THERE = queue_message.c.deleted_at.is_(None)
_IS_KEPT = queue_message.c.deleted_at.is_not(None)  # deleted, and can be had back
_IS_VISIBLE = queue_message.c.visible_at <= bindparam("now")
_HAS_ARRIVED = queue_message.c.enqueued_at <= bindparam("now")
_IS_ALIVE = queue_message.c.expires_at > bindparam("now")

_LOOKED_AT = (
    *(each for each in queue_message.c if each is not queue_message.c.body),
    func.length(queue_message.c.body).label("bytes"),
)
"""A message but for its body, which is read only of what is handed out: there may be megabytes."""
_WALKED = type_coerce(queue_message.c.visible_at.op("+")(literal_column("0")), Moment)
RECEIVE_SOME, RECEIVE_FIRST = (
    select(*_LOOKED_AT)
    .where(_IS_OF_QUEUE, _IS_THERE, is_visible, _IS_ALIVE)
    .order_by(queue_message.c.position)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
    for is_visible in (_IS_VISIBLE, bindparam("now", type_=Moment) >= _WALKED)
)
"""The same rows: the one finds all that are visible and sorts them, the other walks the queue.

Why two: sorting costs what can be received, walking what cannot and is older. The databases do
not know which is more; SQLite always sorts where it can, and 50,000 messages took it 37 ms. The
sum keeps the column out of an index.
"""
MANY = 256
HAS_MANY = (
    select(queue_message.c.visible_at)
    .where(_IS_OF_QUEUE, _IS_THERE, _IS_VISIBLE)
    .limit(1)
    .offset(MANY - 1)
)
BODIES = select(queue_message.c.position, queue_message.c.body).where(
    queue_message.c.position.in_(bindparam("positions", expanding=True))
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
VISIBILITIES = select(queue.c.id, queue.c.visibility_s).order_by(queue.c.id)
_IS_HIDDEN = and_(_IS_THERE, queue_message.c.receipt.is_not(None))
HIDDEN_BEYOND = (
    select(queue_message.c.position)
    .where(_IS_OF_QUEUE, _IS_HIDDEN, queue_message.c.visible_at > bindparam("latest", type_=Moment))
    .limit(bindparam("limit"))
)
SHOW = (
    update(queue_message)
    .where(
        queue_message.c.position.in_(bindparam("positions", expanding=True)),
        _IS_HIDDEN,
        queue_message.c.visible_at > bindparam("now", type_=Moment),
    )
    .values(visible_at=bindparam("at_once", type_=Moment))
)
NEXT_VISIBLE = (
    select(queue_message.c.visible_at)
    .where(_IS_OF_QUEUE, _IS_THERE, _IS_ALIVE)
    .order_by(queue_message.c.visible_at)
    .limit(1)
)

_IS_RECEIVED = and_(
    queue_message.c.position == bindparam("position_"),
    queue_message.c.queue_id == bindparam("queue_id_"),
    queue_message.c.receipt == bindparam("receipt_"),
    _IS_THERE,
    queue_message.c.visible_at > bindparam("now", type_=Moment),
    queue_message.c.expires_at > bindparam("now", type_=Moment),
)
DELETE_BY_RECEIPT = delete(queue_message).where(_IS_RECEIVED)
KEEP_BY_RECEIPT = (
    update(queue_message)
    .where(_IS_RECEIVED)
    .values(
        deleted_at=bindparam("now", type_=Moment), expires_at=bindparam("kept_until"), receipt=None
    )
)
GIVE_BACK = (
    update(queue_message)
    .where(_IS_RECEIVED)
    .values(
        receipt=None,
        visible_at=bindparam("visible_at_"),
        first_dequeued_at=case(
            (queue_message.c.dequeue_count > 1, queue_message.c.first_dequeued_at)
        ),
        dequeue_count=queue_message.c.dequeue_count - 1,
    )
)

_FIRST, _LAST = (
    select(queue_message.c.position)
    .where(_IS_OF_QUEUE, _IS_THERE)
    .order_by(by)
    .limit(1)
    .scalar_subquery()
    for by in (queue_message.c.position, queue_message.c.position.desc())
)
SPAN = select(_FIRST.label("first"), _LAST.label("last"))
COUNT_ALIVE = (
    select(func.count()).select_from(queue_message).where(_IS_OF_QUEUE, _IS_THERE, _IS_ALIVE)
)

_OF_QUEUES = queue_message.c.queue_id.in_(bindparam("queue_ids", expanding=True))
COUNT_MESSAGES = (
    select(
        queue_message.c.queue_id,
        func.count().filter(_IS_VISIBLE).label("active"),
        func.count().filter(~_IS_VISIBLE, queue_message.c.receipt.is_not(None)).label("inactive"),
        func.count().filter(~_IS_VISIBLE, queue_message.c.receipt.is_(None)).label("delayed"),
        func.min(queue_message.c.enqueued_at).label("oldest"),
    )
    .where(_OF_QUEUES, _IS_THERE, _IS_ALIVE)
    .group_by(queue_message.c.queue_id)
)
COUNT_KEPT = (
    select(queue_message.c.queue_id, func.count().label("kept"))
    .where(_OF_QUEUES, _IS_KEPT, _IS_ALIVE)
    .group_by(queue_message.c.queue_id)
)

# Beside the pages of positions stands again what may have changed before PostgreSQL locks a row.
_position = queue_message.c.position
_REWOUND = (
    select(_position)
    .where(
        queue_message.c.queue_id == bindparam("queue_id_"),
        _IS_KEPT,
        queue_message.c.enqueued_at >= bindparam("start_at"),
        queue_message.c.deleted_at <= bindparam("now"),
        _IS_ALIVE,
    )
    .order_by(queue_message.c.enqueued_at)
    .limit(bindparam("limit"))
)
REWIND = (
    update(queue_message)
    .where(_position.in_(_REWOUND), _IS_KEPT)
    .values(
        deleted_at=None,
        receipt=None,
        visible_at=bindparam("now", type_=Moment),
        expires_at=bindparam("rewound_expires_at"),
        first_dequeued_at=None,
        dequeue_count=0,
    )
)
_LONGER = type_coerce(queue_message.c.enqueued_at, BigInteger) + bindparam(
    "retention_us", type_=BigInteger
)
_ENDS_SOONER = type_coerce(queue_message.c.expires_at, BigInteger) < _LONGER
ENDING_SOONER = (
    select(_position)
    .where(_IS_OF_QUEUE, _IS_THERE, _IS_ALIVE, _ENDS_SOONER, _position > bindparam("after"))
    .order_by(_position)
    .limit(bindparam("limit"))
)
EXTEND = (
    update(queue_message)
    .where(
        _position.in_(bindparam("positions", expanding=True)),
        queue_message.c.queue_id == bindparam("queue_id_"),
        _IS_THERE,
        _IS_ALIVE,
        _ENDS_SOONER,
    )
    .values(expires_at=type_coerce(_LONGER, Moment))
)
CLEAR, CLEAR_KEPT, DROP, DROP_KEPT = (
    delete(queue_message).where(
        _position.in_(
            select(_position)
            .where(_IS_OF_QUEUE, *which)
            .order_by(_position)
            .limit(bindparam("limit"))
        ),
        _IS_OF_QUEUE,
    )
    for which in (
        (_IS_THERE, _HAS_ARRIVED),
        (_IS_KEPT, _HAS_ARRIVED),
        (_IS_THERE,),
        (_IS_KEPT,),
    )
)
"""Two statements for one thing: each walks an index that has only what is there, or kept."""

MOVE = (
    update(queue_message)
    .where(_position.in_(bindparam("positions", expanding=True)))
    .values(
        queue_id=bindparam("target_id"),
        enqueued_at=bindparam("now", type_=Moment),
        visible_at=bindparam("at_once", type_=Moment),
        expires_at=bindparam("target_expires_at"),
        first_dequeued_at=None,
        dequeue_count=0,
        receipt=None,
    )
)
_DEAD = (
    select(_position)
    .where(_IS_OF_QUEUE, _IS_THERE, _IS_VISIBLE)
    .order_by(_position)
    .limit(bindparam("limit"))
)
DEAD_BY_RECEIVES = _DEAD.where(
    queue_message.c.dequeue_count >= bindparam("max_receive_count"), _IS_ALIVE
)
DEAD_BY_AGE = _DEAD.where(
    queue_message.c.enqueued_at <= bindparam("oldest"),
    or_(queue_message.c.dequeue_count > 0, queue_message.c.visible_at <= bindparam("oldest")),
)
LOCK_VISIBLE = (
    select(*_LOOKED_AT)
    .where(
        _position.in_(bindparam("positions", expanding=True)), _IS_OF_QUEUE, _IS_THERE, _IS_VISIBLE
    )
    .with_for_update(skip_locked=True)
)
_SET_ASIDE_BY_AGE = select(queue.c.id).where(queue.c.dead_letter_policy == literal_column("1"))
DROP_EXPIRED = delete(queue_message).where(
    _position.in_(
        select(_position)
        .where(
            queue_message.c.expires_at <= bindparam("now"),
            not_(and_(_IS_THERE, queue_message.c.queue_id.in_(_SET_ASIDE_BY_AGE))),
        )
        .order_by(queue_message.c.expires_at)
        .limit(bindparam("limit"))
    ),
    queue_message.c.expires_at <= bindparam("now"),
)
"""What is set aside by age never ends here, not even if its retention is over first."""
