"""Event names: all of the guide's, and the spellings that are read."""

import pytest

from gateway.events.names import BATCH_EVENTS, EventName, Subject, parse_event_name


def test_there_are_nineteen_events() -> None:
    assert len(BATCH_EVENTS) == 19


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("JOB_FAILED", EventName.JOB_FAILED),
        ("JobFailed", EventName.JOB_FAILED),
        ("JobSucceed", EventName.JOB_SUCCEED),
        ("TaskInstanceFailedInterrupted", EventName.TASK_INSTANCE_FAILED_INTERRUPTED),
    ],
)
def test_the_table_and_the_snippet_of_the_guide_are_both_read(text: str, name: EventName) -> None:
    assert parse_event_name(text) is name


@pytest.mark.parametrize(
    "text", ["", "job_failed", "JOB_SUBMITTED", "Jobfailed", "subject", "SUBSCRIPTION_PAUSED"]
)
def test_no_other_name_is_read(text: str) -> None:
    assert parse_event_name(text) is None


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        (EventName.JOB_RUNNING, Subject.JOB),
        (EventName.TASK_FAILED, Subject.TASK),
        (EventName.TASK_INSTANCE_FAILED, Subject.INSTANCE),
        (EventName.COMPUTE_ENV_DELETED, Subject.ENV),
        (EventName.COMPUTE_NODE_DELETING, Subject.NODE),
        (EventName.SUBSCRIPTION_PAUSED, Subject.SUBSCRIPTION),
    ],
)
def test_every_event_knows_what_it_is_about(name: EventName, subject: Subject) -> None:
    assert name.subject is subject
