"""What can be wrong with who has what: policies nobody has, groups without users, and the like."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gateway.call import Effect
from gateway.policy.accounts import Account, Mode
from gateway.policy.trust import ANYONE, Trust


@dataclass(frozen=True, slots=True)
class Oddity:
    """Something about one thing that an account declares. table: `policy`, `user` and so on."""

    rule: str
    table: str
    name: str
    owner_uin: str
    message: str


def is_granting(file: str, accounts: Iterable[Account]) -> bool:
    """Whether a document gives somebody rights, or would if it were attached.

    Not if it is somebody's boundary and nothing else: that only narrows.
    """
    uses = [
        (_granted(account), _bounding(account), policy.name)
        for account in accounts
        for policy in account.policies
        if policy.file == file
    ]
    return not any(name in bounding for _, bounding, name in uses) or any(
        name in granted for granted, _, name in uses
    )


def _granted(account: Account) -> frozenset[str]:
    lists = [
        account.everyone,
        *(user.policies for user in account.users),
        *(group.policies for group in account.groups),
        *(role.policies for role in account.roles),
    ]
    return frozenset(name for names in lists for name in names)


def _bounding(account: Account) -> frozenset[str]:
    names = {
        account.boundary,
        *(user.boundary for user in account.users),
        *(role.boundary for role in account.roles),
    }
    return frozenset(filter(None, names))


def oddities(account: Account) -> Iterator[Oddity]:
    """Everything there is to say about the attachments of one account."""
    used = _granted(account) | _bounding(account)
    members = {name for user in account.users for name in user.groups}
    with_policies = {group.name for group in account.groups if group.policies}
    for policy in account.policies:
        if policy.name not in used:
            message = f"the policy `{policy.name}` is attached to nobody"
            yield Oddity("unattached-policy", "policy", policy.name, account.uin, message)
        elif policy.mode is Mode.SHADOW:
            message = f"the policy `{policy.name}` is only watched; it decides nothing"
            yield Oddity("shadow-policy", "policy", policy.name, account.uin, message)
    for group in account.groups:
        if group.name not in members:
            message = f"nobody is in the group `{group.name}`"
            yield Oddity("empty-group", "group", group.name, account.uin, message)
    for user in account.users:
        if not (user.policies or account.everyone or with_policies & set(user.groups)):
            message = f"the user `{user.name}` has no policy and may do nothing"
            yield Oddity("user-without-policy", "user", user.name, account.uin, message)


def admits_somebody(trust: Trust, account: Account) -> bool:
    """Whether a trust policy names anybody whom the role's own account declares.

    Conditions and denies are not looked at: it may still turn everybody away.
    """
    names = frozenset(_names(account))
    return any(
        statement.effect is Effect.ALLOW and not names.isdisjoint(statement.principals)
        for statement in trust.statements
    )


def _names(account: Account) -> Iterator[str]:
    here = f"qcs::cam::uin/{account.uin}"
    yield ANYONE
    yield f"{here}:root"
    yield f"{here}:uin/{account.uin}"
    for user in account.users:
        yield f"{here}:uin/{user.uin}"
    for role in account.roles:
        yield f"{here}:role/{role.id}"
        yield f"{here}:roleName/{role.name}"


def declaring(accounts: tuple[Account, ...]) -> Mapping[str, tuple[Account, ...]]:
    """The accounts that declare a policy, by its file."""
    found: dict[str, tuple[Account, ...]] = {}
    for account in accounts:
        for policy in account.policies:
            known = found.get(policy.file, ())
            if account not in known:
                found[policy.file] = (*known, account)
    return found
