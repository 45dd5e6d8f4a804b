"""Both evaluators against one that shares nothing with them, on cases that hypothesis makes."""

from dataclasses import replace
from functools import cache
from itertools import product
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from gateway.call import AttributeTest, Clause, Reason, Resource, Scope
from gateway.policy.accounts import Mode
from gateway.policy.decision import Determinant, Fix
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.snapshot import Snapshot, policy_key
from tests.campaigns import policy_worlds as worlds
from tests.campaigns.differential import (
    EVALUATORS,
    model_reason,
    query_of,
    snapshot_of,
)
from tests.campaigns.policy_worlds import Question, Statement, World
from tests.support import policy_model

HOSTILE = st.lists(st.sampled_from(worlds.CHARACTERS), min_size=1, max_size=5).map("".join)
PATH = st.one_of(
    st.sampled_from(worlds.PATHS),
    HOSTILE,
    HOSTILE.map("job/".__add__),
    st.sampled_from(worlds.LONG_PATHS),
)
PATTERN = st.one_of(
    st.just("*"),
    st.tuples(
        st.just("qcs"),
        st.sampled_from(worlds.PROJECTS),
        st.sampled_from(worlds.SERVICES),
        st.sampled_from(worlds.REGIONS),
        st.sampled_from(worlds.ACCOUNTS),
        PATH,
    ).map(":".join),
)


