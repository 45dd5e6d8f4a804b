"""What resources carry: a list shows exactly what a decision on each resource would allow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert

from gateway.batch.attributes import attributes_of
from gateway.batch.tables import job, tag
from gateway.call import AttributeTest, Clause, Principal, Resource, Scope
from gateway.errors import InvalidParameter
from gateway.policy.condition import read_test
from gateway.policy.pattern import Wildcard
from gateway.store import Store, Tx
from tests.support.batch import OWNER, REGION, START, ZONE, Batch, a_job, a_task

pytestmark = pytest.mark.anyio
STRANGER = "200000000002"
ALICE = Principal(OWNER, "100000000101", "alice")


@dataclass(frozen=True, slots=True)
class Tagged:
    """A job, as far as a condition can ask about it."""

    id: str
    tags: Mapping[str, str]
    made_by: str = OWNER
    owner: str = OWNER
    region: str = REGION

    @property
    def carried(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {"qcs:create_uin": (self.made_by,)}
        for key, value in self.tags.items():
            found[f"qcs:tag/{key}"] = (value,)
        if self.tags:
            found["qcs:tag"] = tuple(f"{key}&{value}" for key, value in self.tags.items())
            found["qcs:resource_tag"] = found["qcs:tag"]
        return found

    @property
    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = dict.fromkeys(("name", "description", "state_reason"), "")
        row |= {"id": self.id, "owner_uin": self.owner, "region": self.region, "zone": ZONE}
        row |= {"created_by": self.made_by, "state": "FAILED", "created_at": START}
        row |= {"priority": 0, "depend_on": "", "terminating": False}
        return row | {"placement": b'{"Zone":"x"}', "submitted": b"{}", "notifications": b"[]"}


FOREIGN = (
    Tagged("job-zzzzzzzz", {"k": "1", "never": "1"}, owner=STRANGER, made_by="1"),
    Tagged("job-yyyyyyyy", {"k": "x", "never": "x"}, region="ap-beijing", made_by="x"),
)


async def keep(store: Store, jobs: Sequence[Tagged]) -> None:
    """Put exactly these jobs, and some of others, into the tables."""

    everything = [*jobs, *FOREIGN]

    def write(tx: Tx) -> None:
        tx.execute(delete(tag))
        tx.execute(delete(job))
        tx.execute(insert(job), [each.row for each in everything])
        tx.execute(
            insert(tag),
            [
                {"resource_id": each.id, "key": key, "value": value}
                for each in everything
                for key, value in each.tags.items()
            ],
        )

    await store.write(write)


def shown(jobs: Sequence[Tagged], scope: Scope) -> list[str]:
    """The reference: each job judged on its own, as a decision on it is."""

    def fits(clause: Clause, one: Tagged, *, if_unclear: bool) -> bool:
        try:
            held = [read_test(test).holds(one.carried, {}) for test in clause.tests]
        except ValueError:
            held = [if_unclear]
        return Wildcard.read(clause.pattern).matches(one.id) and all(held)

    return sorted(
        one.id
        for one in jobs
        if all(any(fits(c, one, if_unclear=False) for c in layer) for layer in scope.allow)
        and not any(fits(clause, one, if_unclear=True) for clause in scope.deny)
    )


KEYS = ["k", "l", "k&1", "K"]
VALUES = ["", "1", "1.0", "a", "A", "ab", "é𝄞", "'%_", "a&1"]
PEOPLE = [OWNER, ALICE.uin, "bob"]  # the last one is no number
JOBS = st.lists(
    st.builds(
        Tagged,
        id=st.sampled_from([f"job-{letter * 8}" for letter in "abcdef"]),
        tags=st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=3),
        made_by=st.sampled_from(PEOPLE),
    ),
    unique_by=lambda one: one.id,
    max_size=6,
)
OPERATORS = [
    f"{prefix}{bare}{suffix}"
    for prefix in ("", "for_any_value:", "for_all_value:")
    for bare in (
        "string_equal",
        "string_not_equal",
        "string_like",
        "string_not_like",
        "string_equal_ignore_case",
        "numeric_equal",
        "numeric_not_equal",
        "numeric_less_than",
    )
    for suffix in ("", "_if_exist")
]
TEXTS = [*VALUES, *PEOPLE, "k&1", "l&a", "K&*", "*1", "*", "${app_id}", "a\x00", "\ud800"]
TEST_KEYS = ["qcs:resource_tag", "qcs:tag", "qcs:create_uin", "qcs:never"]
TEST_KEYS += [f"qcs:tag/{key}" for key in (*KEYS, "never")]
TESTS = st.one_of(
    st.builds(
        AttributeTest,
        operator=st.sampled_from(OPERATORS),
        key=st.sampled_from(TEST_KEYS),
        values=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3).map(tuple),
    ),
    st.builds(  # some of the values that exist are numbers, and the others cannot be judged
        AttributeTest,
        operator=st.sampled_from([name for name in OPERATORS if "numeric" in name]),
        key=st.sampled_from(["qcs:tag/k", "qcs:tag/l", "qcs:create_uin"]),
        values=st.sampled_from([("1",), (OWNER,), ("2", OWNER)]),
    ),
    st.builds(
        AttributeTest,
        operator=st.just("null_equal"),
        key=st.sampled_from(TEST_KEYS),
        values=st.sampled_from([("true",), ("false",), ("",)]),
    ),
)


def can_be_written(test: AttributeTest) -> bool:
    try:
        read_test(test)
    except InvalidParameter:
        return False
    return True


CLAUSES = st.lists(
    st.builds(
        Clause,
        pattern=st.sampled_from(["*", "job-*", "job-a*", "job-bbbbbbbb", "*c*", "nothing"]),
        tests=st.lists(TESTS.filter(can_be_written), max_size=2).map(tuple),
    ),
    max_size=4,
).map(tuple)
SCOPES = st.builds(Scope, allow=st.lists(CLAUSES, min_size=1, max_size=3).map(tuple), deny=CLAUSES)


UNCLEAR = [Tagged("job-aaaaaaaa", {"k": "high", "l": "1"}), Tagged("job-bbbbbbbb", {"k": "1"})]
"""The tag `k` of the first job is no number, that of the second is one."""


TWO, NOT_TWO, NOT_TWO_IF_EXIST = (
    AttributeTest(f"numeric_{name}", "qcs:tag/k", ("2",))
    for name in ("equal", "not_equal", "not_equal_if_exist")
)
NEVER = AttributeTest("string_equal", "qcs:tag/l", ("2",))
UNCLEAR_SCOPES = [
    Scope(deny=(Clause("*", (TWO,)),)),
    Scope(deny=(Clause("*", (NEVER, TWO)),)),
    Scope(((Clause("*", (NOT_TWO,)),),)),
    Scope(((Clause("*", (NOT_TWO_IF_EXIST,)),),)),
]


async def listed(batch: Batch, scope: Scope) -> list[str]:
    """The ids that DescribeJobs shows, all of one moment and so by id."""
    answer = await batch.call("DescribeJobs", scope=scope, Limit=100)
    assert answer["TotalCount"] == len(answer["JobSet"])
    return [each["JobId"] for each in answer["JobSet"]]


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(jobs=JOBS, scopes=st.lists(SCOPES, min_size=1, max_size=5))
@example(UNCLEAR, UNCLEAR_SCOPES)
async def test_a_list_shows_exactly_what_a_decision_on_each_resource_allows(
    store: Store, batch: Batch, jobs: list[Tagged], scopes: list[Scope]
) -> None:
    await keep(store, jobs)
    for scope in scopes:
        assert await listed(batch, scope) == shown(jobs, scope)


LABEL = AttributeTest("for_any_value:string_equal", "qcs:resource_tag", ("team&blue",))
BLUE, RED = ({"Key": "team", "Value": colour} for colour in ("blue", "red"))


async def test_each_kind_of_resource_is_listed_by_its_tags_and_its_maker(batch: Batch) -> None:
    made: dict[str, list[str]] = {"Job": [], "ComputeEnv": [], "TaskTemplate": []}
    for tags in ([BLUE], [RED], []):
        for kind, ids in made.items():
            ids.append(await make(batch, kind, tags))
    others = AttributeTest("string_not_equal", "qcs:create_uin", (OWNER,))
    only = Scope(((Clause("*", (LABEL,)),),))
    without = Scope(deny=(Clause("*", (LABEL,)),))
    for kind, (blue, red, plain) in made.items():
        assert await seen(batch, kind, only) == {blue}
        assert await seen(batch, kind, without) == {red, plain}
        assert await seen(batch, kind, Scope(deny=(Clause("*", (others,)),))) == {blue, red, plain}
        assert await seen(batch, kind, Scope(((Clause("*", (others,)),),))) == set()


async def make(batch: Batch, kind: str, tags: list[dict[str, str]], **params: Any) -> str:
    """Make one of a kind; returns its id."""
    if kind == "Job":
        return await batch.submit_job(a_job(Tags=tags), **params)
    if kind == "ComputeEnv":
        return await batch.create_env(0, Tags=tags)
    answer = await batch.call(
        "CreateTaskTemplate", TaskTemplateName="t", TaskTemplateInfo=a_task(), Tags=tags, **params
    )
    return str(answer["TaskTemplateId"])


async def seen(batch: Batch, kind: str, scope: Scope) -> set[str]:
    """The ids that a list of one kind shows."""
    answer = await batch.call(f"Describe{kind}s", scope=scope)
    id_ = {"Job": "JobId", "ComputeEnv": "EnvId", "TaskTemplate": "TaskTemplateId"}[kind]
    return {each[id_] for each in answer[f"{kind}Set"]}


async def test_a_job_deleted_or_retagged_is_judged_by_what_it_carries_now(
    store: Store, batch: Batch
) -> None:
    one = Tagged("job-aaaaaaaa", {"team": "red"})
    scope = Scope(((Clause("*", (LABEL,)),),))
    await keep(store, [one])
    assert await listed(batch, scope) == []
    await keep(store, [Tagged(one.id, {"team": "blue"})])
    assert await listed(batch, scope) == [one.id]


async def test_more_than_a_thousand_clauses_with_tests_of_their_own_are_one_list(
    store: Store, batch: Batch
) -> None:
    many = {f"k{n}": "1" for n in range(1_050)}
    await keep(store, [Tagged("job-aaaaaaaa", many), Tagged("job-bbbbbbbb", {"k7": "2"})])
    same = [AttributeTest("string_equal", "qcs:tag/k7", (f"{n}",)) for n in range(2, 1_100)]
    different = [AttributeTest("string_equal", f"qcs:tag/{key}", ("1",)) for key in many]
    for tests, ids in [(same, ["job-bbbbbbbb"]), (different, ["job-aaaaaaaa"])]:
        clauses = tuple(Clause("job-*", (test,)) for test in tests)
        assert await listed(batch, Scope((clauses,))) == ids
        hidden = await listed(batch, Scope(deny=clauses))
        assert sorted([*ids, *hidden]) == ["job-aaaaaaaa", "job-bbbbbbbb"]


async def test_thousands_of_tags_are_one_list(store: Store, batch: Batch) -> None:
    jobs = [Tagged(f"job-{n:08}", {"run": f"{n}", "even": f"{n % 2}"}) for n in range(3_000)]
    await keep(store, jobs)
    for operator, value, total in [
        ("numeric_less_than", "1000", 1_000),
        ("numeric_greater_than_equal", "1000", 2_000),
        ("string_not_equal", "7", 2_999),
    ]:
        test = AttributeTest(operator, "qcs:tag/run", (value,))
        answer = await batch.call("DescribeJobs", scope=Scope(((Clause("*", (test,)),),)), Limit=2)
        assert answer["TotalCount"] == total


async def test_the_decision_is_told_what_every_kind_of_resource_carries(
    store: Store, batch: Batch
) -> None:
    attributes = attributes_of(store)
    job_id = await make(batch, "Job", [BLUE, {"Key": "k", "Value": ""}], who=ALICE)
    env_id = await make(batch, "ComputeEnv", [])
    template_id = await make(batch, "TaskTemplate", [RED], who=ALICE)
    found = await attributes(
        [
            named(f"job/{job_id}"),
            named(f"computeenv/{env_id}"),
            named(f"tasktemplate/{template_id}"),
        ]
    )
    assert found == {
        named(f"job/{job_id}"): {
            "qcs:create_uin": (ALICE.uin,),
            "qcs:resource_tag": ("k&", "team&blue"),
            "qcs:tag": ("k&", "team&blue"),
            "qcs:tag/k": ("",),
            "qcs:tag/team": ("blue",),
        },
        named(f"computeenv/{env_id}"): {"qcs:create_uin": (OWNER,)},
        named(f"tasktemplate/{template_id}"): {
            "qcs:create_uin": (ALICE.uin,),
            "qcs:resource_tag": ("team&red",),
            "qcs:tag": ("team&red",),
            "qcs:tag/team": ("red",),
        },
    }


async def test_nothing_is_told_of_what_is_elsewhere_or_does_not_exist(
    store: Store, batch: Batch
) -> None:
    job_id = await make(batch, "Job", [BLUE])
    assert await attributes_of(store)([]) == {}
    assert (
        await attributes_of(store)(
            [
                named(f"job/{job_id}", owner_uin=STRANGER),
                named(f"job/{job_id}", region="ap-beijing"),
                named(f"job/{job_id}", service="cam"),
                named(f"computeenv/{job_id}"),
                named(f"job/{job_id}/*"),
                *map(named, ("*", "job", "job/", "job/*", "job/\x00", "job/\ud800", "topic/a")),
                *(named(f"job/job-{n:08}") for n in range(40_000)),
            ]
        )
        == {}
    )


def named(
    path: str, *, service: str = "batch", owner_uin: str = OWNER, region: str = REGION
) -> Resource:
    return Resource(service, region, owner_uin, path)
