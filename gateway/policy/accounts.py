"""Who there is: accounts, their users, groups and policies, as plain values or as TOML."""

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath

from gateway.policy.refusal import PolicySetRefused
from gateway.strict_toml import Table

_NAME = re.compile(r"[A-Za-z0-9+=,.@_-]{1,128}")
_NUMBER = re.compile(r"[1-9][0-9]{0,19}")

SESSION_S_MAX = 43_200


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
    """A sub-user of an account. uin: unlike any other's, and unlike any account's.

    boundary: the policy beyond which no other policy reaches; empty for none.
    """

    name: str
    uin: str
    groups: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    boundary: str = ""


@dataclass(frozen=True, slots=True)
class Role:
    """Rights that are taken on for a while. id: a number, unlike any uin.

    trust: the document, beside the accounts, that says who may take it on.
    session_s_max: the longest session.
    """

    name: str
    id: str
    trust: str
    policies: tuple[str, ...] = ()
    boundary: str = ""
    session_s_max: int = 7_200


@dataclass(frozen=True, slots=True)
class Account:
    """A root account and what it owns.

    app_id: what `${app_id}` stands for; empty for nothing. everyone: policies that every user and
    role has, without being named there. boundary: narrows the root account itself.
    """

    uin: str
    policies: tuple[CustomPolicy, ...] = ()
    groups: tuple[Group, ...] = ()
    users: tuple[User, ...] = ()
    roles: tuple[Role, ...] = ()
    app_id: str = ""
    everyone: tuple[str, ...] = ()
    boundary: str = ""


def parse_accounts(text: str) -> tuple[Account, ...]:
    """Read `policies/accounts.toml`.

    Raises PolicySetRefused for an unknown name, a wrong type or form. Whether names that are
    referred to exist, and none is there twice, is checked by `snapshot.build_snapshot`.
    """
    root = Table.read(text, where="accounts.toml", refusal=PolicySetRefused)
    accounts = tuple(_read_account(table) for table in root.tables("account"))
    root.close()
    return accounts


def _read_account(table: Table) -> Account:
    account = Account(
        uin=_number(table, "uin"),
        policies=tuple(_read_policy(one) for one in table.tables("policy")),
        groups=tuple(_read_group(one) for one in table.tables("group")),
        users=tuple(_read_user(one) for one in table.tables("user")),
        roles=tuple(_read_role(one) for one in table.tables("role")),
        app_id=_number(table, "app_id") if table.has("app_id") else "",
        everyone=table.texts("everyone"),
        boundary=table.text("boundary", default=""),
    )
    table.close()
    return account


def _read_policy(table: Table) -> CustomPolicy:
    mode = table.choice("mode", {mode.value for mode in Mode}, default=Mode.ENFORCE.value)
    policy = CustomPolicy(name=_name(table), file=_file(table, "file"), mode=Mode(mode))
    table.close()
    return policy


def _read_group(table: Table) -> Group:
    group = Group(name=_name(table), policies=table.texts("policies"))
    table.close()
    return group


def _read_user(table: Table) -> User:
    user = User(
        name=_name(table),
        uin=_number(table, "uin"),
        groups=table.texts("groups"),
        policies=table.texts("policies"),
        boundary=table.text("boundary", default=""),
    )
    table.close()
    return user


def _read_role(table: Table) -> Role:
    role = Role(
        name=_name(table),
        id=_number(table, "id"),
        trust=_file(table, "trust"),
        policies=table.texts("policies"),
        boundary=table.text("boundary", default=""),
        session_s_max=table.integer("session_s_max", default=7_200, least=1, most=SESSION_S_MAX),
    )
    table.close()
    return role


def _name(table: Table) -> str:
    name = table.text("name")
    if _NAME.fullmatch(name) is None:
        raise table.refused(f"the name `{name}` is not 1 to 128 of A-Z a-z 0-9 + = , . @ _ -")
    return name


def _number(table: Table, name: str) -> str:
    number = table.text(name)
    if _NUMBER.fullmatch(number) is None:
        raise table.refused(f"the {name} `{number}` is not a number of at most 20 digits")
    return number


def _file(table: Table, name: str) -> str:
    file = table.text(name)
    path = PurePosixPath(file)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in file:
        raise table.refused(f"the {name} `{file}` is not beside the accounts")
    return str(path)
