"""Decisions written down as tests: `policies/tests/*.toml`, read and judged.

    [[case]]
    name = "the forbidden environment stays shut although a wildcard allows it"
    when = { caller = "100/200", action = "batch:DeleteComputeEnv", resource = "qcs::batch:…" }
    then = { effect = "deny", reason = "explicit-deny", determining = ["deny-one-environment/2"] }

`when` has a `caller`, an `action`, and a `resource` or several; for a list without ids, `list`
with the type instead, such as "job". It may have `deny_only` (and `deny_only_action`, a second
name), a `region` for `*` and lists, a `role`, `mfa = true`, a `session_policy` (JSON or a file), a
`context`, and `attributes` by resource, whose `qcs:resource_tag` is `key&value`. An empty list in
`context` takes away what every call carries. `policies` names documents of the folder that the
caller has instead of those that are attached to it: so a document is tested on its own.

`then` may leave out all but `effect`. A determining statement is `policy/place`; `via` says how
the caller has it, `nearest_miss` which element of the nearest allow differs, `fix` whose policies
would have to allow it, `shadow` what would be decided if shadow policies were enforced.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.call import Effect, Principal, Reason, Resource
from gateway.errors import ApiError
from gateway.policy.accounts import Account, CustomPolicy, Role, User
from gateway.policy.action import ActionPattern, KnownActions
from gateway.policy.condition import (
    Context,
    caller_context,
    carried_by_tags,
    is_carried,
    is_foreign,
)
from gateway.policy.decision import NEARNESS, Explanation
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.document import Document, parse
from gateway.policy.match import Query
from gateway.policy.question import Question, read_caller, read_resource
from gateway.policy.refusal import PolicySetRefused
from gateway.policy.snapshot import Snapshot, build_snapshot
from gateway.policy.trust import Trust
from gateway.policy.verdict import Evaluator
from gateway.strict_toml import Table

NO_FILES: Mapping[str, str] = {}
NO_ACTIONS: KnownActions = {}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a decision and its reasons must be. None: anything goes.

    determining: `policy/place`. nearest_miss: an element, or empty for none.
    """

    effect: Effect
    reason: Reason | None
    determining: frozenset[str] | None
    via: frozenset[str] | None
    nearest_miss: str | None
    fix: frozenset[str] | None
    shadow: str | None


@dataclass(frozen=True, slots=True)
class Scenario:
    """A question and its answer. policies: all that the caller has; None: what is declared."""

    name: str
    question: Question
    wanted: Wanted
    policies: tuple[Document, ...] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a scenario went. differences: a sentence for each thing that is not as written."""

    scenario: Scenario
    explanation: Explanation
    differences: tuple[str, ...]


def parse_scenarios(
    text: str,
    *,
    name: str,
    files: Mapping[str, str] = NO_FILES,
    known_actions: KnownActions = NO_ACTIONS,
) -> tuple[Scenario, ...]:
    """Read one file; `name` names it in a refusal. Raises PolicySetRefused.

    files: the texts that a case may name, by their path inside the folder of policies.
    known_actions: a case on an action that a service does not have would test nothing.
    """
    root = Table.read(text, where=name, refusal=PolicySetRefused)
    scenarios = tuple(_read_case(table, files) for table in root.tables("case"))
    root.close()
    for scenario in scenarios:
        try:
            ActionPattern.read(scenario.question.query.action).check_known(known_actions)
        except ApiError as error:
            raise PolicySetRefused(f"{name}, case `{scenario.name}`: {error.message}") from error
    return scenarios


def judge(scenario: Scenario, policies: DecisionPoint, *, evaluator: Evaluator) -> Outcome:
    """Decide as the scenario says, and compare. evaluator: for policies of the scenario's own."""
    if scenario.policies is not None:
        policies = DecisionPoint(evaluator, _snapshot_of(scenario, scenario.policies))
    explanation = scenario.question.explain(policies)
    differences = tuple(_differences(scenario.wanted, explanation))
    return Outcome(scenario, explanation, differences)


def _differences(wanted: Wanted, explanation: Explanation) -> Iterator[str]:
    decision, miss, shadow = explanation.decision, explanation.nearest_miss, explanation.shadow
    yield from _unlike("effect", wanted.effect.value, decision.effect.value)
    reason = None if wanted.reason is None else wanted.reason.value
    yield from _unlike("reason", reason, decision.reason.value)
    settled = frozenset(f"{one.policy}/{one.statement}" for one in explanation.determining)
    yield from _unlike("determining", wanted.determining, settled)
    yield from _unlike("via", wanted.via, frozenset(one.via for one in explanation.determining))
    yield from _unlike("nearest_miss", wanted.nearest_miss, miss.element if miss else "")
    yield from _unlike("fix", wanted.fix, frozenset(one.attach_to for one in explanation.fixes))
    yield from _unlike("shadow", wanted.shadow, shadow.decision.effect.value if shadow else "")


def _unlike(
    element: str, wanted: str | frozenset[str] | None, found: str | frozenset[str]
) -> Iterator[str]:
    if wanted is not None and wanted != found:
        yield f"{element} is {_written(found)}, not {_written(wanted)}"


def _written(value: str | frozenset[str]) -> str:
    return (value if isinstance(value, str) else ", ".join(sorted(value))) or "none"


