"""Who there is: accounts, their users, groups and policies, as plain values or as TOML."""

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath

from gateway.policy.strict_toml import Table

_NAME = re.compile(r"[A-Za-z0-9+=,.@_-]{1,128}")
_UIN = re.compile(r"[1-9][0-9]{0,19}")


class Mode(Enum):
    """What a policy does: decide, or only say what it would decide."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class CustomPolicy:
    """A policy of one account. file: its document, beside the accounts; empty if kept elsewhere."""

    name: str
    file: str = ""
    mode: Mode = Mode.ENFORCE


@dataclass(frozen=True, slots=True)
class Group:
    """Users under one name. policies: names of presets or of the account's own policies."""

    name: str
    policies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class User:
    """A sub-user of an account. uin: unlike any other's, and unlike any account's."""

    name: str
    uin: str
    groups: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Account:
    """A root account and what it owns."""

    uin: str
    policies: tuple[CustomPolicy, ...] = ()
    groups: tuple[Group, ...] = ()
    users: tuple[User, ...] = ()


def parse_accounts(text: str) -> tuple[Account, ...]:
    """Read `policies/accounts.toml`.

    Raises PolicySetRefused for an unknown name, a wrong type or form. Whether names that are
    referred to exist, and none is there twice, is checked by `snapshot.build_snapshot`.
    """
    root = Table.read(text, where="accounts.toml")
    accounts = tuple(_read_account(table) for table in root.tables("account"))
    root.close()
    return accounts


def _read_account(table: Table) -> Account:
    account = Account(
        uin=_uin(table),
        policies=tuple(_read_policy(one) for one in table.tables("policy")),
        groups=tuple(_read_group(one) for one in table.tables("group")),
        users=tuple(_read_user(one) for one in table.tables("user")),
    )
    table.close()
    return account


def _read_policy(table: Table) -> CustomPolicy:
    mode = table.choice("mode", {mode.value for mode in Mode}, default=Mode.ENFORCE.value)
    policy = CustomPolicy(name=_name(table), file=_file(table), mode=Mode(mode))
    table.close()
    return policy


def _read_group(table: Table) -> Group:
    group = Group(name=_name(table), policies=table.texts("policies"))
    table.close()
    return group


def _read_user(table: Table) -> User:
    user = User(
        name=_name(table),
        uin=_uin(table),
        groups=table.texts("groups"),
        policies=table.texts("policies"),
    )
    table.close()
    return user


def _name(table: Table) -> str:
    name = table.text("name")
    if _NAME.fullmatch(name) is None:
        raise table.refused(f"the name `{name}` is not 1 to 128 of A-Z a-z 0-9 + = , . @ _ -")
    return name


def _uin(table: Table) -> str:
    uin = table.text("uin")
    if _UIN.fullmatch(uin) is None:
        raise table.refused(f"the uin `{uin}` is not a number of at most 20 digits")
    return uin


def _file(table: Table) -> str:
    file = table.text("file")
    path = PurePosixPath(file)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in file:
        raise table.refused(f"the file `{file}` is not beside the accounts")
    return file
