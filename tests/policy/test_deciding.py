"""What is decided, case by case; the numbers of the vendor's edge cases are in the spec."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from msgspec import structs

from gateway.call import Clause, Effect, Reason, Resource, Scope
from gateway.policy.accounts import Account, CustomPolicy, Group, User, parse_accounts
from gateway.policy.enforcer import CasbinEvaluator
from gateway.policy.refusal import PolicySetRefused
from gateway.policy.snapshot import build_snapshot
from tests.policy.policies import (
    FOLDER,
    MODEL,
    OWNER,
    ROOT,
    UIN,
    allow,
    batch,
    deny,
    document,
    point_of,
    query,
    snapshot_of,
)

pytestmark = pytest.mark.usefixtures("each_evaluator")

JOB = batch("job/job-1")


def allows(statements: list[Any], path: str = "job/job-1", **more: Any) -> bool:
    context = more.pop("context", None)
    asked = query("batch:DescribeJob", batch(path, **more), context=context)
    return point_of(statements).decide(asked).allowed


def test_a_deny_on_one_environment_outweighs_the_wildcard_allow() -> None:
    wall = deny("name/batch:*", "qcs::batch:gz:uin/100:computeenv/env-x")
    point = point_of([allow("batch:*"), wall])
    describe = "batch:DescribeComputeEnv"
    denied = point.decide(query(describe, batch("computeenv/env-x")))
    assert (denied.effect, denied.reason) == (Effect.DENY, Reason.EXPLICIT_DENY)
    assert str(denied.resource) == "qcs::batch:ap-guangzhou:uin/100:computeenv/env-x"
    assert point.decide(query(describe, batch("computeenv/env-y"))).allowed
    assert point.decide(query("batch:SubmitJob", batch("job/*"))).allowed


@pytest.mark.parametrize(
    ("resource", "allowed"),
    [
        ("*", True),
        ("qcs::batch:gz::*", True),
        ("qcs::batch:bj::*", False),
        ("qcs::batch:gz:uin/100:job/*", False),
        ("qcs::batch:gz::*/*", False),
        ("qcs::batch:gz::*b*", False),
    ],
)
def test_an_action_without_resource_level_needs_the_resource_star(
    resource: str, allowed: bool
) -> None:
    point = point_of([allow("batch:Describe*", resource)])
    assert point.decide(query("batch:DescribeJobMonitorData", batch("*"))).allowed is allowed


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        ("qcs::batch:ap-guangzhou:uin/100:job/job-1", True),
        ("qcs::batch:ap-beijing:uin/100:job/job-1", False),
        ("qcs::batch:gz:uin/100:job/job-1", True),
        ("qcs::batch:ap-*:uin/100:job/job-1", True),
        ("qcs::batch:g*:uin/100:job/job-1", False),
        ("qcs::batch::uin/100:job/job-1", True),
        ("qcs::batch:*:uin/100:job/job-1", True),
        ("qcs::batch:gz::job/job-1", True),
        ("qcs::batch:gz:uin/-1:job/job-1", True),
        ("qcs::batch:gz:*:job/job-1", True),
        ("qcs::batch:gz:uin/1001:job/job-1", False),
        ("qcs::batch:gz:uin/10:job/job-1", False),
        ("qcs:::gz::job/job-1", True),
        ("qcs::cvm:gz::job/job-1", False),
        ("qcs:id/0:batch:gz::job/job-1", True),
        ("qcs:*:batch:gz::job/job-1", True),
        ("qcs:id/*:batch:gz::job/job-1", True),
        ("qcs:id/5:batch:gz::job/job-1", False),
        ("qcs::batch:gz::*", True),
        ("qcs::batch:gz::job/*", True),
        ("qcs::batch:gz::job/job-1/*", True),
        ("qcs::batch:gz::job/*/*", True),
        ("qcs::batch:gz::job/job-2/*", False),
        ("qcs::batch:gz::job", False),
        ("qcs::batch:gz::job/job-1\n", False),
        ("qcs::batch:gz::job/job.1", False),
        ("qcs::batch:gz::JOB/job-1", False),
    ],
)
def test_each_segment_is_matched_on_its_own(pattern: str, allowed: bool) -> None:
    assert allows([allow("batch:*", pattern)]) is allowed


def test_a_star_spans_slashes_in_the_last_segment_only() -> None:
    assert allows([allow("*", "qcs::batch:gz::job/*")], "job/a/b/c")
    assert not allows([allow("*", "qcs::ba*:bj::*")])


def test_the_trailing_star_reaches_the_object_itself_for_types_of_batch_only() -> None:
    assert allows([allow("*", "qcs::batch:gz::tasktemplate/t/*")], "tasktemplate/t")
    assert not allows([allow("*", "qcs::batch:gz::folder/t/*")], "folder/t")


def test_a_newline_in_an_id_does_not_skip_a_deny() -> None:
    assert not allows([allow(), deny("*", "qcs::batch:gz::job/secret*")], "job/secret\nx")


def test_one_job_alone_does_not_allow_the_whole_type() -> None:
    statements = [allow("*", "qcs::batch:gz::job/job-1")]
    assert not allows(statements, "job/*")
    assert allows(statements, "job/job-1")


def test_the_caller_stands_for_the_variable() -> None:
    assert allows([allow("*", "qcs::batch:gz::job/${uin}-*")], f"job/{UIN}-a")
    assert not allows([allow("*", "qcs::batch:gz::job/${uin}-*")], f"job/{OWNER}-a")
    assert allows([allow("*", "qcs::batch:gz::job/${owner_uin}/*")], f"job/{OWNER}")


def test_an_unknown_variable_widens_a_deny_and_voids_an_allow() -> None:
    pattern = "qcs::batch:gz::job/${app_id}-*"
    assert not allows([allow("*", pattern)], "job/7-a")
    assert allows([allow("*", pattern)], "job/7-a", context={"qcs:app_id": ("7",)})
    assert not allows([allow(), deny("*", pattern)], "job/8-a")
    assert allows([allow(), deny("*", pattern)], "job/8-a", context={"qcs:app_id": ("7",)})


@pytest.mark.parametrize("action", ["batch:describejob", "name/batch:DescribeJob", "batch:D*b"])
def test_a_deny_holds_however_its_action_is_written(action: str) -> None:
    assert not allows([allow(), deny(action)])


def test_several_resources_are_allowed_together_or_not_at_all() -> None:
    point = point_of([allow("*", "qcs::batch:gz::job/job-1")])
    decision = point.decide(query("batch:RetryJobs", JOB, batch("job/job-2")))
    assert not decision.allowed
    assert str(decision.resource).endswith("job/job-2")


def test_a_resource_asked_for_a_deny_only_needs_no_allow() -> None:
    env = batch("computeenv/env-x")
    asked = query("batch:SubmitJob", batch("job/*"), deny_only=(env,))
    submit = allow("batch:SubmitJob", "qcs::batch:gz::job/*")
    assert point_of([submit]).decide(asked).allowed
    denied = point_of([submit], [deny("*", "qcs::batch:gz::computeenv/*")]).decide(asked)
    assert (denied.reason, denied.resource) == (Reason.EXPLICIT_DENY, env)


def test_a_query_without_resources_is_denied() -> None:
    assert not point_of([allow()]).decide(query("batch:DescribeJobs")).allowed


def test_a_deny_wins_whether_the_user_or_the_group_has_it() -> None:
    asked = query("batch:DescribeJob", JOB)
    assert point_of([allow()], [deny()]).decide(asked).reason is Reason.EXPLICIT_DENY
    assert point_of([deny()], [allow()]).decide(asked).reason is Reason.EXPLICIT_DENY
    assert point_of([], [allow()]).decide(asked).reason is Reason.EXPLICIT_ALLOW
    assert point_of([], []).decide(asked).reason is Reason.IMPLICIT_DENY


def test_the_root_account_is_allowed_on_what_it_owns() -> None:
    point = point_of([deny()])
    assert point.decide(query("batch:DeleteJob", JOB, principal=ROOT)).reason is Reason.ROOT
    theirs = batch("job/job-1", owner="999")
    assert not point.decide(query("batch:DeleteJob", JOB, theirs, principal=ROOT)).allowed


def test_another_accounts_resource_never_matches() -> None:
    assert not allows([allow(), allow("*", "qcs::batch::uin/999:*")], owner="999")


@pytest.mark.parametrize(
    ("operator", "key", "values", "given", "holds"),
    [
        ("ip_equal", "qcs:ip", "10.217.182.3/24", ("10.217.182.200",), True),
        ("ip_equal", "qcs:ip", "10.217.182.3/24", ("::ffff:10.217.182.200",), True),
        ("ip_not_equal", "qcs:ip", ["10.0.0.0/8", "11.0.0.0/8"], ("11.1.1.1",), False),
        ("ip_not_equal", "qcs:ip", ["10.0.0.0/8", "11.0.0.0/8"], ("12.1.1.1",), True),
        ("string_equal", "vpc:region", "sh", (), False),
        ("string_equal_if_exist", "vpc:region", "sh", (), True),
        ("string_equal_if_exist", "vpc:region", "sh", ("gz",), False),
        ("string_not_equal", "k", "a", (), False),
        ("string_not_equal", "k", ["a", "b"], ("b",), False),
        ("string_equal", "k", "A", ("a",), False),
        ("string_equal_ignore_case", "k", "A", ("a",), True),
        ("string_not_equal_ignore_case", "k", "A", ("a",), False),
        ("string_like", "k", "*b", ("a\nb",), True),
        ("string_not_like", "k", "a*", ("ab",), False),
        ("binary_equal", "k", "QQ==", ("QQ==",), True),
        ("bool_equal", "mfa", "true", ("true",), True),
        ("null_equal", "k", "true", (), True),
        ("null_equal", "k", "true", ("",), True),
        ("null_equal", "k", "true", ("a",), False),
        ("null_equal", "k", "false", ("a",), True),
        ("numeric_equal", "k", 1, ("1.0",), True),
        ("numeric_not_equal", "k", [1, 2], ("2",), False),
        ("numeric_greater_than", "k", 1, ("2",), True),
        ("numeric_greater_than_equal", "k", 2, ("2",), True),
        ("numeric_less_than", "k", 10, ("9",), True),
        ("numeric_less_than_equal", "k", 9, ("9.1",), False),
        ("date_equal", "k", "2016-06-01T00:00:00Z", ("2016-06-01 00:00:00",), True),
        ("date_not_equal", "k", "2016-06-01T00:00:00Z", ("2016-06-01T00:00:00Z",), False),
        ("date_greater_than", "k", "2016-06-01T00:01:00Z", ("2016-06-01T00:01:01Z",), True),
        ("date_greater_than_equal", "k", "2016-06-01T00:01:00Z", ("2016-06-01T00:00:59Z",), False),
        ("date_less_than", "k", "2016-06-01T00:01:00Z", ("2016-06-01T00:00:59Z",), True),
        ("date_less_than_equal", "k", "2016-06-01T00:01:00Z", ("2016-06-01T00:01:00Z",), True),
        ("for_any_value:string_equal", "qcs:resource_tag", "k&v", ("x&y", "k&v"), True),
        ("for_any_value:string_not_equal", "k", "a", ("a", "b"), True),
        ("for_all_value:string_equal", "k", ["a", "b"], ("a", "b"), True),
        ("for_all_value:string_equal", "k", ["a"], ("a", "b"), False),
        ("for_all_value:string_equal", "k", ["a"], (), False),
        ("string_equal", "qcs:uin", "${uin}", (UIN,), True),
    ],
)
def test_a_condition_decides_an_allow_and_a_deny_alike(
    operator: str, key: str, values: Any, given: tuple[str, ...], holds: bool
) -> None:
    condition = {operator: {key: values}}
    context = {key: given} if given else {}
    assert allows([allow(condition=condition)], context=context) is holds
    assert allows([allow(), deny(condition=condition)], context=context) is not holds


@pytest.mark.parametrize(
    "condition",
    [
        {"ip_equal": {"qcs:ip": "10.0.0.0/8"}},
        {"numeric_less_than": {"qcs:ip": 5}},
        {"string_equal": {"k": "never"}, "date_less_than": {"qcs:ip": "2016-06-01T00:00:00Z"}},
        {"string_equal": {"qcs:ip": "${app_id}"}},
    ],
)
def test_when_judging_errs_a_deny_applies_and_an_allow_does_not(condition: Any) -> None:
    context = {"qcs:ip": ("nowhere",), "k": ("other",)}
    assert not allows([allow(condition=condition)], context=context)
    assert not allows([allow(), deny(condition=condition)], context=context)


def test_a_shadow_policy_changes_no_answer_and_says_what_it_would_decide() -> None:
    point = point_of([allow()], shadow=[deny("*", "qcs::batch:gz::job/job-1")])
    explanation = point.explain(query("batch:DescribeJob", JOB))
    assert explanation.decision.allowed
    assert explanation.shadow is not None
    assert explanation.shadow.decision.reason is Reason.EXPLICIT_DENY
    assert [one.policy for one in explanation.shadow.determining] == ["shadow"]
    assert not point_of(shadow=[allow()]).decide(query("batch:DescribeJob", JOB)).allowed
    listing = point.scope(query("batch:DescribeJobs"), resource_type="job", region="gz")
    assert listing.is_everything


@pytest.mark.parametrize(
    ("statement", "element"),
    [
        (allow("batch:DescribeJob", "qcs::batch:bj::job/job-1"), "region"),
        (allow("batch:DescribeJob", "qcs::batch:gz::job/job-2"), "resource"),
        (allow("batch:DescribeJob", "qcs::batch:gz:uin/7:job/job-1"), "account"),
        (allow("batch:DescribeJob", "qcs::cvm:gz::job/job-1"), "service_type"),
        (allow("batch:DeleteJob", "qcs::batch:gz::job/job-1"), "action"),
        (allow(condition={"ip_equal": {"qcs:ip": "10.0.0.1"}}), "condition"),
        (allow("batch:DeleteJob", "qcs::batch:bj::job/job-1"), None),
        (allow("batch:DescribeJob", "qcs::batch:bj::job/job-2"), None),
        (deny("batch:DeleteJob"), None),
    ],
)
def test_the_nearest_miss_names_the_one_element_that_differed(
    statement: Any, element: str | None
) -> None:
    explanation = point_of([statement]).explain(query("batch:DescribeJob", JOB))
    assert explanation.decision.reason is Reason.IMPLICIT_DENY
    miss = explanation.nearest_miss
    assert (miss.element if miss else None) == element


def test_a_list_is_narrowed_to_what_is_allowed_and_not_denied() -> None:
    point = point_of(
        [allow("batch:Describe*", ["qcs::batch:gz::job/job-a*", "qcs::batch:bj::job/*"])],
        [deny("*", "qcs::batch:gz::job/job-ab/*"), deny("batch:DeleteJob")],
    )
    scope = point.scope(query("batch:DescribeJobs"), resource_type="job", region="ap-guangzhou")
    assert scope == Scope(((Clause("job-a*"),),), (Clause("job-ab"), Clause("job-ab/*")))
    root = query("batch:DescribeJobs", principal=ROOT)
    assert point.scope(root, resource_type="job", region="gz").is_everything
    other = point.scope(query("batch:DescribeJobs"), resource_type="computeenv", region="gz")
    assert other.is_nothing


def test_a_swapped_snapshot_decides_at_once_under_its_own_number() -> None:
    point = point_of([allow()])
    asked = query("batch:DescribeJob", JOB)
    assert point.decide(asked).allowed
    point.swap(snapshot_of([deny()], generation=2))
    assert (point.decide(asked).allowed, point.decide(asked).generation) == (False, 2)
    assert point.snapshot.generation == 2


def test_threads_do_not_mix_up_each_others_candidates() -> None:
    point = point_of([allow("batch:A"), deny("batch:B"), allow("batch:C", "qcs::x:::y")])
    expected = {"batch:A": "explicit-allow", "batch:B": "explicit-deny", "batch:C": "implicit-deny"}
    with ThreadPoolExecutor(4) as pool:
        asked = [query(action, JOB) for action in expected] * 300
        reasons = [decision.reason.value for decision in pool.map(point.decide, asked)]
    assert reasons == list(expected.values()) * 300


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (" && !some(where (p.eft == deny))", ""),
        ("g(r.sub, p.sub) && applies(p.statement, r.query, r.resource)", "g(r.sub, p.sub)"),
        ("r = sub, query, resource", "r = sub, query"),
        ("[matchers]", "[matcher]"),
        ("g = _, _", ""),
        ("e = some", "x = some"),
        ("m = g", "m = 1 +* g"),
        (MODEL, ""),
    ],
)
def test_a_model_under_which_a_deny_could_lose_is_refused(old: str, new: str) -> None:
    assert old in MODEL
    with pytest.raises(PolicySetRefused):
        CasbinEvaluator(MODEL.replace(old, new))


@pytest.mark.parametrize(
    ("account", "why"),
    [
        (Account("1", users=(User("a", "2"), User("b", "2"))), "the uin `2` is given twice"),
        (Account("1", users=(User("a", "1"),)), "the uin `1` is given twice"),
        (Account("1", users=(User("a", "2"), User("a", "3"))), "user `a` is declared twice"),
        (Account("1", groups=(Group("g"), Group("g"))), "group `g` is declared twice"),
        (Account("1", users=(User("a", "2", groups=("g",)),)), "group `g` does not exist"),
        (Account("1", users=(User("a", "2", policies=("p",)),)), "`p`, which does not exist"),
        (Account("1", groups=(Group("g", ("p",)),)), "`p`, which does not exist"),
        (Account("1", policies=(CustomPolicy("preset"),)), "has the name of a preset"),
        (Account("1", policies=(CustomPolicy("p"),)), "has no document"),
        (Account("1", policies=(CustomPolicy("p"), CustomPolicy("p"))), "declared twice"),
    ],
)
def test_accounts_that_contradict_themselves_are_refused(account: Account, why: str) -> None:
    presets = {"preset": document("preset", [allow()])}
    with pytest.raises(PolicySetRefused, match=why):
        build_snapshot([account], presets=presets, custom={}, generation=1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[[account]]", "[[acount]]"),
        ('uin = "100000000001"', "uin = 100000000001"),
        ('uin = "100000000001"', 'uin = "1*"'),
        ('mode = "enforce"', 'mode = "off"'),
        ('"examples/read-jobs.json"', '"../read-jobs.json"'),
        ('"examples/read-jobs.json"', '"/read-jobs.json"'),
        ('name = "alice"', 'name = "al ice"'),
        ('name = "alice"', 'nickname = "alice"'),
        ('groups = ["operators"]', "groups = [1]"),
        ('name = "bob"', 'name = "bob"\nkey = "x"'),
        ('name = "bob"', 'name = "bob"\nname = "bob"'),
    ],
)
def test_an_accounts_file_with_a_mistake_is_refused(old: str, new: str) -> None:
    text = (FOLDER / "accounts.toml").read_text(encoding="utf-8")
    assert old in text
    assert parse_accounts(text)
    with pytest.raises(PolicySetRefused):
        parse_accounts(text.replace(old, new))


def test_documents_in_the_folder_are_plain_json() -> None:
    for path in FOLDER.glob("*/*.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["version"] == "2.0"


@pytest.mark.parametrize(
    ("written", "address", "inside"),
    [
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.0/104", "10.9.9.9", True),
        ("::ffff:10.0.0.0/104", "11.0.0.1", False),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("::/0", "10.0.0.1", False),
        ("::/0", "2001:db8::1", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("10.121.2.10/24", "10.121.2.77", True),
        ("2001:db8::/32", "2001:db8:1::", True),
    ],
)
def test_an_ipv4_address_is_the_same_however_it_is_written(
    written: str, address: str, inside: bool
) -> None:
    condition = {"ip_equal": {"qcs:ip": written}}
    assert allows([allow(condition=condition)], context={"qcs:ip": (address,)}) is inside


def test_an_explanation_of_many_resources_by_many_patterns_stays_short() -> None:
    paths = [f"job/{number}" for number in range(340)]  # each is settled by its own pattern
    patterns = [f"qcs::batch:::{path}" for path in paths]
    point = point_of([allow("*", patterns[:170])], [allow("*", patterns[170:])])
    explanation = point.explain(query("batch:DescribeJobs", *map(batch, paths)))
    assert explanation.decision.allowed
    assert 0 < len(explanation.determining) < len(paths)


def test_no_fix_is_offered_if_what_the_call_does_besides_is_denied() -> None:
    topic = Resource("tdmq", "ap-guangzhou", OWNER, "topicName/t")
    point = point_of([deny("tdmq:PublishCmqMsg")])
    asked = structs.replace(
        query("batch:SubmitJob", batch("job/*"), deny_only=(topic,)),
        deny_only_action="tdmq:PublishCmqMsg",
    )
    explanation = point.explain(asked)
    assert (explanation.decision.reason, explanation.fixes) == (Reason.IMPLICIT_DENY, ())


def test_a_fix_never_means_more_than_the_call() -> None:
    point = point_of([])
    assert point.explain(query("batch:DeleteJob", batch("job/a*b"))).fixes == ()
    [fix] = point.explain(query("batch:SubmitJob", batch("job/*"))).fixes
    assert fix.resources == ("qcs::batch:ap-guangzhou:uin/100:job/*",)
