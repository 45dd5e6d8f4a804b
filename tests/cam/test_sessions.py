"""Temporary keys: found with whom they speak for, kept without their token, gone in the end."""

from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path

import anyio
import pytest
from sqlalchemy import text

from gateway.call import Principal
from gateway.cam import keys, sessions
from gateway.cam.keys import KeyRing, open_sealer
from gateway.cam.sessions import KEPT_FOR, PRUNED_MAX, Session, new_session
from gateway.store import Store, Tx

OWNER = "100000000001"
NOW = datetime(2026, 1, 2, tzinfo=UTC)
EXPIRY = NOW + timedelta(hours=2)
POLICY = '{"version": "2.0", "statement": []}'
NIGHTLY = Principal(OWNER, "46116860184", "nightly", role="nightly", session="one")
NARROWED = Principal(OWNER, "100000000101", "alice", session="SUN", session_policy=POLICY)


async def add(store: Store, folder: Path, session: Session, *, now: datetime = NOW) -> None:
    sealer = open_sealer(folder / "k")
    await store.write(lambda tx: sessions.add_session(tx, session, sealer=sealer, now=now))


def ring(store: Store, folder: Path) -> KeyRing:
    return KeyRing(store, sealer=open_sealer(folder / "k"), fixed={}, clock=lambda: NOW)


async def count(store: Store) -> int:
    found = await store.read_list(
        lambda tx: tx.execute(text("SELECT count(*) FROM cam_session")).scalar_one()
    )
    return int(found)


@pytest.mark.anyio
@pytest.mark.parametrize("principal", [NIGHTLY, NARROWED])
async def test_a_temporary_key_is_found_with_everything_it_was_made_for(
    store: Store, tmp_path: Path, principal: Principal
) -> None:
    made = new_session(principal, expires_at=EXPIRY)
    await add(store, tmp_path, made)
    found = await ring(store, tmp_path).find_key(made.key.secret_id)
    assert found == made.key
    assert found.principal == principal
    assert found.token_sha256 == sha256(made.token.encode()).digest()


@pytest.mark.anyio
async def test_a_lasting_key_and_a_temporary_one_are_found_by_one_ring(
    store: Store, tmp_path: Path
) -> None:
    alice = Principal(OWNER, "100000000101", "alice")
    lasting, made = keys.new_key(alice), new_session(NIGHTLY, expires_at=EXPIRY)
    sealer = open_sealer(tmp_path / "k")
    await store.write(lambda tx: keys.add_key(tx, lasting, sealer=sealer, now=NOW))
    await add(store, tmp_path, made)
    looking = ring(store, tmp_path)
    for _ in range(2):  # from the store, then from memory
        assert await looking.find_key(lasting.secret_id) == lasting
        assert await looking.find_key(made.key.secret_id) == made.key
    unknown = new_session(NIGHTLY, expires_at=EXPIRY).key.secret_id
    assert await looking.find_key(unknown) is None


@pytest.mark.anyio
async def test_neither_token_nor_secret_is_in_the_database(store: Store, tmp_path: Path) -> None:
    made = new_session(NIGHTLY, expires_at=EXPIRY)
    await add(store, tmp_path, made)
    rows = await store.read_list(lambda tx: tx.execute(text("SELECT * FROM cam_session")).all())
    written = b"|".join(
        bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
        for value in rows[0]
    )
    assert made.key.secret_id.encode() in written
    assert made.token.encode() not in written
    assert made.key.secret_key.encode() not in written


@pytest.mark.anyio
async def test_expired_keys_are_still_known_for_a_day_and_then_go(
    store: Store, tmp_path: Path
) -> None:
    first = new_session(NIGHTLY, expires_at=EXPIRY)
    await add(store, tmp_path, first)
    await add(store, tmp_path, new_session(NIGHTLY, expires_at=EXPIRY), now=EXPIRY + KEPT_FOR)
    assert await ring(store, tmp_path).find_key(first.key.secret_id) == first.key
    later = EXPIRY + KEPT_FOR + timedelta(microseconds=1)
    await add(store, tmp_path, new_session(NIGHTLY, expires_at=later + KEPT_FOR), now=later)
    assert await ring(store, tmp_path).find_key(first.key.secret_id) is None
    assert await count(store) == 1


@pytest.mark.anyio
async def test_one_new_session_removes_no_more_old_ones_than_stated(
    store: Store, tmp_path: Path
) -> None:
    sealer = open_sealer(tmp_path / "k")
    made = [new_session(NIGHTLY, expires_at=EXPIRY) for _ in range(PRUNED_MAX + 2)]

    def add_all(tx: Tx) -> None:
        for one in made:
            sessions.add_session(tx, one, sealer=sealer, now=NOW)

    await store.write(add_all)
    later = EXPIRY + timedelta(days=30)
    for left in (3, 2):
        await add(store, tmp_path, new_session(NIGHTLY, expires_at=later), now=later)
        assert await count(store) == left


@pytest.mark.anyio
async def test_sessions_made_at_once_clear_up_side_by_side(store: Store, tmp_path: Path) -> None:
    later = EXPIRY + timedelta(days=30)
    for _ in range(20):
        await add(store, tmp_path, new_session(NIGHTLY, expires_at=EXPIRY))
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            made = new_session(NIGHTLY, expires_at=later)
            tasks.start_soon(partial(add, store, tmp_path, made, now=later))
    assert await count(store) == 8


def test_the_id_tells_a_temporary_key_from_a_lasting_one() -> None:
    made = new_session(NIGHTLY, expires_at=EXPIRY)
    assert made.key.secret_id.startswith("AKID")
    assert sessions.is_temporary(made.key.secret_id)
    assert not sessions.is_temporary(keys.new_key(NIGHTLY).secret_id)
    assert len(made.token) <= 4_096


def test_no_two_sessions_share_anything_secret() -> None:
    first, second = (new_session(NIGHTLY, expires_at=EXPIRY) for _ in range(2))
    assert first.token != second.token
    assert first.key.secret_key != second.key.secret_key


def test_a_session_does_not_print_its_token_or_secret() -> None:
    made = new_session(NARROWED, expires_at=EXPIRY)
    shown = repr(made)
    assert made.token not in shown
    assert made.key.secret_key not in shown
    assert POLICY not in shown
