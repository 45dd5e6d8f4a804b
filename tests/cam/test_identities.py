"""The policies folder: read strictly and as a whole, watched, and kept when it breaks."""

import json
import os
import shutil
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path

import anyio
import pytest

from gateway.call import Effect
from gateway.cam.identities import Fingerprint, PolicyFolder, watch
from gateway.policy.refusal import PolicySetRefused
from gateway.policy.snapshot import Snapshot, find_user
from tests.support.running import ROOT

ACCOUNT = '[[account]]\nuin = "100000000001"\n'


@pytest.fixture
def folder(tmp_path: Path) -> PolicyFolder:
    """A copy of this repository's policies."""
    path = tmp_path / "policies"
    shutil.copytree(ROOT / "policies", path)
    return PolicyFolder(path)


def test_the_policies_of_this_repository_are_read(folder: PolicyFolder) -> None:
    snapshot = folder.read_snapshot(generation=5)
    assert snapshot.generation == 5
    alice = find_user(snapshot, "alice", owner_uin="100000000001")
    assert alice is not None
    assert (alice.owner_uin, alice.uin) == ("100000000001", "100000000101")
    assert find_user(snapshot, "alice", owner_uin="100000000002") is None
    assert find_user(snapshot, "ALICE", owner_uin="100000000001") is None


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("accounts.toml", ""),
        ("accounts.toml", ACCOUNT + 'colour = "red"\n'),
        ("accounts.toml", ACCOUNT + ACCOUNT),
        ("accounts.toml", ACCOUNT + '[[account.policy]]\nname = "x"\nfile = "../x.json"\n'),
        ("accounts.toml", ACCOUNT + '[[account.policy]]\nname = "x"\nfile = "/etc/passwd"\n'),
        ("accounts.toml", ACCOUNT + '[[account.policy]]\nname = "x"\nfile = "absent.json"\n'),
        ("accounts.toml", ACCOUNT + '[[account.user]]\nname = "x"\nuin = "100000000001"\n'),
        ("examples/read-jobs.json", "{"),
        ("examples/read-jobs.json", '{"version":"2.0","version":"2.0","statement":[]}'),
        ("examples/read-jobs.json", '{"version":"2.0","statement":[{"effect":"allow"}]}'),
        ("presets/Broken.json", "{}"),
        ("presets/read-jobs.json", '{"version":"2.0","statement":[]}'),
    ],
)
def test_one_wrong_file_refuses_the_whole_set(folder: PolicyFolder, file: str, text: str) -> None:
    (folder.path / file).write_text(text, encoding="utf-8")
    with pytest.raises(PolicySetRefused):
        folder.read_snapshot(generation=1)


def test_what_is_no_file_is_refused_without_waiting_for_it(folder: PolicyFolder) -> None:
    os.mkfifo(folder.path / "presets" / "Pipe.json")
    with pytest.raises(PolicySetRefused, match="not a regular file"):
        folder.read_snapshot(generation=1)


def test_a_link_to_itself_is_refused(folder: PolicyFolder) -> None:
    (folder.path / "presets" / "Loop.json").symlink_to("Loop.json")
    with pytest.raises(PolicySetRefused):
        folder.read_snapshot(generation=1)


@pytest.mark.parametrize("file", ["accounts.toml", "examples/read-jobs.json", "model.conf"])
def test_a_file_that_is_missing_or_no_text_is_refused_by_its_name(
    folder: PolicyFolder, file: str
) -> None:
    (folder.path / file).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PolicySetRefused, match=Path(file).name):
        _ = folder.read_model(), folder.read_snapshot(generation=1)
    (folder.path / file).unlink()
    with pytest.raises(PolicySetRefused, match=Path(file).name):
        _ = folder.read_model(), folder.read_snapshot(generation=1)


