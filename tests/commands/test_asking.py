"""From what was typed to the query that the pipeline would make of a real call."""

from datetime import UTC, datetime

import pytest

from gateway import catalog
from gateway.call import Principal, Resource
from gateway.catalog import ACTIONS, Action
from gateway.commands.asking import (
    Circumstances,
    ask,
    can_name,
    deny_only_action,
    find_actions,
    read_attributes,
    resource_named,
)

REGION, OWNER = "ap-guangzhou", "100"
ANN = Principal(owner_uin=OWNER, uin="200", name="ann")
KNOWN = Circumstances(REGION, datetime(2026, 11, 21, tzinfo=UTC))
FIRST = {action.policy_action: action for action in reversed(ACTIONS)}
SIMPLE = {
    name: action
    for name, action in FIRST.items()
    if not action.is_list
    and not any(path.placeholders for group in action.resource.named for path in group)
}
"""Actions that are decided on the same, whatever their parameters say."""


@pytest.mark.parametrize("action", SIMPLE.values(), ids=SIMPLE)
def test_an_action_is_asked_on_what_the_pipeline_decides_it_on(action: Action) -> None:
    named = catalog.resources_of(action, params={}, owner_uin=OWNER, region=REGION)
    question = ask(ANN, action.policy_action, known=KNOWN)
    assert question.query.resources == named.resources
    for resource in named.resources:
        text, name = str(resource), action.policy_action
        assert resource_named(text, action=name, owner_uin=OWNER, region=REGION) == resource
        assert can_name(name, resource)


@pytest.mark.parametrize(
    "action", [one for one in ACTIONS if one.is_list], ids=lambda one: one.name
)
def test_a_list_is_asked_on_the_type_that_the_pipeline_lists(action: Action) -> None:
    named = catalog.resources_of(action, params={}, owner_uin=OWNER, region=REGION)
    question = ask(ANN, action.policy_action, known=KNOWN)
    assert question.lists == named.lists
    assert question.query.resources == named.resources
    listed = ask(ANN, action.policy_action, lists=named.lists or "", known=KNOWN)
    assert listed == question


def test_a_classic_call_is_told_from_its_successor_by_what_it_names() -> None:
    old = Resource("cmqqueue", REGION, OWNER, "queueName/uin/200/orders")
    new = Resource("tdmq", REGION, OWNER, "queue/orders")
    assert deny_only_action("tdmq:DeleteCmqQueue", [old]) == "cmqqueue:DeleteQueue"
    assert deny_only_action("tdmq:DeleteCmqQueue", [new]) == ""
    assert deny_only_action("batch:SubmitJob", [new]) == "tdmq:PublishCmqMsg"
    assert deny_only_action("batch:TerminateJob", []) == ""
    assert deny_only_action("cos:GetObject", []) == ""


def test_actions_are_found_in_any_letter_case_and_by_pattern() -> None:
    assert find_actions("name/batch:submitjob") == ["batch:SubmitJob"]
    assert find_actions("cos:GetObject") == ["cos:GetObject"]
    assert set(find_actions("batch:*NodeS")) == {"batch:TerminateComputeNodes"}


def test_a_tag_is_known_by_all_its_keys() -> None:
    written = "qcs::batch:gz:uin/100:job/job-a:qcs:resource_tag=team&a=b"
    assert read_attributes([written]) == {
        "qcs::batch:ap-guangzhou:uin/100:job/job-a": {
            "qcs:resource_tag": ("team&a=b",),
            "qcs:tag": ("team&a=b",),
            "qcs:tag/team": ("a=b",),
        }
    }
