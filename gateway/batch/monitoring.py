"""From the samples of an instance's attempts to the points of a curve. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from itertools import pairwise
from typing import Final

from gateway.batch.executor.samples import Record
from gateway.errors import InvalidParameterValue

PERIODS_S: Final = (5, 10, 60, 300, 3_600, 86_400)
POINTS_MAX: Final = 720
NULLS_MAX: Final = 10
PERCENT: Final = 100.0
DISK_DIMENSION: Final = "diskname"
DISK_DEFAULT: Final = "vdb"
EXAMPLE: Final = "2018-06-15T14:43:17Z"
_DISK_NAMES: Final = "abcdefghijklmnopqrstuvwxyz"


class Metric(Enum):
    """What can be asked for."""

    CPU_USAGE = "CpuUsage"
    MEM_USAGE = "MemUsage"
    MAX_DISK_USAGE = "MaxDiskUsage"
    TARGET_DISK_USAGE = "TargetDiskUsage"
    LAN_OUT_TRAFFIC = "LanOuttraffic"
    LAN_IN_TRAFFIC = "LanIntraffic"


@dataclass(frozen=True, slots=True)
class Window:
    """The time that is looked at, both ends included."""

    start: datetime
    end: datetime

    def holds(self, at: float) -> bool:
        """Whether a moment, in seconds since 1970, is in it."""
        return self.start.timestamp() <= at <= self.end.timestamp()


@dataclass(frozen=True, slots=True)
class Points:
    """A curve. period: seconds between two points. timestamps: seconds since 1970, rising."""

    period: int
    timestamps: list[int]
    values: list[float | None]


def find_metric(name: str) -> Metric:
    """The metric of a name. Raises InvalidParameterValue."""
    try:
        return Metric(name)
    except ValueError:
        known = ", ".join(f"`{metric.value}`" for metric in Metric)
        raise InvalidParameterValue(f"There is no metric `{name}`; there are {known}.") from None


def parse_moment(text: str, *, member: str) -> datetime:
    """Read a time in UTC, `2018-06-15T14:43:17Z`. Raises InvalidParameterValue.

    Why another offset is refused: the vendor says that only UTC is supported.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidParameterValue(
            f"{member} `{text}` is not a time, such as {EXAMPLE}."
        ) from None
    if moment.tzinfo is None or moment.utcoffset():
        raise InvalidParameterValue(f"{member} `{text}` is not in UTC, such as {EXAMPLE}.")
    return moment.astimezone(UTC)


def window(
    start: datetime | None, end: datetime | None, *, born: datetime, last: datetime
) -> Window:
    """The part of an instance's life that is asked for.

    born: when the instance was made. last: when it ended, or now. Raises InvalidParameterValue.
    """
    if start is not None and end is not None and start > end:
        raise InvalidParameterValue("StartTime is later than EndTime.")
    begin = born if start is None else max(start, born)
    until = last if end is None else min(end, last)
    return Window(begin, until)


def data_points(
    records: Sequence[Record], metric: Metric, *, within: Window, disk: str = DISK_DEFAULT
) -> Points:
    """The curve of a metric over the attempts of an instance, in order.

    disk: which one TargetDiskUsage is about, see `disk_position`. A period's value is the average
    of what was measured in it. Between two attempts the value is None, NULLS_MAX times at most.
    """
    period = period_of(within)
    bins: dict[int, list[float | None]] = {}
    for record in records:
        found = [
            (int(at) // period * period, value)
            for at, value in _curve(record, metric, disk=disk)
            if within.holds(at)
        ]
        if bins and found:
            gap = range(max(bins) + period, min(stamp for stamp, _ in found), period)
            bins.update((stamp, []) for stamp in gap[:NULLS_MAX])
        for stamp, value in found:
            bins.setdefault(stamp, []).append(value)
    stamps = sorted(bins)
    return Points(period, stamps, [_average(bins[stamp]) for stamp in stamps])


def period_of(within: Window) -> int:
    """The finest period that gives POINTS_MAX points or fewer."""
    seconds = (within.end - within.start).total_seconds()
    return next((each for each in PERIODS_S if seconds <= each * POINTS_MAX), PERIODS_S[-1])


def disk_position(record: Record, disk: str) -> int | None:
    """Which of a record's disks a name means; None if there is none.

    `vda` is the disk of the work folder, `vdb` and so on are the mounts in their order; the path
    where the command sees a mount names it, too.
    """
    if disk in record.header.disks:
        return record.header.disks.index(disk)
    letter = disk.removeprefix("vd")
    if disk.startswith("vd") and len(letter) == 1 and letter in _DISK_NAMES:
        position = _DISK_NAMES.index(letter)
        return position if position < len(record.header.disks) else None
    return None


def _curve(record: Record, metric: Metric, *, disk: str) -> list[tuple[float, float | None]]:
    """What a metric was at each sample.

    Why the network's are None: on a machine that its nodes share, traffic belongs to the machine,
    and nothing counts it for one command.
    """
    match metric:
        case Metric.CPU_USAGE:
            return _cpu_curve(record)
        case Metric.MEM_USAGE:
            whole = record.header.mem_bytes
            return [(s.at, _percent(s.mem_bytes, whole)) for s in record.samples]
        case Metric.MAX_DISK_USAGE:
            return [
                (s.at, max((d for d in s.disks if d is not None), default=None))
                for s in record.samples
            ]
        case Metric.TARGET_DISK_USAGE:
            position = disk_position(record, disk)
            if position is None:
                return []
            return [(s.at, s.disks[position]) for s in record.samples if position < len(s.disks)]
        case Metric.LAN_OUT_TRAFFIC | Metric.LAN_IN_TRAFFIC:
            return [(s.at, None) for s in record.samples]


def _cpu_curve(record: Record) -> list[tuple[float, float | None]]:
    """The part of its node's cores that was busy since the sample before."""
    moments = [(record.header.began, 0.0), *((s.at, s.cpu_s) for s in record.samples)]
    return [
        (at, _percent(cpu_s - cpu_before_s, (at - before) * record.header.cores))
        for (before, cpu_before_s), (at, cpu_s) in pairwise(moments)
    ]


def _percent(part: float, whole: float) -> float | None:
    """A percentage from 0 to 100; None if there is no whole, as when a clock was set back."""
    return None if whole <= 0 else round(min(PERCENT, max(0.0, PERCENT * part / whole)), 2)


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 2) if known else None
