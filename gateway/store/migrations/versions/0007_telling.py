"""Events: a place in the ledger, replays. CMQ: HTTP push, dead letters, rewinding, tags."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

POSITION = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_EVENT = ("stream_id", "seq", "name", "subject_id", "batch", "happened_at")
_MESSAGE = (
    *("position", "id", "topic_key", "shard", "stream_id", "seq", "event_name", "routing_key"),
    *("tags", "body", "traceparent", "created_at", "expanded_at", "sent_at"),
)
_AS_TOLD = "max(happened_at) OVER (PARTITION BY stream_id ORDER BY seq), stream_id, seq"
"""By time, but the events of one stream in their own order, though the clock was stepped back."""
_INDEXES = ("ix_event_message_unexpanded", "ix_event_message_unsent")
_REGISTER = """
CREATE FUNCTION event_register_writer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('qcs_gateway.writes_events', true) IS DISTINCT FROM 'yes' THEN
        PERFORM pg_advisory_xact_lock_shared(
            20803::bigint << 48
            | coalesce(pg_sequence_last_value(
                pg_get_serial_sequence('event', 'position')::regclass
            ), 0)
        );
        PERFORM set_config('qcs_gateway.writes_events', 'yes', true);
    END IF;
    RETURN NULL;
END $$
"""
"""Before a transaction takes its first positions, a lock says after which one they will be."""


def upgrade() -> None:
    """Rebuild what changes its key, add columns to the rest, make the new tables."""
    _rebuild_events()
    _rebuild_messages()
    _rebuild_deliveries()
    _widen_queues()
    _widen_queue_messages()
    _widen_subscriptions()
    _make_dead_letters()
    _make_tags()


def _is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _set_aside(table: str, *constraints: str) -> None:
    op.rename_table(table, f"{table}_old")
    if _is_postgresql():  # where their names do not go with the table
        for name in constraints:
            op.execute(f"ALTER INDEX {name} RENAME TO {name}_old")


def _take_over(table: str, columns: tuple[str, ...], *, order: str) -> None:
    names = ", ".join(columns)
    op.execute(
        f"INSERT INTO {table} ({names}) SELECT {names} FROM {table}_old ORDER BY {order}"  # noqa: S608  # our own names
    )
    op.drop_table(f"{table}_old")


def _rebuild_events() -> None:
    _set_aside("event", "pk_event")
    op.create_table(
        "event",
        sa.Column("position", POSITION, nullable=False),
        sa.Column("stream_id", sa.String(32), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("subject_id", sa.String(32), nullable=False),
        sa.Column("batch", sa.LargeBinary, nullable=False),
        sa.Column("happened_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_event"),
        sa.UniqueConstraint("stream_id", "seq", name="uq_event_stream_id_seq"),
    )
    op.create_index("ix_event_happened_at", "event", ["happened_at"])
    _take_over("event", _EVENT, order=_AS_TOLD)
    if _is_postgresql():
        op.execute(_REGISTER)
        op.execute(
            "CREATE TRIGGER event_register_writer BEFORE INSERT ON event"
            " FOR EACH STATEMENT EXECUTE FUNCTION event_register_writer()"
        )


def _rebuild_messages() -> None:
    for name in _INDEXES:
        op.drop_index(name, "event_message")
    _set_aside("event_message", "pk_event_message", "uq_event_message_id")
    op.create_table(
        "event_message",
        sa.Column("position", POSITION, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("replay", sa.Integer, nullable=False, server_default="0"),
        sa.Column("only_subscription_id", sa.String(32)),
        sa.Column("topic_key", sa.String(180), nullable=False),
        sa.Column("shard", sa.SmallInteger, nullable=False),
        sa.Column("stream_id", sa.String(32)),
        sa.Column("seq", sa.BigInteger),
        sa.Column("event_name", sa.String(40)),
        sa.Column("routing_key", sa.String(255), nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("traceparent", sa.String(64)),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expanded_at", sa.BigInteger),
        sa.Column("sent_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("position", name="pk_event_message"),
        sa.UniqueConstraint("id", "replay", name="uq_event_message_id_replay"),
    )
    _take_over("event_message", _MESSAGE, order="position")
    if _is_postgresql():
        op.execute(
            "SELECT setval(pg_get_serial_sequence('event_message', 'position'),"
            " (SELECT coalesce(max(position), 0) + 1 FROM event_message), false)"
        )
    for name, columns, where in (
        (_INDEXES[0], ["position"], "expanded_at IS NULL"),
        (_INDEXES[1], ["topic_key", "position"], "sent_at IS NULL"),
    ):
        op.create_index(
            name,
            "event_message",
            columns,
            sqlite_where=sa.text(where),
            postgresql_where=sa.text(where),
        )
    op.create_index("ix_event_message_stream_id_seq", "event_message", ["stream_id", "seq"])
    op.create_index("ix_event_message_created_at", "event_message", ["created_at"])


def _rebuild_deliveries() -> None:
    op.drop_index("ix_cmq_delivery_subscription_id", "cmq_delivery")
    _set_aside("cmq_delivery", "pk_cmq_delivery")
    op.create_table(
        "cmq_delivery",
        sa.Column("subscription_id", sa.String(32), nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_at", sa.BigInteger),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("why", sa.Text),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("subscription_id", "position", name="pk_cmq_delivery"),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["cmq_subscription.id"],
            name="fk_cmq_delivery_subscription_id",
            ondelete="CASCADE",
        ),
    )
    op.execute(
        "INSERT INTO cmq_delivery (subscription_id, position, state, changed_at)"
        " SELECT old.subscription_id, event_message.position, old.state, old.changed_at"
        " FROM cmq_delivery_old AS old JOIN event_message ON event_message.id = old.message_id"
    )
    op.drop_table("cmq_delivery_old")
    op.create_index("ix_cmq_delivery_position", "cmq_delivery", ["position"])
    op.create_index(
        "ix_cmq_delivery_waiting",
        "cmq_delivery",
        ["subscription_id", "position"],
        sqlite_where=sa.text("state = 'waiting'"),
        postgresql_where=sa.text("state = 'waiting'"),
    )


def _widen_queues() -> None:
    for column in (
        sa.Column("rewind_s", sa.Integer, nullable=False, server_default="0"),
        sa.Column("rewind_mb", sa.Integer, nullable=False, server_default="0"),
        sa.Column("dead_letter_queue_id", sa.String(32)),
        sa.Column("dead_letter_policy", sa.Integer),
        sa.Column("max_receive_count", sa.Integer),
        sa.Column("max_time_to_live_s", sa.Integer),
    ):
        op.add_column("cmq_queue", column)
    op.create_index("ix_cmq_queue_dead_letter_queue_id", "cmq_queue", ["dead_letter_queue_id"])


def _widen_queue_messages() -> None:
    """Keep what is deleted, and let go of the queue, which goes before its messages."""
    indexes = {
        "ix_cmq_queue_message_receive": "position",
        "ix_cmq_queue_message_visible": "visible_at",
    }
    for name in indexes:
        op.drop_index(name, "cmq_queue_message")
    with op.batch_alter_table("cmq_queue_message") as table:
        table.drop_constraint("fk_cmq_queue_message_queue_id", type_="foreignkey")
        table.add_column(sa.Column("deleted_at", sa.BigInteger))
    for name, column in indexes.items():
        op.create_index(
            name,
            "cmq_queue_message",
            ["queue_id", column],
            sqlite_where=sa.text("deleted_at IS NULL"),
            postgresql_where=sa.text("deleted_at IS NULL"),
        )
    op.create_index(
        "ix_cmq_queue_message_deleted",
        "cmq_queue_message",
        ["queue_id", "enqueued_at"],
        sqlite_where=sa.text("deleted_at IS NOT NULL"),
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )


def _widen_subscriptions() -> None:
    for column in (
        sa.Column("sealed_secret", sa.LargeBinary),
        sa.Column("sealed_old_secret", sa.LargeBinary),
        sa.Column("old_secret_until", sa.BigInteger),
        sa.Column("failing_since", sa.BigInteger),
        sa.Column("paused_at", sa.BigInteger),
    ):
        op.add_column("cmq_subscription", column)


def _make_dead_letters() -> None:
    op.create_table(
        "cmq_dead_letter",
        sa.Column("id", POSITION, nullable=False),
        sa.Column("message_id", sa.String(64), nullable=False),
        sa.Column("topic_key", sa.String(180), nullable=False),
        sa.Column("subscription_id", sa.String(32), nullable=False),
        sa.Column("subscription_name", sa.String(64), nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("stream_id", sa.String(32)),
        sa.Column("seq", sa.BigInteger),
        sa.Column("event_name", sa.String(40)),
        sa.Column("routing_key", sa.String(255), nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("died_at", sa.BigInteger, nullable=False),
        sa.Column("replayed_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_cmq_dead_letter"),
    )
    op.create_index("ix_cmq_dead_letter_topic", "cmq_dead_letter", ["topic_key", "id"])
    for column in ("message_id", "subscription_id"):
        op.create_index(f"ix_cmq_dead_letter_{column}", "cmq_dead_letter", [column])


def _make_tags() -> None:
    op.create_table(
        "cmq_tag",
        sa.Column("resource_id", sa.String(32), nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("resource_id", "key", name="pk_cmq_tag"),
    )
    op.create_index("ix_cmq_tag_value", "cmq_tag", ["key", "value"])
