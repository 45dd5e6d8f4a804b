"""What CAM policies mean, said a second time, in the plainest way; shares nothing with gateway.

Works on statements as JSON gives them: dicts, lists and strings. Slow on purpose.
"""

import base64
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

Statement = dict[str, Any]
Known = Mapping[str, Sequence[str]]

LONG = {"gz": "ap-guangzhou", "sh": "ap-shanghai", "bj": "ap-beijing", "tj": "ap-beijing-1"}
LONG |= {"cd": "ap-chengdu", "hk": "ap-hongkong", "ca": "na-toronto", "sg": "ap-singapore"}
LONG |= {"sgp": "ap-singapore", "shjr": "ap-shanghai-fsi", "szjr": "ap-shenzhen-fsi"}
LONG |= {"usw": "na-siliconvalley", "kr": "ap-seoul", "de": "eu-frankfurt", "ger": "eu-frankfurt"}


@dataclass(frozen=True)
class Asked:
    """May this caller do this to that? resource: service, region, owner, path.

    known: condition keys of the call and of the resource, with their values.
    """

    owner: str
    uin: str
    action: str
    resource: tuple[str, str, str, str]
    known: Known = field(default_factory=dict)

    def variables(self) -> dict[str, str]:
        app_ids = list(self.known.get("qcs:app_id", ()))
        values = {"uin": self.uin, "owner_uin": self.owner}
        values |= {"app_id": app_ids[0]} if len(app_ids) == 1 else {}
        return {
            f"${{{name}}}": text for name, text in values.items() if re.fullmatch("[0-9]+", text)
        }


@lru_cache(maxsize=65_536)
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


def filled(text: str, asked: Asked, *, unknown: str) -> str:
    """Put values in the place of variables, and `unknown` for those that have none."""
    if "${" not in text:
        return text
    for variable, value in asked.variables().items():
        text = text.replace(variable, value)
    return re.sub(r"\$\{\w+\}", lambda _: unknown, text)


def action_fits(pattern: str, action: str) -> bool:
    if pattern.startswith(("permid/", "actionName/")):
        return False  # sets that only the vendor can resolve
    return pattern == "*" or fits(pattern.removeprefix("name/").lower(), action.lower())


def resource_fits(pattern: str, asked: Asked, *, effect: str) -> bool:
    """An unknown variable may be anything to a deny, and is nothing to an allow."""
    if pattern == "*":
        return True
    _, project, service, region, account, path = pattern.split(":", 5)
    path = filled(path, asked, unknown="*" if effect == "deny" else "\0")
    if "\0" in path:
        return False
    of_service, of_region, owner, of_path = asked.resource
    paths = [path]
    if of_service == "batch":
        found = re.fullmatch(r"((job|computeenv|tasktemplate)/.+)/\*+", path, re.DOTALL)
        paths += [found[1]] if found else []
    return (
        re.fullmatch(r"|\*|id/\*|id/0+", project) is not None
        and (service == "" or fits(service, of_service))
        and (region == "" or fits(LONG.get(region, region), LONG.get(of_region, of_region)))
        and (account in ("", "uin/-1") or fits(account, f"uin/{owner}"))
        and any(fits(one, of_path) for one in paths)
    )


def number(text: str) -> Decimal:
    if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text):
        raise ValueError(text)
    return Decimal(text)


def moment(text: str) -> datetime:
    found = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)(?:T(.{8})Z| (.{8}))", text, re.ASCII)
    time = found and re.fullmatch(r"(\d\d):(\d\d):(\d\d)", found[4] or found[5], re.ASCII)
    if not found or not time:
        raise ValueError(text)
    year, month, day, hour, minute, second = map(int, (*found.groups()[:3], *time.groups()))
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC)


def address(text: str) -> Any:
    found: Any = ipaddress.ip_address(text)
    return getattr(found, "ipv4_mapped", None) or found


ORDER = {
    "equal": lambda got, want: got == want,
    "greater_than": lambda got, want: got > want,
    "greater_than_equal": lambda got, want: got >= want,
    "less_than": lambda got, want: got < want,
    "less_than_equal": lambda got, want: got <= want,
}


def compare(operator: str, got: str, want: str) -> bool:
    """Judge one value by one written value; ValueError if either is not of the kind."""
    kind, _, how = operator.partition("_")
    if kind in ("numeric", "date"):
        read: Any = number if kind == "numeric" else moment
        return bool(ORDER[how](read(got), read(want)))
    if kind == "ip":
        return address(got) in ipaddress.ip_network(want, strict=False)
    if kind == "bool":
        if {got.lower(), want.lower()} - {"true", "false"}:
            raise ValueError(got)
        return got.lower() == want.lower()
    if kind == "binary":
        return base64.b64decode(got, validate=True) == base64.b64decode(want, validate=True)
    if how == "like":
        return fits(want, got)
    return got.casefold() == want.casefold() if how.endswith("_ignore_case") else got == want


def condition_holds(name: str, wanted: list[Any], got: Sequence[str] | None, asked: Asked) -> bool:
    texts = [str(one).lower() if isinstance(one, bool) else str(one) for one in wanted]
    if name == "null_equal":
        return (not any(got or ())) == (texts[0].lower() != "false")
    if not got:
        return name.endswith("_if_exist")
    bare = re.sub(r"^for_(any|all)_value:|_if_exist$", "", name)
    positive = bare.replace("_not_", "_", 1)
    texts = [filled(one, asked, unknown="\0") for one in texts]
    if any("\0" in one for one in texts):
        raise ValueError("a variable has no value")
    every = [[compare(positive, one, want) for want in texts] for one in got]
    each = [any(outcomes) for outcomes in every]
    if bare != positive:
        each = [not one for one in each]
        return any(each) if name.startswith("for_any_value:") else all(each)
    return all(each) if name.startswith("for_all_value:") else any(each)


def conditions_hold(statement: Statement, asked: Asked) -> bool:
    """If any of them cannot be judged, a deny applies and an allow does not."""
    try:
        outcomes = [
            condition_holds(name, listed(values), asked.known.get(key), asked)
            for name, keys in statement.get("condition", {}).items()
            for key, values in keys.items()
        ]
    except ValueError:
        return bool(statement["effect"] == "deny")
    return all(outcomes)


def statement_applies(statement: Statement, asked: Asked) -> bool:
    return (
        asked.resource[2] == asked.owner
        and any(action_fits(one, asked.action) for one in listed(statement["action"]))
        and any(
            resource_fits(one, asked, effect=statement["effect"])
            for one in listed(statement["resource"])
        )
        and conditions_hold(statement, asked)
    )


def verdict(layers: Mapping[str, list[Statement]], asked: Asked, *, root: bool = False) -> str:
    """Give the reason of the decision.

    layers: what each must allow, under the reason for which it denies: `implicit-deny` (the
    caller's own, unless it is the root), then `boundary` and `session-policy`, if there are any.
    """
    if asked.resource[2] != asked.owner:
        return "implicit-deny"
    found = {
        reason: {one["effect"] for one in statements if statement_applies(one, asked)}
        for reason, statements in layers.items()
    }
    if any("deny" in effects for effects in found.values()):
        return "explicit-deny"
    for reason in ("implicit-deny", "boundary", "session-policy"):
        if reason in found and "allow" not in found[reason]:
            return reason
    return "root" if root else "explicit-allow"
