"""The tables of CAM, and their statements."""

from sqlalchemy import (
    BigInteger,
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
    update,
)

from gateway.store import Moment, metadata

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

session = Table(
    "cam_session",
    metadata,
    Column("secret_id", String(128), primary_key=True),
    Column("owner_uin", String(32), nullable=False),
    Column("uin", String(32), nullable=False),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("session_policy", Text, nullable=False),
    Column("sealed_secret_key", LargeBinary, nullable=False),
    Column("token_sha256", LargeBinary, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Index("ix_cam_session_expiry", "expires_at"),
)
"""Temporary keys, and whom they speak for."""

decision = Table(
    "cam_decision",
    metadata,
    Column("chain", String(32), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", String(64), nullable=False),
    Column("request_id", String(36), nullable=False, unique=True),
    Column("owner_uin", String(32), nullable=False),
    Column("uin", String(32), nullable=False),
    Column("name", Text, nullable=False),
    Column("action", String(96), nullable=False),
    Column("effect", String(8), nullable=False),
    Column("reason", String(96), nullable=False),
    Column("decided_at", Moment, nullable=False),
    Column("record", LargeBinary, nullable=False),
    Index("ix_cam_decision_time", "decided_at"),
    Index("ix_cam_decision_uin", "uin", "decided_at"),
    Index("ix_cam_decision_name", "name", "decided_at"),
    Index("ix_cam_decision_action", "action", "decided_at"),
    Index("ix_cam_decision_effect", "effect", "decided_at"),
)
"""`record`: the whole of it as JSON, in its public form; the columns before it repeat what is
searched for. `chain`, `seq`, `hash`: its place, see `decisions/chain.py`."""

decision_chain = Table(
    "cam_decision_chain",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("started_at", Moment, nullable=False),
    Column("anchor_seq", BigInteger, nullable=False),
    Column("anchor_hash", String(64), nullable=False),
    Column("head_seq", BigInteger, nullable=False),
    Column("head_hash", String(64), nullable=False),
)
"""One for each process that has written decisions. Its records are those after the anchor, up to
the head; the anchor is the last one that was pruned, or the beginning."""

ADD_KEY = insert(access_key)
FIND_KEY = select(access_key).where(access_key.c.secret_id == bindparam("secret_id"))
KEYS_OF = (
    select(access_key)
    .where(access_key.c.owner_uin == bindparam("owner_uin"), access_key.c.uin == bindparam("uin"))
    .order_by(access_key.c.created_at)
)
DROP_KEY = delete(access_key).where(access_key.c.secret_id == bindparam("secret_id"))

ADD_SESSION = insert(session)
FIND_SESSION = select(session).where(session.c.secret_id == bindparam("secret_id"))
DROP_SESSIONS = delete(session).where(
    session.c.secret_id.in_(
        select(session.c.secret_id)
        .where(session.c.expires_at < bindparam("before"))
        .order_by(session.c.expires_at)
        .limit(bindparam("limit"))
        .with_for_update(skip_locked=True)  # several gateways may clear up at once
    )
)

_IN_ORDER = (decision_chain.c.started_at, decision_chain.c.id)
_OF_CHAIN = decision.c.chain == bindparam("chain")
_SELF = decision_chain.c.id == bindparam("chain")

ADD_DECISIONS = insert(decision)
OPEN_CHAIN = insert(decision_chain)
MOVE_HEAD = (
    update(decision_chain)
    .where(
        _SELF,
        decision_chain.c.head_seq == bindparam("old_seq"),
        decision_chain.c.head_hash == bindparam("old_hash"),
    )
    .values(head_seq=bindparam("new_seq"), head_hash=bindparam("new_hash"))
)
FIND_CHAIN = select(decision_chain).where(_SELF)
ALL_CHAINS = select(decision_chain).order_by(*_IN_ORDER)
FIND_DECISION = select(decision).where(decision.c.request_id == bindparam("request_id"))
DECISIONS_OF_CHAIN = (
    select(decision)
    .where(_OF_CHAIN, decision.c.seq >= bindparam("first_seq"))
    .order_by(decision.c.seq)
    .limit(bindparam("limit"))
)
STRAYS_OF_CHAIN = (
    select(decision.c.seq, decision.c.request_id).where(_OF_CHAIN).order_by(decision.c.seq)
)
CHAINS_OF_DECISIONS = select(decision.c.chain).distinct()

OLDEST_OF_CHAIN = (
    select(decision.c.seq, decision.c.hash, decision.c.decided_at)
    .where(_OF_CHAIN)
    .order_by(decision.c.seq)
    .limit(bindparam("limit"))
)
DROP_DECISIONS = delete(decision).where(_OF_CHAIN, decision.c.seq <= bindparam("last_seq"))
MOVE_ANCHOR = (
    update(decision_chain)
    .where(_SELF, decision_chain.c.anchor_seq < bindparam("new_seq"))
    .values(anchor_seq=bindparam("new_seq"), anchor_hash=bindparam("new_hash"))
)
DROP_EMPTY_CHAIN = delete(decision_chain).where(
    _SELF, decision_chain.c.anchor_seq == decision_chain.c.head_seq
)
