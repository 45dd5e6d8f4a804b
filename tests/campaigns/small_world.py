"""Every pattern and every text over a few letters: the matchers beside a table filled by the rule.

All pairs up to length 5 are 15 million; the suite judges those up to length 4 and some of the
rest, `scripts/differential --exhaustive` judges all.
"""

import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import product

from gateway.call import Effect
from gateway.policy.pattern import fits, reduced
from gateway.policy.plan import Paths

LETTERS = "ab*:/"
Mismatch = tuple[str, str, str]
"""Which matcher, the pattern, the text."""


def texts(length_max: int) -> Iterator[str]:
    """Every text over the letters, the empty one first."""
    for length in range(length_max + 1):
        yield from map("".join, product(LETTERS, repeat=length))


def oracle(pattern: str, text: str) -> bool:
    """Fill a table, row by row: does this beginning of the pattern match that beginning?

    A `*` matches what the pattern before it matches, and one character more of what it has.
    """
    row = [True] + [False] * len(text)
    for sign in pattern:
        if sign == "*":
            for at in range(len(text)):
                row[at + 1] = row[at + 1] or row[at]
        else:
            row = [False, *(row[at] and text[at] == sign for at in range(len(text)))]
    return row[-1]


def mismatches(pattern: str, asked: Iterable[str]) -> list[Mismatch]:
    """Ask both matchers about each text: as written, and with runs of `*` made one."""
    paths = Paths({pattern: Effect.ALLOW})
    bare = reduced(pattern)
    found = []
    for text in asked:
        truth = oracle(pattern, text)
        answers = {
            "fits": fits(pattern, text),
            "fits reduced": fits(bare, text),
            "Paths": bool(paths.lookup(text)),
        }
        found += [(name, pattern, text) for name, said in answers.items() if said is not truth]
    return found


def main(*, jobs: int, length_max: int = 5) -> int:
    """Judge all pairs; print and return the exit code."""
    began = time.monotonic()
    every = list(texts(length_max))
    found: list[Mismatch] = []
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for part in pool.imap_unordered(partial(mismatches, asked=every), every, chunksize=64):
            found += part
    seconds = time.monotonic() - began
    sys.stdout.write(
        f"{len(every) ** 2:,} pairs of pattern and text in {seconds:.0f} s,"
        f" {len(found):,} mismatches\n"
    )
    sys.stdout.write("".join(f"{one}\n" for one in found[:10]))
    return 1 if found else 0
