"""Decisions written down as tests: `policies/tests/*.toml`, read and judged.

    [[case]]
    name = "the forbidden environment stays shut although a wildcard allows it"
    when = { caller = "100/200", action = "batch:DeleteComputeEnv", resource = "qcs::batch:…" }
    then = { effect = "deny", reason = "explicit-deny", determining = ["deny-one-environment/2"] }

`when` may have several resources, `deny_only`, a `region` for the resource `*`, and a `context`.
`then` may leave out all but `effect`. A determining statement is `policy/place`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gateway.call import Effect, Principal, Reason, Resource
from gateway.policy.decision import Explanation
from gateway.policy.match import Query
from gateway.policy.resource import SEGMENTS
from gateway.policy.strict_toml import PolicySetRefused, Table


@dataclass(frozen=True, slots=True)
class Scenario:
    """A query and what its decision must be. None: anything goes."""

    name: str
    query: Query
    effect: Effect
    reason: Reason | None
    determining: frozenset[str] | None


def parse_scenarios(text: str, *, name: str) -> tuple[Scenario, ...]:
    """Read one file; `name` names it in a refusal. Raises PolicySetRefused."""
    root = Table.read(text, where=name)
    scenarios = tuple(_read_case(table) for table in root.tables("case"))
    root.close()
    return scenarios


def differences(scenario: Scenario, explain: Callable[[Query], Explanation]) -> tuple[str, ...]:
    """Judge a scenario: one sentence for each thing that is not as written."""
    explanation = explain(scenario.query)
    return tuple(_differences(scenario, explanation))


def _differences(scenario: Scenario, explanation: Explanation) -> Iterator[str]:
    decision = explanation.decision
    if decision.effect is not scenario.effect:
        yield f"effect is {decision.effect.value}, not {scenario.effect.value}"
    if scenario.reason not in {None, decision.reason}:
        yield f"reason is {decision.reason.value}, not {getattr(scenario.reason, 'value', None)}"
    settled = frozenset(f"{one.policy}/{one.statement}" for one in explanation.determining)
    if scenario.determining not in {None, settled}:
        wanted = ", ".join(sorted(scenario.determining or ())) or "none"
        yield f"determining is {', '.join(sorted(settled)) or 'none'}, not {wanted}"


def read_caller(text: str) -> Principal:
    """Read `owner/uin`, such as `100/200`; the account itself is `100/100`. Raises ValueError."""
    owner, slash, uin = text.partition("/")
    if not (slash and owner.isdecimal() and uin.isdecimal()):
        raise ValueError(f"the caller `{text}` is not `owner/uin`")
    return Principal(owner_uin=owner, uin=uin, name="root" if owner == uin else uin)


def read_resource(text: str, *, service: str, region: str, owner_uin: str) -> Resource:
    """Read what a call touches: six segments, or `*` for an action without resource level.

    service, region, owner_uin: what `*` is asked in. Raises ValueError.
    """
    if text == "*":
        return Resource(service, region, owner_uin, "*")
    segments = text.split(":", SEGMENTS - 1)
    if len(segments) != SEGMENTS or segments[0] != "qcs" or not segments[4].startswith("uin/"):
        raise ValueError(f"the resource `{text}` is not `qcs::service:region:uin/number:path`")
    _, _, service, region, account, path = segments
    return Resource(service, region, account.removeprefix("uin/"), path)


def _read_case(table: Table) -> Scenario:
    name = table.text("name")
    when = table.table("when")
    then = table.table("then")
    table.close()
    try:
        query = _read_query(when)
    except ValueError as error:
        raise when.refused(str(error)) from error
    effect = then.choice("effect", {effect.value for effect in Effect})
    reason = (
        then.choice("reason", {reason.value for reason in Reason}) if then.has("reason") else ""
    )
    determining = frozenset(then.texts("determining")) if then.has("determining") else None
    then.close()
    return Scenario(name, query, Effect(effect), Reason(reason) if reason else None, determining)


def _read_query(when: Table) -> Query:
    caller = read_caller(when.text("caller"))
    action = when.text("action").removeprefix("name/")
    service, colon, _ = action.partition(":")
    if not colon:
        raise ValueError(f"the action `{action}` is not `service:Action`")
    region = when.text("region", default="")
    context = when.table("context", optional=True)

    def read(name: str) -> tuple[Resource, ...]:
        return tuple(
            read_resource(text, service=service, region=region, owner_uin=caller.owner_uin)
            for text in when.texts(name)
        )

    query = Query(
        principal=caller,
        action=action,
        resources=read("resource"),
        deny_only=read("deny_only"),
        context={key: context.texts(key) for key in context.names()},
    )
    when.close()
    if not query.resources:
        raise PolicySetRefused(f"{when.where}: `resource` is missing")
    return query
