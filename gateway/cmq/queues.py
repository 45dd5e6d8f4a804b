"""Queues: made, found, listed, changed and deleted. What they hold: `queue_messages`."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from enum import IntEnum
from typing import Any

from sqlalchemy import Row, Select
from sqlalchemy.exc import IntegrityError

from gateway.cmq import limits, queue_statements, tags, topic_statements
from gateway.cmq.attributes import QUEUE
from gateway.cmq.lists import Wanted, find_listed
from gateway.cmq.naming import key_of
from gateway.cmq.tags import Tag
from gateway.errors import (
    FailedOperation,
    InvalidParameterValue,
    LimitExceeded,
    ResourceInUse,
    ResourceNotFound,
)
from gateway.store import Tx


class QueueInUse(FailedOperation):
    """Something else still fills the queue, so it cannot be deleted."""


class DeadLetterPolicy(IntEnum):
    """When a message is dead: received too often, or there too long, without being deleted."""

    RECEIVES = 0
    AGE = 1


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue. The times in its attributes are in seconds; see also `tables.queue`."""

    id: str
    owner_uin: str
    region: str
    name: str
    created_by: str
    created_at: datetime
    modified_at: datetime
    max_messages: int = limits.QUEUE_MESSAGES.default
    polling_wait_s: int = limits.POLLING_WAIT_S.default
    visibility_s: int = limits.VISIBILITY_S.default
    max_message_bytes: int = limits.MESSAGE_BYTES.default
    retention_s: int = limits.QUEUE_RETENTION_S.default
    trace: bool = False
    rewind_s: int = limits.REWIND_S.default
    rewind_mb: int = limits.REWIND_MB.default
    dead_letter_queue_id: str | None = None
    dead_letter_policy: DeadLetterPolicy | None = None
    max_receive_count: int | None = None
    max_time_to_live_s: int | None = None

    @property
    def signal(self) -> str:
        """What is woken when a message is put into the queue."""
        return signal_of(self.id)


@dataclass(frozen=True, slots=True)
class QueueChanges:
    """New values of a queue's attributes; None leaves one as it is."""

    max_messages: int | None = None
    polling_wait_s: int | None = None
    visibility_s: int | None = None
    max_message_bytes: int | None = None
    retention_s: int | None = None
    trace: bool | None = None
    rewind_s: int | None = None
    rewind_mb: int | None = None

    def of(self, queue: Queue) -> Queue:
        """The queue with these changes. Raises InvalidParameterValue.

        A queue that is not rewound needs no room for it: switching the one off drops the other.
        """
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        changed = replace(queue, **{name: new for name, new in given.items() if new is not None})
        if changed.rewind_s == 0 and self.rewind_mb:
            raise InvalidParameterValue("`RetentionSizeInMB` needs `RewindSeconds`.")
        return changed if changed.rewind_s else replace(changed, rewind_mb=0)


def signal_of(queue_id: str) -> str:
    """What is woken when a message is put into a queue."""
    return f"cmq:{queue_id}"


def create(tx: Tx, queue: Queue, *, labels: Sequence[Tag] = (), limited: bool = False) -> None:
    """Add a queue with its tags.

    limited: to as many as an account may have in a region under the vendor's quotas. Raises
    ResourceInUse.Queue if its name is taken, in any case of letters; LimitExceeded.
    """
    check_lifetimes(queue)
    if limited:
        where = {"owner_uin": queue.owner_uin, "region": queue.region}
        if tx.execute(queue_statements.COUNT_QUEUES, where).scalar_one() >= limits.QUEUES_MAX:
            raise LimitExceeded(
                f"The account has {limits.QUEUES_MAX} queues in `{queue.region}`, "
                "which is the limit."
            )
    key = key_of(queue.owner_uin, region=queue.region, name=queue.name)
    try:
        tx.execute(queue_statements.ADD_QUEUE, {**_columns(queue), "key": key})
    except IntegrityError as error:
        raise ResourceInUse(f"Queue `{queue.name}` already exists.", detail="Queue") from error
    tags.put(tx, queue.id, labels)


def change(tx: Tx, queue: Queue, *, now: datetime) -> None:
    """Store the attributes of a queue that is locked. Raises InvalidParameterValue."""
    check_lifetimes(queue)
    columns = _columns(replace(queue, modified_at=now))
    new = {f"{name}_": columns[name] for name in queue_statements.CHANGING}
    tx.execute(queue_statements.CHANGE_QUEUE, {**new, "id_": queue.id})


def check_lifetimes(queue: Queue) -> None:
    """Refuse dead letters by an age that no message reaches. Raises InvalidParameterValue."""
    if (
        queue.dead_letter_policy is DeadLetterPolicy.AGE
        and (queue.max_time_to_live_s or 0) >= queue.retention_s
    ):
        raise InvalidParameterValue("`MaxTimeToLive` must be less than `MsgRetentionSeconds`.")


