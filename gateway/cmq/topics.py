"""Topics: made, found, listed, changed and deleted."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select
from sqlalchemy.exc import IntegrityError

from gateway.cmq import limits, tags, topic_statements
from gateway.cmq.attributes import TOPIC
from gateway.cmq.lists import Wanted, find_listed
from gateway.cmq.naming import key_of
from gateway.cmq.tags import Tag
from gateway.errors import FailedOperation, LimitExceeded, ResourceInUse, ResourceNotFound
from gateway.events import outbox, rebinding
from gateway.events.bus import TopicAddress
from gateway.store import Tx

FILTER_BY_TAG, FILTER_BY_ROUTING_KEY = 1, 2


class StillSubscribed(FailedOperation):
    """A topic cannot be deleted while it has subscriptions."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `filter_type`: 1 by tags, 2 by routing key."""

    id: str
    owner_uin: str
    region: str
    name: str
    max_message_bytes: int
    filter_type: int
    retention_s: int
    trace: bool
    created_by: str
    created_at: datetime
    modified_at: datetime

    @property
    def address(self) -> TopicAddress:
        """Where the topic is; the exchange has the name as it was spelled at its making."""
        return TopicAddress(self.owner_uin, self.region, self.name)


@dataclass(frozen=True, slots=True)
class TopicChanges:
    """What of a topic becomes different; None: nothing."""

    max_message_bytes: int | None = None
    retention_s: int | None = None
    trace: bool | None = None


def create(tx: Tx, topic: Topic, *, labels: Sequence[Tag] = (), limited: bool = False) -> None:
    """Add a topic with its tags.

    limited: to as many as an account may have in a region under the vendor's quotas. Raises
    ResourceInUse.Topic if its name is taken, in any case of letters; LimitExceeded.Topics.

    Why a name is free at once when its topic is deleted, though CMQ gives it back only half a
    minute later (6040/10660): that is the time its deletion takes; here it is one transaction.
    """
    if limited and count_topics(tx, topic.owner_uin, region=topic.region) >= limits.TOPICS_MAX:
        raise LimitExceeded(
            f"The account has {limits.TOPICS_MAX} topics in `{topic.region}`, which is the limit.",
            detail="Topics",
        )
    try:
        tx.execute(topic_statements.ADD_TOPIC, {**_columns(topic), "key": topic.address.key})
    except IntegrityError as error:
        raise ResourceInUse(f"Topic `{topic.name}` already exists.", detail="Topic") from error
    tags.put(tx, topic.id, labels)


def find_topic(tx: Tx, owner_uin: str, *, region: str, name: str) -> Topic | None:
    """The topic of this name; None if there is none."""
    return _find(tx, topic_statements.TOPIC_BY_KEY, owner_uin=owner_uin, region=region, name=name)


def get_topic(tx: Tx, owner_uin: str, *, region: str, name: str) -> Topic:
    """The topic of this name. Raises ResourceNotFound.Topic."""
    return _found(find_topic(tx, owner_uin, region=region, name=name), name)


def lock_topic(tx: Tx, owner_uin: str, *, region: str, name: str) -> Topic:
    """The topic of this name, kept from changing meanwhile. Raises ResourceNotFound.Topic."""
    locked = topic_statements.LOCK_TOPIC
    return _found(_find(tx, locked, owner_uin=owner_uin, region=region, name=name), name)


def change(
    tx: Tx, owner_uin: str, *, region: str, name: str, changes: TopicChanges, now: datetime
) -> None:
    """Change a topic, for what is published from now on. Raises ResourceNotFound.Topic."""
    topic = lock_topic(tx, owner_uin, region=region, name=name)
    asked = {column: getattr(changes, column) for column in TopicChanges.__slots__}
    changed = {
        column: getattr(topic, column) if new is None else new for column, new in asked.items()
    }
    tx.execute(topic_statements.CHANGE_TOPIC, {"id_": topic.id, "now": now, **changed})


def delete(tx: Tx, owner_uin: str, *, region: str, name: str, now: datetime) -> None:
    """Delete a topic, and its exchange on the broker; what nobody was told yet is told to nobody.

    Raises ResourceNotFound.Topic; StillSubscribed while it has subscriptions, as CMQ does.
    """
    topic = lock_topic(tx, owner_uin, region=region, name=name)
    if count_subscriptions(tx, [topic]):
        raise StillSubscribed(
            f"there exists subscriptions under the topic `{name}`, please unsubscribe all of them"
            " before deleting it"
        )
    tags.drop(tx, topic.id)
    tx.execute(topic_statements.DROP_TOPIC, {"id_": topic.id})
    rebinding.retire_exchange(tx, topic.address)
    claimed = rebinding.last_claimed(tx, topic.address.key)
    outbox.give_up(tx, topic.address, but_upto=claimed, now=now)


def list_topics(tx: Tx, owner_uin: str, *, region: str, wanted: Wanted) -> tuple[int, list[Topic]]:
    """How many topics there are, and one page of them, by name."""
    total, rows = find_listed(tx, TOPIC, owner_uin=owner_uin, region=region, wanted=wanted)
    return total, [_read(row) for row in rows]


def count_topics(tx: Tx, owner_uin: str, *, region: str) -> int:
    """How many topics an account has in a region."""
    where = {"owner_uin": owner_uin, "region": region}
    count: int = tx.execute(topic_statements.COUNT_TOPICS, where).scalar_one()
    return count


def count_messages(tx: Tx, topics: Sequence[Topic]) -> dict[str, int]:
    """How many messages of topics somebody has yet to get, by the topic's id; none: absent."""
    ids = {topic.address.key: topic.id for topic in topics}
    rows = tx.execute(topic_statements.COUNT_MESSAGES, {"keys": list(ids)})
    return {ids[row.topic_key]: row.messages for row in rows}


def count_subscriptions(tx: Tx, topics: Sequence[Topic]) -> dict[str, int]:
    """How many subscriptions topics have, by the topic's id; those with none are absent."""
    rows = tx.execute(
        topic_statements.COUNT_SUBSCRIPTIONS, {"topic_ids": [topic.id for topic in topics]}
    )
    return {row.topic_id: row.subscriptions for row in rows}


def _columns(topic: Topic) -> dict[str, Any]:
    return {name: getattr(topic, name) for name in Topic.__slots__}


def _find(
    tx: Tx, statement: Select[Any], *, owner_uin: str, region: str, name: str
) -> Topic | None:
    """The topic that is spelled like this: see `naming.key_of`."""
    key = key_of(owner_uin, region=region, name=name)
    row = tx.execute(statement, {"key": key}).one_or_none()
    return _read(row) if row is not None and row.name == name else None


def _found(topic: Topic | None, name: str) -> Topic:
    if topic is None:
        raise ResourceNotFound(f"Topic `{name}` does not exist.", detail="Topic")
    return topic


def _read(row: Row[Any]) -> Topic:
    return Topic(**{name: getattr(row, name) for name in Topic.__slots__})
