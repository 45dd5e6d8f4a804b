"""The statements on what waits to be pushed, and on how HTTP subscribers do."""

from sqlalchemy import Integer, and_, bindparam, case, func, literal_column, select, update

from gateway.cmq.tables import DELIVERED, IS_WAITING, delivery, subscription, topic
from gateway.events.tables import message

_OF_SUBSCRIPTION = delivery.c.subscription_id == bindparam("subscription_id_")
_AT_POSITIONS = delivery.c.position.in_(bindparam("positions", expanding=True))

_first = select(func.min(delivery.c.subscription_id).label("id")).where(IS_WAITING)
_waiting = _first.cte("waiting", recursive=True)
_next = (
    select(func.min(delivery.c.subscription_id))
    .where(IS_WAITING, delivery.c.subscription_id > _waiting.c.id)
    .scalar_subquery()
)
_waiting = _waiting.union_all(select(_next).where(_waiting.c.id.is_not(None)))
_head, _tail = (
    select(end(delivery.c.position))
    .where(IS_WAITING, delivery.c.subscription_id == _waiting.c.id)
    .correlate(_waiting)
    .scalar_subquery()
    for end in (func.min, func.max)
)
WAITING_SUBSCRIPTIONS = (
    select(
        delivery.c.subscription_id,
        _tail.label("newest"),
        delivery.c.next_at,
        subscription.c.failing_since,
    )
    .select_from(_waiting)
    .join(delivery, and_(delivery.c.subscription_id == _waiting.c.id, delivery.c.position == _head))
    .join(subscription, subscription.c.id == delivery.c.subscription_id)
)
"""The subscriptions that something waits for, and when the first of it is due: three steps down the
index per subscription, however many messages."""

SUBSCRIBER = (
    select(
        subscription,
        topic.c.name.label("topic_name"),
        topic.c.owner_uin,
        topic.c.region,
    )
    .join(topic, topic.c.id == subscription.c.topic_id)
    .where(subscription.c.id == bindparam("subscription_id_"))
)
LOCK_SUBSCRIBER = SUBSCRIBER.with_for_update(of=subscription, key_share=True)
"""Against others who say how it does; not against the relay, which adds deliveries."""
LOCK_AGAINST_DELIVERIES = SUBSCRIBER.with_for_update(of=subscription)
_length = func.length(message.c.body)
_oldest = (
    select(delivery.c.position, delivery.c.attempts, delivery.c.expires_at)
    .where(IS_WAITING, _OF_SUBSCRIPTION)
    .order_by(delivery.c.position)
    .limit(bindparam("limit", type_=Integer))
    .subquery()
)
WAITING_MESSAGES = (
    select(
        _oldest,
        message.c.id,
        message.c.replay,
        message.c.tags,
        message.c.created_at,
        _length.label("body_bytes"),
        case((_length <= bindparam("short_bytes", type_=Integer), message.c.body)).label(
            "short_body"
        ),
    )
    .select_from(_oldest)
    .join(message, message.c.position == _oldest.c.position)
    .order_by(_oldest.c.position)
)
"""The positions first, by the small index of what waits: PostgreSQL, left to choose, walks all
messages. Long bodies are asked for besides, once it is known how many there is room for."""
BODIES = select(message.c.position, message.c.body).where(
    message.c.position.in_(bindparam("positions", expanding=True))
)
_MARK = (
    update(delivery)
    .where(IS_WAITING, _OF_SUBSCRIPTION)
    .values(state=DELIVERED, next_at=None, changed_at=bindparam("now"))
)
_AT_POSITION = delivery.c.position == bindparam("position_")
MARK_DELIVERED = _MARK.where(_AT_POSITIONS)
MARK_ONE_DELIVERED = _MARK.where(_AT_POSITION)
MARK_FAILED = (
    update(delivery)
    .where(IS_WAITING, _OF_SUBSCRIPTION, _AT_POSITION)
    .values(
        attempts=delivery.c.attempts + 1,
        next_at=bindparam("next_at_"),
        why=bindparam("why_"),
        changed_at=bindparam("now"),
    )
)
MAKE_DUE = update(delivery).where(_OF_SUBSCRIPTION, _AT_POSITION).values(next_at=None, attempts=0)
OLDEST_OF = select(func.min(delivery.c.position)).where(IS_WAITING, _OF_SUBSCRIPTION)
SET_HEALTH = (
    update(subscription)
    .where(subscription.c.id == bindparam("subscription_id_"))
    .values(failing_since=bindparam("failing_since_"), paused_at=bindparam("paused_at_"))
)
COUNT_WAITING_FOR = select(func.count()).select_from(delivery).where(IS_WAITING, _OF_SUBSCRIPTION)
COUNT_PAUSED = (
    select(func.count()).select_from(subscription).where(subscription.c.paused_at.is_not(None))
)

LONGEST_WAITING = (
    select(topic.c.owner_uin, topic.c.region, topic.c.name.label("topic_name"), subscription.c.name)
    .select_from(_waiting)
    .join(subscription, subscription.c.id == _waiting.c.id)
    .join(topic, topic.c.id == subscription.c.topic_id)
    .order_by(_head)
    .limit(bindparam("limit", type_=Integer))
)
"""The subscriptions whose first message waits the longest, in two steps down the index for each."""

_WALKED = delivery.c.position.op("+")(literal_column("0"))
COUNT_WAITING = select(func.count().label("messages"), func.min(_WALKED).label("oldest")).where(
    IS_WAITING
)
"""The sum keeps the column out of the index of all positions, which SQLite would walk from the
beginning, through all that was ever delivered, to the first that waits."""
WAITS_SINCE = select(func.coalesce(message.c.expanded_at, message.c.created_at)).where(
    message.c.position == bindparam("position_")
)
"""By when it was expanded: a message that is told again was made long before."""
