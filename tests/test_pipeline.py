"""Ways around a policy, tried on a real gateway: none leads past it."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.authn.replay import ReplayGuard
from gateway.authn.signed import Tc3Authenticator
from gateway.batch.attributes import attributes_of
from gateway.cam.decisions.log import find_decision
from gateway.cam.identities import PolicyFolder
from gateway.context import Edge
from gateway.pipeline import Pipeline
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.plans import PlanEvaluator
from gateway.store import Store, StoreUnavailable, open_store
from gateway.store.migrations import migrate
from tests.authn.requests import ALICE, KeyRing, alice_key, sdk_request
from tests.support.decisions import decision_log
from tests.support.policies import (
    OTHER_OWNER,
    Statement,
    allow,
    change_policies,
    deny,
    generation,
    metric,
    owner_of,
    replace_file,
    write_policies,
)
from tests.support.raw_client import Answer, Request, call, classic, send, signed
from tests.support.running import Credentials, Gateway, wait_until

EVERYTHING = [allow("*")]
DENIED = "UnauthorizedOperation"
PLACEMENT = {"Zone": "ap-guangzhou-2"}
USERS: dict[str, list[Statement]] = {
    "ann": EVERYTHING,
    "ben": EVERYTHING,
    "eve": EVERYTHING,
    "other": EVERYTHING,
}


@dataclass
class World:
    """A gateway, and people with keys whose policies a test may change."""

    gateway: Gateway
    keys: dict[str, Credentials] = field(default_factory=dict)

    def call(self, who: str, action: str, **parameters: Any) -> Answer:
        return call(self.gateway, self.keys[who], action, **parameters)

    def send(self, who: str, action: str, parameters: Any, **options: Any) -> Answer:
        request = signed(self.gateway, self.keys[who], action, parameters, **options)
        return send(self.gateway, request)

    def classic(self, who: str, action: str, **parameters: str) -> dict[str, Any]:
        return send(self.gateway, classic(self.gateway, self.keys[who], action, parameters)).classic

    def allow_all_but(self, who: str, *statements: Statement) -> None:
        """Give somebody everything except what the statements deny."""
        change_policies(self.gateway, {**USERS, who: [*EVERYTHING, *statements]})

    def submit(self, who: str, *, command: str = "true", **parameters: Any) -> str:
        job_id: str = self.try_to_submit(who, command=command, **parameters).members["JobId"]
        return job_id

    def try_to_submit(
        self, who: str, *, command: str = "true", env_id: str = "", **parameters: Any
    ) -> Answer:
        task: dict[str, Any] = {
            "TaskName": "one",
            "Application": {"DeliveryForm": "LOCAL", "Command": command},
        }
        elastic = {"EnvData": {"InstanceType": "S1.SMALL1", "ImageId": "img-31tjrtph"}}
        task |= {"EnvId": env_id} if env_id else {"ComputeEnv": elastic}
        job = {"JobName": "attempt", "Tasks": [task]}
        return self.call(who, "SubmitJob", Job=job, Placement=PLACEMENT, **parameters)

    def create_env(self, who: str) -> str:
        data = {"InstanceType": "S1.SMALL1", "ImageId": "img-31tjrtph"}
        env = {"EnvName": "fixed", "DesiredComputeNodeCount": 0, "EnvData": data}
        answer = self.call(who, "CreateComputeEnv", ComputeEnv=env, Placement=PLACEMENT)
        env_id: str = answer.members["EnvId"]
        return env_id

    def record(self, answer: Answer) -> dict[str, Any]:
        """The decision on a call, which must be on the disk now."""
        found = self.find_record(answer)
        assert found is not None
        return found

    def wait_for_record(self, answer: Answer, *, at_most_s: float = 10) -> dict[str, Any]:
        wait_until(lambda: self.find_record(answer) is not None, at_most_s=at_most_s)
        return self.record(answer)

    def find_record(self, answer: Answer) -> dict[str, Any] | None:
        """The decision on a call, if it is on the disk."""
        with closing(sqlite3.connect(self.gateway.data / "gateway.db")) as database:
            row = database.execute(
                "SELECT record FROM cam_decision WHERE request_id = ?", (answer.request_id,)
            ).fetchone()
        found: dict[str, Any] | None = None if row is None else json.loads(row[0])
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    gateway = Gateway(tmp_path_factory.mktemp("pipeline"), settings={})
    write_policies(gateway.policies, USERS)
    gateway.start()
    keys = {name: gateway.create_key(name, "--uin", owner_of(name)) for name in USERS}
    yield World(gateway, {**keys, "root": gateway.root})
    gateway.remove()


def test_a_denied_id_among_allowed_ones_denies_the_whole_call(world: World) -> None:
    hidden, shown = world.submit("root"), world.submit("root")
    world.allow_all_but("ann", deny("batch:Describe*", f"qcs::batch:gz::job/{hidden}"))
    assert world.call("ann", "DescribeJobs", JobIds=[shown]).members["TotalCount"] == 1
    for ids in ([shown, hidden], [hidden, shown], [hidden]):
        answer = world.call("ann", "DescribeJobs", JobIds=ids)
        assert answer.code == DENIED
        assert f"job/{hidden})" in answer.message


def test_a_list_does_not_show_what_is_denied_however_it_is_asked_for(world: World) -> None:
    hidden, shown = world.submit("root"), world.submit("root")
    world.allow_all_but("ann", deny("batch:DescribeJobs", f"qcs::batch:gz::job/{hidden}"))
    everything = world.call("root", "DescribeJobs", Limit=100).members
    ways: list[dict[str, Any]] = [
        {},
        {"JobIds": []},
        {"Filters": []},
        {"Filters": [{"Name": "job-name", "Values": ["attempt"]}]},
    ]
    for parameters in ways:
        listed = world.call("ann", "DescribeJobs", Limit=100, **parameters).members
        ids = {job["JobId"] for job in listed["JobSet"]}
        assert hidden not in ids
        assert shown in ids
        assert listed["TotalCount"] == everything["TotalCount"] - 1
    for values in ([hidden], [hidden, shown]):
        filters = [{"Name": "job-id", "Values": values}]
        listed = world.call("ann", "DescribeJobs", Filters=filters).members
        assert listed["TotalCount"] == len(values) - 1
        assert hidden not in {job["JobId"] for job in listed["JobSet"]}


def test_a_region_in_short_does_not_evade_a_deny_on_its_long_name(world: World) -> None:
    job_id = world.submit("root")
    world.allow_all_but("ann", deny("batch:*", f"qcs::batch:ap-guangzhou::job/{job_id}"))
    for region in ("ap-guangzhou", "gz"):
        answer = world.send("ann", "TerminateJob", {"JobId": job_id}, region=region)
        assert answer.code == DENIED
    answer = world.send("ann", "DescribeJob", {"JobId": job_id}, region="ap-beijing")
    assert answer.code == "ResourceNotFound.Job"


def test_a_deny_on_one_queue_holds_for_every_spelling_of_its_name(world: World) -> None:
    world.call("root", "CreateCmqQueue", QueueName="orders")
    world.allow_all_but("ann", deny("tdmq:*", "qcs::tdmq:gz::queue/orders"))
    for name in ("orders", "Orders", "ORDERS", "oRders"):
        code = DENIED if name == "orders" else "ResourceNotFound"
        assert world.call("ann", "SendCmqMsg", QueueName=name, MsgContent="x").code == code
        assert world.call("ann", "DescribeCmqQueueDetail", QueueName=name).code == code
        assert world.call("ann", "DeleteCmqQueue", QueueName=name).code == code
        number = 4000 if name == "orders" else 4440
        sent = world.classic("ann", "SendMessage", queueName=name, msgBody="x")
        assert sent["code"] == number
        received = world.classic("ann", "ReceiveMessage", queueName=name, pollingWaitSeconds="0")
        assert received["code"] == number
    listed = world.call("ann", "DescribeCmqQueues", QueueNameList=["Orders"]).members
    assert listed["TotalCount"] == 0
    kept = world.call("root", "DescribeCmqQueueDetail", QueueName="orders").members
    assert kept["QueueDescribe"]["ActiveMsgNum"] == 0


def test_a_deny_on_one_topic_holds_for_every_spelling_of_its_name(world: World) -> None:
    world.call("root", "CreateCmqTopic", TopicName="news")
    world.call("root", "CreateCmqQueue", QueueName="readers")
    closed = ["qcs::tdmq:gz::topic/news", "qcs::tdmq:::queue/readers"]
    world.allow_all_but("ann", deny("tdmq:*", closed))
    feed = {"SubscriptionName": "s", "Protocol": "queue", "Endpoint": "readers"}
    for name in ("news", "News", "NEWS"):
        code = DENIED if name == "news" else "ResourceNotFound.Topic"
        assert world.call("ann", "DescribeCmqTopicDetail", TopicName=name).code == code
        assert world.call("ann", "PublishCmqMsg", TopicName=name, MsgContent="x").code == code
        assert world.call("ann", "DeleteCmqTopic", TopicName=name).code == code
    assert world.call("root", "CreateCmqSubscribe", TopicName="news", **feed).code == ""
    world.call("root", "CreateCmqTopic", TopicName="mine")
    for endpoint in ("readers", "Readers"):
        code = DENIED if endpoint == "readers" else "ResourceNotFound"
        mine = {**feed, "TopicName": "mine", "Endpoint": endpoint}
        assert world.call("ann", "CreateCmqSubscribe", **mine).code == code
    gone = world.call("root", "DeleteCmqSubscribe", TopicName="news", SubscriptionName="S")
    assert gone.code == "ResourceNotFound"


def test_two_queues_whose_names_differ_in_case_alone_are_not_made(world: World) -> None:
    assert world.call("root", "CreateCmqQueue", QueueName="twins").code == ""
    assert world.call("root", "CreateCmqQueue", QueueName="TWINS").code == "ResourceInUse.Queue"


def test_an_old_policy_that_denies_a_cmq_queue_denies_the_classic_call(world: World) -> None:
    world.call("root", "CreateCmqQueue", QueueName="legacy")
    old_name = "qcs::cmqqueue:::queueName/uin/100000000001/legacy"
    world.allow_all_but("ann", deny("cmqqueue:SendMessage", old_name))
    answer = world.classic("ann", "SendMessage", queueName="legacy", msgBody="x")
    assert answer["code"] == 4000
    assert "(10461)" in answer["message"]
    assert world.classic("ben", "SendMessage", queueName="legacy", msgBody="x")["code"] == 0


def test_a_job_may_not_name_an_environment_that_is_denied(world: World) -> None:
    env_id = world.create_env("root")
    world.allow_all_but("ann", deny("batch:*", f"qcs::batch:gz::computeenv/{env_id}"))
    answer = world.try_to_submit("ann", env_id=env_id)
    assert answer.code == DENIED
    assert f"computeenv/{env_id})" in answer.message
    shouted = world.try_to_submit("ann", env_id=env_id.upper())
    assert shouted.code == "InvalidParameter.EnvIdMalformed"


def test_another_account_neither_sees_nor_uses_what_is_not_its_own(world: World) -> None:
    change_policies(world.gateway, USERS)
    job_id, env_id = world.submit("root"), world.create_env("root")
    assert world.try_to_submit("other", env_id=env_id).code == "ResourceNotFound.ComputeEnv"
    for action in ("DescribeJob", "DescribeJobSubmitInfo", "TerminateJob", "DeleteJob"):
        assert world.call("other", action, JobId=job_id).code == "ResourceNotFound.Job"
    unseen = world.call("other", "DeleteComputeEnv", EnvId=env_id)
    assert unseen.code == "ResourceNotFound.ComputeEnv"
    assert world.record(unseen)["Principal"]["OwnerUin"] == OTHER_OWNER
    assert world.call("other", "DescribeJobs").members["TotalCount"] == 0
    assert world.call("other", "DescribeJobs", JobIds=[job_id]).members["TotalCount"] == 0


def test_a_client_token_of_one_user_is_nothing_to_another(world: World) -> None:
    change_policies(world.gateway, USERS)
    first = world.submit("ann", ClientToken="token")
    assert world.submit("ann", ClientToken="token") == first
    assert world.submit("ben", ClientToken="token") != first


def test_a_token_that_was_used_does_not_open_what_was_denied_since(world: World) -> None:
    change_policies(world.gateway, USERS)
    world.submit("eve", ClientToken="once")
    world.allow_all_but("eve", deny("batch:SubmitJob"))
    assert world.try_to_submit("eve", ClientToken="once").code == DENIED


def test_a_decision_is_never_older_than_the_policies(world: World) -> None:
    for denied in (True, False, True, False):
        statements = [deny("batch:DescribeJobs")] if denied else []
        world.allow_all_but("ann", *statements)
        for _ in range(3):
            answer = world.call("ann", "DescribeJobs")
            assert answer.code == (DENIED if denied else "")
    record = world.record(world.call("ann", "DeleteJob", JobId="job-00000000"))
    assert record["Generation"] == generation(world.gateway)


def test_a_key_of_a_user_who_is_no_longer_declared_gets_nothing(world: World) -> None:
    change_policies(world.gateway, USERS)
    assert world.call("eve", "DescribeJobs").code == ""
    without = {name: statements for name, statements in USERS.items() if name != "eve"}
    change_policies(world.gateway, without)
    for action in ("DescribeJobs", "DescribeInstanceCategories", "SubmitJob"):
        assert world.call("eve", action).code == DENIED
    identity = world.send("eve", "GetCallerIdentity", {}, service="sts")
    assert identity.code == DENIED
    change_policies(world.gateway, USERS)
    assert world.call("eve", "DescribeJobs").code == ""


def test_broken_policies_change_nothing_and_say_so_until_they_are_mended(world: World) -> None:
    world.allow_all_but("ann", deny("batch:DescribeJobs"))
    accounts = world.gateway.policies / "accounts.toml"
    good, before = accounts.read_text(encoding="utf-8"), generation(world.gateway)
    replace_file(accounts, good + '[[account.user]]\nname = "eve"\n')
    wait_until(lambda: metric(world.gateway, "qcs_gateway_policy_broken") == 1)
    assert "policies_refused" in world.gateway.log
    assert generation(world.gateway) == before
    assert world.call("ann", "DescribeJobs").code == DENIED
    assert world.call("ben", "DescribeJobs").code == ""
    replace_file(accounts, good)
    wait_until(lambda: metric(world.gateway, "qcs_gateway_policy_broken") == 0)
    assert generation(world.gateway) == before + 1
    assert world.call("ann", "DescribeJobs").code == DENIED


def from_elsewhere(request: Request) -> Request:
    """A request that says in every known way that it comes from 10.0.0.1."""
    for name in ("X-Forwarded-For", "X-Real-IP", "CF-Connecting-IP", "True-Client-IP"):
        request = request.with_header(name, "10.0.0.1")
    return request.with_header("Forwarded", "for=10.0.0.1")


def test_an_address_that_a_header_claims_counts_for_nothing(world: World) -> None:
    only_inside = {**allow("*"), "condition": {"ip_equal": {"qcs:ip": "10.0.0.1"}}}
    change_policies(world.gateway, {**USERS, "ann": [only_inside]})
    request = signed(world.gateway, world.keys["ann"], "DescribeJobs")
    answer = send(world.gateway, from_elsewhere(request))
    assert answer.code == DENIED
    assert world.record(answer)["SourceIp"] == "127.0.0.1"


def test_a_mutating_call_that_is_sent_again_later_is_refused(world: World) -> None:
    change_policies(world.gateway, USERS)
    body = {"TopicName": "again"}
    request = signed(world.gateway, world.keys["ann"], "CreateCmqTopic", body, service="tdmq")
    assert send(world.gateway, request).code == ""
    codes: list[str] = []

    def is_used_up() -> bool:
        codes.append(send(world.gateway, request).code)
        return codes[-1] == "AuthFailure.SignatureExpire"

    wait_until(is_used_up, at_most_s=10, what=lambda: str(set(codes)))
    assert set(codes) <= {"ResourceInUse.Topic", "AuthFailure.SignatureExpire"}


def test_what_is_denied_or_changes_something_is_on_disk_before_its_answer(world: World) -> None:
    world.allow_all_but("ann", deny("batch:DescribeJobs"))
    record = world.record(world.call("ann", "DescribeJobs"))
    assert (record["Effect"], record["Reason"]) == ("deny", "explicit-deny")
    assert [(one["Policy"], one["Statement"]) for one in record["Determining"]] == [("ann", 2)]
    record = world.record(world.try_to_submit("ann"))
    assert (record["Effect"], record["Reason"]) == ("allow", "explicit-allow")
    refused_later = world.call("ann", "TerminateJob", JobId="job-00000000")
    assert refused_later.code == "ResourceNotFound.Job"
    assert world.record(refused_later)["Effect"] == "allow"


@pytest.mark.parametrize("who", ["ann", "root"])
def test_what_only_reads_is_on_disk_within_a_second(world: World, who: str) -> None:
    change_policies(world.gateway, USERS)
    answer = world.call(who, "DescribeJobs")
    record = world.wait_for_record(answer, at_most_s=1)
    assert record["Effect"] == "allow"


@pytest.mark.parametrize(
    ("action", "parameters", "code"),
    [
        ("DescribeNothing", {}, "InvalidAction"),
        ("DescribeJob", {}, "MissingParameter"),
        ("DescribeJob", {"JobId": 7}, "InvalidParameter"),
    ],
)
def test_a_call_of_somebody_known_that_cannot_be_decided_is_recorded_too(
    world: World, action: str, parameters: Any, code: str
) -> None:
    answer = world.send("ann", action, parameters)
    assert answer.code == code
    record = world.wait_for_record(answer, at_most_s=1)
    assert (record["Effect"], record["Reason"], record["Action"]) == ("refused", code, action)
    assert (record["Principal"]["Name"], record["Resources"]) == ("ann", [])


@pytest.mark.anyio
async def test_a_call_whose_resources_cannot_be_looked_at_is_recorded_too(
    tmp_path: Path, store: Store
) -> None:
    far = tmp_path / "far"
    far.mkdir()
    migrate(f"sqlite:///{far}/gateway.db")
    async with open_store(f"sqlite:///{far}/gateway.db") as services:
        decisions = decision_log(store)
        pipeline = Pipeline(
            authenticators=[Tc3Authenticator(KeyRing(alice_key()))],
            replay=ReplayGuard(),
            policies=DecisionPoint(PlanEvaluator(), by_tag(tmp_path).read_snapshot(generation=1)),
            decisions=decisions,
            attributes={"batch": attributes_of(services)},
            upstreams={},
            default_region="ap-guangzhou",
            edge=Edge(),
        )
        await services.write(lambda tx: None)  # its writer holds the file from here on
        away = far.rename(tmp_path / "away")  # their database cannot be opened any more
        request = sdk_request("DescribeJob", {"JobId": "job-00000000"})
        with pytest.raises(StoreUnavailable):
            await pipeline(request, request_id="r-1", classic=False)
        away.rename(far)
    await decisions.flush()
    record = await store.read_point(lambda tx: find_decision(tx, "r-1"))
    assert record is not None
    assert (record["Effect"], record["Reason"]) == ("refused", "ServiceUnavailable")
    assert (record["Action"], record["Principal"]["Uin"]) == ("DescribeJob", ALICE.uin)


def by_tag(tmp_path: Path) -> PolicyFolder:
    """Policies under which alice may do what she likes to what carries a tag."""
    tagged = {"for_any_value:string_equal": {"qcs:resource_tag": "team&a"}}
    document = {"version": "2.0", "statement": [{**allow("batch:*"), "condition": tagged}]}
    (tmp_path / "own.json").write_text(json.dumps(document), encoding="utf-8")
    (tmp_path / "accounts.toml").write_text(
        f"""
        [[account]]
        uin = "{ALICE.owner_uin}"
        [[account.policy]]
        name = "own"
        file = "own.json"
        [[account.user]]
        name = "alice"
        uin = "{ALICE.uin}"
        policies = ["own"]
        """,
        encoding="utf-8",
    )
    return PolicyFolder(tmp_path)


def test_a_list_of_a_part_is_recorded_as_allowed_with_what_allows_it(world: World) -> None:
    world.allow_all_but("ann", deny("batch:DescribeJobs", "qcs::batch:gz::job/job-00000000"))
    answer = world.call("ann", "DescribeJobs")
    record = world.wait_for_record(answer)
    assert (record["Effect"], record["Reason"]) == ("allow", "explicit-allow")
    assert [one["Statement"] for one in record["Determining"]] == [1]


def test_a_list_of_what_one_id_allows_is_recorded_with_what_allows_it(world: World) -> None:
    job = "qcs::batch:gz::job/job-00000000"
    change_policies(world.gateway, {**USERS, "ann": [allow("batch:DescribeJobs", job)]})
    answer = world.call("ann", "DescribeJobs")
    record = world.wait_for_record(answer)
    assert (record["Effect"], record["Reason"]) == ("allow", "explicit-allow")
    assert [one["Pattern"] for one in record["Determining"]] == [job]
    assert record["NearestMiss"] is None


def test_no_secret_signature_or_body_is_in_the_log(world: World) -> None:
    marker = "a-word-that-is-only-in-a-body"
    request = signed(world.gateway, world.keys["ann"], "DescribeJobs", {"Limit": marker})
    assert send(world.gateway, request).code == "InvalidParameter"
    world.submit("root", command=f"echo {marker}")
    log = world.gateway.log
    signature = request.header("authorization").rpartition("=")[2]
    secrets = [who.secret_key for who in world.keys.values()]
    sealing = (world.gateway.data / "sealing.key").read_text(encoding="ascii").strip()
    for secret in (marker, signature, sealing, *secrets):
        assert secret not in log
    assert "Traceback" not in log
