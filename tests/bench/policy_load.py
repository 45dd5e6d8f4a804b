"""Policies and requests for the benchmark of decisions, the same for every engine.

n statements, 8 for each user: 70 % on users, 30 % on groups, each user in two of them. Each has
1 to 4 actions and 1 to 3 resources; 15 % deny; 10 % ask where the call comes from.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from random import Random

from gateway.call import Principal, Reason, Resource
from gateway.policy.accounts import Account, CustomPolicy, Group, User
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.document import Document, parse
from gateway.policy.match import Query
from gateway.policy.plans import PlanEvaluator
from gateway.policy.snapshot import Snapshot, build_snapshot

OWNER = "100"
PLACE = f"qcs::batch:ap-guangzhou:uin/{OWNER}:"
ACTIONS = tuple(
    f"batch:{verb}{noun}"
    for verb in ("Describe", "Create", "Delete", "Modify", "Terminate")
    for noun in ("Job", "Task", "ComputeEnv")
)
NETWORKS = ("10.0.0.0/8", "192.168.1.0/24", "172.16.0.0/12")
ADDRESSES = ("10.1.2.3", "192.168.1.7", "8.8.8.8")
PER_USER = 8
REQUESTS = 3_000


@dataclass(frozen=True)
class Rule:
    """One statement. paths: exact, or with one `*`, most often at the end. network: or empty."""

    is_deny: bool
    actions: tuple[str, ...]
    paths: tuple[str, ...]
    network: str

    def written(self) -> dict[str, object]:
        """As a policy has it."""
        statement: dict[str, object] = {
            "effect": "deny" if self.is_deny else "allow",
            "action": list(self.actions),
            "resource": [PLACE + path for path in self.paths],
        }
        if self.network:
            statement["condition"] = {"ip_equal": {"qcs:ip": self.network}}
        return statement


@dataclass(frozen=True)
class Request:
    """Who asks for what, from where; whether it is allowed."""

    user: str
    action: str
    path: str
    address: str
    allowed: bool = False

    def query(self) -> Query:
        """As the gateway asks."""
        return Query(
            Principal(OWNER, self.user, self.user),
            self.action,
            (Resource("batch", "ap-guangzhou", OWNER, self.path),),
            context={"qcs:ip": (self.address,)},
        )


@dataclass(frozen=True)
class Load:
    """Rules by user and by group, and the groups of each user."""

    users: dict[str, list[Rule]]
    groups: dict[str, list[Rule]]
    members: dict[str, tuple[str, ...]]

    def of(self, user: str) -> list[Rule]:
        """Every rule that bears on a user."""
        shared = [rule for group in self.members[user] for rule in self.groups[group]]
        return [*self.users[user], *shared]

    @cached_property
    def snapshot(self) -> Snapshot:
        """As the gateway holds it: one policy for each user and each group."""
        documents = dict(self._documents())
        account = Account(
            OWNER,
            policies=tuple(CustomPolicy(name) for name in documents),
            groups=tuple(Group(name, (name,) if name in documents else ()) for name in self.groups),
            users=tuple(
                User(name, name, self.members[name], (name,) if name in documents else ())
                for name in self.users
            ),
        )
        return build_snapshot([account], presets={}, custom={OWNER: documents}, generation=1)

    def _documents(self) -> Iterator[tuple[str, Document]]:
        for name, rules in (*self.users.items(), *self.groups.items()):
            if rules:
                yield name, document(name, rules)


def document(name: str, rules: Sequence[Rule]) -> Document:
    """Read rules as a policy; in parts, for one is never longer than 6,144 characters."""
    parts = [rules[at : at + PER_USER] for at in range(0, len(rules), PER_USER)]
    texts = (
        json.dumps({"version": "2.0", "statement": [one.written() for one in part]})
        for part in parts
    )
    statements = [one for text in texts for one in parse(text, name=name).statements]
    return Document(name, 1, tuple(statements))


def make_load(count: int, *, seed: int = 1, users: int | None = None) -> Load:
    """So many statements, for as many users as they are enough for."""
    random = Random(seed)
    names = [str(1_000_001 + at) for at in range(users or max(1, count // PER_USER))]
    groups = [f"team{at}" for at in range(max(2, len(names) // 2))]
    load = Load(
        users={name: [] for name in names},
        groups={name: [] for name in groups},
        members={name: tuple(random.sample(groups, k=2)) for name in names},
    )
    for at in range(count):
        if at % 10 < 7:
            load.users[names[at % len(names)]].append(make_rule(random))
        else:
            load.groups[groups[at % len(groups)]].append(make_rule(random))
    return load


def make_rule(random: Random) -> Rule:
    return Rule(
        is_deny=random.random() < 0.15,
        actions=tuple(random.sample(ACTIONS, k=random.randint(1, 4))),
        paths=tuple(_make_path(random) for _ in range(random.randint(1, 3))),
        network=random.choice(NETWORKS) if random.random() < 0.1 else "",
    )


def _make_path(random: Random) -> str:
    kind = random.choice(("job", "computeenv", "tasktemplate"))
    id_ = f"{random.randrange(16**8):08x}"
    chance = random.random()
    if chance < 0.6:
        return f"{kind}/{id_}"
    return f"{kind}/{id_[:3]}*" if chance < 0.95 else f"{kind}/*{id_[:3]}"


def make_requests(load: Load, count: int = REQUESTS, *, seed: int = 2) -> list[Request]:
    """A third aimed at an allow, a third at a deny, a third at nothing, and hitting it."""
    random = Random(seed)
    point = DecisionPoint(PlanEvaluator(), load.snapshot)
    names = list(load.users)
    rules_of = cache(lambda user, deny: [one for one in load.of(user) if one.is_deny is deny])
    found = []
    for at in range(count):
        wanted = (Reason.EXPLICIT_ALLOW, Reason.EXPLICIT_DENY, Reason.IMPLICIT_DENY)[at % 3]
        for _ in range(200):
            request = _aim(random, random.choice(names), rules_of, wanted=wanted)
            reason = point.decide(request.query()).reason
            if reason is wanted:
                break
        found.append(Request(*_fields(request), allowed=reason is Reason.EXPLICIT_ALLOW))
    return found


def _fields(request: Request) -> tuple[str, str, str, str]:
    return request.user, request.action, request.path, request.address


def _aim(
    random: Random, user: str, rules_of: Callable[[str, bool], list[Rule]], *, wanted: Reason
) -> Request:
    rules = rules_of(user, wanted is Reason.EXPLICIT_DENY)
    if wanted is Reason.IMPLICIT_DENY or not rules:
        path = f"job/{random.randrange(16**8):08x}"
        return Request(user, random.choice(ACTIONS), path, random.choice(ADDRESSES))
    rule = random.choice(rules)
    path = random.choice(rule.paths).replace("*", f"{random.randrange(16**5):05x}")
    return Request(user, random.choice(rule.actions), path, random.choice(ADDRESSES))