def one_or_more(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(strategy, st.lists(strategy, min_size=1, max_size=3))


# Why cached: hypothesis validates a strategy when it first draws from it, and one that is made anew
# for every draw costs more than all that is drawn from it.
@cache
def conditions_on(key: str) -> st.SearchStrategy[tuple[str, str, Any]]:
    """An operator that reads what the key has, or for once any other; a key; values."""

    @cache
    def of_kind(kind: worlds.Kind) -> st.SearchStrategy[tuple[str, str, Any]]:
        is_null = kind is worlds.NULL
        quantifiers = ["", "for_any_value:"] + ["for_all_value:"] * (key not in worlds.TAG_KEYS)
        operator = st.tuples(
            st.just("") if is_null else st.sampled_from(quantifiers),
            st.sampled_from(kind.operators),
            st.just("") if is_null else st.sampled_from(["", "_if_exist"]),
        ).map("".join)
        values = st.sampled_from(kind.written)
        return st.tuples(operator, st.just(key), values if is_null else one_or_more(values))

    own = worlds.KEYS[key]
    return st.sampled_from([own] * len(worlds.KINDS) + list(worlds.KINDS)).flatmap(of_kind)


def as_json(conditions: list[tuple[str, str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for operator, key, values in conditions:
        made.setdefault(operator, {})[key] = values
    return made


KEY = st.sampled_from(sorted(worlds.KEYS))
CONDITIONS = st.lists(KEY.flatmap(conditions_on), min_size=1, max_size=3).map(as_json)
STATEMENT = st.fixed_dictionaries(
    {
        "effect": st.sampled_from(["allow", "allow", "deny"]),
        "action": one_or_more(st.sampled_from(worlds.ACTION_PATTERNS)),
        "resource": one_or_more(PATTERN),
    },
    optional={"condition": CONDITIONS},
)
STATEMENTS = st.lists(STATEMENT, max_size=4)
WIDE = {"effect": "allow", "action": "*", "resource": "*"}
NARROWING = st.tuples(STATEMENTS, st.sampled_from([[WIDE], []])).map(lambda both: both[0] + both[1])
WORLD = st.builds(
    World,
    own=STATEMENTS,
    group=STATEMENTS,
    everyone=st.lists(STATEMENT, max_size=1),
    boundary=NARROWING,
    session=st.one_of(st.none(), NARROWING),
)


def known(keys: Any) -> st.SearchStrategy[dict[str, tuple[str, ...]]]:
    values = {
        key: st.lists(st.sampled_from(kind.got + kind.broken), max_size=2).map(tuple)
        for key, kind in keys.items()
    }
    return st.fixed_dictionaries({}, optional=values)


@cache
def questions(caller: str) -> st.SearchStrategy[Question]:
    owner, uin = worlds.CALLERS[caller]
    asked = st.one_of(PATH, st.sampled_from(["job/a/b", f"job/{uin}", "job/77", "computeenv/a"]))
    return st.builds(
        Question,
        caller=st.just(caller),
        action=st.sampled_from(worlds.ACTIONS),
        resource=st.tuples(
            st.sampled_from(["batch", "batch", "cos"]),
            st.sampled_from(worlds.ASKED_REGIONS),
            st.sampled_from([owner] * 6 + [worlds.OTHER]),
            asked,
        ),
        context=st.tuples(
            known(worlds.CALL_KEYS),
            st.sampled_from([{}, *({"qcs:app_id": one} for one in worlds.APP_IDS)]),
        ).map(lambda both: both[0] | both[1]),
        attributes=known(worlds.RESOURCE_KEYS),
    )


QUESTION = st.sampled_from(sorted(worlds.CALLERS)).flatmap(questions)
QUESTIONS = st.lists(QUESTION, min_size=3, max_size=3)
SWEEP = settings(
    max_examples=750, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
"""Each example of the first test judges 27 cases: 750 of them are more than 20,000."""
POINTS = {
    name: DecisionPoint(make(), snapshot_of(World([], [], [], [], None)))
    for name, make in EVALUATORS.items()
}
PLANS = POINTS["plan"]


def put_in_force(world: World) -> Snapshot:
    for point in POINTS.values():
        point.swap(snapshot_of(world, before=point.snapshot))
    return PLANS.snapshot


@pytest.mark.timeout(300)
@SWEEP
@given(world=WORLD, asked=QUESTIONS)
def test_decisions_agree_with_the_model(world: World, asked: list[Question]) -> None:
    put_in_force(world)
    for caller, action, context in product(asked, repeat=3):
        question = replace(caller, action=action.action, context=context.context)
        expected = model_reason(world, question)
        for name, point in POINTS.items():
            assert point.decide(query_of(world, question)).reason.value == expected, (
                name,
                question,
            )


@settings(SWEEP, max_examples=150)
@given(world=WORLD, asked=QUESTIONS, random=st.randoms(use_true_random=True))
def test_the_order_of_statements_patterns_and_policies_changes_nothing(
    world: World, asked: list[Question], random: Random
) -> None:
    put_in_force(world)
    before = [PLANS.decide(query_of(world, question)).reason for question in asked]
    other = replace(
        world,
        own=shuffled(world.group, random),
        group=shuffled(world.own, random),
        everyone=shuffled(world.everyone, random),
        boundary=shuffled(world.boundary, random),
        session=None if world.session is None else shuffled(world.session, random),
    )
    put_in_force(other)
    for question, reason in zip(asked, before, strict=True):
        if "role" not in question.caller:  # a role is in no group
            for point in POINTS.values():
                assert point.decide(query_of(other, question)).reason is reason, question


def shuffled(statements: list[Statement], random: Random) -> list[Statement]:
    """In another order, and their actions and resources too."""
    turned = [
        {
            key: random.sample(value, k=len(value)) if isinstance(value, list) else value
            for key, value in statement.items()
        }
        for statement in statements
    ]
    return random.sample(turned, k=len(turned))


@settings(SWEEP, max_examples=300)
@given(world=WORLD, question=QUESTION)
def test_an_explanation_gives_the_decision_and_the_statements_it_rests_on(
    world: World, question: Question
) -> None:
    put_in_force(world)
    asked = query_of(world, question)
    explanation = PLANS.explain(asked)
    assert explanation.decision == PLANS.decide(asked)
    assert explanation == POINTS["casbin"].explain(asked)
    reason = explanation.decision.reason
    layers = set()
    for one in explanation.determining:
        layer, statement = found_statement(world, one)
        layers.add(layer)
        assert statement["effect"] == explanation.decision.effect.value
        assert policy_model.statement_applies(statement, asked_of(question)), one
        assert one.pattern in policy_model.listed(statement["resource"])
    if explanation.decision.allowed:
        assert layers == set(world.layers(question.caller))
    else:
        assert bool(layers) is (reason is Reason.EXPLICIT_DENY)


def asked_of(question: Question) -> policy_model.Asked:
    owner, uin = worlds.CALLERS[question.caller]
    has = {**question.context, **question.attributes}
    return policy_model.Asked(owner, uin, question.action, question.resource, has)


def found_statement(world: World, one: Determinant) -> tuple[str, Statement]:
    """The reason that its layer denies for, and the statement that is meant."""
    if one.via == "session-policy":
        return one.via, (world.session or [])[one.statement - 1]
    statements: list[Statement] = getattr(world, one.policy)
    return "boundary" if one.via == "boundary" else "implicit-deny", statements[one.statement - 1]


@settings(SWEEP, max_examples=300)
@given(world=WORLD, question=QUESTION)
def test_adding_what_the_fixes_say_to_the_layers_they_name_allows_the_call(
    world: World, question: Question
) -> None:
    put_in_force(world)
    explanation = PLANS.explain(query_of(world, question))
    reason = explanation.decision.reason
    if explanation.decision.allowed or reason is Reason.EXPLICIT_DENY:
        assert explanation.fixes == ()
        return
    is_foreign = question.resource[2] != worlds.CALLERS[question.caller][0]
    assert not (is_foreign and explanation.fixes)
    if explanation.fixes:
        mended = world
        for fix in explanation.fixes:
            mended = with_fix(mended, fix)
        assert model_reason(mended, question) in {"explicit-allow", "root"}
        put_in_force(mended)
        assert PLANS.decide(query_of(mended, question)).allowed


def with_fix(world: World, fix: Fix) -> World:
    statements = fix.policy()["statement"]
    if fix.attach_to == "session policy":
        return replace(world, session=[*(world.session or []), *statements])
    if fix.attach_to.startswith("boundary "):
        return replace(world, boundary=[*world.boundary, *statements])
    return replace(world, own=[*world.own, *statements])


@settings(SWEEP, max_examples=200)
@given(
    world=WORLD,
    question=QUESTION,
    ids=st.lists(HOSTILE, max_size=4),
    has=known(worlds.RESOURCE_KEYS),
)
def test_a_list_shows_exactly_the_ids_that_may_be_described(
    world: World, question: Question, ids: list[str], has: dict[str, tuple[str, ...]]
) -> None:
    put_in_force(world)
    owner, uin = worlds.CALLERS[question.caller]
    listing = structs.replace(query_of(world, question), resources=(), attributes={})
    service = question.action.partition(":")[0]
    scope = PLANS.scope(listing, resource_type="job", region="gz")
    for id_ in (*ids, "a", "b", "", "*", "a/b", "a/*", uin, "77", "a" * 500):
        resource = Resource(service, "ap-guangzhou", owner, f"job/{id_}")
        asked = structs.replace(listing, resources=(resource,), attributes={resource: has})
        allowed = PLANS.decide(asked).allowed
        assert is_shown(scope, id_, has) is allowed, id_


def is_shown(scope: Scope, id_: str, has: dict[str, tuple[str, ...]]) -> bool:
    """Ids inside one clause of every layer, and inside none of the denying ones."""

    def inside(clauses: tuple[Clause, ...], effect: str) -> bool:
        return any(
            policy_model.fits(one.pattern, id_) and conditions_hold(one.tests, has, effect=effect)
            for one in clauses
        )

    return all(inside(layer, "allow") for layer in scope.allow) and not inside(scope.deny, "deny")


def conditions_hold(
    tests: tuple[AttributeTest, ...], has: dict[str, tuple[str, ...]], *, effect: str
) -> bool:
    """One that cannot be judged makes a deny fit and an allow not."""
    nobody = policy_model.Asked("", "", "", ("", "", "", ""))
    try:
        outcomes = [
            policy_model.condition_holds(one.operator, list(one.values), has.get(one.key), nobody)
            for one in tests
        ]
    except ValueError:
        return effect == "deny"
    return all(outcomes)


@settings(SWEEP, max_examples=150)
@given(world=WORLD, question=QUESTION)
def test_a_policy_that_is_only_watched_changes_no_answer_and_its_verdict_is_told(
    world: World, question: Question
) -> None:
    snapshot = put_in_force(world)
    watched = policy_key(worlds.OWNER, worlds.GROUP)
    policies = {**snapshot.policies, watched: replace(snapshot.policies[watched], mode=Mode.SHADOW)}
    PLANS.swap(replace(snapshot, policies=policies))
    asked = query_of(world, question)
    assert PLANS.decide(asked).reason.value == model_reason(replace(world, group=[]), question)
    shadow = PLANS.explain(asked).shadow
    assert (shadow is not None) is (question.caller in {"user", "bounded user"})
    if shadow is not None:
        assert shadow.decision.reason.value == model_reason(world, question)
