"""What an instance used is told as curves, within its life, over all its attempts."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch.attempts import Attempt
from gateway.batch.executor.samples import SAMPLES, Header, Record, Sample, read_samples
from gateway.batch.monitoring import (
    NULLS_MAX,
    POINTS_MAX,
    Metric,
    Points,
    Window,
    data_points,
    find_metric,
    parse_moment,
    window,
)
from gateway.clock import now
from gateway.errors import (
    ApiError,
    InvalidParameter,
    InvalidParameterValue,
    ResourceNotFound,
    UnsupportedOperation,
)
from tests.support.batch import Batch, Turns, a_task

BEGAN = 1_749_696_400
GIB = 1 << 30


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def record(
    *samples: tuple[float, float], began: float = BEGAN, disks: tuple[str, ...] = ("/",)
) -> Record:
    """Samples as (seconds after `began`, seconds of processor); half the memory is used."""
    header = Header(began, cores=2, mem_bytes=2 * GIB, counted_by="group", disks=disks)
    fills = tuple(10.0 * (n + 1) for n in range(len(disks)))
    return Record(header, tuple(Sample(began + at, cpu, GIB, fills) for at, cpu in samples))


def ask(*records: Record, metric: Metric = Metric.CPU_USAGE, **options: Any) -> Points:
    within = options.pop("within", Window(moment(BEGAN), moment(BEGAN + 3_000)))
    return data_points(records, metric, within=within, **options)


def test_the_processor_is_told_as_a_part_of_the_nodes_cores() -> None:
    points = ask(record((5, 10), (10, 10), (15, 15)))
    assert points.period == 5
    assert points.timestamps == [BEGAN + 5, BEGAN + 10, BEGAN + 15]
    assert points.values == [100.0, 0.0, 50.0]


def test_memory_and_disks_are_told_in_percent() -> None:
    found = record((5, 1), (10, 1), disks=("/", "/data", "/shared"))
    assert ask(found, metric=Metric.MEM_USAGE).values == [50.0, 50.0]
    assert ask(found, metric=Metric.MAX_DISK_USAGE).values == [30.0, 30.0]
    for disk, expected in [("vda", 10.0), ("vdb", 20.0), ("vdc", 30.0), ("/shared", 30.0)]:
        points = ask(found, metric=Metric.TARGET_DISK_USAGE, disk=disk)
        assert points.values == [expected, expected]
    assert ask(found, metric=Metric.TARGET_DISK_USAGE).values == [20.0, 20.0]
    for disk in ("vdd", "vd", "sda", "vdbc", ""):
        assert ask(found, metric=Metric.TARGET_DISK_USAGE, disk=disk).timestamps == []


def test_who_asks_for_an_unknown_metric_is_told_which_there_are() -> None:
    with pytest.raises(InvalidParameterValue) as caught:
        find_metric("CpuLoad")
    assert "`CpuLoad`" in caught.value.message
    assert all(f"`{metric.value}`" in caught.value.message for metric in Metric)


@pytest.mark.parametrize("metric", [Metric.LAN_IN_TRAFFIC, Metric.LAN_OUT_TRAFFIC])
def test_traffic_that_nobody_can_tell_apart_is_null_at_every_point(metric: Metric) -> None:
    points = ask(record((5, 1), (10, 1)), metric=metric)
    assert points.values == [None, None]
    assert points.timestamps == [BEGAN + 5, BEGAN + 10]


def test_what_is_outside_the_time_asked_for_is_left_out() -> None:
    found = record(*((5.0 * n, n) for n in range(1, 100)))
    points = ask(found, within=Window(moment(BEGAN + 20), moment(BEGAN + 30)))
    assert points.timestamps == [BEGAN + 20, BEGAN + 25, BEGAN + 30]


@pytest.mark.parametrize(("gap_s", "nulls"), [(10, 1), (40, 7), (2_000, NULLS_MAX)])
def test_between_two_attempts_there_are_a_few_nulls(gap_s: int, nulls: int) -> None:
    first = record((5, 1), (10, 2))
    second = record((5, 1), began=BEGAN + 5 + gap_s)
    points = ask(first, second)
    assert points.values == [10.0, 10.0, *[None] * nulls, 10.0]
    assert points.timestamps[-1] == BEGAN + 10 + gap_s


def test_a_longer_time_is_told_in_coarser_periods_by_their_averages() -> None:
    found = record(*((5.0 * n, 5.0 * n) for n in range(1, 2_000)))
    points = ask(found, within=Window(moment(BEGAN), moment(BEGAN + 10_000)))
    assert points.period == 60
    assert len(points.timestamps) <= POINTS_MAX
    assert set(points.values) == {50.0}
    assert all(stamp % 60 == 0 for stamp in points.timestamps)


def test_a_period_with_two_attempts_in_it_is_the_average_of_both() -> None:
    minute = BEGAN + 20
    within = Window(moment(minute), moment(minute + 10_000))
    first = record((5, 10), (10, 20), began=minute)  # all of both cores
    second = record((5, 0), began=minute + 15)  # none of them
    third = record((5, 10), began=minute + 60)
    points = ask(first, second, third, within=within)
    assert points.period == 60
    assert points.timestamps == [minute, minute + 60]
    assert points.values == [66.67, 100.0]


attempts = st.lists(
    st.lists(st.tuples(st.floats(0, 10_000), st.floats(0, 100_000)), max_size=20),
    max_size=5,
)


@given(attempts=attempts, metric=st.sampled_from(Metric), span=st.integers(1, 10_000_000))
def test_a_curve_always_rises_in_time_and_stays_within_a_hundred(
    attempts: list[list[tuple[float, float]]], metric: Metric, span: int
) -> None:
    records = [record(*samples) for samples in attempts]
    points = ask(*records, metric=metric, within=Window(moment(BEGAN), moment(BEGAN + span)))
    assert points.timestamps == sorted(set(points.timestamps))
    assert len(points.timestamps) == len(points.values)
    assert all(value is None or 0 <= value <= 100 for value in points.values)


def test_the_time_asked_for_is_cut_to_the_instances_life() -> None:
    born, last = moment(BEGAN), moment(BEGAN + 100)
    assert window(None, None, born=born, last=last) == Window(born, last)
    hour = timedelta(hours=1)
    assert window(born - hour, last + hour, born=born, last=last) == Window(born, last)
    with pytest.raises(InvalidParameterValue, match="later than"):
        window(last, born, born=born, last=last)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2025-06-11T21:12:50", "2025-06-11T21:12:50+08:00"]
)
def test_a_time_that_is_not_in_utc_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameterValue, match="StartTime") as caught:
        parse_moment(text, member="StartTime")
    example = caught.value.message.partition("such as ")[2].removesuffix(".")
    assert parse_moment(example, member="StartTime")  # the words help if they can be copied


def test_a_time_in_utc_is_read() -> None:
    expected = datetime(2025, 6, 11, 21, 12, 50, tzinfo=UTC)
    for text in ("2025-06-11T21:12:50Z", "2025-06-11T21:12:50+00:00"):
        assert parse_moment(text, member="StartTime") == expected


def keep(batch: Batch, attempt: Attempt, found: Record) -> None:
    """Write samples as an executor does."""
    folder = batch.engine.attempt_path(attempt.folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [found.header, *found.samples]
    (folder / SAMPLES).write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


async def ask_batch(batch: Batch, job_id: str, **params: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"TaskName": "a", "TaskInstanceIndex": 0, "MetricName": "CpuUsage"}
    return await batch.call("DescribeJobMonitorData", JobId=job_id, **{**asked, **params})


@pytest.mark.anyio
async def test_the_attempts_since_the_last_retry_are_told_and_no_others(batch: Batch) -> None:
    job_id = await batch.submit(a_task(MaxRetryCount=1))
    turns = Turns(batch.store, job_id)
    turns.now = now() + timedelta(hours=1)
    began = now().timestamp()
    for number in range(1, 5):
        [attempt_id] = await turns.turn(slots=1)
        attempt = Attempt(job_id, 0, 0, number)
        assert attempt.id == attempt_id
        keep(batch, attempt, record((50, number), (60, 2 * number), began=began + 200 * number))
        await turns.turn(turns.ended(attempt_id, 1))
        if number == 2:
            assert await values_of(batch, job_id) == [1.0, 5.0, *[None] * NULLS_MAX, 2.0, 10.0]
            await batch.call("RetryJobs", JobIds=[job_id])
    assert await values_of(batch, job_id) == [3.0, 15.0, *[None] * NULLS_MAX, 4.0, 20.0]


async def values_of(batch: Batch, job_id: str) -> list[float | None]:
    points = (await ask_batch(batch, job_id))["DataPoints"]
    assert len(points["Timestamps"]) == len(points["Values"])
    return list(points["Values"])


@pytest.mark.anyio
async def test_an_instance_that_did_not_run_has_an_empty_curve(batch: Batch) -> None:
    job_id = await batch.submit(a_task())
    answer = await ask_batch(batch, job_id, MetricName="MemUsage", TaskInstanceIndex="0")
    assert answer["DataPoints"] == {"Timestamps": [], "Values": []}
    assert answer["Period"] > 0


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("params", "error", "code"),
    [
        ({"job_id": "job-?"}, InvalidParameter, "InvalidParameter.JobIdMalformed"),
        ({"job_id": "job-00000000"}, ResourceNotFound, "ResourceNotFound.Job"),
        ({"TaskName": "b"}, ResourceNotFound, "ResourceNotFound"),
        ({"TaskInstanceIndex": 1}, ResourceNotFound, "ResourceNotFound"),
        ({"TaskInstanceIndex": 2**62}, ResourceNotFound, "ResourceNotFound"),
        ({"TaskInstanceIndex": -1}, InvalidParameterValue, "InvalidParameterValue.Negative"),
        ({"MetricName": "Cpu"}, InvalidParameterValue, "InvalidParameterValue"),
        ({"StartTime": "now"}, InvalidParameterValue, "InvalidParameterValue"),
        (
            {"StartTime": "2025-06-11T21:12:50Z", "EndTime": "2025-06-11T21:12:49Z"},
            InvalidParameterValue,
            "InvalidParameterValue",
        ),
        (
            {"Dimensions": [{"Name": "disk", "Value": "vdb"}]},
            InvalidParameterValue,
            "InvalidParameterValue",
        ),
    ],
)
async def test_what_cannot_be_told_is_refused_with_its_code(
    batch: Batch, params: dict[str, Any], error: type[ApiError], code: str
) -> None:
    job_id = await batch.submit(a_task())
    with pytest.raises(error) as caught:
        await ask_batch(batch, **{"job_id": job_id, **params})
    assert caught.value.code == code


@pytest.mark.anyio
async def test_a_task_in_an_environment_has_no_monitor_data(batch: Batch) -> None:
    env_id = await batch.create_env()
    job_id = await batch.submit(a_task(EnvId=env_id))
    with pytest.raises(UnsupportedOperation, match="only elastic tasks"):
        await ask_batch(batch, job_id)


@pytest.mark.anyio
async def test_a_deleted_job_has_no_monitor_data(batch: Batch) -> None:
    job_id = await batch.submit(a_task())
    await Turns(batch.store, job_id).run()
    await batch.call("DeleteJob", JobId=job_id)
    with pytest.raises(ResourceNotFound) as caught:
        await ask_batch(batch, job_id)
    assert caught.value.code == "ResourceNotFound.Job"


def test_a_torn_end_and_an_absent_file_are_no_error(tmp_path: Path) -> None:
    assert read_samples(tmp_path) is None
    found = record((5, 1), (10, 2))
    lines = b"".join(msgspec.json.encode(each) + b"\n" for each in (found.header, *found.samples))
    (tmp_path / SAMPLES).write_bytes(lines + b"[17496")
    assert read_samples(tmp_path) == found
    (tmp_path / SAMPLES).write_bytes(b"[17")
    assert read_samples(tmp_path) is None
