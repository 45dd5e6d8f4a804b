"""Which faults a campaign commits, and in which order. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from itertools import cycle, islice
from random import Random

HOUR_S, DAY_S = 3_600, 86_400


class Fault(Enum):
    """What goes wrong."""

    GATEWAY_KILLED = "gateway killed"
    BROKER_KILLED = "broker killed"
    BROKER_RESTARTED = "broker restarted"
    LINE_CUT = "line to the broker cut"
    LINE_SILENT = "line to the broker swallows all"
    READER_CUT = "line of the AMQP reader cut"
    HOUR_ON = "clock an hour on and back"
    HOUR_BACK = "clock an hour back and on"
    DAY_ON = "clock a day on and back"
    DAY_BACK = "clock a day back and on"
    DISK_FULL = "disk full"


STEPS_S = {
    Fault.HOUR_ON: HOUR_S,
    Fault.HOUR_BACK: -HOUR_S,
    Fault.DAY_ON: DAY_S,
    Fault.DAY_BACK: -DAY_S,
}
"""How far the clock is set, in seconds; it is set back after a while, which is a step, too."""

OF_THE_BROKER = (Fault.BROKER_KILLED, Fault.BROKER_RESTARTED)
OF_THE_LINE = (Fault.LINE_CUT, Fault.LINE_SILENT, Fault.READER_CUT)


def draw_schedule(cycles: int, random: Random, *, disk: bool, clock: bool) -> list[Fault]:
    """The faults of a campaign, one for each kill of the gateway and more beside them.

    disk, clock: whether those faults are possible here.
    """
    faults = [
        *[Fault.GATEWAY_KILLED] * cycles,
        *_some(OF_THE_BROKER, cycles // 4),
        *_some(OF_THE_LINE, cycles),
        *(_some(_shuffled(STEPS_S, random), cycles // 2) if clock else ()),
        *([Fault.DISK_FULL] * max(1, cycles // 5) if disk else ()),
    ]
    return _shuffled(faults, random)


def _shuffled(faults: Iterable[Fault], random: Random) -> list[Fault]:
    drawn = list(faults)
    random.shuffle(drawn)
    return drawn


def _some(kinds: Sequence[Fault], count: int) -> Iterator[Fault]:
    """At least one, each kind in turn."""
    return islice(cycle(kinds), max(1, count))