def _snapshot_of(scenario: Scenario, policies: tuple[Document, ...]) -> Snapshot:
    """One account in which the caller has these policies and nothing else."""
    caller = scenario.question.query.principal
    names = tuple(document.name for document in policies)
    declared = tuple(CustomPolicy(document.name, document.file) for document in policies)
    if caller.role:
        role = Role(caller.role, caller.uin, trust="", policies=names)
        account = Account(caller.owner_uin, policies=declared, roles=(role,))
    else:
        user = User(caller.name, caller.uin, policies=names)
        account = Account(caller.owner_uin, policies=declared, users=(user,))
    return build_snapshot(
        [account],
        presets={},
        custom={account.uin: {document.name: document for document in policies}},
        trusts={account.uin: {caller.role: Trust(caller.role, ())}},
        generation=1,
    )


def _read_case(table: Table, files: Mapping[str, str]) -> Scenario:
    name = table.text("name")
    when = table.table("when")
    then = table.table("then")
    table.close()
    try:
        question = _When(when, files).read()
        policies = _read_policies(when, files) if when.has("policies") else None
        if policies is not None and question.query.principal.is_root:
            raise ValueError("the account itself has no `policies`")
    except ValueError as error:
        raise when.refused(str(error)) from error
    when.close()
    scenario = Scenario(name, question, _read_wanted(then), policies)
    then.close()
    return scenario


def _read_wanted(then: Table) -> Wanted:
    effects, reasons = {one.value for one in Effect}, {one.value for one in Reason}

    def texts(name: str) -> frozenset[str] | None:
        return frozenset(then.texts(name)) if then.has(name) else None

    def choice(name: str, allowed: set[str]) -> str | None:
        return then.choice(name, allowed) if then.has(name) else None

    reason = choice("reason", reasons)
    return Wanted(
        effect=Effect(then.choice("effect", effects)),
        reason=Reason(reason) if reason else None,
        determining=texts("determining"),
        via=texts("via"),
        nearest_miss=choice("nearest_miss", {*NEARNESS, ""}),
        fix=texts("fix"),
        shadow=choice("shadow", effects),
    )


def _read_policies(when: Table, files: Mapping[str, str]) -> tuple[Document, ...]:
    found = []
    for file in when.texts("policies"):
        name = file.rpartition("/")[2].removesuffix(".json")
        try:
            found.append(parse(_text(file, files), name=name, file=file))
        except ApiError as error:
            raise ValueError(f"{file}: {error.message} ({error.code})") from error
    if len({document.name for document in found}) != len(found):
        raise ValueError("two of `policies` have one name")
    return tuple(found)


def _text(file: str, files: Mapping[str, str]) -> str:
    if file not in files:
        raise ValueError(f"there is no file `{file}` in the folder of policies")
    return files[file]


class _When:
    """Reads who asks what. Raises ValueError and PolicySetRefused."""

    def __init__(self, when: Table, files: Mapping[str, str]) -> None:
        self._when = when
        self._caller = _read_principal(when, files)
        self._action = when.text("action").removeprefix("name/")
        self._service, colon, _ = self._action.partition(":")
        if not colon:
            raise ValueError(f"the action `{self._action}` is not `service:Action`")
        self._region = when.text("region", default="")

    def read(self) -> Question:
        when = self._when
        lists = when.text("list", default="")
        if lists and when.has("resource"):
            raise ValueError("a `list` has no `resource`")
        whole = Resource(self._service, self._region, self._caller.owner_uin, f"{lists}/*")
        query = Query(
            principal=self._caller,
            action=self._action,
            resources=(whole,) if lists else self._resources(when.texts("resource", default=None)),
            deny_only=self._resources(when.texts("deny_only")),
            context=self._context(when.table("context", optional=True)),
            attributes=self._attributes(when.table("attributes", optional=True)),
            deny_only_action=when.text("deny_only_action", default=""),
        )
        if not query.resources:
            raise ValueError("`resource` names nothing")
        return Question(query, lists)

    def _resources(self, texts: tuple[str, ...]) -> tuple[Resource, ...]:
        return tuple(self._resource(text) for text in texts)

    def _resource(self, text: str) -> Resource:
        owner_uin = self._caller.owner_uin
        return read_resource(text, service=self._service, region=self._region, owner_uin=owner_uin)

    def _context(self, table: Table) -> Context:
        """What every call carries, and what is written, which counts more."""
        given = _values(table)
        for key in given:
            if not is_carried(key) and not is_foreign(key, ()) and key != "qcs:app_id":
                raise ValueError(f"no call carries the condition key `{key}`")
        return {**caller_context(self._caller), **given}

    def _attributes(self, table: Table) -> dict[Resource, Context]:
        return {self._resource(text): _attributes(table.table(text)) for text in table.names()}


def _values(table: Table) -> dict[str, tuple[str, ...]]:
    return {key: table.texts(key) for key in table.names()}


def _attributes(table: Table) -> Context:
    """What a resource carries: a tag, written `key&value`, is known by all its keys."""
    found = _values(table)
    tags = (tag.partition("&") for tag in found.get("qcs:resource_tag", ()))
    return {**carried_by_tags((key, value) for key, _, value in tags), **found}


def _read_principal(when: Table, files: Mapping[str, str]) -> Principal:
    """Read the caller. session_policy: JSON, or a file of the folder that holds it."""
    caller = read_caller(when.text("caller"))
    policy = when.text("session_policy", default="")
    if policy and not policy.lstrip().startswith("{"):
        policy = _text(policy, files)
    if policy:
        try:
            parse(policy, name="session policy")
        except ApiError as error:
            raise ValueError(f"the session policy: {error.message} ({error.code})") from error
    role = when.text("role", default="")
    return Principal(
        owner_uin=caller.owner_uin,
        uin=caller.uin,
        name=role or caller.name,
        role=role,
        session="test" if role else "",
        session_policy=policy,
        mfa=when.flag("mfa"),
    )
