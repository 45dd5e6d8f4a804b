"""Who is kept from a topic is kept from its subscriptions, by either API and however it is written.

A subscription carries no tags, so the topic is what a deny by a tag speaks of.
"""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.support.classic import ClassicClient, ClassicRefused
from tests.support.policies import OWNER, allow, change_policies, deny, write_policies
from tests.support.running import REGION, Gateway, Refused, running_gateway
from tests.support.sdk import Sdk

SHUT, OPEN = "Payroll", "Weather"
TOPIC = f"qcs::tdmq:{REGION}:uin/{OWNER}:topic/{SHUT}"
SUBSCRIPTION = f"qcs::tdmq:{REGION}:uin/{OWNER}:subscription/{SHUT}/hook"
OLD_TOPIC = f"qcs::cmqtopic:::topicName/uin/{OWNER}/{SHUT}"
SECRET = {"for_any_value:string_equal": {"qcs:resource_tag": "secret&yes"}}
EVERYTHING = allow("name/tdmq:*")
DENIES = {
    "byname": deny("name/tdmq:*", "qcs::tdmq:::topic/" + SHUT),
    "bytag": {**deny("name/tdmq:*"), "condition": SECRET},
    "bytagof": {**deny("name/tdmq:*", "qcs::tdmq:::topic/*"), "condition": SECRET},
}
OLD_DENIES = {
    "byold": deny("cmqtopic:*", OLD_TOPIC),
    "byoldtag": {**deny("cmqtopic:*"), "condition": SECRET},
}
"""As policies of the classic API have them; it alone obeys them."""
ACTIONS: dict[str, dict[str, str]] = {
    "ClearCmqSubscriptionFilterTags": {},
    "DeleteCmqSubscribe": {},
    "ModifyCmqSubscriptionAttribute": {"NotifyStrategy": "BACKOFF_RETRY"},
    "RevealCmqSubscriptionSecret": {},
    "RotateCmqSubscriptionSecret": {},
}
CLASSIC_ACTIONS: dict[str, dict[str, str]] = {
    "ClearSubscriptionFilterTags": {},
    "GetSubscriptionAttributes": {},
    "SetSubscriptionAttributes": {"notifyStrategy": "BACKOFF_RETRY"},
    "Unsubscribe": {},
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a topic that is shut to some, and one that is open to all."""
    with running_gateway(tmp_path_factory.mktemp("rights")) as running:
        write_policies(running.policies, {})
        denies = {**DENIES, **OLD_DENIES}
        change_policies(running, {who: [EVERYTHING, one] for who, one in denies.items()})
        root = Sdk(running, running.root)
        tags = [{"TagKey": "secret", "TagValue": "yes"}]
        for topic, own in ((SHUT, tags), (OPEN, [])):
            root("CreateCmqTopic", TopicName=topic, Tags=own)
            to = {"Protocol": "http", "Endpoint": "https://hooks.example.com/"}
            root("CreateCmqSubscribe", TopicName=topic, SubscriptionName="hook", **to)
        yield running


def refusal(sdk: Sdk, action: str, *, topic: str) -> Refused | None:
    """The denial of a call, if it is denied. On the open topic there is no such subscription."""
    name = "hook" if topic == SHUT else "another"
    try:
        sdk(action, TopicName=topic, SubscriptionName=name, **ACTIONS[action])
    except Refused as refused:
        return refused if refused.code == "UnauthorizedOperation" else None
    return None


def is_denied(classic: ClassicClient, action: str, *, topic: str) -> bool:
    name = "hook" if topic == SHUT else "another"
    try:
        classic(action, topicName=topic, subscriptionName=name, **CLASSIC_ACTIONS[action])
    except ClassicRefused as refused:
        return "(10461)" in refused.message
    return False


def of_root(gateway: Gateway) -> Any:
    """The subscription to the shut topic, as it is."""
    [found] = Sdk(gateway, gateway.root)("DescribeCmqSubscriptionDetail", TopicName=SHUT)[
        "SubscriptionSet"
    ]
    return found


@pytest.mark.parametrize("who", DENIES)
def test_a_deny_on_a_topic_holds_for_its_subscriptions(guarded: Gateway, who: str) -> None:
    before = of_root(guarded)
    call = partial(refusal, Sdk(guarded, guarded.key_of(who)))
    denied = [call(action, topic=SHUT) for action in ACTIONS]
    assert all(one is not None and f"resource ({TOPIC})" in one.message for one in denied)
    assert [call(action, topic=OPEN) for action in ACTIONS] == [None] * len(ACTIONS)
    assert of_root(guarded) == before


@pytest.mark.parametrize("who", [*DENIES, *OLD_DENIES])
def test_the_classic_api_obeys_it_and_what_old_policies_deny(guarded: Gateway, who: str) -> None:
    before = of_root(guarded)
    call = partial(is_denied, ClassicClient(guarded, guarded.key_of(who)))
    assert [action for action in CLASSIC_ACTIONS if not call(action, topic=SHUT)] == []
    assert [action for action in CLASSIC_ACTIONS if call(action, topic=OPEN)] == []
    assert of_root(guarded) == before


@pytest.mark.parametrize("who", DENIES)
def test_the_record_of_the_denial_names_the_topic(guarded: Gateway, who: str) -> None:
    sdk = Sdk(guarded, guarded.key_of(who))
    denied = refusal(sdk, "RotateCmqSubscriptionSecret", topic=SHUT)
    assert denied is not None
    shown = guarded.verb("decisions", "show", denied.request_id, "--json").stdout
    record = json.loads(shown)
    assert (record["Reason"], record["Resources"]) == ("explicit-deny", [SUBSCRIPTION])
    assert record["DenyOnly"] == [TOPIC]
    assert [each["Policy"] for each in record["Determining"]] == [who]
    assert f"  besides   {TOPIC}\n" in guarded.verb("decisions", "show", denied.request_id).stdout


@pytest.mark.parametrize("who", DENIES)
def test_policy_explain_says_it_of_a_call_that_was_not_made(guarded: Gateway, who: str) -> None:
    asked = ["--user", who, "--action", "tdmq:DeleteCmqSubscribe"]
    tag = f"{TOPIC}:qcs:resource_tag=secret&yes"
    shut = ["--resource", f"subscription/{SHUT}/hook", "--attribute", tag]
    explained = guarded.verb("policy", "explain", *asked, *shut)
    assert (explained.returncode, explained.stderr) == (1, "")
    assert explained.stdout.startswith(f"deny  explicit-deny  {who}/2\n  on        {TOPIC}\n")
    other = guarded.verb("policy", "explain", *asked, "--resource", f"subscription/{OPEN}/hook")
    assert other.returncode == 0
