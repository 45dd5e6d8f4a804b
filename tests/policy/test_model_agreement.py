"""The enforcer against an evaluator that shares nothing with it."""

from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.call import Reason, Resource
from gateway.policy.enforcer import Enforcer
from gateway.policy.pattern import Wildcard
from tests.policy.policies import MODEL, OWNER, UIN, query, snapshot_of
from tests.support import policy_model

HOSTILE = st.lists(
    st.sampled_from(
        ["a", "b", "*", "**", ":", "/", "\n", "é", "\U0001f600", ".", "qcs", "[", "\\"]
    ),
    min_size=1,
    max_size=5,
).map("".join)
LONG = st.sampled_from(["a" * 500, "ab" * 200 + "*", "*a" * 100])
PATH = st.one_of(
    st.sampled_from(
        ["*", "*/*", "job/*", "job/a", "job/a/*", "job/*/*", "*b", "j*b", "job*", "computeenv/a/*"]
    ),
    st.sampled_from(["job/${uin}", "job/${owner_uin}/*", "job/a*${uin}*", "other/a/*"]),
    HOSTILE,
    HOSTILE.map("job/".__add__),
    LONG,
)
PATTERN = st.one_of(
    st.just("*"),
    st.tuples(
        st.just("qcs"),
        st.sampled_from(["", "", "*", "id/0", "id/*", "id/7"]),
        st.sampled_from(["batch", "batch", "", "*", "b*", "cos"]),
        st.sampled_from(["", "*", "gz", "ap-guangzhou", "ap-*", "bj", "*g*", "ap-beijing-1"]),
        st.sampled_from(
            ["", "", "*", "uin/-1", "uin/100", "uin/1*", "uin/*", "uin/200", "uin/999"]
        ),
        PATH,
    ).map(":".join),
)
ACTION = st.one_of(
    st.sampled_from(
        ["*", "*:*", "batch:*", "name/batch:*", "batch:Describe*", "batch:DescribeJob"]
    ),
    st.sampled_from(["name/batch:A", "batch:*Job", "b*:*", "cos:*", "BATCH:describejob", "*:A"]),
    st.sampled_from(["batch:*e*b*", "batch:A*A"]),
)
KEY = st.sampled_from(["qcs:ip", "qcs:resource_tag", "k:n", "mfa"])
TEXTS = ["a", "b", "", "10.0.0.1", "5", "true", "é\n*"]
CONDITION = st.one_of(
    st.tuples(
        st.sampled_from(["", "for_any_value:"]),
        st.sampled_from(["string_equal", "string_not_equal", "string_like"]),
        st.sampled_from(["", "_if_exist"]),
        KEY,
        st.lists(st.sampled_from(["a", "b", "", "a*", "*"]), min_size=1, max_size=2),
    ),
    st.tuples(
        st.sampled_from(["", "for_all_value:"]),
        st.just("ip_equal"),
        st.sampled_from(["", "_if_exist"]),
        st.just("qcs:ip"),
        st.sampled_from([["10.0.0.9/8"], ["10.0.0.1", "::1"]]),
    ),
    st.tuples(
        st.just(""), st.just("ip_not_equal"), st.just(""), st.just("qcs:ip"), st.just(["10.0.0.1"])
    ),
    st.tuples(st.just(""), st.just("numeric_less_than"), st.just(""), KEY, st.just([7])),
    st.tuples(
        st.just(""), st.just("null_equal"), st.just(""), KEY, st.sampled_from([[""], ["false"]])
    ),
)


def as_json(condition: tuple[str, str, str, str, list[Any]]) -> dict[str, Any]:
    quantifier, operator, suffix, key, values = condition
    return {quantifier + operator + suffix: {key: values}}


def merged(conditions: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: keys for one in conditions for name, keys in one.items()}


