"""Users, groups, everyone, roles, boundaries, session policies and the root, put together."""

import json
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from gateway.call import AttributeTest, Clause, Principal, Reason, Resource
from gateway.policy.accounts import Account, CustomPolicy, Group, Mode, Role, User
from gateway.policy.condition import read_test
from gateway.policy.decision import Explanation
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.match import Query
from gateway.policy.snapshot import build_snapshot
from gateway.policy.trust import Trust, parse_trust
from tests.policy.policies import ANN, OWNER, ROOT, allow, batch, deny, document, evaluator

pytestmark = pytest.mark.usefixtures("each_evaluator")

JOB = batch("job/job-1")
RUNNER = Principal(OWNER, "900", "runner", role="runner", session="nightly")
KINDS = ("user", "group", "everyone", "role", "boundary", "role_boundary", "root_boundary")


def point(*, shadow: Any = (), trust: Any = None, **statements: Any) -> DecisionPoint:
    """One account with the user ann in one group, and the role runner; a policy for each kind."""
    documents = {kind: document(kind, found) for kind, found in statements.items() if found}

    def names(kind: str) -> tuple[str, ...]:
        return (kind,) if kind in documents else ()

    assert documents.keys() <= set(KINDS)
    account = Account(
        OWNER,
        policies=tuple(
            CustomPolicy(name, mode=Mode.SHADOW if name in shadow else Mode.ENFORCE)
            for name in documents
        ),
        groups=(Group("team", names("group")),),
        users=(User("ann", ANN.uin, ("team",), names("user"), "".join(names("boundary"))),),
        roles=(Role("runner", "900", "t.json", names("role"), "".join(names("role_boundary"))),),
        everyone=names("everyone"),
        boundary="".join(names("root_boundary")),
    )
    read = Trust("runner", ())
    if trust is not None:
        written = trust if isinstance(trust, list) else [trust]
        text = json.dumps({"version": "2.0", "statement": written})
        read = parse_trust(text, role="runner", file="trust/runner.json")
    trusts = {OWNER: {"runner": read}}
    snapshot = build_snapshot(
        [account], presets={}, custom={OWNER: documents}, trusts=trusts, generation=1
    )
    return DecisionPoint(evaluator(), snapshot)


def ask(principal: Principal = ANN, *resources: Resource, **more: Any) -> Query:
    return Query(principal, "batch:DescribeJob", resources or (JOB,), **more)


def session(principal: Principal, *statements: Any) -> Principal:
    text = json.dumps({"version": "2.0", "statement": list(statements)})
    return replace(principal, session="s", session_policy=text)


def reason(asked: DecisionPoint, principal: Principal = ANN) -> str:
    explanation = asked.explain(ask(principal))
    assert explanation.decision == asked.decide(ask(principal))
    return explanation.decision.reason.value


@pytest.mark.parametrize("kind", ["user", "group", "everyone"])
def test_each_holder_of_a_user_allows_and_a_deny_of_any_wins(kind: str) -> None:
    assert reason(point(**{kind: [allow()]})) == "explicit-allow"
    for other in ("user", "group", "everyone", "boundary"):
        statements: dict[str, Any] = {kind: [allow()]}
        statements[other] = [*statements.get(other, [allow()]), deny(resource=str(JOB))]
        assert reason(point(**statements)) == "explicit-deny"


def test_a_boundary_narrows_and_never_grants() -> None:
    assert reason(point(boundary=[allow()])) == "implicit-deny"
    assert reason(point(user=[allow()], boundary=[allow("batch:SubmitJob")])) == "boundary"
    assert reason(point(user=[allow()], boundary=[allow("batch:*")])) == "explicit-allow"


def test_a_session_policy_narrows_and_never_grants() -> None:
    assert reason(point(), session(ANN, allow())) == "implicit-deny"
    assert reason(point(user=[allow()]), session(ANN, allow("cos:*"))) == "session-policy"
    assert reason(point(user=[allow()]), session(ANN, allow(), deny())) == "explicit-deny"
    assert reason(point(user=[allow()]), session(ANN, allow())) == "explicit-allow"
    unreadable = replace(ANN, session="s", session_policy="{")
    assert reason(point(user=[allow()]), unreadable) == "session-policy"


def test_a_role_has_its_own_policies_and_no_users() -> None:
    assert reason(point(user=[allow()], group=[allow()]), RUNNER) == "implicit-deny"
    assert reason(point(role=[allow()]), RUNNER) == "explicit-allow"
    assert reason(point(everyone=[allow()]), RUNNER) == "explicit-allow"
    assert reason(point(role=[allow()], role_boundary=[allow("cos:*")]), RUNNER) == "boundary"
    assert reason(point(role=[allow()]), replace(RUNNER, role="walker")) == "implicit-deny"
    made_before_the_role_was_declared_anew = replace(RUNNER, uin="901")
    assert reason(point(role=[allow()]), made_before_the_role_was_declared_anew) == "implicit-deny"


