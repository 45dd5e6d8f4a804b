"""Jobs through the API on every kind of database: submitted once, owned, terminated, deleted."""

from datetime import datetime, timedelta
from typing import Any

import anyio
import pytest
from sqlalchemy import select, update

from gateway import ids
from gateway.batch.datatypes import SubmitJobRequest
from gateway.batch.jobs import CLIENT_TOKEN_LIFE, once
from gateway.batch.tables import client_token, dependence, job, tag, task, task_instance
from gateway.call import Principal
from gateway.errors import ApiError, InvalidParameterValue, ResourceNotFound
from gateway.service import decode
from gateway.store import Store, Tx
from tests.support.batch import (
    NO_TOPIC,
    OWNER,
    REGION,
    ROOT,
    START,
    VAULT,
    ZONE,
    Batch,
    Turns,
    a_job,
    a_task,
    events_of,
)

pytestmark = pytest.mark.anyio
OTHER_ACCOUNT = Principal("200000000002", "200000000002", "root")
ALICE = Principal(OWNER, "100000000101", "alice")


async def count(store: Store, *tables: object) -> list[int]:
    def read(tx: Tx) -> list[int]:
        return [len(tx.execute(select(table)).all()) for table in tables]  # type: ignore[call-overload]

    return await store.read_list(read)


async def code_of(batch: Batch, action: str, **params: Any) -> str:
    with pytest.raises(ApiError) as caught:
        await batch.call(action, **params)
    return caught.value.code


async def test_a_client_token_makes_one_job(store: Store, batch: Batch) -> None:
    first = await batch.submit_job(a_job(), ClientToken="t")
    assert await batch.submit_job(a_job(), ClientToken="t") == first
    assert await batch.submit_job(a_job(Priority="0"), ClientToken="u") != first
    assert await count(store, job) == [2]


async def test_a_client_token_with_another_job_is_refused(store: Store, batch: Batch) -> None:
    first = await batch.submit_job(a_job(), ClientToken="t")
    with pytest.raises(InvalidParameterValue, match="used before"):
        await batch.submit_job(a_job(JobName="y"), ClientToken="t")
    assert await batch.submit_job(a_job(), ClientToken="t") == first
    assert await count(store, job) == [1]


def with_password(password: str) -> dict[str, Any]:
    """A job whose key and password are masked wherever they are kept."""
    docker = {"User": "u", "Password": password, "Image": "busybox", "Server": "hub.example"}
    application = {"DeliveryForm": "LOCAL", "Command": "true", "Docker": docker}
    return a_job(a_task(Application=application))


async def test_a_client_token_with_only_another_password_is_refused(
    store: Store, batch: Batch
) -> None:
    first = await batch.submit_job(with_password("swordfish-1-fish"), ClientToken="t")
    with pytest.raises(InvalidParameterValue, match="used before"):
        await batch.submit_job(with_password("swordfish-2-fish"), ClientToken="t")
    assert await batch.submit_job(with_password("swordfish-1-fish"), ClientToken="t") == first
    assert await count(store, job) == [1]


async def test_a_client_token_that_an_older_version_kept_stays_good(
    store: Store, batch: Batch
) -> None:
    first = await batch.submit_job(with_password("swordfish-1-fish"), ClientToken="t")
    await store.write(lambda tx: tx.execute(client_token.update().values(sealed_digest=None)))
    assert await batch.submit_job(with_password("swordfish-1-fish"), ClientToken="t") == first
    with pytest.raises(InvalidParameterValue, match="used before"):
        await batch.submit_job(a_job(), ClientToken="t")


async def test_two_submissions_at_once_with_one_client_token_make_one_job(
    store: Store, batch: Batch
) -> None:
    made: list[str] = []

    async def submit() -> None:
        made.append(await batch.submit_job(a_job(a_task(instances=50)), ClientToken="t"))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(submit)
    assert len(made) == 8
    assert len(set(made)) == 1
    assert await count(store, job) == [1]


