"""Who has which statements: one frozen, numbered picture that decisions are made on."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gateway.policy.accounts import Account, CustomPolicy, Mode
from gateway.policy.document import Document, Statement
from gateway.policy.match import matches_action
from gateway.policy.strict_toml import PolicySetRefused


@dataclass(frozen=True, slots=True)
class Policy:
    """A document as one account uses it, shared by everyone it is attached to."""

    document: Document
    mode: Mode


@dataclass(frozen=True, slots=True)
class Candidate:
    """A statement that may settle a query. subject: the user or group it is attached to."""

    subject: str
    policy: Policy
    statement: Statement


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All accounts and attachments at one moment.

    generation: named by every decision made on this snapshot.
    attached: subject → its policies. groups: user's subject → its groups' subjects.
    """

    generation: int
    accounts: tuple[Account, ...]
    attached: Mapping[str, tuple[Policy, ...]]
    groups: Mapping[str, tuple[str, ...]]

    def candidates(self, user: str, action: str | None = None) -> tuple[Candidate, ...]:
        """Give the statements of a user and of its groups, or those that speak of `action`."""
        return tuple(
            Candidate(subject, policy, statement)
            for subject in (user, *self.groups.get(user, ()))
            for policy in self.attached.get(subject, ())
            for statement in policy.document.statements
            if action is None or matches_action(statement, action)
        )


def user_subject(owner_uin: str, uin: str) -> str:
    """Name a user as casbin's role graph does."""
    return f"{owner_uin}/{uin}"


def group_subject(owner_uin: str, name: str) -> str:
    """Name a group as casbin's role graph does; never equal to a user's, which ends in digits."""
    return f"{owner_uin}/group/{name}"


def build_snapshot(
    accounts: Iterable[Account],
    *,
    presets: Mapping[str, Document],
    custom: Mapping[str, Mapping[str, Document]],
    generation: int,
) -> Snapshot:
    """Put accounts and documents together.

    presets: by name. custom: by the owner's uin, then by name.
    Raises PolicySetRefused if anything is missing, named twice, or named like a preset.
    """
    accounts = tuple(accounts)
    _check_uins(accounts)
    attached: dict[str, tuple[Policy, ...]] = {}
    groups: dict[str, tuple[str, ...]] = {}
    for account in accounts:
        policies = _policies_of(account, presets=presets, custom=custom.get(account.uin, {}))
        attached |= _attach(account, policies)
        groups |= _memberships(account)
    return Snapshot(generation, accounts, MappingProxyType(attached), MappingProxyType(groups))


def _check_uins(accounts: tuple[Account, ...]) -> None:
    """Refuse a uin that stands for two: a user with an account's uin would be taken for root."""
    uins = [account.uin for account in accounts]
    uins += [user.uin for account in accounts for user in account.users]
    if twice := _repeated(uins):
        raise PolicySetRefused(f"the uin `{twice}` is given twice")


def _policies_of(
    account: Account, *, presets: Mapping[str, Document], custom: Mapping[str, Document]
) -> Mapping[str, Policy]:
    policies = {name: Policy(document, Mode.ENFORCE) for name, document in presets.items()}
    names = [policy.name for policy in account.policies]
    if twice := _repeated(names):
        raise PolicySetRefused(f"account {account.uin}: the policy `{twice}` is declared twice")
    for policy in account.policies:
        policies[policy.name] = _custom_policy(account, policy, presets=presets, custom=custom)
    return policies


def _custom_policy(
    account: Account,
    policy: CustomPolicy,
    *,
    presets: Mapping[str, Document],
    custom: Mapping[str, Document],
) -> Policy:
    where = f"account {account.uin}: the policy `{policy.name}`"
    if policy.name in presets:
        raise PolicySetRefused(f"{where} has the name of a preset")
    if policy.name not in custom:
        raise PolicySetRefused(f"{where} has no document")
    return Policy(custom[policy.name], policy.mode)


def _attach(account: Account, policies: Mapping[str, Policy]) -> dict[str, tuple[Policy, ...]]:
    attached = {}
    for group in account.groups:
        where = f"account {account.uin}: group `{group.name}`"
        subject = group_subject(account.uin, group.name)
        attached[subject] = _find_all(group.policies, policies, where=where)
    for user in account.users:
        where = f"account {account.uin}: user `{user.name}`"
        subject = user_subject(account.uin, user.uin)
        attached[subject] = _find_all(user.policies, policies, where=where)
    return attached


def _find_all(
    names: tuple[str, ...], policies: Mapping[str, Policy], *, where: str
) -> tuple[Policy, ...]:
    for name in names:
        if name not in policies:
            raise PolicySetRefused(f"{where} has the policy `{name}`, which does not exist")
    if twice := _repeated(names):
        raise PolicySetRefused(f"{where} has the policy `{twice}` twice")
    return tuple(policies[name] for name in names)


def _memberships(account: Account) -> dict[str, tuple[str, ...]]:
    where = f"account {account.uin}"
    known = [group.name for group in account.groups]
    if twice := _repeated(known):
        raise PolicySetRefused(f"{where}: the group `{twice}` is declared twice")
    if twice := _repeated(user.name for user in account.users):
        raise PolicySetRefused(f"{where}: the user `{twice}` is declared twice")
    groups = {}
    for user in account.users:
        if missing := sorted(set(user.groups) - set(known)):
            raise PolicySetRefused(f"{where}: the group `{missing[0]}` does not exist")
        if twice := _repeated(user.groups):
            raise PolicySetRefused(f"{where}: user `{user.name}` is in group `{twice}` twice")
        subject = user_subject(account.uin, user.uin)
        groups[subject] = tuple(group_subject(account.uin, name) for name in user.groups)
    return groups


def _repeated(names: Iterable[str]) -> str | None:
    return next((name for name, times in Counter(names).items() if times > 1), None)
