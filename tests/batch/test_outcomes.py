"""What an attempt's end means."""

from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.batch.attempts import Attempt, parse_attempt
from gateway.batch.engines import Cause, Ended
from gateway.batch.node_waits import wait_before
from gateway.batch.outcomes import (
    LOSSES_MAX,
    RetryRules,
    Verdict,
    judge,
    read_retry_rules,
    reason_of,
)
from gateway.batch.states import Trigger
from tests.support.batch import START

IMAGE = "img-31tjrtph"
retry_rules = st.builds(RetryRules, retries_max=st.integers(0, 5), keeps_node=st.booleans())
tries = st.integers(0, 10)


def ended(cause: Cause | None, exit_code: int | None = None) -> Ended:
    return Ended("job-00000001.0.0.1", START, exit_code, cause)


@given(retry_rules=retry_rules, failures=tries, losses=tries, terminating=st.booleans())
def test_a_command_that_succeeded_is_believed_whatever_came_before(
    retry_rules: RetryRules, failures: int, losses: int, terminating: bool
) -> None:
    verdict = judge(
        ended(None, 0),
        failures=failures,
        losses=losses,
        retry_rules=retry_rules,
        terminating=terminating,
    )
    assert verdict == Verdict(Trigger.SUCCEEDED, failures, losses)


@given(cause=st.sampled_from(Cause), retry_rules=retry_rules, failures=tries, losses=tries)
def test_an_end_is_counted_once_and_either_as_a_failure_or_as_a_loss(
    cause: Cause, retry_rules: RetryRules, failures: int, losses: int
) -> None:
    verdict = judge(
        ended(cause), failures=failures, losses=losses, retry_rules=retry_rules, terminating=False
    )
    lost = cause is Cause.INFRA_LOST
    assert (verdict.failures, verdict.losses) == (failures + (not lost), losses + lost)


@given(cause=st.sampled_from(Cause), retry_rules=retry_rules)
def test_nothing_is_tried_again_or_kept_while_its_job_is_terminating(
    cause: Cause, retry_rules: RetryRules
) -> None:
    verdict = judge(ended(cause), failures=0, losses=0, retry_rules=retry_rules, terminating=True)
    assert verdict.trigger is Trigger.FAILED


@given(retry_rules=retry_rules)
def test_a_command_is_run_once_more_than_it_may_be_retried(retry_rules: RetryRules) -> None:
    failures, runs, trigger = 0, 0, Trigger.RETRIED
    while trigger is Trigger.RETRIED:
        verdict = judge(
            ended(Cause.USER_EXIT, 1),
            failures=failures,
            losses=LOSSES_MAX + 1,
            retry_rules=retry_rules,
            terminating=False,
        )
        failures, trigger, runs = verdict.failures, verdict.trigger, runs + 1
    assert runs == retry_rules.retries_max + 1
    assert trigger is (Trigger.KEPT if retry_rules.keeps_node else Trigger.FAILED)


@given(retry_rules=retry_rules, failures=tries)
def test_files_that_cannot_be_brought_are_tried_for_again_and_those_not_kept_are_final(
    retry_rules: RetryRules, failures: int
) -> None:
    never_ran = replace(ended(Cause.STORAGE), started=False)
    for end, may_retry in (
        (never_ran, failures < retry_rules.retries_max),
        (ended(Cause.STORAGE, 0), 0),
    ):
        verdict = judge(
            end, failures=failures, losses=0, retry_rules=retry_rules, terminating=False
        )
        assert verdict.trigger is (Trigger.RETRIED if may_retry else Trigger.FAILED)


@given(retry_rules=retry_rules)
def test_a_lost_node_cannot_be_kept(retry_rules: RetryRules) -> None:
    verdict = judge(
        ended(Cause.INFRA_LOST),
        failures=0,
        losses=LOSSES_MAX,
        retry_rules=retry_rules,
        terminating=False,
    )
    assert verdict.trigger is Trigger.FAILED


@pytest.mark.parametrize(
    ("members", "retry_rules"),
    [
        ({}, RetryRules(0, keeps_node=False)),
        ({"MaxRetryCount": 3}, RetryRules(3, keeps_node=False)),
        ({"FailedAction": "INTERRUPT"}, RetryRules(0, keeps_node=True)),
        ({"FailedAction": "FAST_INTERRUPT"}, RetryRules(0, keeps_node=True)),
        ({"FailedAction": "TERMINATE"}, RetryRules(0, keeps_node=False)),
        (
            {
                "RestartComputeNode": True,
                "ResourceMaxRetryCount": 8,
                "ComputeEnv": {"EnvData": {"ImageId": "img-31tjrtph", "Zones": ["x"]}},
                "Application": {"Command": "FailedAction"},
            },
            RetryRules(0, keeps_node=False, restarts_node=True, node_retries_max=8, image_id=IMAGE),
        ),
        ({"MaxRetryCount": None, "ComputeEnv": {"EnvData": None}}, RetryRules(0, keeps_node=False)),
    ],
)
def test_retry_rules_are_read_from_what_was_submitted(
    members: dict[str, object], retry_rules: RetryRules
) -> None:
    assert read_retry_rules(msgspec.json.encode(members)) == retry_rules


def test_the_documented_eight_tries_wait_6300_seconds() -> None:
    waits = [wait_before(number) for number in range(1, 9)]
    assert sum(waits, timedelta()) == timedelta(seconds=3 * 600 + 5 * 900)


@pytest.mark.parametrize(
    ("number", "seconds"),
    [(1, 600), (3, 600), (4, 900), (10, 900), (11, 1800), (50, 1800), (51, 3600), (100, 3600)],
)
def test_the_wait_before_another_try_grows_as_documented(number: int, seconds: int) -> None:
    assert wait_before(number) == timedelta(seconds=seconds)


def test_every_cause_is_put_in_words() -> None:
    assert all(reason_of(cause, exit_code=3) for cause in Cause)
    assert reason_of(None, exit_code=0) == ""
    assert reason_of(Cause.USER_EXIT, exit_code=3) == "The command ended with exit code 3."
    assert reason_of(Cause.STORAGE, exit_code=0, detail="No space left.").endswith(
        "stored. No space left."
    )


@given(position=st.integers(0, 10**9 - 1), number=tries, attempt=tries)
def test_an_attempts_id_says_where_it_belongs(position: int, number: int, attempt: int) -> None:
    made = Attempt("job-0a1b2c3d", position, number, attempt)
    assert parse_attempt(made.id) == made


@pytest.mark.parametrize(
    "text",
    [
        "",
        "job-00000001.0.0",
        "job-00000001.0.0.1.2",
        "job-00000001.0.0.-1",
        "job-00000001.0.0.1\n",
        "job-0000000A.0.0.1",
        "job-00000001.0.0.\u0661",  # a digit in Arabic, not here
        "job-00000001.0.0.1234567890",
    ],
)
def test_what_is_no_attempts_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an attempt's id"):
        parse_attempt(text)