async def test_a_client_token_is_the_callers_own(batch: Batch) -> None:
    everyone = [(ROOT, REGION), (ALICE, REGION), (OTHER_ACCOUNT, REGION)]
    same: dict[str, Any] = {"Placement": {"Zone": ZONE}, "ClientToken": "t"}
    made = {
        (await batch.call("SubmitJob", who=who, region=region, Job=a_job(), **same))["JobId"]
        for who, region in everyone
    }
    env = await batch.call(
        "CreateComputeEnv",
        ComputeEnv={"EnvName": "e", "DesiredComputeNodeCount": 0, "EnvData": {}},
        **same,
    )
    assert len(made) == 3
    assert env["EnvId"].startswith("env-")


async def test_a_submission_that_failed_leaves_its_client_token_free(
    store: Store, batch: Batch
) -> None:
    notified = {"TopicName": NO_TOPIC, "EventConfigs": [{"EventName": "JOB_FAILED"}]}
    with pytest.raises(ApiError) as caught:
        await batch.submit_job(a_job(Notifications=[notified]), ClientToken="t")
    assert caught.value.code == "InvalidParameter.NotificationTopicName"
    assert await count(store, job, client_token) == [0, 0]
    await batch.submit_job(a_job(), ClientToken="t")


async def test_a_client_token_is_not_run_again_after_its_job_was_deleted(
    store: Store, batch: Batch
) -> None:
    job_id = await batch.submit_job(a_job(), ClientToken="t")
    await Turns(store, job_id).run()
    await batch.call("DeleteJob", JobId=job_id)
    assert await batch.submit_job(a_job(), ClientToken="t") == job_id
    assert await count(store, job) == [0]


async def test_a_client_token_is_forgotten_after_a_day(store: Store) -> None:
    request = decode({"Placement": {"Zone": ZONE}, "Job": a_job()}, SubmitJobRequest)

    async def make(at: datetime) -> str:
        return await store.write(
            lambda tx: once(
                tx,
                lambda: ids.new_id("job"),
                token="t",
                request=request,
                action="SubmitJob",
                principal=ROOT,
                region=REGION,
                vault=VAULT,
                now=at,
            )
        )

    first = await make(START)
    assert await make(START + CLIENT_TOKEN_LIFE - timedelta(seconds=1)) == first
    second = await make(START + CLIENT_TOKEN_LIFE)
    assert second != first
    assert await make(START + CLIENT_TOKEN_LIFE + timedelta(hours=23)) == second


@pytest.mark.parametrize("token", ["t" * 65, "ä"])
async def test_a_client_token_has_at_most_64_ascii_characters(batch: Batch, token: str) -> None:
    with pytest.raises(InvalidParameterValue, match="ClientToken"):
        await batch.submit_job(a_job(), ClientToken=token)


async def test_an_empty_client_token_is_none(batch: Batch) -> None:
    made = {await batch.submit_job(a_job(), ClientToken="") for _ in range(2)}
    assert len(made) == 2


@pytest.mark.parametrize(
    "action",
    [
        "DescribeJob",
        "DescribeJobSubmitInfo",
        "DescribeTask",
        "DescribeTaskLogs",
        "TerminateJob",
        "DeleteJob",
    ],
)
async def test_another_accounts_or_regions_job_does_not_exist(batch: Batch, action: str) -> None:
    job_id = await batch.submit()
    params = {"JobId": job_id, **({"TaskName": "a"} if "Task" in action else {})}
    not_found = "ResourceNotFound.Task" if action == "DescribeTask" else "ResourceNotFound.Job"
    strangers = [(OTHER_ACCOUNT, REGION), (ROOT, "ap-beijing")]
    for who, region in strangers:
        assert await code_of(batch, action, who=who, region=region, **params) == not_found
    for who, region in strangers:
        answer = await batch.call("DescribeJobs", who=who, region=region, JobIds=[job_id])
        assert answer == {"JobSet": [], "TotalCount": 0}
    assert await batch.state(job_id) == "SUBMITTED"


@pytest.mark.parametrize("job_id", ["", "job-XYZ", "job-abc", "job-aaaaaaaa\n", "env-aaaaaaaa"])
async def test_a_malformed_job_id_is_told_from_one_that_does_not_exist(
    batch: Batch, job_id: str
) -> None:
    for action in ("DescribeJob", "DescribeJobSubmitInfo", "TerminateJob", "DeleteJob"):
        assert await code_of(batch, action, JobId=job_id) == "InvalidParameter.JobIdMalformed"
        absent = await code_of(batch, action, JobId="job-aaaaaaaa")
        assert absent == "ResourceNotFound.Job"


