"""Recorded calls decided twice: what a change opens and closes."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from gateway.call import AttributeTest, Clause, Decision, Effect, Reason, Scope
from gateway.policy.comparison import Comparison, Shift, find_shift
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.pattern import fits
from gateway.policy.question import Answer, Question, RecordedCall
from tests.policy.policies import Statements, allow, batch, deny, evaluator, query, snapshot_of

pytestmark = pytest.mark.usefixtures("each_evaluator")

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
READ, KILL = "batch:DescribeJob", "batch:TerminateJob"
TEAM_A = AttributeTest("string_equal", "qcs:resource_tag", ("team&a",))
TEAM_B = AttributeTest("string_equal", "qcs:resource_tag", ("team&b",))


def call(action: str, path: str, *, number: int = 1, lists: str = "") -> RecordedCall:
    return RecordedCall(
        request_id=f"request-{number}",
        time=NOON,
        question=Question(query(action, batch(path)), lists),
        effect=Effect.ALLOW,
    )


def compare(before: Statements, after: Statements, *calls: RecordedCall) -> Comparison:
    points = [DecisionPoint(evaluator(), snapshot_of(one)) for one in (before, after)]
    comparison = Comparison(*points)
    for one in calls:
        comparison.add(one)
    return comparison


def shifts(comparison: Comparison) -> list[tuple[Shift, str, int]]:
    return [(one.kind.shift, one.kind.action, one.calls) for one in comparison.differences]


def test_the_same_policies_differ_in_nothing() -> None:
    comparison = compare([allow(READ)], [allow(READ)], call(READ, "job/a"), call(KILL, "job/a"))
    assert comparison.differences == ()
    assert (comparison.calls, comparison.opens, comparison.closes) == (2, False, False)


def test_calls_that_are_alike_are_counted_together_with_the_first_as_example() -> None:
    calls = [call(KILL, f"job/{number}", number=number) for number in range(3)]
    comparison = compare([allow(READ)], [allow("batch:*")], *calls, call(READ, "job/a"))
    [found] = comparison.differences
    assert (found.kind.shift, found.calls, found.example) == (Shift.NEWLY_ALLOWED, 3, "request-0")
    assert (found.kind.before, found.kind.after) == (Reason.IMPLICIT_DENY, Reason.EXPLICIT_ALLOW)
    assert (comparison.opens, comparison.closes) == (True, False)


def test_a_deny_that_is_added_closes() -> None:
    comparison = compare([allow()], [allow(), deny(KILL)], call(KILL, "job/a"))
    assert shifts(comparison) == [(Shift.NEWLY_DENIED, KILL, 1)]
    assert (comparison.opens, comparison.closes) == (False, True)


def test_another_reason_neither_opens_nor_closes() -> None:
    comparison = compare([allow(READ)], [deny(KILL)], call(KILL, "job/a"))
    assert shifts(comparison) == [(Shift.OTHER_REASON, KILL, 1)]
    assert (comparison.opens, comparison.closes) == (False, False)


@pytest.mark.parametrize(
    ("before", "after", "shift"),
    [
        ("job/a*", "job/*", Shift.SHOWS_MORE),
        ("job/*", "job/a*", Shift.SHOWS_LESS),
        ("job/a*", "job/b*", Shift.SHOWS_OTHER),
    ],
)
def test_a_list_that_stays_allowed_says_if_it_shows_other_ids(
    before: str, after: str, shift: Shift
) -> None:
    listing = call("batch:DescribeJobs", "job/*", lists="job")
    region = "qcs::batch:gz::"
    comparison = compare([allow("*", region + before)], [allow("*", region + after)], listing)
    assert shifts(comparison) == [(shift, "batch:DescribeJobs", 1)]
    assert comparison.opens is (shift is not Shift.SHOWS_LESS)
    assert comparison.closes is (shift is not Shift.SHOWS_MORE)


def test_calls_that_were_answered_otherwise_or_recorded_in_part_are_counted() -> None:
    unlike = replace(call(KILL, "job/a"), is_partial=True)
    comparison = compare([allow(READ)], [allow(READ)], unlike, call(READ, "job/a"))
    assert (comparison.partial, comparison.otherwise_recorded) == (1, 1)


def test_a_caller_nobody_declares_is_allowed_nothing_on_either_side() -> None:
    known = call(READ, "job/a")
    stranger = replace(known.question.query.principal, uin="999")
    asked = structs.replace(known.question.query, principal=stranger)
    comparison = compare([allow()], [allow()], replace(known, question=Question(asked)))
    assert comparison.differences == ()
    assert comparison.otherwise_recorded == 1


CLAUSES = st.lists(
    st.builds(
        Clause,
        st.sampled_from(["*", "a*", "a", "ab", "*b", "a*b", ""]),
        st.sampled_from([(), (TEAM_A,), (TEAM_B,), (TEAM_A, TEAM_B)]),
    ),
    max_size=3,
).map(tuple)
SCOPES = st.builds(Scope, st.lists(CLAUSES, min_size=1, max_size=2).map(tuple), CLAUSES)
OUTCOMES = ("holds", "fails", "cannot be judged")


def shown(scope: Scope, id_: str, outcomes: dict[AttributeTest, str]) -> bool:
    """What a list shows, said plainly: a deny applies if a test cannot be judged."""

    def applies(clause: Clause, *, denies: bool) -> bool:
        found = [outcomes[test] for test in clause.tests]
        if "cannot be judged" in found:
            return denies and fits(clause.pattern, id_)
        return fits(clause.pattern, id_) and "fails" not in found

    return all(any(applies(one, denies=False) for one in layer) for layer in scope.allow) and (
        not any(applies(one, denies=True) for one in scope.deny)
    )


@settings(max_examples=400)
@given(before=SCOPES, after=SCOPES)
def test_a_list_that_shows_more_or_less_is_never_called_the_same(
    before: Scope, after: Scope
) -> None:
    decision = Decision(Effect.ALLOW, Reason.EXPLICIT_ALLOW, None, 1)
    shift = find_shift(Answer(decision, before), Answer(decision, after))
    opens = closes = False
    for id_ in ("a", "b", "ab", "aab", "", "x"):
        for first in OUTCOMES:
            for second in OUTCOMES:
                outcomes = {TEAM_A: first, TEAM_B: second}
                was, is_ = shown(before, id_, outcomes), shown(after, id_, outcomes)
                opens |= is_ and not was
                closes |= was and not is_
    if opens:
        assert shift in {Shift.SHOWS_MORE, Shift.SHOWS_OTHER}
    if closes:
        assert shift in {Shift.SHOWS_LESS, Shift.SHOWS_OTHER}
