"""Each public code by which a policy document is refused, provoked by one mistake."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.cam.identities import KNOWN_ACTIONS
from gateway.catalog.cam import DOCUMENT_CODES
from gateway.commands.vocabulary import vocabulary
from gateway.errors import InvalidParameter
from gateway.policy.document import parse
from gateway.policy.lint import RULES, lint

GOOD = {"effect": "allow", "action": "batch:DescribeJob", "resource": "qcs::batch:gz::job/*"}
TAG = {"string_equal": {"qcs:resource_tag": "team&a"}}


def document(*statements: Any, **more: Any) -> str:
    return json.dumps({"version": "2.0", "statement": list(statements), **more})


def with_(**elements: Any) -> str:
    return document(GOOD, {**GOOD, **elements})


MISTAKES: Mapping[str, str] = {
    "PolicyDocumentError": "# a comment\n" + document(GOOD),
    "PolicyDocumentLengthOverLimit": with_(resource="qcs::batch:::job/" + "x" * 6144),
    "VersionError": json.dumps({"version": "3.0", "statement": [GOOD]}),
    "StatementError": json.dumps({"version": "2.0", "statement": GOOD}),
    "PrincipalError": document(GOOD, principal="*"),
    "EffectError": with_(effect="Allow"),
    "ActionMiss": document({"effect": "allow", "resource": "*"}),
    "ActionError": with_(action="DescribeJob"),
    "ActionServiceNotExist": with_(action="ba tch:DescribeJob"),
    "ActionNotExist": with_(action="batch:DescribeJbo"),
    "ResourceError": with_(resource="qcs::batch:gz:job/*"),
    "ResourceQcsError": with_(resource="arn::batch:gz::job/*"),
    "ResourceProjectError": with_(resource="qcs:7:batch:gz::job/*"),
    "ResourceServiceNotExist": with_(resource="qcs::Batch:gz::job/*"),
    "ResourceRegionError": with_(resource="qcs::batch:${region}::job/*"),
    "ResourceUinError": with_(resource="qcs::batch:gz:${uin}:job/*"),
    "ResourceContentError": with_(resource="qcs::batch:gz::job/${jobId}"),
    "ConditionError": with_(condition=["string_equal"]),
    "ConditionTypeError": with_(condition={"string_equals": TAG["string_equal"]}),
    "ConditionContentError": with_(condition={"ip_equal": {"qcs:ip": "10.0.0.0/40"}}),
}
"""By code: a document that is good but for one thing."""

ELSEWHERE = {
    "AttachmentFull": "of attachments",
    "DescriptionLengthOverlimit": "of the description",
    "NotSupportProduct": "of products that have no policies",
    "ParamError": "of other parameters",
    "PolicyNameError": "of the name",
    "PrincipalQcsError": "of trust policies",
    "PrincipalQcsNotExist": "of trust policies",
    "PrincipalServiceNotExist": "of trust policies",
    "UserNotExist": "of users",
}
"""The codes of the same calls that no user policy provokes by its text, and what they are of."""


def read(text: str) -> None:
    parse(text, name="p", known_actions=KNOWN_ACTIONS)


def test_a_document_without_a_mistake_is_read() -> None:
    read(document(GOOD, {**GOOD, "condition": TAG}))


@pytest.mark.parametrize("code", MISTAKES)
def test_each_mistake_is_refused_with_its_own_code(code: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        read(MISTAKES[code])
    assert caught.value.code == f"InvalidParameter.{code}"


def test_every_public_code_of_documents_has_a_mistake_that_provokes_it() -> None:
    public = {code.removeprefix("InvalidParameter.") for code in DOCUMENT_CODES}
    assert public == MISTAKES.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("code", MISTAKES)
def test_lint_reports_each_refusal_with_its_code(code: str) -> None:
    folder = {**RULES["refused"].bad.folder(), "policy.json": MISTAKES[code]}
    found = lint(folder, vocabulary())
    if code == "ActionNotExist":  # a rule of its own says which one was meant
        assert [one.id for one in found] == ["unknown-action"]
    else:
        assert [one.id for one in found] == ["refused"]
        assert found[0].message.endswith(f"(InvalidParameter.{code})")
