"""When the scheduler may do without a look ahead: each reason against it, alone."""

from collections.abc import Sequence, Set
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.batch.looking import LOOK_S, NOTHING_NEW, Lookout
from gateway.batch.slots import QueuedTask

START = datetime(2020, 2, 2, tzinfo=UTC)
SOON = START + timedelta(seconds=LOOK_S / 2)


def a_task(job_id: str, *, env_id: str | None = None) -> QueuedTask:
    return QueuedTask(job_id, "100", env_id, 1, 0, 0, 1)


def looked(*waiting: QueuedTask, **found: Any) -> Lookout:
    """A lookout whose last look found this."""
    lookout = Lookout()
    lookout.note_look(replace(NOTHING_NEW, waiting=waiting, **found), calls=7, now=START)
    return lookout


@pytest.mark.parametrize(
    ("waiting", "reported"),
    [
        ([], {"job-a"}),
        ([], {"job-a", "job-b"}),
        ([a_task("job-a")], {"job-a"}),
        ([a_task("job-a"), a_task("job-a")], {"job-a"}),
    ],
)
def test_no_look_is_needed_where_only_attempts_of_who_waits_are_new(
    waiting: Sequence[QueuedTask], reported: Set[str]
) -> None:
    assert looked(*waiting).may_skip(reported, calls=7, now=SOON)


@pytest.mark.parametrize(
    ("waiting", "reported"),
    [
        ([], set()),
        ([a_task("job-a")], set()),
        ([a_task("job-b")], {"job-a"}),
        ([a_task("job-a")], {"job-a", "job-b"}),
        ([a_task("job-a"), a_task("job-b")], {"job-a"}),
        ([a_task("job-a"), a_task("job-b")], {"job-a", "job-b"}),
        ([a_task("job-a", env_id="env-1")], {"job-a"}),
        ([a_task("job-a"), a_task("job-a", env_id="env-1")], {"job-a"}),
    ],
)
def test_a_look_is_needed_where_there_is_a_choice(
    waiting: Sequence[QueuedTask], reported: Set[str]
) -> None:
    assert not looked(*waiting).may_skip(reported, calls=7, now=SOON)


@pytest.mark.parametrize(
    "found", [{"due": ["job-b"]}, {"sick": ["job-b"]}, {"saw_all": False}], ids=str
)
def test_a_look_that_found_more_or_did_not_see_all_is_followed_by_another(
    found: dict[str, Any],
) -> None:
    assert not looked(**found).may_skip({"job-a"}, calls=7, now=SOON)


@pytest.mark.parametrize("seconds", [LOOK_S, 1, -0.001])
def test_a_look_that_is_old_or_of_another_time_tells_nothing(seconds: float) -> None:
    now = START + timedelta(seconds=seconds)
    assert not looked().may_skip({"job-a"}, calls=7, now=now)


def test_a_job_of_one_task_may_wait_for_nodes_of_an_environment() -> None:
    lookout = looked(a_task("job-a", env_id="env-1"), only_task=True)
    assert lookout.may_skip({"job-a"}, calls=7, now=SOON)
    assert not lookout.may_skip({"job-b"}, calls=7, now=SOON)


@pytest.mark.parametrize(
    ("only_task", "reported", "since"),
    [(False, {"job-a"}, []), (True, {"job-b"}, []), (True, {"job-a"}, ["job-b"])],
    ids=["others were open", "another is told of", "another waits since"],
)
def test_one_task_is_not_all_that_waits(
    *, only_task: bool, reported: Set[str], since: Sequence[str]
) -> None:
    lookout = looked(a_task("job-a"), only_task=only_task)
    lookout.note_waiting(since)
    lookout.may_skip(reported, calls=7, now=SOON)
    assert not lookout.is_only_task


def test_one_task_is_all_that_waits_if_it_was_and_no_look_was_needed_since() -> None:
    lookout = looked(a_task("job-a", env_id="env-1"), only_task=True)
    assert not lookout.is_only_task, "that was the look"
    lookout.may_skip({"job-a"}, calls=7, now=SOON)
    assert lookout.is_only_task


def test_whoever_else_calls_is_heard() -> None:
    assert not looked().may_skip({"job-a"}, calls=8, now=SOON)


def test_the_first_round_looks() -> None:
    assert not Lookout().may_skip({"job-a"}, calls=0, now=START)


def test_what_is_forgotten_is_looked_for() -> None:
    lookout = looked()
    lookout.forget()
    lookout.note_waiting(["job-a"])
    assert not lookout.may_skip({"job-a"}, calls=7, now=SOON)


def test_a_job_that_waits_since_is_as_one_that_was_found() -> None:
    lookout = looked()
    lookout.note_waiting(["job-a"])
    assert lookout.may_skip({"job-a"}, calls=7, now=SOON)
    assert not lookout.may_skip({"job-b"}, calls=7, now=SOON)
    lookout.note_waiting(["job-b"])
    assert not lookout.may_skip({"job-a"}, calls=7, now=SOON)
