"""A short campaign on each database; `scripts/crash` runs a long one."""

from pathlib import Path

import pytest

from tests.campaigns.audit import Findings
from tests.campaigns.crash import Plan, run_campaign
from tests.campaigns.crash_points import POINTS, points_of
from tests.support.services import RabbitMQ


@pytest.mark.timeout(200)
def test_nothing_is_lost_or_done_twice_when_the_gateway_is_killed_at_work(
    tmp_path: Path, rabbitmq: RabbitMQ
) -> None:
    report = run_campaign(tmp_path, Plan(cycles=3, seed=1), broker=rabbitmq)
    assert report.findings == Findings()
    assert report.jobs > 0
    assert report.struck > 0


@pytest.mark.timeout(200)
def test_nothing_is_lost_or_done_twice_on_postgresql_when_executors_die_too(
    tmp_path: Path, rabbitmq: RabbitMQ, postgresql_url: str
) -> None:
    plan = Plan(cycles=2, seed=3, executor_too=True)
    report = run_campaign(tmp_path, plan, broker=rabbitmq, database_url=postgresql_url)
    assert report.findings == Findings()
    assert report.jobs > 0


@pytest.mark.timeout(200)
def test_nothing_is_lost_or_done_twice_wherever_a_process_dies(
    tmp_path: Path, rabbitmq: RabbitMQ
) -> None:
    points = ("after sqlite commit", "after hand-over", "before confirm", "after spawn")
    report = run_campaign(tmp_path, Plan(cycles=0, seed=5, points=points), broker=rabbitmq)
    assert report.findings == Findings()
    assert report.jobs > 0


def test_every_crash_point_is_on_one_database_or_on_both() -> None:
    assert {*points_of(postgresql=False), *points_of(postgresql=True)} == set(POINTS)
