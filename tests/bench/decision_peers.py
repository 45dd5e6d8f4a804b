"""Other engines, judging the same rules: casbin in two ways, cedarpy in two ways, vakt.

They stand in `.venv/peers`, away from what the tests import: vakt ships a package `tests`.
"""

import logging
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import casbin
from casbin.model import FastModel

from gateway.policy.pattern import fits
from tests.bench.policy_load import Load, Request, Rule

Judge = Callable[[Request], bool]
PEERS = Path(sys.prefix) / "peers"

MODEL = """
[request_definition]
r = sub, act, path, ip
[policy_definition]
p = sub, rule, eft
[role_definition]
g = _, _
[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))
[matchers]
m = g(r.sub, p.sub) && covers(p.rule, r.act, r.path, r.ip)
"""
FLAT_MODEL = MODEL.replace("[role_definition]\ng = _, _\n", "").replace(
    "g(r.sub, p.sub)", "r.sub == p.sub"
)


def import_peer(name: str) -> Any:
    """Import one of them. Their folder is in the path only meanwhile: it would hide our tests."""
    sys.path.append(str(PEERS))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(PEERS))


def effect_of(rule: Rule) -> str:
    return "deny" if rule.is_deny else "allow"


def casbin_enforcer(load: Load) -> Judge:
    """casbin as its manual says: groups are roles, every line is looked at."""
    held = {**load.users, **load.groups}
    lines = [(name, rule) for name, rules in held.items() for rule in rules]
    enforcer = casbin.Enforcer(casbin.Enforcer.new_model(text=MODEL))
    _fill_casbin(enforcer, lines)
    enforcer.add_grouping_policies(
        [[user, group] for user, groups in load.members.items() for group in groups]
    )
    return _ask_casbin(enforcer)


def fast_enforcer(load: Load) -> Judge:
    """casbin's `FastEnforcer` keyed on the subject, with what groups have given to each user."""
    lines = [(user, rule) for user in load.users for rule in load.of(user)]
    model = FastModel([0])
    model.load_model_from_text(FLAT_MODEL)
    enforcer = casbin.FastEnforcer(model, cache_key_order=[0])
    _fill_casbin(enforcer, lines)
    return _ask_casbin(enforcer)


def _fill_casbin(enforcer: Any, lines: list[tuple[str, Rule]]) -> None:
    logging.getLogger("casbin").setLevel(logging.ERROR)
    rules = {str(at): rule for at, (_, rule) in enumerate(lines)}

    def covers(number: str, action: str, path: str, address: str) -> bool:
        rule = rules[number]
        return (
            action in rule.actions
            and any(fits(one, path) for one in rule.paths)
            and (not rule.network or ip_address(address) in _network(rule.network))
        )

    enforcer.add_function("covers", covers)
    written = [[name, str(at), effect_of(rule)] for at, (name, rule) in enumerate(lines)]
    enforcer.model.add_policies("p", "p", written)


@cache
def _network(text: str) -> Any:
    return ip_network(text)


def _ask_casbin(enforcer: Any) -> Judge:
    return lambda one: bool(enforcer.enforce(one.user, one.action, one.path, one.address))


def cedar_all(load: Load) -> Judge:
    """cedarpy with every policy in one parsed set."""
    cedarpy = import_peer("cedarpy")

    held = {**load.users, **load.groups}
    text = "\n".join(_cedar(name, rule) for name, rules in held.items() for rule in rules)
    policies = cedarpy.PolicySet.from_str(text)
    return _ask_cedar(cedarpy, load, lambda _: policies)


def cedar_per_user(load: Load) -> Judge:
    """cedarpy with a parsed set for each user, kept from the first request on."""
    cedarpy = import_peer("cedarpy")

    @cache
    def policies(user: str) -> Any:
        names = (user, *load.members[user])
        held = {**load.users, **load.groups}
        text = "\n".join(_cedar(name, rule) for name in names for rule in held[name])
        return cedarpy.PolicySet.from_str(text)

    return _ask_cedar(cedarpy, load, policies)


def _ask_cedar(cedarpy: Any, load: Load, policies: Callable[[str], Any]) -> Judge:
    @cache
    def entities(user: str) -> Any:
        groups = [f'{{"type": "Group", "id": "{group}"}}' for group in load.members[user]]
        return cedarpy.Entities.from_json_str(
            f'[{{"uid": {{"type": "User", "id": "{user}"}}, "attrs": {{}},'
            f' "parents": [{", ".join(groups)}]}}]'
        )

    def judge(one: Request) -> bool:
        asked = {
            "principal": {"type": "User", "id": one.user},
            "action": {"type": "Action", "id": one.action},
            "resource": {"type": "Thing", "id": "it"},
            "context": {"path": one.path, "ip": {"__extn": {"fn": "ip", "arg": one.address}}},
        }
        result = cedarpy.is_authorized(asked, policies(one.user), entities(one.user))
        return bool(result.allowed)

    return judge


def _cedar(name: str, rule: Rule) -> str:
    holder = f'in Group::"{name}"' if name.startswith("team") else f'== User::"{name}"'
    actions = ", ".join(f'Action::"{one}"' for one in rule.actions)
    test = " || ".join(f'context.path like "{one}"' for one in rule.paths)
    if rule.network:
        test = f'({test}) && context.ip.isInRange(ip("{rule.network}"))'
    word = "forbid" if rule.is_deny else "permit"
    return f"{word}(principal {holder}, action in [{actions}], resource) when {{ {test} }};"


def vakt_guard(load: Load) -> Judge:
    """vakt with its checker of rules over a store in memory."""
    vakt = import_peer("vakt")

    class Fits(vakt.rules.base.Rule):  # type: ignore[name-defined,misc]  # known at run time only
        def __init__(self, pattern: str) -> None:
            self.pattern = pattern

        def satisfied(self, what: str, inquiry: object = None) -> bool:
            return fits(self.pattern, what)

    store = vakt.MemoryStorage()
    held = {**load.users, **load.groups}
    members: dict[str, list[str]] = {name: [name] for name in load.users}
    for user, groups in load.members.items():
        for group in groups:
            members.setdefault(group, []).append(user)
    for at, (name, rule) in enumerate((n, one) for n, rules in held.items() for one in rules):
        store.add(
            vakt.Policy(
                at,
                effect=vakt.DENY_ACCESS if rule.is_deny else vakt.ALLOW_ACCESS,
                subjects=[vakt.rules.In(*members.get(name, ["nobody"]))],
                actions=[vakt.rules.In(*rule.actions)],
                resources=[Fits(one) for one in rule.paths],
                context={"ip": vakt.rules.CIDR(rule.network)} if rule.network else {},
            )
        )
    guard = vakt.Guard(store, vakt.RulesChecker())

    def judge(one: Request) -> bool:
        inquiry = vakt.Inquiry(
            subject=one.user,
            action=one.action,
            resource=one.path,
            context={"ip": one.address},
        )
        return bool(guard.is_allowed(inquiry))

    logging.getLogger("vakt").setLevel(logging.ERROR)
    return judge
