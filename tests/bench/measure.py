"""What every benchmark does: runs rounds in turn, takes medians, prints a table."""

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Result:
    """One round of one contender. rate: units a second; notes: further figures, by heading."""

    rate: float
    notes: Mapping[str, float]


def in_turn(contenders: Mapping[str, Callable[[], Result]], *, rounds: int) -> dict[str, Result]:
    """Run every contender once a round, so that a slow minute hits all; returns the medians."""
    found: dict[str, list[Result]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            found[name].append(run())
    return {name: median(results) for name, results in found.items()}


def median(results: Sequence[Result]) -> Result:
    """The median of each figure."""
    return Result(
        rate=statistics.median(result.rate for result in results),
        notes={
            name: statistics.median(result.notes[name] for result in results)
            for name in results[0].notes
        },
    )


def show(results: Mapping[str, Result], *, unit: str, against: Sequence[str]) -> None:
    """Print one line a contender, with its ratio to each of `against`."""
    width = max(len(name) for name in results)
    notes = list(dict.fromkeys(note for result in results.values() for note in result.notes))
    headings = [f"{unit}/s".rjust(10), *(note.rjust(12) for note in notes)]
    headings += [f"x {name}".rjust(max(10, len(name) + 3)) for name in against]
    print(" " * width, *headings)
    for name, result in results.items():
        cells = [f"{result.rate:10.0f}"]
        cells += [
            f"{result.notes[note]:12.2f}" if note in result.notes else " " * 12 for note in notes
        ]
        cells += [
            f"{result.rate / results[other].rate:{max(10, len(other) + 3)}.2f}" for other in against
        ]
        print(name.ljust(width), *cells)


def cpu_seconds(pids: Sequence[int]) -> float:
    """The processor time that processes and their ended children have used."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(int(field) for field in fields[11:15])
    return total / TICKS


def resident_mb(pids: Sequence[int]) -> float:
    """The memory that processes hold now, in MB."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * PAGE / 1e6


def used_seconds(pid: int) -> float:
    """The processor time that a process itself has used, without its children's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:13]) / TICKS


def peak_mb(pid: int) -> float:
    """The most memory that a process has ever held, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def private_mb(pid: int) -> float:
    """The memory that a process holds now and shares with none, in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    private = [int(line.split()[1]) for line in lines if line.startswith("Private")]
    return sum(private) * 1024 / 1e6
