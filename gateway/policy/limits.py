"""The vendor's quotas of an account, for those who want to know that their policies fit the cloud.

The length of a document, the two keys of a user and the forms of names are not here: they hold
always, where each is read. Source: CAM, use limits.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from gateway.policy.accounts import Account
from gateway.policy.strict_toml import PolicySetRefused

Counts = Iterator[tuple[str, int]]
"""What is counted, as a refusal calls it, and how many there are."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that an account may have of something. code: the API's, for one more of it."""

    most: int
    code: str
    count: Callable[[Account], Counts]


def check_limits(accounts: Iterable[Account]) -> None:
    """Refuse accounts beyond a quota: PolicySetRefused, naming what there is too much of."""
    for account in accounts:
        for limit in LIMITS:
            for what, number in limit.count(account):
                if number > limit.most:
                    raise PolicySetRefused(
                        f"account {account.uin}: {number} {what}, where the cloud has"
                        f" {limit.most} at most ({limit.code})"
                    )


def _groups(account: Account) -> Counts:
    yield "groups", len(account.groups)


def _users(account: Account) -> Counts:
    yield "users", len(account.users)


def _roles(account: Account) -> Counts:
    yield "roles", len(account.roles)


def _custom_policies(account: Account) -> Counts:
    yield "custom policies", len(account.policies)


def _groups_of_users(account: Account) -> Counts:
    for user in account.users:
        yield f"groups of user `{user.name}`", len(user.groups)


def _users_of_groups(account: Account) -> Counts:
    members = Counter(name for user in account.users for name in user.groups)
    for name, number in members.items():
        yield f"users in group `{name}`", number


def _policies_of_holders(account: Account) -> Counts:
    """What everyone has is not counted: it is the vendor's own, and attached to nobody."""
    for group in account.groups:
        yield f"policies of group `{group.name}`", len(group.policies)
    for user in account.users:
        yield f"policies of user `{user.name}`", len(user.policies)
    for role in account.roles:
        yield f"policies of role `{role.name}`", len(role.policies)


LIMITS = (
    Limit(300, "InvalidParameter.GroupFull", _groups),
    Limit(1_000, "InvalidParameter.SubUserFull", _users),
    Limit(1_000, "InvalidParameter.RoleFull", _roles),
    Limit(1_500, "FailedOperation.PolicyFull", _custom_policies),
    Limit(10, "InvalidParameter.UserGroupFull", _groups_of_users),
    Limit(100, "InvalidParameter.GroupUserFull", _users_of_groups),
    Limit(200, "InvalidParameter.AttachmentFull", _policies_of_holders),
)
