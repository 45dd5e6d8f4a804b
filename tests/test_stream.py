"""The stream of events on its own: real HTTP, real policies, a real ledger, small limits."""

import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.clock import now
from gateway.events.messages import Event
from gateway.events.names import EventName
from gateway.stream import Limits
from tests.policy.policies import allow, deny
from tests.support.event_stream import Block, Reader, lazy_socket, was_cut
from tests.support.running import Credentials, wait_until
from tests.support.services import LOOPBACK
from tests.support.stream_alone import (
    ANN,
    BOB,
    ENV,
    EVERYTHING,
    OTHER,
    OWNER,
    ROOT,
    SMALL,
    STRANGER,
    A,
    B,
    World,
    running,
)

OFTEN = 60


@pytest.fixture
def world(migrated_file: Path, tmp_path: Path) -> Iterator[World]:
    """With small limits."""
    with running(f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'gateway.db')}") as made:
        yield made


@pytest.fixture
def lasting(migrated_url: str) -> Iterator[World]:
    """With the limits of a real gateway, on each kind of database."""
    with running(migrated_url, Limits()) as made:
        yield made


def subjects(reader: Reader, count: int) -> list[str]:
    return [block.subject for block in reader.events(count)]


def test_a_reader_is_told_what_happens_from_now_on(lasting: World) -> None:
    lasting.tell(A)
    with lasting.read() as reader:
        assert reader.status == 200
        assert reader.answer.headers["content-type"] == "text/event-stream"
        assert reader.answer.headers["cache-control"] == "no-store"
        first = reader.block()
        assert first is not None
        lasting.tell(B, EventName.JOB_SUCCEED, JobId=B)
        [block] = reader.events(1)
    assert (first.id, first.event) == (1, "")
    assert (block.id, block.event) == (2, "JOB_SUCCEED")
    assert block.members["Batch"] == {"JobId": B}
    assert block.members["EventId"] == f"{B}-1"
    assert block.members["Owner"] == OWNER


def test_a_reader_goes_on_after_the_event_it_names(lasting: World) -> None:
    for _ in range(5):
        lasting.tell(A)
    with lasting.read(After=2) as reader:
        assert [block.id for block in reader.events(3)] == [3, 4, 5]
    with lasting.read(After=0) as reader:
        assert [block.id for block in reader.events(5)] == [1, 2, 3, 4, 5]


def test_the_header_of_one_who_reconnects_wins_over_the_address(lasting: World) -> None:
    for _ in range(5):
        lasting.tell(A)
    with lasting.read(After=1, last_event_id=4) as reader:
        assert [block.id for block in reader.events(1)] == [5]


def test_a_thousand_pages_are_told_in_order_to_one_who_is_far_behind(lasting: World) -> None:
    lasting.tell_all(A, [Event(EventName.JOB_RUNNING, A, {"Number": n}) for n in range(3_000)])
    with lasting.read(After=0) as reader:
        numbers = [block.members["Batch"]["Number"] for block in reader.events(3_000)]
    assert numbers == list(range(3_000))


def test_who_comes_back_again_and_again_misses_and_repeats_nothing_of_many_writers(
    lasting: World,
) -> None:
    jobs = [f"job-{letter * 8}" for letter in "abcdef"]
    found: list[Block] = []
    last_id = 0
    with ThreadPoolExecutor(len(jobs)) as writers:
        writing = [writers.submit(tell_often, lasting, job_id) for job_id in jobs]
        while len(found) < OFTEN * len(jobs):
            with lasting.read(last_event_id=last_id) as reader:
                found += reader.events(min(70, OFTEN * len(jobs) - len(found)))
                last_id = found[-1].id or 0
        assert all(one.result() is None for one in writing)
    assert [block.id for block in found] == sorted({block.id or 0 for block in found})
    for job_id in jobs:
        seqs = [block.members["Seq"] for block in found if block.subject == job_id]
        assert seqs == list(range(1, OFTEN + 1))


def tell_often(world: World, job_id: str) -> None:
    for _ in range(OFTEN):
        world.tell(job_id)


def test_who_was_away_for_longer_than_events_are_kept_is_told_of_the_gap(lasting: World) -> None:
    for _ in range(5):
        lasting.tell(A)
    lasting.forget()
    lasting.tell(A)
    for after, gap in ((0, {"After": 0, "Next": 5}), (3, {"After": 3, "Next": 5})):
        with lasting.read(last_event_id=after) as reader:
            said, *events = reader.events(3)
        assert (said.event, said.members, said.id) == ("gap", gap, None)
        assert [block.id for block in events] == [5, 6]


