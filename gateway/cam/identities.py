"""Who there is and what they may do, as `policies/` declares it: read, watched, read again."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from gateway.catalog import ACTIONS
from gateway.config import Settings
from gateway.errors import ApiError
from gateway.policy.accounts import Account, parse_accounts
from gateway.policy.action import KnownActions
from gateway.policy.condition import is_carried, is_foreign
from gateway.policy.document import Document, parse
from gateway.policy.enforcer import CasbinEvaluator
from gateway.policy.limits import check_limits
from gateway.policy.plans import PlanEvaluator
from gateway.policy.refusal import PolicySetRefused
from gateway.policy.snapshot import Snapshot, build_snapshot, policy_key
from gateway.policy.trust import Trust, check_trust, parse_trust
from gateway.policy.verdict import Evaluator
from gateway.telemetry import POLICY_BROKEN, POLICY_GENERATION, log

WATCH_S = 0.25
SETTLE_S = 0.1
ACCOUNTS = "accounts.toml"
SERVICES = frozenset({"cmqqueue", "cmqtopic"} | {action.service for action in ACTIONS})
"""Those that are served here, and names that old policies use for what is `tdmq` now."""
KNOWN_ACTIONS: KnownActions = {
    "batch": frozenset(action.name.lower() for action in ACTIONS if action.service == "batch")
}
"""Of the other services the catalogue has only some actions."""

Status = tuple[int, int, int, int]
Fingerprint = dict[str, Status]


@dataclass(frozen=True, slots=True)
class PolicyFolder:
    """The folder of policies. Layout: `accounts.toml`, `presets/*.json`, `model.conf`.

    has_limits: the vendor's quotas hold. A document is parsed once, until its file changes.
    """

    path: Path
    has_limits: bool = False
    _parsed: dict[tuple[str, str], tuple[Status, Document]] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> "PolicyFolder":
        """The folder that the settings name, under the limits that they set."""
        return cls(settings.policies, has_limits=settings.limits == "cloud")

    def read_model(self) -> str:
        """The text of the casbin model. Raises PolicySetRefused."""
        return self._read("model.conf")[0]

    def check_model(self) -> None:
        """Refuse a model that casbin cannot use, whoever decides. Raises PolicySetRefused.

        Only casbin needs one, so a folder may be without.
        """
        if os.path.lexists(self.path / "model.conf"):
            CasbinEvaluator(self.read_model())

    def read_snapshot(self, *, generation: int) -> Snapshot:
        """Everything declared, strictly. Raises PolicySetRefused, naming the file."""
        accounts = parse_accounts(self._read(ACCOUNTS)[0])
        self._forget_deleted_files()
        if not accounts:
            raise PolicySetRefused(f"{ACCOUNTS} declares no account")
        presets = {
            Path(file).stem: self._read_document(file, name=Path(file).stem)
            for file in self._preset_files()
        }
        custom = {
            account.uin: {
                one.name: self._read_document(one.file, name=one.name) for one in account.policies
            }
            for account in accounts
        }
        if self.has_limits:
            check_limits(accounts)
        return build_snapshot(
            accounts,
            presets=presets,
            custom=custom,
            trusts=self._read_trusts(accounts),
            generation=generation,
        )

    def read_changes(
        self, snapshot: Snapshot, *, before: Fingerprint, after: Fingerprint, generation: int
    ) -> Snapshot:
        """The snapshot after some files have changed; only these are read, if that is enough.

        It is if each is a document that the snapshot has already. Raises PolicySetRefused.
        """
        changed = {file for file, status in after.items() if before.get(file) != status}
        made_of = _policies_made_of(changed, snapshot, presets=self._preset_files())
        if before.keys() != after.keys() or changed != {file for file, _, _ in made_of}:
            return self.read_snapshot(generation=generation)
        documents = {key: self._read_document(file, name=name) for file, name, key in made_of}
        return snapshot.with_documents(documents, generation=generation)

    def fingerprint(self) -> Fingerprint:
        """What changes whenever a file does: every file's times, size and inode, by its name."""
        return dict(_walk(str(self.path), "", seen=set()))

    def _preset_files(self) -> list[str]:
        return [f"presets/{file.name}" for file in sorted((self.path / "presets").glob("*.json"))]

    def _read_document(self, file: str, *, name: str) -> Document:
        text, status = self._read(file)
        known = self._parsed.get((file, name))
        if known is not None and known[0] == status:
            return known[1]
        try:
            document = parse(text, name=name, file=file, known_actions=KNOWN_ACTIONS)
        except ApiError as error:
            raise PolicySetRefused(f"{file}: {error.message} ({error.code})") from error
        check_keys(document)
        self._parsed[file, name] = status, document
        return document

    def _forget_deleted_files(self) -> None:
        for file, name in list(self._parsed):
            if not (self.path / file).exists():
                del self._parsed[file, name]

    def _read_trusts(self, accounts: tuple[Account, ...]) -> dict[str, dict[str, Trust]]:
        uins = frozenset(account.uin for account in accounts)
        uins |= {user.uin for account in accounts for user in account.users}
        trusts: dict[str, dict[str, Trust]] = {account.uin: {} for account in accounts}
        for account in accounts:
            for role in account.roles:
                text, _ = self._read(role.trust)
                try:
                    trust = parse_trust(text, role=role.name, file=role.trust)
                    check_trust(trust, uins)
                except ApiError as error:
                    raise PolicySetRefused(
                        f"{role.trust}: {error.message} ({error.code})"
                    ) from error
                trusts[account.uin][role.name] = trust
        return trusts

    def _read(self, file: str) -> tuple[str, Status]:
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


