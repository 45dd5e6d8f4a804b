import json
from typing import Any

import pytest

from gateway.call import Effect
from gateway.errors import InvalidParameter
from gateway.policy.document import parse
from tests.policy.policies import allow

GOOD = allow("batch:*", "qcs::batch:gz::job/*")


def text_of(*statements: Any, **more: Any) -> str:
    return json.dumps({"version": "2.0", "statement": list(statements), **more})


def code_of(text: str) -> str:
    with pytest.raises(InvalidParameter) as caught:
        parse(text, name="p")
    return caught.value.code.removeprefix("InvalidParameter.")


@pytest.mark.parametrize(
    "statement",
    [
        allow(),
        allow("name/batch:Describe*", "*"),
        allow(["batch:A", "*:*"], ["*", "qcs:id/0:batch:ap-*:uin/-1:job/${uin}/*"]),
        allow(resource="qcs::cam::uin/100:roleName/x:y"),
        allow(condition={"string_equal": {"k:n": "a"}, "numeric_less_than": {"mfa": [1, 2.5]}}),
        allow(condition={"for_any_value:string_equal_if_exist": {"qcs:tag/team": ["${uin}"]}}),
        allow(condition={"date_less_than": {"qcs:current_time": "2022-05-31 00:00:00"}}),
        allow(condition={"bool_equal": {"mfa": True}, "null_equal": {"qcs:vpc": ""}}),
    ],
)
def test_a_good_statement_is_read(statement: Any) -> None:
    document = parse(text_of(statement, {**GOOD, "effect": "deny"}), name="p", version=3)
    assert (document.name, document.version) == ("p", 3)
    assert [one.index for one in document.statements] == [1, 2]
    assert [one.effect for one in document.statements] == [Effect.ALLOW, Effect.DENY]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "PolicyDocumentError"),
        ("# comment\n" + text_of(GOOD), "PolicyDocumentError"),
        ("[]", "PolicyDocumentError"),
        ("[" * 5000, "PolicyDocumentError"),
        ('{"version": "2.0", "statement": NaN}', "PolicyDocumentError"),
        ('{"version": ' + "9" * 5000 + "}", "PolicyDocumentError"),
        ('{"version": "2.0", "version": "2.0", "statement": []}', "PolicyDocumentError"),
        (text_of({**GOOD, "action": "\ud800"}), "PolicyDocumentError"),
        (text_of(GOOD, id="x"), "PolicyDocumentError"),
        (text_of(GOOD, principal="*"), "PrincipalError"),
        (json.dumps({"version": 2.0, "statement": [GOOD]}), "VersionError"),
        (json.dumps({"version": "1.0", "statement": [GOOD]}), "VersionError"),
        (json.dumps({"statement": [GOOD]}), "VersionError"),
        (json.dumps({"version": "2.0"}), "StatementError"),
        (json.dumps({"version": "2.0", "statement": GOOD}), "StatementError"),
        (text_of(), "StatementError"),
        (text_of("x"), "StatementError"),
        (text_of({**GOOD, "notaction": "*"}), "StatementError"),
        (text_of({**GOOD, "Effect": "allow"}), "StatementError"),
        (text_of({**GOOD, "principal": {"qcs": []}}), "PrincipalError"),
        (text_of({**GOOD, "effect": "Allow"}), "EffectError"),
        (text_of({**GOOD, "effect": ["allow"]}), "EffectError"),
    ],
)
def test_a_document_of_the_wrong_shape_is_refused_with_its_code(text: str, code: str) -> None:
    assert code_of(text) == code


