"""The vendor's quotas of an account, for those who want to know that their policies fit the cloud.

The length of a document, the two keys of a user and the forms of names are not here: they hold
always, where each is read. Source: CAM, use limits.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from gateway.policy.accounts import Account
from gateway.policy.refusal import PolicySetRefused


@dataclass(frozen=True, slots=True)
class Count:
    """How many there are of something. table, name: of whom; empty for the account itself."""

    number: int
    what: str
    table: str = ""
    name: str = ""


Counts = Iterator[Count]


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that an account may have of something. code: the API's, for one more of it."""

    most: int
    code: str
    count: Callable[[Account], Counts]


@dataclass(frozen=True, slots=True)
class Excess:
    """Too much of something."""

    owner_uin: str
    limit: Limit
    count: Count

    @property
    def message(self) -> str:
        """What there is too much of, and how much there may be."""
        count, limit = self.count, self.limit
        holder = f" of {count.table} `{count.name}`" if count.table else ""
        return (
            f"account {self.owner_uin}: {count.number} {count.what}{holder}, where the cloud has"
            f" {limit.most} at most ({limit.code})"
        )


def excesses(accounts: Iterable[Account]) -> Iterator[Excess]:
    """Everything in which accounts are beyond a quota."""
    for account in accounts:
        for limit in LIMITS:
            for count in limit.count(account):
                if count.number > limit.most:
                    yield Excess(account.uin, limit, count)


def check_limits(accounts: Iterable[Account]) -> None:
    """Refuse accounts beyond a quota: PolicySetRefused, naming what there is too much of."""
    for one in excesses(accounts):
        raise PolicySetRefused(one.message)


def _groups(account: Account) -> Counts:
    yield Count(len(account.groups), "groups")


def _users(account: Account) -> Counts:
    yield Count(len(account.users), "users")


def _roles(account: Account) -> Counts:
    yield Count(len(account.roles), "roles")


def _custom_policies(account: Account) -> Counts:
    yield Count(len(account.policies), "custom policies")


def _groups_of_users(account: Account) -> Counts:
    for user in account.users:
        yield Count(len(user.groups), "groups", "user", user.name)


def _users_of_groups(account: Account) -> Counts:
    members = Counter(name for user in account.users for name in user.groups)
    for name, number in members.items():
        yield Count(number, "users", "group", name)


def _policies_of_holders(account: Account) -> Counts:
    """What everyone has is not counted: it is the vendor's own, and attached to nobody."""
    for group in account.groups:
        yield Count(len(group.policies), "policies", "group", group.name)
    for user in account.users:
        yield Count(len(user.policies), "policies", "user", user.name)
    for role in account.roles:
        yield Count(len(role.policies), "policies", "role", role.name)


LIMITS = (
    Limit(300, "InvalidParameter.GroupFull", _groups),
    Limit(1_000, "InvalidParameter.SubUserFull", _users),
    Limit(1_000, "InvalidParameter.RoleFull", _roles),
    Limit(1_500, "FailedOperation.PolicyFull", _custom_policies),
    Limit(10, "InvalidParameter.UserGroupFull", _groups_of_users),
    Limit(100, "InvalidParameter.GroupUserFull", _users_of_groups),
    Limit(200, "InvalidParameter.AttachmentFull", _policies_of_holders),
)