def open_evaluator(settings: Settings, folder: PolicyFolder) -> Evaluator:
    """What judges statements, as the settings choose. Raises PolicySetRefused."""
    if settings.evaluator == "casbin":
        return CasbinEvaluator(folder.read_model())
    return PlanEvaluator()


def _policies_made_of(
    files: set[str], snapshot: Snapshot, *, presets: list[str]
) -> list[tuple[str, str, str]]:
    """The policies that are made of some files: file, name, key in the snapshot."""
    named = [(file, Path(file).stem) for file in presets]
    return [
        (file, name, policy_key(account.uin, name))
        for account in snapshot.accounts
        for file, name in chain(((one.file, one.name) for one in account.policies), named)
        if file in files
    ]


def check_keys(document: Document) -> None:
    """Refuse a condition key that no call can carry: a deny that depends on it would never apply.

    Why keys such as `cvm:region` pass: they belong to the calls of services that are not served
    here, and are absent from all others' in the cloud, too.
    """
    for statement in document.statements:
        for condition in statement.conditions:
            key = condition.key
            if not (is_carried(key) or is_foreign(key, SERVICES)):
                raise PolicySetRefused(
                    f"{document.file}: no call here carries the condition key `{key}`, so a"
                    " deny that depends on it would never apply"
                )


def _walk(folder: str, under: str, *, seen: set[int]) -> Iterator[tuple[str, Status]]:
    """Every file below a folder. What vanishes while it is looked at is left out.

    Links to folders are followed. seen: inodes of the folders above, so that a loop ends.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                status = entry.stat()
                if not stat.S_ISDIR(status.st_mode):
                    yield f"{under}{entry.name}", _status(status)
                elif status.st_ino not in seen:
                    inside = seen | {status.st_ino}
                    yield from _walk(entry.path, f"{under}{entry.name}/", seen=inside)


def _status(status: os.stat_result) -> Status:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _read_regular(path: Path) -> tuple[str, Status]:
    """Read a file that is a file: a pipe would be waited for without end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, encoding="utf-8") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read(), _status(status)


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
    seen = good = loaded
    task_status.started()
    while True:
        await anyio.sleep(WATCH_S if seen == loaded else SETTLE_S)
        before, seen = seen, await anyio.to_thread.run_sync(folder.fingerprint)
        if seen == loaded or seen != before:
            continue
        read = partial(
            folder.read_changes, current, before=good, after=seen, generation=generation + 1
        )
        loaded = seen
        try:
            current = await anyio.to_thread.run_sync(read)
        except Exception as error:  # whatever is wrong with the files: nothing of them is used
            POLICY_BROKEN.set(1)
            log.error("policies_refused", error=str(error), kept_generation=generation)
            continue
        good, generation = loaded, current.generation
        swap(current)
        POLICY_BROKEN.set(0)
        POLICY_GENERATION.set(generation)
        log.info("policies_loaded", generation=generation)
