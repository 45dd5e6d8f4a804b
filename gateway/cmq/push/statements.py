"""The statements on deliveries, on dead letters, and on what HTTP subscribers' rows say of them."""

from typing import Any

from sqlalchemy import (
    ColumnElement,
    Insert,
    Text,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)

from gateway.cmq.tables import DELIVERED, WAITING, dead_letter, delivery, subscription, topic
from gateway.events.tables import message
from gateway.store import Moment

IS_WAITING = delivery.c.state == literal_column(f"'{WAITING}'")
"""Written out: only so does SQLite use an index that holds nothing else."""
_OF_SUBSCRIPTION = delivery.c.subscription_id == bindparam("subscription_id_")
_AT_POSITIONS = delivery.c.position.in_(bindparam("positions", expanding=True))

ADD_DELIVERIES = insert(delivery)

_first = select(func.min(delivery.c.subscription_id).label("id")).where(IS_WAITING)
_waiting = _first.cte("waiting", recursive=True)
_next = (
    select(func.min(delivery.c.subscription_id))
    .where(IS_WAITING, delivery.c.subscription_id > _waiting.c.id)
    .scalar_subquery()
)
_waiting = _waiting.union_all(select(_next).where(_waiting.c.id.is_not(None)))
_inner = delivery.alias()
_head = (
    select(func.min(_inner.c.position))
    .where(
        _inner.c.state == literal_column(f"'{WAITING}'"), _inner.c.subscription_id == _waiting.c.id
    )
    .correlate(_waiting)
    .scalar_subquery()
)
WAITING_SUBSCRIPTIONS = (
    select(
        delivery.c.subscription_id,
        delivery.c.next_at,
        delivery.c.changed_at,
        subscription.c.modified_at,
        subscription.c.failing_since,
    )
    .select_from(_waiting)
    .join(delivery, and_(delivery.c.subscription_id == _waiting.c.id, delivery.c.position == _head))
    .join(subscription, subscription.c.id == delivery.c.subscription_id)
)
"""The subscriptions that something waits for, and when the first of it is due: two steps down the
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
WAITING_MESSAGES = (
    select(
        delivery.c.position,
        delivery.c.attempts,
        delivery.c.expires_at,
        message.c.id,
        message.c.replay,
        message.c.tags,
        message.c.created_at,
        func.length(message.c.body).label("body_bytes"),
        case((func.length(message.c.body) <= bindparam("short_bytes"), message.c.body)).label(
            "short_body"
        ),
    )
    .join(message, message.c.position == delivery.c.position)
    .where(IS_WAITING, _OF_SUBSCRIPTION)
    .order_by(delivery.c.position)
    .limit(bindparam("limit"))
)
"""Long bodies are asked for besides, once it is known how many of them there is room for."""
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
SET_HEALTH = (
    update(subscription)
    .where(subscription.c.id == bindparam("subscription_id_"))
    .values(failing_since=bindparam("failing_since_"), paused_at=bindparam("paused_at_"))
)
COUNT_WAITING_FOR = select(func.count()).select_from(delivery).where(IS_WAITING, _OF_SUBSCRIPTION)
COUNT_WAITING = select(func.count()).select_from(delivery).where(IS_WAITING)
COUNT_PAUSED = (
    select(func.count()).select_from(subscription).where(subscription.c.paused_at.is_not(None))
)

SECRETS = select(
    subscription.c.sealed_secret, subscription.c.sealed_old_secret, subscription.c.old_secret_until
).where(subscription.c.id == bindparam("id_"))
LOCK_SECRETS = SECRETS.with_for_update()
MAKE_SECRET = (
    update(subscription)
    .where(subscription.c.id == bindparam("id_"), subscription.c.sealed_secret.is_(None))
    .values(sealed_secret=bindparam("sealed"))
)
SET_SECRETS = (
    update(subscription)
    .where(subscription.c.id == bindparam("id_"))
    .values(
        sealed_secret=bindparam("sealed"),
        sealed_old_secret=bindparam("sealed_old"),
        old_secret_until=bindparam("old_until"),
    )
)

_LAST_ATTEMPT = func.coalesce(
    literal_column("'; the last attempt: '", Text).concat(delivery.c.why), ""
)
_DEAD: dict[str, ColumnElement[Any]] = {
    "message_id": message.c.id,
    "topic_key": message.c.topic_key,
    "subscription_id": delivery.c.subscription_id,
    "subscription_name": subscription.c.name,
    "endpoint": subscription.c.endpoint,
    "stream_id": message.c.stream_id,
    "seq": message.c.seq,
    "event_name": message.c.event_name,
    "routing_key": message.c.routing_key,
    "tags": message.c.tags,
    "body": message.c.body,
    "created_at": message.c.created_at,
    "attempts": delivery.c.attempts,
    "why": bindparam("why", type_=Text).concat(_LAST_ATTEMPT),
    "died_at": bindparam("now", type_=Moment),
}


def _bury(*which: ColumnElement[bool]) -> Insert:
    """Make dead letters of the waiting deliveries that are meant; they are deleted besides."""
    dead = (
        select(*_DEAD.values())
        .select_from(delivery)
        .join(message, message.c.position == delivery.c.position)
        .join(subscription, subscription.c.id == delivery.c.subscription_id)
        .where(IS_WAITING, _OF_SUBSCRIPTION, *which)
        .order_by(delivery.c.position)
    )
    return insert(dead_letter).from_select(list(_DEAD), dead)


BURY = _bury(_AT_POSITIONS)
BURY_ALL = _bury()
DROP_BURIED = delete(delivery).where(IS_WAITING, _OF_SUBSCRIPTION, _AT_POSITIONS)
DROP_ALL_BURIED = delete(delivery).where(IS_WAITING, _OF_SUBSCRIPTION)
EXPIRED = (
    select(delivery.c.position)
    .where(IS_WAITING, _OF_SUBSCRIPTION, delivery.c.expires_at <= bindparam("now"))
    .order_by(delivery.c.position)
    .limit(bindparam("limit"))
)
