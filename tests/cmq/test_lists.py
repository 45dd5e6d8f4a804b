"""Lists of topics and queues: what a policy lets be seen of things that carry no attributes."""

import pytest

from gateway.call import AttributeTest, Clause, Scope
from gateway.cmq.queues import list_queues
from gateway.cmq.topics import list_topics
from gateway.store import Tx
from tests.support.cmq import Cmq
from tests.support.events import OWNER, REGION

pytestmark = pytest.mark.anyio
NAMES = ["a", "ab", "b"]
PROD = AttributeTest("string_equal", "qcs:resource_tag", ("env&prod",))
PROD_IF_EXIST = AttributeTest("string_equal_if_exist", "qcs:resource_tag", ("env&prod",))
NOT_MINE = AttributeTest("string_not_equal", "qcs:create_uin", (OWNER,))
UNTAGGED = AttributeTest("null_equal", "qcs:tag/env", ("true",))
CANNOT_BE_READ = AttributeTest("numeric_equal", "qcs:create_uin", ("${app_id}",))


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
        (Scope(deny=(Clause("b", (UNTAGGED,)), Clause("*", (CANNOT_BE_READ,)))), ["a", "ab"]),
    ],
)
async def test_what_has_no_attributes_is_listed_as_a_decision_on_it_would_be(
    cmq: Cmq, scope: Scope, shown: list[str]
) -> None:
    for name in NAMES:
        await cmq.call("CreateCmqTopic", TopicName=name)
        await cmq.call("CreateCmqQueue", QueueName=name)

    def read(tx: Tx) -> list[tuple[int, list[str]]]:
        lists = [
            list_all(tx, OWNER, region=REGION, search="", names=(), scope=scope, page=(0, 10))
            for list_all in (list_topics, list_queues)
        ]
        return [(total, [each.name for each in found]) for total, found in lists]

    assert await cmq.store.read_list(read) == [(len(shown), shown)] * 2
