"""Lists of topics and queues: what a policy lets be seen, with tags and without."""

from typing import Any

import pytest

from gateway.call import AttributeTest, Clause, Scope
from gateway.cmq.lists import Wanted
from gateway.cmq.queues import list_queues
from gateway.cmq.tags import TagFilter
from gateway.cmq.topics import list_topics
from gateway.errors import InvalidParameterValue
from gateway.store import Tx
from tests.support.cmq import Cmq
from tests.support.events import OWNER, REGION

pytestmark = pytest.mark.anyio
NAMES = ["a", "ab", "b"]
PROD = AttributeTest("string_equal", "qcs:resource_tag", ("env&prod",))
PROD_IF_EXIST = AttributeTest("string_equal_if_exist", "qcs:resource_tag", ("env&prod",))
MINE = AttributeTest("string_equal", "qcs:create_uin", (OWNER,))
NOT_MINE = AttributeTest("string_not_equal", "qcs:create_uin", (OWNER,))
UNTAGGED = AttributeTest("null_equal", "qcs:tag/env", ("true",))
CANNOT_BE_READ = AttributeTest("numeric_equal", "qcs:create_uin", ("${app_id}",))
NO_SUCH_TAG = AttributeTest("numeric_equal", "qcs:tag/level", ("${app_id}",))


def layer(*clauses: Clause) -> tuple[Clause, ...]:
    return clauses


@pytest.mark.parametrize(
    ("scope", "shown"),
    [
        (Scope(), NAMES),
        (Scope((layer(Clause("a*")), layer(Clause("*b")))), ["ab"]),
        (Scope((layer(Clause("*")), layer())), []),
        (Scope((layer(Clause("a*")),), deny=(Clause("ab"),)), ["a"]),
        (Scope((layer(Clause("*", (PROD,)), Clause("b")),)), ["b"]),
        (Scope((layer(Clause("*", (PROD_IF_EXIST,))),)), NAMES),
        (Scope((layer(Clause("a*", (PROD_IF_EXIST, UNTAGGED))),)), ["a", "ab"]),
        (Scope((layer(Clause("*", (NOT_MINE,))),)), []),
        (Scope(deny=(Clause("*", (PROD,)), Clause("*", (NOT_MINE,)))), NAMES),
        (Scope(deny=(Clause("b", (UNTAGGED,)), Clause("*", (NO_SUCH_TAG,)))), ["a", "ab"]),
        (Scope(deny=(Clause("a*", (CANNOT_BE_READ,)),)), ["b"]),
    ],
)
async def test_what_has_no_tags_is_listed_as_a_decision_on_it_would_be(
    cmq: Cmq, scope: Scope, shown: list[str]
) -> None:
    for name in NAMES:
        await cmq.call("CreateCmqTopic", TopicName=name)
        await cmq.call("CreateCmqQueue", QueueName=name)
    assert await lists(cmq, Wanted(scope=scope)) == [(len(shown), shown)] * 2


@pytest.mark.parametrize(
    ("scope", "shown"),
    [
        (Scope((layer(Clause("*", (PROD,))),)), ["a"]),
        (Scope((layer(Clause("*", (PROD_IF_EXIST,))),)), ["a", "b"]),
        (Scope((layer(Clause("*", (UNTAGGED,))),)), ["b"]),
        (Scope(deny=(Clause("*", (PROD,)),)), ["ab", "b"]),
        (Scope((layer(Clause("a*", (MINE,)), Clause("b")),), deny=(Clause("ab"),)), ["a", "b"]),
    ],
)
async def test_what_has_tags_is_listed_as_a_decision_on_it_would_be(
    cmq: Cmq, scope: Scope, shown: list[str]
) -> None:
    await make_tagged(cmq)
    assert await lists(cmq, Wanted(scope=scope)) == [(len(shown), shown)] * 2


@pytest.mark.parametrize(
    ("filters", "shown"),
    [
        ([TagFilter("env", ("prod", "dev"))], ["a", "ab"]),
        ([TagFilter("env", ("prod",)), TagFilter("team", ("x",))], ["a"]),
        ([TagFilter("env", ("Prod",))], []),
        ([TagFilter("env", ())], []),
        ([TagFilter("", ("prod",))], []),
    ],
)
async def test_a_filter_by_tags_narrows_a_list(
    cmq: Cmq, filters: list[TagFilter], shown: list[str]
) -> None:
    await make_tagged(cmq)
    assert await lists(cmq, Wanted(filters=filters)) == [(len(shown), shown)] * 2


@pytest.mark.parametrize("asked", [{}, {"IsTagFilter": True}, {"IsTagFilter": False}])
async def test_a_filter_by_tags_holds_whatever_else_is_said_of_it(
    cmq: Cmq, asked: dict[str, Any]
) -> None:
    await make_tagged(cmq)
    by_tag = {"Filters": [{"Name": "tag:env", "Values": ["dev"]}], **asked}
    topics = await cmq.call("DescribeCmqTopics", **by_tag)
    queues = await cmq.call("DescribeCmqQueues", **by_tag)
    assert [each["TopicName"] for each in topics["TopicList"]] == ["ab"]
    assert [each["QueueName"] for each in queues["QueueList"]] == ["ab"]


@pytest.mark.parametrize("kind", ["Topic", "Queue"])
async def test_more_names_or_a_longer_one_than_there_can_be_are_not_looked_for(
    cmq: Cmq, kind: str
) -> None:
    too_much: tuple[dict[str, Any], ...] = (
        {f"{kind}Name": "%" * 70_000},
        {f"{kind}NameList": ["a"] * 1_001},
    )
    for asked in too_much:
        with pytest.raises(InvalidParameterValue):
            await cmq.call(f"DescribeCmq{kind}s", **asked)
    longest: dict[str, Any] = {f"{kind}Name": "a" * 64, f"{kind}NameList": ["a"] * 1_000}
    assert (await cmq.call(f"DescribeCmq{kind}s", **longest))["TotalCount"] == 0


async def make_tagged(cmq: Cmq) -> None:
    """Topic and queue `a` of production, `ab` of development, `b` without tags."""
    for name, env in {"a": "prod", "ab": "dev"}.items():
        tags = [{"TagKey": "env", "TagValue": env}, {"TagKey": "team", "TagValue": "x"}]
        await cmq.call("CreateCmqTopic", TopicName=name, Tags=tags)
        await cmq.call("CreateCmqQueue", QueueName=name, Tags=tags)
    await cmq.call("CreateCmqTopic", TopicName="b")
    await cmq.call("CreateCmqQueue", QueueName="b")


async def lists(cmq: Cmq, wanted: Wanted) -> list[tuple[int, list[str]]]:
    """What the list of topics shows, and what the list of queues does."""

    def read(tx: Tx) -> list[tuple[int, list[str]]]:
        found = [
            list_all(tx, OWNER, region=REGION, wanted=wanted)
            for list_all in (list_topics, list_queues)
        ]
        return [(total, [each.name for each in page]) for total, page in found]

    return await cmq.store.read_list(read)
