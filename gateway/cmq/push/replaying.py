"""Telling dead letters again: each becomes a message for its subscription alone."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, SmallInteger, String, bindparam, func, insert, select, update

from gateway.cmq import subscribers
from gateway.cmq.push.dead_letters import BY_ID
from gateway.cmq.tables import dead_letter
from gateway.events import outbox
from gateway.events.replay import lock_replays
from gateway.events.tables import message
from gateway.store import Tx

MARK_REPLAYED = (
    update(dead_letter)
    .where(dead_letter.c.id == bindparam("id_"))
    .values(replayed_at=bindparam("now"))
)

_any = message.alias()
_NEXT = (
    select(func.coalesce(func.max(_any.c.replay), 0) + 1)
    .where(_any.c.id == dead_letter.c.message_id)
    .correlate(dead_letter)
    .scalar_subquery()
)
_RETOLD = {
    "id": dead_letter.c.message_id,
    "replay": _NEXT,
    "only_subscription_id": bindparam("subscription_id_", type_=String),
    "topic_key": dead_letter.c.topic_key,
    "shard": bindparam("shard_", type_=SmallInteger),
    "stream_id": dead_letter.c.stream_id,
    "seq": dead_letter.c.seq,
    "event_name": dead_letter.c.event_name,
    "routing_key": dead_letter.c.routing_key,
    "tags": dead_letter.c.tags,
    "body": dead_letter.c.body,
    "created_at": dead_letter.c.created_at,
}
TELL_AGAIN = insert(message).from_select(
    list(_RETOLD), select(*_RETOLD.values()).where(dead_letter.c.id == bindparam("id_"))
)
"""From the dead letter itself: retention may have taken the message."""


def replay(tx: Tx, letter_ids: Sequence[int], *, now: datetime) -> dict[int, str]:
    """Tell dead letters again; they are kept, and marked.

    A new subscription of the same name gets what the old one was due. Returns why for those that
    could not be told.
    """
    lock_replays(tx)
    failures: dict[int, str] = {}
    for letter_id in letter_ids:
        row = tx.execute(BY_ID, {"id_": letter_id}).one_or_none()
        why = "there is no such dead letter" if row is None else _tell(tx, row, now=now)
        if why is not None:
            failures[letter_id] = why
    return failures


def _tell(tx: Tx, letter: Row[Any], *, now: datetime) -> str | None:
    """Tell one dead letter again; returns why it cannot be, if it cannot."""
    name = letter.subscription_name
    heir = subscribers.find_subscription(tx, letter.topic_key, name=name)
    if heir is None:
        return f"its topic has no subscription `{name}` now"
    if not heir.wants(routing_key=letter.routing_key, tags=json.loads(letter.tags)):
        return f"the filter of `{name}` does not let it through"
    shard = outbox.shard_of(letter.stream_id or letter.topic_key)
    which = {"id_": letter.id, "subscription_id_": heir.id, "shard_": shard}
    tx.execute(TELL_AGAIN, which)
    tx.execute(MARK_REPLAYED, {"id_": letter.id, "now": now})
    tx.wake(outbox.SIGNAL)
    return None
