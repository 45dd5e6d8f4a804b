"""The stream of events of a real gateway: jobs that run, policies in files, crashes."""

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.event_stream import Block, reading
from tests.support.policies import allow, change_policies, deny, metric, write_policies
from tests.support.raw_client import call
from tests.support.running import Credentials, Gateway, running_gateway, wait_until
from tests.support.sdk import PLACEMENT, SMALL, Sdk, task

OF_A_JOB = [
    "JOB_RUNNING",
    "TASK_RUNNING",
    "TASK_INSTANCE_RUNNING",
    "TASK_INSTANCE_SUCCEED",
    "TASK_SUCCEED",
    "JOB_SUCCEED",
]
BLUE = {"for_any_value:string_equal": {"qcs:resource_tag": "team&blue"}}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose policies these tests change."""
    with running_gateway(tmp_path_factory.mktemp("stream")) as running:
        write_policies(running.policies, {})
        yield running


@pytest.fixture(scope="module")
def sdk(told: Gateway) -> Sdk:
    return Sdk(told, told.root)


@pytest.fixture(scope="module")
def ann(told: Gateway, sdk: Sdk) -> Credentials:
    change_policies(told, {"ann": [], "otherone": []})
    return told.create_key("ann")


def names(blocks: list[Block]) -> list[str]:
    return [block.event for block in blocks]


def jobs(blocks: list[Block]) -> set[str]:
    return {block.members["Batch"]["JobId"] for block in blocks if "JobId" in block.data}


def is_over(job_id: str) -> Any:
    """Whether a block says that a job is over."""
    return lambda block: block.event == "JOB_SUCCEED" and block.subject == job_id


def run_job(sdk: Sdk, **job: Any) -> str:
    job_id = sdk.submit(task("one", "true"), **job)
    sdk.wait(job_id)
    return job_id


def test_a_job_is_followed_from_its_beginning_to_its_end(told: Gateway, sdk: Sdk) -> None:
    with reading(told.port, told.root) as reader:
        job_id = sdk.submit(task("one", "true"))
        found = [block for block in reader.until(is_over(job_id)) if block.event]
    assert [name for name in names(found) if "NODE" not in name] == OF_A_JOB
    assert "COMPUTE_NODE_CREATED" in names(found)
    assert [block.members["Seq"] for block in found] == list(range(1, len(found) + 1))
    assert [block.id for block in found] == [block.members["Position"] for block in found]


def test_a_user_hears_of_the_one_job_they_may_describe(
    told: Gateway, sdk: Sdk, ann: Credentials
) -> None:
    run_job(sdk)
    mine = sdk.submit(task("one", "sleep 2"))
    shown = allow("batch:Describe*", f"qcs::batch:::job/{mine}")
    change_policies(told, {"ann": [shown], "otherone": []})
    with reading(told.port, ann, After=0) as reader:
        run_job(sdk)
        assert jobs(reader.until(is_over(mine))) == {mine}


def test_a_deny_that_is_written_holds_in_a_stream_that_is_open(
    told: Gateway, sdk: Sdk, ann: Credentials
) -> None:
    see_all = allow("batch:*")
    change_policies(told, {"ann": [see_all], "otherone": []})
    hidden = sdk.submit(task("one", "sleep 4"))
    with reading(told.port, ann, JobId=hidden) as reader:
        reader.until(lambda block: block.event == "TASK_INSTANCE_RUNNING")
        hide = deny("batch:DescribeJob", f"qcs::batch:::job/{hidden}")
        change_policies(told, {"ann": [see_all, hide], "otherone": []})
        assert sdk.wait(hidden)["JobState"] == "SUCCEED"
        change_policies(told, {"ann": [], "otherone": []})
        rest = reader.until(lambda block: block.event == "end")
    assert [name for name in names(rest) if name not in {"", "COMPUTE_NODE_RUNNING"}] == ["end"]


def test_another_account_hears_of_its_own_jobs_alone(
    told: Gateway, sdk: Sdk, ann: Credentials
) -> None:
    change_policies(told, {"ann": [], "otherone": [allow("*")]})
    stranger = told.create_key("otherone", "--uin", "100000000002")
    with reading(told.port, stranger, After=0) as reader:
        run_job(sdk)
        own = run_job(Sdk(told, stranger))
        assert jobs(reader.until(is_over(own))) == {own}


def test_a_condition_on_a_tag_shows_the_jobs_that_have_it(
    told: Gateway, sdk: Sdk, ann: Credentials
) -> None:
    shown = {**allow("batch:Describe*"), "condition": BLUE}
    change_policies(told, {"ann": [shown], "otherone": []})
    with reading(told.port, ann) as reader:
        run_job(sdk)
        run_job(sdk, Tags=[{"Key": "team", "Value": "red"}])
        blue = run_job(sdk, Tags=[{"Key": "team", "Value": "blue"}])
        assert jobs(reader.until(is_over(blue))) == {blue}


def test_what_was_deleted_is_told_but_not_by_tags_that_went_with_it(
    told: Gateway, sdk: Sdk, ann: Credentials
) -> None:
    shown = {**allow("batch:Describe*"), "condition": BLUE}
    change_policies(told, {"ann": [shown], "otherone": []})
    with reading(told.port, told.root) as reader:
        before = reader.block()
        assert before is not None
        blue = [{"Key": "team", "Value": "blue"}]
        gone, kept = run_job(sdk, Tags=blue), run_job(sdk, Tags=blue)
        sdk("DeleteJob", JobId=gone)
        env = {"EnvName": "short", "DesiredComputeNodeCount": 0, **SMALL}
        env_id = sdk("CreateComputeEnv", ComputeEnv=env, Placement=PLACEMENT)["EnvId"]
        sdk("DeleteComputeEnv", EnvId=env_id)
    with reading(told.port, told.root, last_event_id=before.id) as reader:
        found = reader.until(lambda block: block.event == "COMPUTE_ENV_DELETED")
    assert jobs(found) == {gone, kept}
    assert {"COMPUTE_ENV_CREATED", "COMPUTE_ENV_DELETED"} <= set(names(found))
    with reading(told.port, ann, last_event_id=before.id) as reader:
        assert jobs(reader.until(is_over(kept))) == {kept}


def test_opening_is_recorded_and_the_call_has_no_other_form(told: Gateway, sdk: Sdk) -> None:
    before = decisions_on_streams(told)
    answer = call(told, told.root, "DescribeEvents")
    assert (answer.status, answer.code) == (200, "UnsupportedOperation")
    with reading(told.port, told.root) as reader:
        reader.block()
        wait_until(lambda: metric(told, "qcs_gateway_event_streams") == 1)
        wait_until(lambda: decisions_on_streams(told) >= before + 2)
    wait_until(lambda: metric(told, "qcs_gateway_event_streams") == 0)


def decisions_on_streams(gateway: Gateway) -> int:
    listed = gateway.verb("decisions", "list", "--action", "batch:DescribeEvents")
    return listed.stdout.count("batch:DescribeEvents")


def test_the_end_of_the_process_ends_every_stream_in_order(tmp_path: Path) -> None:
    with running_gateway(tmp_path) as gateway, reading(gateway.port, gateway.root) as reader:
        reader.block()
        began = time.monotonic()
        os.kill(gateway.pid, signal.SIGTERM)
        end = reader.until(lambda block: block.event == "end")[-1]
        assert end.members == {"Reason": "draining"}
        assert reader.block() is None
        assert gateway.stop() == 0
        assert time.monotonic() - began < 10


def test_a_reader_who_comes_back_misses_and_repeats_nothing_whatever_crashes(
    tmp_path: Path,
) -> None:
    with running_gateway(tmp_path) as gateway:
        root = gateway.root
        found: list[int] = []
        last_id = 0
        for _ in range(4):
            writing = Submitting(gateway, root)
            with reading(gateway.port, root, last_event_id=last_id) as reader:
                enough = len(found) + 40
                while len(found) < enough:
                    [block] = reader.events(1)
                    found.append(int(block.id or 0))
                gateway.kill()
                found += [int(block.id or 0) for block in reader.blocks() if block.event]
            last_id = found[-1]
            writing.end()
            gateway.start()
        with reading(gateway.port, root, last_event_id=last_id) as reader:
            last = Sdk(gateway, root).submit(task("one", "true"))
            rest = reader.until(is_over(last))
            found += [int(block.id or 0) for block in rest if block.event]
        assert found == [position for position in ledger(gateway) if position <= found[-1]]


class Submitting:
    """Jobs submitted in a thread of their own, until the gateway is gone or it is told to end."""

    def __init__(self, gateway: Gateway, who: Credentials) -> None:
        self._sdk = Sdk(gateway, who)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._sdk.submit(task("one", "true"))
            except Exception:  # the gateway was killed
                return


def ledger(gateway: Gateway) -> list[int]:
    """The positions of all events, from the disk."""
    with closing(sqlite3.connect(gateway.data / "gateway.db")) as database:
        return [row[0] for row in database.execute("SELECT position FROM event ORDER BY position")]
