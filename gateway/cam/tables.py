"""The tables of CAM, and their statements."""

from sqlalchemy import (
    Boolean,
    Column,
    Index,
    LargeBinary,
    String,
    Table,
    Text,
    bindparam,
    delete,
    insert,
    select,
)

from gateway.store import POSITION, Moment, metadata

access_key = Table(
    "cam_access_key",
    metadata,
    Column("secret_id", String(64), primary_key=True),
    Column("owner_uin", String(32), nullable=False),
    Column("uin", String(32), nullable=False),
    Column("name", Text, nullable=False),
    Column("sealed_secret_key", LargeBinary, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("created_at", Moment, nullable=False),
    Index("ix_cam_access_key_user", "owner_uin", "uin"),
)

decision = Table(
    "cam_decision",
    metadata,
    Column("id", POSITION, primary_key=True),
    Column("request_id", String(36), nullable=False, unique=True),
    Column("owner_uin", String(32), nullable=False),
    Column("uin", String(32), nullable=False),
    Column("action", String(96), nullable=False),
    Column("effect", String(8), nullable=False),
    Column("decided_at", Moment, nullable=False),
    Column("record", LargeBinary, nullable=False),
    Index("ix_cam_decision_caller", "owner_uin", "uin", "id"),
)
"""`record`: the whole of it as JSON, in its public form."""

ADD_KEY = insert(access_key)
FIND_KEY = select(access_key).where(access_key.c.secret_id == bindparam("secret_id"))
KEYS_OF = (
    select(access_key)
    .where(access_key.c.owner_uin == bindparam("owner_uin"), access_key.c.uin == bindparam("uin"))
    .order_by(access_key.c.created_at)
)
DROP_KEY = delete(access_key).where(access_key.c.secret_id == bindparam("secret_id"))

ADD_DECISIONS = insert(decision)
FIND_DECISION = select(decision.c.record).where(decision.c.request_id == bindparam("request_id"))
