import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.call import Resource
from gateway.commands.vocabulary import vocabulary
from gateway.errors import ApiError
from gateway.policy.condition import Context, read_conditions
from gateway.policy.document import Statement, parse
from gateway.policy.lines import declared_line, json_lines
from gateway.policy.lint import RULES, Finding, Rule, Severity, lint
from gateway.policy.lint.containment import statement_inside
from gateway.policy.lint.contradiction import impossible_key
from gateway.policy.match import applies
from tests.policy.policies import ANN, FOLDER, OWNER, UIN, allow, deny, query

WORDS = vocabulary()
ACCOUNTS = """\
[[account]]
uin = "100"

[[account.policy]]
name = "p"
file = "p.json"

[[account.user]]
name = "ann"
uin = "200"
policies = ["p"]
"""
FOLDER_FILES = {
    path.relative_to(FOLDER).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(FOLDER.rglob("*"))
    if path.suffix in {".json", ".toml"}
}


def text_of(*statements: Any) -> str:
    return json.dumps({"version": "2.0", "statement": list(statements)}, indent=2)


def findings(*statements: Any, **files: str) -> list[Finding]:
    return lint({"accounts.toml": ACCOUNTS, "p.json": text_of(*statements), **files}, WORDS)


def ids(found: Sequence[Finding]) -> list[str]:
    return [one.id for one in found]


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_a_rule_finds_its_bad_example_and_leaves_the_good_one_alone(rule: Rule) -> None:
    found = lint(rule.bad.folder(), WORDS, has_limits=True)
    assert {one.id for one in found} == {rule.id}
    assert {one.severity for one in found} == {rule.severity}
    assert {one.file for one in found} <= {rule.bad.file, "accounts.toml"}
    assert lint(rule.good.folder(), WORDS, has_limits=True) == []


def test_a_quota_counts_only_where_it_is_set_and_stands_where_its_holder_is_declared() -> None:
    files = RULES["over-quota"].bad.folder()
    assert lint(files, WORDS) == []
    [found] = lint(files, WORDS, has_limits=True)
    assert files["accounts.toml"].splitlines()[found.line - 1] == 'name = "ann"'
    assert "11 groups of user `ann`" in found.message


def test_our_own_policies_have_neither_errors_nor_warnings() -> None:
    found = [one for one in lint(FOLDER_FILES, WORDS) if one.severity is not Severity.NOTE]
    assert found == []


def test_a_finding_stands_where_its_value_stands() -> None:
    [found] = findings(allow("batch:Describe*"), deny(["batch:SubmitJob", "batch:SubmitJbo"]))
    assert (found.id, found.file, found.statement) == ("unknown-action", "p.json", 2)
    line = text_of(allow("batch:Describe*"), deny(["batch:SubmitJob", "batch:SubmitJbo"]))
    assert "SubmitJbo" in line.splitlines()[found.line - 1]
    assert found.hint == "did you mean `batch:SubmitJob`?"


def test_every_refusal_is_told_with_its_public_code_and_its_line() -> None:
    bad = allow(["batch:A B", "batch:*", "x"], ["*", "qcs::batch:gz:uin/${uin}:job/*"])
    worse = {"effect": "maybe", "resource": "*", "condition": {"string_equals": {"k": "v"}}}
    found = findings(bad, allow("batch:Describe*"), worse)
    assert set(ids(found)) == {"refused"}
    told = {(one.statement, one.message.rpartition("InvalidParameter.")[2]) for one in found}
    assert told == {
        (1, "ActionError)"),
        (1, "ResourceUinError)"),
        (3, "EffectError)"),
        (3, "ConditionTypeError)"),
    }
    lines = text_of(bad, allow("batch:Describe*"), worse).splitlines()
    assert [lines[one.line - 1].strip(" ,") for one in found][:3] == [
        '"batch:A B"',
        '"x"',
        '"qcs::batch:gz:uin/${uin}:job/*"',
    ]


@pytest.mark.parametrize(
    ("text", "line", "code"),
    [
        ('{\n "version": "2.0",\n oops }', 3, "PolicyDocumentError"),
        ('{\n "statement": [],\n "version": "1.0"}', 3, "VersionError"),
        ('{"version": "2.0",\n "statement": []}', 2, "StatementError"),
        ("[]", 1, "PolicyDocumentError"),
        ('{"version": "2.0", "statement": []}\n}', 2, "PolicyDocumentError"),
        ("{1: 2}", 1, "PolicyDocumentError"),
        ('{"version": "2.0", "statement": NaN}', 1, "PolicyDocumentError"),
        ("", 1, "PolicyDocumentError"),
        ("[" * 3000, 1, "PolicyDocumentError"),
        (text_of(allow("batch:A", "qcs::a:::" + "x" * 7000)), 1, "PolicyDocumentLengthOverLimit"),
    ],
)
def test_a_document_that_is_wrong_as_a_whole_is_told_once(text: str, line: int, code: str) -> None:
    [found] = lint({"accounts.toml": ACCOUNTS, "p.json": text}, WORDS)
    assert (found.id, found.line, found.statement) == ("refused", line, 0)
    assert f"(InvalidParameter.{code})" in found.message


