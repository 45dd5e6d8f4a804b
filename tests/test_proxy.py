"""A service in another process is called like one in this process."""

import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
import pytest

from gateway import protocol
from gateway.authn.replay import ReplayGuard
from gateway.authn.signed import Tc3Authenticator
from gateway.call import (
    AttributeTest,
    Call,
    Clause,
    Decision,
    Effect,
    Grant,
    Principal,
    Reason,
    Reply,
    Resource,
    Scope,
)
from gateway.cam.decisions.log import DecisionLog, find_decision
from gateway.cam.identities import PolicyFolder
from gateway.clock import now
from gateway.context import Edge
from gateway.errors import (
    ClassicError,
    InternalError,
    ServiceUnavailable,
    UnauthorizedOperation,
    UpstreamError,
)
from gateway.ids import new_id
from gateway.pipeline import Pipeline
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.plans import PlanEvaluator
from gateway.proxy import HttpUpstream, UnfilteredList
from gateway.store import Store
from tests.authn.requests import ALICE, KeyRing, alice_key, sdk_request
from tests.support.running import ROOT, wait_until
from tests.support.services import LOOPBACK, Program, free_port

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
ANY_JOB = Resource("batch", "ap-guangzhou", "100000000001", "job/*")
PROD = AttributeTest("for_any_value:string_equal", "qcs:resource_tag", ("env&prod",))
GRANT = Grant(
    principal=Principal("100000000001", "100000000101", "alice"),
    decision=Decision(Effect.ALLOW, Reason.EXPLICIT_ALLOW, ANY_JOB, 7),
    scope=Scope(
        allow=((Clause("job-a*"), Clause("job-b", (PROD,))), (Clause("*"),)),
        deny=(Clause("job-ab"),),
    ),
)


def call(**params: Any) -> Call:
    return Call(
        request_id="4a1c1b1e-0000-4000-8000-000000000000",
        service="batch",
        version="2017-03-12",
        action="DescribeJob",
        region="ap-guangzhou",
        params=params,
        source_ip="192.0.2.7",
        received_at=NOW,
    )


@pytest.fixture(scope="module")
def far_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service in a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "tests.support.far_service", str(port)]
    log = tmp_path_factory.mktemp("far") / "log"
    program = Program(command, log=log, env={"PYTHONPATH": str(ROOT)})
    wait_until(lambda: listens(port) or not program.running, what=log.read_text)
    yield f"http://{LOOPBACK}:{port}/"
    program.end(signal.SIGTERM)


def listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.mark.anyio
async def test_a_call_and_its_grant_arrive_as_they_were_sent(
    far_service: str, session: aiohttp.ClientSession
) -> None:
    params: dict[str, Any] = {
        "Text": 'é\n"\\\u2028𝄞',
        "Number": 2**63,
        "Fraction": 0.1,
        "Nothing": None,
        "Deep": [{"List": [[], {}], "True": True}],
    }
    reply = await HttpUpstream(session, far_service)(call(**params), GRANT)
    arrived = json.loads(reply.members)
    assert arrived["Call"]["params"] == params
    assert arrived["Call"]["received_at"] == "2026-01-02T03:04:05.678901Z"
    assert arrived["Call"]["source_ip"] == "192.0.2.7"
    assert msgspec.convert(arrived["Grant"], Grant) == GRANT
    assert arrived["Grant"]["decision"]["reason"] == "explicit-allow"


@pytest.mark.anyio
async def test_a_public_error_comes_back_as_it_was_raised(
    far_service: str, session: aiohttp.ClientSession
) -> None:
    upstream = HttpUpstream(session, far_service)
    with pytest.raises(UpstreamError) as raised:
        await upstream(call(JobId="job-notfound"), GRANT)
    assert raised.value.code == "ResourceNotFound.Job"
    assert raised.value.message == "Job `job-notfound` does not exist."
    with pytest.raises(ClassicError) as numbered:
        await upstream(call(JobId="job-numbered"), GRANT)
    assert protocol.classic_pair(numbered.value) == (4440, 10100)


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["", "elsewhere"])
async def test_what_is_no_answer_is_an_error_of_ours_that_says_nothing(
    far_service: str, session: aiohttp.ClientSession, path: str
) -> None:
    with pytest.raises(InternalError) as raised:
        await HttpUpstream(session, far_service + path)(call(JobId="job-mistaken"), GRANT)
    assert "secret" not in raised.value.message