@pytest.mark.parametrize(
    ("element", "value", "code"),
    [
        ("action", None, "ActionMiss"),
        ("action", [], "ActionMiss"),
        ("action", 1, "ActionError"),
        ("action", ["batch:A", 1], "ActionError"),
        ("action", "SubmitJob", "ActionError"),
        ("action", ":SubmitJob", "ActionServiceNotExist"),
        ("action", "${uin}:SubmitJob", "ActionServiceNotExist"),
        ("action", "batch:A\n", "ActionError"),
        ("action", "batch:${uin}", "ActionError"),
        ("resource", None, "ResourceError"),
        ("resource", [], "ResourceError"),
        ("resource", ["*", {}], "ResourceError"),
        ("resource", "qcs::batch:gz:job/*", "ResourceError"),
        ("resource", "job/*", "ResourceQcsError"),
        ("resource", "*::batch:gz::job/*", "ResourceQcsError"),
        ("resource", "qcs:7:batch:gz::job/*", "ResourceProjectError"),
        ("resource", "qcs::Batch:gz::job/*", "ResourceServiceNotExist"),
        ("resource", "qcs::batch:${region}::job/*", "ResourceRegionError"),
        ("resource", "qcs::batch:gz\n::job/*", "ResourceRegionError"),
        ("resource", "qcs::batch:gz:uin/${uin}:job/*", "ResourceUinError"),
        ("resource", "qcs::batch:gz:100:job/*", "ResourceUinError"),
        ("resource", "qcs::batch:gz:uid/1:job/*", "ResourceUinError"),
        ("resource", "qcs::batch:gz::", "ResourceContentError"),
        ("resource", "qcs::batch:gz::job/${jobId}", "ResourceContentError"),
        ("resource", "qcs::batch:gz::job/${u${uin}in}", "ResourceContentError"),
        ("condition", {}, "ConditionError"),
        ("condition", [], "ConditionError"),
        ("condition", None, "ConditionError"),
        ("condition", {"string_equal": {}}, "ConditionError"),
        ("condition", {"string_equals": {"k": "a"}}, "ConditionTypeError"),
        ("condition", {" date_equal ": {"k": "a"}}, "ConditionTypeError"),
        ("condition", {"string_equal_if_exist_if_exist": {"k": "a"}}, "ConditionTypeError"),
        ("condition", {"for_any_value:for_all_value:ip_equal": {"k": "a"}}, "ConditionTypeError"),
        ("condition", {"null_equal_if_exist": {"k": "true"}}, "ConditionTypeError"),
        ("condition", {"for_all_value:string_equal": {"qcs:tag": "a"}}, "ConditionTypeError"),
        ("condition", {"string_equal": {"qcs:ip ": "a"}}, "ConditionContentError"),
        ("condition", {"string_equal": {"k": []}}, "ConditionContentError"),
        ("condition", {"string_equal": {"k": [None]}}, "ConditionContentError"),
        ("condition", {"string_equal": {"k": "${nobody}"}}, "ConditionContentError"),
        ("condition", {"string_like": {"k": "a*b"}}, "ConditionContentError"),
        ("condition", {"ip_equal": {"k": "10.0.0.0/33"}}, "ConditionContentError"),
        ("condition", {"numeric_equal": {"k": "NaN"}}, "ConditionContentError"),
        ("condition", {"date_equal": {"k": "2016-13-01T00:00:00Z"}}, "ConditionContentError"),
        ("condition", {"date_equal": {"k": "2016-06-01T12345678Z"}}, "ConditionContentError"),
        ("condition", {"string_equal": {"k": 1e20}}, "ConditionContentError"),
        ("condition", {"bool_equal": {"k": "yes"}}, "ConditionContentError"),
        ("condition", {"binary_equal": {"k": "%"}}, "ConditionContentError"),
        ("condition", {"null_equal": {"k": "maybe"}}, "ConditionContentError"),
    ],
)
def test_one_bad_element_refuses_the_whole_document(element: str, value: Any, code: str) -> None:
    assert code_of(text_of(GOOD, {**GOOD, element: value})) == code


def test_a_set_of_actions_may_be_allowed_for_nothing_and_not_denied() -> None:
    for name in ("permid/280649", "actionName/batch"):
        [statement] = parse(text_of(allow(name)), name="p").statements
        assert not any(one.matches("batch:SubmitJob") for one in statement.actions)
        assert code_of(text_of({**GOOD, "effect": "deny", "action": name})) == "ActionError"


def test_an_action_that_a_known_service_does_not_have_is_refused() -> None:
    known = {"batch": frozenset({"submitjob"})}

    def read(action: str) -> None:
        parse(text_of(allow(action)), name="p", known_actions=known)

    for good in ("batch:SubmitJob", "name/BATCH:submitjob", "batch:Nothing*", "cvm:RunX", "*"):
        read(good)
    with pytest.raises(InvalidParameter) as caught:
        read("name/batch:SubmitJobs")
    assert caught.value.code == "InvalidParameter.ActionNotExist"


def test_a_placeholder_outside_the_last_segment_is_refused_with_a_hint() -> None:
    with pytest.raises(InvalidParameter, match="last segment only"):
        parse(text_of(allow(resource="qcs::batch:gz:uin/${uin}:job/*")), name="p")


def test_length_is_counted_without_blanks() -> None:
    room = 6144 - len("".join(text_of(allow(resource=["*", "qcs::a:::"])).split()))
    longest = text_of(allow(resource=["*", "qcs::a:::" + "x" * room]))
    assert parse(longest + " " * 1000, name="p")
    longer = longest.replace("xx", "xxx", 1)
    assert code_of(longer) == "PolicyDocumentLengthOverLimit"