def test_a_file_that_is_refused_does_not_hide_the_others() -> None:
    files = {"accounts.toml": "[[account]]", "p.json": text_of(allow("batch:No")), "q.json": "{"}
    found = lint(files, WORDS)
    assert {(one.file, one.id) for one in found if one.severity is Severity.ERROR} == {
        ("accounts.toml", "refused"),
        ("p.json", "unknown-action"),
        ("q.json", "refused"),
    }


@pytest.mark.parametrize(
    "accounts",
    [
        ACCOUNTS.replace('policies = ["p"]', 'policies = ["q"]'),
        ACCOUNTS.replace('uin = "200"', 'uin = "100"'),
        ACCOUNTS.replace("p.json", "absent.json"),
        ACCOUNTS + 'groups = ["absent"]\n',
        "",
    ],
)
def test_what_accounts_name_and_nobody_declares_is_told(accounts: str) -> None:
    found = lint({"accounts.toml": accounts, "p.json": text_of(allow("batch:Describe*"))}, WORDS)
    assert "refused" in [one.id for one in found if one.file == "accounts.toml"]


def test_a_boundary_may_be_wide() -> None:
    accounts = ACCOUNTS.replace('policies = ["p"]', 'boundary = "p"\neveryone = []')
    accounts = accounts.replace("everyone = []\n", "")
    found = lint({"accounts.toml": accounts, "p.json": text_of(allow("batch:*"))}, WORDS)
    assert ids(found) == ["user-without-policy"]


def test_a_deny_may_name_what_is_only_looked_at_for_denies() -> None:
    on_topic = "qcs::tdmq:::topic/x"
    assert ids(findings(deny("tdmq:CreateCmqTopic", on_topic))) == []
    assert ids(findings(allow("tdmq:CreateCmqTopic", on_topic))) == ["needs-every-resource"]


def test_an_action_that_makes_something_is_not_decided_on_one_of_its_kind() -> None:
    [found] = findings(allow("batch:SubmitJob", "qcs::batch:::job/job-1"))
    assert found.id == "resource-without-action"
    assert found.hint == "`batch:SubmitJob` is decided on `job/*`"


def test_nothing_is_said_of_services_that_are_not_known() -> None:
    assert (
        findings(allow(["cvm:Foo", "cos:*"], ["qcs::cvm:::instance/*", "qcs::cos:gz::a/b"])) == []
    )


WORDS_OF_POLICIES = st.sampled_from(
    [
        *("version", "2.0", "statement", "effect", "allow", "deny", "action", "resource", "*"),
        *("condition", "string_equal", "null_equal", "qcs:uin", "batch:DescribeJob", "batch:**"),
        *("qcs::batch:gz::job/*", "qcs:::::", "name/:", ":", "${uin}", "principal", "\ud800"),
    ]
)
PIECES = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS_OF_POLICIES | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(WORDS_OF_POLICIES, inner, max_size=4)
    ),
    max_leaves=15,
)
STATEMENT = st.fixed_dictionaries(
    {"effect": PIECES, "action": PIECES, "resource": PIECES}, optional={"condition": PIECES}
)


@settings(max_examples=120)
@given(PIECES | st.lists(STATEMENT | PIECES, min_size=1, max_size=3), st.text(max_size=20))
def test_something_is_said_of_every_text_that_is_refused(written: Any, accounts: str) -> None:
    texts = [json.dumps(written), json.dumps({"version": "2.0", "statement": written})]
    for text in texts:
        found = lint({"accounts.toml": ACCOUNTS, "p.json": text}, WORDS)
        refused = [one for one in found if one.id == "refused"]
        assert bool(refused) is (not accepted(text))
        assert all(1 <= one.line <= len(text.splitlines()) for one in refused)
    assert lint({"accounts.toml": accounts, "p.json": texts[0]}, WORDS)


def accepted(text: str) -> bool:
    try:
        parse(text, name="p")
    except ApiError:
        return False
    return True


