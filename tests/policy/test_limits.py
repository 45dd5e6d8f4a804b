"""The vendor's quotas: met exactly they pass, one more is refused by the code of the API."""

import pytest

from gateway.policy.accounts import Account, CustomPolicy, Group, Role, User
from gateway.policy.limits import LIMITS, check_limits
from gateway.policy.refusal import PolicySetRefused


def names(number: int) -> tuple[str, ...]:
    return tuple(f"n{index}" for index in range(number))


def users(number: int, groups: tuple[str, ...] = ()) -> tuple[User, ...]:
    return tuple(User(name, name, groups) for name in names(number))


def groups_of(number: int) -> Account:
    return Account("1", groups=tuple(map(Group, names(number))))


def users_of(number: int) -> Account:
    return Account("1", users=users(number))


def roles_of(number: int) -> Account:
    return Account("1", roles=tuple(Role(name, name, "t.json") for name in names(number)))


def policies_of(number: int) -> Account:
    return Account("1", policies=tuple(map(CustomPolicy, names(number))))


def groups_of_a_user(number: int) -> Account:
    return Account("1", users=(User("ann", "2", groups=names(number)),))


def users_of_a_group(number: int) -> Account:
    return Account("1", groups=(Group("team"),), users=users(number, groups=("team",)))


def policies_of_a_user(number: int) -> Account:
    return Account("1", users=(User("ann", "2", policies=names(number)),))


def policies_of_a_group(number: int) -> Account:
    return Account("1", groups=(Group("team", names(number)),))


def policies_of_a_role(number: int) -> Account:
    return Account("1", roles=(Role("nightly", "3", "t.json", names(number)),))


CASES = [
    (groups_of, 300, "InvalidParameter.GroupFull"),
    (users_of, 1_000, "InvalidParameter.SubUserFull"),
    (roles_of, 1_000, "InvalidParameter.RoleFull"),
    (policies_of, 1_500, "FailedOperation.PolicyFull"),
    (groups_of_a_user, 10, "InvalidParameter.UserGroupFull"),
    (users_of_a_group, 100, "InvalidParameter.GroupUserFull"),
    (policies_of_a_user, 200, "InvalidParameter.AttachmentFull"),
    (policies_of_a_group, 200, "InvalidParameter.AttachmentFull"),
    (policies_of_a_role, 200, "InvalidParameter.AttachmentFull"),
]


@pytest.mark.parametrize(("account_with", "most", "code"), CASES)
def test_a_quota_is_met_and_one_more_is_refused_by_its_code(account_with, most, code) -> None:
    check_limits([account_with(most)])
    with pytest.raises(PolicySetRefused, match=rf"account 1: {most + 1} .*{code}"):
        check_limits([Account("0"), account_with(most + 1)])


def test_every_limit_has_a_case() -> None:
    assert {(limit.most, limit.code) for limit in LIMITS} == {case[1:] for case in CASES}


def test_a_quota_is_each_accounts_own() -> None:
    check_limits([groups_of(300), Account("2", groups=groups_of(300).groups)])
