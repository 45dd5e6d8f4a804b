"""Policies with changes that nobody has made."""

import json
from typing import Any

import pytest

from gateway.call import Effect, Principal, Reason
from gateway.policy.accounts import Account, CustomPolicy, Group, Role, User
from gateway.policy.comparison import Shift
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.document import Document, parse
from gateway.policy.question import Question
from gateway.policy.refusal import PolicySetRefused
from gateway.policy.simulation import (
    Row,
    holders,
    narrowed,
    simulate,
    with_boundary,
    with_policy,
    without_policy,
)
from gateway.policy.snapshot import Snapshot, build_snapshot, declared_callers, subject_of
from gateway.policy.trust import parse_trust
from tests.policy.policies import (
    ANN,
    OWNER,
    ROOT,
    UIN,
    allow,
    batch,
    deny,
    document,
    evaluator,
    query,
)

pytestmark = pytest.mark.usefixtures("each_evaluator")

READ, KILL = "batch:DescribeJob", "batch:TerminateJob"
RUNNER = Principal(owner_uin=OWNER, uin="300", name="runner", role="runner")
TRUST = json.dumps(
    {
        "version": "2.0",
        "statement": [{"effect": "allow", "action": "sts:AssumeRole", "principal": "*"}],
    }
)


def supposed(*statements: Any) -> Document:
    text = json.dumps({"version": "2.0", "statement": list(statements)})
    return parse(text, name="readers", file="wider.json")


@pytest.fixture
def snapshot() -> Snapshot:
    account = Account(
        uin=OWNER,
        policies=(CustomPolicy("readers"), CustomPolicy("unused")),
        groups=(Group("team", ("readers",)),),
        users=(User("ann", UIN, ("team",)), User("bob", "201")),
        roles=(Role("runner", "300", "trust.json", ("readers",)),),
    )
    documents = {name: document(name, [allow(READ)]) for name in ("readers", "unused")}
    return build_snapshot(
        [account],
        presets={},
        custom={OWNER: documents},
        trusts={OWNER: {"runner": parse_trust(TRUST, role="runner")}},
        generation=1,
    )


def row(today: Snapshot, after: Snapshot, *, action: str = KILL, principal: Principal = ANN) -> Row:
    questions = [Question(query(action, batch("job/a"), principal=principal))]
    points = [DecisionPoint(evaluator(), one) for one in (today, after)]
    [found] = simulate(questions, today=points[0], supposed=points[1])
    return found


def test_a_policy_that_is_only_supposed_allows_and_says_whence(snapshot: Snapshot) -> None:
    after = with_policy(
        snapshot, supposed(allow(KILL)), owner_uin=OWNER, subjects=[subject_of(ANN)]
    )
    found = row(snapshot, after)
    assert found.explanation.decision.reason is Reason.EXPLICIT_ALLOW
    assert found.shift is Shift.NEWLY_ALLOWED
    assert [one.file for one in found.explanation.determining] == ["wider.json"]


def test_a_supposed_policy_stands_beside_the_declared_one_of_its_name(snapshot: Snapshot) -> None:
    after = with_policy(
        snapshot, supposed(allow(KILL)), owner_uin=OWNER, subjects=[subject_of(ANN)]
    )
    assert row(snapshot, after, action=READ).explanation.decision.allowed
    assert row(snapshot, after, action=READ).shift is None


def test_a_policy_of_a_group_reaches_its_users_and_nobody_else(snapshot: Snapshot) -> None:
    team = holders(snapshot, "group/team", owner_uin=OWNER)
    after = with_policy(snapshot, supposed(deny(READ)), owner_uin=OWNER, subjects=team)
    assert row(snapshot, after, action=READ).shift is Shift.NEWLY_DENIED
    assert row(snapshot, after, action=READ, principal=RUNNER).shift is None