@pytest.mark.parametrize("after", [4, 5, 6])
def test_who_missed_nothing_is_told_of_no_gap(lasting: World, after: int) -> None:
    for _ in range(5):
        lasting.tell(A)
    lasting.forget()
    lasting.tell(A)
    with lasting.read(After=after) as reader:
        lasting.tell(A, EventName.JOB_SUCCEED)
        found = reader.until(lambda block: block.event == "JOB_SUCCEED")
    assert {block.event for block in found} <= {"", "JOB_RUNNING", "JOB_SUCCEED"}


def test_filters_pick_jobs_environments_and_names(lasting: World) -> None:
    lasting.tell(A)
    lasting.tell(B)
    lasting.tell(ENV, EventName.COMPUTE_ENV_CREATED)
    lasting.tell(A, EventName.JOB_SUCCEED)
    with lasting.read(After=0, JobId=A) as reader:
        assert subjects(reader, 2) == [A, A]
    with lasting.read(After=0, JobId=B, EnvId=ENV) as reader:
        assert subjects(reader, 2) == [B, ENV]
    with lasting.read(After=0, EventName="JobSucceed,COMPUTE_ENV_CREATED") as reader:
        assert subjects(reader, 2) == [ENV, A]


def test_only_what_the_reader_may_describe_is_told(world: World) -> None:
    world.allow(allow("batch:Describe*", f"qcs::batch:::job/{A}"))
    with world.read() as reader:
        world.tell(B)
        world.tell(ENV, EventName.COMPUTE_ENV_CREATED)
        world.tell(A)
        assert subjects(reader, 1) == [A]


def test_to_describe_an_environment_shows_its_events_and_those_of_its_nodes(world: World) -> None:
    world.allow(allow("batch:DescribeEvents"), allow("batch:DescribeComputeEnv"))
    with world.read() as reader:
        world.tell(A, EventName.COMPUTE_NODE_CREATED)
        world.tell(ENV, EventName.COMPUTE_NODE_CREATED)
        assert subjects(reader, 1) == [ENV]


def test_to_describe_a_topic_shows_what_becomes_of_its_subscriptions(world: World) -> None:
    seen = "tdmq:DescribeCmqSubscriptionDetail"
    world.allow(allow("batch:DescribeEvents"), allow(seen, "qcs::tdmq:::topic/mine"))
    other, mine = world.subscribe("others"), world.subscribe("mine")
    with world.read() as reader:
        world.pause(other, "others")
        world.pause(mine, "mine")
        assert subjects(reader, 1) == [mine]


def test_a_deny_on_a_subscription_hides_it_from_who_may_describe_its_topic(world: World) -> None:
    world.allow(*EVERYTHING, deny("tdmq:*", "qcs::tdmq:::subscription/one/s"))
    hidden, shown = world.subscribe("one"), world.subscribe("two")
    with world.read() as reader:
        world.pause(hidden, "one")
        world.pause(shown, "two")
        assert subjects(reader, 1) == [shown]


def test_who_makes_a_topic_anew_is_not_shown_what_the_old_one_of_that_name_told(
    lasting: World,
) -> None:
    secret = {"string_equal": {"qcs:tag/secret": "yes"}}
    lasting.allow(*EVERYTHING, deny("tdmq:*", condition=secret))
    old = lasting.subscribe("payroll", secret="yes")
    lasting.pause(old, "payroll")
    lasting.call("DeleteCmqSubscribe", TopicName="payroll", SubscriptionName="s")
    lasting.call("DeleteCmqTopic", TopicName="payroll")
    new = lasting.subscribe("payroll")
    lasting.pause(new, "payroll")
    with lasting.read(After=0) as reader:
        assert subjects(reader, 1) == [new]


def test_a_topic_made_anew_while_a_stream_is_open_does_not_uncover_the_old_one(
    lasting: World,
) -> None:
    with lasting.read() as reader:
        old = lasting.subscribe("payroll")
        lasting.pause(old, "payroll")
        assert subjects(reader, 1) == [old]
        lasting.call("DeleteCmqSubscribe", TopicName="payroll", SubscriptionName="s")
        lasting.pause(old, "payroll")
        lasting.tell(A)
        assert subjects(reader, 1) == [A]


def test_an_explicit_deny_to_stream_a_job_hides_it_from_who_may_describe_it(world: World) -> None:
    world.allow(allow("batch:*"), deny("batch:DescribeEvents", f"qcs::batch:::job/{A}"))
    with world.read() as reader:
        world.tell(A)
        world.tell(B)
        assert subjects(reader, 1) == [B]


