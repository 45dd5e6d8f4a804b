"""A policy changes while a gateway serves: when is it seen, what does it cost, who waits for it.

One document of the caller's is replaced again and again, between an allow and a deny, among
100,000 statements in 5,000 files; meanwhile the caller asks, one signed call after another.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from time import perf_counter

from tests.bench.http_calls import OWNER, write_policies
from tests.bench.measure import cpu_seconds
from tests.support.raw_client import open_line, signed
from tests.support.running import Credentials, Gateway, running_gateway

SEEN_S_MAX = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--statements", type=int, default=100_000)
    parser.add_argument("--changes", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_policies(home / "policies", options.statements)
        began = perf_counter()
        with running_gateway(home) as gateway:
            print(f"{options.statements} statements, served after {perf_counter() - began:.1f} s")
            reader = gateway.create_key("u0")
            calm = [ask(gateway, reader)[0] for _ in range(300)]
            print(f"calls while nothing changes, ms: {spread(calm)}")
            report(gateway, reader, changes=options.changes)


def report(gateway: Gateway, reader: Credentials, *, changes: int) -> None:
    seen, waited = [], []
    used = cpu_seconds([gateway.pid])
    for number in range(changes):
        effect = "deny" if number % 2 == 0 else "allow"
        replace_document(gateway.policies, effect)
        began = perf_counter()
        while perf_counter() - began < SEEN_S_MAX:
            took, allowed = ask(gateway, reader)
            waited.append(took)
            if allowed is (effect == "allow"):
                break
        seen.append(perf_counter() - began)
    used = cpu_seconds([gateway.pid]) - used
    print(f"a change is seen after, ms: {spread(seen)}")
    print(f"calls while policies change, ms: {spread(waited)}")
    print(f"CPU of the gateway in that time: {used / sum(seen):.0%} of a core")


def replace_document(policies: Path, effect: str) -> None:
    """Put the document that lets the first user read jobs in its place anew."""
    statement = {
        "effect": effect,
        "action": ["name/batch:DescribeJobs"],
        "resource": [f"qcs::batch:ap-guangzhou:uin/{OWNER}:job/*"],
    }
    new = policies.parent / "read-jobs.new"
    new.write_text(json.dumps({"version": "2.0", "statement": [statement]}))
    new.replace(policies / "examples/read-jobs.json")


def ask(gateway: Gateway, reader: Credentials) -> tuple[float, bool]:
    """Make one call: the seconds it took, and whether it was allowed."""
    request = signed(gateway, reader, "DescribeJobs", {"Limit": 1})
    with open_line(gateway.port) as line:
        began = perf_counter()
        line.send(request)
        answer = line.answer()
        return perf_counter() - began, b"UnauthorizedOperation" not in answer.body


def spread(seconds: list[float]) -> str:
    ordered = sorted(1_000 * one for one in seconds)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return f"p50 {statistics.median(ordered):.1f}, p99 {p99:.1f}, longest {ordered[-1]:.1f}"


if __name__ == "__main__":
    main()