def test_a_link_out_of_the_folder_is_not_followed(folder: PolicyFolder, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    policy = folder.path / "examples" / "read-jobs.json"
    shutil.move(policy, outside)
    policy.symlink_to(outside)
    with pytest.raises(PolicySetRefused, match="inside"):
        folder.read_snapshot(generation=1)


def test_any_change_of_any_file_is_noticed(folder: PolicyFolder) -> None:
    seen = [folder.fingerprint()]
    example = folder.path / "examples" / "read-jobs.json"
    text = example.read_text(encoding="utf-8")
    (folder.path / "new.json").write_text(text, encoding="utf-8")
    seen.append(folder.fingerprint())
    (folder.path / "new.json").replace(example)
    seen.append(folder.fingerprint())
    example.write_text(text.replace("allow", "alloy"), encoding="utf-8")
    seen.append(folder.fingerprint())
    example.unlink()
    seen.append(folder.fingerprint())
    assert all(one != other for one, other in combinations(seen, 2))


def changed(folder: PolicyFolder, snapshot: Snapshot, before: Fingerprint) -> Snapshot:
    after = folder.fingerprint()
    return folder.read_changes(snapshot, before=before, after=after, generation=2)


def test_a_changed_document_is_read_alone(folder: PolicyFolder) -> None:
    loaded, current = folder.fingerprint(), folder.read_snapshot(generation=1)
    file = folder.path / "examples" / "read-jobs.json"
    file.write_text(file.read_text(encoding="utf-8").replace("allow", "deny"), encoding="utf-8")
    new = changed(folder, current, loaded)
    key = "100000000001/read-jobs"
    assert new.generation == 2
    assert new.policies[key].document.statements[0].effect is Effect.DENY
    kept = current.policies.keys() - {key}
    assert all(new.policies[one] is current.policies[one] for one in kept)
    assert new.attached is current.attached
    assert new == replace(folder.read_snapshot(generation=2), policies=new.policies)


def test_a_change_behind_a_link_to_a_folder_is_seen_by_all_who_use_it(
    folder: PolicyFolder,
) -> None:
    (folder.path / "link").symlink_to("examples")
    accounts = folder.path / "accounts.toml"
    text = accounts.read_text(encoding="utf-8")
    named = (
        'name = "linked"\nfile = "link/read-jobs.json"\n\n[[account.policy]]\nname = "read-jobs"'
    )
    accounts.write_text(text.replace('name = "read-jobs"', named, 1), encoding="utf-8")
    loaded, current = folder.fingerprint(), folder.read_snapshot(generation=1)
    file = folder.path / "examples" / "read-jobs.json"
    file.write_text(file.read_text(encoding="utf-8").replace("allow", "deny"), encoding="utf-8")
    new = changed(folder, current, loaded)
    for name in ("read-jobs", "linked"):
        [statement] = new.policies[f"100000000001/{name}"].document.statements
        assert statement.effect is Effect.DENY


def test_a_link_that_is_turned_to_another_folder_is_a_change(folder: PolicyFolder) -> None:
    shutil.copytree(folder.path / "examples", folder.path / "other")
    (folder.path / "link").symlink_to("examples")
    before = folder.fingerprint()
    (folder.path / "new").symlink_to("other")
    (folder.path / "new").rename(folder.path / "link")
    assert folder.fingerprint() != before
    (folder.path / "loop").symlink_to(".")
    assert folder.fingerprint(), "a loop ends"


def test_a_file_rewritten_with_its_old_size_and_time_is_a_change(folder: PolicyFolder) -> None:
    loaded, current = folder.fingerprint(), folder.read_snapshot(generation=1)
    file = folder.path / "examples" / "read-jobs.json"
    times = file.stat()
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"allow"', '"deny" '), encoding="utf-8")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_size == times.st_size
    new = changed(folder, current, loaded)
    [statement] = new.policies["100000000001/read-jobs"].document.statements
    assert statement.effect is Effect.DENY


@pytest.mark.parametrize("change", ["accounts", "new preset", "preset gone"])
def test_a_change_of_more_than_documents_reads_everything(
    folder: PolicyFolder, change: str
) -> None:
    presets = folder.path / "presets"
    shutil.copy(presets / "QcloudBatchReadOnlyAccess.json", presets / "Spare.json")
    loaded, current = folder.fingerprint(), folder.read_snapshot(generation=1)
    if change == "accounts":
        with (folder.path / "accounts.toml").open("a", encoding="utf-8") as file:
            file.write('[[account.user]]\nname = "carol"\nuin = "100000000199"\n')
    elif change == "new preset":
        shutil.copy(presets / "Spare.json", presets / "Other.json")
    else:
        (presets / "Spare.json").unlink()
    new = changed(folder, current, loaded)
    assert new == folder.read_snapshot(generation=2)
    known = "100000000001/read-jobs"
    assert new.policies[known] == current.policies[known], "what did not change is not read again"


def test_a_key_that_no_call_carries_is_refused_and_another_services_is_not(
    folder: PolicyFolder,
) -> None:
    file = folder.path / "examples" / "read-jobs.json"
    for key, fine in {"cvm:region": True, "qcs:tag/a": True, "qcs:nothing": False}.items():
        condition = {"string_equal": {key: "x"}}
        statement = {"effect": "deny", "action": "*", "resource": "*", "condition": condition}
        document = {"version": "2.0", "statement": [statement]}
        file.write_text(json.dumps(document), encoding="utf-8")
        if fine:
            assert folder.read_snapshot(generation=1)
        else:
            with pytest.raises(PolicySetRefused, match=key):
                folder.read_snapshot(generation=1)


@pytest.mark.anyio
async def test_a_good_set_is_swapped_in_and_a_broken_one_waits_to_be_mended(
    folder: PolicyFolder,
) -> None:
    swapped: list[Snapshot] = []
    came = anyio.Event()

    def swap(snapshot: Snapshot) -> None:
        swapped.append(snapshot)
        came.set()

    loaded, current = folder.fingerprint(), folder.read_snapshot(generation=7)
    accounts = folder.path / "accounts.toml"
    broken = folder.path / "presets" / "Broken.json"
    watching = partial(watch, folder, current=current, loaded=loaded, swap=swap)
    async with anyio.create_task_group() as tasks:
        broken.write_text("{}", encoding="utf-8")
        accounts.write_text(ACCOUNT, encoding="utf-8")
        await tasks.start(watching)
        broken.unlink()
        with anyio.fail_after(10):
            await came.wait()
        tasks.cancel_scope.cancel()
    assert [snapshot.generation for snapshot in swapped] == [8]
    assert swapped[0].accounts[0].users == ()


@pytest.mark.anyio
async def test_what_changed_between_reading_and_watching_is_not_missed(
    folder: PolicyFolder,
) -> None:
    loaded, current = folder.fingerprint(), folder.read_snapshot(generation=1)
    (folder.path / "accounts.toml").write_text(ACCOUNT, encoding="utf-8")
    came = anyio.Event()
    watching = partial(watch, folder, current=current, loaded=loaded, swap=lambda _: came.set())
    async with anyio.create_task_group() as tasks:
        await tasks.start(watching)
        with anyio.fail_after(10):
            await came.wait()
        tasks.cancel_scope.cancel()