def test_everyone_is_every_user_and_role_and_not_the_root(snapshot: Snapshot) -> None:
    subjects = holders(snapshot, "everyone", owner_uin=OWNER)
    after = with_policy(snapshot, supposed(deny(READ)), owner_uin=OWNER, subjects=subjects)
    for principal in declared_callers(snapshot):
        reason = row(snapshot, after, action=READ, principal=principal).explanation.decision.reason
        assert reason is Reason.EXPLICIT_DENY
    assert row(snapshot, after, action=READ, principal=ROOT).explanation.decision.allowed


def test_a_detached_policy_is_gone_for_all_who_have_it(snapshot: Snapshot) -> None:
    after = without_policy(snapshot, "readers", owner_uin=OWNER)
    assert row(snapshot, after, action=READ).shift is Shift.NEWLY_DENIED
    assert row(snapshot, after, action=READ, principal=RUNNER).shift is Shift.NEWLY_DENIED


@pytest.mark.parametrize("name", ["unused", "nowhere"])
def test_a_policy_that_nobody_has_cannot_be_detached(snapshot: Snapshot, name: str) -> None:
    with pytest.raises(PolicySetRefused, match=name):
        without_policy(snapshot, name, owner_uin=OWNER)


@pytest.mark.parametrize("written", ["user/carol", "group/ann", "ann", "role/", ""])
def test_a_holder_that_is_not_declared_is_refused(snapshot: Snapshot, written: str) -> None:
    with pytest.raises(PolicySetRefused):
        holders(snapshot, written, owner_uin=OWNER)


def test_a_supposed_boundary_narrows_and_never_grants(snapshot: Snapshot) -> None:
    after = with_boundary(snapshot, supposed(allow(KILL)), principals=[ANN, ROOT])
    assert row(snapshot, after, action=READ).explanation.decision.reason is Reason.BOUNDARY
    assert row(snapshot, after, action=KILL).explanation.decision.reason is Reason.IMPLICIT_DENY
    assert row(snapshot, after, action=READ, principal=ROOT).shift is Shift.NEWLY_DENIED
    assert row(snapshot, after, action=READ, principal=RUNNER).shift is None


def test_a_session_policy_narrows_the_second_answer_only(snapshot: Snapshot) -> None:
    text = json.dumps({"version": "2.0", "statement": [allow(KILL)]})
    policies = DecisionPoint(evaluator(), snapshot)
    question = Question(query(READ, batch("job/a")))
    [found] = simulate([question], today=policies, supposed=policies, session_policy=text)
    assert found.explanation.decision.reason is Reason.SESSION_POLICY
    assert found.shift is Shift.NEWLY_DENIED
    assert narrowed(question, "") is question


def test_the_declared_snapshot_is_left_as_it_was(snapshot: Snapshot) -> None:
    before = (dict(snapshot.policies), dict(snapshot.attached), dict(snapshot.boundaries))
    with_policy(snapshot, supposed(allow()), owner_uin=OWNER, subjects=[subject_of(ANN)])
    without_policy(snapshot, "readers", owner_uin=OWNER)
    with_boundary(snapshot, supposed(allow()), principals=[ANN])
    assert (snapshot.policies, snapshot.attached, snapshot.boundaries) == before


def test_a_list_that_would_show_more_says_so(snapshot: Snapshot) -> None:
    narrow = supposed(allow(KILL, "qcs::batch:::job/a*"))
    before = with_policy(snapshot, narrow, owner_uin=OWNER, subjects=[subject_of(ANN)])
    after = with_policy(
        before, document("all", [allow(KILL)]), owner_uin=OWNER, subjects=[subject_of(ANN)]
    )
    listing = Question(query(KILL, batch("job/*")), lists="job")
    points = [DecisionPoint(evaluator(), one) for one in (before, after)]
    [found] = simulate([listing], today=points[0], supposed=points[1])
    assert found.explanation.decision.effect is Effect.ALLOW
    assert found.shift is Shift.SHOWS_MORE
