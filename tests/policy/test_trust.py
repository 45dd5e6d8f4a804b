"""Trust policies: read strictly, and who they admit to a role."""

import json
from typing import Any

import pytest

from gateway.call import Effect, Principal
from gateway.errors import InvalidParameter
from gateway.policy.trust import check_trust, parse_trust, settling

OWNER, UIN, ROLE_ID = "100", "200", "4611686018427397919"
ROOT = Principal(OWNER, OWNER, "root")
ANN = Principal(OWNER, UIN, "ann")
BEN = Principal(OWNER, "201", "ben")
NIGHTLY = Principal(OWNER, ROLE_ID, "nightly", role="nightly", session="one")
CONTEXT = {
    "qcs:ip": ("10.0.0.1",),
    "qcs:uin": (UIN,),
    "qcs:mfa": ("false",),
    "mfa": ("0",),
    "qcs:current_time": ("2026-01-02T00:00:00Z",),
}
ANN_ALONE = {"qcs": [f"qcs::cam::uin/{OWNER}:uin/{UIN}"]}
WHOLE_ACCOUNT = {"qcs": [f"qcs::cam::uin/{OWNER}:root"]}


def statement(effect: str = "allow", principal: Any = "*", **more: Any) -> dict[str, Any]:
    made = {"effect": effect, "action": "name/sts:AssumeRole", "principal": principal, **more}
    return {name: value for name, value in made.items() if value is not None}


def text(*statements: dict[str, Any], **more: Any) -> str:
    return json.dumps({"version": "2.0", "statement": list(statements), **more})


def admitted(who: Principal, *statements: dict[str, Any], **context: tuple[str, ...]) -> bool:
    return admits(text(*statements), who, **context)


def admits(document: str, who: Principal, **context: tuple[str, ...]) -> bool:
    """Whether somebody is let in, and by allows alone."""
    trust = parse_trust(document, role="deployer")
    found = settling(trust, who, context={**CONTEXT, **context})
    return bool(found) and {one.effect for one in found} == {Effect.ALLOW}


def refusal(document: str) -> str:
    with pytest.raises(InvalidParameter) as refused:
        parse_trust(document, role="deployer")
    return refused.value.code.removeprefix("InvalidParameter.")


def test_a_document_is_read_with_lone_strings_as_lists() -> None:
    principal = {"qcs": f"qcs::cam::uin/{OWNER}:root", "service": "batch.cloud.tencent.com"}
    trust = parse_trust(text(statement(principal=principal)), role="deployer", file="t.json")
    [read] = trust.statements
    assert (trust.role, trust.file, read.index) == ("deployer", "t.json", 1)
    assert read.effect is Effect.ALLOW
    assert read.principals == (f"qcs::cam::uin/{OWNER}:root",)
    assert read.services == ("batch.cloud.tencent.com",)
    assert [action.text for action in read.actions] == ["name/sts:AssumeRole"]


def test_a_principal_at_the_top_is_every_statements() -> None:
    document = text(statement(principal=None), principal=ANN_ALONE)
    assert admits(document, ANN)
    assert not admits(document, BEN)


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ("{", "PolicyDocumentError"),
        ("[]", "PolicyDocumentError"),
        (text(statement(), resource="*"), "PolicyDocumentError"),
        (json.dumps({"version": "1.0", "statement": [statement()]}), "VersionError"),
        (json.dumps({"version": "2.0", "statement": []}), "StatementError"),
        (json.dumps({"version": "2.0", "statement": ["allow"]}), "StatementError"),
        (text(statement(resource="*")), "StatementError"),
        (text(statement("grant")), "EffectError"),
        (text(statement(action=None)), "ActionMiss"),
        (text(statement(action="batch:SubmitJob")), "ActionError"),
        (text(statement(action="permid/1")), "ActionError"),
        (text(statement(action="sts:AsumeRole")), "ActionNotExist"),
        (text(statement(condition={})), "ConditionError"),
        (text(statement(condition={"equals": {"qcs:ip": "1"}})), "ConditionTypeError"),
        (text(statement(condition={"ip_equal": {"qcs:ip": "here"}})), "ConditionContentError"),
        (text(statement(condition={"string_equal": {"qcs:vpc": "v"}})), "ConditionContentError"),
        (text(statement("x" * 7_000)), "PolicyDocumentLengthOverLimit"),
    ],
)
def test_what_is_no_trust_policy_is_refused_as_a_whole(document: str, code: str) -> None:
    assert refusal(document) == code