async def test_a_submitted_job_cannot_be_terminated_yet(batch: Batch) -> None:
    job_id = await batch.submit()
    assert await code_of(batch, "TerminateJob", JobId=job_id) == "UnsupportedOperation"


@pytest.mark.parametrize("code", [0, 1])
async def test_terminating_what_is_over_changes_nothing(
    store: Store, batch: Batch, code: int
) -> None:
    job_id = await batch.submit()
    await Turns(store, job_id).run(code)
    before = await batch.call("DescribeJob", JobId=job_id)
    assert await batch.call("TerminateJob", JobId=job_id) == {}
    assert await batch.call("DescribeJob", JobId=job_id) == before


async def test_only_a_job_that_is_over_can_be_deleted(store: Store, batch: Batch) -> None:
    job_id = await batch.submit(
        a_task("a"), a_task("b"), after=["a b"], Tags=[{"Key": "k", "Value": "v"}]
    )
    turns = Turns(store, job_id)
    assert await code_of(batch, "DeleteJob", JobId=job_id) == "ResourceInUse.Job"
    [placed] = await turns.turn(slots=1)
    assert await code_of(batch, "DeleteJob", JobId=job_id) == "ResourceInUse.Job"
    await store.write(lambda tx: tx.execute(update(job).values(state="FAILED_INTERRUPTED")))
    assert await code_of(batch, "DeleteJob", JobId=job_id) == "ResourceInUse.Job"
    await store.write(lambda tx: tx.execute(update(job).values(state="STARTING")))
    await turns.turn(turns.ended(placed, 1))
    events = await events_of(store, job_id)
    await batch.call("DeleteJob", JobId=job_id)
    assert await code_of(batch, "DescribeJob", JobId=job_id) == "ResourceNotFound.Job"
    assert await count(store, job, task, task_instance, dependence, tag) == [0] * 5
    assert await events_of(store, job_id) == events
    assert await code_of(batch, "DeleteJob", JobId=job_id) == "ResourceNotFound.Job"


async def test_a_job_on_an_environment_that_is_not_there_is_refused_whole(
    store: Store, batch: Batch
) -> None:
    env_id = await batch.create_env(0)
    for tasks in ([a_task(EnvId="env-00000000")], [a_task("b", EnvId="env-00000000"), a_task()]):
        with pytest.raises(ResourceNotFound) as caught:
            await batch.submit(*tasks)
        assert caught.value.code == "ResourceNotFound.ComputeEnv"
    params = {"Placement": {"Zone": ZONE}, "Job": a_job(a_task(EnvId=env_id))}
    stranger = await code_of(batch, "SubmitJob", who=OTHER_ACCOUNT, **params)
    assert stranger == "ResourceNotFound.ComputeEnv"
    assert await count(store, job, task, task_instance) == [0] * 3


async def test_a_job_is_given_back_as_it_was_submitted_without_its_password(batch: Batch) -> None:
    login = {"InstanceType": "S1.SMALL1", "LoginSettings": {"Password": "hunter2-hunter2"}}
    given = a_task(ComputeEnv={"EnvData": login}, MaxRetryCount=2, FailedAction="INTERRUPT")
    given["Application"]["Command"] = "test 1 < 2 && echo 'ä' \"$HOME\""
    job_id = await batch.submit(given, a_task("b"), after=["a b"], Priority="7")
    answer = await batch.call("DescribeJobSubmitInfo", JobId=job_id)
    assert (answer["JobName"], answer["Priority"]) == ("x", 7)
    assert answer["Dependences"] == [{"StartTask": "a", "EndTask": "b"}]
    [first, _] = answer["Tasks"]
    assert first["Application"]["Command"] == given["Application"]["Command"]
    assert (first["MaxRetryCount"], first["FailedAction"]) == (2, "INTERRUPT")
    assert "hunter2" not in str(answer)