def test_a_deny_that_is_added_holds_for_the_next_event(world: World) -> None:
    with world.read() as reader:
        world.tell(A)
        assert subjects(reader, 1) == [A]
        world.allow(*EVERYTHING, deny("batch:DescribeJob", f"qcs::batch:::job/{A}"))
        world.tell(A)
        world.tell(B)
        assert subjects(reader, 1) == [B]


def test_who_may_no_more_open_a_stream_loses_the_one_that_is_open(world: World) -> None:
    with world.read() as reader:
        world.allow()
        assert reader.until(is_end)[-1].members == {"Reason": "denied"}


def test_another_account_and_another_region_are_not_told(world: World) -> None:
    with world.read(STRANGER) as stranger, world.read(region="ap-beijing") as elsewhere:
        world.tell(A)
        world.tell(B, owner=OTHER)
        world.tell("job-cccccccc", region="ap-beijing")
        assert subjects(stranger, 1) == [B]
        assert subjects(elsewhere, 1) == ["job-cccccccc"]


def test_the_time_of_the_event_counts_and_not_that_of_the_opening(world: World) -> None:
    until = (now() + timedelta(seconds=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    soon = {"date_less_than": {"qcs:current_time": until}}
    world.allow(
        allow("batch:DescribeEvents"),
        allow("batch:DescribeJob", f"qcs::batch:::job/{A}", condition=soon),
        allow("batch:DescribeJob", f"qcs::batch:::job/{B}"),
    )
    with world.read() as reader:
        world.tell(A)
        assert subjects(reader, 1) == [A]
        wait_until(lambda: now().strftime("%Y-%m-%dT%H:%M:%SZ") >= until, at_most_s=5)
        world.tell(A)
        world.tell(B)
        assert subjects(reader, 1) == [B]


def is_end(block: Any) -> bool:
    return bool(block.event == "end")


def test_a_reader_of_nothing_hears_that_the_line_stands_and_how_far_it_came(world: World) -> None:
    world.allow(allow("batch:Describe*", f"qcs::batch:::job/{A}"))
    with world.read() as reader:
        reader.block()
        silent = reader.block()
        assert silent is not None
        assert (silent.comment, silent.id) == (True, None)
        for _ in range(3):
            world.tell(B)
        reader.until(lambda block: block.id == 3)
    with world.read(last_event_id=reader.last_id) as reader:
        world.tell(A)
        assert [block.id for block in reader.events(1)] == [4]


def test_what_follows_a_restart_of_the_ledger_is_not_waited_for(world: World) -> None:
    with world.read(After=1_000_000) as reader:
        assert reader.status == 400
        assert reader.code == "InvalidParameterValue"


REFUSED: dict[str, tuple[Credentials | str, dict[str, Any], int, str]] = {
    "a wrong secret": (replace(ANN, secret_key="x"), {}, 401, "AuthFailure.SignatureFailure"),
    "nobody's key": (Credentials("AKIDnone", "x"), {}, 401, "AuthFailure.SecretIdNotFound"),
    "a token of nobody": ("x.y.z", {}, 401, "AuthFailure.TokenFailure"),
    "no number": (ANN, {"After": "x"}, 400, "InvalidParameterValue"),
    "an empty filter": (ANN, {"JobId": ""}, 400, "InvalidParameterValue"),
    "no such event": (ANN, {"EventName": "JOB_LOST"}, 400, "InvalidParameterValue"),
    "no such parameter": (ANN, {"Job": A}, 400, "UnknownParameter"),
    "a pattern for an id": (ANN, {"JobId": "job-*"}, 400, "InvalidParameter.JobIdMalformed"),
    "another action": (ANN, {"action": "DescribeJobs"}, 400, "InvalidAction"),
    "another service": (ANN, {"service": "tdmq"}, 400, "NoSuchVersion"),
    "twice one position": (ANN, {"After": "1,2"}, 400, "InvalidParameter"),
    "a NUL": (ANN, {"JobId": "job-\0"}, 400, "InvalidParameterValue"),
    "two regions": (ANN, {"Region": "ap-beijing"}, 400, "InvalidParameter"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_who_cannot_be_let_in_gets_a_status_and_an_envelope(world: World, case: str) -> None:
    who, query, status, code = REFUSED[case]
    with world.read(who, **query) as reader:
        assert (reader.status, reader.code) == (status, code)
        assert reader.answer.headers["content-type"] == "application/json"


def test_who_may_not_open_it_is_denied_and_the_denial_is_recorded(world: World) -> None:
    world.allow(allow("batch:DescribeJob"))
    with world.read() as reader:
        assert reader.status == 403
        text = reader.answer.read().decode()
    assert "UnauthorizedOperation" in text
    assert "batch:DescribeEvents" in text
    record = world.record(text.partition("[request id:")[2].partition("]")[0])
    assert (record["Effect"], record["Reason"]) == ("deny", "implicit-deny")
    assert record["Action"] == "batch:DescribeEvents"


def test_an_id_that_is_asked_for_must_be_allowed_itself(world: World) -> None:
    world.allow(allow("batch:Describe*", f"qcs::batch:::job/{A}"))
    with world.read(JobId=A) as reader:
        assert reader.status == 200
    with world.read(JobId=f"{A},{B}") as reader:
        assert reader.status == 403


def refused(reader: Reader) -> bool:
    return (reader.status, reader.status == 429 and reader.code) == (429, "RequestLimitExceeded")


@pytest.mark.parametrize("who", [ANN, ROOT], ids=["a user", "the root"])
def test_one_user_has_so_many_streams_and_a_closed_one_makes_room(
    world: World, who: Credentials
) -> None:
    with world.read(who), world.read(who) as second:
        with world.read(who) as third, world.read(BOB) as other:
            assert refused(third)
            assert other.status == 200
        second.close()
        wait_until(lambda: world.open_streams() == 1)
        with world.read(who) as third:
            assert third.status == 200


def test_the_users_of_an_account_have_so_many_streams_and_the_root_its_own(world: World) -> None:
    with world.read(), world.read(), world.read(BOB), world.read(BOB) as one_more:
        assert refused(one_more)
        with world.read(ROOT) as root, world.read(STRANGER) as stranger:
            assert (root.status, stranger.status) == (200, 200)


def test_the_process_has_so_many_streams(world: World) -> None:
    with world.read(), world.read(), world.read(BOB), world.read(ROOT), world.read(STRANGER):
        assert world.open_streams() == 5
        with world.read(STRANGER) as one_more:
            assert refused(one_more)


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT"])
def test_only_get_opens_a_stream(world: World, method: str) -> None:
    with socket.create_connection((LOOPBACK, world.port), timeout=10) as line:
        line.sendall(f"{method} /events/stream HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert line.recv(64).startswith(b"HTTP/1.1 405 ")


def test_a_token_that_expires_ends_its_stream(world: World) -> None:
    expires_at = int(now().timestamp()) + 2
    with world.read(world.token(exp=expires_at)) as reader:
        assert reader.status == 200
        end = reader.until(is_end)[-1]
    assert end.members == {"Reason": "expired"}
    assert now() >= datetime.fromtimestamp(expires_at, UTC)
    assert reader.block() is None


def test_a_key_that_is_taken_away_ends_its_stream(world: World) -> None:
    with world.read() as reader:
        del world.ring.keys[ANN.secret_id]
        assert reader.until(is_end)[-1].members == {"Reason": "revoked"}


def test_a_stream_ends_after_its_time(migrated_file: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'gateway.db')}"
    short = replace(SMALL, lifetime_s=0.3)
    with running(url, short) as world, world.read() as reader:
        assert reader.until(is_end)[-1].members == {"Reason": "lifetime"}
        assert reader.block() is None
        wait_until(lambda: world.open_streams() == 0)


def test_a_stream_ends_at_once_when_the_process_has_to(lasting: World) -> None:
    with lasting.read() as reader:
        reader.block()
        lasting.portal.call(lasting.streams.drain)
        assert reader.until(is_end)[-1].members == {"Reason": "draining"}
    with lasting.read() as reader:
        assert (reader.status, reader.code) == (503, "ServiceUnavailable")


def test_who_does_not_read_is_cut_and_holds_up_nobody(world: World) -> None:
    page = [Event(EventName.JOB_RUNNING, A, {"Text": "x" * 8_000}) for _ in range(1_000)]
    lazy = lazy_socket(world.port, ANN)
    with lazy, world.read() as reader:
        wait_until(lambda: world.open_streams() == 2)
        world.tell_all(A, page)
        assert len(reader.events(1_000)) == 1_000
        wait_until(lambda: world.open_streams() == 1)
        assert was_cut(lazy)


def test_what_waits_for_one_who_does_not_read_is_bounded(lasting: World) -> None:
    lasting.tell_all(
        A, [Event(EventName.JOB_RUNNING, A, {"Text": "x" * 8_000}) for _ in range(2_000)]
    )
    with lazy_socket(lasting.port, ANN, After=0):
        wait_until(lambda: lasting.open_streams() == 1)
        [stream] = lasting.streams._open  # noqa: SLF001  # how far it came is shown nowhere
        wait_until(lambda: stream._reached > 0)  # noqa: SLF001
        before = -1
        while before != (before := stream._reached):  # noqa: SLF001
            lasting.portal.call(anyio.sleep, 0.5)
        assert before < 2_000
