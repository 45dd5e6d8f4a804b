"""Who there is and what they may do, as `policies/` declares it: read, watched, read again."""

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from gateway.call import Principal
from gateway.errors import ApiError
from gateway.policy.accounts import Account, parse_accounts
from gateway.policy.document import Document, parse
from gateway.policy.snapshot import Snapshot, build_snapshot
from gateway.policy.strict_toml import PolicySetRefused
from gateway.telemetry import POLICY_BROKEN, POLICY_GENERATION, log

WATCH_S = 0.25
SUPPLIED_KEYS = frozenset({"qcs:ip", "qcs:current_time", "qcs:uin", "qcs:owner_uin"})
"""The condition keys that every call carries. A document that uses another is refused whole."""

Fingerprint = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class PolicyFolder:
    """The folder of policies. Layout: `accounts.toml`, `presets/*.json`, `model.conf`."""

    path: Path

    def read_model(self) -> str:
        """The text of the casbin model. Raises PolicySetRefused."""
        return self._read("model.conf")

    def read_snapshot(self, *, generation: int) -> Snapshot:
        """Everything declared, strictly. Raises PolicySetRefused, naming the file."""
        accounts = parse_accounts(self._read("accounts.toml"))
        if not accounts:
            raise PolicySetRefused("accounts.toml declares no account")
        presets = {}
        for file in sorted((self.path / "presets").glob("*.json")):
            presets[file.stem] = self._read_document(f"presets/{file.name}", name=file.stem)
        custom = {account.uin: self._read_custom(account) for account in accounts}
        return build_snapshot(accounts, presets=presets, custom=custom, generation=generation)

    def fingerprint(self) -> Fingerprint:
        """What changes whenever a file does: every file's name, time, size and inode."""
        found = []
        for folder, _, names in os.walk(self.path):
            for name in names:
                path = os.path.join(folder, name)
                try:
                    status = os.stat(path)
                except OSError:
                    continue
                found.append((path, status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(sorted(found))

    def _read_custom(self, account: Account) -> dict[str, Document]:
        return {
            policy.name: self._read_document(policy.file, name=policy.name)
            for policy in account.policies
        }

    def _read_document(self, file: str, *, name: str) -> Document:
        try:
            document = parse(self._read(file), name=name)
        except ApiError as error:
            raise PolicySetRefused(f"{file}: {error.message} ({error.code})") from error
        for statement in document.statements:
            for condition in statement.conditions:
                if condition.key not in SUPPLIED_KEYS:
                    raise PolicySetRefused(
                        f"{file}: no call here carries the condition key `{condition.key}`, so a"
                        " deny that depends on it would never apply"
                    )
        return document

    def _read(self, file: str) -> str:
        try:
            path = (self.path / file).resolve()
            if not path.is_relative_to(self.path.resolve()):
                raise PolicySetRefused(f"{file} is not inside the policies folder")
            return _read_regular(path)
        except (
            OSError,
            RuntimeError,
            UnicodeDecodeError,
        ) as error:  # RuntimeError: a loop
            raise PolicySetRefused(f"cannot read {file}: {error}") from error


def _read_regular(path: Path) -> str:
    """Read a file that is a file: a pipe would be waited for without end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, encoding="utf-8") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read()


async def watch(
    folder: PolicyFolder,
    *,
    current: Snapshot,
    loaded: Fingerprint,
    swap: Callable[[Snapshot], None],
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Swap a new snapshot in when files change; a broken set keeps the last good one, loudly.

    Files are read once two looks have seen the same: a file is seldom written at one stroke, and
    half of one may be a set that means something else.
    """
    generation = current.generation
    seen = loaded
    task_status.started()
    while True:
        await anyio.sleep(WATCH_S)
        before, seen = seen, await anyio.to_thread.run_sync(folder.fingerprint)
        if seen == loaded or seen != before:
            continue
        loaded = seen
        try:
            snapshot = await anyio.to_thread.run_sync(
                lambda: folder.read_snapshot(generation=generation + 1)  # noqa: B023  # runs now
            )
        except Exception as error:  # whatever is wrong with the files: nothing of them is used
            POLICY_BROKEN.set(1)
            log.error("policies_refused", error=str(error), kept_generation=generation)
            continue
        generation = snapshot.generation
        swap(snapshot)
        POLICY_BROKEN.set(0)
        POLICY_GENERATION.set(generation)
        log.info("policies_loaded", generation=generation)


def find_user(snapshot: Snapshot, name: str, *, owner_uin: str) -> Principal | None:
    """A declared user by name; None if the account has none of that name."""
    for account in snapshot.accounts:
        for user in account.users:
            if account.uin == owner_uin and user.name == name:
                return Principal(owner_uin=owner_uin, uin=user.uin, name=name)
    return None
