"""Large jobs: a graph of 2,000 tasks, and one task of 100,000 instances.

Each is submitted by the official SDK and run; meanwhile another client asks for the job, for the
time that an answer takes then. In the end all instances are listed, page by page.
"""

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.jobs import executor_of
from tests.bench.measure import resident_mb
from tests.campaigns.load import working
from tests.support.running import Gateway, running_gateway
from tests.support.sdk import Sdk, task

LAYERS = 40
PAGE = 1_000
ASK_EVERY_S = 0.05
OVER = ("SUCCEED", "FAILED")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=2_000)
    parser.add_argument("--instances", type=int, default=100_000)
    parser.add_argument("--at-once", type=int, default=32)
    options = parser.parse_args()
    settings = {
        "QCS_GATEWAY_ISOLATION": "none",
        "QCS_GATEWAY_INSTANCES_PER_CORE": str(options.at_once),
        "QCS_GATEWAY_MEMORY_GIB": "1024",
    }
    with (
        tempfile.TemporaryDirectory() as name,
        running_gateway(Path(name), **settings) as gateway,
    ):
        tasks, edges = layered_graph(options.tasks)
        run_one(gateway, f"a graph of {options.tasks} tasks", tasks, edges)
        wide = task("wide", "true", TaskInstanceNum=options.instances)
        run_one(gateway, f"one task of {options.instances} instances", [wide], [])


def layered_graph(count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tasks in layers; each waits for two of the layer before it."""
    width = max(2, count // LAYERS)
    names = [f"t{number}" for number in range(count)]
    edges = [
        (names[(number // width - 1) * width + before % width], names[number])
        for number in range(width, count)
        for before in (number % width, number % width + 1)
    ]
    return (
        [task(name, "true") for name in names],
        [{"StartTask": start, "EndTask": end} for start, end in edges],
    )


@dataclass
class Asking:
    """A client that asks for a job again and again. took: seconds, answer by answer."""

    gateway: Gateway
    job_id: str
    took: list[float] = field(default_factory=list)
    states: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        """Ask until told to stop."""
        sdk = Sdk(self.gateway, self.gateway.root)
        while not stop.wait(ASK_EVERY_S):
            began = time.perf_counter()
            view = sdk("DescribeJob", JobId=self.job_id)
            self.took.append(time.perf_counter() - began)
            self.states.append(view["JobState"])


@contextmanager
def asking(gateway: Gateway, job_id: str) -> Iterator[Asking]:
    asker = Asking(gateway, job_id)
    with working(asker.run):
        yield asker


def run_one(
    gateway: Gateway, what: str, tasks: list[dict[str, Any]], edges: list[dict[str, Any]]
) -> None:
    """Submit a job, run it to its end, list all of it, and print how long each took."""
    sdk = Sdk(gateway, gateway.root)
    began = time.perf_counter()
    job_id = sdk.submit(*tasks, Dependences=edges)
    submitted = time.perf_counter() - began
    with asking(gateway, job_id) as asker:
        while not asker.states or asker.states[-1] not in OVER:
            threading.Event().wait(ASK_EVERY_S)
    ran = time.perf_counter() - began
    instances = sum(int(each.get("TaskInstanceNum", 1)) for each in tasks)
    listed = time_listing(sdk, job_id, tasks[0]["TaskName"])
    memory = resident_mb([gateway.pid, executor_of(gateway)])
    p50, p99 = statistics.median(asker.took), statistics.quantiles(asker.took, n=100)[98]
    print(
        f"{what}: {asker.states[-1]}; submitted in {submitted:.2f} s, over after {ran:.1f} s"
        f" ({instances / ran:.0f} instances/s); DescribeJob meanwhile p50 {p50 * 1e3:.1f} ms,"
        f" p99 {p99 * 1e3:.1f} ms ({len(asker.took)} answers); the first task listed in"
        f" {listed:.2f} s; gateway and executor {memory:.0f} MB"
    )


def time_listing(sdk: Sdk, job_id: str, name: str) -> float:
    """List every instance of a task; returns the seconds."""
    began, seen, total = time.perf_counter(), 0, 1
    while seen < total:
        page = sdk("DescribeTask", JobId=job_id, TaskName=name, Offset=seen, Limit=PAGE)
        total = page["TaskInstanceTotalCount"]
        seen += len(page["TaskInstanceSet"])
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
