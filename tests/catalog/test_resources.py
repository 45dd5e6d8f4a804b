"""The resources of a call, named whatever its parameters look like."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalog import ACTIONS, CLASSIC, Action, Named, find, resources_of
from gateway.catalog.resources import RESOURCES_MAX, denied_besides, template
from gateway.errors import ApiError, InvalidParameter, InvalidParameterValue, MissingParameter

BATCH = "qcs::batch:ap-guangzhou:uin/100:"
TDMQ = "qcs::tdmq:ap-guangzhou:uin/100:"


def named(service: str, version: str, name: str, params: Mapping[str, Any]) -> Named:
    action = find(service, version, name)
    return resources_of(action, params=params, owner_uin="100", region="ap-guangzhou")


def batch(name: str, params: Mapping[str, Any]) -> Named:
    return named("batch", "2017-03-12", name, params)


def tdmq(name: str, params: Mapping[str, Any]) -> Named:
    return named("tdmq", "2020-02-17", name, params)


def cam(name: str, params: Mapping[str, Any]) -> Named:
    return named("cam", "2019-01-16", name, params)


def classic(name: str, params: Mapping[str, Any]) -> Named:
    return named("cmq", CLASSIC, name, params)


def texts(resources: tuple[object, ...]) -> list[str]:
    return [str(resource) for resource in resources]


def test_an_action_on_one_job_names_it() -> None:
    found = batch("TerminateJob", {"JobId": "job-aaaaaaaa"})
    assert texts(found.resources) == [BATCH + "job/job-aaaaaaaa"]
    assert found.deny_only == ()
    assert found.lists is None


def test_the_stream_of_events_names_what_is_asked_for_and_lists_jobs_if_nothing_is() -> None:
    found = batch("DescribeEvents", {"EnvId": ["env-a"]})
    assert (texts(found.resources), found.lists) == ([BATCH + "computeenv/env-a"], None)
    found = batch("DescribeEvents", {"JobId": ["job-a", "job-b"], "EnvId": ["env-a"]})
    named = ["job/job-a", "job/job-b", "computeenv/env-a"]
    assert texts(found.resources) == [BATCH + one for one in named]
    found = batch("DescribeEvents", {"EventName": ["JOB_FAILED"]})
    assert (texts(found.resources), found.lists) == ([BATCH + "job/*"], "job")


def test_creating_names_the_type_with_a_literal_star() -> None:
    assert texts(batch("CreateComputeEnv", {}).resources) == [BATCH + "computeenv/*"]
    assert texts(batch("SubmitJob", {}).resources) == [BATCH + "job/*"]
    assert texts(batch("CreateCpmComputeEnv", {}).resources) == [BATCH + "computeenv/*"]


def test_submit_job_names_the_environments_of_its_tasks_for_a_deny_only_each_once() -> None:
    tasks = [{"EnvId": "env-b"}, {"ComputeEnv": {}}, {"EnvId": "env-a"}, {"EnvId": "env-b"}]
    found = batch("SubmitJob", {"Job": {"Tasks": [*tasks, {"EnvId": ""}, {"EnvId": None}]}})
    assert texts(found.resources) == [BATCH + "job/*"]
    assert texts(found.deny_only) == [BATCH + "computeenv/env-b", BATCH + "computeenv/env-a"]


@pytest.mark.parametrize(
    "spelled",
    [
        {"Notifications": [{"TopicName": "t"}]},
        {"Notifications": {"TopicName": "t"}},
        {"notifications": [{"topic_name": "t"}]},
        {"notifications": {"TopicName": "t"}},
        {"Notifications": [{"topic_name": "t"}]},
    ],
)
@pytest.mark.parametrize(
    ("action", "within"), [("SubmitJob", "Job"), ("CreateComputeEnv", "ComputeEnv")]
)
def test_a_topic_to_be_told_on_is_named_for_a_deny_in_every_spelling(
    action: str, within: str, spelled: Mapping[str, Any]
) -> None:
    found = batch(action, {within: spelled})
    assert texts(found.deny_only) == [BATCH.replace("batch", "tdmq") + "topic/t"]


@pytest.mark.parametrize(
    "params",
    [
        {"Job": "x"},
        {"Job": []},
        {"Job": {"Tasks": ["env-a"]}},
        {"Job": {"Tasks": [None]}},
        {"Job": {"Tasks": [{"EnvId": ["env-a"]}]}},
        {"Job": {"Tasks": [{"EnvId": 5}]}},
    ],
)
def test_an_environment_hidden_in_a_wrong_type_is_refused(params: Mapping[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match="value type of parameter `Job"):
        batch("SubmitJob", params)


@pytest.mark.parametrize(
    "name",
    [
        "DescribeAvailableCvmInstanceTypes",
        "DescribeCvmZoneInstanceConfigInfos",
        "DescribeInstanceCategories",
        "DescribeJobMonitorData",
    ],
)
def test_the_four_actions_without_resource_level_need_the_star(name: str) -> None:
    assert texts(batch(name, {}).resources) == ["*"]


def test_monitor_data_names_its_job_for_a_deny_only() -> None:
    found = batch("DescribeJobMonitorData", {"JobId": "job-aaaaaaaa"})
    assert texts(found.deny_only) == [BATCH + "job/job-aaaaaaaa"]


def test_several_ids_are_all_named_each_once_in_their_order() -> None:
    found = batch("RetryJobs", {"JobIds": ["job-b", "job-a", "job-b"]})
    assert texts(found.resources) == [BATCH + "job/job-b", BATCH + "job/job-a"]


def test_a_list_with_ids_names_them_and_is_decided_like_any_other_call() -> None:
    found = batch("DescribeJobs", {"JobIds": ["job-a", "job-b"]})
    assert texts(found.resources) == [BATCH + "job/job-a", BATCH + "job/job-b"]
    assert found.lists is None


@pytest.mark.parametrize("params", [{}, {"JobIds": []}, {"JobIds": None}])
def test_a_list_without_ids_names_the_type_it_lists(params: Mapping[str, Any]) -> None:
    found = batch("DescribeJobs", params)
    assert (texts(found.resources), found.lists) == ([BATCH + "job/*"], "job")


def test_a_filter_on_ids_is_still_a_list() -> None:
    params = {"Filters": [{"Name": "env-id", "Values": ["env-a"]}]}
    found = batch("DescribeComputeEnvs", params)
    assert (texts(found.resources), found.lists) == ([BATCH + "computeenv/*"], "computeenv")


def test_a_list_of_the_accounts_own_names_no_region() -> None:
    found = cam("DescribeDecision", {})
    assert (texts(found.resources), found.lists) == (["qcs::cam::uin/100:uin/*"], "uin")


@pytest.mark.parametrize("params", [{}, {"JobIds": None}])
def test_ids_that_are_needed_and_absent_are_missed(params: Mapping[str, Any]) -> None:
    with pytest.raises(MissingParameter) as caught:
        batch("RetryJobs", params)
    assert caught.value.message == "The request is missing a required parameter `JobIds`."


@pytest.mark.parametrize(
    ("action", "name"), [("RetryJobs", "JobIds"), ("DeleteTaskTemplates", "TaskTemplateIds")]
)
def test_a_list_that_is_needed_and_empty_was_given_all_the_same(action: str, name: str) -> None:
    with pytest.raises(InvalidParameterValue) as caught:
        batch(action, {name: []})
    assert caught.value.message == f"`{name}` is empty; it must name at least one."


@pytest.mark.parametrize("value", [5, True, 1.5, {}, [], ["job-a"], {"JobId": "job-a"}])
def test_an_id_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(InvalidParameter) as caught:
        batch("DescribeJob", {"JobId": value})
    assert caught.value.message == "The value type of parameter `JobId` is not valid."


@pytest.mark.parametrize("value", ["job-a", {"0": "job-a"}, [["job-a"]], ["job-a", None], 7])
def test_a_list_of_ids_of_another_type_is_refused(value: object) -> None:
    for name in ("RetryJobs", "DescribeJobs"):
        with pytest.raises(InvalidParameter, match="`JobIds"):
            batch(name, {"JobIds": value})


def test_a_call_may_not_name_more_resources_than_can_be_decided() -> None:
    ids = [f"job-{number}" for number in range(RESOURCES_MAX + 1)]
    assert len(batch("RetryJobs", {"JobIds": ids[:-1] * 2}).resources) == RESOURCES_MAX
    with pytest.raises(InvalidParameterValue) as caught:
        batch("RetryJobs", {"JobIds": ids})
    assert caught.value.code == "InvalidParameterValue.LimitExceeded"


def test_subscribing_is_decided_on_the_topic_and_a_deny_on_the_rest_holds() -> None:
    params = {"TopicName": "t", "SubscriptionName": "s", "Protocol": "queue", "Endpoint": "q"}
    found = tdmq("CreateCmqSubscribe", params)
    assert texts(found.resources) == [TDMQ + "topic/t"]
    assert texts(found.deny_only) == [TDMQ + "subscription/t/s", TDMQ + "queue/q"]
    pushed = tdmq("CreateCmqSubscribe", {**params, "Protocol": "http", "Endpoint": "http://a/"})
    assert texts(pushed.deny_only) == [TDMQ + "subscription/t/s"]


def test_a_subscription_is_named_by_topic_and_own_name_as_they_are_written() -> None:
    found = tdmq("DeleteCmqSubscribe", {"TopicName": "Jobs", "SubscriptionName": "All"})
    assert texts(found.resources) == [TDMQ + "subscription/Jobs/All"]
    with pytest.raises(MissingParameter, match="SubscriptionName"):
        tdmq("DeleteCmqSubscribe", {"TopicName": "Jobs"})


OF_A_SUBSCRIPTION = [
    action
    for action in ACTIONS
    if any(path.literals[0] == "subscription/" for group in action.resource.named for path in group)
]
OLD_TOPIC = "qcs::cmqtopic:ap-guangzhou:uin/100:topicName/uin/100/t"


@pytest.mark.parametrize("action", OF_A_SUBSCRIPTION, ids=lambda action: str(action.name))
def test_what_is_done_to_a_subscription_is_looked_at_for_a_deny_on_its_topic(
    action: Action,
) -> None:
    names = {"TopicName": "t", "SubscriptionName": "s", "topicName": "t", "subscriptionName": "s"}
    found = resources_of(action, params=names, owner_uin="100", region="ap-guangzhou")
    assert texts(found.resources) == [TDMQ + "subscription/t/s"]
    of_classic = [OLD_TOPIC] if action.version == CLASSIC else []
    assert texts(found.deny_only) == [TDMQ + "topic/t", *of_classic]


def test_nine_actions_are_done_to_a_subscription() -> None:
    assert len(OF_A_SUBSCRIPTION) == 9


def test_a_path_tells_what_else_is_looked_at_for_a_deny() -> None:
    resource = template("subscription/${T}/${S}", "topic/${T}", "old:topic/${T}", "queue/${Q}")
    assert list(denied_besides(resource, "subscription/t/s")) == ["topic/t"]
    for path in ("subscription/*/s", "subscription/*", "subscription/t", "topic/t", "*"):
        assert list(denied_besides(resource, path)) == []


def test_creating_a_queue_needs_the_star_and_a_deny_on_its_name_holds() -> None:
    found = tdmq("CreateCmqQueue", {"QueueName": "q"})
    assert texts(found.resources) == ["*"]
    assert texts(found.deny_only) == [TDMQ + "queue/q"]


def test_subscriptions_are_seen_with_their_topic_or_with_their_queue_or_with_both() -> None:
    name = "DescribeCmqSubscriptionDetail"
    assert texts(tdmq(name, {"TopicName": "t"}).resources) == [TDMQ + "topic/t"]
    assert texts(tdmq(name, {"QueueName": "q"}).resources) == [TDMQ + "queue/q"]
    both = tdmq(name, {"TopicName": "t", "QueueName": "q"})
    assert texts(both.resources) == [TDMQ + "topic/t", TDMQ + "queue/q"]
    with pytest.raises(MissingParameter, match="TopicName"):
        tdmq(name, {})


def test_a_classic_call_has_the_new_name_and_a_deny_on_the_old_one_holds() -> None:
    found = classic("ReceiveMessage", {"queueName": "Q1"})
    assert texts(found.resources) == [TDMQ + "queue/Q1"]
    assert texts(found.deny_only) == ["qcs::cmqqueue:ap-guangzhou:uin/100:queueName/uin/100/Q1"]
    action = find("cmq", CLASSIC, "ReceiveMessage")
    assert action.policy_action == "tdmq:ReceiveMessage"
    assert action.deny_only_action == "cmqqueue:ReceiveMessage"


def test_a_classic_subscription_knows_the_old_names_of_its_topic_and_its_queue() -> None:
    params = {"topicName": "t", "subscriptionName": "s", "protocol": "queue", "endpoint": "q"}
    assert texts(classic("Subscribe", params).resources) == [TDMQ + "topic/t"]
    assert texts(classic("Subscribe", params).deny_only) == [
        TDMQ + "subscription/t/s",
        TDMQ + "queue/q",
        "qcs::cmqqueue:ap-guangzhou:uin/100:queueName/uin/100/q",
        "qcs::cmqtopic:ap-guangzhou:uin/100:topicName/uin/100/t",
    ]


def test_creating_a_classic_queue_is_decided_like_creating_one_with_the_new_api() -> None:
    found = classic("CreateQueue", {"queueName": "q"})
    assert texts(found.resources) == ["*"]
    assert TDMQ + "queue/q" in texts(found.deny_only)


def test_a_policy_attached_to_a_user_names_both_and_no_region() -> None:
    found = cam("AttachUserPolicy", {"PolicyId": 7, "AttachUin": "101"})
    assert texts(found.resources) == ["qcs::cam::uin/100:policyid/7", "qcs::cam::uin/100:uin/101"]


@pytest.mark.parametrize("number", ["007", "+7", " 7", "7.0", 7.0, True, -7, "\u0667", "1e3", ""])
def test_a_number_that_could_be_written_in_two_ways_is_refused(number: object) -> None:
    with pytest.raises(InvalidParameter, match="PolicyId"):
        cam("GetPolicy", {"PolicyId": number})


def test_a_group_without_its_number_is_missed_although_another_has_one() -> None:
    with pytest.raises(MissingParameter, match=r"`Info\[1\]\.GroupId`"):
        cam("AddUserToGroup", {"Info": [{"GroupId": 1, "Uin": 2}, {"Uin": 3}]})


def test_a_role_is_named_by_its_id_or_its_name() -> None:
    assert texts(cam("GetRole", {"RoleId": "46"}).resources) == ["qcs::cam::uin/100:role/46"]
    assert texts(cam("GetRole", {"RoleName": "r"}).resources) == ["qcs::cam::uin/100:roleName/r"]
    with pytest.raises(MissingParameter):
        cam("GetRole", {})


def test_a_role_asked_for_is_the_resource_in_whatever_account_it_is() -> None:
    params = {"RoleArn": "qcs::cam::uin/200:roleName/r"}
    found = named("sts", "2018-08-13", "AssumeRole", params)
    assert texts(found.resources) == ["qcs::cam::uin/200:roleName/r"]
    with pytest.raises(InvalidParameter):
        named("sts", "2018-08-13", "AssumeRole", {"RoleArn": "qcs::cam::uin/200:*"})


def test_anybody_may_be_asked_who_they_are_on_the_star() -> None:
    assert texts(named("sts", "2018-08-13", "GetCallerIdentity", {}).resources) == ["*"]


def test_a_template_that_is_no_path_is_a_bug() -> None:
    with pytest.raises(ValueError, match="not a resource template"):
        template("job/${JobId} when nothing")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["Tasks", "EnvId", "GroupId", "Uin", "x"]), inner)
    ),
    max_leaves=8,
)
parameter_names = sorted(
    {
        placeholder.steps[0].name
        for action in ACTIONS
        for path in (*(p for g in action.resource.named for p in g), *action.resource.deny_only)
        for placeholder in path.placeholders
        if placeholder.steps
    }
    | {"Protocol", "protocol"}
)


@given(
    action=st.sampled_from(ACTIONS),
    params=st.dictionaries(st.sampled_from(parameter_names), json_values, max_size=6),
)
def test_any_parameters_are_named_or_refused_and_never_name_nothing(
    action: Action, params: dict[str, Any]
) -> None:
    try:
        found = resources_of(action, params=params, owner_uin="100", region="gz")
    except ApiError as error:
        assert error.family in {"MissingParameter", "InvalidParameter", "InvalidParameterValue"}  # noqa: PT017
    else:
        assert found.resources
        assert all(isinstance(r.path, str) for r in found.resources + found.deny_only)


@pytest.mark.parametrize("job_id", ["*", "job-*", "a" * 513])
def test_what_nothing_can_be_called_is_refused_before_any_decision(job_id: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        batch("DescribeJob", {"JobId": job_id})
    assert refused.value.code == "InvalidParameter.JobIdMalformed"
    with pytest.raises(InvalidParameter) as refused:
        batch("DescribeJobs", {"JobIds": ["job-00000000", job_id]})
    assert refused.value.code == "InvalidParameter.JobIdMalformed"
    task = {"Tasks": [{"EnvId": job_id}]}
    with pytest.raises(InvalidParameter) as refused:
        batch("SubmitJob", {"Job": task})
    assert refused.value.code == "InvalidParameter.EnvIdMalformed"
    with pytest.raises(InvalidParameterValue):
        named("tdmq", "2020-02-17", "DeleteCmqTopic", {"TopicName": job_id})