def test_the_root_needs_no_policy_but_can_be_narrowed() -> None:
    assert reason(point(), ROOT) == "root"
    assert reason(point(), session(ROOT, allow("batch:*"))) == "root"
    assert reason(point(), session(ROOT, allow("cos:*"))) == "session-policy"
    assert reason(point(), session(ROOT, deny(), allow())) == "explicit-deny"
    assert reason(point(root_boundary=[allow("cos:*")]), ROOT) == "boundary"
    foreign = ask(ROOT, batch("job/job-1", owner="200"))
    assert point().decide(foreign).reason is Reason.IMPLICIT_DENY


def test_what_lacks_first_is_named_first() -> None:
    asked = point(boundary=[allow("cos:*")])
    assert reason(asked, session(ANN, allow("cos:*"))) == "implicit-deny"
    asked = point(user=[allow()], boundary=[allow("cos:*")])
    assert reason(asked, session(ANN, allow("cos:*"))) == "boundary"


def test_an_allow_is_explained_by_a_statement_of_every_layer() -> None:
    asked = point(user=[allow()], boundary=[deny("cos:*"), allow("batch:*")])
    explanation = asked.explain(ask(session(ANN, allow("batch:Describe*", str(JOB)))))
    assert [(one.policy, one.statement, one.via) for one in explanation.determining] == [
        ("user", 1, "user"),
        ("boundary", 2, "boundary"),
        ("session policy", 1, "session-policy"),
    ]


def test_the_nearest_miss_is_looked_for_in_the_layer_that_lacks() -> None:
    asked = point(user=[allow()], boundary=[allow("batch:*", "qcs::batch:bj::job/*")])
    miss = asked.explain(ask()).nearest_miss
    assert miss is not None
    assert (miss.policy, miss.via, miss.element) == ("boundary", "boundary", "region")


def test_the_fixes_together_allow_the_call() -> None:
    narrowed = session(ANN, allow("batch:SubmitJob"))
    asked = point(boundary=[allow("cos:*")])
    fixes = {one.attach_to: one.policy() for one in asked.explain(ask(narrowed)).fixes}
    assert list(fixes) == ["user ann", "boundary boundary of user ann", "session policy"]
    statement = {
        "effect": "allow",
        "action": ["batch:DescribeJob"],
        "resource": ["qcs::batch:ap-guangzhou:uin/100:job/job-1"],
    }
    assert all(one == {"version": "2.0", "statement": [statement]} for one in fixes.values())
    mended = point(user=[statement], boundary=[allow("cos:*"), statement])
    assert reason(mended, session(ANN, allow("batch:SubmitJob"), statement)) == "explicit-allow"


def test_no_fix_is_offered_where_no_allow_can_help() -> None:
    assert point(user=[deny()]).explain(ask()).fixes == ()
    assert point().explain(ask(ANN, batch("job/job-1", owner="200"))).fixes == ()
    assert point().explain(ask(ANN, batch("job/${x}"))).fixes == ()
    mixed = ask(ANN, JOB, batch("job/job-2"))
    assert point().explain(mixed).fixes
    walled = point(user=[deny(resource="qcs::batch:::job/job-2")])
    assert walled.explain(mixed).fixes == ()


def tagged(*values: str) -> dict[Resource, dict[str, tuple[str, ...]]]:
    return {JOB: {"qcs:resource_tag": values}}


OF_TEAM = {"for_any_value:string_equal": {"qcs:resource_tag": ["team&a"]}}


def test_a_condition_on_tags_is_judged_for_each_resource() -> None:
    asked = point(user=[allow(condition=OF_TEAM)])
    other = batch("job/job-2")
    carried = {**tagged("team&a", "x&y"), other: {"qcs:resource_tag": ("team&b",)}}
    assert asked.reads_resources(ask())
    assert asked.decide(ask(ANN, JOB, attributes=carried)).allowed
    assert not asked.decide(ask(ANN, JOB, other, attributes=carried)).allowed
    assert not asked.decide(ask(ANN, other, attributes=carried)).allowed
    assert not asked.decide(ask(ANN, JOB)).allowed
    miss = asked.explain(ask(ANN, other, attributes=carried)).nearest_miss
    assert miss is not None
    assert (miss.element, miss.found) == ("condition", "qcs:resource_tag team&b")


