"""Policies of a running gateway, written anew while it runs."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.running import Gateway, wait_until

Statement = dict[str, Any]
OWNER = "100000000001"


def allow(action: str | list[str], resource: str | list[str] = "*") -> Statement:
    return {"effect": "allow", "action": action, "resource": resource}


def deny(action: str | list[str], resource: str | list[str] = "*") -> Statement:
    return {"effect": "deny", "action": action, "resource": resource}


def write_policies(folder: Path, users: Mapping[str, list[Statement]]) -> None:
    """Declare users of the default account, each with these statements and nothing else.

    A user's uin is fixed by its place in the alphabet of all users that any test declares.
    """
    accounts = [f'[[account]]\nuin = "{OWNER}"\n']
    for name, statements in users.items():
        document = {"version": "2.0", "statement": statements}
        (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
        if statements:
            accounts.append(f'[[account.policy]]\nname = "{name}"\nfile = "{name}.json"\n')
    for name, statements in users.items():
        policies = f'policies = ["{name}"]\n' if statements else ""
        accounts.append(f'[[account.user]]\nname = "{name}"\nuin = "{uin_of(name)}"\n{policies}')
    replace_file(folder / "accounts.toml", "\n".join(accounts))


def uin_of(name: str) -> str:
    """A uin that is always the same for a name, and another one for another name."""
    return "2" + "".join(f"{ord(letter) - 96:02}" for letter in name)


def replace_file(path: Path, text: str) -> None:
    """Put a file in the place of another at once, as an editor or git does."""
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def change_policies(gateway: Gateway, users: Mapping[str, list[Statement]]) -> None:
    """Write policies, and wait until the running gateway decides by them."""
    before = generation(gateway)
    write_policies(gateway.policies, users)
    wait_for_policies(gateway, after=before)


def wait_for_policies(gateway: Gateway, *, after: int) -> None:
    """Wait until a later set of policies than `after` is in force, and no newer one is coming."""
    wait_until(
        lambda: generation(gateway) > after and metric(gateway, "qcs_gateway_policy_broken") == 0,
        what=lambda: gateway.log[-2000:],
    )


def generation(gateway: Gateway) -> int:
    """The number of the policies in force."""
    return int(metric(gateway, "qcs_gateway_policy_generation"))


def metric(gateway: Gateway, name: str) -> float:
    """A metric without labels."""
    _, text = gateway.management("/metrics")
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found, f"there is no metric {name}"
    return float(found[1])
