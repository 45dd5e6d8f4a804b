"""CAM: decisions stand in hash chains, and are searched by more; sessions."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

PAGE = 500
CHAIN = "chain-migrated"
"""Of the decisions that are there already."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_PLACED = ("chain", "seq", "hash")
_LABELS = ("request_id", "owner_uin", "uin", "name", "action", "effect", "reason", "decided_at")
_OLD = sa.table("cam_decision_old", sa.column("id"), sa.column("record", sa.LargeBinary))
_NEW = sa.table(
    "cam_decision",
    *(sa.column(name) for name in (*_PLACED, *_LABELS)),
    sa.column("record", sa.LargeBinary),
)
_CHAINS = sa.table(
    "cam_decision_chain",
    *(sa.column(f"{place}_{what}") for place in ("anchor", "head") for what in ("seq", "hash")),
    sa.column("id"),
    sa.column("started_at"),
)


def upgrade() -> None:
    """Give decisions their chains, those that are there one of their own; make the sessions."""
    if sa.inspect(op.get_bind()).has_table("cam_decision_chain"):
        _widen_the_reason()
        return
    _set_aside_the_decisions()
    _make_sessions()
    _make_decisions()
    _make_chains()
    _chain_the_decisions()
    op.drop_table("cam_decision_old")


def _widen_the_reason() -> None:
    """Why: between two releases revision 0001 made these tables, with shorter reasons at first."""
    if op.get_bind().dialect.name == "postgresql":  # SQLite knows no lengths
        op.alter_column("cam_decision", "reason", type_=sa.String(96))


def _set_aside_the_decisions() -> None:
    op.drop_index("ix_cam_decision_caller", "cam_decision")
    op.rename_table("cam_decision", "cam_decision_old")
    if op.get_bind().dialect.name == "postgresql":  # where they do not go with the table
        for name in ("pk_cam_decision", "uq_cam_decision_request_id"):
            op.execute(f"ALTER INDEX {name} RENAME TO {name}_old")


def _make_sessions() -> None:
    op.create_table(
        "cam_session",
        sa.Column("secret_id", sa.String(128), nullable=False),
        sa.Column("owner_uin", sa.String(32), nullable=False),
        sa.Column("uin", sa.String(32), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("session", sa.Text, nullable=False),
        sa.Column("session_policy", sa.Text, nullable=False),
        sa.Column("sealed_secret_key", sa.LargeBinary, nullable=False),
        sa.Column("token_sha256", sa.LargeBinary, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("secret_id", name="pk_cam_session"),
    )
    op.create_index("ix_cam_session_expiry", "cam_session", ["expires_at"])


def _make_decisions() -> None:
    op.create_table(
        "cam_decision",
        sa.Column("chain", sa.String(32), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(36), nullable=False),
        sa.Column("owner_uin", sa.String(32), nullable=False),
        sa.Column("uin", sa.String(32), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("action", sa.String(96), nullable=False),
        sa.Column("effect", sa.String(8), nullable=False),
        sa.Column("reason", sa.String(96), nullable=False),
        sa.Column("decided_at", sa.BigInteger, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("chain", "seq", name="pk_cam_decision"),
        sa.UniqueConstraint("request_id", name="uq_cam_decision_request_id"),
    )
    op.create_index("ix_cam_decision_time", "cam_decision", ["decided_at"])
    op.create_index("ix_cam_decision_uin", "cam_decision", ["uin", "decided_at"])
    op.create_index("ix_cam_decision_name", "cam_decision", ["name", "decided_at"])
    op.create_index("ix_cam_decision_action", "cam_decision", ["action", "decided_at"])
    op.create_index("ix_cam_decision_effect", "cam_decision", ["effect", "decided_at"])


def _make_chains() -> None:
    op.create_table(
        "cam_decision_chain",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("anchor_seq", sa.BigInteger, nullable=False),
        sa.Column("anchor_hash", sa.String(64), nullable=False),
        sa.Column("head_seq", sa.BigInteger, nullable=False),
        sa.Column("head_hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cam_decision_chain"),
    )


def _chain_the_decisions() -> None:
    """Put what was set aside into one chain, begun at the time of its first record.

    Why: their own texts prove nothing of the time before; from here on they are proved.
    """
    connection = op.get_bind()
    started_at, anchor, seq, digest = 0, "", 0, ""
    for page in _pages():
        rows = []
        for record in page:
            labels = _labels_of(json.loads(record))
            if not seq:
                started_at = labels["decided_at"]
                anchor = digest = _beginning(started_at)
            seq, digest = seq + 1, _following(digest, record)
            place = {"chain": CHAIN, "seq": seq, "hash": digest}
            rows.append({**place, **labels, "record": record})
        connection.execute(sa.insert(_NEW), rows)
    if seq:
        ends = {"anchor_seq": 0, "anchor_hash": anchor, "head_seq": seq, "head_hash": digest}
        connection.execute(sa.insert(_CHAINS), {"id": CHAIN, "started_at": started_at, **ends})


def _pages() -> Iterator[list[bytes]]:
    """The records as they were stored, in the order of their ids."""
    page = sa.select(_OLD).order_by(_OLD.c.id).limit(PAGE)
    last: int | None = None
    while True:
        following = page if last is None else page.where(_OLD.c.id > last)
        rows = op.get_bind().execute(following).all()
        if not rows:
            return
        yield [bytes(row.record) for row in rows]
        last = rows[-1].id


def _labels_of(public: dict[str, Any]) -> dict[str, Any]:
    """What of a record stands in columns. decided_at: in microseconds since 1970."""
    principal = public["Principal"]
    decided_at = datetime.fromisoformat(public["Time"])
    return {
        "request_id": public["RequestId"],
        "owner_uin": principal["OwnerUin"],
        "uin": principal["Uin"],
        "name": principal["Name"],
        "action": public["Action"],
        "effect": public["Effect"],
        "reason": public["Reason"],
        "decided_at": (decided_at - EPOCH) // timedelta(microseconds=1),
    }


def _beginning(started_at: int) -> str:
    moment = EPOCH + timedelta(microseconds=started_at)
    return hashlib.sha256(f"{CHAIN} {moment.isoformat()}".encode()).hexdigest()


def _following(before: str, record: bytes) -> str:
    return hashlib.sha256(before.encode() + b"\n" + record).hexdigest()