def find_queue(tx: Tx, owner_uin: str, *, region: str, name: str) -> Queue | None:
    """The queue of this name; None if there is none."""
    return _find(tx, queue_statements.QUEUE_BY_KEY, owner_uin=owner_uin, region=region, name=name)


def get_queue(tx: Tx, owner_uin: str, *, region: str, name: str) -> Queue:
    """The queue of this name. Raises ResourceNotFound."""
    return _found(find_queue(tx, owner_uin, region=region, name=name), name)


def hold_queue(tx: Tx, owner_uin: str, *, region: str, name: str) -> Queue:
    """The queue of this name, kept from being deleted meanwhile. Raises ResourceNotFound."""
    held = queue_statements.HOLD_QUEUE
    return _found(_find(tx, held, owner_uin=owner_uin, region=region, name=name), name)


def lock_queue(tx: Tx, owner_uin: str, *, region: str, name: str) -> Queue:
    """The queue of this name, kept from changing meanwhile. Raises ResourceNotFound."""
    locked = queue_statements.LOCK_QUEUE
    return _found(_find(tx, locked, owner_uin=owner_uin, region=region, name=name), name)


def delete(tx: Tx, owner_uin: str, *, region: str, name: str) -> Queue:
    """Delete a queue; what it held is nobody's then, and is dropped page by page.

    Why not at once: a million messages would hold up every writer for seconds.

    Why one that takes dead letters is not unbound instead: its sources would hand out again what
    their owners have set aside, or drop it at the end of its retention, and nobody asked for that.
    Raises ResourceNotFound; QueueInUse while a subscription feeds it or dead letters go to it.
    """
    queue = lock_queue(tx, owner_uin, region=region, name=name)
    feeding = tx.execute(topic_statements.SUBSCRIPTIONS_OF_QUEUE, {"queue_id": queue.id}).first()
    if feeding is not None:
        raise QueueInUse(
            f"Queue `{name}` is the endpoint of subscription `{feeding.name}` of topic "
            f"`{feeding.topic_name}`; delete that first."
        )
    sources = list_sources(tx, [queue])
    if sources:
        raise QueueInUse(
            f"Queue `{name}` takes the dead letters of queue `{sources[queue.id][0].name}`; "
            "unbind it first."
        )
    tags.drop(tx, queue.id)
    tx.execute(queue_statements.DROP_QUEUE, {"id_": queue.id})
    return queue


def list_queues(tx: Tx, owner_uin: str, *, region: str, wanted: Wanted) -> tuple[int, list[Queue]]:
    """How many queues there are, and one page of them, by name."""
    total, rows = find_listed(tx, QUEUE, owner_uin=owner_uin, region=region, wanted=wanted)
    return total, [read(row) for row in rows]


def list_sources(tx: Tx, queues: Sequence[Queue]) -> dict[str, list[Queue]]:
    """The queues whose dead letters go to `queues`, by the id of these; others are absent."""
    found: dict[str, list[Queue]] = {}
    parameters = {"queue_ids": [queue.id for queue in queues]}
    for row in tx.execute(queue_statements.SOURCES, parameters):
        found.setdefault(row.dead_letter_queue_id, []).append(read(row))
    return found


def read_names(tx: Tx, queue_ids: Sequence[str]) -> dict[str, str]:
    """The names of queues, by id."""
    rows = tx.execute(queue_statements.NAMES, {"queue_ids": list(queue_ids)})
    return {row.id: row.name for row in rows}


def read(row: Row[Any]) -> Queue:
    """The queue of a row."""
    columns = {name: getattr(row, name) for name in Queue.__slots__}
    if columns["dead_letter_policy"] is not None:
        columns["dead_letter_policy"] = DeadLetterPolicy(columns["dead_letter_policy"])
    return Queue(**columns)


def _columns(queue: Queue) -> dict[str, Any]:
    columns = {name: getattr(queue, name) for name in Queue.__slots__}
    policy = queue.dead_letter_policy
    return {**columns, "dead_letter_policy": None if policy is None else policy.value}


def _find(
    tx: Tx, statement: Select[Any], *, owner_uin: str, region: str, name: str
) -> Queue | None:
    """The queue that is spelled like this: see `naming.key_of`."""
    key = key_of(owner_uin, region=region, name=name)
    row = tx.execute(statement, {"key": key}).one_or_none()
    return read(row) if row is not None and row.name == name else None


def _found(queue: Queue | None, name: str) -> Queue:
    if queue is None:
        raise ResourceNotFound(f"Queue `{name}` does not exist.")
    return queue