@pytest.mark.parametrize(
    "principal", [{}, [], "qcs", 1, {"qcs": []}, {"qcs": [1]}, {"qcs": {}}, {"federated": ["x"]}]
)
def test_a_principal_of_another_shape_is_refused(principal: Any) -> None:
    assert refusal(text(statement(principal=principal))) == "PrincipalError"


def test_a_statement_has_one_principal_and_not_two_or_none() -> None:
    assert refusal(text(statement(principal=None))) == "PrincipalError"
    assert refusal(text(statement(), principal="*")) == "PrincipalError"


@pytest.mark.parametrize(
    "name",
    [
        "*",
        "100:root",
        f"qcs::cam:gz:uin/{OWNER}:root",
        f"qcs::batch::uin/{OWNER}:root",
        "qcs::cam::uin/*:root",
        "qcs::cam::uin/0100:root",
        f"qcs::cam::uin/{OWNER}:*",
        f"qcs::cam::uin/{OWNER}:uin/*",
        f"qcs::cam::uin/{OWNER}:uin/ann",
        f"qcs::cam::uin/{OWNER}:roleName/*",
        f"qcs::cam::uin/{OWNER}:groupid/1",
        f"qcs::cam::uin/{OWNER}:root\n",
        "qcs::cam::anonymous:anonymous",
    ],
)
def test_a_principal_that_is_no_root_user_or_role_is_refused(name: str) -> None:
    assert refusal(text(statement(principal={"qcs": [name]}))) == "PrincipalQcsError"


@pytest.mark.parametrize("host", ["", "batch", "-x.qcloud.com", "x..com", "*.com", "http://x.com"])
def test_a_host_that_no_service_can_have_is_refused(host: str) -> None:
    assert refusal(text(statement(principal={"service": host}))) == "PrincipalServiceNotExist"


@pytest.mark.parametrize("name", ["uin/999:root", f"uin/{OWNER}:uin/999", "uin/999:roleName/x"])
def test_a_principal_that_nobody_declares_is_found_out(name: str) -> None:
    trust = parse_trust(text(statement(principal={"qcs": f"qcs::cam::{name}"})), role="deployer")
    with pytest.raises(InvalidParameter) as refused:
        check_trust(trust, {OWNER, UIN})
    assert refused.value.code == "InvalidParameter.PrincipalQcsNotExist"


@pytest.mark.parametrize(
    "principal",
    ["*", WHOLE_ACCOUNT, ANN_ALONE, {"qcs": f"qcs::cam::uin/{OWNER}:roleName/later"}],
)
def test_principals_that_are_declared_or_are_roles_pass(principal: Any) -> None:
    check_trust(parse_trust(text(statement(principal=principal)), role="x"), {OWNER, UIN})


@pytest.mark.parametrize("principal", ["*", WHOLE_ACCOUNT])
@pytest.mark.parametrize("who", [ROOT, ANN, BEN, NIGHTLY])
def test_the_account_admits_all_its_users_and_roles(principal: Any, who: Principal) -> None:
    assert admitted(who, statement(principal=principal))


def test_a_user_who_is_named_is_admitted_alone() -> None:
    assert admitted(ANN, statement(principal=ANN_ALONE))
    for other in (ROOT, BEN, NIGHTLY):
        assert not admitted(other, statement(principal=ANN_ALONE))


def test_the_root_is_named_by_its_number_and_admitted_alone() -> None:
    root_alone = statement(principal={"qcs": f"qcs::cam::uin/{OWNER}:uin/{OWNER}"})
    assert admitted(ROOT, root_alone)
    assert not admitted(ANN, root_alone)


