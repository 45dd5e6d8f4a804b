"""Made-up policies and the questions to ask of them, from a seed; plain JSON values throughout.

A world is who has which statements. Its questions are derived from its patterns, so that about a
third hit an allow, a third a deny and a third nothing, many of them by one character.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.support import policy_model

Statement = dict[str, Any]
Known = dict[str, tuple[str, ...]]

OWNER, OTHER, ROOT_OWNER = "100", "999", "300"
CALLERS: Mapping[str, tuple[str, str]] = {
    "user": (OWNER, "200"),
    "bounded user": (OWNER, "201"),
    "role": (OWNER, "202"),
    "bounded role": (OWNER, "203"),
    "root": (OWNER, OWNER),
    "bounded root": (ROOT_OWNER, ROOT_OWNER),
}
"""Owner and uin of everybody who asks."""
OWN, GROUP, EVERYONE, BOUNDARY = "own", "group", "everyone", "boundary"

ACTIONS = ("batch:DescribeJob", "batch:A", "batch:TerminateJob", "cos:A", "b:A")
ACTION_PATTERNS = (
    *("*", "*:*", "batch:*", "name/batch:*", "batch:Describe*", "batch:DescribeJob", "*:A"),
    *("name/batch:A", "batch:*Job", "b*:*", "cos:*", "BATCH:describejob", "batch:*e*b*"),
    *("batch:A*A", "batch:A", "batch:**A", "name/*:*b"),
)
SETS = ("permid/5", "actionName/batch:*")
PROJECTS = (*("",) * 12, "*", "id/0", "id/00", "id/*", "id/7")
SERVICES = (*("batch",) * 6, "", "*", "b*", "*h", "cos")
REGIONS = ("", "*", "gz", "ap-guangzhou", "ap-*", "bj", "*g*", "ap-beijing-1", "tj", "g*", "sg")
ACCOUNTS = (
    *("",) * 10,
    "*",
    "uin/-1",
    "uin/100",
    "uin/1*",
    "uin/*",
    "uin/*0*0",
    "uin/999",
    "uin/300",
)
ASKED_REGIONS = (
    "ap-guangzhou",
    "gz",
    "ap-beijing",
    "ap-beijing-1",
    "tj",
    "sgp",
    "ap-singapore",
    "",
)
PATHS = (
    *("*", "*/*", "job/*", "job/a", "job/a/*", "job/*/*", "*b", "j*b", "job*", "computeenv/a/*"),
    *("job/${uin}", "job/${owner_uin}/*", "job/a*${uin}*", "other/a/*", "job/${app_id}", "job//*"),
    *("job/a/**", "job///*", "tasktemplate/*/*", "*/a", "job/a*a", "**", "job/${app_id}*/*"),
)
CHARACTERS = ("a", "b", "*", "**", ":", "/", "\n", "é", "\U0001f600", ".", "qcs", "[", "\\", "?")
FILLERS = ("", "a", "b", "/", "a/b", "*", "\n", "200", "100", "é", ":")
LONG_PATHS = ("a" * 500, "ab" * 200 + "*", "*a" * 100)

TEXTS = ("a", "b", "A", "", "é\n*", "team&a", "team&b", "200", "100", "*", "ab")
ADDRESSES = ("10.0.0.1", "10.0.0.2", "11.0.0.1", "::1", "::ffff:10.0.0.1", "2001:db8::5")
MOMENTS = (
    "2016-06-01T00:01:00Z",
    "2016-06-01 00:01:00",
    "2020-02-29T23:59:59Z",
    "1999-01-01 00:00:00",
)
BASE64 = ("YQ==", "YWI=", "", "/w==")
NUMBERS = ("7", "7.0", "8", "-1", "007", "0.5", "100")


@dataclass(frozen=True)
class Kind:
    """Operators that read values alike. written: by policies; broken: what they cannot read."""

    operators: tuple[str, ...]
    written: tuple[Any, ...]
    got: tuple[str, ...]
    broken: tuple[str, ...] = ()


ORDERS = (
    "equal",
    "not_equal",
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
)
STRING = Kind(
    tuple(f"string_{n}equal{case}" for n in ("", "not_") for case in ("", "_ignore_case")),
    (*TEXTS, "${uin}", "${owner_uin}", "team&${uin}", "${app_id}", 5, True),
    TEXTS,
)
LIKE = Kind(("string_like", "string_not_like"), ("a*", "*a", "*", "**", "*a*", "", "team&*"), TEXTS)
BINARY = Kind(("binary_equal",), BASE64, BASE64, ("YQ", "not base64"))
BOOL = Kind(("bool_equal",), ("true", "false", "TRUE", True, False), ("true", "False"), ("1", ""))
IP = Kind(
    ("ip_equal", "ip_not_equal"),
    ("10.0.0.9/8", "10.0.0.1", "::1", "2001:db8::/32", "0.0.0.0/0", "::/0", "10.0.0.0/31"),
    ADDRESSES,
    ("nowhere", "10.0.0.1/32", "010.0.0.1", ""),
)
NUMBER = Kind(
    tuple(f"numeric_{order}" for order in ORDERS),
    (7, 7.5, "8", "-1", "7.00", "${uin}"),
    NUMBERS,
    ("seven", "1e3", "\u0667", "", "+7"),
)
DATE = Kind(
    tuple(f"date_{order}" for order in ORDERS),
    MOMENTS,
    MOMENTS,
    ("now", "2016-06-01", "2016-13-01T00:00:00Z", "2016-06-01T00:01:00", ""),
)
NULL = Kind(("null_equal",), ("true", "", "false", True, False), TEXTS)
KINDS = (STRING, LIKE, BINARY, BOOL, IP, NUMBER, DATE, NULL)
CALL_KEYS: Mapping[str, Kind] = {
    "k:text": STRING,
    "qcs:ip": IP,
    "k:number": NUMBER,
    "qcs:current_time": DATE,
    "mfa": BOOL,
    "k:bytes": BINARY,
    "qcs:request_tag": LIKE,
}
RESOURCE_KEYS: Mapping[str, Kind] = {
    "qcs:resource_tag": STRING,
    "qcs:tag": LIKE,
    "qcs:tag/team": STRING,
    "qcs:create_uin": STRING,
}
KEYS = {**CALL_KEYS, **RESOURCE_KEYS}
AIMS = ("allow", "allow", "allow", "deny", "deny", "deny", "near", "nothing")
APP_IDS = (("77",), ("77",), ("77", "78"), ("*",), ())
TAG_KEYS = frozenset({"qcs:resource_tag", "qcs:request_tag", "qcs:tag"})


@dataclass(frozen=True)
class World:
    """Statements by who holds them. session: None for a lasting key."""

    own: list[Statement]
    group: list[Statement]
    everyone: list[Statement]
    boundary: list[Statement]
    session: list[Statement] | None

    def layers(self, caller: str) -> dict[str, list[Statement]]:
        """What bears on a caller, under the reason for which each layer denies."""
        found: dict[str, list[Statement]] = {}
        if "root" not in caller:
            group = self.group if "user" in caller else []
            found["implicit-deny"] = [*self.own, *group, *self.everyone]
        if "bounded" in caller:
            found["boundary"] = self.boundary
        if self.session is not None:
            found["session-policy"] = self.session
        return found


@dataclass(frozen=True)
class Question:
    """One caller, action and resource (service, region, owner, path), and what is known of them."""

    caller: str
    action: str
    resource: tuple[str, str, str, str]
    context: Known = field(default_factory=dict)
    attributes: Known = field(default_factory=dict)


def make_world(random: Random) -> World:
    """Few statements each, as a user has them; the narrowing layers are often wide."""
    wide = {"effect": "allow", "action": "*", "resource": "*"}

    def layer(most: int, *, least: int = 0, wide_share: float = 0.0) -> list[Statement]:
        made = [make_statement(random) for _ in range(random.randint(least, most))]
        return [*made, wide] if random.random() < wide_share else made

    return World(
        own=layer(5, least=random.choice((0, 2))),
        group=layer(3),
        everyone=layer(1),
        boundary=layer(2, wide_share=0.8),
        session=layer(2, wide_share=0.8) if random.random() < 0.2 else None,
    )


def make_statement(random: Random) -> Statement:
    effect = "deny" if random.random() < 0.35 else "allow"
    actions = [random.choice(ACTION_PATTERNS) for _ in range(random.randint(1, 2))]
    if effect == "allow" and random.random() < 0.03:
        actions.append(random.choice(SETS))
    resources = [make_pattern(random) for _ in range(random.randint(1, 3))]
    statement: Statement = {
        "effect": effect,
        "action": actions[0] if len(actions) == 1 else actions,
        "resource": resources[0] if len(resources) == 1 else resources,
    }
    if random.random() < 0.3:
        statement["condition"] = make_conditions(random)
    return statement


def make_pattern(random: Random) -> str:
    if random.random() < 0.1:
        return "*"
    parts = [random.choice(each) for each in (PROJECTS, SERVICES, REGIONS, ACCOUNTS)]
    return ":".join(["qcs", *parts, make_path(random)])


def make_path(random: Random) -> str:
    chance = random.random()
    if chance < 0.6:
        return random.choice(PATHS)
    if chance < 0.603:
        return random.choice(LONG_PATHS)
    text = "".join(random.choice(CHARACTERS) for _ in range(random.randint(1, 5)))
    return text if chance < 0.75 else f"job/{text}"


def make_conditions(random: Random) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for _ in range(random.randint(1, 2)):
        key = random.choice(tuple(KEYS))
        kind = KEYS[key] if random.random() < 0.85 else random.choice(KINDS)
        operator = random.choice(kind.operators)
        if kind is not NULL:
            quantifiers = ("", "", "for_any_value:", "" if key in TAG_KEYS else "for_all_value:")
            operator = random.choice(quantifiers) + operator + random.choice(("", "", "_if_exist"))
        count = 1 if kind is NULL or random.random() < 0.6 else 2
        values = [random.choice(kind.written) for _ in range(count)]
        made.setdefault(operator, {})[key] = values[0] if count == 1 else values
    return made


def ask(random: Random, world: World, *, caller: str) -> Question:
    """Aim at an allow, a deny or nothing, and often miss by little."""
    statements = [one for layer in world.layers(caller).values() for one in layer]
    aim = random.choice(AIMS)
    wanted = [one for one in statements if one["effect"] == aim or aim == "near"]
    if aim == "nothing" or not wanted:
        return _ask_anything(random, caller)
    statement = random.choice(wanted)
    action = _aim_action(random, random.choice(_listed(statement["action"])))
    resource = _aim_at(random, random.choice(_listed(statement["resource"])), caller=caller)
    known = make_known(random, KEYS, statement.get("condition", {}))
    if aim == "near":
        action, resource = _nudge(random, action, resource)
    attributes = {key: known[key] for key in RESOURCE_KEYS if key in known}
    context = {key: known[key] for key in known if key not in attributes}
    if random.random() < 0.2:
        context["qcs:app_id"] = random.choice(APP_IDS)
    return Question(caller, action, resource, context, attributes)


def _ask_anything(random: Random, caller: str) -> Question:
    owner = random.choice((CALLERS[caller][0], CALLERS[caller][0], OTHER))
    path = make_path(random).replace("${uin}", CALLERS[caller][1])
    resource = (random.choice(("batch", "cos")), random.choice(ASKED_REGIONS), owner, path)
    context = make_known(random, CALL_KEYS, {})
    return Question(
        caller, random.choice(ACTIONS), resource, context, make_known(random, RESOURCE_KEYS, {})
    )


def _aim_at(random: Random, pattern: str, *, caller: str) -> tuple[str, str, str, str]:
    owner, uin = CALLERS[caller]
    _, _, service, region, _, path = (
        pattern.split(":", 5) if pattern != "*" else ("", "", "", "", "", "*")
    )
    for variable, value in (("${uin}", uin), ("${owner_uin}", owner), ("${app_id}", "77")):
        path = path.replace(variable, value)
    if path.endswith("/*") and random.random() < 0.3:
        path = path.removesuffix("/*")
    return (
        _fill(random, service) if "*" not in service and service else "batch",
        _fill(random, region) if region not in ("", "*", "*g*", "ap-*") else "ap-guangzhou",
        owner,
        path if random.random() < 0.1 else _fill(random, path),
    )


def _aim_action(random: Random, pattern: str) -> str:
    fitting = [one for one in ACTIONS if policy_model.action_fits(pattern, one)]
    return random.choice(fitting or ACTIONS)


def _fill(random: Random, pattern: str) -> str:
    """Put something for each `*`."""
    head, *others = pattern.split("*")
    return head + "".join(random.choice(FILLERS) + part for part in others)


def _nudge(
    random: Random, action: str, resource: tuple[str, str, str, str]
) -> tuple[str, tuple[str, str, str, str]]:
    """Change one thing."""
    service, region, owner, path = resource
    what = random.randrange(6)
    if what == 0:
        return random.choice(
            (action.upper(), action + "x", action[:-1], random.choice(ACTIONS))
        ), resource
    if what == 1:
        return action, (random.choice(("cos", "b", "")), region, owner, path)
    if what == 2:
        return action, (service, random.choice(ASKED_REGIONS), owner, path)
    if what == 3:
        return action, (service, region, random.choice((OTHER, owner + "0", owner[:-1], "1")), path)
    at = random.randint(0, len(path))
    put = random.choice((*CHARACTERS, "", "A"))
    return action, (service, region, owner, path[:at] + put + path[at + random.randint(0, 1) :])


def make_known(random: Random, keys: Mapping[str, Kind], conditions: Mapping[str, Any]) -> Known:
    """Values for some of the keys; those that conditions speak of, often as they are written."""
    known: Known = {}
    for key, kind in keys.items():
        if random.random() < 0.25:
            known[key] = tuple(random.choice(kind.got) for _ in range(random.randint(0, 2)))
    for named in conditions.values():
        for key, written in named.items():
            chance = random.random()
            if chance < 0.7:
                known[key] = (str(random.choice(_listed(written))).partition("/")[0],)
            elif chance < 0.8:
                known[key] = tuple(random.sample((*keys[key].broken, *keys[key].got), k=2))
    return known


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