def test_attributes_are_asked_for_only_if_a_condition_needs_them() -> None:
    by_ip = {"ip_equal": {"qcs:ip": "10.0.0.0/8"}}
    assert not point(user=[allow(condition=by_ip)]).reads_resources(ask())
    assert not point(user=[allow("batch:SubmitJob", condition=OF_TEAM)]).reads_resources(ask())
    assert point(boundary=[deny(condition=OF_TEAM)]).reads_resources(ask())
    assert point(user=[deny(condition=OF_TEAM)], shadow=("user",)).reads_resources(ask())


def test_a_list_leaves_conditions_on_resources_to_whoever_lists() -> None:
    by_ip = {"ip_equal": {"qcs:ip": "10.0.0.0/8"}}
    asked = point(
        user=[allow(resource="qcs::batch:::job/*", condition={**OF_TEAM, **by_ip})],
        boundary=[allow(), deny(resource="qcs::batch:::job/b*", condition=OF_TEAM)],
    )
    test = AttributeTest("for_any_value:string_equal", "qcs:resource_tag", ("team&a",))
    near = ask(context={"qcs:ip": ("10.1.1.1",)})
    scope = asked.scope(near, resource_type="job", region="gz")
    assert scope.allow == ((Clause("*", (test,)),), (Clause("*"),))
    assert scope.deny == (Clause("b*", (test,)),)
    far = ask(context={"qcs:ip": ("11.1.1.1",)})
    assert asked.scope(far, resource_type="job", region="gz").is_nothing


@pytest.mark.parametrize("operator", ["ip_equal", "date_equal", "bool_equal"])
def test_a_value_that_cannot_be_compared_fails_closed_in_lists_too(operator: str) -> None:
    of_maker = {operator: {"qcs:create_uin": "${uin}"}}
    asked = point(user=[allow(condition=of_maker), deny("batch:A", condition=of_maker)])
    [[clause], *_] = asked.scope(ask(), resource_type="job", region="gz").allow
    [test] = clause.tests
    with pytest.raises(ValueError, match="uin"):
        read_test(test).holds({"qcs:create_uin": ("200",)}, {})
    assert not asked.decide(ask(attributes={JOB: {"qcs:create_uin": ("200",)}})).allowed


def test_a_shadow_boundary_is_none_and_says_what_it_would_do() -> None:
    asked = point(user=[allow()], boundary=[allow("cos:*")], shadow=("boundary",))
    explanation = asked.explain(ask())
    assert explanation.decision.reason is Reason.EXPLICIT_ALLOW
    assert explanation.shadow is not None
    assert explanation.shadow.decision.reason is Reason.BOUNDARY


def test_a_session_without_a_readable_policy_stays_shut_beside_a_shadow_policy() -> None:
    unreadable = replace(ANN, session="s", session_policy="{")
    watched = point(user=[allow()], group=[allow("cos:*")], shadow=("group",))
    assert watched.decide(ask(unreadable)).reason is Reason.SESSION_POLICY


def test_a_shadow_policy_that_changes_nothing_of_a_list_says_so() -> None:
    one = allow("batch:DescribeJobs", "qcs::batch:::job/job-1")
    asked = Query(ANN, "batch:DescribeJobs", (batch("job/*"),))
    listing = {"resource_type": "job", "region": "ap-guangzhou"}
    watched = point(user=[one], group=[deny("batch:DeleteJob")], shadow=("group",))
    explanation = watched.explain_list(asked, **listing)
    assert explanation.decision.allowed
    assert explanation.shadow is not None
    assert explanation.shadow.decision == explanation.decision
    assert explanation.shadow.determining == explanation.determining
    walled = point(user=[one], group=[deny("batch:DescribeJobs")], shadow=("group",))
    explanation = walled.explain_list(asked, **listing)
    assert explanation.decision.allowed
    assert explanation.shadow is not None
    assert explanation.shadow.decision.reason is Reason.EXPLICIT_DENY


def test_a_fix_that_sets_a_condition_aside_says_so() -> None:
    condition = {"bool_equal": {"qcs:mfa": "true"}}
    explanation = point(user=[allow(condition=condition)]).explain(ask())
    [fix] = explanation.fixes
    assert fix.caution == "sets aside what user/1 asks for: bool_equal qcs:mfa true"
    [fix] = point(user=[allow("batch:SubmitJob")]).explain(ask()).fixes
    assert fix.caution == ""