def test_lines_are_those_of_the_text() -> None:
    text = '{"a":\n[1,\n {"b": "x\\n{",\n\n"c": [] }]\n, "d": {}}'
    assert json_lines(text) == {
        (): 1,
        ("a",): 2,
        ("a", 0): 2,
        ("a", 1): 3,
        ("a", 1, "b"): 3,
        ("a", 1, "c"): 5,
        ("d",): 6,
    }
    for broken in ("{", '{"a" 1}', "[1 2]", "{} x", "{1: 2}", "[1,]", '{"a": 1,}', "\ufeff{}"):
        assert json_lines(broken) == {}


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=12,
    ),
    st.sampled_from([None, 1, 3]),
)
def test_every_value_of_a_json_text_has_a_line(value: Any, indent: int | None) -> None:
    def paths(one: Any, path: tuple[str | int, ...]) -> set[tuple[str | int, ...]]:
        inner: Any = ()
        if isinstance(one, dict | list):
            inner = one.items() if isinstance(one, dict) else enumerate(one)
        return {path}.union(*(paths(member, (*path, key)) for key, member in inner))

    lines = json_lines(json.dumps(value, indent=indent))
    assert set(lines) == paths(value, ())


def test_a_declaration_is_found_by_its_account() -> None:
    text = ACCOUNTS + ACCOUNTS.replace("100", "101").replace("200", "201")
    half = len(ACCOUNTS.splitlines())
    assert declared_line(text, "user", name="ann", owner_uin="100") == 9
    assert declared_line(text, "user", name="ann", owner_uin="101") == 9 + half
    assert declared_line(text, "group", name="ann", owner_uin="100") == 1


CONTRADICTIONS: list[dict[str, dict[str, Any]]] = [
    {"string_equal": {"qcs:uin": ["1", "2"]}, "string_like": {"qcs:uin": "3*"}},
    {"string_equal": {"qcs:uin": "1"}, "string_not_equal": {"qcs:uin": ["1", "2"]}},
    {"null_equal": {"qcs:vpc": "true"}, "string_equal": {"qcs:vpc": "a"}},
    {"null_equal": {"qcs:resource_tag": "true"}, "string_like": {"qcs:resource_tag": "a&*"}},
    {
        "date_greater_than": {"qcs:current_time": "2026-01-01T00:00:00Z"},
        "date_less_than": {"qcs:current_time": "2026-01-01T00:00:01Z"},
    },
    {"ip_equal": {"qcs:ip": "10.1.0.0/16"}, "ip_not_equal": {"qcs:ip": "10.0.0.0/8"}},
    {"numeric_less_than": {"mfa": 1}, "numeric_greater_than_equal": {"mfa": ["1", "2"]}},
    {"for_any_value:bool_equal": {"qcs:mfa": "true"}, "bool_equal": {"qcs:mfa": "false"}},
]
POSSIBLE: list[dict[str, dict[str, Any]]] = [
    {"string_equal": {"qcs:uin": ["1", "3"]}, "string_like": {"qcs:uin": "3*"}},
    {"string_equal_if_exist": {"qcs:vpc": "a"}, "string_not_equal_if_exist": {"qcs:vpc": "a"}},
    {"null_equal": {"qcs:vpc": "true"}, "string_equal_if_exist": {"qcs:vpc": "a"}},
    {"string_equal": {"qcs:resource_tag": "a&b"}, "string_like": {"qcs:resource_tag": "c&*"}},
    {
        "date_greater_than": {"qcs:current_time": "2026-01-01T00:00:00Z"},
        "date_less_than": {"qcs:current_time": "2026-01-01T00:00:02Z"},
    },
    {"ip_equal": {"qcs:ip": "10.0.0.0/8"}, "ip_not_equal": {"qcs:ip": "10.1.0.0/16"}},
    {"string_equal": {"qcs:uin": "${uin}"}, "string_like": {"qcs:uin": "3*"}},
    {
        "numeric_equal": {"mfa": "0.1234567890123456789012345678901"[:30]},
        "numeric_less_than": {"mfa": 1},
    },
]


@pytest.mark.parametrize("condition", CONTRADICTIONS, ids=str)
def test_conditions_that_exclude_each_other_are_found(condition: dict[str, Any]) -> None:
    assert impossible_key(read_conditions(condition)) is not None


@pytest.mark.parametrize("condition", POSSIBLE, ids=str)
def test_conditions_that_some_call_meets_are_no_contradiction(condition: dict[str, Any]) -> None:
    assert impossible_key(read_conditions(condition)) is None


