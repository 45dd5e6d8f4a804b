"""The statements that read the ledger."""

from datetime import datetime

from sqlalchemy import ScalarSelect, bindparam, func, select, text

from gateway.events.tables import event, event_floor, event_stream, message

ENTRIES = select(
    event.c.position,
    event.c.stream_id,
    event.c.seq,
    event.c.name,
    event.c.subject_id,
    event.c.batch.label("batch_json"),
    event.c.happened_at,
    event_stream.c.owner_uin,
    event_stream.c.region,
).join_from(event, event_stream, event_stream.c.id == event.c.stream_id)
ENTRY = ENTRIES.where(
    event.c.stream_id == bindparam("stream_id_"), event.c.seq == bindparam("seq_")
)

LAST_POSITION = select(func.coalesce(func.max(event.c.position), 0))
WRITING = 20_803
"""The highest 15 bits of the keys under which revision 0007 has writers lock, on PostgreSQL."""
SETTLED_POSITION = text(
    """
    SELECT least(
        (SELECT coalesce(max(position), 0) FROM event),
        (
            SELECT min((classid::bigint << 32 | objid::bigint) & ((1::bigint << 48) - 1))
            FROM pg_locks
            WHERE locktype = 'advisory' AND objsubid = 1 AND classid::bigint >> 16 = :writing
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        )
    )
    """
).bindparams(writing=WRITING)
"""See `ledger.find_settled`. `pg_locks` shows the locks of now, not of the snapshot."""

REMOVED_BEFORE = select(event_floor.c.removed_before)

MESSAGES = (
    select(
        message.c.position,
        message.c.id,
        message.c.replay,
        message.c.only_subscription_id,
        message.c.topic_key,
        message.c.created_at,
        message.c.expanded_at,
        message.c.sent_at,
    )
    .where(message.c.stream_id == bindparam("stream_id_"), message.c.seq == bindparam("seq_"))
    .order_by(message.c.position)
)


def first_since(moment: datetime) -> ScalarSelect[int]:
    """The smallest position of what happened from a time on; null if nothing did."""
    newer = event.alias()
    return select(func.min(newer.c.position)).where(newer.c.happened_at >= moment).scalar_subquery()
