"""Finding decisions: the last ones that fit, and new ones as they come."""

import json
from datetime import timedelta

import pytest

from gateway.call import Principal, Reason
from gateway.cam.decisions.queries import Filter, list_decisions, list_following
from gateway.policy.record import Outcome
from gateway.store import Store
from tests.support.decisions import ALLOWED, NOON, decision_log, make

pytestmark = pytest.mark.anyio

BOB = Principal("1", "3", "bob")
NAMED_LIKE_A_NUMBER = Principal("1", "4", "2")


def ids(records: list[bytes]) -> list[str]:
    return [json.loads(record)["RequestId"] for record in records]


@pytest.fixture
async def filled(store: Store) -> Store:
    """Five decisions, a minute apart."""
    log = decision_log(store)
    changes = [
        {},
        {"principal": BOB, "action": "batch:DescribeJobs", "decision": ALLOWED},
        {"principal": BOB, "action": "batch:DescribeJob"},
        {"action": "cam:GetUser", "decision": ALLOWED},
        {"principal": NAMED_LIKE_A_NUMBER, "action": "batch_Describe[Job]"},
    ]
    for number, change in enumerate(changes):
        time = NOON + timedelta(minutes=number)
        await log.record(make(f"r-{number}", time=time, **change), durably=True)
    return store


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(), ["r-4", "r-3", "r-2", "r-1", "r-0"]),
        (Filter(user="bob"), ["r-2", "r-1"]),
        (Filter(user="3"), ["r-2", "r-1"]),
        (Filter(user="2"), ["r-3", "r-0"]),
        (Filter(user="nobody"), []),
        (Filter(user="bob\x00"), []),
        (Filter(user="\udcff"), []),
        (Filter(action="\udcff*"), []),
        (Filter(action="batch:DescribeJob"), ["r-2"]),
        (Filter(action="batch:Describe*"), ["r-2", "r-1"]),
        (Filter(action="batch:describe*"), ["r-2", "r-1"]),
        (Filter(action="BATCH:submitJOB"), ["r-0"]),
        (Filter(action="name/batch:DescribeJob"), ["r-2"]),
        (Filter(action="name/batch:describe*"), ["r-2", "r-1"]),
        (Filter(action="*Job*"), ["r-4", "r-2", "r-1", "r-0"]),
        (Filter(action="batch_Describe[Job]*"), ["r-4"]),
        (Filter(action="batch_describe[job]"), ["r-4"]),
        (Filter(action="%"), []),
        (Filter(effect=Outcome.ALLOW), ["r-3", "r-1"]),
        (Filter(reason=Reason.IMPLICIT_DENY), ["r-4", "r-2", "r-0"]),
        (Filter(reason=Reason.EXPLICIT_ALLOW), ["r-3", "r-1"]),
        (Filter(effect=Outcome.ALLOW, reason=Reason.IMPLICIT_DENY), []),
        (Filter(user="bob", effect=Outcome.DENY), ["r-2"]),
        (Filter(effect=Outcome.REFUSED), []),
        (Filter(since=NOON + timedelta(minutes=3)), ["r-4", "r-3"]),
        (Filter(until=NOON + timedelta(minutes=1)), ["r-0"]),
    ],
)
async def test_a_filter_finds_what_fits_the_newest_first(
    filled: Store, wanted: Filter, found: list[str]
) -> None:
    assert ids(await filled.read_list(lambda tx: list_decisions(tx, wanted, limit=50))) == found


async def test_a_limit_leaves_the_newest(filled: Store) -> None:
    found = await filled.read_list(lambda tx: list_decisions(tx, Filter(), limit=2))
    assert ids(found) == ["r-4", "r-3"]


async def test_new_decisions_of_every_chain_follow_once_and_in_order(filled: Store) -> None:
    seen: dict[str, int] = {}
    assert len(await following(filled, seen)) == 5
    first, second = decision_log(filled), decision_log(filled)
    for number in range(5, 9):
        log = first if number % 2 else second
        await log.record(make(f"r-{number}", time=NOON), durably=True)
    found = await following(filled, seen)
    assert sorted(found) == ["r-5", "r-6", "r-7", "r-8"]
    assert found.index("r-5") < found.index("r-7")
    assert await following(filled, seen) == []
    await first.record(make("r-9", principal=BOB), durably=True)
    await first.record(make("r-10"), durably=True)
    assert await following(filled, seen, Filter(user="bob")) == ["r-9"]
    assert await following(filled, seen) == []


async def following(store: Store, seen: dict[str, int], wanted: Filter | None = None) -> list[str]:
    wanted = wanted or Filter()
    return ids(await store.read_list(lambda tx: list_following(tx, wanted, seen=seen)))
