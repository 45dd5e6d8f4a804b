"""Events: how far retention has gone."""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from alembic import op

from gateway.clock import now

revision = "0010"
down_revision = "0009"

_KEPT_AT_LEAST = timedelta(days=1)
"""What `events_keep_days` could be at the least, until now."""


def upgrade() -> None:
    """Make the table; where there are events, say that any could have been removed that may.

    Why: nothing says how far it had gone. A moment that is too late hides a gap at the beginning of
    what is older than a day now; one that is too early is a false alarm for as long as a job is
    there, whatever days are set from now on.
    """
    table = op.create_table(
        "event_floor",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("removed_before", sa.BigInteger, nullable=False),
    )
    has_events = sa.text("SELECT 1 FROM event LIMIT 1")
    if op.get_bind().execute(has_events).first() is not None:
        since_1970 = now() - _KEPT_AT_LEAST - datetime(1970, 1, 1, tzinfo=UTC)
        removed_before = since_1970 // timedelta(microseconds=1)
        op.bulk_insert(table, [{"id": 1, "removed_before": removed_before}])
