"""Policies of a running gateway, written anew while it runs."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests.support.running import Gateway, wait_until

Statement = dict[str, Any]
OWNER = "100000000001"
OTHER_OWNER = "100000000002"


def allow(action: str | list[str], resource: str | list[str] = "*") -> Statement:
    return {"effect": "allow", "action": action, "resource": resource}


def deny(action: str | list[str], resource: str | list[str] = "*") -> Statement:
    return {"effect": "deny", "action": action, "resource": resource}


def write_policies(folder: Path, users: Mapping[str, list[Statement]]) -> None:
    """Declare users of the default account, each with these statements and nothing else."""
    replace_file(
        folder / "accounts.toml", accounts_of(users, documents=add_documents(folder, users))
    )


def change_policies(gateway: Gateway, users: Mapping[str, list[Statement]]) -> None:
    """Write policies, and wait until the running gateway decides by them.

    Two steps that are each seen whole: new documents that nobody has, then who has which.
    """
    before = generation(gateway)
    documents = add_documents(gateway.policies, users)
    wait_for_generation(gateway, before + 1)
    accounts = accounts_of(users, documents=documents)
    replace_file(gateway.policies / "accounts.toml", accounts)
    wait_for_generation(gateway, before + 2)


def add_documents(folder: Path, users: Mapping[str, list[Statement]]) -> str:
    """Put a new folder of documents beside the others, at once, and return its name."""
    name = f"set-{sum(1 for _ in folder.glob('set-*')) + 1}"
    hidden = Path(mkdtemp(dir=folder.parent))
    for user, statements in users.items():
        document = {"version": "2.0", "statement": statements}
        (hidden / f"{user}.json").write_text(json.dumps(document), encoding="utf-8")
    hidden.rename(folder / name)
    return name


def accounts_of(users: Mapping[str, list[Statement]], *, documents: str) -> str:
    """The text of accounts.toml. documents: the folder that has a file for each user."""
    lines: list[str] = []
    for owner in (OWNER, OTHER_OWNER):
        lines += ["[[account]]", f'uin = "{owner}"']
        own = {name: users[name] for name in users if owner_of(name) == owner}
        for name in filter(own.get, own):
            file = f"{documents}/{name}.json"
            lines += ["[[account.policy]]", f'name = "{name}"', f'file = "{file}"']
        for name, statements in own.items():
            lines += ["[[account.user]]", f'name = "{name}"', f'uin = "{uin_of(name)}"']
            lines += [f'policies = ["{name}"]'] if statements else []
    return "\n".join(lines) + "\n"


def owner_of(name: str) -> str:
    """The account of a user: the other one for those whose names begin with `other`."""
    return OTHER_OWNER if name.startswith("other") else OWNER


def uin_of(name: str) -> str:
    """A uin that is always the same for a name, and another one for another name."""
    return "2" + "".join(f"{ord(letter) - 96:02}" for letter in name)


def replace_file(path: Path, text: str) -> None:
    """Put a file in the place of another at once, as an editor or git does."""
    new = path.parent.parent / f"{path.name}.new"
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def wait_for_generation(gateway: Gateway, number: int) -> None:
    wait_until(lambda: generation(gateway) == number, what=lambda: gateway.log[-2000:])


def generation(gateway: Gateway) -> int:
    """The number of the policies in force."""
    return int(metric(gateway, "qcs_gateway_policy_generation"))


def metric(gateway: Gateway, name: str) -> float:
    """A metric without labels."""
    _, text = gateway.management("/metrics")
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found, f"there is no metric {name}"
    return float(found[1])
