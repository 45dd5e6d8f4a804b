"""Decisions: both evaluators beside casbin, cedarpy and vakt, on the same rules and requests.

One thread, in process, µs for each decision that is made and returned, once warm. Every engine
must allow what the others allow.
"""

import argparse
import gc
import statistics
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from gateway.policy.decision_point import DecisionPoint
from gateway.policy.enforcer import CasbinEvaluator
from gateway.policy.match import Query
from gateway.policy.plans import PlanEvaluator
from gateway.policy.snapshot import Snapshot, policy_key
from tests.bench import decision_peers as peers
from tests.bench.policy_load import (
    ACTIONS,
    OWNER,
    Load,
    Request,
    Rule,
    document,
    make_load,
    make_requests,
)

T = TypeVar("T")

MODEL = Path(__file__).parents[2] / "policies" / "model.conf"
SIZES = (10, 100, 1_000, 10_000, 100_000)
ENOUGH_S = 1.0
"""A slow engine is asked about fewer requests: as many as fit into this, at least 12."""
ROUNDS = 7

COMPILED, CASBIN = "ours, compiled", "ours, casbin"
PEERS: Mapping[str, tuple[Callable[[Load], peers.Judge], int]] = {
    "casbin Enforcer": (peers.casbin_enforcer, 10_000),
    "casbin FastEnforcer": (peers.fast_enforcer, 100_000),
    "cedarpy, all in one set": (peers.cedar_all, 100_000),
    "cedarpy, a set per user": (peers.cedar_per_user, 100_000),
    "vakt": (peers.vakt_guard, 1_000),
}
"""By name: how it is made, and up to how many statements it is asked."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=SIZES[-1], help="statements")
    options = parser.parse_args()
    sizes = [size for size in SIZES if size <= options.most]
    table: dict[str, dict[int, float]] = {}
    for size in sizes:
        load = make_load(size)
        for name, took_us in compare(load).items():
            table.setdefault(name, {})[size] = took_us
        if size == sizes[-1]:
            show_table(table, sizes)
            show_change(load)
            del load
    gc.collect()
    show_hot_user(sizes)
    show_few_candidates()
    show_memory(sizes[-1])


def points(snapshot: Snapshot) -> dict[str, DecisionPoint]:
    return {
        COMPILED: DecisionPoint(PlanEvaluator(), snapshot),
        CASBIN: DecisionPoint(CasbinEvaluator(MODEL.read_text(encoding="utf-8")), snapshot),
    }


def compare(load: Load) -> dict[str, float]:
    """Time every engine; all must agree."""
    requests = make_requests(load)
    size = sum(map(len, (*load.users.values(), *load.groups.values())))
    shares = sum(one.allowed for one in requests) / len(requests)
    print(
        f"{size} statements, {len(load.users)} users, {shares:.0%} of requests allowed", flush=True
    )
    took: dict[str, float] = {}
    for name, point in points(load.snapshot).items():
        queries = [one.query() for one in requests]
        for request, query in zip(requests, queries, strict=True):
            check(name, request, allowed=point.decide(query).allowed)
        took[name] = median_us(point.decide, queries)
        if name == COMPILED:
            took["ours, explained"] = median_us(point.explain, queries[:600], rounds=3)
    for name, (make, most) in PEERS.items():
        if size <= most:
            judge = make(load)
            asked = as_many_as_fit(judge, requests)
            for request in asked:
                check(name, request, allowed=judge(request))
            took[name] = median_us(judge, asked, rounds=3)
            print(f"  {name} agrees on {len(asked)} requests", flush=True)
    return took


def check(name: str, request: Request, *, allowed: bool) -> None:
    if allowed is not request.allowed:
        raise SystemExit(f"{name} does not agree: {request}")


def as_many_as_fit(judge: peers.Judge, requests: Sequence[Request]) -> Sequence[Request]:
    began = time.perf_counter()
    for request in requests[:3]:
        judge(request)
    each = (time.perf_counter() - began) / 3
    return requests[: max(12, min(len(requests), int(ENOUGH_S / each)))]


def median_us(ask: Callable[[T], object], asked: Sequence[T], *, rounds: int = ROUNDS) -> float:
    """The median of some rounds over all that is asked, in µs for each."""
    return statistics.median(_round_us(ask, asked) for _ in range(rounds))


def _round_us(ask: Callable[[T], object], asked: Sequence[T]) -> float:
    began = time.perf_counter_ns()
    for one in asked:
        ask(one)
    return (time.perf_counter_ns() - began) / len(asked) / 1_000


def show_table(table: Mapping[str, Mapping[int, float]], sizes: Sequence[int]) -> None:
    """Print µs by engine and size, and how many times the compiled one is faster at the largest."""
    width = max(map(len, table))
    print("µs a decision".ljust(width), *(f"{size:>10,}" for size in sizes), "    slower by")
    for name, row in table.items():
        cells = [f"{row[size]:10.2f}" if size in row else " " * 9 + "-" for size in sizes]
        last = max(row)
        print(name.ljust(width), *cells, f"{row[last] / table[COMPILED][last]:10.0f} x")
    if len(sizes) > 1:
        ours = table[COMPILED]
        print(f"growth from {sizes[0]} to {sizes[-1]:,}: {ours[sizes[-1]] / ours[sizes[0]]:.1f} x")


def show_hot_user(sizes: Sequence[int]) -> None:
    """One user with everything."""
    took = {}
    for size in (one for one in sizes if one >= min(1_000, sizes[-1])):
        load = make_load(size, users=1)
        queries = [one.query() for one in make_requests(load)]
        point = points(load.snapshot)[COMPILED]
        took[size] = median_us(point.decide, queries)
    print("one user with all, µs:", ", ".join(f"{n:,} {us:.2f}" for n, us in took.items()))


def show_few_candidates() -> None:
    """casbin handed one to three statements."""
    load = Load(users={"1000001": []}, groups={}, members={"1000001": ()})
    wanted = "batch:DescribeJob"
    for at in range(3):
        path = f"job/a{at}*"
        load.users["1000001"].append(Rule(at == 0, (wanted,), (path,), ""))
        made = points(Load(load.users, {}, load.members).snapshot)
        queries = [
            Request("1000001", wanted, f"job/a{number % 4}b", "10.0.0.1").query()
            for number in range(600)
        ]
        us = {name: median_us(point.decide, queries) for name, point in made.items()}
        print(f"{at + 1} candidates: casbin {us[CASBIN]:.2f} µs, compiled {us[COMPILED]:.2f} µs")


def show_change(load: Load, *, changes: int = 400) -> None:
    """What the change of one policy costs, and what it costs those who ask afterwards."""
    gc.collect()  # what the peers have left behind
    point = points(load.snapshot)[COMPILED]
    queries = [one.query() for one in make_requests(load, 600)]
    for query in queries:
        point.decide(query)
    path, wanted = "job/changed", ACTIONS[0]
    took: dict[str, list[float]] = {"worked out": [], "swapped": [], "first decision": []}
    took["another user's first"] = []
    users = [name for name, rules in load.users.items() if rules]
    for number in range(changes):
        user = users[number % len(users)]
        other = users[(number + 1) % len(users)]
        allows = number // len(users) % 2 == 0
        rules = [*load.users[user], Rule(not allows, (wanted,), (path,), "")]
        changed = {policy_key(OWNER, user): document(user, rules)}
        asked = Request(user, wanted, path, "10.0.0.1").query()
        others = Request(other, wanted, path, "10.0.0.1").query()
        point.decide(asked)
        point.decide(others)
        before_it = point.snapshot  # its end is not part of what is measured
        moments = [time.perf_counter_ns()]
        snapshot = before_it.with_documents(changed, generation=number + 2)
        moments.append(time.perf_counter_ns())
        point.swap(snapshot)
        moments.append(time.perf_counter_ns())
        decision = point.decide(asked)
        moments.append(time.perf_counter_ns())
        point.decide(others)
        moments.append(time.perf_counter_ns())
        if decision.allowed is not allows or decision.generation != number + 2:
            raise SystemExit("a change was not seen")
        for name, (before, after) in zip(took, pairwise(moments), strict=True):
            took[name].append((after - before) / 1_000)
    medians = ", ".join(f"{name} {statistics.median(each):.1f}" for name, each in took.items())
    print(f"a changed policy, µs: {medians}")
    calm, troubled = (longest_stall_ms(point, queries, load, changing=on) for on in (False, True))
    print(f"longest stall of decisions: {calm:.2f} ms, while policies change {troubled:.2f} ms")


def longest_stall_ms(
    point: DecisionPoint, queries: Sequence[Query], load: Load, *, changing: bool, for_s: float = 3
) -> float:
    """The longest time between two decisions of one thread, while another changes policies."""
    ended = threading.Event()

    def change() -> None:
        users = [name for name, rules in load.users.items() if rules]
        while not ended.wait(0.05):
            user = users[point.snapshot.generation % len(users)]
            key = policy_key(OWNER, user)
            changed = {key: document(user, load.users[user])}
            snapshot = point.snapshot
            point.swap(snapshot.with_documents(changed, generation=snapshot.generation + 1))

    thread = threading.Thread(target=change)
    if changing:
        thread.start()
    longest = decide_until(point, queries, ends_at=time.perf_counter() + for_s)
    ended.set()
    if changing:
        thread.join(timeout=10)
    return longest * 1_000


def decide_until(point: DecisionPoint, queries: Iterable[Query], *, ends_at: float) -> float:
    """Decide again and again; the longest time between two, in seconds."""
    queries, longest = list(queries), 0.0
    before = time.perf_counter()
    while before < ends_at:
        for query in queries:
            point.decide(query)
            now = time.perf_counter()
            longest = max(longest, now - before)
            before = now
    return longest


def show_memory(size: int) -> None:
    """What statements take once they are read, and what a plan takes."""
    load = make_load(size)
    gc.collect()
    tracemalloc.start()
    snapshot = load.snapshot
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    count = sum(len(policy.document.statements) for policy in snapshot.policies.values())
    print(f"{held / count:.0f} bytes a statement")
    queries = [one.query() for one in make_requests(load, 900)]
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    point = points(snapshot)[COMPILED]
    for query in queries:
        point.decide(query)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    callers = len({(query.principal.uin, query.action) for query in queries})
    print(f"{(after - before) / callers:.0f} bytes for each user and action asked about")
    tracemalloc.stop()


if __name__ == "__main__":
    main()
