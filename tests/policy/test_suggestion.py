"""The least privilege: enough for every call it was made from, and for little else."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.call import Effect, Principal, Resource
from gateway.policy.accounts import Account, CustomPolicy, User
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.document import LENGTH_MAX, parse
from gateway.policy.question import Question, RecordedCall
from gateway.policy.snapshot import build_snapshot
from gateway.policy.suggestion import Needs, Suggestion
from tests.policy.policies import ANN, OWNER, UIN, batch, evaluator, query

pytestmark = pytest.mark.usefixtures("each_evaluator")

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
READ, KILL, LIST = "batch:DescribeJob", "batch:TerminateJob", "batch:DescribeJobs"
WITHOUT_LEVEL = "batch:DescribeInstanceCategories"


def call(action: str, *resources: Resource, lists: str = "", minutes: int = 0) -> RecordedCall:
    question = Question(query(action, *resources), lists)
    time = NOON + timedelta(minutes=minutes)
    return RecordedCall(f"request-{minutes}", time, question, Effect.ALLOW)


def needs_of(calls: Iterable[RecordedCall]) -> Needs:
    needs = Needs()
    for one in calls:
        needs.add(one)
    return needs


def suggest(*calls: RecordedCall, **options: Any) -> Suggestion:
    return needs_of(calls).suggest(**options)


def statements(suggestion: Suggestion) -> list[tuple[list[str], list[str]]]:
    return [
        (one["action"], one["resource"])
        for document in suggestion.documents
        for one in document["statement"]
    ]


def deciding_by(documents: Sequence[dict[str, Any]]) -> DecisionPoint:
    """A user who has the suggested policies and nothing else; each is one that CAM takes."""
    parsed = {}
    for number, written in enumerate(documents):
        text = json.dumps(written, indent=2, ensure_ascii=False)
        assert len("".join(text.split())) <= LENGTH_MAX
        parsed[f"p{number}"] = parse(text, name=f"p{number}")
    account = Account(
        uin=OWNER,
        policies=tuple(CustomPolicy(name) for name in parsed),
        users=(User("ann", UIN, policies=tuple(parsed)),),
    )
    snapshot = build_snapshot([account], presets={}, custom={OWNER: parsed}, generation=1)
    return DecisionPoint(evaluator(), snapshot)


def jobs(count: int) -> list[Resource]:
    return [batch(f"job/job-{number}") for number in range(count)]


def texts(resources: Iterable[Resource]) -> list[str]:
    return sorted(str(one) for one in resources)


def test_actions_on_the_same_resources_stand_in_one_statement() -> None:
    [a, b] = jobs(2)
    found = suggest(call(KILL, a), call(READ, a), call(KILL, b), call(READ, b), call(LIST, a))
    assert statements(found) == [([READ, KILL], texts([a, b])), ([LIST], texts([a]))]


@pytest.mark.parametrize(("count", "generalised"), [(5, False), (6, True)])
def test_many_ids_of_one_type_become_the_type_for_the_action_that_had_them(
    count: int, generalised: bool
) -> None:
    calls = [call(READ, one) for one in jobs(count)]
    [killed] = jobs(1)
    calls.append(call(KILL, killed))
    found = {action: resources for [action], resources in statements(suggest(*calls))}
    assert found[READ] == (texts([batch("job/*")]) if generalised else texts(jobs(count)))
    assert found[KILL] == texts([killed])


def test_ids_are_kept_if_asked() -> None:
    calls = [call(READ, one) for one in jobs(40)]
    assert statements(suggest(*calls, keep_ids=True)) == [([READ], texts(jobs(40)))]


def test_ids_are_counted_by_region_and_type() -> None:
    resources = [batch("job/a"), batch("job/b", region="ap-beijing"), batch("computeenv/a")]
    calls = [call(READ, one) for one in resources]
    assert statements(suggest(*calls, ids_max=1)) == [([READ], texts(resources))]


def test_a_list_needs_its_whole_type_and_then_no_ids() -> None:
    found = suggest(call(LIST, batch("job/*"), lists="job"), call(LIST, batch("job/a")))
    assert statements(found) == [([LIST], texts([batch("job/*")]))]


def test_an_action_without_resource_level_gets_the_resource_that_the_guide_asks_for() -> None:
    assert statements(suggest(call(WITHOUT_LEVEL, batch("*")))) == [([WITHOUT_LEVEL], ["*"])]


def test_what_no_policy_can_allow_is_left_out_and_said() -> None:
    foreign, strange = batch("job/a", owner="999"), batch("job/a", region="Nowhere!")
    found = suggest(call(READ, foreign), call(READ, strange))
    assert found.documents == ()
    assert set(found.left_out) == {str(foreign), str(strange)}


@pytest.mark.parametrize("id_", ["${uin}", "x" * 5_000])
def test_an_id_that_no_pattern_can_name_becomes_its_type(id_: str) -> None:
    found = suggest(call(READ, batch(f"job/{id_}")), keep_ids=True)
    assert statements(found) == [([READ], texts([batch("job/*")]))]


def test_nothing_that_was_called_needs_nothing() -> None:
    assert suggest() == Suggestion((), ())


def test_it_is_known_what_it_was_made_from() -> None:
    needs = needs_of(call(READ, batch("job/a"), minutes=at) for at in (3, 1, 2))
    assert needs.calls == 3
    assert needs.first == NOON + timedelta(minutes=1)
    assert needs.last == NOON + timedelta(minutes=3)


def test_what_does_not_fit_into_one_document_is_split_into_ones_that_each_do() -> None:
    actions = [f"batch:{'Describe' * 8}{number}" for number in range(120)]
    calls = [call(action, one) for action in actions for one in jobs(3)]
    calls += [call(READ, batch(f"job/{'é' * 300}-{number}")) for number in range(60)]
    found = suggest(*calls, keep_ids=True)
    policies = deciding_by(found.documents)
    assert len(found.documents) > 3
    assert all(one.question.decide(policies).decision.allowed for one in calls)


IDS = st.one_of(
    st.sampled_from(["a", "b", "c", "d", "e", "f", "a/b", "a:b", 'q"', "x y", "é\n"]),
    st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="*$"), min_size=1, max_size=9
    ),
)
PLACES = st.sampled_from(
    [("batch", "ap-guangzhou"), ("batch", "ap-beijing"), ("tdmq", "ap-beijing"), ("cam", "")]
)
"""Where resources are; only those of services without regions have none."""
RESOURCES = st.builds(
    lambda place, kind, id_: Resource(place[0], place[1], OWNER, f"{kind}/{id_}"),
    PLACES,
    st.sampled_from(["job", "queue"]),
    IDS,
)
CALLS = st.one_of(
    st.builds(call, st.sampled_from([READ, KILL]), RESOURCES),
    st.builds(call, st.sampled_from([READ, KILL]), RESOURCES, RESOURCES),
    st.builds(lambda region: call(WITHOUT_LEVEL, batch("*", region=region)), st.just("ap-beijing")),
    st.builds(
        lambda region: call(LIST, batch("job/*", region=region), lists="job"),
        st.sampled_from(["ap-guangzhou", "ap-beijing"]),
    ),
)


@settings(max_examples=150)
@given(calls=st.lists(CALLS, max_size=30), keep_ids=st.booleans())
def test_every_call_it_was_made_from_is_allowed_by_it_alone(
    calls: list[RecordedCall], keep_ids: bool
) -> None:
    found = suggest(*calls, keep_ids=keep_ids, ids_max=2)
    assert found.left_out == ()
    policies = deciding_by(found.documents)
    for one in calls:
        assert one.question.decide(policies).decision.allowed, str(one.question.query.resources)


@settings(max_examples=150)
@given(made=st.lists(CALLS, max_size=15), others=st.lists(CALLS, max_size=15))
def test_with_ids_kept_nothing_else_is_allowed(
    made: list[RecordedCall], others: list[RecordedCall]
) -> None:
    policies = deciding_by(suggest(*made, keep_ids=True).documents)
    needed = {
        (one.question.query.action, resource)
        for one in made
        for resource in one.question.query.resources
    }
    for other in others:
        asked = other.question.query
        expected = all((asked.action, resource) in needed for resource in asked.resources)
        assert other.question.decide(policies).decision.allowed is expected


def test_a_stranger_with_the_suggestion_attached_to_someone_else_may_do_nothing() -> None:
    made = call(READ, batch("job/a"))
    policies = deciding_by(suggest(made).documents)
    stranger = Principal(owner_uin=OWNER, uin="999", name="stranger")
    assert policies.decide(query(READ, batch("job/a"), principal=ANN)).allowed
    assert not policies.decide(query(READ, batch("job/a"), principal=stranger)).allowed


def test_a_list_of_a_part_needs_that_part_and_not_its_whole_type() -> None:
    shown = replace(call(LIST, batch("job/*"), lists="job"), shown_by=("qcs::batch:::job/a-*",))
    assert statements(suggest(shown)) == [([LIST], [str(batch("job/a-*"))])]
    wide = replace(shown, shown_by=("qcs::batch:::job/a-*", "*"))
    assert statements(suggest(wide)) == [([LIST], [str(batch("job/*"))])]
    own = replace(shown, shown_by=("qcs::batch:::job/${uin}",))
    [(_, [text])] = statements(suggest(own))
    assert text.endswith("job/${uin}")