NUMBERS = st.sampled_from(["0", "1", "1.5", "2", "-1"])
IPS = st.sampled_from(["10.0.0.0/8", "10.0.0.1", "10.0.0.0/31", "::/0", "0.0.0.0/0", "10.0.0.9/24"])
DATES = st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", "2026-01-01 00:00:03"])
TEXTS = st.sampled_from(["a", "b", "a*", "*", ""])
BY_FAMILY = {
    "numeric": (NUMBERS, ["equal", "not_equal", "less_than", "greater_than_equal"]),
    "ip": (IPS, ["equal", "not_equal"]),
    "date": (DATES, ["equal", "not_equal", "less_than_equal", "greater_than"]),
    "string": (TEXTS, ["equal", "not_equal", "like", "equal_ignore_case"]),
}
CONDITIONS = st.sets(
    st.sampled_from(
        [f"{family}_{name}" for family, (_, names) in BY_FAMILY.items() for name in names]
    ).flatmap(lambda name: st.sampled_from([name, f"{name}_if_exist"]))
    | st.just("null_equal"),
    min_size=1,
    max_size=4,
)
CONTEXT_VALUES = [
    *("0", "1", "1.2", "1.5", "1.7", "2", "3", "-1", "-5", "a", "b", "A", "ab", "c"),
    *("10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.1.0", "11.0.0.0", "::1", "2026-01-01T00:00:00Z"),
    *("2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z", "2026-01-01T00:00:04Z", ""),
]


@settings(max_examples=120)
@given(st.data(), CONDITIONS)
def test_no_call_meets_what_is_said_to_be_impossible(data: st.DataObject, names: set[str]) -> None:
    written: dict[str, Any] = {}
    for name in names:
        values = BY_FAMILY.get(name.partition("_")[0], (st.sampled_from(["true", "false"]),))[0]
        written[name] = {"qcs:vpc": data.draw(st.lists(values, min_size=1, max_size=2))}
    if "null_equal" in written:
        written["null_equal"] = {"qcs:vpc": data.draw(st.sampled_from(["true", "false"]))}
    conditions = read_conditions(written)
    if impossible_key(conditions) is None:
        return
    for one in ((), *((value,) for value in CONTEXT_VALUES)):
        assert not met(conditions, {"qcs:vpc": one})


def met(conditions: Any, context: Context) -> bool:
    try:
        return all(one.holds(context, {}) for one in conditions)
    except ValueError:
        return False


ACTIONS = st.sampled_from(
    ["*", "batch:*", "batch:Describe*", "batch:DescribeJob", "cos:*", "*:*Job"]
)
RESOURCES = st.sampled_from(
    [
        *("*", "qcs::batch:::*", "qcs::batch:gz::job/*", "qcs::batch:ap-*::job/a*", "qcs::::*:*"),
        *(
            "qcs::batch:::job/a/*",
            "qcs::batch:::job/a",
            "qcs:id/7:batch:::job/*",
            "qcs::b*:::job/*",
        ),
        *("qcs::batch::uin/100:job/${uin}", "qcs::batch::uin/1*:job/2*", "qcs::cos:::job/a/*"),
        *("qcs::batch:::job/${owner_uin}*", "qcs:::::job/a/*", "qcs::batch:::job/*/*"),
    ]
)
LISTS = st.tuples(
    st.lists(ACTIONS, min_size=1, max_size=2), st.lists(RESOURCES, min_size=1, max_size=2)
)
ASKED = [
    Resource(service, region, OWNER, path)
    for service in ("batch", "cos")
    for region in ("ap-guangzhou", "ap-beijing", "")
    for path in ("*", "job/*", "job/a", "job/a/b", f"job/{UIN}", f"job/{OWNER}1", "computeenv/a")
]


def statement(written: tuple[list[str], list[str]], effect: str) -> Statement:
    actions, resources = written
    one = {"effect": effect, "action": actions, "resource": resources}
    return parse(text_of(one), name="p").statements[0]


@settings(max_examples=120)
@given(LISTS, LISTS, st.sampled_from(["allow", "deny"]))
def test_a_statement_inside_another_applies_only_where_that_one_does(
    inner: Any, outer: Any, effect: str
) -> None:
    narrow, wide = statement(inner, effect), statement(outer, effect)
    if not statement_inside(narrow, wide):
        return
    for action in ("batch:DescribeJob", "batch:DescribeX", "batch:X", "cos:GetJob"):
        for resource in ASKED:
            asked = query(action, resource, principal=ANN)
            assert applies(wide, asked, resource) or not applies(narrow, asked, resource)


def test_a_statement_inside_another_is_found_through_wildcards() -> None:
    wide = statement((["batch:*"], ["qcs::batch:::job/*"]), "deny")
    for action, resource in (
        ("batch:DescribeJob", "qcs::batch:gz:uin/100:job/a/*"),
        ("name/batch:Describe*", "qcs::batch:ap-*::job/${uin}"),
    ):
        assert statement_inside(statement(([action], [resource]), "allow"), wide)
    assert not statement_inside(statement((["*"], ["qcs::batch:::job/a"]), "allow"), wide)
    assert not statement_inside(statement((["batch:A"], ["*"]), "allow"), wide)
