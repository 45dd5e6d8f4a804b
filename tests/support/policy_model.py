"""What CAM policies mean, said a second time, in the plainest way; shares nothing with gateway.

Works on statements as JSON gives them: dicts, lists and strings. Slow on purpose.
"""

import ipaddress
import re
from typing import Any

SHORT = {"gz": "ap-guangzhou", "sh": "ap-shanghai", "bj": "ap-beijing"}
COMPARE = {
    "string_equal": lambda got, want: got == want,
    "string_like": lambda got, want: fits(want, got),
    "numeric_less_than": lambda got, want: float(got) < float(want),
    "bool_equal": lambda got, want: got.lower() == want.lower(),
    "ip_equal": lambda got, want: ipaddress.ip_address(got) in ipaddress.ip_network(want, False),
}
NEGATED = {"string_not_equal": "string_equal", "ip_not_equal": "ip_equal"}


def fits(pattern: str, text: str) -> bool:
    """Walk all the places in the pattern that the text read so far can have led to."""
    places = {0}
    for character in [*text, ""]:
        while more := {at + 1 for at in places if pattern[at : at + 1] == "*"} - places:
            places |= more
        if not character:
            return len(pattern) in places
        places = {
            at + (pattern[at] != "*")
            for at in places
            if at < len(pattern) and pattern[at] in ("*", character)
        }
    return False


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def action_fits(pattern: str, action: str) -> bool:
    return pattern == "*" or fits(pattern.removeprefix("name/").lower(), action.lower())


def resource_fits(pattern: str, caller: tuple[str, str], asked: tuple[str, str, str, str]) -> bool:
    """caller: owner, uin. asked: service, region, owner, path."""
    if asked[2] != caller[0]:
        return False
    if pattern == "*":
        return True
    _, project, service, region, account, path = pattern.split(":", 5)
    path = path.replace("${uin}", caller[1]).replace("${owner_uin}", caller[0])
    paths = [path]
    if asked[0] == "batch":
        found = re.fullmatch(r"((job|computeenv|tasktemplate)/.+)/\*+", path, re.DOTALL)
        paths += [found[1]] if found else []
    return (
        project in ("", "*", "id/0", "id/*")
        and (service == "" or fits(service, asked[0]))
        and (region == "" or fits(SHORT.get(region, region), SHORT.get(asked[1], asked[1])))
        and (account in ("", "uin/-1") or fits(account, f"uin/{caller[0]}"))
        and any(fits(one, asked[3]) for one in paths)
    )


def condition_holds(name: str, wanted: list[str], got: tuple[str, ...] | None) -> bool:
    bare = re.sub(r"^for_(any|all)_value:|_if_exist$", "", name)
    if name == "null_equal":
        return (not any(got or ())) == (wanted[0] != "false")
    if not got:
        return name.endswith("_if_exist")
    compare = COMPARE[NEGATED.get(bare, bare)]
    every = [[compare(one, want) for want in wanted] for one in got]
    each = [any(outcomes) for outcomes in every]
    if bare in NEGATED:
        each = [not one for one in each]
        return any(each) if name.startswith("for_any_value:") else all(each)
    return all(each) if name.startswith("for_all_value:") else any(each)


def statement_applies(
    statement: dict[str, Any],
    caller: tuple[str, str],
    action: str,
    asked: tuple[str, str, str, str],
    context: dict[str, tuple[str, ...]],
) -> bool:
    if not any(action_fits(one, action) for one in listed(statement["action"])):
        return False
    if not any(resource_fits(one, caller, asked) for one in listed(statement["resource"])):
        return False
    try:
        outcomes = [
            condition_holds(name, [str(one) for one in listed(values)], context.get(key))
            for name, keys in statement.get("condition", {}).items()
            for key, values in keys.items()
        ]
    except ValueError:
        return statement["effect"] == "deny"
    return all(outcomes)


def verdict(
    statements: list[dict[str, Any]],
    caller: tuple[str, str],
    action: str,
    asked: tuple[str, str, str, str],
    context: dict[str, tuple[str, ...]],
) -> str:
    """Say explicit-deny, explicit-allow or implicit-deny for a caller who is not the root."""
    effects = {
        one["effect"]
        for one in statements
        if statement_applies(one, caller, action, asked, context)
    }
    if "deny" in effects:
        return "explicit-deny"
    return "explicit-allow" if "allow" in effects else "implicit-deny"
