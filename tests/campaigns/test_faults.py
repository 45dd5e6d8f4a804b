"""A short campaign of faults; `scripts/faults` runs a long one."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from tests.campaigns.audit import Findings
from tests.campaigns.faults import Plan, run_campaign
from tests.campaigns.faults_clock import Clock
from tests.campaigns.faults_schedule import STEPS_S, Fault, draw_schedule
from tests.support.services import RabbitMQ

LATE_S = 10.0  # the cores are shared with other tests; scripts/faults asks for one second


@pytest.mark.timeout(200)
def test_no_event_is_lost_altered_or_out_of_order_whatever_breaks(
    tmp_path: Path, rabbitmq: RabbitMQ
) -> None:
    plan = Plan(cycles=1, seed=2, well=8, late_s=LATE_S)
    report = run_campaign(tmp_path, plan, broker=rabbitmq)
    assert report.findings == Findings()
    assert report.jobs > 0
    assert report.wrong_answers > 0
    assert report.faults.keys() >= {"gateway killed", "broker killed"}


def test_a_schedule_has_a_kill_for_each_cycle_and_some_of_everything_else() -> None:
    drawn = Counter(draw_schedule(20, Random(1), disk=True, clock=True))  # noqa: S311
    assert drawn[Fault.GATEWAY_KILLED] == 20
    assert drawn[Fault.BROKER_KILLED] + drawn[Fault.BROKER_RESTARTED] == 5
    assert set(drawn) == set(Fault)


def test_the_same_seed_draws_the_same_schedule() -> None:
    one, same, other = (
        draw_schedule(20, Random(seed), disk=True, clock=True)  # noqa: S311
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_what_is_not_possible_here_is_not_drawn() -> None:
    drawn = draw_schedule(20, Random(1), disk=False, clock=False)  # noqa: S311
    assert not {Fault.DISK_FULL, *STEPS_S} & set(drawn)


def test_a_moment_is_found_on_a_clock_that_was_set(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "clock")
    began = clock.steps[0][0]
    clock.steps += [(began + 10, 3_600.0), (began + 20, 0.0)]
    shown = clock.shown_at(began)
    assert clock.moment_of(shown + 5, before=began + 30) == pytest.approx(began + 5)
    assert clock.moment_of(shown + 3_615, before=began + 30) == pytest.approx(began + 15)
    assert clock.moment_of(shown + 25, before=began + 30) == pytest.approx(began + 25)
    assert clock.moment_of(shown + 3_605, before=began + 30) is None