STATEMENT = st.fixed_dictionaries(
    {
        "effect": st.sampled_from(["allow", "allow", "deny"]),
        "action": st.lists(ACTION, min_size=1, max_size=2),
        "resource": st.one_of(PATTERN, st.lists(PATTERN, min_size=1, max_size=3)),
    },
    optional={"condition": st.lists(CONDITION.map(as_json), min_size=1, max_size=2).map(merged)},
)
STATEMENTS = st.lists(STATEMENT, max_size=5)
ASKED_PATH = st.one_of(
    st.sampled_from(["*", "job/*", "job/a", "job/b", "job/a/b", "job/200", "computeenv/a"]),
    HOSTILE,
    HOSTILE.map("job/".__add__),
    LONG,
)
RESOURCE = st.builds(
    Resource,
    service=st.sampled_from(["batch", "batch", "cos"]),
    region=st.sampled_from(["ap-guangzhou", "ap-beijing", "gz", ""]),
    owner_uin=st.sampled_from([OWNER, OWNER, OWNER, "999"]),
    path=ASKED_PATH,
)
CONTEXT = st.dictionaries(KEY, st.lists(st.sampled_from(TEXTS), max_size=2).map(tuple), max_size=3)
ACTIONS = ("batch:DescribeJob", "batch:A", "cos:A")
SWEEP = settings(
    max_examples=850, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
"""Each example of the first test judges 24 cases: 850 of them are more than 20,000."""


def model_verdict(statements: Any, action: str, resource: Resource, context: Any) -> str:
    asked = (resource.service, resource.region, resource.owner_uin, resource.path)
    return policy_model.verdict(statements, (OWNER, UIN), action, asked, context)


ENFORCER = Enforcer(MODEL, snapshot_of())


@SWEEP
@given(
    own=STATEMENTS,
    shared=STATEMENTS,
    resources=st.lists(RESOURCE, min_size=4, max_size=4),
    context=CONTEXT,
    random=st.randoms(),
)
def test_decisions_agree_with_the_model_in_any_order(
    own: Any, shared: Any, resources: list[Resource], context: Any, random: Random
) -> None:
    expected = {
        (action, resource): model_verdict(own + shared, action, resource, context)
        for action in ACTIONS
        for resource in resources
    }
    for _ in range(2):
        random.shuffle(own)
        ENFORCER.swap(snapshot_of(own, shared))
        for action in ACTIONS:
            for resource in resources:
                got = ENFORCER.decide(query(action, resource, context=context))
                assert got.reason.value == expected[action, resource], (action, resource)
        own, shared = shared, own


@settings(SWEEP, max_examples=300)
@given(own=STATEMENTS, shared=STATEMENTS, context=CONTEXT, ids=st.lists(HOSTILE, max_size=6))
def test_a_list_shows_exactly_the_ids_that_may_be_described(
    own: Any, shared: Any, context: Any, ids: list[str]
) -> None:
    ENFORCER.swap(snapshot_of(own, shared))
    listing = query("batch:DescribeJob", context=context)
    scope = ENFORCER.scope(listing, resource_type="job", region="gz")
    for id_ in (*ids, "a", "b", "", "*", "a/b", "a/*", UIN, "a" * 500):
        shown = any(Wildcard.read(one).matches(id_) for one in scope.allow) and not any(
            Wildcard.read(one).matches(id_) for one in scope.deny
        )
        resource = Resource("batch", "ap-guangzhou", OWNER, f"job/{id_}")
        asked = query("batch:DescribeJob", resource, context=context)
        assert shown is ENFORCER.decide(asked).allowed, id_


@settings(SWEEP, max_examples=300)
@given(own=STATEMENTS, shadow=STATEMENTS, context=CONTEXT, resource=RESOURCE)
def test_an_explanation_gives_the_decision_and_what_it_rests_on(
    own: Any, shadow: Any, context: Any, resource: Resource
) -> None:
    ENFORCER.swap(snapshot_of(own, shadow=shadow))
    asked = query("batch:DescribeJob", resource, context=context)
    explanation = ENFORCER.explain(asked)
    reason = explanation.decision.reason
    assert explanation.decision == ENFORCER.decide(asked)
    assert bool(explanation.determining) is (reason is not Reason.IMPLICIT_DENY)
    effects = {own[one.statement - 1]["effect"] for one in explanation.determining}
    assert effects <= {reason.value.removeprefix("explicit-")}
    assert explanation.nearest_miss is None or reason is Reason.IMPLICIT_DENY
    if shadow:
        assert explanation.shadow is not None
        both = model_verdict(own + shadow, "batch:DescribeJob", resource, context)
        assert explanation.shadow.decision.reason.value == both