@pytest.mark.anyio
async def test_a_service_that_is_not_there_is_said_to_be_unavailable(
    session: aiohttp.ClientSession,
) -> None:
    upstream = HttpUpstream(session, f"http://{LOOPBACK}:{free_port()}/")
    with pytest.raises(ServiceUnavailable):
        await upstream(call(), GRANT)


@pytest.mark.anyio
async def test_a_signed_call_goes_the_whole_way_to_a_service_in_another_process(
    far_service: str, session: aiohttp.ClientSession, store: Store
) -> None:
    pipeline, decisions = build(store, {"batch": HttpUpstream(session, far_service)})
    request = sdk_request("DescribeJob", {"JobId": "job-00000000"})
    reply = await pipeline(request, request_id="r-1", classic=False)
    arrived = json.loads(reply.members)
    assert arrived["Call"]["params"] == {"JobId": "job-00000000"}
    assert arrived["Grant"]["principal"]["uin"] == ALICE.uin
    await decisions.flush()
    record = await store.read_point(lambda tx: find_decision(tx, "r-1"))
    assert record is not None
    assert record["Effect"] == "allow"


@pytest.mark.anyio
async def test_a_denied_call_never_reaches_the_service(store: Store) -> None:
    async def unreachable(call: Call, grant: Grant) -> Reply:
        raise AssertionError(call.action)

    pipeline, _ = build(store, {"batch": unreachable})
    request = sdk_request("DescribeComputeEnv", {"EnvId": "env-00000000"})
    with pytest.raises(UnauthorizedOperation):
        await pipeline(request, request_id="r-2", classic=False)


def build(store: Store, upstreams: Mapping[str, Any]) -> tuple[Pipeline, DecisionLog]:
    """The corridor with the policies of this repository, and these services behind it."""
    folder = PolicyFolder(ROOT / "policies")
    decisions = DecisionLog(store, clock=now, new_id=new_id)
    pipeline = Pipeline(
        authenticators=[Tc3Authenticator(KeyRing(alice_key()))],
        replay=ReplayGuard(),
        policies=DecisionPoint(PlanEvaluator(), folder.read_snapshot(generation=1)),
        decisions=decisions,
        attributes={},
        upstreams=upstreams,
        default_region="ap-guangzhou",
        edge=Edge(),
    )
    return pipeline, decisions


async def everything(call: Call, grant: Grant) -> Reply:
    """An upstream that cannot filter."""
    return Reply(b'{"JobSet":[]}')


@pytest.mark.anyio
@pytest.mark.parametrize(
    "scope", [None, Scope(), Scope(allow=((Clause("job-a"), Clause("*")), (Clause("*"),)))]
)
async def test_a_service_that_cannot_filter_may_list_to_who_sees_everything(
    scope: Scope | None,
) -> None:
    grant = Grant(GRANT.principal, GRANT.decision, scope)
    assert await UnfilteredList(everything)(call(), grant) == Reply(b'{"JobSet":[]}')


@pytest.mark.anyio
@pytest.mark.parametrize(
    "scope",
    [
        Scope(allow=((Clause("job-a*"),),)),
        Scope(allow=((Clause("*"),), (Clause("job-a*"),))),
        Scope(allow=((Clause("*", (PROD,)),),)),
        Scope(deny=(Clause("job-a"),)),
        Scope(deny=(Clause("*", (PROD,)),)),
        Scope(allow=((),)),
        Scope(allow=((Clause("*"),), ())),
        Scope(deny=(Clause("*"),)),
    ],
)
async def test_a_service_that_cannot_filter_lists_nothing_to_who_sees_a_part(scope: Scope) -> None:
    with pytest.raises(UpstreamError) as raised:
        await UnfilteredList(everything)(call(), Grant(GRANT.principal, GRANT.decision, scope))
    assert raised.value.code == "UnauthorizedOperation"