def test_a_second_name_of_what_is_done_can_deny_and_is_explained() -> None:
    topic = Resource("tdmq", "ap-guangzhou", OWNER, "topicName/t")
    asked = point(user=[allow("batch:*"), deny("tdmq:PublishCmqMsg")])
    both = ask(deny_only=(topic,), deny_only_action="tdmq:PublishCmqMsg")
    explanation = asked.explain(both)
    assert explanation.decision == asked.decide(both)
    assert explanation.decision.reason is Reason.EXPLICIT_DENY
    assert explanation.decision.resource == topic
    assert [one.statement for one in explanation.determining] == [2]


def test_taking_on_a_role_needs_its_trust_besides_and_either_name_can_be_denied() -> None:
    by_name = Resource("cam", "", OWNER, "roleName/runner")
    by_id = Resource("cam", "", OWNER, "role/900")
    trusted = {"effect": "allow", "action": "sts:AssumeRole"}
    ann = {**trusted, "principal": {"qcs": [f"qcs::cam::uin/{OWNER}:uin/{ANN.uin}"]}}
    root = {**trusted, "principal": {"qcs": [f"qcs::cam::uin/{OWNER}:uin/{OWNER}"]}}

    def asked(role: Resource, trust: Any, *more: Any) -> Explanation:
        where = point(trust=trust, user=[allow("sts:*"), *more], role=[])
        query = Query(ANN, "sts:AssumeRole", (role,))
        explanation = where.explain(query)
        assert explanation.decision == where.decide(query)
        return explanation

    for role in (by_name, by_id):
        assert asked(role, ann).decision.reason is Reason.EXPLICIT_ALLOW
        refused = asked(role, root)
        assert refused.decision.reason is Reason.IMPLICIT_DENY
        assert refused.nearest_miss is not None
        assert (refused.nearest_miss.element, refused.fixes) == ("principal", ())
        for named in (by_name, by_id):
            walled = asked(role, ann, deny("sts:AssumeRole", str(named)))
            assert walled.decision.reason is Reason.EXPLICIT_DENY
            assert walled.decision.resource == named
    unknown = Resource("cam", "", OWNER, "roleName/nobody")
    assert asked(unknown, root).decision.reason is Reason.EXPLICIT_ALLOW, "not found later"


def trusting(uin: str = "", effect: str = "allow", **more: Any) -> dict[str, Any]:
    """A statement of a trust policy, about one user or about everybody."""
    principal = {"qcs": [f"qcs::cam::uin/{OWNER}:uin/{uin}"]} if uin else "*"
    return {"effect": effect, "action": "sts:AssumeRole", "principal": principal, **more}


TAKE_ON = Query(ANN, "sts:AssumeRole", (Resource("cam", "", OWNER, "roleName/runner"),))
PROVED = {"bool_equal": {"qcs:mfa": "true"}}


@pytest.mark.parametrize("policy", [[allow("sts:*")], []])
def test_a_deny_of_a_trust_policy_is_explicit_and_is_named(policy: Any) -> None:
    asked = point(trust=[trusting(), trusting(ANN.uin, "deny")], user=policy, role=[])
    explanation = asked.explain(TAKE_ON)
    assert explanation.decision == asked.decide(TAKE_ON)
    assert explanation.decision.reason is Reason.EXPLICIT_DENY
    assert explanation.decision.resource == TAKE_ON.resources[0]
    [settled] = explanation.determining
    assert (settled.policy, settled.file) == ("trust of runner", "trust/runner.json")
    assert (settled.statement, settled.via) == (2, "role")
    assert settled.pattern == f"qcs::cam::uin/{OWNER}:uin/{ANN.uin}"
    assert (explanation.nearest_miss, explanation.fixes) == (None, ())


def test_a_deny_of_a_trust_policy_is_named_beside_those_of_policies_and_of_watched_ones() -> None:
    denied = [trusting(), trusting(effect="deny")]
    both = point(trust=denied, user=[deny("sts:*")], role=[]).explain(TAKE_ON)
    assert [one.policy for one in both.determining] == ["user", "trust of runner"]
    watched = point(trust=denied, user=[allow()], group=[allow()], role=[], shadow=("group",))
    shadow = watched.explain(TAKE_ON).shadow
    assert shadow is not None
    assert shadow.decision.reason is Reason.EXPLICIT_DENY
    assert [one.policy for one in shadow.determining] == ["trust of runner"]


