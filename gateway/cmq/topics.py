"""Topics: made, found, listed and deleted."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.exc import IntegrityError

from gateway.call import Scope
from gateway.cmq import tables, topic_statements
from gateway.cmq.naming import filter_by_name, key_of
from gateway.errors import FailedOperation, ResourceInUse, ResourceNotFound
from gateway.events import outbox
from gateway.events.bus import TopicAddress
from gateway.store import Tx

FILTER_BY_TAG, FILTER_BY_ROUTING_KEY = 1, 2


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


def create(tx: Tx, topic: Topic) -> None:
    """Add a topic. Raises ResourceInUse.Topic if its name is taken, in any case of letters."""
    try:
        tx.execute(topic_statements.ADD_TOPIC, {**_columns(topic), "key": topic.address.key})
    except IntegrityError as error:
        raise ResourceInUse(f"Topic `{topic.name}` already exists.", detail="Topic") from error


def find_topic(tx: Tx, owner_uin: str, *, region: str, name: str) -> Topic | None:
    """The topic of this name; None if there is none."""
    key = key_of(owner_uin, region=region, name=name)
    return _named(name, tx.execute(topic_statements.TOPIC_BY_KEY, {"key": key}).one_or_none())


def get_topic(tx: Tx, owner_uin: str, *, region: str, name: str) -> Topic:
    """The topic of this name. Raises ResourceNotFound.Topic."""
    topic = find_topic(tx, owner_uin, region=region, name=name)
    if topic is None:
        raise not_found(name)
    return topic


def lock_topic(tx: Tx, owner_uin: str, *, region: str, name: str) -> Topic:
    """The topic of this name, kept from changing meanwhile. Raises ResourceNotFound.Topic."""
    key = key_of(owner_uin, region=region, name=name)
    topic = _named(name, tx.execute(topic_statements.LOCK_TOPIC, {"key": key}).one_or_none())
    if topic is None:
        raise not_found(name)
    return topic


def not_found(name: str) -> ResourceNotFound:
    """The error for a topic that does not exist."""
    return ResourceNotFound(f"Topic `{name}` does not exist.", detail="Topic")


def delete(tx: Tx, owner_uin: str, *, region: str, name: str) -> None:
    """Delete a topic, and its exchange on the broker.

    Raises ResourceNotFound.Topic; FailedOperation while it has subscriptions, as CMQ does.
    """
    topic = lock_topic(tx, owner_uin, region=region, name=name)
    if count_subscriptions(tx, [topic]):
        raise FailedOperation(f"Topic `{name}` still has subscriptions; delete them first.")
    tx.execute(topic_statements.DROP_TOPIC, {"id_": topic.id})
    outbox.retire(tx, topic.address, bindings=None)


def list_topics(
    tx: Tx,
    owner_uin: str,
    *,
    region: str,
    search: str,
    names: Sequence[str],
    scope: Scope | None,
    page: tuple[int, int],
) -> tuple[int, list[Topic]]:
    """How many topics there are, and one page of them, by name.

    search: a part of the name. names: only these, if any are given. scope: what the caller may
    see. page: offset and limit.
    """
    found = select(tables.topic).where(
        tables.topic.c.owner_uin == owner_uin, tables.topic.c.region == region
    )
    found = filter_by_name(
        found, tables.topic.c.name, search=search, names=names, scope=scope, dialect=tx.dialect
    )
    total = tx.execute(select(func.count()).select_from(found.subquery())).scalar_one()
    offset, limit = page
    rows = tx.execute(found.order_by(tables.topic.c.name).offset(offset).limit(limit))
    return total, [_read(row) for row in rows]


def count_subscriptions(tx: Tx, topics: Sequence[Topic]) -> dict[str, int]:
    """How many subscriptions topics have, by the topic's id; those with none are absent."""
    rows = tx.execute(
        topic_statements.COUNT_SUBSCRIPTIONS, {"topic_ids": [topic.id for topic in topics]}
    )
    return {row.topic_id: row.subscriptions for row in rows}


def _columns(topic: Topic) -> dict[str, Any]:
    return {name: getattr(topic, name) for name in Topic.__slots__}


def _named(name: str, row: Row[Any] | None) -> Topic | None:
    """The topic of a row, if it is spelled like this: see `naming.key_of`."""
    return _read(row) if row is not None and row.name == name else None


def _read(row: Row[Any]) -> Topic:
    return Topic(**{name: getattr(row, name) for name in Topic.__slots__})