@pytest.mark.parametrize("name", ["roleName/nightly", f"role/{ROLE_ID}"])
def test_a_role_is_admitted_by_its_name_or_its_id(name: str) -> None:
    named = statement(principal={"qcs": f"qcs::cam::uin/{OWNER}:{name}"})
    assert admitted(NIGHTLY, named)
    assert not admitted(ANN, named)
    assert not admitted(NIGHTLY, statement(principal={"qcs": f"qcs::cam::uin/{OWNER}:uin/1"}))


def test_a_role_is_no_user_although_its_id_is_a_number_too() -> None:
    user = statement(principal={"qcs": f"qcs::cam::uin/{OWNER}:uin/{ROLE_ID}"})
    assert not admitted(NIGHTLY, user)


@pytest.mark.parametrize("who", [ROOT, ANN, NIGHTLY])
def test_another_account_and_a_service_admit_nobody_here(who: Principal) -> None:
    assert not admitted(who, statement(principal={"qcs": "qcs::cam::uin/101:root"}))
    assert not admitted(who, statement(principal={"service": "batch.cloud.tencent.com"}))


@pytest.mark.parametrize("turned", [False, True])
def test_a_deny_wins_over_an_allow_in_any_order(turned: bool) -> None:
    both = [statement(), statement("deny", ANN_ALONE)]
    statements = both[::-1] if turned else both
    assert not admitted(ANN, *statements)
    assert admitted(BEN, *statements)


@pytest.mark.parametrize("action", ["sts:assumerole", "*", "sts:Assume*", ["sts:AssumeRole"]])
def test_an_action_may_be_written_in_every_form(action: Any) -> None:
    assert admitted(ANN, statement(action=action))


def test_another_way_of_taking_a_role_on_does_not_admit_to_this_one() -> None:
    assert not admitted(ANN, statement(action="sts:AssumeRoleWithSAML"))


def test_conditions_are_asked() -> None:
    near = statement(condition={"ip_equal": {"qcs:ip": "10.0.0.0/24"}})
    assert admitted(ANN, near)
    assert not admitted(ANN, near, **{"qcs:ip": ("192.0.2.1",)})
    proved = statement(condition={"bool_equal": {"qcs:mfa": "true"}})
    assert not admitted(ANN, proved)
    assert admitted(ANN, proved, **{"qcs:mfa": ("true",)})


def test_a_policy_variable_in_a_condition_is_the_callers() -> None:
    own = statement(condition={"string_equal": {"qcs:uin": "${uin}"}})
    assert admitted(ANN, own)
    assert not admitted(BEN, own)


def test_an_external_id_must_be_given_where_it_is_asked_for() -> None:
    asked = statement(condition={"string_equal": {"sts:external_id": "from-us"}})
    assert admitted(ANN, asked, **{"sts:external_id": ("from-us",)})
    assert not admitted(ANN, asked, **{"sts:external_id": ("guessed",)})
    assert not admitted(ANN, asked)


def test_a_condition_that_cannot_be_judged_denies_and_does_not_allow() -> None:
    condition = {"numeric_less_than": {"sts:external_id": 5}}
    unclear = {"sts:external_id": ("not a number",)}
    assert not admitted(ANN, statement(condition=condition), **unclear)
    assert not admitted(ANN, statement(), statement("deny", condition=condition), **unclear)


def test_the_statements_that_settle_it_are_the_denies_or_else_the_allows() -> None:
    written = text(statement("deny", ANN_ALONE), statement(), statement("deny"), statement())
    trust = parse_trust(written, role="deployer")
    assert [one.index for one in settling(trust, ANN, context=CONTEXT)] == [1, 3]
    others = parse_trust(text(statement(), statement("deny", ANN_ALONE), statement()), role="x")
    assert [one.index for one in settling(others, BEN, context=CONTEXT)] == [1, 3]
    nobody = parse_trust(text(statement(principal=ANN_ALONE)), role="x")
    assert settling(nobody, BEN, context=CONTEXT) == ()


def test_the_application_of_an_account_is_known_to_its_roles_conditions() -> None:
    own = statement(condition={"string_equal": {"sts:external_id": "app-${app_id}"}})
    given = {"sts:external_id": ("app-1250",)}
    assert admitted(ANN, own, **given, **{"qcs:app_id": ("1250",)})
    assert not admitted(ANN, own, **given)
