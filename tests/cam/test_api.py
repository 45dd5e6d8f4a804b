"""DescribeDecision: callers ask why, and are told no more than they may know."""

import json
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from gateway.call import AttributeTest, Call, Clause, Grant, Principal, Scope
from gateway.cam.api import build_service, is_inside, redacted
from gateway.cam.decisions.log import DecisionLog
from gateway.errors import MissingParameter, ResourceNotFound
from gateway.policy.decision import Determinant, NearestMiss, ShadowVerdict
from gateway.store import Store
from tests.support.decisions import ALLOWED, NOON, SAMPLE, decision_log, make

ALICE = SAMPLE.principal
SECRET = "secret"  # what a policy says, in any member of a record that quotes one
CALL = Call("r-9", "cam", "2019-01-16", "DescribeDecision", "", {}, "192.0.2.7", NOON)
OWN = Scope(allow=((Clause(ALICE.uin),),))
TAGGED = AttributeTest("for_any_value:string_equal", "qcs:resource_tag", ("team&a",))
UNTAGGED = AttributeTest("null_equal", "qcs:resource_tag", ("true",))
UNREADABLE = AttributeTest("no_such_operator", "qcs:resource_tag", ("x",))


def explained() -> Any:
    """A record whose every part quotes some policy."""
    settled = Determinant(
        policy="p", version=1, file=SECRET, statement=2, via=SECRET, pattern=SECRET
    )
    miss = NearestMiss(
        policy="q",
        version=1,
        file=SECRET,
        statement=1,
        via=SECRET,
        element="region",
        wanted=SECRET,
        found="gz",
    )
    explanation = replace(
        SAMPLE.explanation,
        determining=(settled,),
        nearest_miss=miss,
        shadow=ShadowVerdict(ALLOWED, (settled,)),
    )
    principal = replace(ALICE, session_policy=SECRET)
    return {"explanation": explanation, "principal": principal}


async def describe(
    store: Store, log: DecisionLog, scope: Scope | None, principal: Principal = ALICE, **params: Any
) -> dict[str, Any]:
    call = structs.replace(CALL, params=params or {"DecisionRequestId": "r-1"})
    reply = await build_service(store, log)(call, Grant(principal, ALLOWED, scope))
    found: dict[str, Any] = json.loads(reply.members)["Decision"]
    return found


@pytest.mark.anyio
async def test_who_may_see_everyones_is_shown_the_whole_record_flushed_or_not(
    store: Store,
) -> None:
    log = decision_log(store)
    await log.record(make("r-1", **explained()), durably=False)
    found = await describe(store, log, Scope())
    assert found == json.loads(json.dumps(make("r-1", **explained())().public()))
    assert SECRET in json.dumps(found)


@pytest.mark.anyio
async def test_who_may_see_their_own_is_told_which_statement_and_not_what_it_says(
    store: Store,
) -> None:
    log = decision_log(store)
    await log.record(make("r-1", **explained()), durably=False)
    found = await describe(store, log, OWN)
    assert SECRET not in json.dumps(found)
    assert found["RequestId"] == "r-1"
    assert (found["Effect"], found["Reason"]) == ("deny", "implicit-deny")
    assert found["Principal"]["Name"] == "alice"
    assert found["Determining"] == [{"Policy": "p", "Version": 1, "Statement": 2}]
    assert found["NearestMiss"]["Element"] == "region"
    assert found["Shadow"]["Determining"] == found["Determining"]


def test_what_is_added_to_records_later_stays_in() -> None:
    public = {**SAMPLE.public(), "Layers": [{"Pattern": SECRET}]}
    public["Fix"] = [{"AttachTo": SECRET, "Policy": {"version": "2.0"}}]
    public["Principal"] = {**public["Principal"], "SessionPolicy": SECRET}
    public["Shadow"] = {"Effect": "deny", "Reason": "x", "Determining": [], "Fix": SECRET}
    assert SECRET not in json.dumps(redacted(public))
    assert redacted(public)["Fix"] == [{"Policy": {"version": "2.0"}}]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("scope", "principal", "request_id"),
    [
        (Scope(), ALICE, "r-2"),
        (Scope(), Principal("9", "9", "root"), "r-1"),
        (Scope(allow=((Clause("3"),),)), ALICE, "r-1"),
        (Scope(deny=(Clause(ALICE.uin),)), ALICE, "r-1"),
        (None, ALICE, "r-1"),
    ],
    ids=["absent", "of another account", "of another user", "denied", "no scope"],
)
async def test_what_is_not_there_and_what_may_not_be_seen_are_answered_alike(
    store: Store, scope: Scope | None, principal: Principal, request_id: str
) -> None:
    log = decision_log(store)
    await log.record(make("r-1"), durably=True)
    with pytest.raises(ResourceNotFound) as raised:
        await describe(store, log, scope, principal, DecisionRequestId=request_id)
    assert raised.value.code == "ResourceNotFound.Decision"
    assert raised.value.message == f"Decision `{request_id}` does not exist."


@pytest.mark.anyio
async def test_a_call_that_asks_for_nothing_is_told_what_is_missing(store: Store) -> None:
    with pytest.raises(MissingParameter, match="`DecisionRequestId`"):
        await build_service(store, decision_log(store))(CALL, Grant(ALICE, ALLOWED, Scope()))


@pytest.mark.parametrize(
    ("scope", "inside"),
    [
        (Scope(), True),
        (OWN, True),
        (Scope(allow=((Clause("2*"),), (Clause("*2"),))), True),
        (Scope(allow=((Clause("*"),), (Clause("3"),))), False),
        (Scope(allow=((),)), False),
        (Scope(deny=(Clause("3"),)), True),
        (Scope(deny=(Clause("*"),)), False),
        (Scope(allow=((Clause("*", (TAGGED,)),),)), False),
        (Scope(allow=((Clause("*", (UNTAGGED,)),),)), True),
        (Scope(allow=((Clause("*", (UNTAGGED, TAGGED)), Clause("2")),)), True),
        (Scope(deny=(Clause("*", (TAGGED,)),)), True),
        (Scope(deny=(Clause("*", (UNTAGGED,)),)), False),
        (Scope(allow=((Clause("*", (UNREADABLE,)),),)), False),
        (Scope(deny=(Clause("*", (UNREADABLE,)),)), False),
    ],
)
def test_a_user_is_inside_a_scope_in_every_layer_and_outside_every_deny(
    scope: Scope, inside: bool
) -> None:
    assert is_inside(scope, ALICE.uin) is inside