@pytest.mark.parametrize(
    ("trust", "statement", "element", "wanted", "found"),
    [
        (trusting("101"), 1, "principal", "qcs::cam::uin/100:uin/101", ANN.uin),
        (trusting(condition=PROVED), 1, "condition", "bool_equal qcs:mfa true", "qcs:mfa false"),
        (
            trusting(action="sts:AssumeRoleWithSAML"),
            1,
            "action",
            "sts:AssumeRoleWithSAML",
            "sts:AssumeRole",
        ),
        (
            [trusting("101"), trusting(ANN.uin, condition=PROVED), trusting("102")],
            2,
            "condition",
            "bool_equal qcs:mfa true",
            "qcs:mfa false",
        ),
        (
            [trusting("101", condition=PROVED), trusting("102")],
            2,
            "principal",
            "qcs::cam::uin/100:uin/102",
            ANN.uin,
        ),
        (trusting("101", condition=PROVED), 1, "principal", "qcs::cam::uin/100:uin/101", ANN.uin),
        (trusting("101", effect="deny"), 0, "principal", "nobody", ANN.uin),
    ],
)
def test_what_a_trust_policy_lacks_is_the_nearest_element_of_its_nearest_statement(
    trust: Any, statement: int, element: str, wanted: str, found: str
) -> None:
    asked = point(trust=trust, user=[allow("sts:*")], role=[])
    explanation = asked.explain(structs.replace(TAKE_ON, context={"qcs:mfa": ("false",)}))
    assert explanation.decision.reason is Reason.IMPLICIT_DENY
    miss = explanation.nearest_miss
    assert miss is not None
    assert (miss.policy, miss.file) == ("trust of runner", "trust/runner.json")
    assert (miss.statement, miss.element, miss.wanted) == (statement, element, wanted)
    assert miss.found.endswith(found)


def test_what_another_account_trusts_is_told_to_nobody_here() -> None:
    here = point(trust=[trusting(), trusting(effect="deny")], user=[allow()], role=[])
    eve = Principal("200", "201", "eve")
    for who in (eve, Principal("200", "200", "root")):
        explanation = here.explain(structs.replace(TAKE_ON, principal=who))
        assert explanation.decision.reason is Reason.IMPLICIT_DENY
        assert (explanation.determining, explanation.nearest_miss) == ((), None)


def test_a_changed_document_is_seen_at_once_and_by_its_holders_alone() -> None:
    asked = point(user=[allow()], role=[allow()])
    assert (reason(asked), reason(asked, RUNNER)) == ("explicit-allow", "explicit-allow")
    walled = {f"{OWNER}/user": document("user", [deny()])}
    asked.swap(asked.snapshot.with_documents(walled, generation=2))
    assert asked.decide(ask()).generation == 2
    assert (reason(asked), reason(asked, RUNNER)) == ("explicit-deny", "explicit-allow")


def test_invented_regions_do_not_make_a_plan_grow() -> None:
    asked = point(user=[allow(resource="qcs::batch:gz::job/*")])
    for number in range(1_000):
        assert not asked.decide(ask(ANN, batch("job/a", region=f"x-{number}"))).allowed
    assert asked.decide(ask()).allowed


def test_what_is_asked_again_is_explained_from_memory_unless_it_may_differ() -> None:
    plain = point(user=[allow()])
    assert plain.explain(ask()) is plain.explain(ask(context={"qcs:ip": ("10.0.0.1",)}))
    assert plain.explain(ask(replace(ANN, name="Ann"))) is not plain.explain(ask())
    guarded = point(
        user=[allow("batch:*")],
        group=[allow("batch:SubmitJob", condition={"ip_equal": {"qcs:ip": "10.0.0.1"}})],
    )
    assert guarded.explain(ask()) is not guarded.explain(ask())
    watched = point(
        user=[allow()],
        group=[deny(condition={"bool_equal": {"qcs:mfa": "true"}})],
        shadow=("group",),
    )
    verdicts = []
    for mfa in ("true", "false"):
        shadow = watched.explain(ask(context={"qcs:mfa": (mfa,)})).shadow
        assert shadow is not None
        verdicts.append(shadow.decision.reason)
    assert verdicts == [Reason.EXPLICIT_DENY, Reason.EXPLICIT_ALLOW]


def test_what_is_remembered_of_an_account_id_is_not_told_of_another() -> None:
    mine = point(user=[allow(resource="qcs::batch:ap-guangzhou:uin/100:job/${app_id}-*")])
    job = batch("job/7-a")
    for app_id, effect in [("7", "allow"), ("8", "deny"), ("7", "allow")]:
        asked = ask(ANN, job, context={"qcs:app_id": (app_id,)})
        assert mine.explain(asked).decision.effect.value == effect


def test_what_is_remembered_is_forgotten_with_the_policies() -> None:
    asked = point(user=[allow()])
    assert asked.explain(ask()).decision.allowed
    asked.swap(point(user=[deny()]).snapshot)
    assert asked.explain(ask()).decision.reason is Reason.EXPLICIT_DENY
