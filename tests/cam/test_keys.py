"""Access keys: sealed on disk, found by their id, two for each user; and the root account's."""

import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import text, update

from gateway.call import Key, Principal
from gateway.cam import keys, tables
from gateway.cam.keys import KeyFileError, KeyRing, open_root_key, open_sealer
from gateway.errors import OperationDenied
from gateway.store import Store

ALICE = Principal("100000000001", "100000000101", "alice")
BOB = Principal("100000000001", "100000000102", "bob")
NOW = datetime(2026, 1, 2, tzinfo=UTC)
ROOT_UIN = "100000000001"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def no_drafts(folder: Path) -> bool:
    """Whether nothing is left of the making of a file."""
    return len(list(folder.iterdir())) == 1


def test_the_sealing_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "sealing.key"
    sealed = open_sealer(path).encrypt(b"secret")
    assert mode_of(path) == 0o600
    assert open_sealer(path).decrypt(sealed) == b"secret"
    assert no_drafts(tmp_path)


def test_programs_that_start_at_once_seal_with_one_key(tmp_path: Path) -> None:
    path = tmp_path / "sealing.key"
    with ThreadPoolExecutor(8) as pool:
        sealers = list(pool.map(lambda _: open_sealer(path), range(32)))
    sealed = [sealer.encrypt(b"secret") for sealer in sealers]
    last = open_sealer(path)
    assert {last.decrypt(each) for each in sealed} == {b"secret"}
    assert no_drafts(tmp_path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601])
def test_a_sealing_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "sealing.key"
    open_sealer(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="600"):
        open_sealer(path)


@pytest.mark.parametrize("content", [b"", b"\n", b"short\n", b"\xff" * 44])
def test_a_sealing_key_that_is_none_is_refused_and_not_replaced(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "sealing.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError):
        open_sealer(path)
    assert path.read_bytes() == content


async def add(store: Store, key: Key, *, seal_with: Path) -> None:
    sealer = open_sealer(seal_with)
    await store.write(lambda tx: keys.add_key(tx, key, sealer=sealer, now=NOW))


def ring(store: Store, path: Path, *, clock: Callable[[], datetime] = lambda: NOW) -> KeyRing:
    return KeyRing(store, sealer=open_sealer(path), fixed={}, clock=clock)


@pytest.mark.anyio
async def test_a_key_is_found_by_its_id_with_its_owner_and_secret(
    store: Store, tmp_path: Path
) -> None:
    key = keys.new_key(ALICE)
    await add(store, key, seal_with=tmp_path / "k")
    found = await ring(store, tmp_path / "k").find_key(key.secret_id)
    assert found == key
    assert await ring(store, tmp_path / "k").find_key("AKIDnobody") is None


@pytest.mark.anyio
async def test_a_secret_is_nowhere_in_the_database(store: Store, tmp_path: Path) -> None:
    key = keys.new_key(ALICE)
    await add(store, key, seal_with=tmp_path / "k")
    rows = await store.read_list(lambda tx: tx.execute(text("SELECT * FROM cam_access_key")).all())
    assert len(rows) == 1
    assert key.secret_key not in str(rows)
    assert key.secret_key.encode() not in bytes(rows[0].sealed_secret_key)


@pytest.mark.anyio
async def test_a_user_has_two_keys_at_most_and_another_user_two_more(
    store: Store, tmp_path: Path
) -> None:
    for principal in (ALICE, BOB):
        for _ in range(2):
            await add(store, keys.new_key(principal), seal_with=tmp_path / "k")
        with pytest.raises(OperationDenied) as refused:
            await add(store, keys.new_key(principal), seal_with=tmp_path / "k")
        assert refused.value.code == "OperationDenied.AccessKeyOverLimit"


@pytest.mark.anyio
async def test_after_a_rotation_old_keys_open_and_new_ones_are_sealed_with_the_new_line(
    store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "sealing.key"
    old = keys.new_key(ALICE)
    await add(store, old, seal_with=path)
    old_line = path.read_bytes()
    path.write_bytes(Fernet.generate_key() + b"\n" + old_line)
    new = keys.new_key(ALICE)
    await add(store, new, seal_with=path)
    assert await ring(store, path).find_key(old.secret_id) == old
    assert await ring(store, path).find_key(new.secret_id) == new
    path.write_bytes(old_line)
    with pytest.raises(KeyFileError, match=new.secret_id):
        await ring(store, path).find_key(new.secret_id)


@pytest.mark.anyio
async def test_a_key_that_was_switched_off_is_believed_for_a_second_at_most(
    store: Store, tmp_path: Path
) -> None:
    moment = NOW
    key = keys.new_key(ALICE)
    await add(store, key, seal_with=tmp_path / "k")
    looking = ring(store, tmp_path / "k", clock=lambda: moment)
    assert await looking.find_key(key.secret_id) == key
    switch_off = update(tables.access_key).values(active=False)
    await store.write(lambda tx: tx.execute(switch_off))
    moment += timedelta(seconds=1)
    found = await looking.find_key(key.secret_id)
    assert found is not None
    assert not found.active


def test_the_root_key_is_made_once_in_a_file_that_a_shell_can_read(tmp_path: Path) -> None:
    path = tmp_path / "root.env"
    key = open_root_key(path, uin=ROOT_UIN, region="ap-beijing")
    assert mode_of(path) == 0o600
    assert path.read_text(encoding="ascii").splitlines() == [
        f"TENCENTCLOUD_SECRET_ID={key.secret_id}",
        f"TENCENTCLOUD_SECRET_KEY={key.secret_key}",
        "TENCENTCLOUD_REGION=ap-beijing",
    ]
    assert key.principal.is_root
    assert open_root_key(path, uin=ROOT_UIN, region="ap-guangzhou") == key
    assert no_drafts(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"TENCENTCLOUD_SECRET_ID=AKID\n",
        b"TENCENTCLOUD_SECRET_ID=AKID\nTENCENTCLOUD_SECRET_KEY=\n",
        b"TENCENTCLOUD_SECRET_ID=AKID\nTENCENTCLOUD_SECRET_KEY=\xff\n",
    ],
)
def test_a_root_key_that_is_none_is_refused_and_not_replaced(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "root.env"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=r"root\.env"):
        open_root_key(path, uin=ROOT_UIN, region="ap-guangzhou")
    assert path.read_bytes() == content


def test_a_root_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "root.env"
    open_root_key(path, uin=ROOT_UIN, region="ap-guangzhou")
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="600"):
        open_root_key(path, uin=ROOT_UIN, region="ap-guangzhou")


def test_a_key_does_not_print_its_secret() -> None:
    key = keys.new_key(ALICE)
    assert key.secret_key not in repr(key)
