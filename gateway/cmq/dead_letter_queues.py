"""Dead letters of a queue: which queue takes them, and when a message is one.

A message that is received again and again, or stays too long, moves to another queue, where
somebody looks at it; it keeps its id and its body, and begins a new life there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row

from gateway.cmq import limits, queue_statements
from gateway.cmq.queues import (
    DeadLetterPolicy,
    Queue,
    list_sources,
    lock_queue,
    read,
    signal_of,
)
from gateway.errors import FailedOperation, InvalidParameterValue, MissingParameter
from gateway.store import Tx


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """What is asked for: where dead letters go, and when a message is one. None: nothing said.

    max_time_to_live_s: in seconds.
    """

    queue_name: str | None = None
    policy: DeadLetterPolicy | None = None
    max_receive_count: int | None = None
    max_time_to_live_s: int | None = None


def lock(tx: Tx, owner_uin: str, *, region: str, name: str, target: str | None) -> Queue:
    """The queue of this name, locked to be changed and bound to `target`, if that is given.

    Why a target that comes first by name is locked first: two queues that are bound to each other
    at once would else wait for each other. Raises ResourceNotFound for either.
    """
    if target is not None and target < name:
        lock_queue(tx, owner_uin, region=region, name=target)
    return lock_queue(tx, owner_uin, region=region, name=name)


def bind(tx: Tx, queue: Queue, asked: DeadLetters) -> Queue:
    """The queue with its dead letters as asked; what is not asked stays as it was.

    Raises ResourceNotFound if there is no such queue for them, InvalidParameterValue or
    MissingParameter for half a rule, FailedOperation for one that cannot be.
    """
    if asked == DeadLetters():
        return queue
    target_id = queue.dead_letter_queue_id
    if asked.queue_name:
        target_id = _lock_target(tx, queue, asked.queue_name).id
    if target_id is None:
        raise InvalidParameterValue("Dead letters need a `DeadLetterQueueName`.")
    policy = asked.policy
    if policy is None:
        policy = queue.dead_letter_policy or DeadLetterPolicy.RECEIVES
    bound = replace(
        queue,
        dead_letter_queue_id=target_id,
        dead_letter_policy=policy,
        max_receive_count=asked.max_receive_count or queue.max_receive_count,
        max_time_to_live_s=asked.max_time_to_live_s or queue.max_time_to_live_s,
    )
    if policy is DeadLetterPolicy.RECEIVES and bound.max_receive_count is None:
        raise MissingParameter("Dead letters of `Policy` 0 need a `MaxReceiveCount`.")
    if policy is DeadLetterPolicy.AGE and bound.max_time_to_live_s is None:
        raise MissingParameter("Dead letters of `Policy` 1 need a `MaxTimeToLive`.")
    return bound


def unbound(queue: Queue) -> Queue:
    """The queue without dead letters."""
    return replace(
        queue,
        dead_letter_queue_id=None,
        dead_letter_policy=None,
        max_receive_count=None,
        max_time_to_live_s=None,
    )


def _lock_target(tx: Tx, queue: Queue, name: str) -> Queue:
    """The queue that shall take dead letters, locked so that what is found here stays so."""
    if name.lower() == queue.name.lower():
        raise InvalidParameterValue(f"Queue `{name}` cannot take its own dead letters.")
    target = lock_queue(tx, queue.owner_uin, region=queue.region, name=name)
    if target.dead_letter_queue_id is not None:
        raise FailedOperation(f"Queue `{name}` has dead letters of its own, which cannot nest.")
    sources = list_sources(tx, [queue, target])
    if queue.id in sources:
        raise FailedOperation(f"Queue `{queue.name}` takes dead letters, which cannot nest.")
    others = [each for each in sources.get(target.id, ()) if each.id != queue.id]
    if len(others) >= limits.DEAD_LETTER_SOURCES_MAX:
        raise FailedOperation(
            f"Queue `{name}` already takes the dead letters of {len(others)} queues."
        )
    return target


def is_dead(message: Row[Any], queue: Queue, *, now: datetime) -> bool:
    """Whether a message that can be received shall be set aside instead.

    Why age counts from when a message that nobody has received could first be: one that is
    delayed, or has just been rewound, would else be set aside before anybody has seen it.
    """
    if queue.dead_letter_policy is DeadLetterPolicy.RECEIVES:
        return bool(message.dequeue_count >= (queue.max_receive_count or 0))
    if queue.dead_letter_policy is DeadLetterPolicy.AGE:
        oldest = now - timedelta(seconds=queue.max_time_to_live_s or 0)
        is_seen = message.dequeue_count > 0
        return bool(message.enqueued_at <= oldest and (is_seen or message.visible_at <= oldest))
    return False


def set_aside(
    tx: Tx, queue: Queue, messages: Sequence[Row[Any]], *, now: datetime
) -> frozenset[int]:
    """Move the dead ones among receivable, locked messages; returns their positions.

    None if the queue's dead letters have been unbound meanwhile.
    """
    dead = frozenset(each.position for each in messages if is_dead(each, queue, now=now))
    if not dead:
        return dead
    target = tx.execute(queue_statements.HOLD_TARGET, {"queue_id": queue.id}).one_or_none()
    if target is None:
        return frozenset()
    moved = {
        "positions": sorted(dead),
        "target_id": target.id,
        "now": now,
        "at_once": queue_statements.AT_ONCE,
        "target_expires_at": now + timedelta(seconds=target.retention_s),
    }
    tx.execute(queue_statements.MOVE, moved)
    tx.wake(signal_of(target.id))
    return dead


def list_bound_queues(tx: Tx) -> list[Queue]:
    """All queues that have dead letters, of every account."""
    return [read(row) for row in tx.execute(queue_statements.BOUND_QUEUES)]


def list_dead(tx: Tx, queue: Queue, *, now: datetime, at_most: int) -> list[int]:
    """The positions of dead messages that are still in their queue, the oldest first."""
    parameters = {"queue_id": queue.id, "now": now, "limit": at_most}
    if queue.dead_letter_policy is DeadLetterPolicy.RECEIVES:
        rule = {**parameters, "max_receive_count": queue.max_receive_count}
        return list(tx.execute(queue_statements.DEAD_BY_RECEIVES, rule).scalars())
    oldest = now - timedelta(seconds=queue.max_time_to_live_s or 0)
    rule = {**parameters, "oldest": oldest}
    return list(tx.execute(queue_statements.DEAD_BY_AGE, rule).scalars())


def sweep(tx: Tx, queue: Queue, positions: Sequence[int], *, now: datetime) -> int:
    """Set aside those of these messages that nobody has received meanwhile; how many it was."""
    parameters = {"queue_id": queue.id, "now": now, "positions": list(positions)}
    messages = tx.execute(queue_statements.LOCK_VISIBLE, parameters).all()
    return len(set_aside(tx, queue, messages, now=now))
