"""Lists: filters, what a policy lets be seen, paging; on every kind of database."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import insert

from gateway.batch.tables import job
from gateway.call import Clause, Scope
from gateway.errors import ApiError
from gateway.store import Store
from tests.support.batch import OWNER, REGION, START, ZONE, Batch, a_job, a_task

pytestmark = pytest.mark.anyio
NAMES = ["aaaaaaaa", "aaaaaaab", "aabbbbbb", "bbbbbbbb", "b0000000", "00000000"]


def scope_of(*allow: str, deny: Sequence[str] = ()) -> Scope:
    """One layer, without tests: what a policy without conditions comes to."""
    return Scope((tuple(map(Clause, allow)),), tuple(map(Clause, deny)))


SCOPES = [
    Scope(),
    scope_of(),
    scope_of("*", deny=["*"]),
    scope_of("job-aaaaaaaa"),
    scope_of("job-a*", deny=["job-aaaaaaa*"]),
    scope_of("job-*b", "job-0*"),
    scope_of("*a*b*"),
    scope_of("*", deny=["job-aaaaaaaa", "*bbb*"]),
    scope_of("job-aaaaaaaa", "job-aaaaaaaa*", deny=[""]),
    # not one of these is a wildcard
    scope_of("job-aaaaaaa?", "job-%", "job-________", "job-[ab]*", "JOB-A*", ".*", "job-a\\*"),
    scope_of("*", deny=["%", "_*", "?*", "[a-z]*", "JOB-*", "' OR 1=1 --", "job-aaaaaaaa\x00"]),
    scope_of(*(f"job-{n:08}*" for n in range(3_000)), deny=["*\ud800*"]),
]


def shown(scope: Scope) -> list[str]:
    """The reference: every id, in the order of the list, that the scope lets be seen."""

    def matches(pattern: str, id_: str) -> bool:
        return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), id_) is not None

    return [
        id_
        for id_ in sorted(f"job-{name}" for name in NAMES)
        if all(any(matches(clause.pattern, id_) for clause in layer) for layer in scope.allow)
        and not any(matches(clause.pattern, id_) for clause in scope.deny)
    ]


@pytest.fixture
async def stored(store: Store) -> None:
    """Jobs with known ids, all of one moment, and one of another account and region each."""
    row = {
        "owner_uin": OWNER,
        "region": REGION,
        "created_by": OWNER,
        "description": "",
        "priority": 0,
        "zone": ZONE,
        "state_reason": "",
        "depend_on": "",
        "terminating": False,
        "placement": b'{"Zone":"ap-guangzhou-2"}',
        "submitted": b"{}",
        "notifications": b"[]",
        "created_at": START,
        "ended_at": None,
    }
    states = ["SUCCEED", "FAILED"]
    rows = [
        {**row, "id": f"job-{name}", "name": f"n{number % 3}", "state": states[number % 2]}
        for number, name in enumerate(NAMES)
    ]
    rows.append({**rows[0], "id": "job-zzzzzzzz", "owner_uin": "200000000002"})
    rows.append({**rows[0], "id": "job-yyyyyyyy", "region": "ap-beijing"})
    await store.write(lambda tx: tx.execute(insert(job), rows))


async def ids(batch: Batch, *, scope: Scope | None = None, **params: Any) -> list[str]:
    answer = await batch.call("DescribeJobs", scope=scope, **params)
    if "Limit" not in params:
        assert answer["TotalCount"] == len(answer["JobSet"])
    return [each["JobId"] for each in answer["JobSet"]]


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("scope", SCOPES)
async def test_a_list_shows_what_the_policy_lets_be_seen(batch: Batch, scope: Scope) -> None:
    assert await ids(batch, scope=scope) == shown(scope)


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("scope", SCOPES[:8])
async def test_pages_together_are_the_list_and_the_total_counts_all_of_it(
    batch: Batch, scope: Scope
) -> None:
    pages = [
        await batch.call("DescribeJobs", scope=scope, Offset=offset, Limit=2)
        for offset in range(0, 10, 2)
    ]
    assert [each["JobId"] for page in pages for each in page["JobSet"]] == shown(scope)
    assert {page["TotalCount"] for page in pages} == {len(shown(scope))}
    none = await batch.call("DescribeJobs", scope=scope, Limit=0)
    assert (none["JobSet"], none["TotalCount"]) == ([], len(shown(scope)))


@pytest.mark.usefixtures("stored")
async def test_filters_are_joined_by_and_their_values_by_or(batch: Batch) -> None:
    def only(**filters: list[str]) -> list[dict[str, object]]:
        return [{"Name": n.replace("_", "-"), "Values": v} for n, v in filters.items()]

    async def found(**filters: list[str]) -> set[str]:
        return {each[4:] for each in await ids(batch, Filters=only(**filters))}

    assert await found(job_name=["n0"]) == {"aaaaaaaa", "bbbbbbbb"}
    assert await found(job_name=["n0", "n1"]) == {"aaaaaaaa", "bbbbbbbb", "aaaaaaab", "b0000000"}
    assert await found(job_name=["n0"], job_state=["FAILED"]) == {"bbbbbbbb"}
    assert await found(job_id=["job-aaaaaaaa", "job-zzzzzzzz"]) == {"aaaaaaaa"}
    assert await found(zone=["ap-guangzhou-3"]) == set()
    assert await found(job_name=["n%", "n_", "N0", "'"]) == set()
    assert await found(job_name=[]) == set()


async def test_tags_are_found_by_key_by_value_and_by_both(batch: Batch) -> None:
    made = {}
    for key, value in [("k", "v"), ("k", "w"), ("l", "v")]:
        tags = [{"Key": key, "Value": value}]
        made[key, value] = await batch.submit_job(a_job(Tags=tags))
    for name, values, expected in [
        ("tag-key", ["k"], {("k", "v"), ("k", "w")}),
        ("tag-value", ["v"], {("k", "v"), ("l", "v")}),
        ("tag:k", ["v"], {("k", "v")}),
        ("tag:k", ["v", "w"], {("k", "v"), ("k", "w")}),
        ("tag:", ["v"], set()),
    ]:
        found = await ids(batch, Filters=[{"Name": name, "Values": values}])
        assert set(found) == {made[pair] for pair in expected}


@pytest.mark.parametrize("action", ["DescribeJobs", "DescribeComputeEnvs"])
async def test_what_a_list_cannot_do_is_refused(batch: Batch, action: str) -> None:
    known = {"DescribeJobs": "JobIds", "DescribeComputeEnvs": "EnvIds"}[action]
    prefix = known[:3].lower()
    one = [{"Name": "zone", "Values": ["ap-guangzhou-2"]}]
    cases: list[tuple[str, dict[str, Any]]] = [
        (
            "InvalidParameter.InvalidParameterCombination",
            {known: [f"{prefix}-aaaaaaaa"], "Filters": one},
        ),
        ("InvalidFilter", {"Filters": [{"Name": "foo", "Values": ["x"]}]}),
        ("InvalidFilter", {"Filters": [{"Name": "", "Values": []}]}),
        ("InvalidParameterValue.LimitExceeded", {"Filters": [{**one[0], "Values": ["x"] * 101}]}),
        ("InvalidParameterValue.LimitExceeded", {"Filters": one * 5_000}),
        ("InvalidParameterValue", {"Limit": 101}),
        ("InvalidParameterValue", {"Offset": 2**63 - 1}),
        ("InvalidParameterValue.Negative", {"Limit": -1}),
        ("InvalidParameterValue.Negative", {"Offset": -1}),
        ("InvalidParameterValue", {known: [f"{prefix}-{n:08}" for n in range(40_000)]}),
        (f"InvalidParameter.{known[:3]}IdMalformed", {known: ["x"]}),
        ("UnknownParameter", {"Page": 1}),
    ]
    for code, params in cases:
        with pytest.raises(ApiError) as caught:
            await batch.call(action, **params)
        assert caught.value.code == code


async def test_an_unknown_state_or_resource_type_is_refused(batch: Batch) -> None:
    for action, name, code in [
        ("DescribeJobs", "job-state", "InvalidParameterValue"),
        ("DescribeComputeEnvs", "resource-type", "InvalidParameterValue.ResourceType"),
    ]:
        with pytest.raises(ApiError) as caught:
            await batch.call(action, Filters=[{"Name": name, "Values": ["HAPPY"]}])
        assert caught.value.code == code


async def test_the_largest_offset_is_an_empty_page(batch: Batch) -> None:
    job_id = await batch.submit(a_task())
    answer = await batch.call("DescribeJobs", Offset=2**31 - 1)
    assert (answer["JobSet"], answer["TotalCount"]) == ([], 1)
    task = await batch.call("DescribeTask", JobId=job_id, TaskName="a", Offset=2**31 - 1)
    assert (task["TaskInstanceSet"], task["TaskInstanceTotalCount"]) == ([], 1)


async def test_environments_are_listed_newest_first_with_their_nodes(
    store: Store, batch: Batch
) -> None:
    made = [await batch.create_env(nodes, EnvName=f"e{nodes}") for nodes in range(3)]
    answer = await batch.call("DescribeComputeEnvs")
    assert [each["EnvId"] for each in answer["ComputeEnvSet"]] == made[::-1]
    counts = [each["ComputeNodeMetrics"]["SubmittedCount"] for each in answer["ComputeEnvSet"]]
    assert counts == [2, 1, 0]
    hidden = scope_of("*", deny=[made[1]])
    answer = await batch.call("DescribeComputeEnvs", scope=hidden)
    assert [each["EnvId"] for each in answer["ComputeEnvSet"]] == [made[2], made[0]]
    for kind, total in [("CVM", 3), ("CPM", 0)]:
        filters = [{"Name": "resource-type", "Values": [kind]}]
        assert (await batch.call("DescribeComputeEnvs", Filters=filters))["TotalCount"] == total
    named = [{"Name": "env-name", "Values": ["e1"]}]
    assert (await batch.call("DescribeComputeEnvs", Filters=named))["TotalCount"] == 1
